//! What the compiler cannot hold: the direction of imports, the size of rooms, the purity of the model, and that documents and
//! shipped files say what is there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The rooms of the daemon, left to right; a room imports only from rooms of a lower rank.
/// `crate::cli` is the last; `model` is a crate of its own, so the compiler holds that side.
const RANKS: [(&str, u8); 21] = [
    ("wire", 0),
    ("log", 0),
    ("durable", 0),
    ("sinks", 0),
    ("host", 1),
    ("courier", 1),
    ("trust", 1),
    ("store", 1),
    ("render", 1),
    ("probe", 2),
    ("config", 2),
    ("bundle", 2),
    ("watch", 3),
    ("outbox", 3),
    ("endpoint", 3),
    ("author", 3),
    ("apply", 4),
    ("cycle", 5),
    ("run", 6),
    ("cli", 7),
    ("main", 8),
];

/// Pairs of rooms of one rank that may know each other, each with its reason.
const ALLOWED: [(&str, &str, &str); 0] = [];

const CEILING: usize = 600;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every file beneath a folder with one of these endings.
fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut list = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return list };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            // What a program wrote is nobody's to keep tidy.
            if !path.ends_with("target") {
                list.extend(files(&path, endings));
            }
        } else if path.extension().is_some_and(|ending| endings.contains(&ending.to_str().unwrap_or_default())) {
            list.push(path);
        }
    }
    list.sort();
    list
}

/// The code of a file without comments, so that a sentence about `std::fs` is not taken for a use of it.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_model_is_pure() {
    let banned =
        ["std::fs", "std::net", "std::process", "SystemTime", "Instant::now", "std::env", "tokio", "async fn", "std::thread"];
    let mut wrong = Vec::new();
    for path in files(&workspace().join("agent/model/src"), &["rs"]) {
        let code = code(&path);
        wrong.extend(banned.iter().filter(|word| code.contains(**word)).map(|word| format!("{}: {word}", path.display())));
    }
    assert!(wrong.is_empty(), "the model knows no disk, clock, socket or async:\n{}", wrong.join("\n"));
}

#[test]
fn imports_go_to_the_left_only() {
    let source = workspace().join("agent/daemon/src");
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for path in files(&source, &["rs"]) {
        let inside = path.strip_prefix(&source).unwrap();
        let room = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if room == "lib" {
            continue;
        }
        let rank = |name: &str| RANKS.iter().find(|(room, _)| *room == name).map(|(_, rank)| *rank);
        let own = rank(room).unwrap_or_else(|| panic!("{room} is a new room: give it a rank here and a line in agent/README.md"));
        seen.insert(room.to_owned());
        for (at, _) in code(&path).match_indices("crate::") {
            let rest = code(&path)[at + 7..].to_owned();
            let other: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let Some(theirs) = rank(&other) else { continue };
            let allowed = ALLOWED.iter().any(|(from, to, _)| *from == room && *to == other);
            if other != room && theirs >= own && !allowed {
                wrong.push(format!("{} imports {other}", path.display()));
            }
        }
    }
    assert!(seen.len() > 8, "the scan must see the rooms, it saw {seen:?}");
    assert!(wrong.is_empty(), "imports go to the left only:\n{}", wrong.join("\n"));
}

#[test]
fn no_room_grows_past_its_ceiling() {
    let root = workspace();
    let mut wrong = Vec::new();
    for path in ["agent", "tests"].iter().flat_map(|folder| files(&root.join(folder), &["rs"])) {
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        if lines > CEILING {
            wrong.push(format!("{}: {lines} lines", path.display()));
        }
    }
    assert!(wrong.is_empty(), "what two things live in each?\n{}", wrong.join("\n"));
}

