//! What holds for every input: rendering does not depend on the order in which things were written or read, layers merge as
//! stated, and no bytes in any file make it panic.

use std::collections::BTreeMap;

use proptest::prelude::*;
use trimtab::render::{render, validate};
use trimtab_model::bundle::{BlobKind, Bundle};
use trimtab_model::facts::PathPolicy;
use trimtab_model::fleet::value::Value;

use super::{add, bundle, host};

/// Values whose kind at a key is always the same, as a declared type makes them: where one layer had a map and another a string,
/// the order of laying would matter, and does.
fn map(depth: u32) -> BoxedStrategy<Value> {
    let leaf = ("[st][a-c]", any::<i64>()).prop_map(|(key, n)| (key, Value::Integer(n)));
    let entry = if depth == 0 {
        leaf.boxed()
    } else {
        prop_oneof![
            leaf,
            ("[m][a-c]", map(depth - 1)),
            ("[l][a-c]", proptest::collection::vec(any::<bool>().prop_map(Value::Boolean), 0..3).prop_map(Value::List))
        ]
        .boxed()
    };
    proptest::collection::vec(entry, 0..5).prop_map(|entries| Value::Map(entries.into_iter().collect::<BTreeMap<_, _>>())).boxed()
}

fn statement() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("group".to_owned()),
        Just("variables".to_owned()),
        Just("set".to_owned()),
        Just("c".to_owned()),
        Just("name".to_owned()),
        Just("select".to_owned()),
        Just("components".to_owned()),
        Just("type".to_owned()),
        Just("default".to_owned()),
        Just("file".to_owned()),
        Just("unit".to_owned()),
        Just("path".to_owned()),
        Just("depends".to_owned()),
        "[a-z]{1,3}",
    ];
    let value = prop_oneof![
        Just("\"*\"".to_owned()),
        Just("\"c\"".to_owned()),
        Just("[\"c\"]".to_owned()),
        Just("\"string\"".to_owned()),
        Just("\"/etc/a\"".to_owned()),
        Just("\"a.service\"".to_owned()),
        Just("{ a = 1 }".to_owned()),
        Just("1979-05-27".to_owned()),
        Just("nan".to_owned()),
        Just("99999999999999999999".to_owned()),
        "\\PC{0,6}",
    ];
    prop_oneof![
        (word.clone(), value).prop_map(|(key, value)| format!("{key} = {value}\n")),
        word.clone().prop_map(|key| format!("[{key}]\n")),
        word.clone().prop_map(|key| format!("[[{key}]]\n")),
        (word.clone(), word).prop_map(|(a, b)| format!("[{a}.{b}]\n")),
        "\\PC{0,12}".prop_map(|text| text + "\n"),
    ]
}

