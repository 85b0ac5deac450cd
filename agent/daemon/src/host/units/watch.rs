//! A unit looked at closely, for as long as somebody wants to know how it fares.
//!
//! Guarantees: what is told was read in one question to PID 1 for each of the unit's two interfaces. Limits: the announcements of changes are a
//! hint to look, nothing more; who must not miss anything looks now and then without one.

use trimtab_model::health::UnitLook;
use trimtab_model::names::UnitName;

use super::bus::{self, Changes};
use super::{Systemd, UNIT, UnitError, jobs};

impl Systemd {
    /// How a unit fares at this moment.
    pub(crate) async fn fares(&self, unit: &UnitName) -> Result<UnitLook, UnitError> {
        let properties = self.bus.properties(unit.as_str(), UNIT).await?;
        let own = match jobs::kind_interface(unit.kind()) {
            Some(interface) => self.bus.properties(unit.as_str(), interface).await?,
            None => bus::Properties::default(),
        };
        Ok(UnitLook {
            load: properties.text("LoadState"),
            active: properties.text("ActiveState"),
            sub: properties.text("SubState"),
            result: own.text("Result"),
            restarts: own.count("NRestarts"),
            invocation: jobs::invocation(&properties),
            // Before the first start there is neither a result nor a time of it.
            condition_met: properties.flag("ConditionResult") || !properties.is_set("ConditionTimestamp"),
        })
    }

    /// Has systemd tell when the state of a unit changes.
    pub(crate) async fn changes(&self, unit: &UnitName) -> Result<Changes, UnitError> {
        let connection = self.bus.connection().await?;
        // It announces changes to subscribers only; being one twice is refused, and no matter.
        match bus::call(&connection, "Subscribe", unit.as_str(), &()).await {
            Err(error) if error.is_lost() => Err(error),
            _ => Changes::subscribe(&connection, unit.as_str()).await,
        }
    }
}
