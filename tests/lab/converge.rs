//! From a commit to a converged machine: the examples, quiet second passes, updates, removal.

use trimtab_tests::lab::trimtab::{converge, enrol, refused, settled};
use trimtab_tests::lab::{self, Boot, Person, Watched, eventually};

use crate::fleet;

/// All that a pass could write or restart; a second pass must leave every inode, time and invocation as it is.
/// (The lock names its holder: each process that holds it writes it.)
const EVERYTHING: &[&str] = &["/etc", "/usr/lib/systemd", "/var/lib/trimtab/*.json", "/var/lib/trimtab/blobs", "/root"];

#[test]
fn the_minimal_example_converges_and_a_second_pass_changes_nothing() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    ana.example("minimal").push("The smallest fleet");
    enrol(&m, &ana, "");
    let plan = m.try_sh("trimtab plan");
    assert_eq!(plan.code, 2, "a plan with changes\n{plan}");
    assert!(plan.out.contains("/etc/hello.conf") && !m.has("/etc/hello.conf"), "a plan shows and does nothing\n{plan}");
    converge(&m);
    assert_eq!(m.read("/etc/hello.conf"), "GREETING=hello from the fleet");
    assert_eq!(m.sh("stat -c '%U:%G %a' /etc/hello.conf /etc/systemd/system/hello.service"), "root:root 644\nroot:root 644");
    assert_eq!(m.sh("systemctl is-active hello; systemctl is-enabled hello"), "active\nenabled");
    eventually("it says hello", 5, || m.sh("journalctl -q -u hello -o cat").contains("hello from the fleet"));

    let before = Watched::new(&m, EVERYTHING, &["hello.service"]);
    settled(&m);
    assert_eq!(m.try_sh("trimtab plan").code, 0);
    before.assert_same(&Watched::new(&m, EVERYTHING, &["hello.service"]));
}

#[test]
fn the_containers_example_serves_its_page_and_a_second_pass_changes_nothing() {
    let Some(m) = lab::boot("shop-1") else { return };
    let ana = Person::new(&m, "ana");
    ana.example("containers");
    let host = format!("{}/hosts/shop-1.toml", ana.working_copy());
    let digest = m.read("/var/lib/lab/busybox-1");
    m.sh(&format!("printf 'image = \"localhost:5000/busybox@{digest}\"\\n' >> {host}"));
    ana.push("A web server in a container");
    enrol(&m, &ana, "");
    converge(&m);
    eventually("the page is served", 10, || {
        m.try_sh("curl -sf --max-time 2 http://localhost:8080/").out.contains("The shop in Lyon")
    });
    assert_eq!(m.sh("podman ps --format '{{.Names}}'"), "systemd-web");
    assert_eq!(m.sh("podman network ls --format '{{.Name}}' | grep -v '^podman$'"), "systemd-web");
    assert_eq!(m.sh("podman volume ls --format '{{.Name}}'"), "systemd-web-data");
    assert_eq!(m.sh("podman inspect systemd-web --format '{{.ImageDigest}}'"), digest);

    let units = ["web.service", "web-network.service", "web-data-volume.service"];
    let before = Watched::new(&m, EVERYTHING, &units);
    settled(&m);
    before.assert_same(&Watched::new(&m, EVERYTHING, &units));

    let before = Watched::new(&m, &["/etc/web", "/etc/containers"], &units);
    // The page is mounted into the container: a new text restarts it, and nothing else.
    m.sh(&format!("sed -i 's/The shop in Lyon/The shop by the river/' {host}"));
    ana.push("A new name");
    converge(&m);
    eventually("the new page", 10, || m.try_sh("curl -sf --max-time 2 http://localhost:8080/").out.contains("by the river"));
    let changes = before.changes(&Watched::new(&m, &["/etc/web", "/etc/containers"], &units));
    assert!(changes.contains(&"web.service".to_owned()), "{changes:?}");
    assert!(!changes.iter().any(|name| name.contains("network") || name.contains("volume")), "{changes:?}");

    // The component leaves: the container goes, the volume and what is in it stay.
    ana.remove("components/web")
        .remove("hosts/shop-1.toml")
        .remove("hosts/shop-2.toml")
        .write("components/idle/files/etc/idle", "idle\n");
    fleet::assign(&ana, &["idle"]);
    ana.push("No shop");
    converge(&m);
    assert_eq!(m.sh("podman ps -a --format '{{.Names}}'"), "");
    assert_eq!(m.sh("podman volume ls --format '{{.Name}}'"), "systemd-web-data");
    assert!(!m.has("/etc/web/httpd.conf") && !m.has("/etc/containers/systemd/web.container"));
}

