//! What is done about drift, and what a person holds back: with units that run, and told from outside.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use trimtab_tests::lab::trimtab::{converge, enrol, settled, start_agent};
use trimtab_tests::lab::{self, Machine, Person, Watched, eventually};

use super::fleet;

/// All that was written in a machine since its tree was made, outside of what writes by itself: by path, with what shows a write.
fn written(m: &Machine) -> BTreeMap<String, (u64, i64, i64)> {
    // trimtab's own memory; logs, systemd's own notes and what it makes for PrivateTmp=, and the Git host, which is asked and so has something to log.
    const OWN: [&str; 4] = ["var/lib/trimtab", "etc/trimtab", "var/cache/trimtab", "var/lib/private"];
    const OTHERS: [&str; 6] = ["var/log", "var/lib/systemd", "var/lib/nginx", "tmp", "var/tmp", "root/.bash_history"];
    let upper = m.upper();
    let mut found = BTreeMap::new();
    let mut open = vec![upper.clone()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&upper).unwrap();
            if OWN.iter().chain(&OTHERS).any(|skipped| name.starts_with(skipped)) {
                continue;
            }
            let seen = std::fs::symlink_metadata(&path).unwrap();
            if seen.is_dir() {
                open.push(path.clone());
            }
            let times = (seen.ino(), seen.mtime_nsec() ^ seen.mtime(), seen.ctime_nsec() ^ seen.ctime());
            found.insert(name.display().to_string(), times);
        }
    }
    assert!(found.len() > 20, "the upper layer was seen: {found:?}");
    found
}

fn passes(m: &Machine) -> u64 {
    m.try_sh("jq .lastPass.number /run/trimtab/status.json").out.parse().unwrap_or(0)
}

#[test]
fn a_host_that_observes_is_written_by_nobody() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    let digest = m.read("/var/lib/lab/busybox-1");
    fleet::assign(&ana, &["one", "web"]);
    fleet::service(&ana, "one", "1");
    fleet::container(&ana, "web", &digest);
    ana.write("components/one/component.toml", "[[hook]]\non = \"pre-apply\"\nrun = [\"/usr/bin/touch\", \"/var/hooked\"]\n[[unit]]\nname = \"cron.service\"\nmasked = true\n");
    ana.write("components/one/files/etc/motd", "ours\n");
    ana.push("All that a host has");
    m.write("/etc/motd", "the operator's\n");
    enrol(&m, &ana, "--observe");
    let told = m.try_sh("trimtab once");
    assert!(told.code == 5 && told.out.contains("this host only observes"), "{told}");

    let units = "systemctl list-units --all --no-legend --plain | grep -v trimtab | awk '{print $1, $2, $3, $4}' | grep -v '^run-\\|^dev-\\|nginx\\|fcgiwrap\\|^systemd-\\|session' | sort";
    let (before, states) = (written(&m), m.sh(units));
    m.sh("touch /root/mark");
    start_agent(&m);
    let before: BTreeMap<_, _> =
        before.into_iter().filter(|(at, _)| !at.starts_with("root") && !at.starts_with("home") && !at.starts_with("srv")).collect();
    eventually("three passes", 20, || passes(&m) >= 4);
    fleet::service(&ana, "one", "2");
    let newest = ana.push("A second one");
    eventually("the newest is told", 20, || m.try_sh("jq -r .lastPass.revision /run/trimtab/status.json").out == newest);
    let from = passes(&m);
    eventually("three more", 20, || passes(&m) >= from + 3);
    let after = written(&m);
    // The agent was enabled by the person.
    let is_mine = |at: &str| ["root", "home", "srv", "etc/systemd/system"].iter().any(|mine| at.starts_with(mine)) || at == "etc";
    let differ = |at: &&String| before.get(*at) != after.get(*at) && !is_mine(at);
    let changed: Vec<&String> = before.keys().chain(after.keys()).filter(differ).collect();
    assert!(changed.is_empty(), "a host that observes was written: {changed:?}");
    assert_eq!(m.sh("find /etc/systemd/system /etc/containers -newer /root/mark ! -name '*trimtab*' ! -type d; find /var/lib/containers -newer /root/mark"), "");
    assert_eq!(m.sh(units), states, "no unit came or changed");
    assert!(!m.has("/var/hooked") && m.read("/etc/motd") == "the operator's");
    assert_eq!(
        m.sh("jq -r '[.lastPass.outcome, .ready, .generation, .managedFiles] | @csv' /run/trimtab/status.json"),
        "\"paused\",false,0,0"
    );
    let told = "jq -r '.lastPass.changes[] | select(.left_alone.why != \"observing\") | .resource' /run/trimtab/status.json";
    assert_eq!(m.sh(told), "", "all of it is told as left alone");
    let resources = m.sh("jq -r '.lastPass.changes[].resource' /run/trimtab/status.json");
    for resource in ["file /etc/motd", "unit one.service", "unit web.service"] {
        assert!(resources.contains(resource), "{resource} is told: {resources}");
    }

    m.sh("sed -i 's/^mode = .*/mode = \"enforce\"/' /etc/trimtab/agent.toml && systemctl reload trimtab");
    eventually("it goes on as a first converge", 60, || m.try_sh("trimtab status").code == 0);
    assert_eq!(m.sh("systemctl is-active one web; cat /etc/motd /etc/one.conf"), "active\nactive\nours\nSETTING=2");
    assert_eq!(m.sh("trimtab backups show /etc/motd"), "the operator's");
}

