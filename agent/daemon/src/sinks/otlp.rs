//! OpenTelemetry: OTLP/HTTP with protobuf, `{url}/v1/metrics` and `{url}/v1/logs` (opentelemetry.io/docs/specs/otlp, version 1).
//!
//! Metrics are those of the status endpoint, under the same names: no unit is set and counters end in `_total` already, so that Prometheus'
//! translation (which appends both) leaves them as they are. They are of the newest report and carry its time: sent again, they are the
//! same samples again. A counter is a cumulative, monotonic sum since the host's boot.
//! Logs are one record for each event that the sink's filter wants, without trace ids: there is no trace.
//!
//! Of answers the specification says: 429, 502, 503 and 504 may be sent again, and so does the outbox. A part that was rejected, and what is
//! answered with 400 (a collector that finds the data bad, Prometheus that finds a sample too old), must not be: see [`judge`]. Everything else
//! is somebody's configuration, and is tried ever more seldom until it is mended.

use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use trimtab_model::drift::{Actor, Drift};
use trimtab_model::event::{Event, Severity};
use trimtab_model::metric::{self, Kind};
use trimtab_model::outbound::Report;

use super::{Answer, HttpRequest, Outgoing, Parcel, Secrets, Signal, SinkConfig, authorization, first_line};

const METRICS: &str = "/v1/metrics";
const LOGS: &str = "/v1/logs";

/// At most one request for each signal.
pub(super) fn shape(sink: &SinkConfig, parcels: &[Parcel], secrets: &Secrets) -> Vec<Outgoing> {
    let wanted = |signal| sink.signals.is_empty() || sink.signals.contains(&signal);
    let mut list = Vec::new();
    if let Some(newest) = parcels.last().filter(|_| wanted(Signal::Metrics)) {
        list.push(request(sink, secrets, METRICS, metrics(&newest.report).encode_to_vec()));
    }
    if let Some(body) = Some(logs(sink, parcels)).filter(|logs| wanted(Signal::Logs) && !logs.resource_logs.is_empty()) {
        list.push(request(sink, secrets, LOGS, body.encode_to_vec()));
    }
    list
}

fn request(sink: &SinkConfig, secrets: &Secrets, path: &str, body: Vec<u8>) -> Outgoing {
    let mut headers = vec![("Content-Type", "application/x-protobuf".to_owned())];
    headers.extend(authorization(sink, secrets));
    let url = format!("{}{path}", sink.url.trim_end_matches('/'));
    Outgoing::Http(HttpRequest { method: "POST", url, headers, body, also_fine: &[] })
}

/// The host as OpenTelemetry's semantic conventions name it. Prometheus makes `job` and `instance` of the service's name and instance.
fn resource(report: &Report) -> Resource {
    let mut attributes = vec![
        text("service.name", "trimtab"),
        text("service.version", &report.status.agent_version),
        text("service.instance.id", &report.device),
        text("host.name", &report.host),
        text("host.id", &report.device),
    ];
    attributes.retain(is_told);
    Resource { attributes, ..Resource::default() }
}

fn scope(report: &Report) -> InstrumentationScope {
    InstrumentationScope {
        name: "trimtab".to_owned(),
        version: report.status.agent_version.clone(),
        ..InstrumentationScope::default()
    }
}

fn metrics(report: &Report) -> ExportMetricsServiceRequest {
    let at = nanos(report.at_ms);
    let metrics = metric::metrics(&report.status).into_iter().map(|one| family(one, at)).collect();
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope(report)), metrics, ..ScopeMetrics::default() }];
    let resource = Some(resource(report));
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }],
    }
}

