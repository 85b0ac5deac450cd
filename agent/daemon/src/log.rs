//! Where the agent's words go: journald with fixed field names, or a person's terminal.
//!
//! Events carry `trimtab_pass`, `trimtab_revision`, `trimtab_resource`, `trimtab_outcome`; journald stores them in upper case. An idle pass
//! says nothing above debug. `TRIMTAB_LOG` (error, warn, info, debug, trace) overrides the level.

use std::cell::Cell;
use std::io::IsTerminal as _;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The target of what only says that long work goes on.
pub const PROGRESS: &str = "trimtab::progress";

/// Likewise for waiting on others: for a person at a terminal only. With a source that is far away the journal would fill with it.
pub const PATIENCE: &str = "trimtab::patience";

/// Tells systemd's watchdog that one long piece of work goes on, such as a large file on a slow disk: to be called with each step of it, for in
/// between nobody else can. Costs a look at the clock; says nothing where nobody watches.
pub fn alive() {
    static PERIOD: OnceLock<Option<Duration>> = OnceLock::new();
    thread_local! {
        static TOLD: Cell<Option<Instant>> = const { Cell::new(None) };
    }
    let Some(period) = PERIOD.get_or_init(sd_notify::watchdog_enabled) else { return };
    if TOLD.get().is_none_or(|told| told.elapsed() >= *period / 4) {
        TOLD.set(Some(Instant::now()));
        // Whether systemd listens changes nothing about the work.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
    }
}

/// Who listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// journald when it is there, else standard error.
    Journal,
    /// A person at a terminal: warnings on standard error; the answer itself goes to standard output.
    Person,
}

/// Starts logging, once per process.
pub fn start(audience: Audience) {
    let asked: Option<LevelFilter> = std::env::var("TRIMTAB_LOG").ok().and_then(|text| text.parse().ok());
    let filter = match (asked, audience) {
        (Some(level), _) => Targets::new().with_default(level),
        (None, Audience::Journal) => Targets::new().with_default(LevelFilter::INFO).with_target(PATIENCE, LevelFilter::OFF),
        // How each step and the pass ended is the answer, and not said twice; that something long still goes on is said.
        (None, Audience::Person) => Targets::new()
            .with_default(LevelFilter::WARN)
            .with_target("trimtab::apply", LevelFilter::OFF)
            .with_target("trimtab::apply::check", LevelFilter::WARN)
            .with_target("trimtab::cycle::tell", LevelFilter::OFF)
            .with_target(PROGRESS, LevelFilter::INFO)
            .with_target(PATIENCE, LevelFilter::INFO),
    };
    let registry = tracing_subscriber::registry().with(filter);
    // systemd tells a service that its output is the journal.
    let journal = (audience == Audience::Journal && std::env::var_os("JOURNAL_STREAM").is_some())
        .then(tracing_journald::layer)
        .and_then(Result::ok)
        .map(|layer| layer.with_field_prefix(None).with_syslog_identifier("trimtab".to_owned()));
    let started = if let Some(layer) = journal {
        registry.with(layer).try_init()
    } else {
        let text = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_target(false)
            .with_ansi(std::io::stderr().is_terminal())
            .compact();
        match audience {
            Audience::Journal => registry.with(text).try_init(),
            Audience::Person => registry.with(text.without_time()).try_init(),
        }
    };
    // A second start (a test in the same process) keeps the first.
    drop(started);
}

/// Tells at debug level how long each stage of a pass took, for whoever wonders where the time goes.
#[derive(Debug)]
pub struct Laps(Cell<Instant>);

impl Laps {
    /// Starts now.
    pub fn start() -> Self {
        Self(Cell::new(Instant::now()))
    }

    /// Ends a stage and begins the next one.
    pub fn lap(&self, what: &'static str) {
        let now = Instant::now();
        let took = now.duration_since(self.0.replace(now));
        tracing::debug!("{what} in {:.1} ms", took.as_secs_f64() * 1e3);
    }
}

/// Milliseconds since 1970; the clock is read here and handed on as a value.
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// An error and all its causes in one line, told once, at the edge. Control characters (a server's words may be among the causes)
/// become spaces.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // A transparent error repeats its cause; once is enough.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

/// So many of something, in words: `1 unit`, `2 units`.
pub fn many(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
