//! The host's own settings: `/etc/trimtab/agent.toml`, and where everything of trimtab lives.
//!
//! The local file outranks the repository. It is parsed strictly: a typo that is ignored on a machine without a
//! screen is a site visit. A mistake halts the agent (exit 78) with the line, the column and a caret under the spot.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use trimtab_model::drift::KEEP_LIMIT;
use trimtab_model::facts::PathPolicy;
use trimtab_model::finding::{Finding, Spot};
use trimtab_model::names::HostName;
use trimtab_model::status::Mode;
use trimtab_model::transaction::Limit;

use crate::courier::{self, Artifacts, SourceConfig};
use crate::log::chain;
use crate::sinks::{Flaw, SinkConfig, check_all};
use crate::trust::owner::{OwnerError, read_owned};

/// Everything that `agent.toml` may say.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Where the fleet repository is and how to reach it.
    pub source: SourceConfig,
    /// Who this host is.
    #[serde(default)]
    pub host: HostSettings,
    /// When the agent does what.
    #[serde(default)]
    pub agent: AgentSettings,
    /// What the repository may manage here.
    #[serde(default)]
    pub policy: PathPolicy,
    /// What a change must not do by mistake.
    #[serde(default)]
    pub guard: GuardSettings,
    /// How much of the past is kept.
    #[serde(default)]
    pub generations: GenerationSettings,
    /// How drift is found, and what becomes of what its repair overwrites.
    #[serde(default)]
    pub drift: DriftSettings,
    /// When reports are made, and how many wait at most.
    #[serde(default)]
    pub reports: ReportSettings,
    /// Where they go.
    #[serde(default, rename = "sink")]
    pub sinks: Vec<SinkConfig>,
    /// Where artifacts may be fetched from.
    #[serde(default)]
    pub artifacts: Artifacts,
    /// Where the status goes beside `/run`.
    #[serde(default)]
    pub status: StatusSettings,
}

/// `[host]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct HostSettings {
    /// The host's name in the fleet; the kernel's host name when it is not given.
    pub name: Option<HostName>,
    /// Labels for the groups' selectors; they win over those of `hosts/<name>.toml`.
    pub labels: BTreeMap<String, String>,
}

/// `[agent]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct AgentSettings {
    /// Between two looks at the repository and the whole host; each time a tenth is added or taken at random.
    #[serde(deserialize_with = "duration")]
    pub interval: Duration,
    /// After the first failed poll; doubled with each further one.
    #[serde(deserialize_with = "duration")]
    pub retry_interval: Duration,
    /// No failure makes it wait longer than this.
    #[serde(deserialize_with = "duration")]
    pub retry_max: Duration,
    /// A source that was not heard for longer is told to be stale.
    #[serde(deserialize_with = "stale")]
    pub stale_after: Duration,
    /// How long one start, stop, restart or reload of a unit may take.
    #[serde(deserialize_with = "duration")]
    pub unit_timeout: Duration,
    /// How long one image may take to pull.
    #[serde(deserialize_with = "duration")]
    pub pull_timeout: Duration,
    /// Whether the host is changed at all.
    pub mode: Mode,
}

impl Default for AgentSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(60),
            retry_interval: Duration::from_secs(15),
            retry_max: Duration::from_secs(900),
            stale_after: Duration::from_secs(3600),
            unit_timeout: Duration::from_secs(120),
            pull_timeout: Duration::from_secs(900),
            mode: Mode::Enforce,
        }
    }
}

/// `[guard]`: what stands between a bad commit and this host.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct GuardSettings {
    /// How many managed files and units one change may take away: a number, or a share such as `"30%"`.
    #[serde(deserialize_with = "limit")]
    pub max_removals: Limit,
    /// After which changes the source must be reached again, or they are undone.
    pub confirm: ConfirmWhen,
    /// How long that may take.
    #[serde(deserialize_with = "window")]
    pub confirm_timeout: Duration,
    /// How long what a change started must stay up before the change counts as good, where no `[[health]]` says otherwise.
    #[serde(deserialize_with = "settle")]
    pub settle: Duration,
    /// What happens to files of the operator's that the repository wants to replace.
    pub adopt: Adopt,
}

