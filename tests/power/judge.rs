//! What must hold on a disk after a power cut: as it is found, and after the next pass.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::path::Path;

use serde_json::Value;
use trimtab_model::digest::Digest;
use trimtab_tests::release::Floor;

use crate::run::{Ended, pass};
use crate::tree::{self, Thing, Tree};

const STATE: &str = "/var/lib/trimtab";
const BLOBS: &str = "/var/lib/trimtab/blobs/";
/// The device's key and its public half.
const DEVICE: [&str; 2] = ["/etc/trimtab/device.key", "/etc/trimtab/device.pub"];

/// What a cut disk is judged by.
pub(crate) struct Judge<'a> {
    /// What stood on the machine before the pass.
    pub(crate) old: &'a Tree,
    /// What it led to.
    pub(crate) new: &'a Tree,
    /// Contents of the operator's, and where they stood.
    pub(crate) treasures: &'a [(&'a str, &'a str)],
    /// The new revision.
    pub(crate) revision: &'a str,
    /// It is release 1.2 under root 2; the old one is 1.1 under root 1.
    pub(crate) released: bool,
}

/// What was judged already: a disk with the same content leads to the same passes.
#[derive(Default)]
pub(crate) struct Known(HashSet<u64>);

impl Known {
    /// How many different contents were gone on from.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    fn is_new(&mut self, found: &Tree, reported: bool) -> bool {
        let mut hasher = DefaultHasher::new();
        reported.hash(&mut hasher);
        found.iter().filter(|(path, _)| !path.starts_with("/noise/")).for_each(|one| one.hash(&mut hasher));
        self.0.insert(hasher.finish())
    }
}

impl Judge<'_> {
    /// Looks at a disk as the cut left it. `reported`: the pass had told its success before the cut. Whether it is worth going on from.
    pub(crate) fn look(&self, root: &Path, reported: bool, known: &mut Known) -> Result<bool, String> {
        let found = tree::read(root)?;
        let visible = tree::visible(&found);
        tree::is_old_or_new(&visible, self.old, self.new)?;
        documents(&found)?;
        self.nothing_is_lost(&found).map_err(|why| format!("as found: {why}"))?;
        self.is_held(&found, reported || visible != *self.old)?;
        if reported {
            tree::is_same(&visible, self.new).map_err(|why| format!("it was reported, and is lost: {why}"))?;
            self.revision_in_force(&found)?;
        }
        Ok(known.is_new(&found, reported))
    }

    /// Lets trimtab go on on a disk that [`Judge::look`] had nothing against, and looks again.
    pub(crate) fn go_on(&self, root: &Path, reported: bool) -> Result<(), String> {
        let kept = tree::read(root)?;
        let first = pass(root);
        let fine =
            if reported { first.outcome == "unchanged" } else { ["unchanged", "converged"].contains(&first.outcome.as_str()) };
        // That a trial was found and is gone on with is as it should be, before it was reported.
        let foreign = first.remarks.iter().any(|remark| reported || !remark.contains("when the agent ended; it goes on with that"));
        if !fine || foreign {
            return Err(format!("the next pass: {}", first.said));
        }
        self.recovered(root, &first, &kept)
    }

    /// What the next pass leads to. The device's key is made at random: one that was not on the disk is another one.
    fn wanted(&self, kept: &Tree, found: &Tree) -> Tree {
        let mut wanted = self.new.clone();
        if kept.contains_key(DEVICE[0]) {
            return wanted;
        }
        for path in DEVICE {
            if let (Some(Thing::File(text, mode, uid)), Some(Thing::File(seen, ..))) = (self.new.get(path), found.get(path))
                && text.len() == seen.len()
            {
                wanted.insert(path.to_owned(), Thing::File(seen.clone(), *mode, *uid));
            }
        }
        wanted
    }

    /// After the pass that followed the cut.
    fn recovered(&self, root: &Path, first: &Ended, kept: &Tree) -> Result<(), String> {
        let after = |why: String| format!("after the next pass ({}, {} changes): {why}", first.outcome, first.changes);
        let found = tree::read(root)?;
        let wanted = self.wanted(kept, &found);
        tree::is_same(&tree::visible(&found), &wanted).map_err(after)?;
        self.revision_in_force(&found).map_err(after)?;
        documents(&found).map_err(after)?;
        self.is_held(&found, true).map_err(after)?;
        self.nothing_is_lost(&found).map_err(after)?;
        blobs_are_whole(&found).map_err(after)?;
        let second = pass(root);
        if second.outcome != "unchanged" || second.changes != 0 {
            return Err(format!("the pass after the next one was not empty: {}", second.said));
        }
        self.held_alone(root, &wanted)
    }

    fn nothing_is_lost(&self, found: &Tree) -> Result<(), String> {
        for (path, content) in self.treasures {
            let in_place = matches!(found.get(*path), Some(Thing::File(seen, ..)) if seen == content.as_bytes());
            if !in_place {
                let digest = Digest::of(content.as_bytes()).to_string();
                blob(found, &digest).map_err(|why| format!("the operator's {path} is lost: it is not in its place, and {why}"))?;
            }
        }
        Ok(())
    }

    /// Both copies of what the host is held to are of before or of after; of after once anything else is (`begun`).
    fn is_held(&self, found: &Tree, begun: bool) -> Result<(), String> {
        let (before, after) = (Floor { place: (1, 1), root: 1 }, Floor { place: (1, 2), root: 2 });
        for copy in
            ["/var/lib/trimtab/trust-state.json", "/etc/trimtab/state/trust-state.json"].into_iter().filter(|_| self.released)
        {
            let Some(Thing::File(text, ..)) = found.get(copy) else { return Err(format!("{copy} is gone")) };
            let floor = Floor::read(text).map_err(|why| format!("{copy}: {why}"))?;
            if floor != after && (begun || floor != before) {
                return Err(format!("{copy} holds the host to {floor:?}, and something of the new release is there: {begun}"));
            }
        }
        Ok(())
    }

    fn revision_in_force(&self, found: &Tree) -> Result<(), String> {
        let Some(Thing::File(text, ..)) = found.get(&format!("{STATE}/ledger.json")) else {
            return Err("there is no ledger".to_owned());
        };
        let text = String::from_utf8_lossy(text);
        let Ok(ledger) = serde_json::from_str::<Value>(&text) else { return Err("the ledger is damaged".to_owned()) };
        if ledger["revision"] != self.revision {
            return Err(format!("the ledger has revision {}", ledger["revision"]));
        }
        if text.contains("\"pending\":true") { Err("the ledger has something pending".to_owned()) } else { Ok(()) }
    }

    /// With the source away and its files spoiled, the machine is held on the new revision from what is on the disk.
    fn held_alone(&self, root: &Path, wanted: &Tree) -> Result<(), String> {
        let settings = root.join("etc/trimtab/agent.toml");
        let text = fs::read_to_string(&settings).map_err(|error| error.to_string())?;
        let away: String = text
            .lines()
            .map(|line| if line.starts_with("url") { "url = \"/nowhere\"\n".to_owned() } else { format!("{line}\n") })
            .collect();
        fs::write(&settings, away).map_err(|error| error.to_string())?;
        let mut spoiled = 0;
        for (path, thing) in self.new {
            if let (true, Thing::File(..)) = (path.starts_with("/etc/app/") || path.starts_with("/etc/deep/"), thing)
                && !self
                    .treasures
                    .iter()
                    .any(|(kept, content)| kept == path && matches!(thing, Thing::File(seen, ..) if seen == content.as_bytes()))
            {
                fs::write(root.join(path.trim_start_matches('/')), "spoiled\n").map_err(|error| error.to_string())?;
                spoiled += 1;
            }
        }
        let third = pass(root);
        let mut found = tree::visible(&tree::read(root)?);
        if third.changes != spoiled {
            return Err(format!("{spoiled} files were spoiled, and with the source away it said: {}", third.said));
        }
        let settings = "/etc/trimtab/agent.toml";
        found.insert(settings.to_owned(), self.new[settings].clone());
        tree::is_same(&found, wanted).map_err(|why| format!("with the source away: {why}"))
    }
}

