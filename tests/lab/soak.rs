//! Drift at speed, for as long as one likes: `TRIMTAB_SOAK_MINUTES=60 tests/run soak` (3 if nothing is said).
//!
//! A thousand files of the repository are spoiled in turn, in four ways, and forty units, in three, while the Git host goes away, the receiver goes away, and the agent is
//! killed. In the end every drift was found, none was told twice, every report was delivered, and the agent is no larger than at the start.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use trimtab_tests::lab::trimtab::{enrol, start_agent};
use trimtab_tests::lab::{self, Machine, Person, eventually};

use crate::fleet;
use crate::reports::{SINK, receiver};

const FILES: usize = 1000;
/// So many are spoiled at once. Each has its turn again after more than ten minutes: what drifts more often is fought over, which is another story.
const BATCH: usize = 6;
const PAUSE: Duration = Duration::from_millis(3_800);

fn path(number: usize) -> String {
    format!("/etc/many/{:04}.conf", number % FILES)
}

fn spoil(number: usize) -> String {
    let path = path(number);
    match number % 4 {
        0 => format!("echo mine >> {path}"),
        1 => format!("chmod 0600 {path}"),
        2 => format!("rm {path}"),
        _ => format!("echo other > {path}.new && mv {path}.new {path}"),
    }
}

/// One is spoiled in each fourth round: its turn comes again after as long as a file's.
const UNITS: usize = 40;

/// What somebody does to a unit in this round.
fn spoil_unit(round: usize) -> Option<(String, String)> {
    let number = (round % 4 == 1).then_some(round / 4)?;
    let name = format!("unit{:02}.service", number % UNITS);
    let how = ["stop", "disable --quiet", "kill --signal=KILL"][number % 3];
    Some((format!("systemctl {how} {name}"), name))
}

fn runs(m: &Machine, unit: &str) -> bool {
    m.try_sh(&format!("systemctl is-active {unit}; systemctl is-enabled {unit}")).out == "active\nenabled"
}

fn holds(m: &Machine, numbers: &[usize]) -> bool {
    let paths: Vec<String> = numbers.iter().map(|number| path(*number)).collect();
    let wanted: Vec<String> = numbers.iter().map(|number| format!("644 value {}", number % FILES)).collect();
    let found = m.try_sh(&format!("for f in {}; do echo \"$(stat -c %a $f) $(cat $f)\"; done", paths.join(" ")));
    found.out.lines().eq(wanted.iter().map(String::as_str))
}

fn resident(m: &Machine) -> u64 {
    let line = m.sh("grep VmRSS /proc/$(systemctl show -p MainPID --value trimtab)/status | tr -dc 0-9");
    line.parse().expect("because it is a number of KiB")
}

/// What somebody does to the machine beside the drift, in turn.
fn trouble(m: &Machine, round: usize) {
    match round % 12 {
        2 => m.sh("systemctl stop nginx"),
        4 => m.sh("systemctl start nginx"),
        6 => m.sh("systemctl stop receiver"),
        8 => m.sh("systemctl start receiver"),
        // Started by hand at once: systemd waits longer after each kill, and this soak has no minutes for that.
        10 => m.sh("systemctl kill -s KILL trimtab; systemctl reset-failed trimtab; systemctl start trimtab"),
        _ => return,
    };
}

