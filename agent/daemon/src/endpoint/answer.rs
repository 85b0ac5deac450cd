//! What is answered to what: a pure function from a request and the document to an answer.

use super::document::{Document, Seen};
use super::{metrics, page};

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// The HTTP status.
    pub(super) code: u16,
    /// `Content-Type`; empty: none.
    pub(super) kind: &'static str,
    /// Further header fields.
    pub(super) fields: Vec<(&'static str, String)>,
    /// Its body.
    pub(super) body: String,
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

impl Answer {
    fn new(code: u16, kind: &'static str, body: impl Into<String>) -> Self {
        Self { code, kind, fields: Vec::new(), body: body.into() }
    }

    fn line(code: u16, text: &str) -> Self {
        Self::new(code, TEXT, format!("{text}\n"))
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((name, value.into()));
        self
    }
}

/// What a client asks for; header fields as they came, empty where there were none.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Question<'a> {
    /// The method.
    pub(super) method: &'a str,
    /// The path, without a query.
    pub(super) path: &'a str,
    /// `Accept`.
    pub(super) accept: &'a str,
    /// `If-None-Match`.
    pub(super) known: &'a str,
    /// Now, seconds since 1970, for the page's "5 min ago".
    pub(super) now: u64,
}

/// Answers; the document is looked at only where it is asked for.
pub(super) fn answer(question: Question<'_>, look: impl FnOnce() -> Seen) -> Answer {
    if !matches!(question.method, "GET" | "HEAD") {
        return Answer::line(405, "only GET and HEAD").with("Allow", "GET, HEAD");
    }
    match question.path {
        "/healthz" => health(look()),
        "/readyz" => readiness(look()),
        "/status" => told(look(), |document, doubt| status(document, doubt, question.known)),
        "/metrics" => told(look(), |document, doubt| measured(document, doubt, question.accept)),
        "/" => shown(look(), question.now),
        _ => Answer::line(404, "there is /, /status, /metrics, /healthz and /readyz"),
    }
}

/// Whether the agent lives: this process serves, and the document is one of a running agent that keeps its time.
fn health(seen: Seen) -> Answer {
    match seen {
        Seen::Told(_, None) => Answer::line(200, "ok"),
        Seen::Told(_, Some(doubt)) => Answer::line(503, &doubt),
        Seen::Nothing(why) => Answer::line(503, &why),
    }
}

/// Whether the host is as the newest accepted revision wants it, and nobody holds anything back.
fn readiness(seen: Seen) -> Answer {
    match seen {
        Seen::Told(document, None) if document.status.ready => Answer::line(200, "ready"),
        Seen::Told(document, None) => Answer::line(503, &document.status.reason),
        Seen::Told(_, Some(doubt)) => Answer::line(503, &doubt),
        Seen::Nothing(why) => Answer::line(503, &why),
    }
}

fn told(seen: Seen, make: impl FnOnce(&Document, Option<&str>) -> Answer) -> Answer {
    match seen {
        Seen::Told(document, doubt) => make(&document, doubt.as_deref()),
        Seen::Nothing(why) => Answer::line(503, &why),
    }
}

fn status(document: &Document, doubt: Option<&str>, known: &str) -> Answer {
    let is_known = known.split(',').map(|tag| tag.trim().trim_start_matches("W/")).any(|tag| tag == document.tag || tag == "*");
    let answer = if is_known { Answer::new(304, "", "") } else { Answer::new(200, JSON, document.json.clone()) };
    let answer = answer.with("ETag", document.tag.clone());
    // The document is what the agent last said; that it says nothing any more stands beside it.
    doubt.into_iter().fold(answer, |answer, doubt| answer.with("X-Trimtab-Doubt", doubt))
}

/// A dead agent's last values would be scraped as if they were today's.
fn measured(document: &Document, doubt: Option<&str>, accept: &str) -> Answer {
    if let Some(doubt) = doubt {
        return Answer::line(503, doubt);
    }
    if wants_openmetrics(accept) {
        Answer::new(200, metrics::OPEN, metrics::open(&document.status))
    } else {
        Answer::new(200, metrics::CLASSIC, metrics::classic(&document.status))
    }
}