#[test]
fn pins_and_policies_hold_units_and_what_they_read() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["one", "two", "three"]);
    for name in ["one", "two", "three"] {
        fleet::service(&ana, name, "1");
    }
    ana.write("components/two/component.toml", "drift = \"report\"\n");
    let three = "[[unit]]\nname = \"three.service\"\ndrift = \"ignore\"\nuses = [\"/etc/three.d\"]\n[[directory]]\npath = \"/etc/three.d\"\nexclusive = \"purge\"\n";
    ana.write("components/three/component.toml", three);
    ana.push("Three services");
    enrol(&m, &ana, "");
    converge(&m);
    settled(&m);

    // Reported: told, not mended, nobody restarted; ignored: not even told.
    let running = Watched::new(&m, &["/etc/two.conf"], &["one", "two"]);
    m.sh("systemctl stop three");
    settled(&m);
    m.sh("cp -p /etc/two.conf /root/two.conf; echo SETTING=mine > /etc/two.conf");
    let spoiled = Watched::new(&m, &["/etc/two.conf"], &["one", "two"]);
    for _ in 0..2 {
        let told = m.try_sh("trimtab once");
        assert!(told.code == 5 && told.out.contains("file /etc/two.conf (drift), left alone: only reported"), "{told}");
    }
    spoiled.assert_same(&Watched::new(&m, &["/etc/two.conf"], &["one", "two"]));
    assert_eq!(m.try_sh("systemctl is-active three").out, "inactive");
    assert_ne!(running, spoiled, "the drift was one");

    // An update goes through; a stopped unit that is left stopped reads it when a person starts it.
    for name in ["one", "two", "three"] {
        ana.write(&format!("components/{name}/files/etc/{name}.conf"), "SETTING=2\n");
    }
    ana.push("An update of all");
    converge(&m);
    assert_eq!(
        m.try_sh("cat /etc/one.conf /etc/two.conf /etc/three.conf; systemctl is-active one two three").out,
        "SETTING=2\nSETTING=2\nSETTING=2\nactive\nactive\ninactive"
    );
    settled(&m);
    m.sh("systemctl start three");
    settled(&m);

    // What nobody declared goes, and what reads it is restarted.
    let (run, file) = (m.sh("systemctl show -p InvocationID three"), "/etc/three.d/50-theirs.conf");
    m.write(file, "theirs\n");
    converge(&m);
    assert!(!m.has(file) && m.sh("systemctl show -p InvocationID three") != run);
    assert_eq!(m.sh(&format!("trimtab backups show {file}")), "theirs");
    settled(&m);

    // A pinned file keeps its reader running; a pinned unit stays stopped; the others go on.
    m.sh("trimtab pin /etc/one.conf --reason 'trying a limit' --until 1h");
    m.sh("trimtab pin two --reason 'maintenance' --until 1h; systemctl stop two");
    let held = Watched::new(&m, &["/etc/one.conf"], &["one", "two"]);
    for name in ["one", "two", "three"] {
        ana.write(&format!("components/{name}/files/etc/{name}.conf"), "SETTING=3\n");
    }
    ana.push("Another update of all");
    let told = m.try_sh("trimtab once");
    assert!(told.code == 5 && told.out.contains("file /etc/one.conf (update), left alone: it is pinned"), "{told}");
    let told = m.try_sh("trimtab once");
    assert!(told.code == 5 && told.out.contains("and 1 more are pinned"), "{told}");
    held.assert_same(&Watched::new(&m, &["/etc/one.conf"], &["one", "two"]));
    assert_eq!(m.sh("cat /etc/two.conf /etc/three.conf; systemctl is-active three"), "SETTING=3\nSETTING=3\nactive");
    assert_eq!(m.sh("journalctl -u three -o cat | grep '^setting' | tail -n 1"), "setting 3");
    assert_eq!(m.sh("trimtab holds --json | jq -c '[.pins[].by]'"), "[\"root\",\"root\"]");
    m.sh("trimtab unpin one.conf || trimtab unpin /etc/one.conf; trimtab unpin two.service");
    let told = m.try_sh("trimtab once");
    assert!(told.code == 5 && told.out.contains("unit two.service (drift), left alone: only reported"), "{told}");
    assert_eq!(m.sh("cat /etc/one.conf; journalctl -u one -o cat | grep '^setting' | tail -n 1"), "SETTING=3\nsetting 3");
}

