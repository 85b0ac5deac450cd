//! What of reports and events must come through a full disk, a thousand drifts at once, a lost memory and a receiver that will not have one of
//! them; with the real agent and its courier. What must mount needs root.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::Path;

use base64::Engine as _;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use trimtab_model::outbound::Report;
use trimtab_model::report::Outcome;
use trimtab_model::status::{ConditionKind, Truth};
use trimtab_tests::receiver::{Manner, Receiver};
use trimtab_tests::server::Tls;

use crate::{Sandbox, until};

fn sink(receiver: &Receiver) -> String {
    format!("[[sink]]\nname = \"ops\"\ntype = \"webhook\"\nurl = \"{}/hook\"\nallow-http = true\n", receiver.url())
}

/// The reports that it took, by sequence.
fn reports(receiver: &Receiver) -> BTreeMap<u64, Report> {
    let mut reports = BTreeMap::new();
    for taken in receiver.taken() {
        for one in serde_json::from_slice::<Vec<serde_json::Value>>(&taken.body).unwrap() {
            if one["type"] == "dev.trimtab.report.v1" {
                let bytes = base64::engine::general_purpose::STANDARD.decode(one["data"]["report"].as_str().unwrap()).unwrap();
                let report: Report = serde_json::from_slice(&bytes).unwrap();
                reports.insert(report.sequence, report);
            }
        }
    }
    reports
}

/// How many events of a kind the reports tell of, however many of them were made one.
fn counted(reports: &BTreeMap<u64, Report>, kind: &str) -> u64 {
    let events = reports.values().flat_map(|report| &report.events).filter(|event| event.kind.word() == kind);
    events.map(|event| u64::from(event.count)).sum()
}

/// A small file system below the sandbox's /var, that this thread and what it starts see.
struct Small(std::path::PathBuf);