/// `guard.confirm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConfirmWhen {
    /// After changes that could cut the host off: network, name service, firewall, ssh, trust store, proxy.
    #[default]
    Network,
    /// After every change.
    Always,
    /// Never.
    Never,
}

/// `guard.adopt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Adopt {
    /// They are kept in the backup (`trimtab backups`) and replaced.
    #[default]
    Replace,
    /// Nothing is changed while there are such files, and the report names them.
    Report,
}

impl Default for GuardSettings {
    fn default() -> Self {
        Self {
            max_removals: Limit::default(),
            confirm: ConfirmWhen::default(),
            confirm_timeout: Duration::from_secs(300),
            settle: Duration::from_secs(10),
            adopt: Adopt::default(),
        }
    }
}

/// `[drift]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct DriftSettings {
    /// How many directories are watched for changes as they happen; what is beyond is found at the interval. 0: none.
    #[serde(deserialize_with = "at_most::<0x10_0000, _, _>")]
    pub max_watches: usize,
    /// How many MiB of overwritten contents are kept; the oldest go first. At least so many that the largest single one finds room.
    #[serde(deserialize_with = "from_to::<{ KEEP_LIMIT >> 20 }, 4096, _, _>")]
    pub keep_mib: u64,
}

impl Default for DriftSettings {
    fn default() -> Self {
        Self { max_watches: 8192, keep_mib: 64 }
    }
}

/// `[generations]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct GenerationSettings {
    /// How many are kept beside the one in force and the last good one.
    #[serde(deserialize_with = "at_most::<1000, _, _>")]
    pub keep: usize,
    /// How many MiB those may take, contents and all.
    #[serde(deserialize_with = "at_most::<0x10_0000, _, _>")]
    pub max_mib: u64,
}

impl Default for GenerationSettings {
    fn default() -> Self {
        Self { keep: 10, max_mib: 256 }
    }
}

/// `[reports]`: what leaves the host, through the sinks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct ReportSettings {
    /// After so long without a report one is made all the same; each time a tenth is added or taken at random.
    #[serde(deserialize_with = "heartbeat")]
    pub heartbeat: Duration,
    /// How many MiB may wait; beyond that the oldest reports are merged.
    #[serde(deserialize_with = "from_to::<2, 1024, _, _>")]
    pub max_mib: u64,
    /// How many reports may wait, likewise.
    #[serde(deserialize_with = "from_to::<2, 10_000, _, _>")]
    pub max_count: usize,
}

impl Default for ReportSettings {
    fn default() -> Self {
        Self { heartbeat: Duration::from_secs(900), max_mib: 16, max_count: 500 }
    }
}

/// `[status]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct StatusSettings {
    /// The metrics as a file for the node exporter's textfile collector; not written when it is not given.
    #[serde(deserialize_with = "textfile")]
    pub textfile: Option<PathBuf>,
}

/// A file that the collector reads: it takes none with another ending.
fn textfile<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    let text = String::deserialize(from)?;
    let path = Path::new(&text);
    let is_plain = path.components().skip(1).all(|part| matches!(part, std::path::Component::Normal(_)));
    if path.is_absolute() && is_plain && path.extension().is_some_and(|ending| ending == "prom") {
        return Ok(Some(path.to_owned()));
    }
    Err(serde::de::Error::custom(format!("{text:?} is not an absolute path that ends in .prom")))
}

/// A number, or a share in quotes.
fn limit<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Limit, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Count(u32),
        Text(String),
    }
    match Written::deserialize(from)? {
        Written::Count(count) => Ok(Limit::Count(count)),
        Written::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

/// A number that is not beyond what anybody can mean.
fn at_most<'de, const MOST: u64, N: TryFrom<u64>, D: serde::Deserializer<'de>>(from: D) -> Result<N, D::Error> {
    let number = u64::deserialize(from)?;
    let fits = N::try_from(number).ok().filter(|_| number <= MOST);
    fits.ok_or_else(|| serde::de::Error::custom(format!("{number} is more than {MOST}")))
}

/// A number that is neither too small to be of use nor beyond what anybody can mean.
fn from_to<'de, const LEAST: u64, const MOST: u64, N: TryFrom<u64>, D: serde::Deserializer<'de>>(from: D) -> Result<N, D::Error> {
    let number = u64::deserialize(from)?;
    let fits = N::try_from(number).ok().filter(|_| (LEAST..=MOST).contains(&number));
    fits.ok_or_else(|| serde::de::Error::custom(format!("{number} is not between {LEAST} and {MOST}")))
}

/// A heartbeat: one a second tells nobody more, and one a week is none.
fn heartbeat<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    between(from, (5, "five seconds"), (86_400, "one day"))
}