#[test]
fn a_suspension_ends_no_change_halfway_and_outlives_a_power_cut_and_the_network() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["one"]);
    fleet::service(&ana, "one", "1");
    ana.push("One service");
    enrol(&m, &ana, "");
    m.sh("sed -i 's/^settle = .*/settle = \"4s\"/' /etc/trimtab/agent.toml");
    start_agent(&m);
    eventually("the first converge", 30, || m.try_sh("trimtab status").code == 0);
    ana.write("components/one/files/etc/one.conf", "SETTING=2\n");
    let begun = ana.push("To be tried");
    eventually("it is being tried", 20, || m.try_sh("jq -r .trial.phase /run/trimtab/status.json").out == "trying");
    m.sh("trimtab suspend --reason 'ticket 7' --until 1h");
    assert_eq!(m.sh("jq -r '.lastAppliedRevision' /run/trimtab/status.json"), begun, "it was brought to its end first");

    ana.write("components/one/files/etc/one.conf", "SETTING=3\n");
    let newest = ana.push("To wait");
    m.sh("echo mine > /etc/one.conf; systemctl stop one");
    let told = || {
        m.try_sh(
            "jq -c '[.lastPass.revision, .lastPass.outcome, (.lastPass.changes | length), .generation]' /run/trimtab/status.json",
        )
        .out
    };
    let wanted = format!("[\"{newest}\",\"paused\",2,2]");
    eventually("it is told", 20, || told() == wanted);
    m.power_cut();
    m.start();
    eventually("it is told again", 30, || told() == wanted);
    assert_eq!(m.try_sh("cat /etc/one.conf; systemctl is-active one").out.lines().next(), Some("mine"));

    // Without a network a person is heard all the same, at once.
    m.sh("systemctl stop nginx");
    eventually("it is away", 20, || m.try_sh("jq -r .lastPass.outcome /run/trimtab/status.json").out == "unreachable");
    let begun = std::time::Instant::now();
    m.sh("trimtab resume");
    eventually("drift is repaired", 20, || m.try_sh("cat /etc/one.conf").out == "SETTING=2");
    assert!(begun.elapsed().as_secs() < 15, "{:?}", begun.elapsed());
    m.sh("systemctl start nginx");
    eventually("the newest is in force", 40, || m.try_sh("trimtab status").code == 0 && m.read("/etc/one.conf") == "SETTING=3");
    assert!(Path::new(&m.outside("/var/lib/trimtab/holds.json")).exists());
}
