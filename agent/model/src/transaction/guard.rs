//! What a change must not do by mistake: take away too much, or cut the host off unseen.

use serde::{Deserialize, Serialize};

use crate::desired::Desired;
use crate::ledger::Ledger;
use crate::plan::Plan;

/// How many managed things one change may take away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// So many.
    Count(u32),
    /// So many in a hundred of what is managed, and [`ALWAYS`] at least.
    Percent(u8),
}

/// A limit in percent never refuses this many or fewer: half of four files is not yet an accident.
pub const ALWAYS: usize = 10;

impl Default for Limit {
    fn default() -> Self {
        Limit::Percent(30)
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Limit::Count(count) => write!(f, "{count}"),
            Limit::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl std::str::FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is neither a number such as 20 nor a share such as \"30%\"");
        match text.strip_suffix('%') {
            Some(share) => share.parse().ok().filter(|share| *share <= 100).map(Limit::Percent).ok_or_else(wrong),
            None => text.parse().map(Limit::Count).map_err(|_| wrong()),
        }
    }
}

/// What is managed and no longer wanted: `file /etc/…`, `unit …`.
pub fn removals(desired: &Desired, ledger: &Ledger) -> Vec<String> {
    let files = ledger.entries.keys().filter(|path| !desired.entries.contains_key(*path)).map(|path| format!("file {path}"));
    let units = ledger.units.keys().filter(|unit| !desired.units.contains_key(*unit)).map(|unit| format!("unit {unit}"));
    files.chain(units).collect()
}

/// Whether so many removals are too many for the limit; `managed` is how much there is now. Nearly everything at once (nine in ten of
/// twenty or more) is too much whatever the limit says.
pub fn too_many(removals: usize, managed: usize, limit: Limit) -> bool {
    if managed >= 20 && removals * 10 > managed * 9 {
        return true;
    }
    match limit {
        Limit::Count(count) => removals > count as usize,
        Limit::Percent(percent) => removals > ALWAYS && removals * 100 > managed * usize::from(percent),
    }
}

/// Files whose change can cut a host off: beneath these.
const FOLDERS: [&str; 33] = [
    "/etc/NetworkManager",
    "/etc/apparmor.d",
    "/etc/ca-certificates",
    "/etc/ca-certificates.conf",
    "/etc/dhcp",
    "/etc/dhcpcd.conf",
    "/etc/dnsmasq.conf",
    "/etc/dnsmasq.d",
    "/etc/ferm",
    "/etc/firewalld",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/iproute2",
    "/etc/iptables",
    "/etc/iwd",
    "/etc/modprobe.d",
    "/etc/netplan",
    "/etc/network",
    "/etc/nftables.conf",
    "/etc/nftables.d",
    "/etc/nsswitch.conf",
    "/etc/openvpn",
    "/etc/pki",
    "/etc/ppp",
    "/etc/resolv.conf",
    "/etc/shorewall",
    "/etc/ssh",
    "/etc/ssl",
    "/etc/ufw",
    "/etc/wireguard",
    "/etc/wpa_supplicant",
    "/usr/local/share/ca-certificates",
];
/// The same for names within /etc/systemd, /etc/sysctl.d and environment files.
const PARTS: [&str; 12] = [
    "/etc/systemd/network/",
    "/etc/systemd/networkd.conf",
    "/etc/systemd/resolved.conf",
    "/etc/sysctl.",
    "/etc/environment",
    "/etc/systemd/system/trimtab",
    "/etc/strongswan",
    "/etc/swanctl",
    "/etc/ipsec",
    "/etc/sysconfig/network",
    "/etc/sysconfig/ip",
    "/etc/ipset",
];
/// Units whose change can cut a host off, by the begin of their names.
const UNITS: [&str; 29] = [
    "ModemManager",
    "NetworkManager",
    "connman",
    "dhcp",
    "dnsmasq",
    "ferm",
    "firewall",
    "ifup",
    "ip6tables",
    "ipset",
    "iptables",
    "iwd",
    "netfilter",
    "netplan",
    "network",
    "nftables",
    "openvpn",
    "ppp",
    "shorewall",
    "ssh",
    "strongswan",
    "systemd-networkd",
    "systemd-resolved",
    "tailscale",
    "trimtab",
    "ufw",
    "unbound",
    "wg-quick",
    "wpa_supplicant",
];

/// The changes of a plan that could cut the host off: network, name service, firewall, ssh, routes, trust store, proxy.
pub fn network_shaped(plan: &Plan) -> Vec<String> {
    plan.changes.iter().map(|change| &change.resource).filter(|resource| is_network_shaped(resource)).cloned().collect()
}

fn is_network_shaped(resource: &str) -> bool {
    if let Some(path) = resource.strip_prefix("file ") {
        let beneath = |folder: &str| path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        // Drop-ins and unit files of such units as well.
        let unit = path.strip_prefix("/etc/systemd/system/").is_some_and(is_network_unit);
        let proxy = path.to_ascii_lowercase().contains("proxy");
        return unit || proxy || FOLDERS.iter().any(|folder| beneath(folder)) || PARTS.iter().any(|part| path.starts_with(part));
    }
    resource.strip_prefix("unit ").is_some_and(is_network_unit)
}

fn is_network_unit(name: &str) -> bool {
    UNITS.iter().any(|begin| name.starts_with(begin))
}
