//! What a change must not do by mistake.

use crate::desired::{Desired, Role};
use crate::ledger::Ledger;
use crate::plan::tests::host::{Host, entry, path, service, unit};
use crate::plan::{Cause, Change, Plan, Verb};
use crate::transaction::*;

#[test]
fn a_limit_is_a_number_or_a_share() {
    for (text, limit) in
        [("0", Limit::Count(0)), ("20", Limit::Count(20)), ("0%", Limit::Percent(0)), ("100%", Limit::Percent(100))]
    {
        assert_eq!(text.parse(), Ok(limit));
        assert_eq!(limit.to_string(), text);
    }
    for text in ["", "%", "-1", "101%", "30 %", "1.5", "many", "4294967296", "256%"] {
        let refusal = text.parse::<Limit>().unwrap_err();
        assert!(refusal.contains(&format!("{text:?}")), "{refusal}");
    }
    assert_eq!(Limit::default(), Limit::Percent(30));
}

#[test]
fn too_many_is_more_than_the_limit_or_nearly_everything() {
    let share = Limit::Percent(30);
    for (removals, managed, limit, refused) in [
        (5, 100, Limit::Count(5), false),
        (6, 100, Limit::Count(5), true),
        (1, 3, Limit::Count(0), true),
        (0, 3, Limit::Count(0), false),
        // A share refuses ten or fewer never.
        (10, 11, share, false),
        (11, 36, share, true),
        (11, 37, share, false),
        (30, 100, share, false),
        (31, 100, share, true),
        // Nine in ten of twenty or more, whatever the limit says.
        (18, 20, Limit::Count(1000), false),
        (19, 20, Limit::Count(1000), true),
        (19, 19, Limit::Count(1000), false),
        (91, 100, Limit::Percent(100), true),
        (90, 100, Limit::Percent(100), false),
    ] {
        assert_eq!(too_many(removals, managed, limit), refused, "{removals} of {managed}, {limit}");
    }
}

#[test]
fn what_is_managed_and_no_longer_wanted_is_removed() {
    let mut desired = Desired::default();
    desired.entries.insert(path("/etc/systemd/system/a.service"), entry("unit", Role::Unit(unit("a.service"))));
    desired.entries.insert(path("/etc/kept"), entry("kept", Role::Plain));
    desired.units.insert(unit("a.service"), service("/etc/systemd/system/a.service", &[]));
    let mut host = Host::default();
    host.converge(&desired);
    assert!(removals(&desired, &host.ledger).is_empty());
    desired.entries.remove("/etc/systemd/system/a.service");
    desired.units.clear();
    desired.entries.insert(path("/etc/new"), entry("new", Role::Plain));
    assert_eq!(removals(&desired, &host.ledger), ["file /etc/systemd/system/a.service", "unit a.service"]);
    assert!(removals(&desired, &Ledger::default()).is_empty());
}

#[test]
fn what_could_cut_the_host_off() {
    let cuts = [
        "file /etc/ssh/sshd_config",
        "file /etc/ssh",
        "file /etc/hosts",
        "file /etc/resolv.conf",
        "file /etc/NetworkManager/system-connections/wan.nmconnection",
        "file /etc/netplan/01-wan.yaml",
        "file /etc/network/interfaces",
        "file /etc/systemd/network/10-wan.network",
        "file /etc/systemd/networkd.conf.d/x.conf",
        "file /etc/systemd/resolved.conf",
        "file /etc/systemd/system/ssh.service.d/x.conf",
        "file /etc/systemd/system/systemd-networkd.service",
        "file /etc/systemd/system/trimtab.service.d/x.conf",
        "file /etc/sysctl.conf",
        "file /etc/sysctl.d/90-forward.conf",
        "file /etc/sysconfig/network-scripts/ifcfg-eth0",
        "file /etc/sysconfig/ip6tables",
        "file /etc/environment",
        "file /etc/apt/apt.conf.d/95proxies-Proxy",
        "file /etc/ssl/certs/ca.pem",
        "file /usr/local/share/ca-certificates/company.crt",
        "file /etc/nftables.conf",
        "file /etc/ipset.conf",
        "file /etc/dnsmasq.d/lan.conf",
        "unit ssh.service",
        "unit sshd@.service",
        "unit sshguard.service",
        "unit systemd-networkd.socket",
        "unit systemd-resolved.service",
        "unit networkd-dispatcher.service",
        "unit NetworkManager.service",
        "unit netfilter-persistent.service",
        "unit ip6tables.service",
        "unit wg-quick@wg0.service",
        "unit trimtab-courier.socket",
    ];
    let harmless = [
        "file /etc/network-backup/interfaces",
        "file /etc/sshfoo",
        "file /etc/hosts.allow",
        "file /etc/resolv.conf.bak",
        "file /etc/motd",
        "file /opt/etc/ssh/sshd_config",
        "file /etc/systemd/system/app.service",
        "file /etc/systemd/system/app.service.d/ssh.conf",
        "file /etc/systemd/networks.txt",
        "file /etc/netplanned",
        "file /etc/pki-notes",
        "unit app.service",
        "unit my-ssh.service",
        "unit systemd-journald.service",
        "unit podman.socket",
        "image ssh.example/network:1",
        "sysctl",
    ];
    let change = |resource: &&str| Change {
        resource: (*resource).to_owned(),
        verb: Verb::Update,
        cause: Cause::Update,
        differs: Vec::new(),
        replaces: false,
        left_alone: None,
        origin: crate::plan::tests::host::origin("c"),
    };
    let told = |resources: &[&str]| network_shaped(&Plan { changes: resources.iter().map(change).collect(), ..Plan::default() });
    assert_eq!(told(&cuts), cuts);
    assert_eq!(told(&harmless), Vec::<String>::new());
}
