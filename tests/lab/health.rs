//! Health checks and hooks on a real systemd and Podman: what is good passes, what is not is undone, and the report says why.

use trimtab_tests::lab::trimtab::{converge, enrol, settled};
use trimtab_tests::lab::{self, Machine, Person};

use crate::fleet;

/// A pass, as `trimtab once --json` tells of it: the outcome, and each failure as `resource: message`, the causes of an undoing among them.
fn pass(m: &Machine) -> (String, String) {
    let ran = m.try_sh("trimtab once --json > /tmp/pass.json");
    assert!(m.has("/tmp/pass.json"), "{ran}");
    let failures = "[.failures[], (.undone.causes // [])[]] | .[] | select(.skipped | not) | \"\\(.resource): \\(.message)\"";
    (m.sh("jq -r .outcome /tmp/pass.json"), m.sh(&format!("jq -r '{failures}' /tmp/pass.json")))
}

/// The next pass must end like this, and say these words of why.
#[track_caller]
fn ends(m: &Machine, wanted: &str, because: &str) {
    let (outcome, failures) = pass(m);
    assert!(outcome == wanted && failures.contains(because), "{wanted}: {because:?} was expected, it was {outcome}:\n{failures}");
}

/// The next pass must undo the change, and say these words of why.
#[track_caller]
fn undone(m: &Machine, because: &str) {
    ends(m, "rolled-back", because);
}

/// A service `app` that runs a shell's words.
fn app(ana: &Person<'_>, words: &str, more: &str) {
    let unit = format!("[Service]\nExecStart=/bin/sh -c '{words}'\n{more}\n[Install]\nWantedBy=multi-user.target\n");
    ana.write("components/app/systemd/app.service", &unit);
}

fn declare(ana: &Person<'_>, component: &str) {
    ana.write("components/app/component.toml", component);
}

/// A machine on which a first, good state of the component `app` is in force.
fn begun<'m>(m: &'m Machine, words: &str, component: &str) -> Person<'m> {
    let ana = Person::new(m, "ana");
    fleet::assign(&ana, &["app"]);
    app(&ana, words, "");
    declare(&ana, component);
    ana.push("Good");
    enrol(m, &ana, "");
    converge(m);
    settled(m);
    ana
}

#[test]
fn a_unit_that_does_not_stay_up_is_undone() {
    let Some(m) = lab::boot("units") else { return };
    let ana = begun(&m, "exec sleep infinity", "");
    // The lab's own settle time is short; this is what a host has.
    m.sh("sed -i 's/^settle = .*/settle = \"10s\"/' /etc/trimtab/agent.toml");
    // Good again with other content: a check that fails everything would prove nothing.
    app(&ana, "echo two; exec sleep infinity", "");
    ana.push("Still good");
    converge(&m);

    app(&ana, "sleep 5; exit 3", "");
    ana.push("Dies after five seconds");
    undone(&m, "unit app.service: it failed (exit-code)");
    assert_eq!(m.sh("systemctl is-active app"), "active");
    assert!(m.read("/etc/systemd/system/app.service").contains("echo two"));

    app(&ana, "sleep 0.5; exit 1", "Restart=always\nRestartSec=300ms");
    ana.push("Starts again and again");
    undone(&m, "unit app.service: it ended");

    app(&ana, "sleep 2", "");
    ana.push("Ends by itself");
    undone(&m, "unit app.service: it is no longer running, for it ended by itself");

    // What another check still waits for cannot save it: nobody waits, and what runs for that check is ended.
    declare(&ana, "[[health]]\ncommand = [\"/bin/sleep\", \"1000\"]\ntimeout = \"1h\"\n");
    app(&ana, "sleep 1; exit 3", "");
    ana.push("Dies while another check waits");
    undone(&m, "unit app.service: it failed (exit-code)");
    lab::eventually("nothing runs for the check", 10, || {
        m.try_sh("pgrep -x sleep -a").out.lines().all(|line| !line.contains("1000"))
    });

    // One restart is borne where that is asked for, and a second is not.
    declare(&ana, "[[health]]\nunit = \"app.service\"\ntimeout = \"20s\"\nsettle = \"4s\"\nretries = 1\n");
    app(
        &ana,
        "test -e /run/once || { touch /run/once; sleep 1; exit 1; }; exec sleep infinity",
        "Restart=always\nRestartSec=300ms",
    );
    ana.push("Fails once");
    converge(&m);
    app(&ana, "sleep 1; exit 1", "Restart=always\nRestartSec=300ms");
    ana.push("Fails for ever");
    undone(&m, "unit app.service: it ended");
    assert!(m.read("/etc/systemd/system/app.service").contains("/run/once"));
}

