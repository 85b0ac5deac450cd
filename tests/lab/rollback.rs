//! Changes that are undone: one after the other, with whom they take with them, where undoing goes wrong, and what stands in its way.

use trimtab_tests::lab::trimtab::{converge, enrol, settled, start_agent};
use trimtab_tests::lab::{self, Machine, Person, Watched, eventually};

use crate::fleet;
use crate::trial::{assert_told, denied, ends, entry, history, in_force, nothing_more, pass, phase, status, undone};

const INSTALL: &str = "[Install]\nWantedBy=multi-user.target\n";

/// A component `app` whose unit runs a shell's words.
fn app(ana: &Person<'_>, words: &str) {
    ana.write("components/app/systemd/app.service", &format!("[Service]\nExecStart=/bin/sh -c '{words}'\n{INSTALL}"));
}

/// A machine on which `app` and the service `one` are in force.
fn begun<'m>(m: &'m Machine, words: &str) -> Person<'m> {
    let ana = Person::new(m, "ana");
    fleet::assign(&ana, &["app", "one"]);
    fleet::service(&ana, "one", "1");
    app(&ana, words);
    ana.push("Good");
    enrol(m, &ana, "");
    converge(m);
    settled(m);
    ana
}

const APP: &str = "/etc/systemd/system/app.service";

fn pids(m: &Machine, units: &str) -> String {
    m.sh(&format!("systemctl show -p MainPID --value {units} | grep ."))
}

#[test]
fn bad_commits_come_and_go_until_a_good_one_does() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = begun(&m, "exec sleep infinity");
    start_agent(&m);
    let untouched = pids(&m, "one");

    // Undone, and taken back by its author.
    app(&ana, "exit 3");
    let bad = ana.push("Bad");
    undone(&m, &bad, "unit app.service: ");
    let status_of_it = m.try_sh("trimtab status").out;
    assert!(status_of_it.contains(&format!("undone      revision {}, back to generation 1", &bad[..12])), "{status_of_it}");
    assert_eq!((history(&m), denied(&m)), ("2 rolled-back, 1 committed *".to_owned(), vec![entry(&bad, "", "health")]));
    assert_eq!(m.sh("systemctl is-active app; grep -c infinity /etc/systemd/system/app.service"), "active\n1");
    nothing_more(&m, &[APP], &["app.service", "one.service"]);
    let running = pids(&m, "app");
    ana.git("revert --no-edit HEAD && git push -q origin HEAD:main");
    let revert = ana.git("rev-parse HEAD");
    in_force(&m, &revert);
    assert_eq!((pids(&m, "app"), pids(&m, "one")), (running, untouched.clone()), "there was nothing left to be done");

    // One bad commit after the other; the good part of the second is taken over.
    app(&ana, "exit 4");
    let second = ana.push("Bad again");
    undone(&m, &second, "unit app.service: ");
    app(&ana, "exit 5");
    fleet::service(&ana, "one", "2");
    let third = ana.push("And again, with something good");
    undone(&m, &third, "unit app.service: ");
    assert_eq!(
        m.sh("cat /etc/one.conf; systemctl is-active app one; grep -c infinity /etc/systemd/system/app.service"),
        "SETTING=2\nactive\nactive\n1"
    );
    let all = [entry(&third, "app", "health"), entry(&second, "", "health"), entry(&bad, "", "health")];
    assert_eq!(denied(&m), all);
    nothing_more(&m, &[APP, "/etc/one.conf"], &["app.service", "one.service"]);

    // The first one's content under another name is known for what it is.
    app(&ana, "exit 3");
    fleet::service(&ana, "one", "1");
    let same = ana.push("The first one again");
    eventually("it is recognised", 20, || {
        status(&m, "[.lastAttemptedRevision, .lastPass.outcome]") == format!("[\"{same}\",\"rolled-back\"]")
    });
    assert_eq!(denied(&m), all, "and not tried");
    app(&ana, "echo good; exec sleep infinity");
    let good = ana.push("Good at last");
    in_force(&m, &good);
    assert_eq!(
        m.sh("cat /etc/one.conf; systemctl is-active app one; grep -c good /etc/systemd/system/app.service"),
        "SETTING=1\nactive\nactive\n1"
    );
    assert_eq!(m.try_sh("trimtab status").code, 0);

    // What it needs is not on the host; a person brings it, and asks.
    app(&ana, "test -e /srv/needed && exec sleep infinity");
    let needy = ana.push("It needs something");
    undone(&m, &needy, "unit app.service: ");
    let told = m.try_sh("trimtab retry");
    assert_eq!(told.code, 3, "it is still not there: {told}");
    assert_eq!(denied(&m)[0], entry(&needy, "", "health"), "what a person asked for is a new trial");
    m.sh("touch /srv/needed");
    nothing_more(&m, &[APP], &["app.service"]);
    let told = m.try_sh(&format!("trimtab retry {}", &needy[..10]));
    assert_eq!(told.code, 0, "{told}");
    in_force(&m, &needy);
    assert!(m.read(APP).contains("/srv/needed") && m.try_sh("systemctl is-active app").code == 0);
    assert!(!denied(&m).iter().any(|entry| entry.starts_with(&needy[..12])), "{:?}", denied(&m));
}

