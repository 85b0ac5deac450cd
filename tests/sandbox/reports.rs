//! Reports through everything that goes wrong between a pass and its receiver, with the real agent and its courier.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use trimtab_model::outbound::{Occasion, Report};
use trimtab_tests::receiver::{Manner, Receiver};
use trimtab_tests::server::Tls;

use crate::{Sandbox, until};

fn sink(receiver: &Receiver) -> String {
    format!("[[sink]]\nname = \"ops\"\ntype = \"webhook\"\nurl = \"{}/hook\"\nallow-http = true\n", receiver.url())
}

/// What a receiver has that takes each CloudEvent once by its id: events by id, reports by sequence. The same id must always be the same event.
struct Kept {
    events: BTreeMap<u64, serde_json::Value>,
    reports: BTreeMap<u64, Report>,
    /// How often something came that was there already.
    again: usize,
}

fn kept(sandbox: &Sandbox, receiver: &Receiver) -> Kept {
    let (mut by_id, mut again) = (BTreeMap::new(), 0);
    for taken in receiver.taken() {
        for one in serde_json::from_slice::<Vec<serde_json::Value>>(&taken.body).unwrap() {
            let id = one["id"].as_str().unwrap().to_owned();
            if let Some(before) = by_id.insert(id.clone(), one.clone()) {
                assert_eq!(before, one, "{id} came twice and was not the same");
                again += 1;
            }
        }
    }
    let mut kept = Kept { events: BTreeMap::new(), reports: BTreeMap::new(), again };
    let folder = tempfile::tempdir().unwrap();
    for (id, one) in by_id {
        let Some((_, sequence)) = id.split_once("/report/") else {
            kept.events.insert(one["data"]["id"].as_u64().unwrap(), one);
            continue;
        };
        let bytes = base64::engine::general_purpose::STANDARD.decode(one["data"]["report"].as_str().unwrap()).unwrap();
        fs::write(folder.path().join("report"), &bytes).unwrap();
        fs::write(folder.path().join("report.minisig"), one["data"]["signature"].as_str().unwrap()).unwrap();
        let public = sandbox.root().join("etc/trimtab/device.pub");
        let mut minisign = Command::new("minisign");
        minisign.args(["-V", "-q", "-m", "report", "-p"]).arg(public).current_dir(&folder);
        assert!(minisign.status().unwrap().success(), "minisign does not take {id}");
        kept.reports.insert(sequence.parse().unwrap(), serde_json::from_slice(&bytes).unwrap());
    }
    kept
}

