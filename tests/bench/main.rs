//! Measures trimtab and prints a table; `tests/bench/run` builds what it needs and starts it.
//!
//! Everything is real: the binary that ships, git's own signed commits, TLS, the agent with its courier and its render
//! worker. What it cannot tell: the cost of systemd starting the courier (here the agent does), and units or containers.
#![allow(clippy::print_stdout, clippy::panic, clippy::cast_precision_loss, clippy::cast_possible_truncation)]

mod drift;
mod fleet;
mod history;
mod process;
mod releases;
mod transaction;

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use fleet::{FILES, Fleet};
use process::{Agent, Cost, Watch, measure};

/// One line of the table.
struct Row {
    what: &'static str,
    value: f64,
    unit: &'static str,
    goal: Option<f64>,
}

struct Options {
    binary: PathBuf,
    runs: usize,
    idle: u64,
    json: bool,
    check: bool,
    part: Part,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    All,
    Drift,
    History,
    Releases,
}

fn main() -> std::process::ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(message) => {
            println!(
                "{message}\nusage: trimtab-bench --binary FILE [--runs N] [--idle SECONDS] [--drift] [--history] [--releases] [--json] [--check]"
            );
            return 64.into();
        }
    };
    let rows = rows(&options);
    if options.json {
        let list: Vec<_> = rows
            .iter()
            .map(|row| serde_json::json!({ "what": row.what, "value": row.value, "unit": row.unit, "goal": row.goal }))
            .collect();
        println!("{}", serde_json::Value::from(list));
    } else {
        print(&rows, &options);
    }
    let missed = rows.iter().any(|row| row.goal.is_some_and(|goal| row.value > goal));
    u8::from(options.check && missed).into()
}

fn options() -> Result<Options, String> {
    let mut options = Options { binary: PathBuf::new(), runs: 20, idle: 60, json: false, check: false, part: Part::All };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number =
            || words.next().and_then(|text| text.parse().ok()).filter(|n| *n > 0).ok_or(format!("{word} needs a number"));
        match word.as_str() {
            "--runs" => options.runs = number()?,
            "--idle" => options.idle = number()? as u64,
            "--json" => options.json = true,
            "--drift" => options.part = Part::Drift,
            "--history" => options.part = Part::History,
            "--releases" => options.part = Part::Releases,
            "--check" => options.check = true,
            "--binary" => options.binary = words.next().map(PathBuf::from).ok_or("--binary needs a file")?,
            _ => return Err(format!("unknown word {word}")),
        }
    }
    options.binary = fs::canonicalize(&options.binary).map_err(|error| format!("{}: {error}", options.binary.display()))?;
    Ok(options)
}

fn rows(options: &Options) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |what, value, unit, goal| rows.push(Row { what, value, unit, goal });
    let size = fs::metadata(&options.binary).expect("because it was found").len();
    row("binary", mib(size), "MiB", Some(10.0));

    if options.part == Part::History {
        history::rows(options.runs, &options.binary, &mut row);
        return rows;
    }
    if options.part == Part::Releases {
        releases::rows(options.runs, &options.binary, &mut row);
        return rows;
    }
    if options.part == Part::Drift {
        drift::rows(options.runs, options.idle, &options.binary, &mut row);
        return rows;
    }
    let fleet = Fleet::new(&options.binary, FILES);
    let first = measure(&mut fleet.trimtab("once"), &[2]);
    row("first converge of 1,000 files, wall", ms(first.wall), "ms", None);

    let (requests, bytes) = poll(&fleet);
    row("no-change poll, requests", requests, "", Some(1.0));
    row("no-change poll, bytes with TLS", bytes, "B", Some(3072.0));

    let noops = repeat(options.runs, || measure(&mut fleet.trimtab("once"), &[0]));
    row("no-op pass over 1,000 files as `trimtab once`, wall", median(&noops, |cost| cost.wall), "ms", None);
    row("no-op pass over 1,000 files as `trimtab once`, CPU", median(&noops, |cost| cost.cpu), "ms", None);
    let looks = repeat(options.runs, || measure(fleet.trimtab("plan").arg("--offline"), &[0]));
    row("look at 1,000 files as `trimtab plan --offline`, CPU", median(&looks, |cost| cost.cpu), "ms", None);

    with_agent(options, &fleet, &mut row);
    drop(fleet);
    transaction::rows(options.runs, &options.binary, &mut row);
    drift::rows(options.runs, options.idle, &options.binary, &mut row);
    history::rows(options.runs, &options.binary, &mut row);
    releases::rows(options.runs, &options.binary, &mut row);
    rows
}