/// A duration with its unit, e.g. `"90s"` or `"5min"`: a bare number would be read as seconds by one and minutes by another.
fn duration<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    between(from, (1, "one second"), (7 * 86_400, "seven days"))
}

/// The time to reach the source in: in less nobody could, and for more than a day nobody wants an unconfirmed change.
fn window<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    between(from, (10, "ten seconds"), (86_400, "one day"))
}

/// The time to stay up for: for as long the agent looks at nothing else.
fn settle<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    between(from, (1, "one second"), (3600, "one hour"))
}

/// The time without a word from the source: in less than a minute a poll may only be late, and what is silent for a month should be known.
fn stale<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    between(from, (60, "one minute"), (30 * 86_400, "thirty days"))
}

fn between<'de, D: serde::Deserializer<'de>>(from: D, least: (u64, &str), most: (u64, &str)) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let value = humantime::parse_duration(&text)
        .map_err(|error| serde::de::Error::custom(format!("{text:?} is not a duration such as \"90s\" or \"5min\": {error}")))?;
    if value < Duration::from_secs(least.0) || value > Duration::from_secs(most.0) {
        return Err(serde::de::Error::custom(format!("{text:?} is not between {} and {}", least.1, most.1)));
    }
    Ok(value)
}

/// Where everything of trimtab lives: on `/`, or beneath a sandbox folder.
#[derive(Debug, Clone)]
pub struct Places {
    /// The root of the managed host.
    pub root: PathBuf,
}

impl Places {
    /// The places beneath a root.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Whether a sandbox folder is managed instead of this machine.
    pub fn is_sandbox(&self) -> bool {
        self.root != Path::new("/")
    }

    /// `agent.toml`.
    pub fn agent_toml(&self) -> PathBuf {
        self.root.join("etc/trimtab/agent.toml")
    }

    /// `trust.toml`.
    pub fn trust_toml(&self) -> PathBuf {
        self.root.join("etc/trimtab/trust.toml")
    }

    /// The root file that release mode begins with, where one is pinned as a file.
    pub fn root_toml(&self) -> PathBuf {
        self.root.join("etc/trimtab/root.toml")
    }

    /// The device's secret key.
    pub fn device_key(&self) -> PathBuf {
        self.root.join("etc/trimtab/device.key")
    }

    /// Its public key.
    pub fn device_pub(&self) -> PathBuf {
        self.root.join("etc/trimtab/device.pub")
    }

    /// Reports that are not delivered yet.
    pub fn spool(&self) -> PathBuf {
        self.root.join("var/lib/trimtab/spool")
    }

    /// Ledger, blobs, trust state and its second copy, status document.
    pub fn store(&self) -> crate::store::Places {
        crate::store::Places {
            state: self.root.join("var/lib/trimtab"),
            trust_copy: self.root.join("etc/trimtab/state"),
            runtime: self.runtime(),
        }
    }

    /// The courier's cache: may be lost at any time.
    pub fn cache(&self) -> PathBuf {
        self.root.join("var/cache/trimtab")
    }

    /// What is laid out for a courier while a bundle is applied: root's, beside the cache, for what lies in the cache the courier may exchange.
    pub fn applying(&self) -> PathBuf {
        self.root.join("var/cache/trimtab-applying")
    }

    /// Status document and other things of this boot.
    pub fn runtime(&self) -> PathBuf {
        self.root.join("run/trimtab")
    }

