//! What somebody changes by hand is put right.

use trimtab_tests::lab::trimtab::{converge, enrol, refused, settled, start_agent, undone};
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

/// A service that reads a file of which one key belongs to a program of the host.
#[test]
fn keys_of_others_restart_nobody_and_outlive_repair_update_and_rollback() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    let c = format!("{}/components/one", ana.working_copy());
    fleet::assign(&ana, &["one"]);
    m.sh(&format!("mkdir -p {c}/files/etc {c}/systemd"));
    let rule = "[[file]]\npath = \"/etc/one.json\"\nignore = [\"window.x\"]\n";
    m.write(&format!("{c}/component.toml"), rule);
    m.write(&format!("{c}/files/etc/one.json"), "{\n  \"name\": \"first\",\n  \"window\": {\"x\": 1}\n}\n");
    let unit = "[Service]\nExecStart=/bin/sh -c 'grep -q first /etc/one.json && exec sleep infinity; exit 1' /etc/one.json\n[Install]\nWantedBy=multi-user.target\n";
    m.write(&format!("{c}/systemd/one.service"), unit);
    ana.push("A service and its file");
    enrol(&m, &ana, "");
    converge(&m);
    let ran = || m.sh("systemctl show -P InvocationID one");
    let first = ran();
    m.write("/etc/one.json", "{\"window\":{\"x\":77},\"name\":\"first\"}");
    assert_eq!(m.try_sh("trimtab plan --offline").code, 0, "only what is somebody else's differs");
    settled(&m);
    assert_eq!((ran(), m.read("/etc/one.json")), (first.clone(), "{\"window\":{\"x\":77},\"name\":\"first\"}".to_owned()));
    // Drift beside it: repaired around it.
    m.write("/etc/one.json", "{\"window\":{\"x\":78},\"name\":\"spoiled\"}");
    converge(&m);
    assert_eq!(m.sh("jq -c . /etc/one.json"), "{\"name\":\"first\",\"window\":{\"x\":78}}");
    assert_ne!(ran(), first, "what it reads was put right");
    // A revision that does not come up: its undoing keeps what is not the repository's either.
    m.write(&format!("{c}/files/etc/one.json"), "{\n  \"name\": \"bad\",\n  \"window\": {\"x\": 1}\n}\n");
    ana.push("A bad one");
    undone(&m);
    assert_eq!(m.sh("jq -c . /etc/one.json; systemctl is-active one"), "{\"name\":\"first\",\"window\":{\"x\":78}}\nactive");
    // A unit file itself, with a key that is left to the host.
    m.sh(&format!("git -C {} revert --no-edit HEAD", ana.working_copy()));
    m.write(
        &format!("{c}/component.toml"),
        format!("{rule}[[file]]\npath = \"/etc/systemd/system/one.service\"\nignore = [\"Service.Nice\"]\n"),
    );
    ana.push("The host sets how nice it is");
    settled(&m);
    m.sh("sed -i '/ExecStart/i Nice=7' /etc/systemd/system/one.service && systemctl daemon-reload");
    settled(&m);
    assert_eq!(m.sh("systemctl show -P Nice one; grep -c Nice /etc/systemd/system/one.service"), "7\n1");
}
