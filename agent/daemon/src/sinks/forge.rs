//! The status of a commit on a forge: what became of the newest revision on this host, beside the commit that brought it.
//!
//! | | request | who we are | states |
//! |---|---|---|---|
//! | GitHub | `POST {url}/repos/{owner}/{name}/statuses/{sha}` | `Authorization: Bearer` | `success`, `pending`, `failure` |
//! | GitLab | `POST {url}/projects/{owner%2Fname}/statuses/{sha}` | `PRIVATE-TOKEN` | `success`, `pending`, `failed` |
//! | Gitea, Forgejo | `POST {url}/repos/{owner}/{name}/statuses/{sha}` | `Authorization: token` | `success`, `pending`, `failure` |
//!
//! As in "Create a commit status" (docs.github.com/rest/commits/statuses, version 2022-11-28), "Set commit pipeline status" (docs.gitlab.com/api/commits)
//! and `repoCreateStatus` (Gitea's and Forgejo's swagger.v1.json).
//!
//! Guarantees: one is sent only where something happened to a revision, never for a heartbeat or for drift: GitHub takes a thousand for one
//! commit and context and no more. What the forge will never take (a commit that it does not know) is given up and told, so that it does not
//! keep back what comes after it; see [`judge`].

use serde_json::{Value, json};
use trimtab_model::event::EventKind;
use trimtab_model::outbound::Report;
use trimtab_model::report::Outcome;

use super::{Answer, HttpRequest, Outgoing, Parcel, Secrets, ShapeError, SinkConfig, SinkKind, first_line};

/// The most characters of a description: what GitHub takes.
const DESCRIPTION: usize = 140;

/// What became of the revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Success,
    Pending,
    Failure,
}

/// What is told of one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    revision: String,
    state: State,
    description: String,
    context: String,
}

/// A request for each change; what is superseded within these reports is left out.
pub(super) fn shape(sink: &SinkConfig, parcels: &[Parcel], secrets: &Secrets) -> Result<Vec<Outgoing>, ShapeError> {
    let repository = sink.repository.as_deref().ok_or_else(|| sink.flaw("repository is missing: which one on the forge"))?;
    let mut list: Vec<Told> = Vec::new();
    for told in parcels.iter().filter_map(|parcel| told(sink, &parcel.report)) {
        list.retain(|older| older.revision != told.revision);
        list.push(told);
    }
    Ok(list.iter().map(|told| Outgoing::Http(request(sink, repository, told, secrets))).collect())
}

/// What a report says about the newest revision, if something happened to that.
fn told(sink: &SinkConfig, report: &Report) -> Option<Told> {
    let status = &report.status;
    if !report.events.iter().any(|event| is_fate(event.kind) && sink.wants(event)) {
        return None;
    }
    let revision = &status.last_attempted_revision;
    if !matches!(revision.len(), 40 | 64) || !revision.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let state = match status.outcome()? {
        _ if status.trial.is_some() => State::Pending,
        // Nothing is known of what came after the last one.
        Outcome::Unreachable => return None,
        Outcome::Unchanged | Outcome::Converged | Outcome::Drifted => State::Success,
        Outcome::Planned | Outcome::Paused => State::Pending,
        Outcome::Partial | Outcome::Held | Outcome::RolledBack | Outcome::Degraded | Outcome::Halted => State::Failure,
    };
    let mut description: String = first_line(&status.reason).to_owned();
    if description.chars().count() > DESCRIPTION {
        description = description.chars().take(DESCRIPTION - 1).chain(['…']).collect();
    }
    Some(Told { revision: revision.clone(), state, description, context: format!("trimtab/{}", report.host) })
}

/// Whether it is about what becomes of a revision; drift is about the host.
fn is_fate(kind: EventKind) -> bool {
    use EventKind as Kind;
    match kind {
        Kind::RevisionAccepted
        | Kind::RevisionRefused
        | Kind::Converged
        | Kind::RolledBack
        | Kind::Degraded
        | Kind::Failed
        | Kind::Held
        | Kind::Recovered
        | Kind::Suspended
        | Kind::Resumed
        | Kind::Halted => true,
        Kind::DriftFound
        | Kind::DriftRepaired
        | Kind::DriftGone
        | Kind::Contended
        | Kind::Unreachable
        | Kind::Stale
        | Kind::ReportLost => false,
    }
}

