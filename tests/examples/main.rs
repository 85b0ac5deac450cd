//! The fleet repository: every example rendered to a golden file, every refusal as it is drawn, hostile input, and the process
//! that rendering runs in.
//!
//! `UPDATE_GOLDEN=1 cargo test -p trimtab-tests --test examples` writes the golden files anew; the diff is then for a person to judge.

// What the tests share stands outside of `#[test]`, where clippy.toml does not look.
#![allow(clippy::unwrap_used, clippy::panic)]

mod child;
mod golden;
mod health;
mod hostile;
mod monitoring;
mod properties;
mod refusals;
mod trust;
mod units;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use trimtab::render::render;
use trimtab_model::bundle::{Blob, BlobKind, Bundle};
use trimtab_model::facts::{Facts, Host, OsRelease, PathPolicy};

fn repository_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn host(name: &str) -> Host {
    let os = OsRelease { id: "debian".into(), version_id: "13".into(), version_codename: "trixie".into(), ..OsRelease::default() };
    let facts = Facts {
        hostname: name.into(),
        machine_id: "00112233445566778899aabbccddeeff".into(),
        arch: "aarch64".into(),
        os,
        kernel: "6.12.9".into(),
        virtualization: "none".into(),
        memory_mib: 1984,
        cpus: 4,
    };
    Host { name: name.parse().unwrap(), labels: BTreeMap::new(), facts, policy: PathPolicy::default() }
}

/// A bundle of paths and texts; the components are the folders that occur.
fn bundle<'t>(files: impl IntoIterator<Item = (&'t str, &'t str)>) -> Bundle {
    let mut bundle = Bundle::default();
    for (path, text) in files {
        add(&mut bundle, path, BlobKind::Regular, text.as_bytes());
    }
    bundle
}

fn add(bundle: &mut Bundle, path: &str, kind: BlobKind, bytes: &[u8]) {
    if let Some((component, _)) = path.strip_prefix("components/").and_then(|rest| rest.split_once('/')) {
        bundle.components.insert(component.parse().unwrap());
    }
    bundle.files.insert(path.parse().unwrap(), Blob { kind, bytes: bytes.to_vec() });
}

/// Compares with a golden file, or writes it.
fn same_as_golden(file: &Path, actual: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, actual).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(file).unwrap_or_default();
    assert!(
        expected == actual,
        "{} is not what comes out now; UPDATE_GOLDEN=1 writes it anew.\n--- now ---\n{actual}",
        file.display()
    );
}

/// The findings for the host `h`, as they are drawn, against `tests/examples/refusals/<name>.txt`.
fn refused(name: &str, bundle: &Bundle) {
    let findings = render(bundle, &host("h")).expect_err("it must be refused");
    for finding in &findings.list {
        assert!(!finding.message.ends_with('.') && !finding.spots.is_empty(), "{finding}");
    }
    same_as_golden(&repository_root().join(format!("tests/examples/refusals/{name}.txt")), &findings.draw(false));
}