fn family(one: metric::Metric, at: u64) -> Metric {
    let point = |point: &metric::Point| NumberDataPoint {
        attributes: point.labels.iter().map(|(name, value)| text(name, value)).collect(),
        time_unix_nano: at,
        // Unknown: the document does not say when its counters began, and a guess would be a reset that never was.
        start_time_unix_nano: 0,
        value: Some(number_data_point::Value::AsDouble(point.value)),
        ..NumberDataPoint::default()
    };
    let data_points = one.points.iter().map(point).collect();
    let data = match one.kind {
        Kind::Gauge | Kind::Info => Data::Gauge(Gauge { data_points }),
        Kind::Counter => {
            Data::Sum(Sum { data_points, aggregation_temporality: AggregationTemporality::Cumulative.into(), is_monotonic: true })
        }
    };
    Metric { name: one.name.to_owned(), description: one.help.to_owned(), data: Some(data), ..Metric::default() }
}

fn logs(sink: &SinkConfig, parcels: &[Parcel]) -> ExportLogsServiceRequest {
    let mut resource_logs = Vec::new();
    for Parcel { report, .. } in parcels {
        let log_records: Vec<LogRecord> =
            report.events.iter().filter(|event| sink.wants(event)).map(|event| record(event, report)).collect();
        if !log_records.is_empty() {
            let scope_logs = vec![ScopeLogs { scope: Some(scope(report)), log_records, ..ScopeLogs::default() }];
            resource_logs.push(ResourceLogs { resource: Some(resource(report)), scope_logs, ..ResourceLogs::default() });
        }
    }
    ExportLogsServiceRequest { resource_logs }
}

fn record(event: &Event, report: &Report) -> LogRecord {
    let (severity, word) = match event.severity {
        Severity::Info => (SeverityNumber::Info, "INFO"),
        Severity::Warning => (SeverityNumber::Warn, "WARN"),
        Severity::Error => (SeverityNumber::Error, "ERROR"),
    };
    let mut attributes = vec![
        number("trimtab.event.id", event.id),
        text("trimtab.event.kind", event.kind.word()),
        number("trimtab.event.count", u64::from(event.count)),
        number("trimtab.pass", event.pass),
        text("trimtab.revision", &event.revision),
        text("trimtab.resource", &event.resource),
    ];
    if let Some(drift) = &event.drift {
        attributes.extend(of_drift(drift));
    }
    attributes.retain(is_told);
    LogRecord {
        time_unix_nano: nanos(event.at_ms),
        observed_time_unix_nano: nanos(report.at_ms),
        severity_number: severity.into(),
        severity_text: word.to_owned(),
        event_name: format!("dev.trimtab.{}", event.kind.word()),
        body: Some(AnyValue { value: Some(Value::StringValue(first_line(&event.message).to_owned())) }),
        attributes,
        ..LogRecord::default()
    }
}

/// What differed (by name: digests help nobody in a log), and who did it.
fn of_drift(drift: &Drift) -> Vec<KeyValue> {
    let mut properties: Vec<&str> = drift.differs.iter().map(|difference| difference.property.as_str()).collect();
    properties.dedup();
    let who = drift.actor.as_ref().map_or_else(|| "unknown".to_owned(), Actor::words);
    vec![
        number("trimtab.drift.id", drift.id),
        text("trimtab.drift.properties", &properties.join(",")),
        text("trimtab.drift.actor", &who),
        text("trimtab.component", drift.origin.component.as_str()),
    ]
}

/// What an answer means, where the code alone does not say it.
pub(super) fn judge(request: &HttpRequest, code: u16, page: &[u8]) -> Answer {
    match code {
        200..=299 => match rejected(request, page) {
            Some((count, why)) if count > 0 => {
                Answer::Dropped(format!("it rejected {count} of what it was sent: {}", first_line(&why)))
            }
            // With nothing rejected the message is a warning to whoever develops the sender.
            _ => Answer::Taken,
        },
        400 => Answer::Dropped("it finds what it was sent bad, and will again".to_owned()),
        // Whether a part of it was kept is not known, so to send all again must be harmless: it is, see above.
        429 | 502 | 503 | 504 => Answer::Again,
        _ => Answer::Refused,
    }
}

