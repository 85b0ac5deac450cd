//! The corpus of the fuzz targets, replayed: on a stable Rust, without the engine, in each ordinary run of the tests.
//!
//! Guarantees: each target has a program for the engine and a corpus, and nothing else lies there; each input of a corpus is read by its target
//! within its bounds of memory and time. `make.rs` makes the corpus anew, when it is asked to.

mod bombs;
mod make;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use trimtab_tests::fuzz::weight::{self, Scale};
use trimtab_tests::fuzz::{TARGETS, folder, run};

#[global_allocator]
static SCALE: Scale = Scale;

/// The most bytes of the whole corpus: it is carried by every clone.
const MOST: u64 = 1 << 20;

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Whether the engine left it there: those are no part of the tree.
fn is_fresh(path: &Path) -> bool {
    let name = name(path);
    name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Reads all of a target's corpus; tells which input it was.
fn replay(targets: &[&str]) {
    assert!(weight::is_live(), "memory is not counted, so no bound on it can fail");
    for target in targets {
        let files: Vec<PathBuf> = files(&folder().join("corpus").join(target)).into_iter().filter(|path| !is_fresh(path)).collect();
        assert!(!files.is_empty(), "{target} has no corpus");
        for file in files {
            let bytes = std::fs::read(&file).unwrap();
            let read = std::panic::catch_unwind(|| run(target, &bytes));
            assert!(read.is_ok(), "{} does not pass; what is wrong stands above", file.display());
        }
    }
}

#[test]
fn what_is_signed() {
    replay(&["blocks", "bundle", "chain", "commit", "line", "manifest", "minisign", "openpgp", "sshsig", "tag"]);
}

#[test]
fn what_people_write() {
    replay(&["fleet", "keys_path", "root", "statement", "trust_toml", "unit"]);
}

#[test]
fn what_lies_on_the_host() {
    replay(&["keys_ini", "keys_json", "keys_systemd", "keys_toml", "keys_yaml", "memory", "stored"]);
}

#[test]
fn what_the_courier_says() {
    replay(&["client", "slice", "tree"]);
}

#[test]
fn each_target_has_its_program_and_its_corpus_and_nothing_else_is_there() {
    let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names.len(), TARGETS.len(), "two targets share a name");
    let replayed = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("replay/main.rs")).unwrap();
    let manifest = std::fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    for name in &names {
        assert!(replayed.contains(&format!("\"{name}\"")), "{name} is not replayed");
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"")), "{name} is not in Cargo.toml");
        let program = std::fs::read_to_string(folder().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("run(\"{name}\", bytes)")), "the program of {name} runs something else");
    }
    let there = |folder: PathBuf| files(&folder).iter().map(|path| name(path)).collect::<BTreeSet<_>>();
    assert_eq!(there(folder().join("corpus")), names);
    assert_eq!(there(folder().join("fuzz_targets")), names.iter().map(|name| format!("{name}.rs")).collect());
    let kept = TARGETS.iter().flat_map(|target| files(&folder().join("corpus").join(target.name))).filter(|path| !is_fresh(path));
    let size: u64 = kept.chain(files(&folder().join("known"))).map(|path| path.metadata().unwrap().len()).sum();
    assert!(size < MOST, "the corpus has {size} bytes");
}

#[test]
fn genuine_inputs_are_accepted() {
    // A target that refuses everything asserts nothing: these must come through to their last line.
    use trimtab::trust::minisign::MinisignSignature;
    use trimtab_tests::fuzz::known;
    for (name, armor) in known::signatures() {
        assert!(known::signers().check(armor, known::PAYLOAD, known::NOW).is_ok(), "{name}");
        assert!(known::was_made(armor, known::signatures()));
    }
    assert!(known::signers().check(&known::file("openpgp.sig"), known::PAYLOAD, known::NOW).is_ok());
    let minisig = String::from_utf8(known::file("payload.minisig")).unwrap();
    assert!(known::minisign().verify(known::PAYLOAD, &MinisignSignature::parse(&minisig).unwrap()).is_ok());
    let roots = known::roots();
    for (at, (text, signatures)) in roots.next.iter().enumerate() {
        let before =
            if at == 0 { roots.first.root.clone() } else { trimtab::trust::root::Root::parse("2", &roots.next[at - 1].0).unwrap() };
        trimtab::trust::chain::step(&before, at as u64 + 2, text.as_bytes(), Some(signatures)).unwrap();
    }
    let keys = known::named_keys(&["ann", "bob"]);
    let quorum = trimtab::trust::threshold::Quorum { threshold: 2, keys: keys.iter().collect() };
    let tag = known::release();
    let (_, blocks) = trimtab::trust::blocks::split(tag).unwrap();
    quorum.count(&blocks, trimtab::trust::threshold::Over::Before(tag), b"git").unwrap();
}
