//! The host's state as a Git reference: `refs/trimtab/status/<host>` in the fleet's own repository, for those who have nothing but Git.
//!
//! Its tree has `status.json` (for people), `report.json` (the very bytes that were signed) and `report.json.minisig`. The commit has no
//! parents: the reference holds the last state and no history, and what it held before is for the server's garbage collection. A person sees
//! the fleet with
//!
//! ```text
//! git fetch origin '+refs/trimtab/status/*:refs/trimtab/status/*'
//! git for-each-ref --format='%(refname:lstrip=3) %(contents:subject)' refs/trimtab/status
//! ```
//!
//! Limits: whoever may write to the reference can write lies there; that is what the signature is for. A report is whole or not at all, so a
//! sink with a filter gets none.

use super::{Outgoing, Parcel, ShapeError, SinkConfig, StatusPush, first_line};

/// At most one push: the newest of these reports.
pub(super) fn shape(sink: &SinkConfig, parcels: &[Parcel]) -> Result<Vec<Outgoing>, ShapeError> {
    if !sink.wants_all() {
        return Err(sink.flaw("type = \"git\" writes whole reports: severity, kinds, include and exclude cannot hold there"));
    }
    let Some(parcel) = parcels.last() else { return Ok(Vec::new()) };
    let report = &parcel.report;
    let mut status = serde_json::to_vec_pretty(&report.status).expect("because plain data with string keys always serialises");
    status.push(b'\n');
    let files = vec![
        ("report.json".to_owned(), parcel.bytes.clone()),
        ("report.json.minisig".to_owned(), parcel.signature.clone().into_bytes()),
        ("status.json".to_owned(), status),
    ];
    Ok(vec![Outgoing::Push(StatusPush {
        reference: format!("refs/trimtab/status/{}", report.host),
        files,
        message: message(parcel),
        at: report.at_ms / 1000,
    })])
}

/// One line that tells the host from afar, and a body for who looks closer.
fn message(parcel: &Parcel) -> String {
    let report = &parcel.report;
    let status = &report.status;
    let ready = if status.ready { "ready" } else { "NOT READY" };
    let revision: String = status.last_applied_revision.chars().take(12).collect();
    let at = if revision.is_empty() { String::new() } else { format!(" at {revision}") };
    // Control characters would be another line, or something worse in a terminal.
    let plain = |text: &str| first_line(text).chars().filter(|c| !c.is_control()).take(200).collect::<String>();
    format!(
        "{ready}{at}: {}\n\nDevice: {}\nReport: {}\nTrimtab: {}",
        plain(&status.reason),
        plain(&report.device),
        report.sequence,
        plain(&status.agent_version)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::tests::{event, parcel, sink};
    use trimtab_model::event::{EventKind, Severity};

    fn git(more: &str) -> SinkConfig {
        toml::from_str(&format!("name = 'a'\ntype = 'git'\n{more}")).unwrap()
    }

    fn only(parcels: &[Parcel]) -> StatusPush {
        match shape(&git(""), parcels).unwrap().remove(0) {
            Outgoing::Push(push) => push,
            Outgoing::Http(_) => unreachable!("a push was asked for"),
        }
    }

    #[test]
    fn the_newest_report_goes_out_as_it_was_signed() {
        let mut newest = parcel(8, vec![event(1, EventKind::Failed, Severity::Error, "")]);
        newest.report.status.last_applied_revision = "c".repeat(40);
        newest.report.status.reason = "not everything\nlast words".to_owned();
        let push = only(&[parcel(7, vec![]), newest.clone()]);
        assert_eq!(push.reference, "refs/trimtab/status/edge-1");
        let file = |name: &str| push.files.iter().find(|(known, _)| known == name).unwrap().1.clone();
        assert_eq!(
            (file("report.json"), file("report.json.minisig")),
            (newest.bytes.clone(), newest.signature.clone().into_bytes())
        );
        let status: trimtab_model::status::Status = serde_json::from_slice(&file("status.json")).unwrap();
        assert_eq!(status, newest.report.status);
        let mut lines = push.message.lines();
        assert_eq!(lines.next(), Some("NOT READY at cccccccccccc: not everything"));
        assert!(push.message.contains("Report: 8") && !push.message.contains("last words"), "{}", push.message);
        assert_eq!(push.at, 1_700_000_000);
        assert_eq!(only(&[newest.clone()]), push, "the same again is the same again");
    }

    #[test]
    fn a_filter_and_a_whole_report_do_not_go_together() {
        for filter in ["severity = 'error'", "exclude = ['file /etc/geheim']", "kinds = ['failed']", "include = ['x']"] {
            assert!(shape(&git(filter), &[parcel(7, vec![])]).unwrap_err().to_string().contains("whole reports"), "{filter}");
        }
        assert!(shape(&git(""), &[]).unwrap().is_empty());
        assert!(sink("otlp", "").wants_all());
    }
}