#[test]
fn what_cannot_be_gone_back_to_is_told_and_gone_on_with() {
    let Some(m) = lab::boot("edge-1") else { return };
    m.sh("ln -s /bin/sleep /srv/v1");
    let ana = begun(&m, "exec /srv/v1 infinity");
    // The old version's program is taken away while it runs, and the new one does not come up.
    let bad = |words: &str| {
        m.sh("rm -f /srv/v1");
        app(&ana, words);
        fleet::service(&ana, "one", words);
        ana.push(words)
    };
    let revision = bad("exit 3");
    ends(&m, "degraded", 4);
    assert_eq!(pass(&m, ".undone.revision"), revision);
    assert!(pass(&m, ".undone.causes[].message").contains("it failed (exit-code)"), "{}", m.read("/tmp/pass.json"));
    let left = pass(&m, ".undone.amiss[] | \"\\(.resource): \\(.message)\"");
    assert!(left.starts_with("unit app.service: ") && !left.contains("one"), "it says what is not in place: {left}");
    assert_told(&m, &revision, "unit app.service: ");
    assert!(m.try_sh("trimtab status").out.contains("not undone  unit app.service: "), "{}", m.try_sh("trimtab status"));
    assert_eq!((phase(&m), denied(&m)), ("degraded".to_owned(), vec![entry(&revision, "", "health")]));
    assert!(m.read(APP).contains("/srv/v1"), "its file is the old one");
    assert_eq!(
        m.sh("cat /etc/one.conf; systemctl is-active one"),
        "SETTING=1\nactive",
        "nothing of a change is kept of which not even the rest works"
    );
    ends(&m, "degraded", 4);
    assert_eq!(denied(&m), [entry(&revision, "", "health")], "each pass tries the rest, and not the change");
    // Mended by hand.
    m.sh("ln -s /bin/sleep /srv/v1");
    ends(&m, "rolled-back", 3);
    assert_eq!((phase(&m), m.sh("systemctl is-active app one")), ("null".to_owned(), "active\nactive".to_owned()));
    ends(&m, "rolled-back", 3);
    assert_told(&m, &revision, "unit app.service: ");

    // Mended by a commit.
    let revision = bad("exit 4");
    ends(&m, "degraded", 4);
    app(&ana, "echo v3; exec sleep infinity");
    let good = ana.push("It needs nothing");
    ends(&m, "converged", 2);
    assert_eq!(
        (phase(&m), status(&m, ".lastAppliedRevision"), m.sh("systemctl is-active app one")),
        ("null".to_owned(), good, "active\nactive".to_owned())
    );
    assert_eq!(denied(&m)[0], entry(&revision, "", "health"));
    settled(&m);
}

#[test]
fn an_old_version_that_a_checker_refuses_is_told_and_put_back_once_it_may() {
    let Some(m) = lab::boot("edge-1") else { return };
    m.sh("ln -s /bin/sleep /srv/v1");
    let ana = begun(&m, "exec sleep infinity");
    let direct = |words: &str| ana.write("components/app/systemd/app.service", &format!("[Service]\nExecStart={words}\n{INSTALL}"));
    direct("/srv/v1 infinity");
    ana.push("A program of its own");
    converge(&m);
    // systemd-analyze calls a unit without its program broken.
    m.sh("rm /srv/v1");
    direct("/bin/false");
    let revision = ana.push("Bad");
    ends(&m, "degraded", 4);
    let left = pass(&m, ".undone.amiss[] | \"\\(.resource): \\(.message)\"");
    assert!(left.contains("/srv/v1"), "{left}");
    assert_told(&m, &revision, "unit app.service: ");
    m.sh("ln -s /bin/sleep /srv/v1");
    ends(&m, "rolled-back", 3);
    assert!(m.read(APP).contains("/srv/v1") && m.try_sh("systemctl is-active app").code == 0);
    assert_eq!((phase(&m), denied(&m)), ("null".to_owned(), vec![entry(&revision, "", "health")]));
    let quiet = Watched::new(&m, &[APP], &["app.service"]);
    ends(&m, "rolled-back", 3);
    quiet.assert_same(&Watched::new(&m, &[APP], &["app.service"]));
}