fn request(sink: &SinkConfig, repository: &str, told: &Told, secrets: &Secrets) -> HttpRequest {
    let base = sink.url.trim_end_matches('/');
    let (sha, token) = (&told.revision, secrets.token.as_deref());
    let body = |state: &str| json!({ "state": state, "context": told.context, "description": told.description });
    let state = match told.state {
        State::Success => "success",
        State::Pending => "pending",
        State::Failure => "failure",
    };
    let mut headers = vec![("Content-Type", "application/json".to_owned())];
    let (url, body): (String, Value) = match sink.kind {
        SinkKind::Gitlab => {
            headers.extend(token.map(|token| ("PRIVATE-TOKEN", token.to_owned())));
            let state = if told.state == State::Failure { "failed" } else { state };
            (format!("{base}/projects/{}/statuses/{sha}", repository.replace('/', "%2F")), body(state))
        }
        SinkKind::Github => {
            headers.push(("Accept", "application/vnd.github+json".to_owned()));
            headers.push(("X-GitHub-Api-Version", "2022-11-28".to_owned()));
            headers.extend(token.map(|token| ("Authorization", format!("Bearer {token}"))));
            (format!("{base}/repos/{repository}/statuses/{sha}"), body(state))
        }
        _ => {
            headers.extend(token.map(|token| ("Authorization", format!("token {token}"))));
            (format!("{base}/repos/{repository}/statuses/{sha}"), body(state))
        }
    };
    let body = serde_json::to_vec(&body).expect("because plain data with string keys always serialises");
    HttpRequest { method: "POST", url, headers, body, also_fine: &[] }
}