    /// The socket behind which systemd starts couriers; where there is none, the agent starts one itself.
    pub fn courier_socket(&self) -> PathBuf {
        self.root.join("run/trimtab-courier/courier.sock")
    }
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read, or others could have written it.
    #[error("agent.toml cannot be used; `trimtab init` writes it")]
    Read(#[from] OwnerError),
    /// The file says something that cannot be used; line, column, a caret under the spot, and why.
    #[error("agent.toml is wrong:\n{0}")]
    Parse(String),
}

/// Longest `agent.toml` that is read.
const MAX_BYTES: u64 = 1 << 20;

impl Settings {
    /// Reads and parses `agent.toml`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&path.display().to_string(), &read_owned(path, MAX_BYTES)?).map_err(ConfigError::Parse)
    }

    /// Whether a text would be accepted; the error has line, column and a caret.
    pub fn check(text: &str) -> Result<(), String> {
        Self::parse("agent.toml", text).map(drop)
    }

    fn parse(file: &str, text: &str) -> Result<Self, String> {
        let settings: Self = toml::from_str(text).map_err(|error| {
            let spot = Spot::at(file, &courier::masked(text), error.span().unwrap_or_default(), "");
            Finding::new(error.message(), spot).draw(false)
        })?;
        settings.source.check().map_err(|error| Finding::new(chain(&error), Spot::file(file)).draw(false))?;
        settings.artifacts.check(&settings.source).map_err(|error| Finding::new(chain(&error), Spot::file(file)).draw(false))?;
        settings.policy.check().map_err(|why| Finding::new(why, Spot::file(file)).draw(false))?;
        check_all(&settings.sinks).map_err(|flaw| {
            let spot = Spot::at(file, &courier::masked(text), place_of(text, &flaw), "");
            Finding::new(chain(&flaw), spot).draw(false)
        })?;
        Ok(settings)
    }
}

