//! Something keeps changing back what is repaired: it is told with who it is, and the agent does not let it set the pace.

use std::time::Duration;

use trimtab_tests::lab::trimtab::{converge, enrol};
use trimtab_tests::lab::{self, Machine, Person, eventually};

use crate::fleet;
use crate::trial::status;

const CONTENDED: &str = "b28fc17348d04abea66266e6cef3d725";
const REPAIRED: &str = "945b5e959e4846eba1f486db40978b1a";

/// How many entries of this kind the journal has about the file that is fought over.
fn told(m: &Machine, message_id: &str) -> usize {
    m.sh(&format!("journalctl -q --no-pager -o cat MESSAGE_ID={message_id} 'TRIMTAB_RESOURCE=file /etc/one.conf' | wc -l"))
        .parse()
        .expect("because wc counts")
}

fn condition(m: &Machine) -> String {
    status(m, r#".conditions[] | select(.type == "Contended") | .status"#)
}

#[test]
fn a_fight_is_told_once_and_fought_ever_more_seldom() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["one"]);
    fleet::service(&ana, "one", "1");
    ana.push("A service");
    enrol(&m, &ana, "");
    converge(&m);
    // Nothing but events, and pauses that are over, wakes it.
    m.sh("sed -i 's/^interval = .*/interval = \"1h\"\\nretry-interval = \"2s\"\\nretry-max = \"4s\"/' /etc/trimtab/agent.toml && \
         systemctl enable --quiet --now trimtab.service");
    eventually("the first pass, and ears", 20, || status(&m, "[.lastPass.wake, .watch.files]") == r#"["start","fanotify"]"#);
    assert_eq!(condition(&m), "False");

    m.sh("systemd-run -q -u meddler sh -c 'while sleep 0.1; do grep -q mine /etc/one.conf || echo SETTING=mine > /etc/one.conf; done'");
    eventually("it is left alone", 30, || status(&m, ".drift[0].left_alone.why") == "contended");
    assert_eq!(condition(&m), "True");
    assert_eq!(status(&m, ".lastPass.outcome"), "drifted");
    let (repairs, pid) = (told(&m, REPAIRED), m.sh("systemctl show -P MainPID one"));
    assert!(repairs >= 5, "{repairs} repairs are made at once");
    // The catalog says what it means, and names the opponent.
    let entry = m.sh(&format!("journalctl -q --no-pager -x MESSAGE_ID={CONTENDED}"));
    for words in [
        "something keeps changing it back, by sh",
        "meddler.service",
        "Something keeps changing file /etc/one.conf back",
        "Find out which program",
    ] {
        assert!(entry.contains(words), "{words:?} in {entry}");
    }

    // A pass at an event leaves it, and its reader, alone.
    m.sh("touch /etc/systemd/system/one.service; chmod 600 /etc/systemd/system/one.service");
    eventually("everything else is repaired", 8, || m.sh("stat -c %a /etc/systemd/system/one.service") == "644");
    std::thread::sleep(Duration::from_secs(6));
    let more = told(&m, REPAIRED) - repairs;
    assert!((1..=4).contains(&more), "{more} repairs in some six seconds, with pauses of two and four");
    assert_eq!(told(&m, CONTENDED), 1);
    assert_ne!(m.sh("systemctl show -P MainPID one"), pid, "a repair is followed by a restart of its reader");

    // It is told once, also by another process, which repairs at once again.
    let repairs = told(&m, REPAIRED);
    m.sh("systemctl kill -s KILL trimtab");
    eventually("another one leaves it alone", 30, || {
        told(&m, REPAIRED) >= repairs + 5 && status(&m, ".drift[0].left_alone.why") == "contended"
    });
    assert_eq!(told(&m, CONTENDED), 1);

    // The opponent is gone: nothing happens any more, and it is repaired when the pause is over.
    m.sh("systemctl stop meddler");
    eventually("it is repaired", 10, || m.read("/etc/one.conf") == "SETTING=1");
    eventually("nothing stands", 5, || status(&m, ".drift") == "null");
    assert_eq!((condition(&m), told(&m, CONTENDED)), ("True".to_owned(), 1), "it is not over before some time of quiet");
}