fn toml() -> impl Strategy<Value = String> {
    proptest::collection::vec(statement(), 0..12).prop_map(|lines| format!("format = 1\n{}", lines.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn layers_merge_associatively(a in map(2), b in map(2), c in map(2)) {
        let left = a.clone().merge(b.clone()).merge(c.clone());
        prop_assert_eq!(&left, &a.clone().merge(b.merge(c)));
        prop_assert_eq!(&a.clone().merge(a.clone()), &a);
        prop_assert_eq!(&a.clone().merge(Value::Map(BTreeMap::new())), &a);
    }

    #[test]
    fn the_order_of_reading_and_writing_does_not_matter(order in Just((0..8).collect::<Vec<usize>>()).prop_shuffle(), swap in any::<bool>()) {
        let (first, second) = ("[variables.a]\ntype = \"integer\"\ndefault = 1\n", "[variables.b]\ntype = \"map\"\ndefault = { z = 1, y = 2 }\n");
        let component = if swap { format!("{second}{first}") } else { format!("{first}{second}") };
        let fleet = if swap {
            "[[group]]\ncomponents = [\"d\", \"c\"]\nselect = \"*\"\nname = \"all\"\nset.c.b.x = 3\n\n[variables.v]\ndefault = 1\ntype = \"integer\"\n".replacen("", "format = 1\n", 1)
        } else {
            "format = 1\n[variables.v]\ntype = \"integer\"\ndefault = 1\n[[group]]\nname = \"all\"\nselect = \"*\"\ncomponents = [\"c\", \"d\"]\n[group.set.c]\nb = { x = 3 }\n".to_owned()
        };
        let files = [
            ("fleet.toml", fleet.as_str()),
            ("hosts/h.toml", "labels = { z = \"1\", a = \"2\" }\n"),
            ("components/c/component.toml", component.as_str()),
            ("components/c/files/etc/a.j2", "{{ a }} {% for k in b %}{{ k }}={{ b[k] }} {% endfor %}{{ labels }} {{ b | json }} {{ fleet }}\n"),
            ("components/c/systemd/a.service", "[Service]\nExecStart=/bin/a /etc/a\n"),
            ("components/c/quadlet/n.network", "[Network]\n"),
            ("components/d/quadlet/x.container", "[Container]\nImage=i\nNetwork=n.network\n"),
            ("components/d/files/etc/b", "b"),
        ];
        let mut shuffled = Bundle::default();
        for at in order {
            add(&mut shuffled, files[at].0, BlobKind::Regular, files[at].1.as_bytes());
        }
        let rendered = render(&shuffled, &host("h")).unwrap_or_else(|findings| panic!("{}", findings.draw(false)));
        let text = String::from_utf8(rendered.contents.values().find(|c| c.starts_with(b"1 ")).unwrap().clone()).unwrap();
        prop_assert!(text.starts_with("1 x=3 y=2 z=1 {"), "{}", text);
        // One digest, whatever the order: the one that this test was written with.
        prop_assert_eq!(rendered.desired.digest().short(), "9a23173b9b49");
    }

    #[test]
    fn no_toml_makes_it_panic(fleet in toml(), component in toml(), host_file in toml()) {
        let component = component.replacen("format = 1\n", "", 1);
        let host_file = host_file.replacen("format = 1\n", "", 1);
        let files = bundle([
            ("fleet.toml", fleet.as_str()),
            ("components/c/component.toml", component.as_str()),
            ("components/c/files/etc/a", ""),
            ("hosts/h.toml", host_file.as_str()),
        ]);
        let _ = render(&files, &host("h"));
        let report = validate(&files, &PathPolicy::default());
        report.errors.draw(false);
    }

    #[test]
    fn no_bytes_anywhere_make_it_panic(
        name in "(files/|systemd/|quadlet/|sysusers/|tmpfiles/|sysctl/|x/)?[a-c.@-]{1,4}(\\.d/a)?(\\.service|\\.container|\\.network|\\.kube|\\.timer|\\.conf|\\.j2)?",
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..60),
            "(\\{[{%#] ?|[#%}]\\}|[a-z]{1,3}|\\[[A-Z][a-z]+\\]\n|=|\\.|\n| |for |in |Image=|ServiceName=|Network=|%i){0,25}".prop_map(String::into_bytes),
        ],
        kind in prop_oneof![Just(BlobKind::Regular), Just(BlobKind::Executable), Just(BlobKind::Symlink)],
    ) {
        prop_assume!(format!("components/c/{name}").parse::<trimtab_model::names::RepoPath>().is_ok());
        let mut files = bundle([
            ("fleet.toml", "format = 1\n[[group]]\nname = \"all\"\nselect = \"*\"\ncomponents = [\"c\"]\n"),
            ("components/c/files/etc/keep", ""),
        ]);
        add(&mut files, &format!("components/c/{name}"), kind, &bytes);
        match render(&files, &host("h")) {
            Ok(rendered) => prop_assert!(rendered.desired.entries.contains_key("/etc/keep")),
            Err(findings) => prop_assert!(!findings.is_empty() && !findings.draw(false).is_empty()),
        }
    }
}
