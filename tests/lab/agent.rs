//! The agent as a service over time: faults, kills, power cuts, upgrades, silence, and no network of its own.

use std::collections::BTreeSet;
use std::fs;
use std::time::Instant;

use trimtab_tests::lab::trimtab::{converge, enrol, replace_binary, settled, start_agent};
use trimtab_tests::lab::{self, Machine, Person, Watched, eventually};

use crate::fleet;

const SHOWN: &[&str] = &["/etc/one.conf", "/etc/systemd/system"];

fn with_agent(m: &Machine) -> Person<'_> {
    let ana = Person::new(m, "ana");
    fleet::assign(&ana, &["one"]);
    fleet::service(&ana, "one", "1");
    ana.push("One service");
    enrol(m, &ana, "");
    start_agent(m);
    eventually("the first converge", 20, || m.try_sh("systemctl is-active one").code == 0);
    ana
}

/// A whole pass from now on; an agent that has just started is waited for.
fn synced(m: &Machine) {
    eventually("a pass that was asked for", 20, || m.try_sh("trimtab sync").code == 0);
}

fn pid(m: &Machine) -> String {
    m.sh("systemctl show -p MainPID --value trimtab")
}

#[test]
fn a_dead_git_server_changes_nothing_and_is_found_again() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = with_agent(&m);
    fleet::service(&ana, "one", "2");
    ana.git("add -A && git commit -q -m 'While it is dead'");
    m.sh("systemctl stop nginx");
    let unit = Watched::new(&m, SHOWN, &["one.service"]);
    m.sh("echo SETTING=mine > /etc/one.conf");
    eventually("drift is repaired without a source", 20, || m.read("/etc/one.conf") == "SETTING=1");
    eventually("it tells of it", 20, || m.sh("journalctl -q -t trimtab -o json").contains("\"TRIMTAB_OUTCOME\":\"unreachable\""));
    assert_eq!(m.sh("systemctl is-active trimtab one"), "active\nactive");
    assert_ne!(unit.changes(&Watched::new(&m, SHOWN, &[])), Vec::<String>::new(), "the file was written again");
    m.sh("systemctl start nginx");
    ana.git("push -q origin HEAD:main");
    eventually("the new commit arrives", 20, || m.read("/etc/one.conf") == "SETTING=2");
    assert_eq!(m.sh("systemctl show -p NRestarts --value trimtab"), "0");
}

#[test]
fn an_upgrade_of_the_binary_keeps_the_state() {
    let Some(m) = lab::boot("edge-1") else { return };
    m.sh("echo 'the operator wrote this' > /etc/one.conf");
    let ana = with_agent(&m);
    let (before, old) = (Watched::new(&m, SHOWN, &["one.service"]), pid(&m));
    replace_binary(&m);
    eventually("it goes on under the old binary", 10, || m.sh("systemctl is-active trimtab") == "active");
    m.sh("systemctl restart trimtab");
    assert_ne!(pid(&m), old);
    synced(&m);
    before.assert_same(&Watched::new(&m, SHOWN, &["one.service"]));
    ana.write("components/idle/files/etc/idle", "idle\n").remove("components/one");
    fleet::assign(&ana, &["idle"]);
    ana.push("The new binary knows what the old one owned");
    eventually("it is taken back", 20, || m.read("/etc/one.conf") == "the operator wrote this");
    assert_eq!(m.sh("systemctl show -p LoadState --value one"), "not-found");
}

#[test]
fn a_pass_that_is_killed_at_any_moment_leaves_whole_files_and_is_redone() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    let write = |letter: &str| {
        fleet::service(&ana, "one", letter);
        for number in 0..8 {
            ana.write(&format!("components/one/files/etc/big/{number}"), &(letter.repeat(20_000) + "\n"));
        }
        ana.push(letter);
    };
    fleet::assign(&ana, &["one"]);
    write("a");
    enrol(&m, &ana, "");
    converge(&m);
    write("b");
    let began = Instant::now();
    converge(&m);
    let whole = u32::try_from(began.elapsed().as_millis()).expect("because a pass does not take weeks");
    // Spread over a whole pass, and within that at moments that no run repeats.
    let rounds = ["c", "d", "e", "f", "g", "h", "i", "j"];
    for (number, round) in (0..).zip(rounds) {
        write(round);
        let (from, to) = (whole * number / 8, whole * (number + 1) / 8);
        m.sh(&format!(
            "at=$(printf %05d $(shuf -i {from}-{to} -n 1)); trimtab once >/tmp/once 2>&1 & sleep ${{at%???}}.${{at#??}}; \
             kill -9 $! 2>/dev/null; wait $!; true"
        ));
        let kinds = m.sh("for f in /etc/big/[0-9]; do fold -w1 $f | sort -u | tr -d '\\n'; stat -c ' %s' $f; done");
        for line in kinds.lines() {
            assert!(line.len() == "a 20001".len() && line.ends_with(" 20001"), "a file that is neither old nor new: {line}");
        }
        let ran = m.try_sh("trimtab once");
        assert!(ran.code == 0 || ran.code == 2, "the next pass mends it\n{ran}");
        assert_eq!(m.sh("cat /etc/big/* | fold -w1 | sort -u | tr -d '\\n'; cat /etc/one.conf"), format!("{round}SETTING={round}"));
        assert_eq!(m.sh("ls -A /etc/big | tr -d '\n'"), "01234567", "no leftovers beside the files");
        assert_eq!(
            m.sh("systemctl is-active one; journalctl -q -u one -o cat | grep setting | tail -n 1"),
            format!("active\nsetting {round}")
        );
        settled(&m);
    }
}

