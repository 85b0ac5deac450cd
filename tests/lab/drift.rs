//! What somebody changes by hand is put right.

use trimtab_tests::lab::trimtab::{converge, enrol, refused, settled, start_agent};
use trimtab_tests::lab::{self, Person, Watched, eventually};

use crate::fleet;

#[test]
fn spoiled_files_are_repaired_and_what_they_held_is_kept() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["one"]);
    fleet::service(&ana, "one", "1");
    m.sh(&format!(
        "mkdir -p {}/components/one/files/etc && ln -s one.conf {0}/components/one/files/etc/one.link",
        ana.working_copy()
    ));
    ana.push("One service");
    enrol(&m, &ana, "");
    converge(&m);
    // command that spoils it; what must hold again
    let spoils = [
        ("echo SETTING=mine > /etc/one.conf", "cat /etc/one.conf", "SETTING=1"),
        ("chmod 0666 /etc/one.conf", "stat -c %a /etc/one.conf", "644"),
        ("chown daemon:adm /etc/one.conf", "stat -c %U:%G /etc/one.conf", "root:root"),
        ("rm /etc/one.conf", "cat /etc/one.conf", "SETTING=1"),
        (
            "rm /etc/one.conf; ln -s /etc/shadow /etc/one.conf",
            "stat -c %F /etc/one.conf; cat /etc/one.conf",
            "regular file\nSETTING=1",
        ),
        ("ln -sfn /etc/shadow /etc/one.link", "readlink /etc/one.link", "one.conf"),
        ("rm /etc/systemd/system/one.service; systemctl daemon-reload", "systemctl cat one | grep -c ExecStart", "1"),
        ("systemctl stop one", "systemctl is-active one", "active"),
        ("systemctl disable -q one", "systemctl is-enabled one", "enabled"),
    ];
    let shadow = m.sh("sha256sum /etc/shadow; stat -c '%i %a %Y' /etc/shadow");
    for (spoil, look, want) in spoils {
        m.sh(spoil);
        assert_ne!(m.try_sh(look).out, want, "this spoils nothing: {spoil}");
        let plan = m.try_sh("trimtab plan --offline");
        assert_eq!(plan.code, 2, "the plan sees it: {spoil}\n{plan}");
        converge(&m);
        assert_eq!(m.try_sh(look).out, want, "after {spoil}");
        settled(&m);
    }
    assert_eq!(m.sh("sha256sum /etc/shadow; stat -c '%i %a %Y' /etc/shadow"), shadow, "no link was followed");
    let kept = m.sh("grep -rl SETTING=mine /var/lib/trimtab | wc -l");
    assert_ne!(kept, "0", "what repair overwrote is kept for the operator");
}

#[test]
fn what_is_no_file_is_left_alone_and_told_and_the_rest_converges() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["one", "two"]);
    fleet::service(&ana, "one", "1");
    fleet::service(&ana, "two", "1");
    ana.push("Two services");
    enrol(&m, &ana, "");
    converge(&m);
    for stand in
        ["mkfifo /etc/one.conf", "mkdir -p /etc/one.conf/somebodys", "mkdir /etc/one.conf && mount -t tmpfs none /etc/one.conf"]
    {
        m.sh(&format!("rm /etc/one.conf; {stand}; echo SETTING=mine > /etc/two.conf"));
        let said = refused(&m);
        assert!(said.contains("/etc/one.conf"), "{stand}: {said}");
        assert_eq!(m.read("/etc/two.conf"), "SETTING=1", "the other file converges beside {stand}");
        m.sh("umount -q /etc/one.conf; rm -r /etc/one.conf");
        converge(&m);
        assert_eq!(m.sh("cat /etc/one.conf; systemctl is-active one two"), "SETTING=1\nactive\nactive");
        settled(&m);
    }
}

#[test]
fn a_killed_container_and_a_deleted_quadlet_file_come_back() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["web"]);
    fleet::container(&ana, "web", &m.read("/var/lib/lab/busybox-1"));
    ana.push("A container");
    enrol(&m, &ana, "");
    converge(&m);
    let answers = || m.try_sh("curl -sf --max-time 2 http://localhost:8080/version").out == "1";
    eventually("it answers", 10, answers);
    let spoils = [
        "podman kill systemd-web",
        "podman rm -f -t 0 systemd-web",
        "rm /etc/containers/systemd/web.container",
        "rm /etc/containers/systemd/web.container; systemctl stop web; systemctl daemon-reload",
    ];
    for spoil in spoils {
        m.sh(spoil);
        // What was killed takes systemd a moment to see; before that nothing differs.
        eventually("the plan sees it", 10, || m.try_sh("trimtab plan --offline").code == 2);
        converge(&m);
        eventually("it answers again", 10, answers);
        assert!(m.has("/etc/containers/systemd/web.container"), "after {spoil}");
        settled(&m);
    }
}

#[test]
fn the_running_agent_repairs_by_itself() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["one", "two"]);
    fleet::service(&ana, "one", "1");
    fleet::service(&ana, "two", "1");
    ana.push("Two services");
    enrol(&m, &ana, "");
    start_agent(&m);
    eventually("the first converge", 20, || m.try_sh("systemctl is-active one two").code == 0);
    let two = Watched::new(&m, &["/etc/two.conf"], &["two.service"]);
    m.sh("echo SETTING=mine > /etc/one.conf; chmod 0600 /etc/systemd/system/one.service; systemctl stop one");
    eventually("all of it is put right", 20, || {
        m.try_sh("systemctl is-active one").code == 0
            && m.read("/etc/one.conf") == "SETTING=1"
            && m.sh("stat -c %a /etc/systemd/system/one.service") == "644"
    });
    two.assert_same(&Watched::new(&m, &["/etc/two.conf"], &["two.service"]));
}