#[test]
fn the_multi_site_example_makes_two_different_hosts_from_one_repository() {
    let shared = tempfile::tempdir().expect("because there is room");
    let git = Some(shared.path());
    let Some(kiosk) = lab::boot_with(&Boot { name: "kiosk-1", git, ..Boot::default() }) else { return };
    let Some(gateway) = lab::boot_with(&Boot { name: "gateway-1", git, ..Boot::default() }) else { return };
    let ana = Person::new(&kiosk, "ana");
    ana.example("multi-site").push("Several sites");
    let key = ana.key();
    gateway.write("/root/ana.pub", &key);
    enrol(&kiosk, &ana, "");
    let source = "--url https://localhost/fleet.git --ca-file /etc/ssl/lab-ca.pem";
    gateway.sh(&format!("trimtab init {source} --key /root/ana.pub --host gateway-1"));
    gateway.sh("systemctl enable -q --now trimtab-courier.socket");
    converge(&kiosk);
    converge(&gateway);

    let screen = kiosk.read("/etc/kiosk/screen.conf");
    assert!(screen.contains("brightness = 0.8") && screen.contains("site = lyon"), "{screen}");
    assert_eq!(kiosk.sh("stat -c '%U:%G %a' /etc/kiosk/screen.conf /var/lib/kiosk"), "root:kiosk 640\nkiosk:kiosk 750");
    assert_eq!(kiosk.sh("readlink /etc/kiosk/current.conf"), "screen.conf");
    assert_eq!(kiosk.sh("systemctl is-active kiosk.service kiosk-refresh.timer"), "active\nactive");
    assert_eq!(kiosk.sh("systemctl show -p User --value kiosk.service"), "kiosk");
    assert_ne!(kiosk.sh("systemctl show -p MemoryMax --value kiosk.service"), "infinity", "the drop-in counts");
    assert!(kiosk.has("/var/lib/fleet") && kiosk.has("/etc/ntp-fleet.conf"));
    assert_eq!(kiosk.try_sh("systemctl is-enabled ctrl-alt-del.target").out, "masked");

    assert!(!gateway.has("/etc/kiosk") && !gateway.has("/etc/systemd/system/kiosk.service"), "gateways have no screen");
    assert!(!gateway.has("/etc/ntp-fleet.conf"), "hosts/gateway-1.toml leaves ntp out");
    assert!(gateway.read("/etc/motd").starts_with("gateway-1.eu.example.org"));
    for m in [&kiosk, &gateway] {
        let before = Watched::new(m, EVERYTHING, &[]);
        settled(m);
        before.assert_same(&Watched::new(m, EVERYTHING, &[]));
    }
}

#[test]
fn labels_given_at_enrolment_choose_the_groups() {
    let Some(m) = lab::boot("terminal") else { return };
    let ana = Person::new(&m, "ana");
    ana.write(
        "fleet.toml",
        "format = 1\n[[group]]\nname = \"screens\"\nselect = \"role=screen,site in (lyon, turin)\"\ncomponents = [\"screen\"]\n\
         [[group]]\nname = \"others\"\nselect = \"role!=screen\"\ncomponents = [\"other\"]\n",
    );
    ana.write("components/screen/files/etc/screen", "screen\n").write("components/other/files/etc/other", "other\n");
    ana.push("Screens and others");
    enrol(&m, &ana, "--label role=screen --label site=turin");
    converge(&m);
    assert!(m.has("/etc/screen") && !m.has("/etc/other"));
}

#[test]
fn a_changed_file_restarts_only_the_units_that_use_it() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["one", "two"]);
    fleet::service(&ana, "one", "1");
    fleet::service(&ana, "two", "1");
    ana.write("components/two/files/etc/nobody-reads-this", "1\n");
    ana.push("Two services");
    enrol(&m, &ana, "");
    converge(&m);
    let units = ["one.service", "two.service"];
    let files = ["/etc/one.conf", "/etc/two.conf", "/etc/nobody-reads-this", "/etc/systemd/system"];
    let before = Watched::new(&m, &files, &units);
    fleet::service(&ana, "one", "2");
    ana.write("components/two/files/etc/nobody-reads-this", "2\n").push("One changes");
    converge(&m);
    let after = Watched::new(&m, &files, &units);
    assert_eq!(before.changes(&after), ["/etc/nobody-reads-this", "/etc/one.conf", "one.service"]);
    eventually("it runs with the new file", 5, || m.sh("journalctl -q -u one -o cat").contains("setting 2"));
    settled(&m);
}

