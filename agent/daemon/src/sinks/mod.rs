//! Where reports may go, and in which shape each place wants them: pure, from reports to requests that the courier sends.
//!
//! Guarantees: a shape is a function of the reports, the sink's configuration and its secrets, and of nothing else; the same reports give the same
//! idempotency keys, so that a request that is sent twice can be taken once. What a filter leaves out is not in any request.
//! Limits: nothing here knows whether a request arrived; that is the courier's business, and the outbox's to remember.

mod alertmanager;
mod check;
mod forge;
mod gitref;
mod otlp;
mod webhook;

use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use trimtab_model::event::{Event, EventKind, Severity};
use trimtab_model::outbound::Report;

pub use check::{Flaw, MAX_SINKS, check_all};

/// `[[sink]]` in agent.toml: one place that reports go to. Secrets are named by file (or systemd credential), never written here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SinkConfig {
    /// Its name in status and logs; unique.
    pub name: String,
    /// What speaks there.
    #[serde(rename = "type")]
    pub kind: SinkKind,
    /// Where: for `webhook` the URL itself, for `otlp` and `alertmanager` the base URL, for a forge the base URL of its API; not for `git`.
    #[serde(default)]
    pub url: String,
    /// Only events at least this severe.
    #[serde(default = "everything")]
    pub severity: Severity,
    /// Only events of these kinds; empty: all.
    #[serde(default)]
    pub kinds: Vec<EventKind>,
    /// Only events whose resource matches one of these globs (`*`, `?`); empty: all, and those of no resource.
    #[serde(default)]
    pub include: Vec<String>,
    /// No events whose resource matches one of these globs: stronger than `include`.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Trust only the certificate authorities of this PEM file, instead of the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// A bearer token's file or credential; for a forge, its API token.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// User name for basic authentication, with `password-file`.
    #[serde(default)]
    pub username: Option<String>,
    /// Its password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// The key of an HMAC-SHA256 over each body, in the header `X-Trimtab-Signature-256: sha256=…` (as GitHub's webhooks do).
    #[serde(default)]
    pub hmac_file: Option<PathBuf>,
    /// The client certificate (PEM) for mutual TLS.
    #[serde(default)]
    pub client_cert: Option<PathBuf>,
    /// Its private key.
    #[serde(default)]
    pub client_key: Option<PathBuf>,
    /// An HTTP proxy's URL, or `environment`.
    #[serde(default)]
    pub proxy: Option<String>,
    /// Allow `http://`.
    #[serde(default)]
    pub allow_http: bool,
    /// The repository on the forge, e.g. `acme/fleet`.
    #[serde(default)]
    pub repository: Option<String>,
    /// OTLP: which signals; empty: both.
    #[serde(default)]
    pub signals: Vec<Signal>,
}

/// What speaks at a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SinkKind {
    /// CloudEvents 1.0 in JSON batch form, by HTTP POST.
    Webhook,
    /// OTLP/HTTP, protobuf: `/v1/metrics` and `/v1/logs` beneath the URL.
    Otlp,
    /// Alertmanager's API v2.
    Alertmanager,
    /// Commit status on GitHub.
    Github,
    /// Commit status on GitLab.
    Gitlab,
    /// Commit status on Gitea and Forgejo.
    Gitea,
    /// `refs/trimtab/status/<host>` in the fleet's own repository.
    Git,
}

/// OTLP's signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // their own names
pub enum Signal {
    Metrics,
    Logs,
}

fn everything() -> Severity {
    Severity::Info
}

/// A report with the very bytes that were signed.
#[derive(Debug, Clone)]
pub struct Parcel {
    /// Parsed.
    pub report: Report,
    /// As signed.
    pub bytes: Vec<u8>,
    /// The minisign signature's text.
    pub signature: String,
}

/// The secrets of one sink, as the courier read them.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    /// Of `token-file`.
    pub token: Option<String>,
    /// Of `password-file`.
    pub password: Option<String>,
    /// Of `hmac-file`.
    pub hmac: Option<Vec<u8>>,
}

/// One thing to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    /// By HTTP.
    Http(HttpRequest),
    /// By a push to the fleet's own repository.
    Push(StatusPush),
}

/// One HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// `POST` or `PUT`.
    pub method: &'static str,
    /// Where.
    pub url: String,
    /// Header fields; authentication among them.
    pub headers: Vec<(&'static str, String)>,
    /// Body.
    pub body: Vec<u8>,
    /// Answers outside of 2xx that mean that it was taken all the same (a commit status that is there already, say).
    pub also_fine: &'static [u16],
}

/// One commit on the host's status reference, without parents: the reference holds the last state and no history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusPush {
    /// `refs/trimtab/status/<host>`.
    pub reference: String,
    /// Names and contents of the files of its tree.
    pub files: Vec<(String, Vec<u8>)>,
    /// The commit's message.
    pub message: String,
    /// Its time, seconds since 1970.
    pub at: u64,
}

/// Why nothing can be made of a report for a sink.
#[derive(Debug, thiserror::Error)]
pub enum ShapeError {
    /// Its configuration is not enough.
    #[error("sink {name}: {why}")]
    Configuration {
        /// The sink.
        name: String,
        /// What is wrong and what to do.
        why: String,
    },
}

impl SinkConfig {
    /// Whether nothing is filtered: what such a sink gets is the whole of each report.
    pub fn wants_all(&self) -> bool {
        self.severity == Severity::Info && self.kinds.is_empty() && self.include.is_empty() && self.exclude.is_empty()
    }

