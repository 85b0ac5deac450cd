//! What operators write: a fleet's repository, and unit files in it. It is proven before it is read, but a person's slip must not end a process.

use trimtab_model::bundle::{Blob, BlobKind, Bundle};
use trimtab_model::facts::{Host, PathPolicy};
use trimtab_model::render::render;
use trimtab_model::unitfile::{self, UnitFile};

use super::{parts, texts};

/// Files of a small repository, with NUL bytes between: `fleet.toml`, a host's file, `component.toml`, a unit, a template.
pub fn fleet(bytes: &[u8]) {
    const PATHS: [&str; 5] = [
        "fleet.toml",
        "hosts/edge-1.toml",
        "components/web/component.toml",
        "components/web/systemd/web.service",
        "components/web/files/etc/web/web.conf.j2",
    ];
    let contents: [&[u8]; 5] = parts(bytes);
    let mut bundle = Bundle::default();
    bundle.components.insert("web".parse().expect("because it is a name"));
    for (path, bytes) in PATHS.into_iter().zip(contents) {
        if !bytes.is_empty() {
            let blob = Blob { kind: BlobKind::Regular, bytes: bytes.to_vec() };
            bundle.files.insert(path.parse().expect("because it is a path"), blob);
        }
    }
    let host = Host {
        name: "edge-1".parse().expect("because it is a name"),
        labels: [("site".to_owned(), "lab".to_owned())].into(),
        facts: trimtab_model::facts::Facts::default(),
        policy: PathPolicy::default(),
    };
    match render(&bundle, &host) {
        Ok(rendered) => assert_eq!(render(&bundle, &host).as_ref(), Ok(&rendered), "twice is not the same"),
        Err(findings) => texts::readable(&findings),
    }
}

/// A unit file, its words, and what its specifiers stand for.
pub fn unit(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (file, strays) = UnitFile::parse(text);
    let name = "web@a-b.service".parse().expect("because it is a name");
    let mut end = 0;
    for one in &file.assignments {
        assert!(end <= one.start && one.start < one.end && one.end <= text.len(), "places that overlap");
        end = one.end;
        let line = text.get(one.start..one.end).expect("because places are between characters");
        assert!(line.contains(&one.key) && !one.key.is_empty());
        let _ = (unitfile::words(&one.value), unitfile::expand(&one.value, &name));
    }
    for stray in &strays {
        assert!(text.get(stray.start..stray.end).is_some());
    }
    // Written plainly, it says the same.
    let mut plain = String::new();
    for one in &file.assignments {
        plain.push_str(&format!("[{}]\n{}={}\n", one.section, one.key, one.value));
    }
    let said = |file: &UnitFile| -> Vec<(String, String, String)> {
        file.assignments.iter().map(|one| (one.section.clone(), one.key.clone(), one.value.clone())).collect()
    };
    // A value that ends in a backslash would go on with the next line.
    if !file.assignments.iter().any(|one| one.value.ends_with('\\')) {
        assert_eq!(said(&UnitFile::parse(&plain).0), said(&file));
    }
}
