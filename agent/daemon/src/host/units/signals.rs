//! What systemd tells by itself about units, over a connection of its own that stays open.
//!
//! Guarantees: the bus delivers only what was asked for, unit by unit, so that a busy machine does not wake us. Limits: a connection may ask
//! for 512 things; with more units than that allows, every unit's signals come and those of others are dropped here.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::num::NonZeroUsize;
use std::pin::Pin;

use trimtab_model::names::UnitName;
use zbus::export::futures_core::Stream;
use zbus::message::{Flags, Type};
use zbus::{Connection, Message, MessageStream, OwnedVariant};

use super::UnitError;
use super::bus::{self, DESTINATION, MANAGER, MANAGER_PATH, unit_path};

/// Two rules for each unit, of the 512 that dbus-daemon lets a connection have.
const MOST_UNITS: usize = 200;

/// Signals that may wait while a pass works.
const QUEUE: usize = 1024;

const BUS: &str = "org.freedesktop.DBus";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// What systemd told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Signal {
    /// A unit is in this state now; it may have been before.
    State {
        /// The unit.
        unit: String,
        /// As in `UnitFound::active`.
        active: String,
        /// Likewise, finer.
        sub: String,
    },
    /// A job of a unit ended.
    Job {
        /// The unit.
        unit: String,
        /// The job's object path.
        job: String,
    },
    /// Unit files were changed through systemd, or it has read all of them again.
    Files,
}

/// systemd's signals about some units.
pub(crate) struct Signals {
    stream: MessageStream,
    _connection: Connection,
    /// By object path.
    units: BTreeMap<String, String>,
}

impl Signals {
    /// Asks for them.
    pub(crate) async fn subscribe(units: &[UnitName]) -> Result<Self, UnitError> {
        let no_bus = |source| UnitError::NoBus { source };
        let connection = zbus::connection::Builder::system().build().await.map_err(no_bus)?;
        let mut stream = MessageStream::from(&connection);
        stream.set_max_queued(NonZeroUsize::new(QUEUE).expect("because it is not zero"));
        let lost = |source| UnitError::from_zbus("watch", "units", source);
        for rule in rules(units) {
            // Without an answer: four hundred that say nothing.
            let rule = Message::method_call("/org/freedesktop/DBus", "AddMatch")
                .destination(BUS)
                .interface(BUS)
                .with_flags(Flags::NO_REPLY_EXPECTED)
                .build(&rule)
                .map_err(lost)?;
            connection.send(&rule).await.map_err(lost)?;
        }
        // After the rules: the answer says that they are in force.
        bus::call(&connection, "Subscribe", "units", &()).await?;
        let units = units.iter().map(|unit| (unit_path(unit.as_str()), unit.to_string())).collect();
        Ok(Self { stream, _connection: connection, units })
    }

    /// The next one; `None` when the connection is gone.
    pub(crate) async fn next(&mut self) -> Option<Signal> {
        loop {
            let message = poll_fn(|context| Pin::new(&mut self.stream).poll_next(context)).await?.ok()?;
            if let Some(signal) = self.read(&message) {
                return Some(signal);
            }
        }
    }

    fn read(&self, message: &Message) -> Option<Signal> {
        if message.message_type() != Type::Signal {
            return None;
        }
        let header = message.header();
        let body = message.body();
        match header.member()?.as_str() {
            "PropertiesChanged" => {
                let unit = self.units.get(header.path()?.as_str())?.clone();
                let (interface, changed, _) = body.deserialize::<(&str, BTreeMap<&str, OwnedVariant>, Vec<&str>)>().ok()?;
                let text = |name: &str| Some(<&str>::try_from(&**changed.get(name)?).ok()?.to_owned());
                (interface == super::UNIT).then_some(())?;
                Some(Signal::State { unit, active: text("ActiveState")?, sub: text("SubState")? })
            }
            "JobRemoved" => {
                let (_, job, unit, _) = body.deserialize::<(u32, zbus::ObjectPath<'_>, &str, &str)>().ok()?;
                let is_ours = self.units.contains_key(&unit_path(unit));
                is_ours.then(|| Signal::Job { unit: unit.to_owned(), job: job.to_string() })
            }
            "UnitFilesChanged" => Some(Signal::Files),
            // True when it begins, false when it is done.
            "Reloading" => (!body.deserialize::<bool>().ok()?).then_some(Signal::Files),
            _ => None,
        }
    }
}

fn rules(units: &[UnitName]) -> Vec<String> {
    let manager = format!("type='signal',sender='{DESTINATION}',path='{MANAGER_PATH}',interface='{MANAGER}'");
    let states =
        format!("type='signal',sender='{DESTINATION}',interface='{PROPERTIES}',member='PropertiesChanged',arg0='{}'", super::UNIT);
    let mut rules = vec![format!("{manager},member='UnitFilesChanged'"), format!("{manager},member='Reloading'")];
    if units.len() > MOST_UNITS {
        rules.push(format!("{manager},member='JobRemoved'"));
        rules.push(format!("{states},path_namespace='/org/freedesktop/systemd1/unit'"));
        return rules;
    }
    for unit in units.iter().filter(|unit| !unit.is_template()) {
        rules.push(format!("{manager},member='JobRemoved',arg2='{unit}'"));
        rules.push(format!("{states},path='{}'", unit_path(unit.as_str())));
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bus_takes_the_rules_and_they_are_never_too_many() {
        for count in [0, 1, 3, MOST_UNITS, MOST_UNITS + 1, 5000] {
            let units: Vec<UnitName> = (0..count).map(|number| format!("a-{number}.service").parse().unwrap()).collect();
            let rules = rules(&units);
            assert!(rules.len() < 500, "{count}: {}", rules.len());
            for rule in rules {
                zbus::MatchRule::try_from(rule.as_str()).unwrap();
            }
        }
    }
}