#[test]
fn a_killed_agent_is_started_again_and_a_power_cut_or_reboot_changes_nothing() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = with_agent(&m);
    let old = pid(&m);
    m.sh("systemctl kill -s KILL trimtab");
    eventually("systemd starts it again", 15, || m.sh("systemctl is-active trimtab; true") == "active" && pid(&m) != old);
    fleet::service(&ana, "one", "2");
    ana.push("After the kill");
    eventually("it converges again", 20, || m.read("/etc/one.conf") == "SETTING=2");
    synced(&m);
    m.sh("sync");
    let before = Watched::new(&m, SHOWN, &[]);
    m.power_cut();
    m.start();
    assert_eq!(m.sh("systemctl is-active trimtab one"), "active\nactive");
    synced(&m);
    before.assert_same(&Watched::new(&m, SHOWN, &[]));
    fleet::service(&ana, "one", "2b");
    ana.push("Cut in the middle of its pass");
    m.sh("sync; (trimtab sync >/dev/null 2>&1 &) ; sleep 0.1");
    m.power_cut();
    m.start();
    eventually("it goes on where it was", 20, || m.read("/etc/one.conf") == "SETTING=2b");
    synced(&m);
    assert_eq!(m.sh("systemctl is-active one; journalctl -q -b -u one -o cat | grep setting | tail -n 1"), "active\nsetting 2b");
    let before = Watched::new(&m, SHOWN, &[]);
    m.reboot();
    synced(&m);
    before.assert_same(&Watched::new(&m, SHOWN, &[]));
    fleet::service(&ana, "one", "3");
    ana.push("After the reboot");
    eventually("it follows the repository still", 20, || m.read("/etc/one.conf") == "SETTING=3");
}

#[test]
fn the_journal_tells_it_in_fields_and_an_idle_agent_is_silent() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = with_agent(&m);
    fleet::service(&ana, "one", "2");
    let revision = ana.push("Two");
    eventually("it converges", 20, || m.read("/etc/one.conf") == "SETTING=2");
    let matching = |fields: &str| m.sh(&format!("journalctl -q -t trimtab -o json {fields} | tail -n 1"));
    let converged = format!("TRIMTAB_OUTCOME=converged TRIMTAB_REVISION={revision}");
    eventually("the pass is told", 10, || !matching(&converged).is_empty());
    let entry = matching(&converged);
    for field in ["TRIMTAB_PASS", "MESSAGE", "PRIORITY"] {
        assert!(entry.contains(&format!("\"{field}\"")), "{field} in {entry}");
    }
    let resources =
        m.sh(&format!("journalctl -q -t trimtab -F TRIMTAB_RESOURCE | sort; journalctl -q TRIMTAB_REVISION={revision} -o cat"));
    assert!(resources.contains("/etc/one.conf") && resources.contains("one.service"), "{resources}");

    synced(&m);
    let polls = || m.sh("grep -c POST /var/log/nginx/access.log; true").parse::<u32>().unwrap_or(0);
    let cursor = m.sh("journalctl -q -n 0 --show-cursor | sed 's/^-- cursor: //'");
    let before = polls();
    eventually("a few more polls", 30, || polls() >= before + 3);
    let said = m.sh(&format!("journalctl -q --after-cursor='{cursor}' -o short-monotonic | grep -i trimtab; true"));
    assert_eq!(said, "", "polls that find nothing leave nothing in the journal");
}