#[test]
fn soak_the_guarded_example_proves_itself() {
    let Some(m) = lab::boot("guarded") else { return };
    let ana = Person::new(&m, "ana");
    ana.example("guarded").push("A guarded app");
    enrol(&m, &ana, "");
    converge(&m);
    let unit = format!("{}/components/app/systemd/app.service", ana.working_copy());
    m.sh(&format!("sed -i 's/A small web server/A small, good web server/' {unit}"));
    ana.push("Better");
    converge(&m);
    settled(&m);
    m.sh(&format!(
        "sed -i 's/:8080/:8081/' {unit}; sed -i 's/timeout = \"30s\"/timeout = \"10s\"/' {}",
        "/srv/people/ana/fleet/components/app/component.toml"
    ));
    ana.push("Another port");
    undone(&m, "http http://127.0.0.1:8080/: it was not good within 10s: Connection refused");
    assert!(m.sh("curl -sf http://127.0.0.1:8080/").contains("It works"));

    m.sh("touch /run/app-busy");
    m.sh(&format!("sed -i 's/:8081/:8080/; s/good web/better web/' {unit}"));
    ana.push("While it is busy");
    ends(&m, "held", "it asks for another time; its last words:\nthe app is busy");
}

#[test]
fn a_service_that_does_not_answer_is_undone() {
    let Some(m) = lab::boot("network") else { return };
    let serve = "mkdir -p /run/www; echo ready > /run/www/health; exec busybox httpd -f -p 127.0.0.1:8080 -h /run/www";
    let check = |what: &str| format!("[[health]]\n{what}\ntimeout = \"4s\"\ninterval = \"1s\"\n");
    let http = "http = \"http://127.0.0.1:8080/health\"\nbody = \"ready\"";
    // It may take its time to answer.
    let ana = begun(&m, &format!("sleep 2; {serve}"), &format!("{}{}", check(http), check("tcp = \"127.0.0.1:8080\"")));

    for (what, because) in [
        (
            "http = \"http://127.0.0.1:8080/none\"",
            "http http://127.0.0.1:8080/none: it was not good within 4s: answered with status 404",
        ),
        ("http = \"http://127.0.0.1:8080/health\"\nstatus = 204", "answered with status 200"),
        ("http = \"http://127.0.0.1:8080/health\"\nbody = \"steady\"", "the answer does not contain what `body` asks for"),
        ("http = \"http://127.0.0.1:81/\"", "Connection refused"),
        ("http = \"https://127.0.0.1:8080/\"", "http https://127.0.0.1:8080/: it was not good within 4s"),
        ("tcp = \"127.0.0.1:81\"", "tcp 127.0.0.1:81: it was not good within 4s: Connection refused"),
    ] {
        app(&ana, &format!("{serve} # {}", what.len()), "");
        declare(&ana, &check(what));
        ana.push("Bad");
        undone(&m, because);
    }
    // The lab's own https server, whose authority the machine knows since its bundle has it.
    app(&ana, &format!("{serve} # https"), "");
    declare(&ana, &check("http = \"https://localhost/\"\nstatus = [200, 301, 302, 403, 404]"));
    ana.push("By https");
    undone(&m, "https://localhost/");
    m.sh("cp /etc/ssl/lab-ca.pem /usr/local/share/ca-certificates/lab.crt && update-ca-certificates >/dev/null 2>&1");
    app(&ana, &format!("{serve} # https, believed"), "");
    ana.push("By https, believed");
    converge(&m);
    let left = m.sh("systemctl list-units --all --plain --no-legend 'trimtab-probe*' | wc -l");
    assert_eq!(left, "0", "no probe is left");
    assert_eq!(m.sh("journalctl -q -o cat | grep -i trimtab-probe || true"), "", "a probe that works leaves the journal alone");
}