/// What an answer other than 2xx means, where HTTP's own meaning does not tell.
pub(super) fn judge(kind: SinkKind, code: u16, page: &str) -> Answer {
    let page = page.to_ascii_lowercase();
    let says = |words: &str| page.contains(words);
    let unknown = match kind {
        SinkKind::Github => code == 422 && says("no commit found"),
        SinkKind::Gitlab => code == 404 && says("commit not found"),
        // Gitea before 1.23 has 500 for it.
        _ => {
            matches!(code, 404 | 422 | 500) && (says("object does not exist") || says("commit not found") || says("sha not found"))
        }
    };
    if unknown {
        return Answer::Dropped("the forge does not know the commit".to_owned());
    }
    match (kind, code) {
        (SinkKind::Github, 422) if says("maximum number of statuses") => {
            Answer::Dropped("the forge has a thousand statuses of this host for the commit, and takes no more".to_owned())
        }
        // The state that it has already.
        (SinkKind::Gitlab, 400) if says("cannot transition status") => Answer::Taken,
        // Both of GitHub's limits answer 403 where others answer 429.
        (SinkKind::Github, 403) if says("rate limit") || says("abuse") => Answer::Again,
        _ => Answer::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::tests::{event, http, parcel, pass, sink};
    use trimtab_model::event::Severity;

    const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

    fn of(kind: EventKind, outcome: Outcome, reason: &str) -> Parcel {
        let mut one = parcel(7, vec![event(1, kind, Severity::Info, "")]);
        let status = &mut one.report.status;
        SHA.clone_into(&mut status.last_attempted_revision);
        status.last_pass = Some(pass(outcome));
        reason.clone_into(&mut status.reason);
        one
    }

    fn forge(kind: &str) -> SinkConfig {
        sink(kind, "repository = 'acme/fleet'\ntoken-file = '/t'")
    }

    fn requests(sink: &SinkConfig, parcels: &[Parcel]) -> Vec<HttpRequest> {
        let secrets = Secrets { token: Some("t0ken".to_owned()), ..Secrets::default() };
        shape(sink, parcels, &secrets).unwrap().iter().map(|one| http(one).clone()).collect()
    }

    fn body(request: &HttpRequest) -> Value {
        serde_json::from_slice(&request.body).unwrap()
    }

    #[test]
    fn each_forge_gets_what_its_documentation_asks_for() {
        let parcels = [of(EventKind::RolledBack, Outcome::RolledBack, "undone")];
        for (kind, path, header, state) in [
            ("github", format!("/repos/acme/fleet/statuses/{SHA}"), ("Authorization", "Bearer t0ken"), "failure"),
            ("gitlab", format!("/projects/acme%2Ffleet/statuses/{SHA}"), ("PRIVATE-TOKEN", "t0ken"), "failed"),
            ("gitea", format!("/repos/acme/fleet/statuses/{SHA}"), ("Authorization", "token t0ken"), "failure"),
        ] {
            let requests = requests(&forge(kind), &parcels);
            assert_eq!(requests.len(), 1, "{kind}");
            assert_eq!(requests[0].url, format!("https://x/base{path}"));
            assert!(requests[0].headers.contains(&(header.0, header.1.to_owned())), "{kind}: {:?}", requests[0].headers);
            assert_eq!(body(&requests[0]), json!({ "state": state, "context": "trimtab/edge-1", "description": "undone" }));
        }
    }

    #[test]
    fn the_state_is_that_of_the_newest_revision() {
        for (outcome, state) in [
            (Outcome::Converged, Some("success")),
            (Outcome::Unchanged, Some("success")),
            (Outcome::Drifted, Some("success")),
            (Outcome::Paused, Some("pending")),
            (Outcome::Partial, Some("failure")),
            (Outcome::Held, Some("failure")),
            (Outcome::Degraded, Some("failure")),
            (Outcome::Halted, Some("failure")),
            (Outcome::Unreachable, None),
        ] {
            let requests = requests(&forge("github"), &[of(EventKind::Converged, outcome, "r")]);
            let told = requests.first().map(|one| body(one)["state"].as_str().unwrap().to_owned());
            assert_eq!(told.as_deref(), state, "{outcome:?}");
        }
    }

    #[test]
    fn nothing_is_sent_for_what_changes_nothing_about_a_revision() {
        let quiet = Parcel {
            report: Report { events: vec![], ..of(EventKind::Converged, Outcome::Converged, "r").report },
            ..parcel(8, vec![])
        };
        let drift = of(EventKind::DriftRepaired, Outcome::Converged, "r");
        let mut nameless = of(EventKind::Converged, Outcome::Converged, "r");
        nameless.report.status.last_attempted_revision = "../../x".to_owned();
        assert!(requests(&forge("gitea"), &[quiet, drift, nameless]).is_empty());
        let filtered = sink("gitea", "repository = 'a/b'\nseverity = 'error'");
        assert!(requests(&filtered, &[of(EventKind::Converged, Outcome::Converged, "r")]).is_empty());
        // The last word on a commit is the only one.
        let twice = [of(EventKind::RevisionAccepted, Outcome::Partial, "one"), of(EventKind::Converged, Outcome::Converged, "two")];
        let requests = requests(&forge("gitea"), &twice);
        assert_eq!(requests.iter().map(|one| body(one)["description"].clone()).collect::<Vec<_>>(), ["two"]);
    }

    #[test]
    fn a_description_is_one_short_line() {
        let long = format!("{}\nlast words: geheim", "ü".repeat(300));
        let requests = requests(&forge("github"), &[of(EventKind::Failed, Outcome::Partial, &long)]);
        let told = body(&requests[0])["description"].as_str().unwrap().to_owned();
        assert!(told.chars().count() == 140 && told.ends_with('…') && !told.contains("geheim"), "{told}");
    }

    #[test]
    fn answers_are_understood() {
        let dropped = |kind, code, page| matches!(judge(kind, code, page), Answer::Dropped(_));
        assert!(dropped(SinkKind::Github, 422, r#"{"message":"No commit found for SHA: 0123"}"#));
        assert!(dropped(
            SinkKind::Github,
            422,
            r#"{"errors":["This SHA and context has reached the maximum number of statuses."]}"#
        ));
        assert!(dropped(SinkKind::Gitlab, 404, r#"{"message":"404 Commit Not Found"}"#));
        assert!(dropped(SinkKind::Gitea, 404, r#"{"message":"object does not exist [id: 0123, rel_path: ]"}"#));
        assert_eq!(
            judge(SinkKind::Gitlab, 400, r#"{"message":"Cannot transition status via :succeed from :success"}"#),
            Answer::Taken
        );
        assert_eq!(judge(SinkKind::Github, 403, r#"{"message":"API rate limit exceeded"}"#), Answer::Again);
        for (kind, code, page) in [
            (SinkKind::Github, 422, "Validation Failed"),
            (SinkKind::Github, 403, "Resource not accessible by personal access token"),
            (SinkKind::Github, 404, "Not Found"),
            (SinkKind::Gitlab, 404, "404 Project Not Found"),
            (SinkKind::Gitlab, 401, "401 Unauthorized"),
            (SinkKind::Gitea, 500, "database is locked"),
        ] {
            assert_eq!(judge(kind, code, page), Answer::Refused, "{page}");
        }
    }
}
