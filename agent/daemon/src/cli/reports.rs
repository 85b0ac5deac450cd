//! `trimtab reports`: what waits to be sent, why, and to whom.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use trimtab_model::status::Queue;

use super::ask::Agent;
use super::machine::{Json, block_on, refuse};
use super::status::{self, ago};
use super::{complain, fail, print_json, say};
use crate::config::{Places, Settings};
use crate::cycle::{Cycle, Hold, OpenError};
use crate::log::{self, now_ms};
use crate::outbox::{Outbox, OutboxError, Waiting};

/// `trimtab reports`.
#[derive(Debug, Args)]
#[command(subcommand_required = true)]
pub(super) struct ReportsArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What waits, for whom, and why it waits.
    #[command(after_help = "Example:\n  trimtab reports list --json | jq '.queue.sinks[] | select(.waiting > 0)'")]
    List(Json),
    /// One report that waits, exactly as it will be sent (JSON), or its signature.
    #[command(
        after_help = "Example:\n  trimtab reports show > r.json && trimtab reports show --signature > r.json.minisig\n  minisign -V -p /etc/trimtab/device.pub -m r.json"
    )]
    Show(ShowArgs),
    /// Try every sink now, and wait: exit 0 when nothing waits any more, 75 when something still does.
    #[command(after_help = "Example:\n  trimtab reports flush --timeout 1min")]
    Flush(FlushArgs),
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// Its sequence, as `list` shows it; the newest if none is given.
    #[arg(value_name = "SEQUENCE")]
    sequence: Option<u64>,
    /// The minisign signature instead.
    #[arg(long)]
    signature: bool,
}

#[derive(Debug, Args)]
struct FlushArgs {
    /// How long to wait.
    #[arg(long, value_name = "TIME", default_value = "1min", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Answer in JSON, as `list`.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(places: &Places, args: &ReportsArgs) -> ExitCode {
    match &args.what {
        What::List(json) => with(places, |outbox| list(places, outbox, json.json)),
        What::Show(args) => with(places, |outbox| show(outbox, args)),
        What::Flush(args) => flush(places, args),
    }
}

/// The outbox as it is on the disk.
fn look(places: &Places) -> Result<Option<Outbox>, ExitCode> {
    let settings = Settings::load(&places.agent_toml()).map_err(|error| fail(&error, 78))?;
    Outbox::look(places, &settings.reports, &settings.sinks, now_ms()).map_err(|error| failed(&error))
}

fn failed(error: &OutboxError) -> ExitCode {
    fail(error, 1)
}

fn with(places: &Places, answer: impl FnOnce(&Outbox) -> ExitCode) -> ExitCode {
    match look(places) {
        Ok(Some(outbox)) => answer(&outbox),
        Ok(None) => {
            complain("this device has no key yet: `trimtab init` makes it, or the agent's first start");
            ExitCode::FAILURE
        }
        Err(code) => code,
    }
}

/// What waits; how often a sink failed and why is known to the agent only, which tells it in the status document.
fn queue(places: &Places, outbox: &Outbox) -> Queue {
    let mut queue = outbox.queue();
    let told = status::read(places).map(|status| status.queue).unwrap_or_default();
    queue.trouble = told.trouble;
    let told = told.sinks;
    for sink in &mut queue.sinks {
        if let Some(told) = told.iter().find(|told| told.name == sink.name && told.delivered == sink.delivered) {
            (sink.failures, sink.error) = (told.failures, told.error.clone());
        }
    }
    queue
}

fn list(places: &Places, outbox: &Outbox, json: bool) -> ExitCode {
    let (queue, reports) = (queue(places, outbox), outbox.waiting());
    if json {
        return print_json(&serde_json::json!({ "device": outbox.device(), "queue": queue, "reports": reports }));
    }
    say(&human(&outbox.device(), &queue, &reports, now_ms() / 1000))
}

