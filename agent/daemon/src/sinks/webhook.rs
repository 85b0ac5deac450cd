//! A webhook: CloudEvents 1.0 in JSON batch form, by HTTP POST.
//!
//! One CloudEvent for each thing that happened, and one for each report that carries the signed bytes and their signature, so that a receiver
//! can check them with minisign. A sink with a filter gets the events it wants and no reports: the whole of a report would tell what the filter
//! leaves out. Attributes as in the specification (`cloudevents/spec` v1.0.2, JSON format and HTTP binding, batched mode).
//!
//! `id` is unique beneath `source` for ever, whatever is sent again: that is what a receiver takes each one once by.

use base64::Engine as _;
use serde_json::{Value, json};
use std::fmt::Write as _;

use super::{HttpRequest, Outgoing, Parcel, Secrets, SinkConfig, authorization, time};

const CONTENT_TYPE: &str = "application/cloudevents-batch+json";

/// At most one request: all of these reports in one batch.
pub(super) fn shape(sink: &SinkConfig, parcels: &[Parcel], secrets: &Secrets) -> Vec<Outgoing> {
    let batch: Vec<Value> = parcels.iter().flat_map(|parcel| of_report(sink, parcel)).collect();
    let (Some(first), Some(last), false) = (parcels.first(), parcels.last(), batch.is_empty()) else { return Vec::new() };
    let body = serde_json::to_vec(&batch).expect("because plain data with string keys always serialises");
    let key = format!("{}/{}-{}", last.report.device, first.report.since_sequence, last.report.sequence);
    let mut headers = vec![("Content-Type", CONTENT_TYPE.to_owned()), ("Idempotency-Key", key)];
    headers.extend(authorization(sink, secrets));
    if let Some(key) = &secrets.hmac {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
        let mut tag = "sha256=".to_owned();
        for byte in ring::hmac::sign(&key, &body).as_ref() {
            let _ = write!(tag, "{byte:02x}");
        }
        headers.push(("X-Trimtab-Signature-256", tag));
    }
    vec![Outgoing::Http(HttpRequest { method: "POST", url: sink.url.clone(), headers, body, also_fine: &[] })]
}

