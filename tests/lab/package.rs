//! The packages, installed by dpkg and rpm as people do it: enrol, upgrade in the middle of a pass, downgrade, remove, reinstall,
//! purge, on Debian 13 and on Debian 12, which has no Quadlet. Left out when the lab runs on a bare binary: `packaging/for-lab` makes
//! the packages, and `TRIMTAB_LAB_PACKAGES` says where they are.

use std::path::PathBuf;

use trimtab_tests::lab::trimtab::{carry, enrol, package, refused, settled, start_agent};
use trimtab_tests::lab::{self, Boot, Machine, Person, Suite, Watched, eventually};

use crate::fleet;

/// A machine without trimtab, and the older and the newer package of one kind, carried into it.
fn bare(name: &str, suite: Suite, ending: &str) -> Option<(Machine, String, String)> {
    let (older, newer): (PathBuf, PathBuf) = (package("older", ending)?, package("", ending)?);
    let machine = lab::boot_with(&Boot { name, suite, bare: true, ..Boot::default() })?;
    let (older, newer) = (carry(&machine, &older), carry(&machine, &newer));
    Some((machine, older, newer))
}

/// No package half-installed, no unit failed.
#[track_caller]
fn in_order(m: &Machine) {
    assert_eq!(m.sh("dpkg --audit; systemctl --failed --no-legend"), "");
}

/// Installed and not enrolled: enabled, and not running.
#[track_caller]
fn waits_for_enrolment(m: &Machine) {
    assert_eq!(
        m.sh("systemctl is-enabled trimtab.service trimtab-courier.socket trimtab-status.socket trimtab-guard.path"),
        "enabled\nenabled\nenabled\nenabled"
    );
    assert_eq!(m.sh("systemctl show -p ActiveState -p ConditionResult --value trimtab"), "inactive\nno");
    assert_eq!(
        m.sh("stat -c '%U:%G %a' /etc/trimtab; id -un trimtab-courier trimtab-status"),
        "root:root 755\ntrimtab-courier\ntrimtab-status"
    );
    assert!(!m.has("/etc/trimtab/agent.toml") && !m.has("/var/lib/trimtab/ledger.json"));
    for file in ["man/man8/trimtab.8.gz", "man/man5/trimtab-agent.toml.5.gz", "bash-completion/completions/trimtab"] {
        assert!(m.has(&format!("/usr/share/{file}")), "{file}");
    }
}

fn installed(m: &Machine) -> String {
    m.sh("dpkg-query -W -f '${Version} ${db:Status-Status}' trimtab")
}

fn pid(m: &Machine) -> String {
    m.sh("systemctl show -p MainPID --value trimtab")
}

/// A whole pass from now on.
fn synced(m: &Machine) {
    eventually("a pass that was asked for", 30, || m.try_sh("trimtab sync").code == 0);
}

const HOST: &[&str] = &["/etc/one.conf", "/etc/systemd/system/one.service", "/etc/slow.conf"];

fn life(name: &str, suite: Suite) {
    let Some((m, older, newer)) = bare(name, suite, "_amd64.deb") else { return };
    m.sh(&format!("dpkg -i {older}"));
    waits_for_enrolment(&m);
    in_order(&m);

    // Enrolled, and following the repository.
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["one"]);
    fleet::service(&ana, "one", "1");
    ana.push("One service");
    m.write("/etc/trimtab/operators-own.pem", "theirs\n");
    enrol(&m, &ana, "");
    start_agent(&m);
    eventually("the first converge", 30, || m.try_sh("systemctl is-active one").code == 0);
    let one = Watched::new(&m, &HOST[..2], &["one.service"]);

    upgrade(&m, &ana, &newer);
    one.assert_same(&Watched::new(&m, &HOST[..2], &["one.service"]));

    // A downgrade is dpkg's to allow; the older agent reads what the newer wrote and touches nothing.
    let (before, old) = (Watched::new(&m, HOST, &["one.service", "slow.service"]), pid(&m));
    let said = m.try_sh(&format!("dpkg -i {older} 2>&1"));
    assert!(said.code == 0 && said.out.contains("downgrading"), "{said}");
    assert_ne!(pid(&m), old, "an enrolled agent is restarted");
    synced(&m);
    before.assert_same(&Watched::new(&m, HOST, &["one.service", "slow.service"]));

    leave_and_come_back(&m, &newer);
}

