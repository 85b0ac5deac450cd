//! Podman networks that are made by Quadlet: a changed definition needs the network made anew.

use trimtab_model::desired::{Desired, Node};
use trimtab_model::names::UnitName;

use super::Contents;
use crate::host::command::{self, Command, CommandError, Output, Runner};

/// The name of the network that a unit makes; `None` when it makes none.
pub(super) fn of(wanted: &Desired, unit: &UnitName, contents: &Contents<'_>) -> Option<String> {
    let definition = &wanted.units.get(unit)?.definition;
    let file = definition.iter().find(|path| path.as_str().ends_with(".network"))?;
    let mut name = format!("systemd-{}", file.file_name().trim_end_matches(".network"));
    // The file first, then its drop-ins in their order: the last word wins.
    for path in std::iter::once(file).chain(definition.iter().filter(|path| *path != file)) {
        let Some(Node::File { digest, .. }) = wanted.entries.get(path).map(|entry| &entry.state.node) else { continue };
        let text = contents(*digest).ok().and_then(|bytes| String::from_utf8(bytes).ok())?;
        if let Some(own) = network_name(&text) {
            name = own;
        }
    }
    Some(name)
}

fn network_name(text: &str) -> Option<String> {
    let mut section = "";
    let mut name = None;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if section == "[Network]"
            && let Some((key, value)) = line.split_once('=')
            && key.trim() == "NetworkName"
        {
            name = Some(value.trim().to_owned()).filter(|name| !name.is_empty());
        }
    }
    name
}

/// Removes a network that nothing uses any more; one that is not there is fine.
pub(super) async fn remove(name: &str, runner: &Runner) -> Result<(), CommandError> {
    let podman = |verb: &str| Command::new("network", ["podman", "network", verb, "--", name]);
    if !command::run(&podman("exists"), runner).await?.is_success() {
        return Ok(());
    }
    command::run(&podman("rm"), runner).await.and_then(Output::successful).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_name_in_its_own_section_counts() {
        assert_eq!(network_name("[Unit]\nNetworkName=x\n[Network]\nSubnet=10.0.0.0/24\n"), None);
        assert_eq!(network_name("[Network]\nNetworkName=a\n NetworkName = b \n").as_deref(), Some("b"));
    }
}
