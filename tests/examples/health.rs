//! Health checks and hooks as component.toml declares them: what is read, and every refusal with its caret.

use trimtab::render::{render, validate};
use trimtab_model::bundle::{BlobKind, Bundle};
use trimtab_model::desired::Desired;
use trimtab_model::facts::PathPolicy;
use trimtab_model::health::{Probe, Timing};

use super::{add, bundle, host, refused};

const FLEET: &str = "format = 1\n[[group]]\nname = \"all\"\nselect = \"*\"\ncomponents = [\"web\"]\n";

fn with(component: &str, more: &[(&str, &str)]) -> Bundle {
    let mut files = vec![("fleet.toml", FLEET), ("components/web/component.toml", component)];
    files.extend(more);
    bundle(files)
}

fn rendered(bundle: &Bundle) -> Desired {
    render(bundle, &host("h")).unwrap_or_else(|findings| panic!("{}", findings.draw(false))).desired
}

#[test]
fn everything_wrong_with_checks_at_once() {
    let component = r#"isolate = "yes"
confirm = "allways"
[[health]]
htpp = "http://127.0.0.1/"
[[health]]
tcp = "127.0.0.1:80"
unit = "web.service"
[[health]]
unit = "t@.service"
[[health]]
unit = "web"
timeout = 30
interval = "30"
settle = "2h"
retries = 101
[[health]]
http = "http://user:secret@127.0.0.1/"
[[health]]
http = "127.0.0.1"
status = 20
body = ""
[[health]]
http = "http://127.0.0.1/"
status = []
memory-max = "64M"
[[health]]
tcp = "127.0.0.1"
status = 200
timeout = "5s"
settle = "5s"
[[health]]
tcp = "127.0.0.1:1"
settle = "60s"
[[health]]
command = "/usr/local/bin/check --all"
[[health]]
command = ["check"]
user = "Root User"
memory-max = "64k"
[[health]]
command = []
[[health]]
command = ["/bin/a", 1]
[[health]]
container = "web"
timeout = "0s"
"#;
    refused("health", &with(component, &[]));
}

#[test]
fn everything_wrong_with_hooks_at_once() {
    let component = r#"[[hook]]
on = "pre-aply"
run = ["/bin/a"]
timeout = "2h"
[[hook]]
run = "/bin/a"
[[hook]]
on = "install"
user = "a b"
timeuot = "5s"
[[hook]]
on = "post-apply"
run = ["a"]
"#;
    refused("hooks", &with(component, &[]));
}

#[test]
fn what_only_shows_when_files_meet() {
    let component = r#"[[health]]
container = "wbe.container"
[[health]]
container = "web.container"
[[health]]
container = "off.container"
image-health = true
[[health]]
container = "odd.container"
[[health]]
unit = "stopped.service"
[[health]]
command = ["/usr/local/bin/check"]
[[hook]]
on = "pre-apply"
run = ["/etc/folder"]
[[hook]]
on = "pre-apply"
run = ["/etc/link"]
[[directory]]
path = "/etc/folder"
[[symlink]]
path = "/etc/link"
target = "/usr/local/bin/check"
[[unit]]
name = "stopped.service"
active = false
"#;
    let files = [
        ("components/web/quadlet/web.container", "[Container]\nImage=x\n"),
        ("components/web/quadlet/off.container", "[Container]\nImage=x\nHealthCmd=none\n"),
        ("components/web/quadlet/odd.container", "[Container]\nImage=x\nHealthCmd=true\nContainerName=c-%b\n"),
        ("components/web/systemd/stopped.service", "[Service]\nExecStart=/bin/true\n"),
        ("components/web/files/usr/local/bin/check", "#!/bin/sh\n"),
    ];
    refused("health-files", &with(component, &files));
}

#[test]
fn what_is_read() {
    let component = r#"[[health]]
http = "https://[::1]:8443/x"
status = 204
[[health]]
unit = "web.service"
timeout = "4s"
[[health]]
container = "web.container"
timeout = "1m 30s"
interval = "1500ms"
[[health]]
container = "named.container"
[[health]]
container = "image.container"
image-health = true
[[health]]
command = ["/usr/local/bin/check", "$HOME"]
memory-max = "1G"
[[hook]]
on = "pre-remove"
run = ["/usr/local/bin/check"]
"#;
    let files = [
        ("components/web/quadlet/web.container", "[Container]\nImage=x\n"),
        ("components/web/quadlet/web.container.d/health.conf", "[Container]\nHealthCmd=true\n"),
        ("components/web/quadlet/named.container", "[Container]\nImage=x\nContainerName=%p-1\nPodmanArgs=--health-cmd=true\n"),
        ("components/web/quadlet/image.container", "[Container]\nImage=x\nServiceName=other\n"),
        ("components/web/systemd/web-main.service", "[Service]\nExecStart=/bin/true\n"),
    ];
    let mut files = with(component, &files);
    add(&mut files, "components/web/files/usr/local/bin/check", BlobKind::Executable, b"#!/bin/sh\n");
    let desired = rendered(&files);
    let timing = |timeout_ms, interval_ms, settle_ms, retries| Timing { timeout_ms, interval_ms, settle_ms, retries };
    let container = |name: &str, unit: &str| Probe::Container { name: name.into(), unit: unit.parse().unwrap() };
    let found: Vec<_> = desired.health.iter().map(|check| (check.probe.clone(), check.timing, check.origin.line)).collect();
    let run = vec!["/usr/local/bin/check".to_owned(), "$HOME".to_owned()];
    assert_eq!(
        found,
        [
            (Probe::Http { url: "https://[::1]:8443/x".into(), status: vec![204], body: None }, timing(60_000, 2000, 0, 2), 2),
            // Half of a short timeout.
            (Probe::Unit { unit: "web.service".parse().unwrap() }, timing(4000, 2000, 2000, 0), 5),
            (container("systemd-web", "web.service"), timing(90_000, 1500, 0, 2), 8),
            (container("named-1", "named.service"), timing(60_000, 2000, 0, 2), 12),
            (container("systemd-other", "other.service"), timing(60_000, 2000, 0, 2), 14),
            (Probe::Command { run, user: None, memory_max: Some(1 << 30) }, timing(60_000, 2000, 0, 2), 17),
        ]
    );
    // What is stored in generations comes back as it was.
    let text = serde_json::to_string(&desired).unwrap();
    assert_eq!(serde_json::from_str::<Desired>(&text).unwrap(), desired);
}

#[test]
fn a_unit_that_is_nearly_ours_is_doubted_and_a_foreign_one_is_not() {
    let component = "[[health]]\nunit = \"wbe.service\"\n[[health]]\nunit = \"ssh.service\"\n";
    let files = with(component, &[("components/web/systemd/web.service", "[Service]\nExecStart=/bin/true\n")]);
    let report = validate(&files, &PathPolicy::default());
    assert!(report.errors.is_empty(), "{}", report.errors.draw(false));
    let warnings = report.warnings.draw_warnings(false);
    assert!(warnings.contains("did you mean `web.service`?") && !warnings.contains("ssh"), "{warnings}");
}

#[test]
fn a_host_has_a_bounded_number_of_checks() {
    let component = "[[health]]\ntcp = \"127.0.0.1:1\"\n".repeat(201);
    let findings = render(&with(&component, &[]), &host("h")).expect_err("it must be refused");
    assert_eq!(findings.list.len(), 1);
    assert!(findings.draw(false).contains("component.toml:402"), "{}", findings.draw(false));
}