/// Each document that trimtab keeps is one, and the contents that the ledger counts on are there.
fn documents(found: &Tree) -> Result<(), String> {
    for (path, thing) in found.iter().filter(|(path, _)| path.contains("trimtab/") && path.ends_with(".json")) {
        let Thing::File(text, ..) = thing else { continue };
        let document: Value = serde_json::from_slice(text).map_err(|error| format!("{path} ({} bytes): {error}", text.len()))?;
        // The one before it is read only if the newest is damaged, and what it names may be gone.
        if path.ends_with("/ledger.json") {
            let mut named = BTreeSet::new();
            files_of(&document, &mut named);
            for digest in named {
                blob(found, &digest).map_err(|why| format!("{path} names it: {why}"))?;
            }
        }
    }
    Ok(())
}

fn blobs_are_whole(found: &Tree) -> Result<(), String> {
    for (path, _) in found.iter().filter(|(path, thing)| path.starts_with(BLOBS) && matches!(thing, Thing::File(..))) {
        let hex = path[BLOBS.len()..].replace('/', "");
        blob(found, &format!("sha256:{hex}"))?;
    }
    Ok(())
}

/// The digests of the file contents that a document names.
fn files_of(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let (Some("file"), Some(digest)) = (value["kind"].as_str(), value["digest"].as_str()) {
                into.insert(digest.to_owned());
            }
            fields.values().for_each(|value| files_of(value, into));
        }
        Value::Array(values) => values.iter().for_each(|value| files_of(value, into)),
        _ => {}
    }
}

/// A content in the store, whole.
fn blob(found: &Tree, digest: &str) -> Result<(), String> {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    match found.get(&format!("{BLOBS}{}/{}", &hex[..2], &hex[2..])) {
        Some(Thing::File(content, ..)) if Digest::of(content).to_string() == format!("sha256:{hex}") => Ok(()),
        Some(Thing::File(content, ..)) => Err(format!("the blob {hex} is damaged: {} bytes", content.len())),
        _ => Err(format!("the blob {hex} is not there")),
    }
}
