//! Input that nobody writes by accident: each is refused with a clear finding, in bounded time and memory, or does no harm.

use std::time::{Duration, Instant};

use trimtab::render::{needs, render, validate};
use trimtab_model::bundle::{BlobKind, Bundle};
use trimtab_model::facts::PathPolicy;
use trimtab_model::finding::{Findings, MAX_FINDINGS};

use super::{add, bundle, host};

const FLEET: &str = "format = 1\n[[group]]\nname = \"all\"\nselect = \"*\"\ncomponents = [\"c\"]\n";

/// Renders, in a time that even a loaded machine keeps, and hands back the findings.
fn refused(bundle: &Bundle) -> Findings {
    let start = Instant::now();
    let findings = render(bundle, &host("h")).expect_err("it must be refused");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(findings.list.len() <= MAX_FINDINGS);
    assert!(findings.draw(false).len() < 200_000, "{}", findings.draw(false).len());
    findings
}

fn first(bundle: &Bundle) -> String {
    refused(bundle).list[0].to_string()
}

#[test]
fn fifty_megabytes_of_toml_are_not_parsed() {
    let text = format!("{FLEET}{}", "# padding\n".repeat(5 << 20));
    assert!(text.len() > 50 << 20);
    let start = Instant::now();
    let told = first(&bundle([("fleet.toml", text.as_str()), ("components/c/files/etc/a", "")]));
    assert_eq!(told, format!("fleet.toml: it has {} bytes; a configuration file may have at most 1048576", text.len()));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn deep_nesting_ends_at_the_parser_s_bound() {
    for deep in [
        format!("format = 1\na = {}\n", "[".repeat(200_000)),
        format!("format = 1\n[{}]\n", vec!["a"; 200_000].join(".")),
        format!("format = 1\n{} = 1\n", vec!["a"; 200_000].join(".")),
        format!("format = 1\na = {}\n", "{b=".repeat(200_000)),
    ] {
        let told = first(&bundle([("fleet.toml", deep.as_str())]));
        assert!(told.contains("recurs"), "{told}");
    }
    let template = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
    refused(&bundle([("fleet.toml", FLEET), ("components/c/files/etc/a.j2", template.as_str())]));
}

#[test]
fn tens_of_thousands_of_mistakes_are_counted_and_not_told() {
    let keys: Vec<_> = (0..20_000).map(|n| format!("k{n}={n}\n")).collect();
    let keys = format!("{FLEET}{}", keys.concat());
    let findings = refused(&bundle([("fleet.toml", keys.as_str()), ("components/c/files/etc/a", "")]));
    assert_eq!(findings.list.len() + findings.more, 20_000);
    let broken = "=\n".repeat(100_000);
    let findings = refused(&bundle([("fleet.toml", broken.as_str())]));
    assert!(findings.more > 50_000, "{}", findings.more);
    let files = format!("[[file]]\npath = \"/etc/a\"\n{}", "[[file]]\npath=\"/x\"\n".repeat(30_000));
    let findings =
        refused(&bundle([("fleet.toml", FLEET), ("components/c/component.toml", &files), ("components/c/files/etc/a", "")]));
    assert!(findings.more > 20_000, "{}", findings.more);
}

#[test]
fn text_that_is_none() {
    for (path, bytes) in [("fleet.toml", b"format = 1\n# \xff\n".as_slice()), ("components/c/component.toml", b"a\n\xc3\x28")] {
        let mut files = bundle([("fleet.toml", FLEET), ("components/c/files/etc/a", "")]);
        add(&mut files, path, BlobKind::Regular, bytes);
        assert_eq!(first(&files), format!("{path}: line 2 is not UTF-8 text"));
    }
    // A byte order mark is what some editors leave; it is no reason to refuse.
    let marked = format!("\u{feff}{FLEET}");
    assert!(render(&bundle([("fleet.toml", marked.as_str()), ("components/c/files/etc/a", "")]), &host("h")).is_ok());
}

#[test]
fn nothing_from_the_repository_reaches_a_terminal_as_a_command() {
    let toml = "\"\\u001b[31mred\" = 1\n[[unit]]\nname = \"\\u001b]0;x\\u0007.service\"\n[[file]]\npath = \"/etc/\\u001b\"\n";
    let template = "{{ '\u{1b}[2J' + 1 }}\n";
    let files = [("fleet.toml", FLEET), ("components/c/component.toml", toml), ("components/c/files/etc/a.j2", template)];
    let findings = refused(&bundle(files));
    let drawn = findings.draw(false) + &findings.list.iter().map(ToString::to_string).collect::<String>();
    assert!(drawn.chars().all(|c| c == '\n' || !c.is_control()), "{drawn:?}");
}

#[test]
fn templates_that_never_end() {
    for template in [
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a * b %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{{ 'x' * 100000 }}{% endfor %}",
        "{{ range(10000000000) | list }}",
        "{% extends 'c' %}",
        "{% import 'c' as c %}",
    ] {
        refused(&bundle([("fleet.toml", FLEET), ("components/c/files/etc/a.j2", template)]));
    }
}

#[test]
fn a_host_s_files_are_bounded_together() {
    let mut files = bundle([("fleet.toml", FLEET)]);
    let big = vec![b'x'; 10 << 20];
    for n in 0..7 {
        add(&mut files, &format!("components/c/files/etc/{n}"), BlobKind::Regular, &big);
    }
    assert!(first(&files).contains("more than 64 MiB"));
}

#[test]
fn a_long_chain_of_components_needs_no_stack() {
    let mut files = bundle([("fleet.toml", FLEET)]);
    let name = |n: usize| if n == 0 { "c".to_owned() } else { format!("c{n}") };
    for n in 0..3000 {
        let depends = format!("depends = [\"{}\"]\n", name((n + 1) % 3000));
        add(&mut files, &format!("components/{}/component.toml", name(n)), BlobKind::Regular, depends.as_bytes());
    }
    assert!(first(&files).contains("in a ring: c → c1 → c2"));
}

#[test]
fn what_is_needed_is_asked_for_step_by_step() {
    let whole = bundle([
        ("fleet.toml", FLEET),
        ("hosts/h.toml", "components = [\"x\"]\n"),
        ("components/c/component.toml", "depends = [\"d\"]\nnonsense = 1\n"),
        ("components/d/component.toml", "depends = [\"x\"]\n"),
        ("components/x/files/etc/x", ""),
        ("components/unneeded/files/etc/u", ""),
    ]);
    let mut read = Bundle { components: whole.components.clone(), ..Bundle::default() };
    let mut asked = Vec::new();
    for name in ["fleet.toml", "hosts/h.toml"] {
        read.files.insert(name.parse().unwrap(), whole.get(name).unwrap().clone());
    }
    loop {
        let needed = needs(&read, &host("h")).unwrap();
        if needed.is_empty() {
            break;
        }
        asked.push(needed.iter().map(ToString::to_string).collect::<Vec<_>>());
        for folder in needed {
            let prefix = format!("{folder}/");
            read.files.extend(
                whole.files.iter().filter(|(path, _)| path.as_str().starts_with(&prefix)).map(|(p, b)| (p.clone(), b.clone())),
            );
        }
    }
    assert_eq!(asked, [vec!["components/c", "components/x"], vec!["components/d"]]);
    // What is wrong inside of a component is told by the rendering, with everything else; a slice and the whole say the same.
    assert_eq!(render(&read, &host("h")), render(&whole, &host("h")));
    assert!(needs(&Bundle::default(), &host("h")).is_err());
}

#[test]
fn validate_survives_a_thousand_hosts_with_the_same_mistake() {
    let mut files = bundle([("fleet.toml", FLEET), ("components/c/files/etc/a.j2", "{{ nothing }}")]);
    for n in 0..1000 {
        add(&mut files, &format!("hosts/h{n}.toml"), BlobKind::Regular, b"");
    }
    let report = validate(&files, &PathPolicy::default());
    assert_eq!((report.hosts, report.errors.list.len(), report.errors.more), (1000, 1, 0));
}