/// The new package comes while a pass waits for a slow unit.
fn upgrade(m: &Machine, ana: &Person<'_>, newer: &str) {
    fleet::assign(ana, &["one", "slow"]);
    ana.write("components/slow/files/etc/slow.conf", "slow\n").write(
        "components/slow/systemd/slow.service",
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sleep 4\n[Install]\nWantedBy=multi-user.target\n",
    );
    ana.push("A slow start");
    eventually("the pass is at the slow unit", 30, || m.try_sh("systemctl is-active slow").out == "activating");
    let old = pid(m);
    m.sh(&format!("dpkg -i {newer}"));
    assert!(installed(m).ends_with(" installed") && !installed(m).starts_with("0.0.1"), "{}", installed(m));
    in_order(m);
    assert_ne!(pid(m), old, "the new agent runs");
    synced(m);
    assert_eq!(m.sh("systemctl is-active slow; systemctl is-enabled slow; cat /etc/slow.conf"), "active\nenabled\nslow");
    // The old agent left in the middle of the pass; the new one could not know how far the start had come, and began it anew.
    let passes = m.sh("journalctl -q -t trimtab -o cat | grep -c '^wrote file /etc/slow.conf'");
    assert_eq!(passes, "1", "what was done was not done again");
    assert_eq!(m.sh("systemctl show -p NRestarts --value trimtab"), "0");
}

fn leave_and_come_back(m: &Machine, newer: &str) {
    let units = ["one.service", "slow.service"];
    let before = Watched::new(m, HOST, &units);
    m.sh("dpkg -r trimtab");
    in_order(m);
    assert_eq!(m.try_sh("pgrep -x trimtab").out, "");
    assert!(!m.has("/usr/bin/trimtab") && !m.has("/run/trimtab-courier/courier.sock"));
    assert!(m.has("/etc/trimtab/agent.toml") && m.has("/var/lib/trimtab/ledger.json"), "enrolment and memory are kept");
    before.assert_same(&Watched::new(m, HOST, &units));

    m.sh("echo SETTING=mine > /etc/one.conf");
    m.sh(&format!("dpkg -i {newer}"));
    eventually("it goes on at once, and repairs what was done meanwhile", 30, || m.read("/etc/one.conf") == "SETTING=1");
    synced(m);
    in_order(m);

    let before = Watched::new(m, HOST, &units);
    m.sh("dpkg -P trimtab");
    in_order(m);
    for path in
        ["/var/lib/trimtab", "/var/cache/trimtab", "/etc/trimtab/state", "/etc/trimtab/agent.toml", "/usr/share/doc/trimtab"]
    {
        assert!(!m.has(path), "{path}");
    }
    assert_eq!(m.read("/etc/trimtab/operators-own.pem"), "theirs");
    assert_eq!(m.sh("systemctl list-unit-files --no-legend 'trimtab*'; find /etc/systemd /var/lib/systemd -name 'trimtab*'"), "");
    before.assert_same(&Watched::new(m, HOST, &units));
    // And again from nothing.
    m.sh(&format!("dpkg -i {newer} && rm -r /etc/trimtab/operators-own.pem"));
    waits_for_enrolment(m);
}

#[test]
fn the_deb_lives_through_everything_on_debian_13() {
    life("edge-1", Suite::Trixie);
}

#[test]
fn the_deb_lives_through_everything_on_debian_12() {
    life("edge-1", Suite::Bookworm);
}

