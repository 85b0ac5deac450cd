//! Every example, rendered for its hosts.

use std::collections::BTreeMap;

use trimtab::render::{read_dir, render, validate};
use trimtab_model::bundle::{BlobKind, Bundle};
use trimtab_model::desired::{Confirm, Node};
use trimtab_model::drift::Structure;
use trimtab_model::facts::PathPolicy;
use trimtab_model::health::Timing;

use super::{add, host, repository_root, same_as_golden};

fn example(name: &str) -> Bundle {
    read_dir(&repository_root().join("examples").join(name)).unwrap()
}

fn golden(example_name: &str, hosts: &[&str]) {
    let bundle = example(example_name);
    for name in hosts {
        let rendered = render(&bundle, &host(name)).unwrap_or_else(|findings| panic!("{}", findings.draw(false)));
        // The contents as text, so that a change of a template shows as what it does to the host.
        let contents: BTreeMap<_, _> = rendered
            .contents
            .iter()
            .map(|(digest, bytes)| (digest.to_string(), String::from_utf8_lossy(bytes).into_owned()))
            .collect();
        let value = serde_json::json!({ "desired": rendered.desired, "contents": contents });
        let text = serde_json::to_string_pretty(&value).unwrap() + "\n";
        same_as_golden(&repository_root().join(format!("tests/examples/golden/{example_name}/{name}.json")), &text);
    }
}

#[test]
fn minimal() {
    golden("minimal", &["any"]);
}

#[test]
fn containers() {
    golden("containers", &["shop-1", "shop-2", "elsewhere"]);
}

#[test]
fn guarded() {
    golden("guarded", &["any"]);
}

#[test]
fn multi_site() {
    golden("multi-site", &["kiosk-1", "kiosk-lab", "gateway-1", "unknown"]);
}

#[test]
fn every_example_is_valid_without_a_warning() {
    let mut seen = 0;
    for entry in std::fs::read_dir(repository_root().join("examples")).unwrap() {
        let entry = entry.unwrap();
        if !entry.path().join("fleet.toml").exists() {
            continue;
        }
        seen += 1;
        let report = validate(&read_dir(&entry.path()).unwrap(), &PathPolicy::default());
        assert!(report.errors.is_empty(), "{}", report.errors.draw(false));
        assert!(report.warnings.is_empty(), "{}", report.warnings.draw(false));
        assert!(entry.path().join("README.md").exists(), "{}", entry.path().display());
    }
    assert!(seen >= 3, "{seen}");
}