#[test]
fn a_unit_that_left_the_repository_is_stopped_disabled_and_removed() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = fleet::two_services(&m);
    enrol(&m, &ana, "");
    converge(&m);
    assert!(m.has("/etc/systemd/system/multi-user.target.wants/two.service"));
    let before = Watched::new(&m, &["/etc/one.conf"], &["one.service"]);
    fleet::assign(&ana, &["one"]);
    ana.remove("components/two").push("One is enough");
    converge(&m);
    assert_eq!(m.sh("systemctl show -p LoadState -p ActiveState --value two.service"), "not-found\ninactive");
    for path in ["/etc/two.conf", "/etc/systemd/system/two.service", "/etc/systemd/system/multi-user.target.wants/two.service"] {
        assert!(!m.has(path), "{path}");
    }
    assert_eq!(m.sh("pgrep -xc sleep"), "1", "its process is gone");
    before.assert_same(&Watched::new(&m, &["/etc/one.conf"], &["one.service"]));
    settled(&m);
}

#[test]
fn a_new_install_section_leaves_no_link_of_the_old_one() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["one"]);
    fleet::service(&ana, "one", "1");
    ana.push("Wanted by multi-user.target");
    enrol(&m, &ana, "");
    converge(&m);
    let text = m.read("/etc/systemd/system/one.service").replace("multi-user.target", "timers.target");
    ana.write("components/one/systemd/one.service", &format!("{text}\n")).push("Wanted by timers.target");
    converge(&m);
    let links = m.sh("cd /etc/systemd/system && find . -name one.service -type l");
    assert_eq!(links, "./timers.target.wants/one.service");
    assert_eq!(m.sh("systemctl is-enabled one; systemctl is-active one"), "enabled\nactive");
    settled(&m);
}

#[test]
fn what_a_component_replaced_comes_back_when_it_leaves() {
    let Some(m) = lab::boot("edge-1") else { return };
    m.sh("printf 'the operator wrote this\\n' > /etc/issue.local; chown daemon:adm /etc/issue.local; chmod 0604 /etc/issue.local");
    m.sh("ln -s /etc/issue.local /etc/issue.link");
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["issue", "idle"]);
    ana.write("components/issue/files/etc/issue.local", "from the fleet\n");
    ana.write("components/issue/files/etc/issue.link", "a file now\n");
    ana.write("components/issue/files/etc/deep/down/new", "new\n").write("components/idle/files/etc/idle", "idle\n");
    ana.push("Issue");
    enrol(&m, &ana, "");
    converge(&m);
    assert_eq!(m.sh("cat /etc/issue.local; stat -c '%U:%G %a' /etc/issue.local"), "from the fleet\nroot:root 644");
    assert_eq!(m.sh("cat /etc/issue.link; stat -c %F /etc/issue.link"), "a file now\nregular file");
    fleet::assign(&ana, &["idle"]);
    ana.remove("components/issue").push("No issue");
    converge(&m);
    assert_eq!(m.sh("cat /etc/issue.local; stat -c '%U:%G %a' /etc/issue.local"), "the operator wrote this\ndaemon:adm 604");
    assert_eq!(m.sh("readlink /etc/issue.link"), "/etc/issue.local");
    assert!(!m.has("/etc/deep"), "folders that it made for its files go with them");
    settled(&m);
}

#[test]
fn a_setting_of_the_kernel_is_applied_and_a_new_image_replaces_the_container() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    let (first, second) = (m.read("/var/lib/lab/busybox-1"), m.read("/var/lib/lab/busybox-2"));
    fleet::assign(&ana, &["web"]);
    fleet::container(&ana, "web", &first);
    // One of the machine's own network namespace: everything else would be the host's kernel's.
    ana.write("components/web/sysctl/50-web.conf", "net.ipv4.ip_default_ttl = 77\n").push("Version 1");
    enrol(&m, &ana, "");
    converge(&m);
    eventually("version 1 answers", 10, || m.try_sh("curl -sf --max-time 2 http://localhost:8080/version").out == "1");
    assert_eq!(m.read("/proc/sys/net/ipv4/ip_default_ttl"), "77");
    fleet::container(&ana, "web", &second);
    ana.push("Version 2");
    converge(&m);
    eventually("version 2 answers", 10, || m.try_sh("curl -sf --max-time 2 http://localhost:8080/version").out == "2");

    // An image that nobody has: the old one goes on serving.
    fleet::container(&ana, "web", &format!("sha256:{}", "0".repeat(64)));
    ana.push("Version 3 was never pushed");
    let before = Watched::new(&m, &["/etc/containers"], &["web.service"]);
    let said = refused(&m);
    assert!(said.contains("localhost:5000/busybox"), "{said}");
    before.assert_same(&Watched::new(&m, &["/etc/containers"], &["web.service"]));
    assert_eq!(m.sh("curl -sf --max-time 2 http://localhost:8080/version"), "2");
}