/// What the running agent costs.
fn with_agent(options: &Options, fleet: &Fleet, row: &mut impl FnMut(&'static str, f64, &'static str, Option<f64>)) {
    let agent = Agent::start(&mut fleet.trimtab("agent"));
    let mut version = 1;
    let mut change = || {
        for number in [3, 503, 993] {
            fleet.write(number, version);
        }
        fleet.push("Three files");
        let began = Instant::now();
        agent.wake();
        for number in [3, 503, 993] {
            wait_for(fleet, number, &Fleet::wants(number, version));
        }
        version += 1;
        began.elapsed()
    };
    change(); // The first one waits for the agent's start as well.
    // Watching costs a processor: what is timed is not watched.
    let mut changes: Vec<_> = (0..options.runs).map(|_| change()).collect();
    changes.sort();
    row("one signed commit, three files: asked to converged, wall", ms(changes[changes.len() / 2]), "ms", Some(80.0));

    // The pass that a change began goes on after its files are there.
    sleep(Duration::from_millis(500));
    let passes = options.runs * 5;
    let before = (agent.cpu(), fleet.server.requests());
    for done in 1..=passes as u64 {
        agent.wake();
        until("a pass", || fleet.server.requests() >= before.1 + done);
        sleep(Duration::from_millis(30)); // what comes after the poll
    }
    sleep(Duration::from_millis(300));
    let each = (agent.cpu().saturating_sub(before.0)).as_secs_f64() * 1e3 / passes as f64;
    row("no-op pass of the running agent over 1,000 files, CPU with courier", each, "ms", Some(10.0));

    let watch = Watch::children_of(agent.pid());
    change();
    change();
    sleep(Duration::from_millis(500));
    let peaks = watch.peaks();
    row("peak RSS of the agent on a pass", agent.status("VmHWM") as f64 / 1024.0, "MiB", None);
    for (role, what) in [("courier", "peak RSS of the courier"), ("render-worker", "peak RSS of the render worker")] {
        row(what, peaks.get(role).copied().unwrap_or(0) as f64 / 1024.0, "MiB", None);
    }

    // The thread that looked at the source ends by itself after ten idle seconds.
    sleep(Duration::from_secs(12));
    let wakes = agent.wake_ups();
    sleep(Duration::from_secs(options.idle));
    let wakes = agent.wake_ups().saturating_sub(wakes) as f64 * 60.0 / options.idle as f64;
    row("idle agent, RSS", agent.memory("Rss") as f64 / 1024.0, "MiB", Some(6.0));
    row("idle agent, PSS", agent.memory("Pss") as f64 / 1024.0, "MiB", None);
    row("idle agent, wake-ups a minute", wakes, "", Some(2.0));
}

/// Requests and bytes of one poll that finds the branch where it was.
fn poll(fleet: &Fleet) -> (f64, f64) {
    fleet.server.reset();
    measure(&mut fleet.trimtab("once"), &[0]);
    (fleet.server.requests() as f64, (fleet.server.bytes_up() + fleet.server.bytes_down()) as f64)
}

fn wait_for(fleet: &Fleet, number: usize, want: &str) {
    let path = fleet.managed(number);
    until("a changed file", || fs::read_to_string(&path).is_ok_and(|text| text == want));
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what} did not come within 30 s");
        sleep(Duration::from_micros(200));
    }
}

fn repeat(runs: usize, mut run: impl FnMut() -> Cost) -> Vec<Cost> {
    (0..runs).map(|_| run()).collect()
}

fn median(costs: &[Cost], part: impl Fn(&Cost) -> Duration) -> f64 {
    let mut times: Vec<_> = costs.iter().map(part).collect();
    times.sort();
    ms(times[times.len() / 2])
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn print(rows: &[Row], options: &Options) {
    println!("| what | measured | goal | |\n|---|---:|---:|---|");
    for row in rows {
        let digits = if row.unit == "%" { 3 } else { usize::from(row.unit == "ms" || row.unit == "MiB") };
        let unit = row.unit;
        let goal = row.goal.map_or(String::new(), |goal| format!("{goal} {unit}"));
        let met = row.goal.map_or("", |goal| if row.value <= goal { "met" } else { "MISSED" });
        println!("| {} | {:.digits$} {unit} | {goal} | {met} |", row.what, row.value);
    }
    println!(
        "\nMethod: medians of {} runs on this machine. A sandbox folder with {FILES} files (2 KB on average) follows a signed repository\n\
         over TLS 1.3 on loopback (git http-backend behind a server that counts every byte on the socket, handshake included).\n\
         CPU is user and system of the program with its courier and render worker: from the kernel's account of ended\n\
         children, for the running agent from /proc/PID/stat over {} passes. Peaks are VmHWM. Wake-ups are voluntary context\n\
         switches over {} s without work (poll interval one hour). A change is timed from SIGHUP to the last of three files,\n\
         pushed before: fetched, proven, rendered and written. From proven to committed is the agent's own account of a pass (status.json):\n\
         the host's files read from the repository, rendered, planned, staged, synced, switched and committed as a generation. Syncs are\n\
         counted with ptrace (x86-64). Bytes written are the kernel's write_bytes of the agent and its ended children, with /run on a tmpfs.\n\
         Drift: {} random changes (content, mode, deleted, renamed over) of 1,000 watched files, one after the other, interval one hour; found\n\
         is when the pass that repairs it begins (its own account), repaired when the file is right again. CPU there is in nanoseconds, from schedstat.\n\
         Release mode: each pass is a `trimtab once` of its own, so bytes are with a full handshake. Fetching and proving is what a pass that finds\n\
         another statement about the same commit takes beyond one that finds nothing new; the proof alone (hashes, roots, two signatures, numbers) is the\n\
         mean of {} decisions by the same code in this process, whose objects are in memory.",
        options.runs,
        options.runs * 5,
        options.idle,
        options.runs * 5,
        options.runs * 20
    );
}