/// The TOML of the manual is a repository, together with the files that it speaks of.
#[test]
fn the_manual_is_true() {
    let manual = std::fs::read_to_string(repository_root().join("examples/FORMAT.md")).unwrap();
    let mut bundle = Bundle::default();
    for block in manual.split("```toml\n# ").skip(1) {
        let (path, rest) = block.split_once('\n').unwrap();
        let text = rest.split("```").next().unwrap();
        add(&mut bundle, path, BlobKind::Regular, format!("\n{text}").as_bytes());
    }
    assert_eq!(bundle.files.len(), 3);
    for (path, text) in [
        ("components/base/files/etc/base.j2", "{{ fleet.domain }}\n"),
        ("components/extra/files/etc/extra", ""),
        ("components/notes/files/etc/notes", ""),
        ("components/web/files/etc/web/secret.conf.j2", "{{ host }} {{ port }} {{ limits.clients }} {{ limits.rate }}\n"),
        ("components/web/files/etc/web/state.toml", "[server]\nport = 1\n"),
        ("components/web/systemd/worker@.service", "[Service]\nExecStart=/bin/sleep infinity\n"),
        ("components/web/quadlet/web.container", "[Container]\nImage=localhost/web@sha256:0\n"),
    ] {
        add(&mut bundle, path, BlobKind::Regular, text.as_bytes());
    }
    // The group of the manual does not give `notes`, which its host leaves out; here it does.
    let fleet = bundle.files.get_mut("fleet.toml").unwrap();
    fleet.bytes = String::from_utf8(fleet.bytes.clone())
        .unwrap()
        .replace("[\"base\", \"web\"]", "[\"base\", \"web\", \"notes\"]")
        .into_bytes();
    let rendered = render(&bundle, &host("kiosk-7")).unwrap_or_else(|findings| panic!("{}", findings.draw(false)));
    let texts: Vec<_> = rendered.contents.values().map(|bytes| String::from_utf8_lossy(bytes)).collect();
    assert!(texts.contains(&"kiosk-7 443 20 5\n".into()) && texts.contains(&"lyon.example.org\n".into()), "{texts:?}");
    assert!(!rendered.desired.entries.contains_key("/etc/notes"));
    // What the manual calls a default is one.
    let defaults = Timing { timeout_ms: 60_000, interval_ms: 2000, settle_ms: 0, retries: 2 };
    let of_a_unit = Timing { settle_ms: 10_000, retries: 0, ..defaults };
    let timings: Vec<_> = rendered.desired.health.iter().map(|check| check.timing).collect();
    assert_eq!(timings, [defaults, of_a_unit, defaults, defaults, defaults]);
    let ignored = rendered.desired.entries["/etc/web/state.toml"].ignored.clone().unwrap();
    assert_eq!(
        (ignored.format, ignored.keys),
        (Structure::Toml, vec![vec!["server".into(), "port".into()], vec!["*".into(), "password".into()]])
    );
    assert_eq!(rendered.desired.hooks[0].timeout_ms, 60_000);
    assert!(rendered.desired.isolated.contains("web") && rendered.desired.confirm["web"] == Confirm::Always);
}

#[test]
fn local_labels_win_over_those_of_the_repository() {
    let bundle = example("multi-site");
    let mut local = host("kiosk-1");
    local.labels.insert("site".to_owned(), "lab".to_owned());
    local.labels.insert("host".to_owned(), "gateway-1".to_owned());
    let rendered = render(&bundle, &local).unwrap();
    assert!(!rendered.desired.components.contains_key("kiosk"), "in the lab there is no kiosk");
    let ntp = &rendered.desired.entries["/etc/ntp-fleet.conf"].state.node;
    let Node::File { digest, .. } = ntp else { panic!("{ntp:?}") };
    // The name cannot be changed by a label, and the servers are not those of the European sites.
    assert_eq!(
        String::from_utf8_lossy(&rendered.contents[digest]),
        "# kiosk-1\nserver 0.pool.ntp.org minpoll 64\nserver 1.pool.ntp.org minpoll 64\n"
    );
}

#[test]
fn a_later_group_wins_and_the_host_has_the_last_word() {
    let variables = "[variables.v]\ntype = \"map\"\ndefault = { a = 0, b = 0, c = 0, d = [1, 2], n = { x = 0, y = 0 } }\n";
    let fleet = "format = 1\n\
        [[group]]\nname = \"one\"\nselect = \"*\"\ncomponents = [\"c\"]\nset.c.v = { a = 1, b = 1, c = 1, d = [3], n = { x = 1 } }\n\
        [[group]]\nname = \"other\"\nselect = \"host=other\"\nset.c.v = { a = 9 }\n\
        [[group]]\nname = \"two\"\nselect = \"host=h*\"\nset.c.v = { b = 2, c = 2 }\n";
    let files = [
        ("fleet.toml", fleet),
        ("hosts/h.toml", "set.c.v = { c = 3 }\n"),
        ("components/c/component.toml", variables),
        ("components/c/files/etc/v.j2", "{{ v | json }}"),
    ];
    let rendered = render(&super::bundle(files), &host("h")).unwrap();
    let text = String::from_utf8_lossy(rendered.contents.values().next().unwrap()).into_owned();
    assert_eq!(text, r#"{"a":1,"b":2,"c":3,"d":[3],"n":{"x":1,"y":0}}"#);
}