/// How much of an accepted request was not. Who answers in another format, or not at all, rejects nothing.
fn rejected(request: &HttpRequest, page: &[u8]) -> Option<(i64, String)> {
    if request.url.ends_with(METRICS) {
        let partial = ExportMetricsServiceResponse::decode(page).ok()?.partial_success?;
        Some((partial.rejected_data_points, partial.error_message))
    } else {
        let partial = ExportLogsServiceResponse::decode(page).ok()?.partial_success?;
        Some((partial.rejected_log_records, partial.error_message))
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn number(key: &str, value: u64) -> KeyValue {
    attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// Attributes that say nothing are left out, as the conventions ask.
fn is_told(attribute: &KeyValue) -> bool {
    !matches!(&attribute.value, Some(AnyValue { value: Some(Value::StringValue(text)) }) if text.is_empty())
}

fn nanos(ms: u64) -> u64 {
    ms.saturating_mul(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::SinkKind;
    use crate::sinks::tests::{event, http, parcel, sink};
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsPartialSuccess;
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsPartialSuccess;
    use trimtab_model::event::EventKind;

    fn requests(sink: &SinkConfig, parcels: &[Parcel]) -> Vec<HttpRequest> {
        shape(sink, parcels, &Secrets::default()).iter().map(|one| http(one).clone()).collect()
    }

    fn plain(attributes: &[KeyValue]) -> Vec<(String, String)> {
        let value = |value: &Option<AnyValue>| match value.as_ref().and_then(|value| value.value.as_ref()) {
            Some(Value::StringValue(text)) => text.clone(),
            Some(Value::IntValue(number)) => number.to_string(),
            other => format!("{other:?}"),
        };
        attributes.iter().map(|one| (one.key.clone(), value(&one.value))).collect()
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn metrics_are_those_of_the_newest_report_under_their_own_names() {
        let mut newest = parcel(8, vec![]);
        "1.2.3".clone_into(&mut newest.report.status.agent_version);
        newest.report.status.counters.passes.insert("converged".to_owned(), 4);
        newest.report.status.generation = 5;
        let again = requests(&sink("otlp", ""), std::slice::from_ref(&newest));
        let requests = requests(&sink("otlp", ""), &[parcel(7, vec![]), newest.clone()]);
        assert_eq!(requests.len(), 1, "no event, no log");
        assert_eq!(requests[0].url, "https://x/base/v1/metrics");
        assert!(requests[0].headers.contains(&("Content-Type", "application/x-protobuf".to_owned())));
        let sent = ExportMetricsServiceRequest::decode(requests[0].body.as_slice()).unwrap();
        let host = plain(&sent.resource_metrics[0].resource.as_ref().unwrap().attributes);
        for told in [pair("service.name", "trimtab"), pair("service.instance.id", "0123456789ABCDEF"), pair("host.name", "edge-1")]
        {
            assert!(host.contains(&told), "{host:?}");
        }
        let families = &sent.resource_metrics[0].scope_metrics[0].metrics;
        let names: Vec<&str> = families.iter().map(|one| one.name.as_str()).collect();
        let table: Vec<&str> = metric::metrics(&newest.report.status).iter().map(|one| one.name).collect();
        assert_eq!(names, table);
        // A unit would become part of the name.
        assert!(families.iter().all(|one| one.unit.is_empty()));
        let Some(Data::Gauge(gauge)) = &families.iter().find(|one| one.name == "trimtab_generation").unwrap().data else {
            unreachable!()
        };
        assert_eq!(gauge.data_points[0].value, Some(number_data_point::Value::AsDouble(5.0)));
        assert_eq!(gauge.data_points[0].time_unix_nano, 1_700_000_000_123_000_000);
        let Some(Data::Sum(sum)) = &families.iter().find(|one| one.name == "trimtab_passes_total").unwrap().data else {
            unreachable!()
        };
        assert!(sum.is_monotonic && sum.aggregation_temporality() == AggregationTemporality::Cumulative);
        assert_eq!(plain(&sum.data_points[0].attributes), [pair("outcome", "converged")]);
        assert_eq!(requests, again, "the same again is the same again");
    }

    #[test]
    fn logs_are_the_events_that_the_sink_wants() {
        let mut loud = event(2, EventKind::Failed, Severity::Error, "unit a.service");
        loud.message = "it failed; its last words:\ngeheim".to_owned();
        let parcels = [parcel(7, vec![event(1, EventKind::Converged, Severity::Info, ""), loud])];
        let all = requests(&sink("otlp", "signals = ['logs']"), &parcels);
        assert_eq!((all.len(), all[0].url.as_str()), (1, "https://x/base/v1/logs"));
        let of = |request: &HttpRequest| {
            let sent = ExportLogsServiceRequest::decode(request.body.as_slice()).unwrap();
            sent.resource_logs[0].scope_logs[0].log_records.clone()
        };
        let records = of(&all[0]);
        assert_eq!(records.len(), 2);
        assert_eq!((records[1].severity_number(), records[1].severity_text.as_str()), (SeverityNumber::Error, "ERROR"));
        assert_eq!(records[1].event_name, "dev.trimtab.failed");
        assert_eq!(records[1].body.as_ref().unwrap().value, Some(Value::StringValue("it failed; its last words:".to_owned())));
        assert!(records[1].trace_id.is_empty() && records[1].span_id.is_empty());
        let told = plain(&records[1].attributes);
        for attribute in [pair("trimtab.resource", "unit a.service"), pair("trimtab.event.id", "2"), pair("trimtab.pass", "3")] {
            assert!(told.contains(&attribute), "{told:?}");
        }
        assert!(!plain(&records[0].attributes).iter().any(|(key, _)| key == "trimtab.resource"), "what is empty is left out");
        let errors = requests(&sink("otlp", "severity = 'error'"), &parcels);
        assert_eq!((errors.len(), of(&errors[1]).len()), (2, 1));
        assert!(requests(&sink("otlp", "signals = ['logs']\nkinds = ['stale']"), &parcels).is_empty());
    }

    #[test]
    fn answers_mean_what_the_specification_says() {
        let parcels = [parcel(7, vec![event(1, EventKind::Failed, Severity::Error, "")])];
        let both = requests(&sink("otlp", ""), &parcels);
        let judge = |request: usize, code, page: &[u8]| super::super::judge(SinkKind::Otlp, &both[request], code, page);
        let partly = ExportMetricsServiceResponse {
            partial_success: Some(ExportMetricsPartialSuccess {
                rejected_data_points: 3,
                error_message: "too many labels".to_owned(),
            }),
        };
        assert!(
            matches!(judge(0, 200, &partly.encode_to_vec()), Answer::Dropped(why) if why.contains("3 of") && why.contains("too many labels"))
        );
        let warned = ExportLogsServiceResponse {
            partial_success: Some(ExportLogsPartialSuccess { rejected_log_records: 0, error_message: "be nicer".to_owned() }),
        };
        assert_eq!(judge(1, 200, &warned.encode_to_vec()), Answer::Taken);
        for page in [&b""[..], b"{\"partialSuccess\":{}}", b"<html>", &[0xff; 40]] {
            assert_eq!(judge(0, 200, page), Answer::Taken, "{page:?}");
        }
        assert!(matches!(judge(0, 400, b"out of order sample"), Answer::Dropped(_)));
        for code in [429, 502, 503, 504] {
            assert_eq!(judge(0, code, b""), Answer::Again, "{code}");
        }
        for code in [401, 403, 404, 413, 415, 500] {
            assert_eq!(judge(0, code, b""), Answer::Refused, "{code}");
        }
    }
}