/// Where in the text a sink's flaw is: the key, or the head of its table where one is missing.
fn place_of(text: &str, flaw: &Flaw) -> std::ops::Range<usize> {
    #[derive(Deserialize)]
    struct Sinks {
        sink: Vec<toml::Spanned<BTreeMap<String, toml::Spanned<toml::Value>>>>,
    }
    let Ok(Sinks { sink }) = toml::from_str::<Sinks>(text) else { return 0..0 };
    let Some(table) = sink.get(flaw.index) else { return 0..0 };
    table.get_ref().get(flaw.key).map_or(table.span(), toml::Spanned::span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_is_refused_with_its_place() {
        let error = Settings::parse("a.toml", "[source]\nurl = \"https://x/y.git\"\n[agent]\nintervall = \"5min\"\n").unwrap_err();
        assert!(error.contains("a.toml:4:1") && error.contains("^^^^^^^^^"), "{error}");
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_repeated() {
        for url in ["https://me:geheim@x/y.git", "https://me:ge@heim@x/y.git", "http://x/y.git", "wat://me:geheim@x"] {
            let error = Settings::parse("a.toml", &format!("[source]\nurl = \"{url}\"\n")).unwrap_err();
            assert!(!error.contains("heim"), "{error}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        let with = |interval: &str| {
            Settings::parse("a.toml", &format!("[source]\nurl = \"https://x/y.git\"\n[agent]\ninterval = {interval}\n"))
        };
        assert_eq!(with("\"5min\"").unwrap().agent.interval, Duration::from_secs(300));
        for bad in ["\"5\"", "5", "\"0s\"", "\"10ms\"", "\"30days\"", "\"soon\""] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }
    /// What is said about a line beneath `[table]`.
    fn refusal(table: &str, line: &str) -> String {
        Settings::parse("a.toml", &format!("[source]\nurl = \"https://x/y.git\"\n[{table}]\n{line}\n")).unwrap_err()
    }

    #[test]
    fn mistakes_about_guards_and_generations_are_shown_where_they_stand() {
        for (table, line, says) in [
            ("guard", "max-removal = 3", "unknown field `max-removal`"),
            ("guard", "max-removals = \"30 %\"", "neither a number such as 20 nor a share"),
            ("guard", "max-removals = \"101%\"", "neither a number such as 20 nor a share"),
            ("guard", "max-removals = -1", ""),
            ("guard", "confirm = \"sometimes\"", "unknown variant `sometimes`, expected one of `network`, `always`, `never`"),
            ("guard", "confirm-timeout = \"5s\"", "\"5s\" is not between ten seconds and one day"),
            ("guard", "settle = \"2h\"", "\"2h\" is not between one second and one hour"),
            ("guard", "settle = 10", "invalid type"),
            ("guard", "adopt = \"keep\"", "unknown variant `keep`, expected `replace` or `report`"),
            ("agent", "stale-after = \"59s\"", "\"59s\" is not between one minute and thirty days"),
            ("agent", "mode = \"watch\"", "unknown variant `watch`, expected `enforce` or `observe`"),
            ("generations", "keep = 1001", "1001 is more than 1000"),
            ("generations", "max-mib = 99999999999999999", ""),
            ("generations", "max-gib = 1", "unknown field `max-gib`"),
            ("drift", "keep-mib = 3", "3 is not between 4 and 4096"),
            ("drift", "keep = 4", "unknown field `keep`"),
            ("reports", "heartbeat = \"1s\"", "\"1s\" is not between five seconds and one day"),
            ("reports", "max-count = 1", "1 is not between 2 and 10000"),
            ("reports", "max-gib = 1", "unknown field `max-gib`"),
            ("status", "textfile = \"trimtab.prom\"", "is not an absolute path that ends in .prom"),
            ("status", "textfile = \"/var/lib/x/trimtab.txt\"", "is not an absolute path that ends in .prom"),
            ("status", "textfile = \"/var/../etc/trimtab.prom\"", "is not an absolute path that ends in .prom"),
            ("status", "textfiles = \"/a.prom\"", "unknown field `textfiles`"),
        ] {
            let error = refusal(table, line);
            assert!(error.contains("a.toml:4:") && error.contains('^') && error.contains(says), "{table} {line}: {error}");
        }
        assert!(refusal("policy", "protect-units = [\"ssh\"]").contains("\"ssh\" under policy.protect-units names no unit"));
        let good = "[source]\nurl = \"https://x/y.git\"\n[guard]\nmax-removals = 0\nconfirm-timeout = \"10s\"\n[generations]\nkeep = 0\nmax-mib = 0\n[policy]\nprotect-units = [\"getty@*.service\"]\n";
        let settings = Settings::parse("a.toml", good).unwrap();
        assert_eq!((settings.guard.max_removals, settings.generations.keep), (Limit::Count(0), 0));
    }

    #[test]
    fn mistakes_about_sinks_are_shown_where_they_stand() {
        let text = |sinks: &str| format!("[source]\nurl = \"https://x/y.git\"\n{sinks}");
        let good = "[[sink]]\nname = \"a\"\ntype = \"webhook\"\nurl = \"https://x/hook\"\n";
        assert_eq!(Settings::parse("a.toml", &text(good)).unwrap().sinks.len(), 1);
        for (sink, place, says) in [
            ("name = \"b\"\ntype = \"webhook\"\nurl = \"http://x/\"\n", "a.toml:10:7", "http:// is refused"),
            ("name = \"b\"\ntype = \"webhook\"\nurl = \"https://me:geheim@x/\"\n", "a.toml:10:7", "no place for credentials"),
            ("name = \"a\"\ntype = \"webhook\"\nurl = \"https://x/\"\n", "a.toml:8:8", "another sink has this name"),
            ("name = \"b\"\ntype = \"webhook\"\n", "a.toml:7:1", "url is missing"),
            ("name = \"b\"\ntype = \"carrier-pigeon\"\n", "a.toml:9:8", "unknown variant"),
            ("name = \"b\"\ntype = \"webhook\"\nuri = \"https://x/\"\n", "a.toml:10:1", "unknown field `uri`"),
        ] {
            let error = Settings::parse("a.toml", &text(&format!("{good}[[sink]]\n{sink}"))).unwrap_err();
            assert!(error.contains(place) && error.contains('^') && error.contains(says), "{sink}: {error}");
            assert!(!error.contains("geheim"), "{error}");
        }
    }
}