#[test]
fn a_container_that_podman_calls_unhealthy_is_undone() {
    let Some(m) = lab::boot("containers") else { return };
    let digest = m.read("/var/lib/lab/busybox-1");
    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["web"]);
    let quadlet = |health: &str| {
        let health =
            if health.is_empty() { String::new() } else { format!("HealthCmd={health}\nHealthInterval=1s\nHealthRetries=2\n") };
        ana.write(
            "components/web/quadlet/web.container",
            &format!(
                "[Container]\nImage=localhost:5000/busybox@{digest}\nExec=/bin/httpd -f -p 8080 -h /etc\nStopTimeout=0\n{health}\n\
                 [Install]\nWantedBy=multi-user.target\n"
            ),
        );
    };
    let check = "[[health]]\ncontainer = \"web.container\"\ntimeout = \"20s\"\ninterval = \"1s\"\n";
    ana.write("components/web/component.toml", check);
    quadlet("/bin/true");
    ana.push("Healthy");
    enrol(&m, &ana, "");
    converge(&m);
    quadlet("/bin/test -d /etc");
    ana.push("Healthy by another check");
    converge(&m);
    let before = m.sh("podman inspect systemd-web --format '{{.Config.Healthcheck.Test}}'");

    quadlet("/bin/false");
    ana.push("Never healthy");
    undone(&m, "container systemd-web: podman calls it unhealthy; its check exited with status 1");
    assert_eq!(m.sh("podman inspect systemd-web --format '{{.Config.Healthcheck.Test}}'"), before);

    quadlet("");
    ana.write("components/web/component.toml", &format!("{check}image-health = true\n"));
    ana.push("An image without a health check");
    undone(&m, "container systemd-web: neither its Quadlet file nor its image has a health check");
}

#[test]
fn a_program_says_whether_it_is_healthy() {
    let Some(m) = lab::boot("programs") else { return };
    let check = |more: &str| {
        format!("[[health]]\ncommand = [\"/usr/local/bin/check\", \"a b\", \"$HOME\"]\ntimeout = \"4s\"\ninterval = \"1s\"\n{more}")
    };
    m.sh("useradd -r checker");
    m.write(
        "/usr/local/bin/check",
        "#!/bin/sh\necho \"$(id -un)|$1|$2\" >> /tmp/asked\ngrep -q ill /etc/systemd/system/app.service || exit 0\necho words\necho last words\nexit 3\n",
    );
    m.sh("chmod +x /usr/local/bin/check; install -m 666 /dev/null /tmp/asked");
    let ana = begun(&m, "exec sleep infinity", &check("user = \"checker\"\n"));
    app(&ana, "echo one; exec sleep infinity", "");
    ana.push("Well");
    converge(&m);
    assert_eq!(m.sh("tail -n1 /tmp/asked"), "checker|a b|$HOME", "by whom, with which words");
    app(&ana, "echo ill; exec sleep infinity", "");
    ana.push("Ill");
    undone(&m, "command /usr/local/bin/check: it was not good within 4s: exited with status 3: last words");
    app(&ana, "echo two; exec sleep infinity", "");
    declare(&ana, &check("user = \"nobodyknows\"\n"));
    ana.push("No such user");
    undone(&m, "it could not be run as nobodyknows");
    declare(&ana, &check("").replace("bin/check", "bin/none"));
    app(&ana, "echo three; exec sleep infinity", "");
    ana.push("No such program");
    undone(&m, "command /usr/local/bin/none: none is not installed on this host");
}

