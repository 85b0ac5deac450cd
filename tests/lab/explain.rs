//! What an operator asks of a machine that drifted: the journal, `trimtab drift`, `trimtab explain`.

use trimtab_tests::lab::trimtab::{enrol, start_agent};
use trimtab_tests::lab::{self, Person, eventually};

use crate::fleet;

#[test]
fn a_drift_is_explained_in_the_journal_and_had_back_by_name() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["one"]);
    fleet::service(&ana, "one", "1");
    ana.write("components/one/files/etc/one.key", "ours\n");
    ana.write("components/one/component.toml", "[[file]]\npath = \"/etc/one.key\"\nmode = \"0600\"\n");
    let revision = ana.push("One service and its key");
    enrol(&m, &ana, "");
    start_agent(&m);
    eventually("the first converge", 20, || m.try_sh("systemctl is-active one").code == 0 && m.try_sh("trimtab status").code == 0);
    m.sh("echo SETTING=mine > /etc/one.conf; echo hunter2 > /etc/one.key; systemctl stop one");
    // Each is told in the real journal, and `-x` explains it from the catalog that was installed with it.
    let found = "MESSAGE_ID=3a66f818c5e34db7b9e4612d40c5af20";
    let told = |filter: &str| m.sh(&format!("journalctl --no-pager -x {filter}; true"));
    let repaired = "MESSAGE_ID=945b5e959e4846eba1f486db40978b1a";
    let resources = ["file /etc/one.conf", "file /etc/one.key", "unit one.service"];
    eventually("the journal has it", 20, || {
        resources.iter().all(|name| told(repaired).contains(&format!("Drift repaired: {name}")))
    });
    let id = |resource: &str| {
        m.sh(&format!("trimtab drift list --all --json | jq -r '.past[] | select(.resource == \"{resource}\") | .id'"))
    };
    let text = told(&format!("{found} TRIMTAB_RESOURCE='file /etc/one.conf'"));
    let hint = format!("trimtab drift show {}", id("file /etc/one.conf"));
    for part in ["Subject: Drift: file /etc/one.conf was changed on this host", "Defined-By: trimtab", &hint] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    assert_eq!(m.sh("systemctl is-active one; cat /etc/one.conf /etc/one.key"), "active\nSETTING=1\nours");

    let shown = m.sh(&format!("trimtab drift show {}", id("file /etc/one.conf")));
    assert!(shown.contains("-SETTING=mine") && shown.contains("+SETTING=1"), "{shown}");
    let restored = m.sh(&format!(
        "trimtab drift restore {} --to /root/mine && cat /root/mine && stat -c %a /root/mine",
        id("file /etc/one.conf")
    ));
    assert!(restored.ends_with("SETTING=mine\n600"), "{restored}");
    assert!(m.sh(&format!("trimtab drift show {}", id("unit one.service"))).contains("active: "), "a unit's drift");
    // The overwritten secret is nowhere: not in the store, not in a spool, not in the journal.
    assert!(m.sh(&format!("trimtab drift show {}", id("file /etc/one.key"))).contains("not kept: it is private"));
    assert_eq!(
        m.sh("grep -rl hunter2 /var/lib/trimtab /run/trimtab /etc/trimtab | wc -l; journalctl | grep -c hunter2; true"),
        "0\n0"
    );

    let explained = m.sh("trimtab explain /etc/one.conf");
    for part in [
        "component one, components/one/files/etc/one.conf",
        revision.as_str(),
        "signed by ana",
        "read by     one.service",
        "now         as wanted",
    ] {
        assert!(explained.contains(part), "{part:?} is not in:\n{explained}");
    }
    // As it is now, on the real systemd, and what a person holds.
    m.sh("trimtab pin one.service --reason 'the pump is out' --until 1h; systemctl stop one");
    let ran = m.try_sh("trimtab explain one");
    assert_eq!(ran.code, 2, "{ran}");
    for part in
        ["unit one.service", "now         active is inactive", "the pump is out", "            it is pinned", "/etc/one.conf"]
    {
        assert!(ran.out.contains(part), "{part:?} is not in:\n{ran}");
    }
    m.sh("trimtab unpin one.service");
    eventually("it is kept again", 20, || m.try_sh("trimtab explain one").code == 0);
}
