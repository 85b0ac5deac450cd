//! The bus to systemd: one connection, made when first needed, made anew once when it broke.
//!
//! Calls are made by name instead of through generated proxies: a dozen methods do not pay for a second connection-wide
//! machinery of property caches and match rules that would wake the idle agent.
//! Limits: the connection is to the system bus; without one (no dbus-daemon, no systemd) every call says so.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use zbus::export::futures_core::Stream;
use zbus::message::Type;
use zbus::{Connection, DynamicType, MatchRule, Message, MessageStream, OwnedVariant};

use super::UnitError;

pub(super) const DESTINATION: &str = "org.freedesktop.systemd1";
pub(super) const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
pub(super) const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// A daemon-reload of a large host on a slow card takes tens of seconds; more than this means that PID 1 is stuck.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// Signals that may arrive while nobody looks; a full queue would hold up the replies behind it.
const SIGNAL_QUEUE: usize = 4096;

/// A connection that is there when it is needed.
#[derive(Debug, Default)]
pub(super) struct Bus {
    slot: Mutex<Option<Connection>>,
    /// The last jobs that were queued over it, by object path.
    jobs: Mutex<VecDeque<String>>,
}

/// How many of our own jobs are remembered.
const OWN_JOBS: usize = 256;

impl Bus {
    /// The connection, made now if there is none or if the last one was closed by the other side.
    pub(super) async fn connection(&self) -> Result<Connection, UnitError> {
        let held = self.slot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(connection) = held.filter(|connection| !connection.is_closed()) {
            return Ok(connection);
        }
        let connecting = async { zbus::connection::Builder::system().method_timeout(CALL_TIMEOUT).build().await };
        let connection = connecting.await.map_err(|source| UnitError::NoBus { source })?;
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.clone());
        Ok(connection)
    }

    /// Lets go of the connection; the next call makes another. The idle agent holds none.
    pub(super) fn rest(&self) {
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// This job is ours.
    pub(super) fn remember_job(&self, path: &str) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.len() == OWN_JOBS {
            jobs.pop_front();
        }
        jobs.push_back(path.to_owned());
    }

    /// The last jobs that are ours.
    pub(super) fn own_jobs(&self) -> Vec<String> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// A method of systemd's manager object.
    pub(super) async fn manager<B>(&self, method: &'static str, about: &str, body: &B) -> Result<Message, UnitError>
    where
        B: serde::Serialize + DynamicType + Sync,
    {
        match self.try_manager(method, about, body).await {
            // The bus or systemd went away in the middle (an upgrade re-executes both): the same question once more, over a new connection.
            Err(error) if error.is_lost() => {
                self.rest();
                tokio::time::sleep(Duration::from_millis(200)).await;
                self.try_manager(method, about, body).await
            }
            other => other,
        }
    }

    async fn try_manager<B>(&self, method: &'static str, about: &str, body: &B) -> Result<Message, UnitError>
    where
        B: serde::Serialize + DynamicType + Sync,
    {
        let connection = self.connection().await?;
        call(&connection, method, about, body).await
    }

    /// All properties that one interface of a unit has. Asking for a unit's object loads the unit.
    pub(super) async fn properties(&self, unit: &str, interface: &str) -> Result<Properties, UnitError> {
        match self.try_properties(unit, interface).await {
            Err(error) if error.is_lost() => {
                self.rest();
                tokio::time::sleep(Duration::from_millis(200)).await;
                self.try_properties(unit, interface).await
            }
            other => other,
        }
    }

    async fn try_properties(&self, unit: &str, interface: &str) -> Result<Properties, UnitError> {
        let connection = self.connection().await?;
        let refused = |source| UnitError::from_zbus("read the state", unit, source);
        let reply = connection
            .call_method(Some(DESTINATION), unit_path(unit), Some(PROPERTIES), "GetAll", &(interface))
            .await
            .map_err(refused)?;
        let map = reply.body().deserialize::<BTreeMap<String, OwnedVariant>>().map_err(refused)?;
        Ok(Properties(map))
    }
}

/// A method of systemd's manager object over a given connection.
pub(super) async fn call<B>(connection: &Connection, method: &'static str, about: &str, body: &B) -> Result<Message, UnitError>
where
    B: serde::Serialize + DynamicType + Sync,
{
    connection
        .call_method(Some(DESTINATION), MANAGER_PATH, Some(MANAGER), method, body)
        .await
        .map_err(|source| UnitError::from_zbus(method, about, source))
}

/// The properties of one interface of one unit.
#[derive(Debug, Default)]
pub(super) struct Properties(BTreeMap<String, OwnedVariant>);

impl Properties {
    pub(super) fn text(&self, name: &str) -> String {
        self.0.get(name).and_then(|value| <&str>::try_from(&**value).ok()).unwrap_or_default().to_owned()
    }

    pub(super) fn texts(&self, name: &str) -> Vec<String> {
        self.0.get(name).and_then(|value| Vec::<String>::try_from(value.clone()).ok()).unwrap_or_default()
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| bool::try_from(&**value).unwrap_or(false))
    }

    pub(super) fn number(&self, name: &str) -> Option<i32> {
        self.0.get(name).and_then(|value| i32::try_from(&**value).ok())
    }

    pub(super) fn count(&self, name: &str) -> u32 {
        self.0.get(name).and_then(|value| u32::try_from(&**value).ok()).unwrap_or_default()
    }

    /// Whether a point in time was reached.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.0.get(name).and_then(|value| u64::try_from(&**value).ok()).is_some_and(|time| time != 0)
    }

    pub(super) fn bytes(&self, name: &str) -> Vec<u8> {
        self.0.get(name).and_then(|value| Vec::<u8>::try_from(value.clone()).ok()).unwrap_or_default()
    }

    /// Whether a job is queued or running for the unit: the property is a pair of id and path, and id 0 is none.
    pub(super) fn has_job(&self) -> bool {
        let Some(Ok(pair)) = self.0.get("Job").map(|value| zbus::Structure::try_from(value.clone())) else { return false };
        <(u32, zbus::OwnedObjectPath)>::try_from(pair).is_ok_and(|(id, _)| id != 0)
    }
}