#[test]
fn soak_drift_at_speed_is_found_told_and_delivered_once() {
    let Some(m) = lab::boot("edge-1") else { return };
    let minutes: u64 = std::env::var("TRIMTAB_SOAK_MINUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let ana = Person::new(&m, "ana");
    let units: Vec<String> = (0..UNITS).map(|number| format!("unit{number:02}")).collect();
    fleet::assign(&ana, &["many"].into_iter().chain(units.iter().map(String::as_str)).collect::<Vec<_>>());
    for name in &units {
        fleet::service(&ana, name, "1");
    }
    m.sh(&format!(
        "cd {} && mkdir -p components/many/files/etc/many && for n in $(seq 0 {}); do echo \"value $n\" > components/many/files/etc/many/$(printf %04d $n).conf; done",
        ana.working_copy(),
        FILES - 1
    ));
    ana.push("Many files");
    receiver(&m);
    enrol(&m, &ana, "");
    m.sh(&format!("printf '{SINK}' >> /etc/trimtab/agent.toml"));
    // Until it is known with which number reports begin: what is missing before the first that arrives would go unseen.
    m.sh("systemctl stop receiver");
    start_agent(&m);
    let all: Vec<usize> = (0..FILES).collect();
    eventually("all files are there", 60, || holds(&m, &all));
    eventually("all units run", 60, || {
        m.sh("systemctl list-units --no-legend --state=active 'unit*.service' | wc -l") == UNITS.to_string()
    });
    let begin: u64 = m.sh("trimtab reports list --json | jq '.reports[0].sinceSequence'").parse().expect("because it waits");
    m.sh("systemctl start receiver");
    std::thread::sleep(Duration::from_secs(5));

    let (began, first) = (Instant::now(), resident(&m));
    let (mut next, mut round) = (0, 0);
    let mut spoiled: BTreeMap<String, u64> = BTreeMap::new();
    while began.elapsed() < Duration::from_secs(minutes * 60) {
        let batch: Vec<usize> = (next..next + BATCH).collect();
        (next, round) = (next + BATCH, round + 1);
        let unit = spoil_unit(round);
        let commands = batch.iter().map(|number| spoil(*number)).chain(unit.clone().map(|(command, _)| command));
        m.sh(&commands.collect::<Vec<_>>().join("; "));
        if let Some((_, name)) = &unit {
            *spoiled.entry(format!("unit {name}")).or_default() += 1;
        }
        for number in &batch {
            *spoiled.entry(format!("file {}", path(*number))).or_default() += 1;
        }
        trouble(&m, round);
        eventually("it is repaired", 30, || holds(&m, &batch) && unit.as_ref().is_none_or(|(_, name)| runs(&m, name)));
        std::thread::sleep(PAUSE);
    }
    m.sh("systemctl start nginx receiver");
    eventually("all is delivered", 120, || {
        m.try_sh("trimtab reports flush").code == 0 && m.sh("trimtab reports list --json | jq '.reports | length'") == "0"
    });
    let last = resident(&m);
    // Nothing more is made from here on, and what was made last is delivered.
    m.sh("systemctl stop trimtab");
    eventually("the rest is delivered", 60, || m.try_sh("trimtab reports flush").code == 0);

    let told = m.sh(
        "cat /srv/taken/*.json | jq -r '.[] | select(.type | test(\"drift-found|drift-repaired\")) | .id + \" \" + .type + \" \" + .subject' | sort -u",
    );
    let count = |kind: &str| {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for line in told.lines().filter(|line| line.contains(kind)) {
            let subject = line.splitn(3, ' ').nth(2).unwrap_or_default();
            *counts.entry(subject.to_owned()).or_default() += 1;
        }
        counts
    };
    assert_eq!(count("drift-found"), spoiled, "every drift is found, and none twice");
    assert_eq!(count("drift-repaired"), spoiled, "and repaired");
    let ids: Vec<&str> = told.lines().filter_map(|line| line.split(' ').next()).collect();
    let mut once = ids.clone();
    once.dedup();
    assert_eq!(ids.len(), once.len(), "no id stands for two events");
    let sequences = m.sh("cat /srv/taken/*.json | jq -r '.[].id' | grep /report/ | sed 's|.*/||' | sort -nu");
    let sequences: Vec<u64> = sequences.lines().map(|line| line.parse().expect("because it is a sequence")).collect();
    assert!(sequences.windows(2).all(|two| two[0] + 1 == two[1]), "every report is there: {sequences:?}");
    let state = m.sh("jq -r '\"\\(.sequence) \\(.sinks.ops.delivered)\"' /var/lib/trimtab/spool/state.json");
    let ends = (sequences.first().copied(), sequences.last().copied());
    assert_eq!(ends.0, Some(begin), "the first that waited is the first that is there");
    assert_eq!(ends.1.map(|last| format!("{last} {last}")), Some(state), "the last that was made is the last that is there");
    println!(
        "{minutes} minutes: {} drifts found, repaired and told once; {} reports; resident {first} KiB at the start, {last} KiB at the end",
        spoiled.values().sum::<u64>(),
        sequences.len()
    );
    assert!(last < first + 3072, "the agent grew from {first} to {last} KiB");
}