#[test]
fn half_of_all_files_does_not_go_by_mistake() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = begun(&m, "exec sleep infinity");
    let many = |count: u32| {
        let copy = format!("{}/components/app/files/etc/many", ana.working_copy());
        m.sh(&format!("rm -rf {copy}; mkdir -p {copy}; for n in $(seq {count}); do echo $n > {copy}/$n; done"));
    };
    many(40);
    ana.push("Forty files");
    converge(&m);
    start_agent(&m);
    let watched = ["/etc/many", "/etc/systemd/system", "/etc/one.conf"];
    let units = ["app.service", "one.service"];
    eventually("the agent is there", 20, || m.try_sh("trimtab sync").code == 0);
    let before = Watched::new(&m, &watched, &units);
    many(20);
    fleet::service(&ana, "one", "2");
    let revision = ana.push("Twenty files too few");
    eventually("it is held", 20, || {
        status(&m, "[.lastPass.outcome, .lastAttemptedRevision]") == format!("[\"held\",\"{revision}\"]")
    });
    before.assert_same(&Watched::new(&m, &watched, &units));
    let told = m.try_sh("trimtab status");
    let how = format!("`trimtab approve {}` on this host", &revision[..12]);
    assert!(
        told.code == 1 && told.out.contains("takes away 20 of 45 managed files and units") && told.out.contains(&how),
        "{told}"
    );
    assert_eq!(m.try_sh("trimtab sync").code, 1);
    nothing_more(&m, &watched, &units);
    // Allowed for this one alone.
    let told = m.try_sh(&format!("trimtab approve {}", &revision[..12]));
    assert_eq!(told.code, 0, "{told}");
    in_force(&m, &revision);
    assert_eq!(m.sh("ls /etc/many | wc -l; cat /etc/one.conf"), "20\nSETTING=2");
    many(2);
    let revision = ana.push("Still fewer");
    eventually("it is held", 20, || {
        status(&m, "[.lastPass.outcome, .lastAttemptedRevision]") == format!("[\"held\",\"{revision}\"]")
    });
    assert_eq!(m.sh("ls /etc/many | wc -l"), "20");
    assert_eq!(history(&m), "3 committed *, 2 committed, 1 committed");
}

#[test]
fn soak_a_hook_that_hangs_holds_up_no_undoing() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = begun(&m, "exec sleep infinity");
    // A webhook whose other end never answers, and that does not even heed being told to stop.
    let hang = |phase: &str, timeout: &str, trap: &str| {
        let words = format!("{trap} touch /srv/{phase}; while :; do sleep 1000; done");
        format!("[[hook]]\non = \"{phase}\"\nrun = [\"/bin/sh\", \"-c\", \"{words}\"]\ntimeout = \"{timeout}\"\n")
    };
    ana.write("components/app/component.toml", &(hang("on-failure", "1h", "trap true TERM;") + &hang("on-rollback", "2s", "")));
    ana.push("With hooks");
    settled(&m);
    start_agent(&m);
    eventually("the agent is there", 20, || m.try_sh("trimtab sync").code == 0);
    app(&ana, "exit 3");
    let revision = ana.push("Bad");
    eventually("it is told", 20, || m.has("/srv/on-failure"));
    assert_eq!(denied(&m), [entry(&revision, "", "health")], "denied before anybody is told");
    eventually("it is undone", 45, || m.has("/srv/on-rollback"));
    assert_eq!(m.sh("systemctl is-active app; grep -c infinity /etc/systemd/system/app.service"), "active\n1");
    assert_eq!(phase(&m), "null", "it is over before the second one is asked");
    undone(&m, &revision, "unit app.service: ");
    // Of an hour, no more than half a minute is given.
    for (hook, time) in [("on-failure", "30s"), ("on-rollback", "2s")] {
        let remark = format!("hook {hook} of app: it had not ended after {time} and was killed");
        assert!(m.sh("journalctl -q -u trimtab -o cat").contains(&remark), "{remark}");
    }
    assert!(!m.try_sh("pgrep -a -x sleep").out.contains("1000"), "nothing of them is left");
    nothing_more(&m, &[APP], &["app.service"]);
}

