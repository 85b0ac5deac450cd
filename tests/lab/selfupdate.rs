//! trimtab changes itself: to a good build, to one that crashes, to one that hangs; its own unit; with the power cut in the middle.

use trimtab_tests::lab::trimtab::{enrol, start_agent};
use trimtab_tests::lab::{self, Machine, Person, eventually};

use crate::fleet;

const PROGRAM: &str = "/usr/bin/trimtab";
/// Where the good new builds of these scenarios lead.
const REAL: &str = "/usr/lib/lab/trimtab";
const WATCH: &str = "/var/lib/trimtab/selfupdate.json";

/// A host whose agent runs, on which `one` runs, and that lets the repository bring trimtab.
fn host(m: &Machine) -> Person<'_> {
    let ana = Person::new(m, "ana");
    fleet::assign(&ana, &["one"]);
    fleet::service(&ana, "one", "1");
    ana.push("One service");
    prepare(m, &ana);
    start_agent(m);
    eventually("the first generation", 30, || field(m, ".good_generation // .goodGeneration") == "1");
    ana
}

/// Enrols, and lets the repository bring trimtab.
fn prepare(m: &Machine, ana: &Person<'_>) {
    enrol(m, ana, "");
    smaller(m);
    m.sh(&format!("mkdir /usr/lib/lab && cp {PROGRAM} {REAL}"));
    m.sh("sed -i 's/^\\[guard\\]$/[guard]\\nconfirm-timeout = \"12s\"/' /etc/trimtab/agent.toml && \
          printf '\\n[policy]\\nself-update = true\\n' >> /etc/trimtab/agent.toml");
}

/// A debug build is hashed for seconds in each pass; without its symbols it is a third of that.
fn smaller(m: &Machine) {
    let program = m.outside(PROGRAM);
    let stripped = program.with_extension("new");
    let strip = std::process::Command::new("strip").arg("-o").arg(&stripped).arg(&program).status();
    if strip.is_ok_and(|status| status.success()) {
        m.sh(&format!("mv {PROGRAM}.new {PROGRAM}"));
    }
}

/// One field of the status document; empty while there is none.
fn field(m: &Machine, path: &str) -> String {
    m.try_sh(&format!("jq -r '{path}' /run/trimtab/status.json")).out
}

/// Commits another trimtab, with a change of `one` beside it.
fn bring(ana: &Person<'_>, program: &str, setting: &str) -> String {
    fleet::assign(ana, &["one", "own"]);
    fleet::service(ana, "one", setting);
    ana.write("components/own/files/usr/bin/trimtab", program);
    ana.write("components/own/component.toml", &format!("[[file]]\npath = \"{PROGRAM}\"\nmode = \"0755\"\n"));
    ana.push("Another trimtab")
}

/// A build that works: the debug build of these tests is too large for a repository, so a word leads to it.
fn good(version: &str) -> String {
    format!("#!/bin/sh\n# build {version}\nexec {REAL} \"$@\"\n")
}

fn runs(m: &Machine) -> String {
    m.try_sh("readlink /proc/$(systemctl show -p MainPID --value trimtab)/exe").out
}

/// The watch is over, and nothing of it is left.
#[track_caller]
fn unwatched(m: &Machine) {
    assert!(!m.has(WATCH) && !m.has("/var/lib/trimtab/previous"), "{}", m.sh("ls -lR /var/lib/trimtab"));
    eventually("the guard ends", 10, || m.try_sh("systemctl is-active trimtab-guard.service").out == "inactive");
    assert_eq!(m.sh("systemctl is-active trimtab-guard.path; systemctl --failed --no-legend"), "active");
}

#[track_caller]
fn committed(m: &Machine, commit: &str, program: &str) {
    eventually("the new trimtab has proven itself", 60, || {
        field(m, ".lastAppliedRevision") == commit && field(m, ".trial") == "null" && !m.has(WATCH)
    });
    assert_eq!(runs(m), program);
    unwatched(m);
}

/// The trimtab of this commit was given up: the old one runs, its component is denied, the other one is as the commit says.
#[track_caller]
fn given_up(m: &Machine, commit: &str, setting: &str, why: &str) {
    eventually("the old trimtab tells of it", 90, || field(m, ".denied[0].revision") == commit && !m.has(WATCH));
    eventually("the pass is over", 20, || field(m, ".lastPass.outcome // .last_pass.outcome") == "rolled-back");
    let causes = field(m, ".denied[0] | [.components[0], (.causes[] | .resource + \": \" + .message)] | join(\"\\n\")");
    assert!(causes.starts_with("own\ntrimtab itself: ") && causes.contains(why), "{causes}");
    assert_eq!(runs(m), PROGRAM);
    assert_eq!(m.read("/etc/one.conf"), format!("SETTING={setting}"), "what has nothing to do with it stays");
    unwatched(m);
    // It is not walked into again.
    assert_eq!(m.try_sh("trimtab sync --json | jq -r .outcome").out, "rolled-back");
    assert!(!m.has(WATCH));
}

