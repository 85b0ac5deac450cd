//! systemd over D-Bus: what the units are, and every change of them.
//!
//! Guarantees: each change is read back and judged by what systemd then says, never by the reply alone; a bus that went away
//! is connected to once more before anything is called a failure; no connection is held while the agent idles ([`Systemd::rest`]).
//! Limits: the system manager only; unit *files* are written by `place`, never through here.

mod bus;
mod jobs;
mod signals;
mod transient;
mod watch;

use std::collections::BTreeMap;
use std::time::Duration;

use trimtab_model::names::UnitName;
use trimtab_model::observed::UnitFound;

pub(crate) use bus::Changes;
use bus::{Bus, Properties};
pub use jobs::{JobOutcome, JobVerb};
pub(crate) use signals::{Signal, Signals};
pub(crate) use transient::{TransientEnd, TransientOutput, TransientUnit};

const UNIT: &str = "org.freedesktop.systemd1.Unit";

/// What went wrong between the agent and systemd, or with a unit.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// There is no system bus, or it does not let us in.
    #[error("cannot reach systemd over the system bus; units cannot be managed until dbus.service runs")]
    NoBus {
        /// What the connection said.
        source: zbus::Error,
    },
    /// The bus or systemd went away in the middle of a job, twice.
    #[error("the connection to systemd broke while it worked on {unit}")]
    Lost {
        /// The unit.
        unit: String,
    },
    /// A call did not come through.
    #[error("asking systemd to {doing} {about} did not come through")]
    Call {
        /// What was asked.
        doing: &'static str,
        /// About which unit; may be empty.
        about: String,
        /// What the bus said.
        source: zbus::Error,
    },
    /// systemd refused.
    #[error("systemd refused to {doing} {about}: {message}")]
    Refused {
        /// What was asked.
        doing: &'static str,
        /// About which unit; may be empty.
        about: String,
        /// The D-Bus error name.
        name: String,
        /// systemd's own sentence.
        message: String,
    },
    /// A job ended otherwise than asked.
    #[error("could not {verb} {unit}: {why}")]
    Job {
        /// What was asked.
        verb: &'static str,
        /// The unit.
        unit: String,
        /// What became of it.
        why: String,
        /// The unit that is to blame: itself, or one that it requires.
        blamed: String,
        /// The run of that one which ended so; empty when it never ran.
        invocation: String,
    },
    /// A job did not end.
    #[error("{unit} was still at it after {}; systemd goes on with the job", humantime::format_duration(*after))]
    Slow {
        /// The unit.
        unit: String,
        /// How long was waited.
        after: Duration,
    },
    /// A change of the boot state did not take.
    #[error("{unit} is {is} after it was told to be {wanted}: {why}")]
    BootState {
        /// The unit.
        unit: String,
        /// What systemd says that it is.
        is: String,
        /// What was asked.
        wanted: &'static str,
        /// Why, as far as it is known, and what to do.
        why: &'static str,
    },
}

impl UnitError {
    fn from_zbus(doing: &'static str, about: &str, source: zbus::Error) -> Self {
        let about = about.to_owned();
        match source {
            zbus::Error::MethodError(name, message, _) => {
                Self::Refused { doing, about, message: message.unwrap_or_else(|| name.to_string()), name: name.to_string() }
            }
            zbus::Error::FDO(error) if !matches!(*error, zbus::fdo::Error::NoReply(_) | zbus::fdo::Error::Disconnected(_)) => {
                use zbus::DBusError as _;
                let (name, message) = (error.name().to_string(), error.description().unwrap_or_default().to_owned());
                Self::Refused { doing, about, message: if message.is_empty() { name.clone() } else { message }, name }
            }
            source => Self::Call { doing, about, source },
        }
    }

    /// The other side went away: worth one more try over a new connection.
    fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Call { .. })
    }

    /// systemd knows no such unit (file).
    pub fn is_absent(&self) -> bool {
        let names = ["org.freedesktop.systemd1.NoSuchUnit", "org.freedesktop.DBus.Error.FileNotFound"];
        matches!(self, Self::Refused { name, .. } if names.contains(&name.as_str()))
    }

    /// The unit and the run of it whose journal is likely to say more.
    pub fn invocation(&self) -> Option<(&str, &str)> {
        match self {
            Self::Job { blamed, invocation, .. } if !invocation.is_empty() => Some((blamed, invocation)),
            _ => None,
        }
    }
}

/// A change that `systemctl enable` and its like make to the unit files' links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootState {
    /// Its `[Install]` section is in force.
    Enabled,
    /// It is not.
    Disabled,
    /// It cannot be started at all.
    Masked,
    /// It can be again.
    Unmasked,
}

/// systemd, the system manager of this machine.
#[derive(Debug)]
pub struct Systemd {
    bus: Bus,
}

impl Systemd {
    /// systemd, if this machine was booted with it. It is reached when it is first asked: a bus that is down now may be up in the next pass,
    /// and an agent that gave its units up at the start would leave them to nobody.
    pub fn of_this_machine() -> Option<Self> {
        // sd_booted(3): the one documented way to ask. A bus without systemd would answer "no such service" much later.
        std::path::Path::new("/run/systemd/system").is_dir().then(|| Self { bus: Bus::default() })
    }

    /// Closes the connection until something is asked again.
    pub fn rest(&self) {
        self.bus.rest();
    }

    /// The last jobs that were ours, by object path.
    pub fn own_jobs(&self) -> Vec<String> {
        self.bus.own_jobs()
    }