/// Ends of jobs as systemd announces them. Made *before* a job is queued, so that no end can be missed.
pub(super) struct Ends(MessageStream);

impl Ends {
    pub(super) async fn subscribe(connection: &Connection) -> Result<Self, UnitError> {
        let lost = |source| UnitError::from_zbus("watch jobs", "", source);
        let rule = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(DESTINATION)
            .interface(MANAGER)
            .member("JobRemoved")
            .path(MANAGER_PATH)
            .build()
            .map_err(lost)?;
        let stream = MessageStream::for_match_rule(rule, connection, NonZeroUsize::new(SIGNAL_QUEUE)).await.map_err(lost)?;
        Ok(Self(stream))
    }

    /// The next end of any job; `None` when the connection is gone.
    pub(super) async fn next(&mut self) -> Option<End> {
        loop {
            let message = poll_fn(|context| Pin::new(&mut self.0).poll_next(context)).await?.ok()?;
            if let Ok((_, path, _, result)) = message.body().deserialize::<(u32, zbus::ObjectPath<'_>, &str, &str)>() {
                return Some(End { job: path.to_string(), result: result.to_owned() });
            }
        }
    }
}

/// The end of one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    /// The job's object path.
    pub(super) job: String,
    /// `done`, `canceled`, `timeout`, `failed`, `dependency`, `skipped`, …
    pub(super) result: String,
}

/// Changes of one unit's state as systemd announces them. Systemd folds several into one, so each says only: look again.
pub(crate) struct Changes(MessageStream);

impl Changes {
    pub(super) async fn subscribe(connection: &Connection, unit: &str) -> Result<Self, UnitError> {
        let lost = |source| UnitError::from_zbus("watch", unit, source);
        let rule = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(DESTINATION)
            .interface(PROPERTIES)
            .member("PropertiesChanged")
            .path(unit_path(unit))
            .build()
            .map_err(lost)?;
        let stream = MessageStream::for_match_rule(rule, connection, NonZeroUsize::new(SIGNAL_QUEUE)).await.map_err(lost)?;
        Ok(Self(stream))
    }

    /// Until the next change; false: no more will be told, for the connection is gone.
    pub(crate) async fn next(&mut self) -> bool {
        poll_fn(|context| Pin::new(&mut self.0).poll_next(context)).await.is_some_and(|message| message.is_ok())
    }
}

/// The object path of a unit, escaped as systemd's `bus_label_escape` does.
pub(super) fn unit_path(unit: &str) -> String {
    let mut path = String::from("/org/freedesktop/systemd1/unit/");
    for (at, byte) in unit.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit()) {
            path.push(char::from(byte));
        } else {
            use std::fmt::Write as _;
            let _ = write!(path, "_{byte:02x}");
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_paths_are_escaped_as_systemd_does() {
        assert_eq!(unit_path("a-b.service"), "/org/freedesktop/systemd1/unit/a_2db_2eservice");
        assert_eq!(unit_path("9p@x\\x2d.mount"), "/org/freedesktop/systemd1/unit/_39p_40x_5cx2d_2emount");
    }
}