#[test]
fn a_good_build_takes_over_and_is_committed() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = host(&m);
    let old = m.sh("systemctl show -p InvocationID --value trimtab one");
    let commit = bring(&ana, &good("2"), "2");
    committed(&m, &commit, REAL);
    assert_ne!(m.sh("systemctl show -p InvocationID --value trimtab one"), old);
    assert_eq!(
        m.sh("systemctl show -p NRestarts --value trimtab; cat /etc/one.conf; stat -c %a /usr/bin/trimtab"),
        "0\nSETTING=2\n755"
    );
    assert_eq!(m.sh("trimtab sync --json | jq -r .outcome"), "unchanged");

    // Drift of it is put right, and somebody's file is not what runs on.
    m.sh("echo spoilt > /usr/bin/trimtab");
    eventually("its own file is put right", 20, || m.read(PROGRAM) == good("2").trim_end());
    eventually("a pass finds nothing to do", 30, || m.try_sh(&format!("{REAL} sync --json | jq -r .outcome")).out == "unchanged");

    // It leaves the repository: what the package brought is back, and proves itself as well.
    fleet::assign(&ana, &["one"]);
    ana.remove("components/own");
    let commit = ana.push("Back to the package");
    committed(&m, &commit, PROGRAM);
}

#[test]
fn a_build_that_crashes_is_given_up_and_the_old_one_goes_on() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = host(&m);
    m.sh("sed -i 's/^confirm-timeout.*/confirm-timeout = \"5min\"/' /etc/trimtab/agent.toml && systemctl reload trimtab");
    // The guard sees the fourth run, which has nothing to say: it may be stopped before it does.
    let crashes = "#!/bin/sh\necho >> /run/runs\n[ $(wc -l < /run/runs) -ge 4 ] || echo 'my last words' >&2\nexit 1\n";
    let commit = bring(&ana, crashes, "2");
    given_up(&m, &commit, "2", "systemd has started it anew");
    let causes = field(&m, ".denied[0].causes[0].message");
    assert!(causes.contains("my last words"), "{causes}");
    // The way out that the repository has.
    let commit = bring(&ana, &good("3"), "3");
    committed(&m, &commit, REAL);
}

#[test]
fn soak_a_build_that_ends_as_if_a_person_were_needed_or_leaves_a_later_ledger_is_given_up() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = host(&m);
    m.sh("sed -i 's/^confirm-timeout.*/confirm-timeout = \"5min\"/' /etc/trimtab/agent.toml && systemctl reload trimtab");
    // 78 is never started again by systemd.
    let commit = bring(&ana, "#!/bin/sh\nexit 78\n", "3");
    given_up(&m, &commit, "3", "it failed (exit-code)");
    // The old one would halt over a ledger of a later format.
    let commit = bring(&ana, "#!/bin/sh\necho '{\"format\": 99}' > /var/lib/trimtab/ledger.json\nexit 1\n", "4");
    given_up(&m, &commit, "4", "systemd has started it anew");
    // The way out that the repository has.
    let commit = bring(&ana, &good("5"), "5");
    committed(&m, &commit, REAL);
}

#[test]
fn soak_a_first_state_with_a_build_that_crashes_leaves_the_host_as_it_was_found() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    let commit = bring(&ana, "#!/bin/sh\nexit 1\n", "1");
    prepare(&m, &ana);
    start_agent(&m);
    eventually("the old trimtab tells of it", 90, || field(&m, ".denied[0].revision") == commit && !m.has(WATCH));
    assert_eq!(field(&m, ".denied[0].components | length"), "0");
    assert!(!m.has("/etc/one.conf") && !m.has("/etc/systemd/system/one.service"));
    assert_eq!((runs(&m).as_str(), m.sh(&format!("cmp {PROGRAM} {REAL}"))), (PROGRAM, String::new()));
    let commit = bring(&ana, &good("2"), "2");
    committed(&m, &commit, REAL);
    assert_eq!(m.read("/etc/one.conf"), "SETTING=2");
}

#[test]
fn without_a_guard_it_does_not_change_itself_and_does_the_rest() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = host(&m);
    let old = m.sh(&format!("sha256sum {PROGRAM}"));
    m.sh("systemctl mask --quiet --now trimtab-guard.service");
    bring(&ana, &good("2"), "2");
    eventually("the rest is done", 30, || m.read("/etc/one.conf") == "SETTING=2");
    eventually("it says why", 20, || m.try_sh("trimtab status").out.contains("trimtab-guard.service is not on this host"));
    assert_eq!((m.sh(&format!("sha256sum {PROGRAM}")), runs(&m).as_str(), m.has(WATCH)), (old, PROGRAM, false));
    m.sh("systemctl unmask --quiet trimtab-guard.service");
    let commit = m.sh(&format!("git -C {} rev-parse HEAD", ana.working_copy()));
    let _ = m.try_sh("trimtab sync");
    committed(&m, &commit, REAL);
}

