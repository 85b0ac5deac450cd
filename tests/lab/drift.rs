//! What somebody changes by hand is put right.

use trimtab_tests::lab::trimtab::{converge, enrol, once_field, refused, settled, start_agent, undone};
use trimtab_tests::lab::{self, Person, Watched, eventually};

use crate::fleet;
use crate::trial::status;

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
    let ana = fleet::two_services(&m);
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
    let ana = fleet::two_services(&m);
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

/// The changes that the next pass would make: resource, cause and first property of each.
fn planned(m: &lab::Machine) -> String {
    let one = r#""\(.resource) \(.cause) \(.differs[0].property)""#;
    m.try_sh(&format!("trimtab plan --offline --json | jq -r '[.changes[] | {one}] | join(\", \")'")).out
}

/// A container by a tag that runs, and one by a digest that does not: an image of the second is needed all the same.
#[test]
fn an_image_that_is_gone_and_a_container_of_another_one_are_drift() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["one", "web", "tool"]);
    fleet::service(&ana, "one", "1");
    let second = format!("localhost:5000/busybox@{}", m.read("/var/lib/lab/busybox-2"));
    let serves =
        "Exec=/bin/httpd -f -p 8080 -h /etc\nPublishPort=8080:8080\nStopTimeout=0\n[Install]\nWantedBy=multi-user.target\n";
    ana.write("components/web/quadlet/web.container", &format!("[Container]\nImage=localhost:5000/busybox:1\n{serves}"));
    ana.write("components/tool/quadlet/tool.container", &format!("[Container]\nImage={second}\n"));
    ana.push("Two containers");
    enrol(&m, &ana, "");
    converge(&m);
    settled(&m);
    let answers = |version: &str| m.try_sh("curl -sf --max-time 2 http://localhost:8080/version").out == version;
    let id = |name: &str| m.sh(&format!("podman image inspect --format '{{{{.Id}}}}' {name}"));
    let ran = || m.sh("systemctl show -P InvocationID web");
    eventually("it serves", 10, || answers("1"));

    // One that nothing runs is removed.
    m.sh(&format!("podman rmi {second}"));
    assert_eq!(planned(&m), format!("image {second} drift missing"));
    converge(&m);
    m.sh(&format!("podman image exists {second}"));
    settled(&m);

    // The name is given to another image: nothing runs otherwise than before, until a person would restart it.
    let (old, new, first) = (id("localhost:5000/busybox:1"), id(&second), ran());
    assert_ne!(old, new);
    m.sh("trimtab pin web --reason 'not now' --until 1h");
    m.sh(&format!("podman tag {second} localhost:5000/busybox:1"));
    assert_eq!(planned(&m), "unit web.service drift image");
    assert_eq!(once_field(&m, ".outcome"), "paused");
    assert!(ran() == first && answers("1"), "a pin is respected");
    m.sh("trimtab unpin web");
    let told = once_field(&m, ".changes[0].differs[0] | \"\\(.found) \\(.wanted)\"");
    assert_eq!(told, format!("{} {}", &old[..12], &new[..12]));
    eventually("it serves the other", 10, || answers("2"));
    assert_ne!(ran(), first);
    settled(&m);

    // Podman fails: files are put right in the same pass, and nothing is told of images that nobody could look at.
    m.sh("mv /usr/bin/podman /usr/bin/podman.away; printf '#!/bin/sh\nexit 125\n' > /usr/bin/podman; chmod 755 /usr/bin/podman");
    m.sh("echo SETTING=mine > /etc/one.conf");
    let said = refused(&m);
    assert!(said.contains("could not list the images") && m.read("/etc/one.conf") == "SETTING=1", "{said}");
    let counts = "#!/bin/sh\necho $1 >> /run/asked\nexec /usr/bin/podman.away \"$@\"\n";
    m.write("/usr/bin/podman", counts);
    m.sh("chmod 755 /usr/bin/podman");
    settled(&m);

    // The agent finds it at its next look, with no event to tell it, and asks Podman only when there may be something.
    start_agent(&m);
    eventually("the first pass", 20, || status(&m, ".lastPass.wake") == "timer");
    let asked = || m.sh("grep -c images /run/asked");
    let passes = || status(&m, ".lastPass.number").parse::<u64>().expect("because passes are numbered");
    let (asked_before, number) = (asked(), passes());
    eventually("four more passes", 20, || passes() > number + 3);
    assert_eq!(asked(), asked_before, "nothing happened that it must ask for");
    let found = || status(&m, ".counters.driftFound");
    let before: u64 = found().parse().expect("because drifts are counted");
    m.sh(&format!("podman tag {old} localhost:5000/busybox:1"));
    eventually("it serves the first again", 20, || answers("1"));
    m.sh(&format!("podman rmi {second}"));
    eventually("it is pulled again", 20, || m.try_sh(&format!("podman image exists {second}")).code == 0);
    eventually("it is calm", 20, || status(&m, "[.ready, .driftStanding]") == "[true,0]");
    let number = passes();
    eventually("three more passes", 20, || passes() > number + 2);
    let told = m.sh("trimtab drift list");
    assert_eq!(found(), (before + 2).to_string(), "each once:\n{told}");
    assert_eq!(m.sh(&format!("trimtab explain '{second}' --json | jq -r '.drift[0].state'")), "repaired");
    m.sh("podman rmi -f localhost:5000/busybox:1");
    eventually("it serves again", 20, || answers("1"));
}
