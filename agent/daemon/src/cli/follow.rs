//! `trimtab status --watch`: the document whenever it changes. On a terminal the whole of it, drawn anew; elsewhere a line each time.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use trimtab_model::status::Status;

use super::status::{document, headline, human, is_gone, read};
use crate::config::Places;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// Shows it until it is interrupted or nobody reads any more.
pub(super) fn run(places: &Places, json: bool) -> ExitCode {
    let drawn = std::io::stdout().is_terminal() && !json;
    let mut last = String::new();
    loop {
        let now = crate::cycle::now_ms() / 1000;
        let (news, text) = match read(places) {
            Ok(status) => shown(&status, now, json, drawn),
            Err(message) if json => (message, String::new()),
            Err(message) => (message.clone(), message + "\n"),
        };
        if news != last {
            let page = if drawn { format!("\x1b[H\x1b[2J{text}") } else { text };
            let mut out = std::io::stdout().lock();
            if out.write_all(page.as_bytes()).and_then(|()| out.flush()).is_err() {
                return ExitCode::SUCCESS;
            }
            last = news;
        }
        std::thread::sleep(PERIOD);
    }
}

/// What makes it another one than before, and what is shown then.
fn shown(status: &Status, now: u64, json: bool, drawn: bool) -> (String, String) {
    let gone = is_gone(status);
    if drawn {
        let text = human(status, gone, now);
        return (text.clone(), text);
    }
    if json {
        // Each document is news: it has another time.
        let text = document(status).to_string() + "\n";
        return (text.clone(), text);
    }
    let pass = status.last_pass.as_ref();
    let revision: String = status.last_applied_revision.chars().take(12).collect();
    let what = format!("{} {gone} {} {} {revision}", status.ready, status.reason, status.generation);
    let time = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + Duration::from_secs(now));
    let outcome = pass.map_or("no pass yet", |pass| pass.outcome.word());
    (what, format!("{time} {outcome} generation {} {revision} {}", status.generation, headline(status, gone, now)))
}