#[test]
fn a_build_that_waits_for_a_reboot_proves_itself_at_once() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = host(&m);
    bring(&ana, &good("2"), "2");
    ana.write(
        "components/own/component.toml",
        &format!("confirm = \"after-reboot\"\n[[file]]\npath = \"{PROGRAM}\"\nmode = \"0755\"\n"),
    );
    ana.write("components/own/files/usr/bin/trimtab", &good("3"));
    let commit = ana.push("After a reboot");
    eventually("it waits for the reboot", 60, || {
        field(&m, ".trial.phase") == "awaiting-reboot" && field(&m, ".trial.revision") == commit
    });
    assert_eq!(runs(&m), REAL);
    unwatched(&m);
    m.reboot();
    committed(&m, &commit, REAL);
}

#[test]
fn soak_a_build_that_hangs_is_given_up_also_when_the_power_is_cut() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = host(&m);
    let hangs = "#!/bin/sh\nexec sleep infinity\n";
    let commit = bring(&ana, hangs, "2");
    given_up(&m, &commit, "2", "did not prove itself within 12 s");

    let commit = bring(&ana, &format!("{hangs}#\n"), "3");
    eventually("the new one hangs", 60, || runs(&m).ends_with("/sleep"));
    m.power_cut();
    m.start();
    given_up(&m, &commit, "3", "did not prove itself within 12 s");

    // The guard itself is shot at, again and again, from before its time to well after it.
    let commit = bring(&ana, &format!("{hangs}##\n"), "4");
    eventually("the new one hangs", 60, || runs(&m).ends_with("/sleep"));
    for shot in 0..30 {
        std::thread::sleep(std::time::Duration::from_millis(400 + 37 * shot));
        let _ = m.try_sh("systemctl kill -s KILL trimtab-guard.service");
    }
    given_up(&m, &commit, "4", "did not prove itself within 12 s");
}

#[test]
fn soak_a_good_build_is_taken_wherever_the_power_is_cut() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = host(&m);
    for round in 2..5 {
        let commit = bring(&ana, &good(&round.to_string()), &round.to_string());
        eventually("it has begun", 30, || m.has(WATCH));
        std::thread::sleep(std::time::Duration::from_millis(round * 150));
        m.power_cut();
        m.start();
        committed(&m, &commit, REAL);
        assert_eq!(m.read("/etc/one.conf"), format!("SETTING={round}"));
    }
}

#[test]
fn its_own_unit_is_changed_and_a_bad_change_of_it_is_given_up() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = host(&m);
    let bring = |text: &str, setting: &str| {
        fleet::assign(&ana, &["one", "own"]);
        fleet::service(&ana, "one", setting);
        ana.write("components/own/systemd/trimtab.service.d/50-lab.conf", text);
        ana.push("Another unit")
    };
    let commit = bring("[Service]\nEnvironment=LAB=1\n", "2");
    committed(&m, &commit, PROGRAM);
    let lab = || m.sh("tr '\\0' '\\n' < /proc/$(systemctl show -p MainPID --value trimtab)/environ | grep -c ^LAB= || true");
    assert_eq!(lab(), "1");
    let commit = bring("[Service]\nExecStart=\nExecStart=/bin/false\n", "3");
    given_up(&m, &commit, "3", "systemd has started it anew");
    assert_eq!((lab().as_str(), m.sh("systemctl show -p NeedDaemonReload --value trimtab").as_str()), ("1", "no"));
    assert!(m.read("/etc/systemd/system/trimtab.service.d/50-lab.conf").contains("LAB=1"));
    // A program of another place, as an operator who keeps the package would bring it.
    ana.write("components/own/files/opt/trimtab/trimtab", &good("5"));
    ana.write("components/own/component.toml", "[[file]]\npath = \"/opt/trimtab/trimtab\"\nmode = \"0755\"\n");
    let commit = bring("[Service]\nExecStart=\nExecStart=/opt/trimtab/trimtab agent\n", "4");
    committed(&m, &commit, REAL);
    let commit = {
        ana.write("components/own/files/opt/trimtab/trimtab", "#!/bin/sh\nexit 1\n");
        ana.push("A bad program there")
    };
    eventually("it is given up", 90, || field(&m, ".denied[0].revision") == commit && !m.has(WATCH));
    assert_eq!((runs(&m).as_str(), m.read("/opt/trimtab/trimtab")), (REAL, good("5").trim_end().to_owned()));
}
