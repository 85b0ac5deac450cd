//! Opening a cycle: settings, trust, root, store and ledger, each checked before anything is believed.
//!
//! What cannot be trusted halts (exit 78): going on with an empty ledger or another root of trust would be a guess about a machine
//! that nobody is looking at.

use trimtab_model::digest::Digest;
use trimtab_model::facts::Host;
use trimtab_model::names::{HostName, NameError};

use super::history::History;
use super::{Current, Cycle};
use crate::config::{ConfigError, Places, Settings};
use crate::host::accounts::Accounts;
use crate::host::root::{Root, RootError};
use crate::host::units::Systemd;
use crate::store::{Store, StoreError};
use crate::trust::keys::{TrustConfig, TrustFileError};
use crate::trust::state::{StateError, TrustState};

/// What the cycle may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Change the machine: only one process may.
    Exclusive,
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
    /// The root of the managed host cannot be opened.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kernel's host name is no name for a fleet.
    #[error("this machine's host name cannot be used; set `name` under [host] in agent.toml")]
    HostName(#[from] NameError),
    /// Where this program lies is not known, so it cannot start its other processes.
    #[error("this program's own path cannot be found")]
    Program(#[source] std::io::Error),
}

impl OpenError {
    /// 75 when another process is at work, else 78: a person must look.
    pub fn exit_code(&self) -> u8 {
        match self {
            OpenError::Store(error) if error.is_busy() => 75,
            _ => 78,
        }
    }
}

impl Cycle {
    /// Opens everything that a pass needs.
    pub async fn open(places: &Places, hold: Hold) -> Result<Self, OpenError> {
        let settings = Settings::load(&places.agent_toml())?;
        let trust = TrustConfig::load(&places.trust_toml())?;
        let trust_digest = Digest::of(crate::config::read_text(&places.trust_toml())?.as_bytes());
        let root = Root::open(&places.root)?;
        let (store, mut remarks) = match hold {
            Hold::Exclusive => Store::open(&places.state(), &places.runtime())?,
            Hold::ReadOnly => Store::open_read_only(&places.state(), &places.runtime())?,
        };
        let (ledger, warnings) = store.load_ledger()?;
        remarks.extend(warnings);
        let (state_text, warnings) = store.load_trust_state()?;
        remarks.extend(warnings);
        let trust_state = state_text.as_deref().map(TrustState::from_text).transpose()?;
        if trust_state.is_none() && ledger.generation > 0 {
            remarks.push("the memory of the last accepted commit is lost; the next signed commit is taken as the first".to_owned());
        }
        let current: Option<Current> = store.load_desired()?.and_then(|text| serde_json::from_slice(&text).ok());
        let host = host(&settings, &root)?;
        let versioned = [host.digest().to_string(), env!("CARGO_PKG_VERSION").to_owned()].concat();
        let program = std::env::current_exe().map_err(OpenError::Program)?;
        let accounts = Accounts::load(&root);
        let earlier = store.load_status().and_then(|text| serde_json::from_slice(&text).ok());
        let systemd = if places.is_sandbox() { None } else { connect().await };
        Ok(Self {
            host_digest: Digest::of(versioned.as_bytes()),
            history: History::resume(earlier),
            places: places.clone(),
            settings,
            program,
            hold,
            root,
            accounts,
            host,
            store,
            ledger,
            trust,
            trust_digest,
            trust_state,
            current,
            refused: None,
            systemd,
            images_known: None,
            remarks,
        })
    }
}

/// systemd, where it runs; a host without it has its files managed and says so.
async fn connect() -> Option<Systemd> {
    if !std::path::Path::new("/run/systemd/system").exists() {
        tracing::warn!("systemd does not run here: files are managed, units are not");
        return None;
    }
    match Systemd::connect().await {
        Ok(systemd) => Some(systemd),
        Err(error) => {
            tracing::warn!("systemd cannot be reached, units are not managed: {}", crate::log::chain(&error));
            None
        }
    }
}

fn host(settings: &Settings, root: &Root) -> Result<Host, NameError> {
    let facts = crate::host::facts::gather(root);
    let name: HostName = match &settings.host.name {
        Some(name) => name.clone(),
        None => facts.hostname.parse()?,
    };
    Ok(Host { name, labels: settings.host.labels.clone(), facts, policy: settings.policy.clone() })
}
