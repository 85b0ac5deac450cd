//! Tests of the guards: too many removals, and what could cut a host off.

use super::*;
use crate::plan::{Cause, Change, Plan, Verb};

#[test]
fn a_limit_is_a_number_or_a_share() {
    for (text, want) in [("0", Limit::Count(0)), ("20", Limit::Count(20)), ("0%", Limit::Percent(0)), ("100%", Limit::Percent(100))]
    {
        assert_eq!(text.parse(), Ok(want), "{text}");
        assert_eq!(want.to_string(), text);
    }
    for text in ["", "%", "101%", "-1", "1.5%", "many", "30 %", "4294967296"] {
        let error = text.parse::<Limit>().unwrap_err();
        assert!(error.contains("neither a number such as 20 nor a share such as"), "{text}: {error}");
    }
}

#[test]
fn half_of_a_host_is_too_much_and_half_of_a_little_is_not() {
    let thirty = Limit::default();
    for (removals, managed, limit, want) in [
        (0, 0, Limit::Count(0), false),
        (1, 100, Limit::Count(0), true),
        (20, 100, Limit::Count(20), false),
        (21, 100, Limit::Count(20), true),
        (10, 12, thirty, false),
        (11, 12, thirty, true),
        (30, 100, thirty, false),
        (31, 100, thirty, true),
        (20, 40, thirty, true),
        // Nearly everything at once, whatever the limit says; but a host of a few files may be emptied where that is allowed.
        (18, 20, Limit::Percent(100), false),
        (19, 20, Limit::Percent(100), true),
        (95, 100, Limit::Count(1000), true),
        (19, 19, Limit::Percent(100), false),
    ] {
        assert_eq!(too_many(removals, managed, limit), want, "{removals} of {managed} with {limit}");
    }
}

#[test]
fn what_could_cut_a_host_off_is_known_by_its_place() {
    let is_shaped = |resource: &str| {
        let change = Change {
            resource: resource.to_owned(),
            verb: Verb::Update,
            cause: Cause::Update,
            differs: Vec::new(),
            origin: crate::plan::tests::host::origin("c"),
            replaces: false,
        };
        !network_shaped(&Plan { changes: vec![change], ..Plan::default() }).is_empty()
    };
    for yes in [
        "file /etc/systemd/network/10-eth0.network",
        "file /etc/NetworkManager/system-connections/lte.nmconnection",
        "file /etc/netplan/50-cloud-init.yaml",
        "file /etc/network/interfaces",
        "file /etc/resolv.conf",
        "file /etc/hosts",
        "file /etc/nftables.conf",
        "file /etc/ssh/sshd_config.d/10-fleet.conf",
        "file /etc/ssl/certs/x.pem",
        "file /usr/local/share/ca-certificates/fleet.crt",
        "file /etc/sysctl.d/60-forward.conf",
        "file /etc/profile.d/Proxy.sh",
        "file /etc/environment",
        "file /etc/systemd/system/systemd-networkd.service.d/x.conf",
        "file /etc/systemd/system/trimtab-courier@.service.d/proxy.conf",
        "unit NetworkManager.service",
        "unit ssh.socket",
        "unit wg-quick@wg0.service",
        "unit nftables.service",
    ] {
        assert!(is_shaped(yes), "{yes}");
    }
    for no in [
        "file /etc/motd",
        "file /etc/networks.d/x",
        "file /etc/hosts.allowed",
        "file /etc/sshfoo/x",
        "file /etc/chrony/chrony.conf",
        "file /srv/etc/ssh/sshd_config",
        "file /etc/systemd/system/app.service",
        "unit app.service",
        "image docker.io/library/nginx",
    ] {
        assert!(!is_shaped(no), "{no}");
    }
}