#[test]
fn the_agent_holds_no_network_socket_and_the_courier_is_nobody_special() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = with_agent(&m);
    let agent = pid(&m);
    let mut kinds = BTreeSet::new();
    for round in 0..20 {
        if round % 5 == 0 {
            fleet::service(&ana, "one", &round.to_string());
            ana.push("Another");
        }
        // Every socket that the agent has, by the table of the kernel that its inode stands in.
        let sockets = m.sh(&format!("ls -l /proc/{agent}/fd | sed -n 's/.*socket:\\[\\([0-9]*\\)\\]/\\1/p'"));
        for inode in sockets.lines() {
            let tables = "cd /proc/net && grep -lw";
            kinds.insert(m.try_sh(&format!("{tables} {inode} tcp tcp6 udp udp6 raw raw6 icmp icmp6 packet netlink unix")).out);
        }
    }
    kinds.remove(""); // closed between the two looks
    assert_eq!(kinds, BTreeSet::from(["unix".to_owned()]));
    let status = fs::read_to_string(m.outside(&format!("/proc/{agent}/status"))).expect("because it runs");
    assert!(status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t1"), "{status}");
    assert_eq!(m.sh("stat -c '%U %a' /var/cache/trimtab /var/lib/trimtab"), "trimtab-courier 700\nroot 700");
    assert_eq!(m.sh("find /var/cache/trimtab ! -user trimtab-courier | wc -l"), "0", "the cache is the courier's alone");
    assert_eq!(m.sh("systemctl list-units --all --no-legend 'trimtab-courier@*' --state=failed | wc -l"), "0");
    let courier = "runuser -u nobody -- curl -s --unix-socket /run/trimtab-courier/courier.sock http://x/";
    assert_ne!(m.try_sh(courier).code, 0, "only root may ask the courier");
}

#[test]
fn wrong_local_settings_halt_the_agent_until_a_person_looks() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = with_agent(&m);
    m.sh("cp -a /etc/trimtab/agent.toml /root/ && echo 'no-such-key = 1' >> /etc/trimtab/agent.toml");
    let _ = m.try_sh("systemctl restart trimtab");
    eventually("it has stopped", 10, || m.try_sh("systemctl is-active trimtab").out == "failed");
    assert_eq!(m.sh("systemctl show -p ExecMainStatus -p NRestarts trimtab"), "NRestarts=0\nExecMainStatus=78");
    assert!(m.sh("journalctl -q -u trimtab -o cat").contains("no-such-key"), "it says what is wrong");
    assert_eq!(m.sh("systemctl is-active one"), "active", "what it manages goes on");
    m.sh("cp -a /root/agent.toml /etc/trimtab/ && systemctl restart trimtab");
    fleet::service(&ana, "one", "2");
    ana.push("Mended");
    eventually("it converges again", 20, || m.read("/etc/one.conf") == "SETTING=2");
}

#[test]
fn a_repository_behind_ssh_is_followed_with_the_couriers_own_key() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["one"]);
    fleet::service(&ana, "one", "1");
    ana.push("One service");
    m.sh("useradd --create-home --shell /bin/sh git && install -d -m 700 -o git -g git /home/git/.ssh && systemctl start ssh");
    m.sh(
        "ssh-keygen -q -t ed25519 -N '' -C courier -f /etc/trimtab/courier-key && chown trimtab-courier: /etc/trimtab/courier-key",
    );
    let key = ana.key_file();
    let init = format!("trimtab init --force --url ssh://git@localhost/srv/git/fleet.git --key {key} --host edge-1");
    m.sh(&init);
    m.sh("sed -i '/^url/a ssh-key = \"/etc/trimtab/courier-key\"\\nssh-known-hosts = \"/etc/trimtab/known_hosts\"' /etc/trimtab/agent.toml");

    let strange = m.try_sh("trimtab once");
    assert_eq!(strange.code, 1, "{}", strange.out);
    assert!(strange.out.contains("ssh-known-hosts"), "a host that nobody vouched for is refused with advice: {}", strange.out);
    m.sh("ssh-keyscan -t ed25519 localhost > /etc/trimtab/known_hosts 2>/dev/null");
    let unknown = m.try_sh("trimtab once");
    assert!(unknown.code == 1 && unknown.out.contains("ssh-key"), "a key that the server does not know: {}", unknown.out);

    m.sh("install -m 600 -o git -g git /etc/trimtab/courier-key.pub /home/git/.ssh/authorized_keys");
    converge(&m);
    assert_eq!(m.sh("systemctl is-active one; cat /etc/one.conf"), "active\nSETTING=1");
    fleet::service(&ana, "one", "2");
    ana.push("Another setting");
    converge(&m);
    assert_eq!(m.read("/etc/one.conf"), "SETTING=2");
    settled(&m);
    #[cfg(target_arch = "x86_64")]
    crate::boundary::one_with_ssh(&m);
}
