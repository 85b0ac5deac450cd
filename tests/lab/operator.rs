//! What an operator does beside committing: changes the local settings, stops the agent, asks without a revision, asks as nobody.

use trimtab_tests::lab::trimtab::{converge, enrol, refused, settled, start_agent};
use trimtab_tests::lab::{self, Person, eventually};

use super::fleet;

#[test]
fn a_reload_reads_the_local_settings_again_and_a_typo_is_told_and_not_fallen_over() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["one"]);
    ana.write("hosts/edge-1.toml", "labels = { role = \"kiosk\" }\n");
    ana.write("components/one/files/etc/role.j2", "{{ labels.role }}\n");
    ana.push("A label");
    enrol(&m, &ana, "");
    start_agent(&m);
    eventually("the first converge", 20, || m.try_sh("cat /etc/role").out == "kiosk");
    let pid = m.sh("systemctl show -p MainPID --value trimtab");
    m.sh("sed -i 's/^labels = .*/labels = { role = \"shop\" }/' /etc/trimtab/agent.toml; systemctl reload trimtab");
    eventually("the new label", 20, || m.read("/etc/role") == "shop");

    // The pass that the reload asked for may still go on, and is not the answer to a later question.
    for round in 0..5 {
        let set = format!("sed -i 's/^labels = .*/labels = {{ role = \"round-{round}\" }}/' /etc/trimtab/agent.toml");
        m.sh(&format!("systemctl reload trimtab; {set}; trimtab sync >/dev/null"));
        assert_eq!(m.read("/etc/role"), format!("round-{round}"));
    }

    m.sh("echo 'no-such-key = 1' >> /etc/trimtab/agent.toml");
    let told = m.try_sh("trimtab sync");
    assert_eq!(told.code, 1, "{told}");
    assert!(told.out.contains("no-such-key") && told.out.contains("^^^"), "{told}");
    ana.write("components/one/files/etc/more", "more\n");
    ana.push("Followed all the same");
    eventually("it goes on", 20, || m.has("/etc/more"));
    assert_eq!(m.try_sh("trimtab status").code, 1, "and is not well");
    m.sh("sed -i '/no-such-key/d' /etc/trimtab/agent.toml");
    eventually("in order again", 20, || m.try_sh("trimtab sync").code == 0);

    // A key that is not trusted any more stops counting without a restart.
    let ben = Person::new(&m, "ben");
    m.sh(&format!("sed -i \"s|^  \\\"ssh-.*|  \\\"$(cat {})\\\",|\" /etc/trimtab/trust.toml", ben.key_file()));
    ana.write("components/one/files/etc/late", "late\n");
    ana.push("By somebody who left");
    let told = m.try_sh("trimtab sync");
    assert!(told.code == 1 && told.out.contains("not in trust.toml"), "{told}");
    assert!(!m.has("/etc/late"));
    assert_eq!(m.sh("systemctl show -p MainPID --value trimtab"), pid, "one and the same agent");

    // What a stopped agent last did is told, and not taken for the present.
    m.sh("systemctl stop trimtab");
    let told = m.try_sh("trimtab status");
    assert!(told.code == 1 && told.out.contains("not running"), "{told}");
    assert_eq!(m.sh("trimtab status --json | jq -c .agentRunning; true"), "false");
}

#[test]
fn a_plan_says_when_it_has_nothing_to_compare_with_and_shows_nothing_private() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["one"]);
    ana.write("components/one/files/etc/open.conf", "new\n");
    ana.push("A file");
    m.sh("umask 077; echo the-old-password > /etc/open.conf");
    enrol(&m, &ana, "");
    // On a new host nobody has started the socket yet; root must not read what strangers send all the same.
    m.sh("systemctl disable --quiet --now trimtab-courier.socket; test ! -e /run/trimtab-courier/courier.sock");
    let told = m.try_sh("trimtab plan --offline");
    assert!(told.code == 1 && told.out.contains("accepted no revision yet"), "{told}");
    let told = m.try_sh("trimtab plan");
    assert_eq!(told.code, 2, "{told}");
    assert!(told.out.contains("/etc/open.conf") && !told.out.contains("the-old-password"), "{told}");
    assert_eq!(
        m.sh("find /var/cache/trimtab ! -user trimtab-courier | wc -l; ls /var/cache/trimtab | wc -l").lines().next(),
        Some("0")
    );
    let digest = m.sh("sha256sum /etc/open.conf | cut -c1-12");
    assert!(!told.out.contains(&digest), "a digest of a password can be guessed at: {told}");
    // As the help has it.
    assert_eq!(m.sh("trimtab plan --json | jq -r '.changes[].resource'; true"), "file /etc/open.conf");
    assert_eq!(m.sh("trimtab sync 2>&1; echo $?").lines().last(), Some("75"));
    assert_eq!(m.sh("trimtab facts | jq -r .hostname; true"), "edge-1");
    let told = m.try_sh("runuser -u nobody -- trimtab plan");
    assert!(told.code == 1 && told.err.contains("sudo") && !told.err.contains("chown"), "{told}");
    let told = converge(&m);
    assert_eq!(told.matches("/etc/open.conf").count(), 1, "each change is said once: {told}");
}