#[test]
fn through_outages_kills_and_moods_every_report_arrives_and_each_counts_once() {
    let receiver = Receiver::start(Tls::Off);
    receiver.set(Manner::Moody);
    let sandbox = Sandbox::new(&format!("[agent]\ninterval = \"1s\"\nretry-interval = \"1s\"\n{}", sink(&receiver)));
    let mut agent = sandbox.agent();
    until("the first state", || sandbox.root().join("etc/one.conf").exists());
    let mut drifts = 0;
    for round in 0..6 {
        match round {
            1 => receiver.set(Manner::Slams),
            3 => receiver.set(Manner::TakesAndHangsUp),
            4 => receiver.set(Manner::Moody),
            _ => {}
        }
        let before = sandbox.newest();
        fs::write(sandbox.root().join("etc/one.conf"), format!("mine {round}\n")).unwrap();
        until("it is repaired, whatever the receiver does", || {
            fs::read_to_string(sandbox.root().join("etc/one.conf")).is_ok_and(|text| text == "one\n")
        });
        drifts += 1;
        if round == 3 {
            // So that the receiver surely has some of it that the agent does not know of.
            let (code, told, error) = sandbox.said(&["reports", "flush", "--timeout", "2s"]);
            assert!(code == 75 && told.contains("ops"), "{code} {told}{error}");
        }
        // Killed before its report can be on the disk (the book of drift has it), or as soon as it is, in the middle of sending.
        if round % 2 == 1 {
            if round == 1 {
                until("it is spooled", || sandbox.newest() > before);
            }
            drop(agent);
            agent = sandbox.agent();
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    receiver.set(Manner::Fine);
    let before = receiver.requests();
    let (code, told, error) = sandbox.said(&["reports", "flush"]);
    assert_eq!(code, 0, "{told}{error}");
    until("everything is delivered", || sandbox.waiting() == 0 && receiver.requests() > before);
    drop(agent);
    let kept = kept(&sandbox, &receiver);
    let sequences: Vec<u64> = kept.reports.keys().copied().collect();
    assert!(sequences.windows(2).all(|two| two[0] + 1 == two[1]), "no report is missing: {sequences:?}");
    let told: BTreeSet<u64> = kept.reports.values().flat_map(|report| report.events.iter().map(|event| event.id)).collect();
    assert_eq!(told, kept.events.keys().copied().collect::<BTreeSet<u64>>(), "the events of the reports are those that came alone");
    let first = *told.first().unwrap();
    assert!(told.iter().zip(first..).all(|(id, count)| *id == count), "no event is missing: {told:?}");
    for kind in ["dev.trimtab.drift-found.v1", "dev.trimtab.drift-repaired.v1"] {
        assert_eq!(kept.events.values().filter(|one| one["type"] == kind).count(), drifts, "each drift once as {kind}");
    }
    println!("{} reports, {} events, {} times something that was there", kept.reports.len(), kept.events.len(), kept.again);
    assert!(kept.again > 0, "the receiver hung up after taking, so something came twice");
}

#[test]
fn a_dead_receiver_costs_spool_within_its_bounds_and_the_passes_nothing() {
    let receiver = Receiver::start(Tls::Off);
    receiver.set(Manner::Silent);
    let settings =
        "[agent]\ninterval = \"1s\"\nretry-interval = \"1s\"\nretry-max = \"1s\"\n[reports]\nmax-count = 5\nheartbeat = \"5s\"\n";
    let sandbox = Sandbox::new(&format!("{settings}{}", sink(&receiver)));
    let agent = sandbox.agent();
    until("the first state", || sandbox.status().is_some_and(|status| status.ready));
    for round in 0..12 {
        fs::write(sandbox.root().join("etc/one.conf"), format!("mine {round}\n")).unwrap();
        let begun = Instant::now();
        until("it is repaired", || fs::read_to_string(sandbox.root().join("etc/one.conf")).is_ok_and(|text| text == "one\n"));
        assert!(begun.elapsed() < Duration::from_secs(3), "a silent receiver delayed a repair: {:?}", begun.elapsed());
        // Five, the newest, and one that was merged before the two go of which it is made: nothing is lost at any moment.
        let waiting = sandbox.waiting();
        assert!(waiting <= 7, "{waiting} wait");
        until("it is within its bounds", || sandbox.waiting() <= 5);
    }
    // It speaks again; what was merged meanwhile is counted.
    receiver.set(Manner::Fine);
    drop(agent);
    let (code, told, error) = sandbox.said(&["reports", "flush"]);
    assert_eq!((code, sandbox.waiting()), (0, 0), "{told}{error}");
    let kept = kept(&sandbox, &receiver);
    let counted: u64 = kept.reports.values().flat_map(|report| &report.events).map(|event| u64::from(event.count)).sum();
    assert!(counted >= 12, "{counted}");
    assert!(kept.reports.values().any(|report| report.since_sequence < report.sequence && report.merged > 0));
}

#[test]
fn nothing_happening_is_told_by_heartbeats_and_without_a_sink_nothing_is_written() {
    let receiver = Receiver::start(Tls::Off);
    let sandbox = Sandbox::new("[agent]\ninterval = \"1s\"\n");
    let agent = sandbox.agent();
    until("the first state", || sandbox.status().is_some_and(|status| status.ready));
    assert!(!sandbox.root().join("var/lib/trimtab/spool").exists() && sandbox.root().join("etc/trimtab/device.pub").exists());
    drop(agent);
    let toml = sandbox.root().join("etc/trimtab/agent.toml");
    let text = fs::read_to_string(&toml).unwrap().replace("\"1s\"", "\"1h\"");
    fs::write(&toml, format!("{text}[reports]\nheartbeat = \"5s\"\n{}", sink(&receiver))).unwrap();
    let _agent = sandbox.agent();
    until("a heartbeat, though no pass is due for an hour", || {
        let reports = kept(&sandbox, &receiver).reports;
        reports.values().filter(|report| report.occasion == Occasion::Heartbeat).count() >= 1
    });
    // The receiver has it before the host knows that.
    until("nothing waits", || {
        let (code, list, error) = sandbox.said(&["reports", "list", "--json"]);
        let list: serde_json::Value = serde_json::from_str(&list).unwrap_or_else(|_| panic!("{code} {error}"));
        assert_eq!(list["queue"]["sinks"][0]["name"], "ops", "{list}");
        list["reports"].as_array().is_some_and(Vec::is_empty)
    });
}