#[test]
fn hooks_run_with_what_is_wanted_and_their_answer_counts() {
    let Some(m) = lab::boot("hooks") else { return };
    m.sh("useradd -r checker");
    let script = |ana: &Person<'_>, words: &str| {
        ana.write("components/app/files/usr/local/lib/app/may", &format!("#!/bin/sh\n{words}\n"));
    };
    let of = |phase: &str, run: &str, more: &str| format!("[[hook]]\non = \"{phase}\"\nrun = [{run}]\n{more}\n");
    let tell = r#""/bin/sh", "-c", "echo $TRIMTAB_PHASE $(id -un) >> /tmp/phases""#;
    let told = ["post-apply", "on-failure", "on-rollback"].map(|phase| of(phase, tell, "")).concat();
    let may = of("pre-apply", "\"/usr/local/lib/app/may\", \"an argument\"", "user = \"checker\"\ntimeout = \"2s\"");
    let mode = "[[file]]\npath = \"/usr/local/lib/app/may\"\nmode = \"0700\"\n";

    let ana = Person::new(&m, "ana");
    fleet::assign(&ana, &["app"]);
    app(&ana, "exec sleep infinity", "");
    declare(&ana, &format!("{mode}{told}{may}"));
    script(&ana, "echo \"$0|$1|$TRIMTAB_PHASE|$(id -un)|$HOME|$TRIMTAB_COMPONENT|$TRIMTAB_REVISION|$TRIMTAB_PREVIOUS\"");
    let first = ana.push("Good");
    enrol(&m, &ana, "");
    converge(&m);

    app(&ana, "echo two; exec sleep infinity", "");
    let second = ana.push("Good, too");
    assert_eq!(pass(&m).0, "converged");
    let number = m.sh("jq -r .number /tmp/pass.json");
    let said = m.sh(&format!("journalctl -q -o cat -t trimtab-hook TRIMTAB_PASS={number}"));
    assert_eq!(said, format!("/run/trimtab-hook/may|an argument|pre-apply|checker|/home/checker|app|{second}|{first}"));
    assert_eq!(m.sh("stat -c '%U %a' /var/lib/trimtab/hooks; ls /var/lib/trimtab/hooks | wc -l"), "root 700\n0", "nothing is left");
    assert_eq!(m.sh("tail -n1 /tmp/phases"), "post-apply root");

    // Refused, and put off, by what the very commit brings; nothing was touched.
    let before = m.sh("stat -c '%i %Z' /etc/systemd/system/app.service /usr/local/lib/app/may");
    for (words, because) in [
        ("echo first; echo never; exit 1", "exited with status 1; its last words:\nfirst\nnever"),
        ("echo busy; exit 75", "it asks for another time; its last words:\nbusy"),
        ("echo slow; sleep 60", "it had not ended after 2s and was killed; its last words:\nslow"),
        ("kill -9 $$", "was killed by signal 9"),
    ] {
        script(&ana, words);
        ana.push("Not now");
        ends(&m, "held", because);
        assert_eq!(m.sh("stat -c '%i %Z' /etc/systemd/system/app.service /usr/local/lib/app/may"), before);
    }
    script(&ana, "exit 0");
    declare(&ana, &format!("{mode}{told}{}", may.replace("checker", "nobodyknows")));
    ana.push("No such user");
    ends(&m, "held", "it could not be run as nobodyknows");

    declare(&ana, &format!("{mode}{told}{may}"));
    app(&ana, "sleep 0.3; exit 1", "");
    m.sh("rm /tmp/phases");
    ana.push("Bad");
    undone(&m, "unit app.service: it failed");
    assert_eq!(m.read("/tmp/phases"), "on-failure root\non-rollback root");
    assert_eq!(m.sh("ls /var/lib/trimtab/hooks | wc -l; systemctl list-units --all --plain --no-legend 'trimtab-*' | grep -v 'courier\\|guard\\|status' | wc -l"), "0\n0");
}

#[test]
fn a_hook_may_keep_what_is_about_to_leave() {
    let Some(m) = lab::boot("leaving") else { return };
    let ana = begun(&m, "exec sleep infinity", "");
    fleet::assign(&ana, &["app", "data"]);
    ana.write("components/data/files/etc/data.conf", "data\n");
    // Its program leaves with it, so what runs is what is on the host.
    ana.write(
        "components/data/files/usr/local/bin/may-leave",
        "#!/bin/sh\ntest ! -e /run/keep || { echo \"$TRIMTAB_PHASE: it is needed\"; exit 1; }\n",
    );
    let hook = "[[hook]]\non = \"pre-remove\"\nrun = [\"/usr/local/bin/may-leave\"]\n";
    ana.write("components/data/component.toml", &format!("{hook}[[file]]\npath = \"/usr/local/bin/may-leave\"\nmode = \"0755\"\n"));
    ana.push("With data");
    converge(&m);
    m.sh("touch /run/keep");
    fleet::assign(&ana, &["app"]);
    ana.push("Without data");
    ends(&m, "partial", "exited with status 1; its last words:\npre-remove: it is needed");
    assert!(m.has("/etc/data.conf") && m.has("/usr/local/bin/may-leave"));
    m.sh("rm /run/keep");
    converge(&m);
    assert!(!m.has("/etc/data.conf") && !m.has("/usr/local/bin/may-leave"));
    settled(&m);
}