fn of_report(sink: &SinkConfig, parcel: &Parcel) -> Vec<Value> {
    let report = &parcel.report;
    let source = format!("trimtab://{}/{}", report.host, report.device);
    let mut list: Vec<Value> = Vec::new();
    for event in report.events.iter().filter(|event| sink.wants(event)) {
        let mut one = json!({
            "specversion": "1.0",
            "id": format!("{}/{}", report.device, event.id),
            "source": source,
            "type": format!("dev.trimtab.{}.v1", event.kind.word()),
            "time": time(event.at_ms),
            "datacontenttype": "application/json",
            "data": event,
        });
        // Optional attributes are left out, never empty.
        if !event.resource.is_empty() {
            one["subject"] = event.resource.clone().into();
        }
        list.push(one);
    }
    if sink.wants_all() {
        list.push(json!({
            "specversion": "1.0",
            "id": format!("{}/report/{}", report.device, report.sequence),
            "source": source,
            "type": "dev.trimtab.report.v1",
            "time": time(report.at_ms),
            "datacontenttype": "application/json",
            "data": {
                "report": base64::engine::general_purpose::STANDARD.encode(&parcel.bytes),
                "signature": parcel.signature,
            },
        }));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use trimtab_model::event::{Event, EventKind, Severity};
    use trimtab_model::outbound::{Occasion, Report};
    use trimtab_model::status::Status;

    fn event(id: u64, severity: Severity, resource: &str) -> Event {
        super::super::tests::event(id, EventKind::DriftFound, severity, resource)
    }

    fn parcel(sequence: u64, events: Vec<Event>) -> Parcel {
        let report = Report {
            format: 1,
            device: "0123456789ABCDEF".to_owned(),
            host: "box".to_owned(),
            sequence,
            since_sequence: sequence,
            next_ms: 0,
            at_ms: u64::MAX,
            occasion: Occasion::Pass,
            status: Status::default(),
            events,
            merged: 0,
        };
        Parcel { bytes: serde_json::to_vec(&report).unwrap(), report, signature: "untrusted comment: x\ny\n".to_owned() }
    }

    fn sink(more: &str) -> SinkConfig {
        toml::from_str(&format!("name = 'a'\ntype = 'webhook'\nurl = 'https://x/hook'\n{more}")).unwrap()
    }

    fn only(sink: &SinkConfig, parcels: &[Parcel], secrets: &Secrets) -> (HttpRequest, Vec<Value>) {
        let Outgoing::Http(request) = shape(sink, parcels, secrets).remove(0) else { panic!("no request") };
        let batch = serde_json::from_slice(&request.body).unwrap();
        (request, batch)
    }

    #[test]
    fn a_batch_has_each_event_and_each_report_under_a_name_of_its_own() {
        let parcels = [parcel(7, vec![event(1, Severity::Info, "file /a"), event(2, Severity::Error, "")]), parcel(8, vec![])];
        let (request, batch) = only(&sink(""), &parcels, &Secrets::default());
        let ids: Vec<&str> = batch.iter().map(|one| one["id"].as_str().unwrap()).collect();
        let device = "0123456789ABCDEF";
        assert_eq!(ids, [format!("{device}/1"), format!("{device}/2"), format!("{device}/report/7"), format!("{device}/report/8")]);
        assert_eq!((&batch[0]["subject"], batch[1].get("subject")), (&json!("file /a"), None));
        assert_eq!(
            (&batch[0]["type"], &batch[0]["time"]),
            (&json!("dev.trimtab.drift-found.v1"), &json!("2023-11-14T22:13:20.123Z"))
        );
        assert_eq!(batch[2]["time"], "9999-12-31T23:59:59.000Z");
        let bytes = base64::engine::general_purpose::STANDARD.decode(batch[2]["data"]["report"].as_str().unwrap()).unwrap();
        assert_eq!(bytes, parcels[0].bytes);
        let field = |name: &str| request.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str());
        assert_eq!(field("Idempotency-Key"), Some(format!("{device}/7-8").as_str()));
        assert_eq!(field("Content-Type"), Some("application/cloudevents-batch+json"));
        assert_eq!((field("Authorization"), field("X-Trimtab-Signature-256")), (None, None));
        // The same again is the same again.
        assert_eq!(only(&sink(""), &parcels, &Secrets::default()).0, request);
    }

    #[test]
    fn what_a_filter_leaves_out_is_in_no_request() {
        let parcels = [parcel(7, vec![event(1, Severity::Info, "file /etc/a"), event(2, Severity::Error, "file /etc/geheim")])];
        for (filter, kept) in [
            ("severity = 'error'", vec!["file /etc/geheim"]),
            ("exclude = ['*/geheim']", vec!["file /etc/a"]),
            ("include = ['file /etc/?']", vec!["file /etc/a"]),
        ] {
            let (_, batch) = only(&sink(filter), &parcels, &Secrets::default());
            let subjects: Vec<&str> = batch.iter().map(|one| one["subject"].as_str().unwrap()).collect();
            assert_eq!(subjects, kept, "{filter}");
        }
        assert!(shape(&sink("kinds = ['halted']"), &parcels, &Secrets::default()).is_empty());
    }

    #[test]
    fn who_we_are_is_said_as_the_sink_wants() {
        let parcels = [parcel(7, vec![])];
        let secrets = Secrets { token: Some("t0ken".to_owned()), password: Some("pw".to_owned()), hmac: Some(b"key".to_vec()) };
        let (request, _) = only(&sink("token-file = '/t'\nhmac-file = '/h'"), &parcels, &secrets);
        assert!(request.headers.contains(&("Authorization", "Bearer t0ken".to_owned())));
        // Checked against `openssl dgst -sha256 -hmac key` in tests/lab; here against the library's own verification.
        let tag = request.headers.iter().find(|(name, _)| *name == "X-Trimtab-Signature-256").unwrap().1.clone();
        let hex = tag.strip_prefix("sha256=").unwrap();
        let bytes: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect();
        ring::hmac::verify(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"key"), &request.body, &bytes).unwrap();
        let (request, _) = only(&sink("username = 'me'\npassword-file = '/p'"), &parcels, &secrets);
        assert!(request.headers.contains(&("Authorization", "Basic bWU6cHc=".to_owned())));
    }
}