    /// The state of each unit. A template has only a file, so only its file's state is told.
    pub async fn observe(&self, units: impl Iterator<Item = &UnitName>) -> Result<BTreeMap<UnitName, UnitFound>, UnitError> {
        let mut all = BTreeMap::new();
        for unit in units {
            all.insert(unit.clone(), self.look(unit).await?);
        }
        Ok(all)
    }

    /// The state of one unit.
    pub async fn look(&self, unit: &UnitName) -> Result<UnitFound, UnitError> {
        if unit.is_template() {
            let file_state = self.file_state(unit).await?;
            let load = if file_state.is_empty() { "not-found" } else { "loaded" }.to_owned();
            return Ok(UnitFound { load, file_state, ..UnitFound::default() });
        }
        // The property UnitFileState is cached by PID 1 until its next reload; the method looks at the disk.
        let (properties, file_state) = tokio::join!(self.bus.properties(unit.as_str(), UNIT), self.file_state(unit));
        Ok(found(&properties?, file_state?))
    }

    async fn file_state(&self, unit: &UnitName) -> Result<String, UnitError> {
        match self.bus.manager("GetUnitFileState", unit.as_str(), &(unit.as_str())).await {
            Ok(reply) => {
                reply.body().deserialize::<String>().map_err(|source| UnitError::from_zbus("look up", unit.as_str(), source))
            }
            Err(error) if error.is_absent() => Ok(String::new()),
            // A unit file with a bad [Install] section, or a link to nowhere, has no state; the rest of the unit can still be told.
            Err(UnitError::Refused { message, .. }) => {
                tracing::debug!(unit = unit.as_str(), message, "systemd cannot tell the unit file's state");
                Ok(String::new())
            }
            Err(error) => Err(error),
        }
    }

    /// Runs one job to its judged end.
    pub async fn job(&self, verb: JobVerb, unit: &UnitName, timeout: Duration) -> Result<JobOutcome, UnitError> {
        jobs::run(&self.bus, verb, unit, timeout).await
    }

    /// Has systemd (and Quadlet's generator) read all unit files again; back when that is done.
    pub async fn daemon_reload(&self) -> Result<(), UnitError> {
        self.bus.manager("Reload", "its unit files", &()).await.map(drop)
    }

    /// Changes whether a unit is started at boot. True: links on disk changed, and a daemon-reload is due before they count.
    pub async fn boot_state(&self, unit: &UnitName, wanted: BootState) -> Result<bool, UnitError> {
        let (name, units) = (unit.as_str(), vec![unit.as_str()]);
        let (runtime, force) = (false, true);
        let reply = match wanted {
            // One that is enabled already has a new [Install] section: the links of the old one must go, or it would still be started by
            // what it left.
            BootState::Enabled if self.file_state(unit).await? == "enabled" => {
                self.bus.manager("ReenableUnitFiles", name, &(units, runtime, force)).await?
            }
            BootState::Enabled => self.bus.manager("EnableUnitFiles", name, &(units, runtime, force)).await?,
            BootState::Disabled => self.bus.manager("DisableUnitFiles", name, &(units, runtime)).await?,
            // Never by force: that would replace a unit file in /etc by the link, and with it what the operator wrote.
            BootState::Masked => self.bus.manager("MaskUnitFiles", name, &(units, runtime, false)).await?,
            BootState::Unmasked => self.bus.manager("UnmaskUnitFiles", name, &(units, runtime)).await?,
        };
        let body = reply.body();
        type Changes = Vec<(String, String, String)>;
        let unread = |source| UnitError::from_zbus("change the boot state of", name, source);
        let (installs, changes) = if wanted == BootState::Enabled {
            body.deserialize::<(bool, Changes)>().map_err(unread)?
        } else {
            (true, body.deserialize::<Changes>().map_err(unread)?)
        };
        let is = self.file_state(unit).await?;
        check_boot_state(unit, wanted, is, installs)?;
        Ok(!changes.is_empty())
    }
}

fn check_boot_state(unit: &UnitName, wanted: BootState, is: String, installs: bool) -> Result<(), UnitError> {
    let refuse = |wanted, why| {
        Err(UnitError::BootState {
            unit: unit.to_string(),
            is: if is.is_empty() { "without a file".to_owned() } else { is.clone() },
            wanted,
            why,
        })
    };
    match wanted {
        BootState::Enabled if matches!(is.as_str(), "enabled" | "alias" | "indirect" | "enabled-runtime") => Ok(()),
        BootState::Enabled if !installs => {
            refuse("enabled", "its file has no [Install] section; add one with WantedBy=, or do not ask for it to be enabled")
        }
        BootState::Enabled => refuse("enabled", "something undid it at once"),
        BootState::Disabled if matches!(is.as_str(), "enabled" | "enabled-runtime" | "linked-runtime") => {
            refuse("disabled", "a link in /run or /usr enables it; only who put that link there can take it away")
        }
        BootState::Masked if is != "masked" => refuse("masked", "something undid it at once"),
        BootState::Unmasked if is == "masked" || is == "masked-runtime" => {
            refuse("unmasked", "it is masked in /usr or /run; remove that mask by hand")
        }
        _ => Ok(()),
    }
}

/// The properties of a unit in the model's words.
fn found(properties: &Properties, file_state: String) -> UnitFound {
    UnitFound {
        load: properties.text("LoadState"),
        active: properties.text("ActiveState"),
        sub: properties.text("SubState"),
        file_state,
        needs_reload: properties.flag("NeedDaemonReload"),
        can_reload: properties.flag("CanReload"),
        invocation: jobs::invocation(properties),
    }
}