#[test]
fn debian_12_has_no_quadlet_says_so_and_does_the_rest() {
    let boot = Boot { name: "edge-1", suite: Suite::Bookworm, ..Boot::default() };
    let Some(m) = lab::boot_with(&boot) else { return };
    assert!(m.sh("systemctl --version").starts_with("systemd 252") && m.sh("podman --version").contains(" 4.3"));
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["one", "web"]);
    fleet::service(&ana, "one", "1");
    fleet::container(&ana, "web", &format!("sha256:{}", "0".repeat(64)));
    ana.write("components/web/files/etc/web.conf", "for the container\n");
    ana.write("components/one/tmpfiles/one.conf", "d /var/lib/one 0750 root root -\n");
    ana.push("A service and a container");
    enrol(&m, &ana, "");
    let said = refused(&m);
    assert_eq!(said.lines().filter(|line| line.starts_with("problem ")).count(), 1, "one problem\n{said}");
    assert!(said.contains("no Quadlet generator") && said.contains("podman 4.4"), "{said}");
    assert_eq!(m.sh("systemctl is-active one; systemctl is-enabled one; cat /etc/one.conf"), "active\nenabled\nSETTING=1");
    assert_eq!(m.sh("stat -c %a /var/lib/one"), "750");
    assert!(
        !m.has("/etc/containers/systemd/web.container") && !m.has("/etc/web.conf"),
        "nothing of the component is left lying about"
    );
    let before = Watched::new(&m, &["/etc", "/var/lib/one"], &["one.service"]);
    assert!(refused(&m).contains("component web"), "it stays said");
    before.assert_same(&Watched::new(&m, &["/etc", "/var/lib/one"], &["one.service"]));
    assert!(m.try_sh("trimtab status").out.contains("component web"));

    // The others go on being updated, and the way out that the repository has is quiet.
    fleet::service(&ana, "one", "2");
    ana.push("Two");
    refused(&m);
    assert_eq!(m.read("/etc/one.conf"), "SETTING=2");
    ana.write("hosts/edge-1.toml", "without = [\"web\"]\n").push("No containers there");
    settled(&m);
}

#[test]
fn the_rpm_is_installed_upgraded_and_erased() {
    let Some((m, older, newer)) = bare("edge-1", Suite::Bookworm, ".x86_64.rpm") else { return };
    // Debian's database knows systemd, rpm's does not.
    let rpm = "rpm --force-debian --nodeps";
    m.sh(&format!("{rpm} -i {older}"));
    waits_for_enrolment(&m);
    assert_eq!(m.sh("rpm --force-debian -V trimtab --nodeps; systemctl --failed --no-legend"), "");

    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["one"]);
    fleet::service(&ana, "one", "1");
    ana.push("One service");
    enrol(&m, &ana, "");
    start_agent(&m);
    eventually("the first converge", 30, || m.try_sh("systemctl is-active one").code == 0);
    let (before, old) = (Watched::new(&m, &HOST[..2], &["one.service"]), pid(&m));
    m.sh(&format!("{rpm} -U {newer}"));
    assert_ne!(pid(&m), old, "the running agent is restarted");
    synced(&m);
    before.assert_same(&Watched::new(&m, &HOST[..2], &["one.service"]));

    m.sh(&format!("{rpm} -e trimtab"));
    assert_eq!(m.try_sh("pgrep -x trimtab").out, "");
    for path in ["/usr/bin/trimtab", "/usr/share/doc/trimtab", "/usr/share/licenses/trimtab", "/run/trimtab-courier/courier.sock"] {
        assert!(!m.has(path), "{path}");
    }
    assert!(m.has("/etc/trimtab/agent.toml") && m.has("/var/lib/trimtab/ledger.json"), "enrolment and memory are kept");
    assert_eq!(m.sh("systemctl list-unit-files --no-legend 'trimtab*'; systemctl --failed --no-legend"), "");
    before.assert_same(&Watched::new(&m, &HOST[..2], &["one.service"]));
}