impl Small {
    fn new(sandbox: &Sandbox) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: mounting needs root");
            return None;
        }
        let place = sandbox.root().join("var");
        fs::create_dir_all(&place).unwrap();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("small"), &place, Some("tmpfs"), MsFlags::empty(), Some("mode=755,size=40m")).unwrap();
        Some(Self(place))
    }

    /// Somebody else's data take all but so many bytes.
    fn leave(&self, bytes: usize) {
        let path = self.0.join("somebody");
        let _ = fs::remove_file(&path);
        let mut file = fs::File::create(&path).unwrap();
        let block = [0; 4096];
        let mut written = 0_u64;
        while file.write_all(&block).is_ok() {
            written += block.len() as u64;
        }
        file.set_len(written.saturating_sub(bytes as u64)).unwrap();
    }

    fn free(&self) {
        fs::remove_file(self.0.join("somebody")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Of the spool's files that hold a report: how many bytes.
fn spooled(sandbox: &Sandbox) -> u64 {
    let folder = fs::read_dir(sandbox.root().join("var/lib/trimtab/spool"));
    let reports =
        folder.into_iter().flatten().flatten().filter(|entry| entry.path().extension().is_some_and(|end| end == "report"));
    reports.filter_map(|entry| entry.metadata().ok()).map(|data| data.len()).sum()
}

/// A component of many files beside the two others.
fn with_many(sandbox: &Sandbox, count: usize) {
    for number in 0..count {
        sandbox.repo.write(&format!("components/two/files/etc/many/{number:04}.conf"), "many\n");
    }
    sandbox.push();
}

fn spoil_many(sandbox: &Sandbox, count: usize) {
    for number in 0..count {
        fs::write(sandbox.root().join(format!("etc/many/{number:04}.conf")), "mine\n").unwrap();
    }
}

#[test]
fn a_disk_with_little_left_is_told_of_and_what_was_delivered_leaves_it() {
    let receiver = Receiver::start(Tls::Off);
    receiver.set(Manner::Answer(503, Vec::new(), String::new()));
    let sandbox = Sandbox::new(&sink(&receiver));
    let Some(small) = Small::new(&sandbox) else { return };
    with_many(&sandbox, 600);
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    spoil_many(&sandbox, 600);
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    small.leave(2 << 20);
    // What the reviewer of this saw: it was sent, could not be written down, stayed, and was sent again by the next process.
    receiver.set(Manner::Fine);
    assert!(spooled(&sandbox) > 300_000, "{}", spooled(&sandbox));
    let (code, told, error) = sandbox.said(&["reports", "flush"]);
    assert_eq!((code, spooled(&sandbox)), (0, 0), "{told}{error}");
    let requests = receiver.requests();
    assert_eq!(sandbox.said(&["reports", "flush"]).0, 0);
    assert_eq!(receiver.requests(), requests, "nothing is sent twice");
    // A pass on that disk has a report like any other.
    sandbox.revise("one more\n");
    sandbox.once();
    let before = *reports(&receiver).last_key_value().unwrap().0;
    assert_eq!(sandbox.said(&["reports", "flush"]).0, 0);
    let reports = reports(&receiver);
    let (sequence, last) = reports.last_key_value().unwrap();
    assert_eq!(*sequence, before + 1, "the next one, with no gap");
    assert!(last.status.reason.contains("space"), "it tells of the disk: {}", last.status.reason);
}

#[test]
fn from_a_disk_with_nothing_left_reports_arrive_one_after_the_other() {
    let receiver = Receiver::start(Tls::Off);
    let settings = "[agent]\ninterval = \"1s\"\nretry-interval = \"1s\"\nretry-max = \"1s\"\n";
    let sandbox = Sandbox::new(&format!("{settings}{}", sink(&receiver)));
    let Some(small) = Small::new(&sandbox) else { return };
    let agent = sandbox.agent();
    until("the first state is told", || !reports(&receiver).is_empty() && sandbox.waiting() == 0);
    small.leave(0);
    sandbox.revise("one more\n");
    until("the fleet hears of the full disk", || {
        reports(&receiver).values().any(|report| !report.status.ready && report.status.reason.contains("space"))
    });
    for round in 0..2 {
        // The device is not dead, and what is sent is gone from the disk.
        let known = reports(&receiver).len();
        fs::write(sandbox.root().join("etc/one.conf"), format!("mine and full {round}\n")).unwrap();
        until("it goes on to be heard", || reports(&receiver).len() > known && sandbox.waiting() == 0);
        // Whoever writes there takes what others gave up.
        if round == 0 {
            small.leave(0);
        }
    }
    // A receiver that is down meanwhile: it is said in the one place that is left, and what waits does not grow.
    receiver.set(Manner::Answer(503, Vec::new(), String::new()));
    fs::write(sandbox.root().join("etc/one.conf"), "mine and unheard\n").unwrap();
    until("something waits", || sandbox.waiting() > 0);
    small.leave(0);
    for round in 0..3 {
        fs::write(sandbox.root().join("etc/one.conf"), format!("mine {round}\n")).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1200));
    }
    assert!(spooled(&sandbox) < 1 << 20, "{}", spooled(&sandbox));
    receiver.set(Manner::Fine);
    let _ = sandbox.said(&["reports", "flush"]);
    until("what waited is delivered, and leaves the full disk", || spooled(&sandbox) == 0);
    small.free();
    until("all is well and told", || sandbox.status().is_some_and(|status| status.ready));
    let (code, told, error) = sandbox.said(&["reports", "flush"]);
    assert_eq!((code, sandbox.waiting()), (0, 0), "{told}{error}");
    drop(agent);
    let reports = reports(&receiver);
    let mut next = None;
    for report in reports.values() {
        assert_eq!(*next.get_or_insert(report.since_sequence), report.since_sequence, "no report is missing");
        next = Some(report.sequence + 1);
    }
    let status = sandbox.status().unwrap();
    let silenced = status.condition(ConditionKind::Silenced).unwrap();
    assert_eq!((silenced.status, status.queue.trouble.as_str()), (Truth::False, ""), "{}", silenced.message);
}

#[test]
fn where_no_report_can_be_written_the_status_says_so() {
    let receiver = Receiver::start(Tls::Off);
    let sandbox = Sandbox::new(&sink(&receiver));
    sandbox.once();
    assert_eq!(sandbox.said(&["reports", "flush"]).0, 0);
    let spool = sandbox.root().join("var/lib/trimtab/spool");
    fs::rename(&spool, spool.with_extension("away")).unwrap();
    fs::write(&spool, "in the way").unwrap();
    fs::write(sandbox.root().join("etc/one.conf"), "mine\n").unwrap();
    sandbox.once();
    let status = sandbox.status().unwrap();
    let silenced = status.condition(ConditionKind::Silenced).unwrap();
    assert_eq!((silenced.status, silenced.reason.as_str()), (Truth::True, "NotWritten"), "{}", silenced.message);
    assert!(status.queue.trouble.contains("spool"), "{:?}", status.queue);
    let (_, told, _) = sandbox.said(&["status"]);
    assert!(told.contains("silenced"), "{told}");
    fs::remove_file(&spool).unwrap();
    fs::rename(spool.with_extension("away"), &spool).unwrap();
    sandbox.once();
    let status = sandbox.status().unwrap();
    assert_eq!((status.condition(ConditionKind::Silenced).unwrap().status, status.queue.trouble.as_str()), (Truth::False, ""));
    assert_eq!(sandbox.said(&["reports", "flush"]).0, 0);
    assert_eq!(counted(&reports(&receiver), "drift-found"), 1, "what could not be reported is told by the next one");
}

