//! Signed reports leave a real machine through its real courier, whatever happens to the receiver, the agent and the machine.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use trimtab_model::outbound::Report;
use trimtab_tests::lab::trimtab::{carry, enrol, start_agent};
use trimtab_tests::lab::{self, Machine, Person, eventually};

use crate::fleet;

pub(crate) const SINK: &str = "\\n[reports]\\nheartbeat = \"10s\"\\n\\n[[sink]]\\nname = \"ops\"\\ntype = \"webhook\"\\nurl = \"http://127.0.0.1:9099/hook\"\\n\
                    allow-http = true\\nhmac-file = \"/etc/trimtab-courier.hmac\"\\n";

/// A receiver as a service of the machine's own, which takes what is POSTed to port 9099.
pub(crate) fn receiver(m: &Machine) {
    let program = carry(m, Path::new(env!("CARGO_BIN_EXE_receiver")));
    m.sh(&format!("mkdir -p /srv/taken && install -m 0755 {program} /usr/local/bin/receiver"));
    m.write(
        "/etc/systemd/system/receiver.service",
        "[Service]\nExecStart=/usr/local/bin/receiver 9099 /srv/taken\n[Install]\nWantedBy=multi-user.target\n",
    );
    m.sh("systemctl daemon-reload && systemctl enable -q --now receiver && echo geheim > /etc/trimtab-courier.hmac");
    m.sh("chown trimtab-courier /etc/trimtab-courier.hmac && chmod 0400 /etc/trimtab-courier.hmac");
}

/// The reports that the receiver has, each once, checked by the machine's own minisign; and how many events came beside them.
fn taken(m: &Machine) -> (BTreeMap<u64, Report>, BTreeMap<String, serde_json::Value>) {
    let all = m.sh("cat /srv/taken/*.json | jq -cs add");
    let list: Vec<serde_json::Value> = serde_json::from_str(&all).unwrap_or_default();
    let (mut reports, mut events) = (BTreeMap::new(), BTreeMap::new());
    m.sh("rm -rf /tmp/check && mkdir /tmp/check");
    for one in list {
        let id = one["id"].as_str().unwrap().to_owned();
        let Some((_, sequence)) = id.split_once("/report/") else {
            assert!(events.insert(id.clone(), one.clone()).is_none_or(|before| before == one), "{id} came as two different events");
            continue;
        };
        let bytes = base64::engine::general_purpose::STANDARD.decode(one["data"]["report"].as_str().unwrap()).unwrap();
        m.write(&format!("/tmp/check/{sequence}"), &bytes);
        m.write(&format!("/tmp/check/{sequence}.minisig"), one["data"]["signature"].as_str().unwrap());
        reports.insert(sequence.parse().unwrap(), serde_json::from_slice(&bytes).unwrap());
    }
    m.sh(
        "cd /tmp/check && for one in $(ls | grep -v minisig); do minisign -V -q -p /etc/trimtab/device.pub -m $one || exit 1; done",
    );
    (reports, events)
}

fn has(m: &Machine, kind: &str, resource: &str) -> bool {
    let said = m.try_sh("cat /srv/taken/*.json | jq -r '.[] | .type + \" \" + (.subject // \"\")'").out;
    said.lines().any(|line| {
        line == format!("dev.trimtab.{kind}.v1 {resource}").trim_end() || line == format!("dev.trimtab.{kind}.v1 {resource}")
    })
}

#[test]
fn what_happens_arrives_once_and_signed_through_an_outage_a_kill_and_a_reboot() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["one"]);
    fleet::service(&ana, "one", "1");
    ana.push("One service");
    receiver(&m);
    enrol(&m, &ana, "");
    m.sh(&format!("printf '{SINK}' >> /etc/trimtab/agent.toml"));
    assert_eq!(m.sh("stat -c '%a %U' /etc/trimtab/device.key /etc/trimtab/device.pub"), "600 root\n644 root");
    start_agent(&m);
    eventually("the first state is told", 20, || has(&m, "converged", ""));
    m.sh("echo SETTING=mine > /etc/one.conf");
    eventually("a repaired drift is told", 20, || has(&m, "drift-repaired", "file /etc/one.conf"));
    // An outage: what happens meanwhile is spooled.
    m.sh("systemctl stop receiver");
    ana.write("components/one/systemd/one.service", "[Service]\nExecStart=/bin/false\n[Install]\nWantedBy=multi-user.target\n");
    ana.push("It does not start");
    eventually("it is undone", 30, || m.try_sh("trimtab status --json | jq -e '.lastPass.outcome == \"rolled-back\"'").code == 0);
    eventually("it waits", 10, || m.sh("trimtab reports list --json | jq '.reports | length'") != "0");
    m.sh("kill -9 $(systemctl show -p MainPID --value trimtab)");
    m.power_cut();
    m.start();
    eventually("the agent is back", 30, || m.try_sh("systemctl is-active trimtab receiver").out == "active\nactive");
    eventually("it was told, and all of it was delivered", 40, || {
        has(&m, "rolled-back", "") && m.try_sh("trimtab reports flush").code == 0
    });
    let (reports, events) = taken(&m);
    let sequences: Vec<u64> = reports.keys().copied().collect();
    assert!(sequences.windows(2).all(|two| two[0] + 1 == two[1]), "no report is missing: {sequences:?}");
    let ids: Vec<u64> = reports.values().flat_map(|report| report.events.iter().map(|event| event.id)).collect();
    let mut once = ids.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), events.len(), "the events of the reports are those that came alone: {ids:?}");
    // The courier sent it, not the agent, and nobody else may read the key.
    assert_eq!(m.sh("systemctl show -p RestrictAddressFamilies --value trimtab"), "AF_UNIX");
    assert_ne!(m.try_sh("setpriv --reuid=trimtab-courier --clear-groups cat /etc/trimtab/device.key").code, 0);
    // A refusal shows where a person looks.
    m.sh("echo 403 > /srv/taken/answer; echo SETTING=again > /etc/one.conf");
    let told = || m.sh("trimtab sync >/dev/null; trimtab status --json | jq -r '.queue.sinks[0] | .error'");
    eventually("the status says why nothing is taken", 20, || told().contains("may not write there"));
    m.sh("rm /srv/taken/answer");
    assert_eq!(m.try_sh("trimtab reports flush").code, 0);
}