/// Whether OpenMetrics is at least as welcome as the older format. What says nothing gets the older one, which everything reads.
fn wants_openmetrics(accept: &str) -> bool {
    let weight = |name: &str| -> f32 {
        let welcome = accept.split(',').filter(|one| one.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(name));
        let quality = |one: &str| one.split(';').find_map(|part| part.trim().strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
        welcome.map(quality).fold(0.0, f32::max)
    };
    let open = weight("application/openmetrics-text");
    open > 0.0 && open >= weight("text/plain")
}

fn shown(seen: Seen, now: u64) -> Answer {
    let (code, body) = match &seen {
        Seen::Told(document, doubt) => (200, page::page(&document.status, doubt.as_deref(), now)),
        Seen::Nothing(why) => (503, page::empty(why)),
    };
    Answer::new(code, HTML, body).with("Content-Security-Policy", page::policy())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;
    use trimtab_model::status::Status;

    fn seen(ready: bool, doubt: Option<&str>) -> impl FnOnce() -> Seen + use<> {
        let status = Status { ready, reason: "it is broken".to_owned(), host: "box".to_owned(), ..Status::default() };
        let doubt = doubt.map(str::to_owned);
        move || Seen::Told(Rc::new(Document::new(status)), doubt)
    }

    fn get(path: &str) -> Question<'_> {
        Question { method: "GET", path, ..Question::default() }
    }

    #[test]
    fn health_is_the_agents_and_readiness_the_hosts() {
        for (ready, doubt, healthz, readyz) in
            [(true, None, 200, 200), (false, None, 200, 503), (true, Some("gone"), 503, 503), (false, Some("gone"), 503, 503)]
        {
            assert_eq!(answer(get("/healthz"), seen(ready, doubt)).code, healthz, "{ready} {doubt:?}");
            assert_eq!(answer(get("/readyz"), seen(ready, doubt)).code, readyz, "{ready} {doubt:?}");
        }
        assert_eq!(answer(get("/readyz"), seen(false, None)).body, "it is broken\n");
        for path in ["/healthz", "/readyz", "/status", "/metrics", "/"] {
            assert_eq!(answer(get(path), || Seen::Nothing("no pass".to_owned())).code, 503, "{path}");
        }
    }

    #[test]
    fn the_status_has_a_tag_that_saves_the_second_answer() {
        let first = answer(get("/status"), seen(true, None));
        let tag = first.fields.iter().find(|(name, _)| *name == "ETag").unwrap().1.clone();
        assert!(first.code == 200 && first.body.contains("\"host\": \"box\""));
        for (known, code) in
            [(tag.clone(), 304), (format!("\"x\", W/{tag}"), 304), ("*".to_owned(), 304), ("\"x\"".to_owned(), 200)]
        {
            let second = answer(Question { known: &known, ..get("/status") }, seen(true, None));
            assert_eq!((second.code, second.body.is_empty()), (code, code == 304), "{known}");
        }
        assert_eq!(answer(Question { known: &tag, ..get("/status") }, seen(false, None)).code, 200);
    }

    #[test]
    fn metrics_come_as_they_are_asked_for_and_never_from_a_dead_agent() {
        // What Prometheus 2.53 and 3.5 send, curl, and a browser.
        let two = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, open) in [
            (two, true),
            ("application/openmetrics-text", true),
            ("text/plain;version=0.0.4", false),
            ("text/plain;q=0.9, application/openmetrics-text;q=0.1", false),
            ("*/*", false),
            ("", false),
        ] {
            let told = answer(Question { accept, ..get("/metrics") }, seen(true, None));
            assert_eq!(told.kind, if open { metrics::OPEN } else { metrics::CLASSIC }, "{accept}");
            assert_eq!(told.body.ends_with("# EOF\n"), open, "{accept}");
            assert!(told.body.contains("trimtab_ready 1"), "{}", told.body);
        }
        let dead = answer(get("/metrics"), seen(true, Some("the agent does not run")));
        assert_eq!((dead.code, dead.body.as_str()), (503, "the agent does not run\n"));
    }

    #[test]
    fn nothing_else_is_answered() {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "get"] {
            assert_eq!(answer(Question { method, ..get("/status") }, seen(true, None)).code, 405, "{method}");
        }
        for path in ["/status/", "/../etc/passwd", "/index.html", "", "*", "/metrics?x"] {
            assert_eq!(answer(get(path), seen(true, None)).code, 404, "{path}");
        }
    }
}