#[test]
fn a_unit_that_takes_too_long_or_needs_a_broken_one_is_named_with_it() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["needy", "slow"]);
    let unit = |name: &str, text: &str| {
        ana.write(&format!("components/{name}/systemd/{name}.service"), text);
    };
    m.write("/etc/systemd/system/broken.service", "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo no paper; exit 7'\n");
    m.sh("systemctl daemon-reload");
    unit(
        "needy",
        "[Unit]\nRequires=broken.service\nAfter=broken.service\n[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n",
    );
    unit(
        "slow",
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'test -e /etc/quick || sleep 600'\n[Install]\nWantedBy=multi-user.target\n",
    );
    ana.push("Two that do not start");
    enrol(&m, &ana, "");
    m.sh("echo 'unit-timeout = \"2s\"' >> /etc/trimtab/agent.toml");
    let told = refused(&m);
    assert!(told.contains("needy.service: it requires broken.service, which could not be started"), "{told}");
    assert!(told.contains("no paper"), "and its last words: {told}");
    assert!(told.contains("slow.service was still at it after 2s"), "{told}");

    m.sh("touch /etc/quick; systemctl stop slow");
    m.write("/etc/systemd/system/broken.service", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n");
    m.sh("systemctl daemon-reload");
    converge(&m);
    settled(&m);
    assert_eq!(m.sh("trimtab status --json | jq -c .generation"), "1", "the first complete pass counts, whichever that is");
}

#[test]
fn a_person_goes_back_without_a_network_and_later_leaves_a_clean_machine() {
    let Some(m) = lab::boot("edge-1") else { return };
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["web", "extra"]);
    fleet::service(&ana, "web", "one");
    ana.write("components/extra/files/etc/issue", "managed\n");
    ana.write("components/extra/systemd/getty@.service.d/nice.conf", "[Service]\nNice=1\n");
    ana.write("components/extra/component.toml", "[[unit]]\nname = \"cron-like.timer\"\nenabled = true\n");
    m.write("/etc/systemd/system/cron-like.timer", "[Timer]\nOnCalendar=monthly\n[Install]\nWantedBy=timers.target\n");
    m.write("/etc/systemd/system/cron-like.service", "[Service]\nExecStart=/bin/true\n");
    m.write("/etc/issue", "the operator's\n");
    m.sh("systemctl daemon-reload; chmod 640 /etc/issue");
    // Everything that could be left behind. `wants` folders come and go with what is enabled; the packages enable trimtab's own units, and
    // leaving disables them.
    let look = "find /etc /usr/local /var/lib /opt -not -path '/etc/trimtab*' -not -path '/var/lib/trimtab*' -not -path '/var/lib/systemd*' \
                -not -path '/var/lib/lab*' -not -path '/var/lib/containers*' -not -path '*.wants' -not -path '*.wants/trimtab*' -printf '%p %m %U %l\\n' | sort";
    let before = m.sh(look);
    ana.push("The first");
    enrol(&m, &ana, "");
    converge(&m);
    fleet::service(&ana, "web", "two");
    ana.push("The second");
    converge(&m);
    start_agent(&m);
    eventually("the agent is there", 20, || m.try_sh("trimtab sync").code == 0);

    // No network at all: the source is named as it cannot be reached.
    m.sh("sed -i 's,https://localhost/,https://localhost:1/,' /etc/trimtab/agent.toml");
    let told = m.try_sh("trimtab rollback --reason 'two is slow'");
    assert_eq!(told.code, 0, "{told}");
    assert_eq!(m.read("/etc/web.conf"), "SETTING=one");
    eventually("it runs with the old setting", 10, || m.sh("journalctl -q -u web -o cat -n 1").contains("setting one"));
    m.sh("sed -i 's,https://localhost:1/,https://localhost/,' /etc/trimtab/agent.toml");
    let told = m.try_sh("trimtab sync");
    assert!(told.code == 3 && told.out.contains("two is slow"), "{told}");
    assert_eq!(m.read("/etc/web.conf"), "SETTING=one");
    assert_eq!(m.try_sh("trimtab retry").code, 0);
    assert_eq!(m.read("/etc/web.conf"), "SETTING=two");

    let told = m.try_sh("trimtab uninstall --remove --yes </dev/null");
    assert_eq!(told.code, 0, "{told}");
    assert!(told.out.contains("restore what was there before: file /etc/issue"), "{told}");
    assert_eq!((m.read("/etc/issue"), m.sh("stat -c %a /etc/issue")), ("the operator's".to_owned(), "640".to_owned()));
    assert_eq!(
        m.try_sh("systemctl is-active web trimtab trimtab-courier.socket cron-like.timer").out,
        "inactive\ninactive\ninactive\ninactive"
    );
    assert_eq!(m.try_sh("systemctl is-enabled trimtab trimtab-courier.socket cron-like.timer").out, "disabled\ndisabled\ndisabled");
    assert_eq!(m.sh("systemctl list-units --state=failed --no-legend | wc -l"), "0");
    assert_eq!(m.sh(look), before, "not a file more or less, and none with another mode or owner");
    for gone in ["/var/lib/trimtab", "/var/cache/trimtab", "/run/trimtab", "/etc/trimtab/state"] {
        assert!(!m.has(gone), "{gone}");
    }
    assert!(m.has("/etc/trimtab/agent.toml"));
    assert_eq!(m.try_sh("trimtab uninstall --keep --purge --yes </dev/null").code, 0);
    assert!(!m.has("/etc/trimtab"));
}