#[test]
fn a_container_whose_image_is_not_there_holds_up_nobody_else() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    let [first, second] = ["1", "2"].map(|tag| m.read(&format!("/var/lib/lab/busybox-{tag}")));
    let kept = "/var/lib/docker-registry/docker/registry/v2/repositories/busybox/_manifests/revisions/sha256";
    let manifest = format!("{kept}/{}", second.trim_start_matches("sha256:"));
    m.sh(&format!("systemctl stop docker-registry; mv {manifest} /srv/manifest; systemctl start docker-registry"));
    fleet::assign(&ana, &["one", "web"]);
    fleet::service(&ana, "one", "1");
    fleet::container(&ana, "web", &first);
    ana.push("A container");
    enrol(&m, &ana, "");
    converge(&m);
    settled(&m);
    start_agent(&m);
    let running = || m.sh("podman inspect --format '{{.State.Pid}} {{.State.StartedAt}}' systemd-web");
    let before = running();
    fleet::service(&ana, "one", "2");
    fleet::container(&ana, "web", &second);
    let revision = ana.push("An image that is not there");
    eventually("the other component is updated", 20, || m.read("/etc/one.conf") == "SETTING=2");
    eventually("it says so", 20, || status(&m, ".lastPass.outcome") == "partial");
    let told = m.try_sh("trimtab status");
    assert!(told.code == 1 && told.out.contains(&format!("image localhost:5000/busybox@{second}: ")), "{told}");
    assert_eq!((running(), denied(&m).len()), (before.clone(), 0), "the old one runs on, and nobody is to blame");
    assert!(m.read("/etc/containers/systemd/web.container").contains(&first));
    assert_eq!(m.sh("curl -sf --max-time 2 http://localhost:8080/version"), "1");
    nothing_more(&m, &["/etc/containers/systemd", "/etc/one.conf"], &["web.service", "one.service"]);
    let (one, line) = (pids(&m, "one"), history(&m));
    m.sh(&format!("mv /srv/manifest {manifest}"));
    in_force(&m, &revision);
    assert_eq!(m.sh("curl -sf --max-time 2 http://localhost:8080/version"), "2");
    assert_ne!(running(), before);
    assert_eq!((pids(&m, "one"), history(&m)), (one, format!("3 committed *, {}", line.replace(" *", ""))));
}

#[test]
fn who_falls_with_a_component_and_who_stays() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    let names = ["alone", "base", "front", "reader"];
    fleet::assign(&ana, &names);
    let all = |setting: &str, bad: &str, isolated: bool| {
        for name in names {
            fleet::service(&ana, name, &format!("{setting}\n{}", if name == bad { "BAD=1" } else { "" }));
            m.sh(&format!(
                "sed -i 's/exec sleep/test -z \"$$BAD\" \\&\\& exec sleep/' {}/components/{name}/systemd/{name}.service",
                ana.working_copy()
            ));
        }
        let isolate = if isolated { "isolate = true\n" } else { "" };
        ana.write("components/front/component.toml", &format!("depends = [\"base\"]\n{isolate}"));
        // It needs no component by name, but its unit reads a file of one.
        ana.write("components/reader/component.toml", "[[unit]]\nname = \"reader.service\"\nuses = [\"/etc/base.conf\"]\n");
        ana.push(setting)
    };
    all("1", "", false);
    enrol(&m, &ana, "");
    converge(&m);
    let settings =
        || m.sh("cd /etc; grep -h SETTING alone.conf base.conf front.conf reader.conf | tr -dc '0-9\\n'").replace('\n', " ");
    let mut now = "1 1 1 1".to_owned();
    for (setting, bad, isolated, fallen, after) in [
        ("2", "front", true, "front", "2 2 1 2"),
        ("3", "front", false, "base,front,reader", "3 2 1 2"),
        ("4", "base", true, "base,front,reader", "4 2 1 2"),
        ("5", "reader", true, "base,front,reader", "5 2 1 2"),
        ("6", "alone", true, "alone", "5 6 6 6"),
    ] {
        assert_eq!(settings(), now);
        let before: Vec<_> = names.map(|name| pids(&m, name)).into();
        let revision = all(setting, bad, isolated);
        ends(&m, "rolled-back", 3);
        assert_eq!(pass(&m, ".undone.components | join(\",\")"), fallen, "{setting}: {bad} fails");
        assert_eq!(pass(&m, "[.undone.causes[].resource] | unique | join(\",\")"), format!("unit {bad}.service"));
        assert_eq!((settings(), denied(&m)[0].clone()), (after.to_owned(), entry(&revision, fallen, "health")), "{setting}");
        assert_eq!(m.sh("systemctl is-active alone base front reader"), "active\nactive\nactive\nactive", "{setting}");
        assert_ne!(before, Vec::from(names.map(|name| pids(&m, name))));
        assert_told(&m, &revision, &format!("unit {bad}.service: "));
        let quiet =
            Watched::new(&m, &["/etc/systemd/system"], &["alone.service", "base.service", "front.service", "reader.service"]);
        ends(&m, "rolled-back", 3);
        quiet.assert_same(&Watched::new(
            &m,
            &["/etc/systemd/system"],
            &["alone.service", "base.service", "front.service", "reader.service"],
        ));
        after.clone_into(&mut now);
    }
    let revision = all("7", "", true);
    ends(&m, "converged", 2);
    assert_eq!((settings(), status(&m, ".lastAppliedRevision")), ("7 7 7 7".to_owned(), revision));
    settled(&m);
}