fn human(device: &str, queue: &Queue, reports: &[Waiting], now: u64) -> String {
    let mut text = format!("device      {device}\n");
    if queue.sinks.is_empty() {
        text.push_str("sinks       none in agent.toml: no reports are made\n");
    }
    if !queue.trouble.is_empty() {
        let _ = writeln!(text, "trouble     {}", queue.trouble);
    }
    for sink in &queue.sinks {
        let waits = match sink.waiting {
            0 => "nothing waits".to_owned(),
            1 => "1 report waits".to_owned(),
            some => format!("{some} reports wait"),
        };
        let last = match sink.last_delivery_ms {
            0 => "took none yet".to_owned(),
            at => format!("took up to {} {} ago", sink.delivered, ago(now, at / 1000)),
        };
        let _ = writeln!(text, "sink        {}: {waits}, {last}", sink.name);
        if sink.passed_over > 0 {
            let _ = writeln!(text, "lost        {} reports that it never took, whatever was left out of them", sink.passed_over);
        }
        if !sink.error.is_empty() {
            let _ = writeln!(text, "because     {} attempts failed, the last: {}", sink.failures, sink.error);
        }
    }
    for report in reports {
        let merged = report.sequence - report.since_sequence;
        let merged = if merged == 0 { String::new() } else { format!(" (stands for {merged} before it, too)") };
        let made = ago(now, report.at_ms / 1000);
        let waits_for = report.waits_for.join(", ");
        let _ = writeln!(text, "  {}  made {made} ago, {} bytes, waits for {waits_for}{merged}", report.sequence, report.bytes);
    }
    text
}

fn show(outbox: &Outbox, args: &ShowArgs) -> ExitCode {
    let Some(sequence) = args.sequence.or_else(|| outbox.waiting().last().map(|report| report.sequence)) else {
        complain("no report waits: what every sink has taken is not kept");
        return ExitCode::FAILURE;
    };
    match outbox.show(sequence) {
        Ok(Some((_, signed))) => {
            let bytes = if args.signature { signed.signature.into_bytes() } else { signed.report };
            let _ = std::io::stdout().lock().write_all(&bytes);
            ExitCode::SUCCESS
        }
        Ok(None) => {
            complain(&format!("no report {sequence} waits; `trimtab reports list` tells which do"));
            ExitCode::FAILURE
        }
        Err(error) => failed(&error),
    }
}

fn flush(places: &Places, args: &FlushArgs) -> ExitCode {
    let deadline = Instant::now() + args.timeout;
    let waits = |outbox: &Outbox| outbox.queue().sinks.iter().any(|sink| sink.waiting > 0);
    if let Some(mut agent) = Agent::running(places, deadline) {
        // The pass that is made for it reports as well, if it matters.
        if let Err(code) = agent.pass(places, deadline, args.timeout) {
            return code;
        }
        while Instant::now() < deadline {
            match look(places) {
                Ok(Some(outbox)) if !waits(&outbox) => break,
                Ok(_) => std::thread::sleep(Duration::from_millis(50)),
                Err(code) => return code,
            }
        }
    } else {
        log::start(log::Audience::Person);
        let sent = block_on(async {
            let mut cycle = Cycle::open(places, Hold::Once)?;
            let reach = cycle.reach();
            Ok::<_, OpenError>(cycle.outbox().map(|outbox| crate::outbox::flush(&outbox, &reach)))
        });
        match sent {
            Ok(Ok(Some(Ok(_)))) => {}
            Ok(Ok(Some(Err(error)))) => return failed(&error),
            // Why there is none was said on the way.
            Ok(Ok(None)) => return ExitCode::FAILURE,
            Ok(Err(error)) => return refuse(&error),
            Err(error) => return fail(&error, 1),
        }
    }
    with(places, |outbox| {
        list(places, outbox, args.json);
        if waits(outbox) { ExitCode::from(75) } else { ExitCode::SUCCESS }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use trimtab_model::status::SinkStatus;

    #[test]
    fn the_list_says_what_waits_and_why() {
        let sink = |name: &str, waiting, error: &str| SinkStatus {
            name: name.to_owned(),
            delivered: 41,
            waiting,
            last_delivery_ms: 40_000,
            failures: 3,
            error: error.to_owned(),
            passed_over: u64::from(name == "lake"),
        };
        let queue = Queue {
            trouble: "the disk is full".to_owned(),
            reports: 1,
            bytes: 9,
            oldest_ms: 0,
            sinks: vec![sink("ops", 1, "no route"), sink("lake", 0, "")],
        };
        let waiting = Waiting { sequence: 44, since_sequence: 42, at_ms: 90_000, bytes: 9, waits_for: vec!["ops".to_owned()] };
        assert_eq!(
            human("AB", &queue, &[waiting], 100),
            "device      AB\n\
             trouble     the disk is full\n\
             sink        ops: 1 report waits, took up to 41 60 s ago\n\
             because     3 attempts failed, the last: no route\n\
             sink        lake: nothing waits, took up to 41 60 s ago\n\
             lost        1 reports that it never took, whatever was left out of them\n  \
             44  made 10 s ago, 9 bytes, waits for ops (stands for 2 before it, too)\n"
        );
    }
}