/// systemd's own measure: 0 is a unit that may do nothing, 10 one that may do everything.
#[test]
fn the_units_give_up_what_they_can() {
    let Some(m) = lab::boot("units") else { return };
    let exposure = |unit: &str| -> f64 {
        let told = m.sh(&format!("systemd-analyze security --no-pager {unit} | tail -n 1"));
        let figure = told.split(": ").nth(1).and_then(|rest| rest.split(' ').next());
        figure.and_then(|figure| figure.parse().ok()).unwrap_or_else(|| panic!("no figure in {told:?}"))
    };
    let (courier, agent) = (exposure("trimtab-courier@x.service"), exposure("trimtab.service"));
    let (guard, endpoint) = (exposure("trimtab-guard.service"), exposure("trimtab-status.service"));
    assert!(guard <= agent, "the guard's exposure is {guard}, the agent's {agent}");
    assert!(endpoint <= 1.0, "the endpoint's exposure is {endpoint}");
    assert!(courier <= 2.0, "the courier's exposure is {courier}");
    // 4.2 but for CAP_SYS_ADMIN, without which nobody could be told who made a change, and for asking whether the clock is kept (see the unit).
    assert!(agent <= 4.8, "the agent's exposure is {agent}");
}

/// A release folder on the machine, signed with a key made there; the key's public half.
fn release(m: &Machine, deb: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    m.sh(&format!(
        "mkdir /root/release && cp {deb} /root/release/ && cd /root/release && sha256sum *.deb > SHA256SUMS && \
         minisign -G -W -p /root/k.pub -s /root/k.key >/dev/null && minisign -S -s /root/k.key -m SHA256SUMS -t 'trimtab {version}' >/dev/null"
    ));
    m.sh("tail -n 1 /root/k.pub")
}

#[test]
fn install_sh_proves_the_package_first_and_makes_a_lost_machine_again() {
    let Some((m, _, newer)) = bare("edge-1", Suite::Bookworm, "_amd64.deb") else { return };
    carry(&m, &lab::project().join("packaging/install.sh"));
    let key = release(&m, &newer);
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["one"]);
    fleet::service(&ana, "one", "1");
    ana.push("One service");
    let words = format!("--url https://localhost/fleet.git --ca-file /etc/ssl/lab-ca.pem --key {} --host edge-1", ana.key_file());
    let install = |key: &str, version: &str, from: &str| {
        m.try_sh(&format!("TRIMTAB_KEY={key} TRIMTAB_VERSION={version} sh /root/install.sh --from {from} -- {words}"))
    };
    let version = env!("CARGO_PKG_VERSION");
    let refused = |ran: lab::Ran, why: &str| {
        assert!(ran.code == 1 && ran.err.contains(why), "{ran}");
        assert!(!m.has("/usr/bin/trimtab") && !m.has("/etc/trimtab"), "nothing was installed\n{ran}");
    };
    refused(install("", version, "/root/release"), "carries no key");
    let other = m.sh("minisign -G -W -p /root/o.pub -s /root/o.key >/dev/null && tail -n 1 /root/o.pub");
    refused(install(&other, version, "/root/release"), "signature of SHA256SUMS does not hold");
    refused(install(&key, "9.9.9", "/root/release"), "not of trimtab 9.9.9");
    m.sh("cp -r /root/release /root/spoilt && echo >> /root/spoilt/*.deb");
    refused(install(&key, version, "/root/spoilt"), "is not the one that was signed");
    m.sh("cp -r /root/release /root/forged && cd /root/forged && echo >> *.deb && sha256sum *.deb > SHA256SUMS");
    refused(install(&key, version, "/root/forged"), "signature of SHA256SUMS does not hold");

    let began = std::time::Instant::now();
    let ran = install(&key, version, "/root/release");
    assert_eq!(ran.code, 0, "{ran}");
    eventually("a converged machine", 60, || m.try_sh("systemctl is-active one").code == 0);
    println!("from install.sh to converged: {} ms", began.elapsed().as_millis());
    assert_eq!(m.read("/etc/one.conf"), "SETTING=1");
}
