//! A container's health as Podman tells it, beside that of the unit that runs it.
//!
//! Podman's own timer asks the container, at the pace that its Quadlet file gives; here its verdict is read, never made: asking more often
//! would use up the retries that the operator gave it.

use std::sync::Arc;

use serde::Deserialize;
use trimtab_model::health::{Answer, Expected, Timing, UnitCourse};
use trimtab_model::names::UnitName;

use super::Clocked;
use crate::host::command::{self, Command, CommandError, Runner};
use crate::host::units::Systemd;
use crate::log::chain;

/// A container's state, as far as it is looked at.
#[derive(Debug, Default, Deserialize)]
struct State {
    #[serde(rename = "Health", alias = "Healthcheck", default)]
    health: Option<Health>,
}

#[derive(Debug, Default, Deserialize)]
struct Health {
    #[serde(rename = "Status", default)]
    status: String,
    #[serde(rename = "Log", default)]
    log: Option<Vec<Entry>>,
}

#[derive(Debug, Default, Deserialize)]
struct Entry {
    #[serde(rename = "ExitCode", default)]
    exit: i64,
    #[serde(rename = "Output", default)]
    output: String,
}

/// Watches one container until it is decided.
pub(super) async fn container(
    systemd: &Arc<Systemd>,
    runner: &Runner,
    name: &str,
    unit: &UnitName,
    timing: Timing,
) -> Result<(), String> {
    // The unit's own check says more; here it only ends a wait for a container that will not come.
    let mut service = UnitCourse::new(Expected::NotFailed, timing.retries, false);
    let mut clocked = Clocked::new(timing);
    loop {
        let service = systemd.fares(unit).await.ok().map(|look| service.judge(&look));
        let answer = match service {
            Some(Answer::Never(why)) => Answer::Never(format!("{unit}: {why}")),
            _ => ask(runner, name, &clocked).await,
        };
        if let Some(decided) = clocked.take(Some(answer)) {
            return decided;
        }
        tokio::time::sleep_until(clocked.next()).await;
    }
}

async fn ask(runner: &Runner, name: &str, clocked: &Clocked) -> Answer {
    let inspect = ["podman", "container", "inspect", "--format", "{{json .State}}", name];
    match command::run(&Command::new("health", inspect).tied().timeout(clocked.left()), runner).await {
        Ok(output) if output.is_success() => judge(&output.stdout),
        Ok(_) => Answer::Bad("there is no such container (yet)".to_owned()),
        Err(error @ CommandError::Missing { .. }) => Answer::Never(error.to_string()),
        Err(error) => Answer::Bad(chain(&error)),
    }
}

fn judge(state: &[u8]) -> Answer {
    let health = match serde_json::from_slice::<State>(state) {
        Ok(state) => state.health.unwrap_or_default(),
        Err(error) => return Answer::Bad(format!("podman's answer could not be read: {error}")),
    };
    match health.status.as_str() {
        "healthy" => Answer::Good,
        "unhealthy" => {
            let last = health.log.unwrap_or_default().pop().unwrap_or_default();
            let said = command::last_lines(&last.output, 1);
            let said = if said.is_empty() { said } else { format!(": {said}") };
            Answer::Never(format!("podman calls it unhealthy; its check exited with status {}{said}", last.exit))
        }
        "starting" => Answer::Bad("podman calls it starting".to_owned()),
        "" => Answer::Never("neither its Quadlet file nor its image has a health check".to_owned()),
        other => Answer::Bad(format!("podman calls it {}", other.chars().take(40).collect::<String>())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn podmans_words_are_understood() {
        let good = r#"{"Status":"running","Health":{"Status":"healthy","FailingStreak":0,"Log":[{"ExitCode":0,"Output":""}]}}"#;
        assert_eq!(judge(good.as_bytes()), Answer::Good);
        let bad = r#"{"Health":{"Status":"unhealthy","Log":[{"ExitCode":0,"Output":"x"},{"ExitCode":1,"Output":"no\nfile\n"}]}}"#;
        let why = "podman calls it unhealthy; its check exited with status 1: file".to_owned();
        assert_eq!(judge(bad.as_bytes()), Answer::Never(why));
        assert!(matches!(judge(br#"{"Health":{"Status":"starting","Log":null}}"#), Answer::Bad(_)));
        for none in [&br#"{"Status":"running"}"#[..], br#"{"Health":{"Status":"","Log":null}}"#, br#"{"Health":null}"#] {
            assert!(matches!(judge(none), Answer::Never(_)));
        }
        assert!(matches!(judge(b"not json"), Answer::Bad(_)));
    }
}