#[test]
fn a_thousand_drifts_in_one_pass_are_said_counted_and_reported_each() {
    const MANY: usize = 1000;
    let receiver = Receiver::start(Tls::Off);
    let sandbox = Sandbox::new(&sink(&receiver));
    with_many(&sandbox, MANY);
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    spoil_many(&sandbox, MANY);
    let output = sandbox.trimtab(&["once", "--json"]).env("TRIMTAB_LOG", "info").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let lines = |word: &str| said.lines().filter(|line| line.contains("trimtab_event=") && line.contains(word)).count();
    let resources: BTreeSet<&str> = said
        .lines()
        .filter(|line| line.contains("drift-found"))
        .filter_map(|line| line.split("trimtab_resource=").nth(1)?.split('"').nth(1))
        .collect();
    assert_eq!((lines("drift-found"), lines("drift-repaired"), resources.len()), (MANY, MANY, MANY), "in the journal");
    let counters = sandbox.status().unwrap().counters;
    assert_eq!((counters.drift_found, counters.drift_repaired), (MANY as u64, MANY as u64), "in the counters");
    assert_eq!(counters.events["drift-found"], MANY as u64);
    assert_eq!(sandbox.said(&["reports", "flush"]).0, 0);
    let reports = reports(&receiver);
    assert_eq!(counted(&reports, "drift-found"), MANY as u64, "in the reports");
    assert_eq!(counted(&reports, "drift-repaired"), MANY as u64, "in the reports");
    for event in reports.values().flat_map(|report| &report.events).filter(|event| event.count > 1) {
        assert!(event.message.starts_with(&format!("{} of this kind", event.count)), "{}: {}", event.count, event.message);
    }
}

#[test]
fn a_host_whose_state_is_lost_and_whose_key_is_kept_gives_no_number_twice() {
    let receiver = Receiver::start(Tls::Off);
    let sandbox = Sandbox::new(&sink(&receiver));
    let told = |receiver: &Receiver| -> BTreeMap<u64, (u64, String)> {
        let reports = reports(receiver);
        reports.values().flat_map(|report| &report.events).map(|event| (event.id, (event.at_ms, event.message.clone()))).collect()
    };
    let flush = || assert_eq!(sandbox.said(&["reports", "flush"]).0, 0);
    sandbox.once();
    fs::write(sandbox.root().join("etc/one.conf"), "mine\n").unwrap();
    sandbox.once();
    flush();
    let before = told(&receiver);
    assert!(before.len() >= 3, "{before:?}");
    // What `trimtab uninstall --keep` leaves: the configuration and the key.
    fs::remove_dir_all(sandbox.root().join("var/lib/trimtab")).unwrap();
    assert!(Path::new(&sandbox.root().join("etc/trimtab/device.key")).exists());
    sandbox.once();
    flush();
    let after = told(&receiver);
    assert!(after.len() > before.len());
    assert!(before.iter().all(|(id, event)| after[id] == *event), "an id stands for one event for ever: {before:?} {after:?}");
    let last = *before.last_key_value().unwrap().0;
    assert!(after.keys().filter(|id| !before.contains_key(id)).all(|id| *id > last), "{before:?} {after:?}");
}

#[test]
fn a_report_that_is_too_large_for_a_receiver_arrives_with_less_detail_and_the_next_ones_whole() {
    const LIMIT: usize = 256 << 10;
    let receiver = Receiver::start(Tls::Off);
    receiver.set(Manner::AtMost(LIMIT));
    let sandbox = Sandbox::new(&sink(&receiver));
    with_many(&sandbox, 1000);
    assert_eq!(sandbox.once().outcome, Outcome::Converged);
    spoil_many(&sandbox, 1000);
    sandbox.once();
    assert!(spooled(&sandbox) > LIMIT as u64, "{}", spooled(&sandbox));
    fs::write(sandbox.root().join("etc/one.conf"), "mine\n").unwrap();
    sandbox.once();
    let (code, said, error) = sandbox.said(&["reports", "flush"]);
    assert_eq!((code, sandbox.waiting()), (0, 0), "{said}{error}");
    assert!(receiver.taken().iter().all(|taken| taken.body.len() <= LIMIT));
    let reports = reports(&receiver);
    let sequences: Vec<u64> = reports.keys().copied().collect();
    assert!(sequences.windows(2).all(|two| two[0] + 1 == two[1]) && sequences.len() == 3, "{sequences:?}");
    assert_eq!((counted(&reports, "drift-found"), counted(&reports, "drift-repaired")), (1001, 1001), "nothing is uncounted");
    let last = reports.last_key_value().unwrap().1;
    assert!(last.events.iter().any(|event| event.drift.is_some()), "what fits comes whole");
}
