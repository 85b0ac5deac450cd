//! Opening a cycle: settings, trust, root, store and ledger, each checked before anything is believed.
//!
//! What cannot be trusted halts (exit 78): going on with an empty ledger or another root of trust would be a guess about a machine
//! that nobody is looking at.

use std::path::{Path, PathBuf};

use trimtab_model::digest::Digest;
use trimtab_model::facts::Host;
use trimtab_model::ledger::Ledger;
use trimtab_model::names::{HostName, NameError};
use trimtab_model::transaction::Phase;

use super::history::History;
use super::holds::HeldBack;
use super::own::Itself;
use super::send::Sending;
use super::{Current, Cycle, Matter, recall};
use crate::apply::{Machine, Patience};
use crate::config::{ConfigError, Places, Settings};
use crate::host::accounts::Accounts;
use crate::host::command::Runner;
use crate::host::root::{Root, RootError};
use crate::host::units::Systemd;
use crate::log::chain;
use crate::store::{Store, StoreError};
use crate::trust::Class;
use crate::trust::keys::{TrustConfig, TrustFileError};
use crate::trust::owner::OwnerError;
use crate::trust::owner::is_shortage;
use crate::trust::state::StateError;

/// What the cycle may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Change the machine, again and again: only one process may.
    Agent,
    /// Change the machine once, likewise.
    Once,
    /// Look only; nothing is written, also not to the store.
    ReadOnly,
}

/// Why a cycle cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// `agent.toml` cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `trust.toml` cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustFileError),
    /// The remembered trust state cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// Others could have written what this host remembers.
    #[error("what this host remembers cannot be believed")]
    StateOwner(#[source] OwnerError),
    /// What this host remembered is gone, and trust.toml says to wait for a person then.
    #[error(
        "what this host remembered of the releases that it accepted is lost, and `require-state = true` in trust.toml lets nothing count until a person has looked: set min-epoch and min-seq there to the newest release that is known, and `require-state = false`"
    )]
    StateLost,
    /// The root of the managed host cannot be opened.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kernel's host name is no name for a fleet.
    #[error("this machine's host name cannot be used; set `name` under [host] in agent.toml")]
    HostName(#[from] NameError),
    /// It has no name yet: what a machine is called before a name server or cloud-init has named it.
    #[error(
        "this machine is called {0}, which is no name of its own; give it one (`hostnamectl hostname`), or set `name` under [host] in agent.toml"
    )]
    Unnamed(String),
    /// Where this program lies is not known, so it cannot start its other processes.
    #[error("this program's own path cannot be found")]
    Program(#[source] std::io::Error),
}

impl OpenError {
    /// 78: a person must look, and systemd leaves the agent stopped. 75: what is wrong may be right again without one (another process is
    /// at work, a disk is full or read-only, handles or memory are short, a name server has not given the host its name yet), and the
    /// agent is started again.
    pub fn exit_code(&self) -> u8 {
        match self {
            OpenError::Store(error) if !error.must_halt() => 75,
            OpenError::Config(ConfigError::Read(error)) if error.class() == Class::Retry => 75,
            OpenError::Trust(error) if error.class() == Class::Retry => 75,
            OpenError::StateOwner(error) if error.class() == Class::Retry => 75,
            OpenError::Root(RootError::Io { source, .. }) if is_shortage(source) => 75,
            OpenError::HostName(_) | OpenError::Unnamed(_) | OpenError::Program(_) => 75,
            _ => 78,
        }
    }
}

impl Cycle {
    /// Opens everything that a pass needs.
    pub fn open(places: &Places, hold: Hold) -> Result<Self, OpenError> {
        let settings = Settings::load(&places.agent_toml())?;
        let trust = TrustConfig::load(&places.trust_toml())?;
        let root = Root::open(&places.root)?;
        if hold != Hold::ReadOnly {
            // A directory on the way to a file is open to others from the start: under the unit's own mask it would be closed until the
            // line after, and for ever when the power is cut in between. What is private says so itself.
            nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
        }
        let mut store = match hold {
            Hold::Agent | Hold::Once => Store::open(places.store())?,
            Hold::ReadOnly => Store::look(places.store())?,
        };
        let loaded = store.load_ledger()?;
        let ledger = loaded.ledger;
        let mut remarks: Vec<String> = loaded.warning.into_iter().collect();
        let memory = recall::recall(&store, &trust, &ledger, &mut remarks)?;
        if !memory.is_empty() && hold != Hold::ReadOnly {
            recall::mend(&mut store, &memory, &mut remarks);
        }
        let current = in_force(&store, &ledger, &mut remarks)?;
        let host = host(&settings, &root)?;
        let held = HeldBack::load(&store);
        let program = std::env::current_exe().map_err(OpenError::Program)?;
        let accounts = Accounts::load(&root);
        let earlier = store.load_status().ok().flatten().and_then(|text| serde_json::from_slice(&text).ok());
        let systemd = if places.is_sandbox() { None } else { systemd() };
        let runner = systemd.clone().map_or(Runner::Child, Runner::Systemd);
        let itself = Itself::open(&program, hold, systemd.is_some(), store.places());
        let scratch = places.runtime().join("scratch");
        let sending = Sending::open(places, &settings, hold, &mut remarks);
        let sent = sending.outbox.as_ref().map_or(0, crate::outbox::Outbox::last_event);
        let kept = super::book::Kept::open(&store, sent, super::now_ms(), &mut remarks);
        let machine = Machine {
            root,
            accounts,
            systemd,
            runner,
            patience: patience(&settings),
            scratch,
            keep: keep(&settings),
            way: None,
            bundle: None,
        };
        Ok(Self {
            inputs: inputs(&host, &trust),
            history: History::resume(earlier, &kept.book),
            places: places.clone(),
            settings,
            misread: None,
            program: for_children(program),
            itself,
            hold,
            machine,
            host,
            store,
            ledger,
            trust,
            memory,
            current,
            refused: None,
            matter: Matter::default(),
            stored: super::images::Stored::default(),
            swept: false,
            remarks,
            is_saved: true,
            resumed: false,
            withheld_again: None,
            approving: None,
            sightings: Vec::new(),
            watch: trimtab_model::status::WatchStatus::default(),
            sending,
            kept,
            seen: Vec::new(),
            textfile: super::textfile::Textfile::default(),
            held,
            aimed: None,
            flaps: super::flap::Flaps::default(),
            fights: super::contend::Fights::new(std::time::Instant::now()),
            waiting_for: String::new(),
            offline: None,
            stick: None,
            is_source_open: false,
            unfetched: std::collections::BTreeSet::new(),
            in_vain: 0,
        })
    }
}