#[test]
fn every_module_opens_with_its_purpose() {
    let root = workspace();
    let wrong: Vec<String> = ["agent", "tests"]
        .iter()
        .flat_map(|folder| files(&root.join(folder), &["rs"]))
        .filter(|path| !std::fs::read_to_string(path).unwrap().starts_with("//!"))
        .map(|path| path.display().to_string())
        .collect();
    assert!(wrong.is_empty(), "a module opens with its purpose, guarantees and limits:\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_in_the_one_audited_module() {
    let wrong: Vec<String> = files(&workspace().join("agent"), &["rs"])
        .into_iter()
        .filter(|path| !path.ends_with("host/sys.rs"))
        .filter(|path| code(path).contains("unsafe ") || code(path).contains("allow(unsafe_code)"))
        .map(|path| path.display().to_string())
        .collect();
    assert!(wrong.is_empty(), "unsafe code lives in host/sys.rs and is audited there:\n{}", wrong.join("\n"));
}

#[test]
fn the_map_names_every_room() {
    let map = std::fs::read_to_string(workspace().join("agent/README.md")).unwrap();
    for (room, _) in RANKS {
        assert!(map.contains(&format!("`{room}`")), "agent/README.md does not name the room `{room}`");
    }
}

#[test]
fn the_map_has_the_table_of_power_cuts() {
    use trimtab_model::transaction::{Row, TABLE};
    let map = std::fs::read_to_string(workspace().join("agent/README.md")).unwrap();
    let (_, section) = map.split_once("## What a power cut leaves\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with('|')).skip(2).collect();
    let word = |row: &Row| {
        row.phase.map_or("(none)".to_owned(), |phase| format!("`{}`", serde_json::to_value(phase).unwrap().as_str().unwrap()))
    };
    let line = |row: &Row| format!("| {} | {} | {} | {} |", word(row), row.on_disk, row.next_start, row.ends);
    assert_eq!(rows, TABLE.iter().map(line).collect::<Vec<_>>());
}

/// The entries of the journal's catalog: number, header, text.
fn catalog() -> Vec<(String, String, String)> {
    let text = std::fs::read_to_string(workspace().join("units/trimtab.catalog")).unwrap();
    let entry = |part: &str| {
        let (id, rest) = part.split_once('\n').unwrap();
        let (header, body) = rest.split_once("\n\n").unwrap_or((rest, ""));
        (id.to_owned(), header.to_owned(), body.trim().to_owned())
    };
    text.split("\n-- ").skip(1).map(entry).collect()
}

#[test]
fn the_journals_catalog_explains_every_event_and_nothing_else() {
    use trimtab_model::event::EventKind;
    let (catalog, ids): (_, BTreeSet<&str>) = (catalog(), EventKind::ALL.iter().map(|kind| kind.message_id()).collect());
    assert_eq!(ids.len(), EventKind::ALL.len(), "two kinds share a number");
    assert_eq!(catalog.len(), ids.len());
    let known = ["TRIMTAB_RESOURCE", "TRIMTAB_REVISION", "TRIMTAB_ACTOR", "TRIMTAB_DRIFT_ID"];
    for (id, header, body) in &catalog {
        assert!(ids.contains(id.as_str()), "{id} is the number of no kind of event");
        assert!(id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{id}");
        for line in ["Subject: ", "Defined-By: trimtab", "Documentation: man:trimtab"] {
            assert!(header.lines().any(|one| one.starts_with(line)), "{id} has no {line:?}:\n{header}");
        }
        // What it means, and what to do.
        assert!(body.split("\n\n").count() >= 2, "{id}: {body}");
        for name in format!("{header}{body}").split('@').skip(1).step_by(2) {
            assert!(known.contains(&name), "{id} asks for a field {name:?} that no event has");
        }
    }
}

/// The keys that a table of agent.toml or trust.toml takes, as its own refusal of an unknown one lists them.
fn keys_of(refusal: &str) -> BTreeSet<String> {
    let list = refusal.split_once("expected").map(|(_, list)| list).unwrap_or_default();
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_manual_pages_know_every_key() {
    let page = |name: &str| std::fs::read_to_string(workspace().join("packaging/pages").join(name)).unwrap();
    let agent = page("agent.toml.md");
    for table in ["source", "artifacts", "host", "agent", "policy", "guard", "generations", "drift", "reports", "[sink]", "status"]
    {
        let source = if table == "source" { "" } else { "[source]\nurl = \"https://x/y.git\"\n" };
        let refusal = trimtab::config::Settings::check(&format!("{source}[{table}]\nno-such-key = 1\n")).unwrap_err();
        let keys = keys_of(&refusal);
        assert!(!keys.is_empty(), "{table}: {refusal}");
        for key in keys {
            assert!(agent.contains(&format!("| `{key}` |")), "agent.toml.md does not tell of {key} in [{table}]");
        }
    }
    let refusal = trimtab::trust::keys::TrustConfig::parse("t", "mode = \"commit\"\nno-such-key = 1\n").unwrap_err().draw(false);
    let (keys, trust) = (keys_of(&refusal.replace('\n', " ")), page("trust.toml.md"));
    assert!(keys.len() >= 3, "{refusal}");
    for key in keys {
        assert!(trust.contains(&format!("`{key}`")), "trust.toml.md does not tell of {key}");
    }
    let refusal = trimtab::trust::keys::TrustConfig::parse("t", "mode = \"release\"\nno-such-key = 1\n").unwrap_err().draw(false);
    let (_, release) = trust.split_once("## RELEASE MODE").unwrap();
    let keys = keys_of(&refusal.replace('\n', " "));
    assert!(keys.len() >= 9, "{refusal}");
    for key in keys {
        assert!(release.contains(&format!("| `{key}` |")), "trust.toml.md does not tell of {key} in release mode");
    }
}