#[test]
fn an_agent_that_is_killed_while_it_waits_for_health_goes_forward() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = begun(&m, "exec sleep infinity");
    m.sh("sed -i 's/^settle = .*/settle = \"4s\"/' /etc/trimtab/agent.toml");
    start_agent(&m);
    app(&ana, "echo two; exec sleep infinity");
    let revision = ana.push("Two");
    eventually("it is switched", 20, || m.sh("journalctl -q -u app -o cat").contains("two"));
    let running = pids(&m, "app");
    assert_eq!(phase(&m), "trying");
    eventually("it says so", 3, || m.try_sh("trimtab status").out.contains("waits       for what it started to be healthy"));
    m.sh("systemctl kill -s KILL trimtab");
    in_force(&m, &revision);
    assert_eq!((pids(&m, "app"), history(&m), denied(&m).len()), (running, "2 committed *, 1 committed".to_owned(), 0));
    assert!(m.sh("journalctl -q -u trimtab -o cat").contains("was being put in place when the agent ended; it goes on with that"));
}

#[test]
fn a_unit_that_does_not_stay_up_is_started_ever_more_seldom() {
    let Some(m) = lab::boot("edge-1") else { return };
    m.sh("touch /srv/needed");
    let ana = begun(&m, "echo start >> /srv/starts; test -e /srv/needed && exec sleep infinity");
    start_agent(&m);
    m.sh("sed -i 's/^retry-max = .*/retry-max = \"1h\"/' /etc/trimtab/agent.toml; systemctl restart trimtab");
    eventually("the agent is there", 20, || m.try_sh("trimtab sync").code == 0);
    let starts = || m.sh("wc -l < /srv/starts").parse::<u64>().expect("because it is a count of lines");
    let passes = || status(&m, ".lastPass.number").parse::<u64>().expect("because passes are numbered");
    m.sh("rm /srv/needed /srv/starts; touch /srv/starts; systemctl stop app");
    let told = "unit app.service: it does not stay up: it was started";
    eventually("it says so", 30, || m.try_sh("trimtab status").out.contains(told));
    let before = (starts(), passes());
    eventually("eight more passes", 40, || passes() >= before.1 + 8);
    let more = starts() - before.0;
    assert!((1..=4).contains(&more), "in {} passes it was started {more} times", passes() - before.1);
    assert_eq!(
        (m.try_sh("trimtab status").code, denied(&m).len(), history(&m)),
        (1, 0, "1 committed *".to_owned()),
        "drift is no trial"
    );
    // Whoever asks does not wait.
    let before = starts();
    let said = m.try_sh("trimtab sync");
    assert!(!said.out.contains("does not stay up"), "{said}");
    eventually("it is started", 2, || starts() > before);
    m.sh("touch /srv/needed");
    let told = m.try_sh("trimtab sync");
    assert_eq!((told.code, m.try_sh("systemctl is-active app").code), (0, 0), "{told}");
    // A new revision is not made to wait for what the last one did.
    app(&ana, "echo new; exec sleep infinity");
    let revision = ana.push("New");
    in_force(&m, &revision);
}