impl Cycle {
    /// Reads `agent.toml` and `trust.toml` again, as SIGHUP asks for. While they cannot be used the host is held by what was read before,
    /// and every pass says so: ending here would leave it to nobody, for a typo.
    pub fn reread(&mut self) {
        match self.read_again() {
            Ok(()) if self.misread.take().is_some() => tracing::info!("the local configuration is in order again"),
            Ok(()) => {}
            Err(error) => {
                let message = chain(&error);
                tracing::error!(trimtab_outcome = "misread", "the local configuration stays as it was read before: {message}");
                self.misread = Some(message);
            }
        }
    }

    fn read_again(&mut self) -> Result<(), OpenError> {
        let settings = Settings::load(&self.places.agent_toml())?;
        let trust = TrustConfig::load(&self.places.trust_toml())?;
        recall::check_mode(&self.memory, &trust)?;
        let host = host(&settings, &self.machine.root)?;
        self.inputs = inputs(&host, &trust);
        self.machine.patience = patience(&settings);
        self.machine.keep = keep(&settings);
        self.sending.reread(&self.places, &settings, self.hold, &mut self.remarks);
        (self.settings, self.trust, self.host) = (settings, trust, host);
        Ok(())
    }
}

/// The generation that the host is held to between passes: that of an unfinished trial only while it waits for a reboot or for what could
/// not be undone. A rendering can be made again: one that cannot be read is only missed until the source is reached.
fn in_force(store: &Store, ledger: &Ledger, remarks: &mut Vec<String>) -> Result<Option<Current>, OpenError> {
    let number = match &ledger.trial {
        Some(trial) if matches!(trial.phase, Phase::AwaitingReboot | Phase::Degraded) => trial.generation,
        _ => ledger.generation,
    };
    match store.load_generation(number) {
        Ok(generation) => Ok(generation.map(Current::of)),
        Err(error) if error.must_halt() => Err(error.into()),
        Err(error) => {
            remarks.push(chain(&error));
            Ok(None)
        }
    }
}

/// What a rendering is made from beside the revision.
fn inputs(host: &Host, trust: &TrustConfig) -> Digest {
    let parts = [host.digest().to_string(), env!("CARGO_PKG_VERSION").to_owned(), trust.digest().to_string()];
    Digest::of(parts.join("\n").as_bytes())
}

fn patience(settings: &Settings) -> Patience {
    Patience { unit: settings.agent.unit_timeout, pull: settings.agent.pull_timeout }
}

fn keep(settings: &Settings) -> u64 {
    settings.drift.keep_mib << 20
}

/// systemd, where it runs; a host without it has its files managed and says so.
fn systemd() -> Option<std::sync::Arc<Systemd>> {
    let found = Systemd::of_this_machine();
    if found.is_none() {
        tracing::warn!("systemd does not run here: files are managed, units are not");
    }
    found.map(std::sync::Arc::new)
}

fn host(settings: &Settings, root: &Root) -> Result<Host, OpenError> {
    let facts = crate::host::facts::gather(root);
    let name: HostName = match &settings.host.name {
        Some(name) => name.clone(),
        // Rendered under that name, a host would lose all that its groups give it by its own.
        None if root.is_host() && facts.hostname.split('.').next() == Some("localhost") => {
            return Err(OpenError::Unnamed(facts.hostname));
        }
        None => facts.hostname.parse()?,
    };
    Ok(Host { name, labels: settings.host.labels.clone(), facts, policy: settings.policy.clone() })
}

/// What this process starts as its children: the very program that it is. When a package has put another one at its path and nobody has
/// restarted the agent yet, that one would be asked in words that it may not know, and would render under this one's name.
fn for_children(program: PathBuf) -> PathBuf {
    let own = Path::new("/proc/self/exe");
    if own.exists() { own.to_owned() } else { program }
}