    fn flaw(&self, why: &str) -> ShapeError {
        ShapeError::Configuration { name: self.name.clone(), why: why.to_owned() }
    }

    /// Whether an event is for this sink.
    pub fn wants(&self, event: &Event) -> bool {
        let any = |globs: &[String]| globs.iter().any(|glob| matches(glob, &event.resource));
        event.severity >= self.severity
            && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && (self.include.is_empty() || any(&self.include))
            && !any(&self.exclude)
    }
}

/// `*` stands for any text, `?` for one character.
pub fn matches(glob: &str, text: &str) -> bool {
    let (glob, text): (Vec<char>, Vec<char>) = (glob.chars().collect(), text.chars().collect());
    let (mut g, mut t, mut back) = (0, 0, None);
    while t < text.len() {
        match glob.get(g) {
            Some('*') => {
                back = Some((g, t));
                g += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => (g, t) = (g + 1, t + 1),
            _ => match back {
                Some((star, at)) => {
                    (g, t) = (star + 1, at + 1);
                    back = Some((star, at + 1));
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|c| *c == '*')
}

/// What to send to a sink for these reports, oldest first; empty when none of it is for it.
pub fn shape(sink: &SinkConfig, parcels: &[Parcel], secrets: &Secrets) -> Result<Vec<Outgoing>, ShapeError> {
    match sink.kind {
        SinkKind::Webhook => Ok(webhook::shape(sink, parcels, secrets)),
        SinkKind::Alertmanager => Ok(alertmanager::shape(sink, parcels, secrets)),
        SinkKind::Github | SinkKind::Gitlab | SinkKind::Gitea => forge::shape(sink, parcels, secrets),
        SinkKind::Git => gitref::shape(sink, parcels),
        SinkKind::Otlp => Ok(otlp::shape(sink, parcels, secrets)),
    }
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was taken.
    Taken,
    /// It, or a part of it, is lost for good, and why: to send it again would be refused again, and keep back what comes after it.
    Dropped(String),
    /// Not now, whatever the code means elsewhere.
    Again,
    /// It was not taken; the code says the rest.
    Refused,
}

/// What a sink's answer to a request means: `page` is the begin of its body.
pub fn judge(kind: SinkKind, request: &HttpRequest, code: u16, page: &[u8]) -> Answer {
    let text = || String::from_utf8_lossy(page);
    match kind {
        _ if request.also_fine.contains(&code) => Answer::Taken,
        SinkKind::Otlp => otlp::judge(request, code, page),
        _ if (200..300).contains(&code) => Answer::Taken,
        SinkKind::Github | SinkKind::Gitlab | SinkKind::Gitea => forge::judge(kind, code, &text()),
        _ => Answer::Refused,
    }
}

/// RFC 3339, UTC. What no calendar has (a clock gone wild) is told as the last moment of the year 9999.
fn time(ms: u64) -> String {
    let most = Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms).min(most)).to_string()
}

/// What follows in other lines is what a service said last, which is for this host only.
fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// The field that says who we are, where the sink wants to know: a bearer token, or user name and password.
fn authorization(sink: &SinkConfig, secrets: &Secrets) -> Option<(&'static str, String)> {
    use base64::Engine as _;
    let text = match (&sink.username, &secrets.password, &secrets.token) {
        (Some(user), Some(password), _) => {
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
        }
        (_, _, Some(token)) => format!("Bearer {token}"),
        _ => return None,
    };
    Some(("Authorization", text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use trimtab_model::outbound::Occasion;
    use trimtab_model::report::{Outcome, Pass};
    use trimtab_model::status::Status;

    pub(super) fn event(id: u64, kind: EventKind, severity: Severity, resource: &str) -> Event {
        Event {
            id,
            at_ms: 1_700_000_000_123,
            kind,
            severity,
            pass: 3,
            revision: "c0ffee".to_owned(),
            resource: resource.to_owned(),
            message: "somebody changed it".to_owned(),
            drift: None,
            count: 1,
        }
    }

    pub(super) fn parcel(sequence: u64, events: Vec<Event>) -> Parcel {
        let report = Report {
            format: 1,
            device: "0123456789ABCDEF".to_owned(),
            host: "edge-1".to_owned(),
            sequence,
            since_sequence: sequence,
            next_ms: 0,
            at_ms: 1_700_000_000_123,
            occasion: Occasion::Pass,
            status: Status::default(),
            events,
            merged: 0,
        };
        Parcel { bytes: serde_json::to_vec(&report).unwrap(), report, signature: "untrusted comment: x\ny\n".to_owned() }
    }

    pub(super) fn pass(outcome: Outcome) -> Pass {
        let text = r#"{"number":3,"wake":"timer","started":0,"duration_ms":0,"outcome":"halted","revision":"","trust":{"verdict":"","message":"","signer":""},"source_error":"","findings":{"list":[],"more":0},"changes":[],"problems":[],"failures":[]}"#;
        Pass { outcome, ..serde_json::from_str(text).unwrap() }
    }

    pub(super) fn sink(kind: &str, more: &str) -> SinkConfig {
        toml::from_str(&format!("name = 'a'\ntype = '{kind}'\nurl = 'https://x/base/'\n{more}")).unwrap()
    }

    pub(super) fn http(outgoing: &Outgoing) -> &HttpRequest {
        match outgoing {
            Outgoing::Http(request) => request,
            Outgoing::Push(_) => unreachable!("a request was asked for"),
        }
    }
}
