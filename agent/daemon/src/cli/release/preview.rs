//! What each host and group would get from a commit, against the release in force: the same reading and rendering as on a device.
//!
//! Limits: facts are placeholders, and so are labels that hosts have from their own agent.toml; a host without a file in `hosts/` is seen
//! as a member of its groups only.

use std::collections::BTreeMap;

use serde::Serialize;
use trimtab_model::bundle::Bundle;
use trimtab_model::desired::{Node, Rendered};
use trimtab_model::facts::PathPolicy;
use trimtab_model::finding::Findings;
use trimtab_model::names::RepoPath;
use trimtab_model::plan::{Change, Texts, compare, show_compared};
use trimtab_model::render::{Member, everybody, validate};

use gix_hash::ObjectId;

use crate::log::many;
use crate::trust::tree::{TreeError, read_unproven};
use crate::wire::ObjectSource;

/// Longer files are told by their digests.
const MAX_TEXT: usize = 256 << 10;
/// What a fleet repository is made of.
const PARTS: [&str; 3] = ["fleet.toml", "hosts", "components"];

/// Reads the whole fleet at a commit's tree, by the rules of a device.
pub(in crate::cli) fn fleet(tree: ObjectId, source: &mut impl ObjectSource) -> Result<Bundle, TreeError> {
    let all: Vec<RepoPath> = PARTS.iter().map(|part| part.parse().expect("because it is a plain name")).collect();
    read_unproven(tree, source, &all)
}

/// As in `trimtab validate`: which hosts let the repository bring trimtab itself is theirs to say.
fn on_paper() -> PathPolicy {
    PathPolicy { self_update: true, ..PathPolicy::default() }
}

/// Hosts and groups that get the same.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    /// `host NAME` and `group NAME`.
    pub(super) who: Vec<String>,
    /// What changes for them; nothing for those that stay as they are.
    pub(super) changes: Vec<Change>,
    /// How much they are given in all: files, units, images.
    pub(super) gets: (usize, usize, usize),
    #[serde(skip)]
    texts: Both,
}

/// All that is wrong with a fleet, as `trimtab validate` tells it; or what becomes of whom, those with most changes first.
pub(super) fn preview(old: Option<&Bundle>, new: &Bundle) -> Result<Vec<Row>, Findings> {
    let policy = on_paper();
    let report = validate(new, &policy);
    if !report.errors.is_empty() {
        return Err(report.errors);
    }
    let mut members = everybody(new, &policy);
    for member in old.iter().flat_map(|old| everybody(old, &policy)) {
        // Who leaves with this release is told as well. A group has the labels of the new fleet.
        if !members.iter().any(|known| (known.is_group, &known.name) == (member.is_group, &member.name)) {
            members.push(member);
        }
    }
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for member in members {
        let (was, is) = (old.map(|old| rendered(&member, old)).unwrap_or_default(), rendered(&member, new));
        let changes = compare(&was.desired, &is.desired);
        let files = is.desired.entries.values().filter(|entry| !matches!(entry.state.node, Node::Directory)).count();
        let gets = (files, is.desired.units.len(), is.desired.images.len());
        let key = serde_json::to_string(&(&changes, if old.is_none() { gets } else { (0, 0, 0) }));
        let row = rows.entry(key.expect("because plain data always serialises")).or_insert_with(|| Row {
            who: Vec::new(),
            changes,
            gets,
            texts: Both { was, is },
        });
        row.who.push(format!("{} {}", if member.is_group { "group" } else { "host" }, member.name));
    }
    let mut rows: Vec<Row> = rows.into_values().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.changes.len()));
    Ok(rows)
}

/// What a member gets; one that a fleet does not make sense for gets nothing.
fn rendered(member: &Member, bundle: &Bundle) -> Rendered {
    member.render(bundle).unwrap_or_default()
}

/// As text; with the contents that differ when `diff`.
pub(super) fn show(rows: &[Row], names: (Option<&str>, &str), diff: bool, color: bool) -> String {
    let mut text = String::new();
    let Some(old) = names.0 else {
        for row in rows {
            let (files, units, images) = row.gets;
            let gets = [many(files, "file"), many(units, "unit"), many(images, "image")].join(", ");
            text.push_str(&format!("  {}: {gets}\n", row.who.join(", ")));
        }
        return text;
    };
    for row in rows.iter().filter(|row| !row.changes.is_empty()) {
        text.push_str(&format!("  {}:\n", row.who.join(", ")));
        let shown = if diff {
            show_compared(&row.changes, &row.texts, (old, names.1), color)
        } else {
            show_compared(&row.changes, &Nothing, (old, names.1), color)
        };
        for line in shown.lines() {
            text.push_str(&format!("    {line}\n"));
        }
    }
    let same: Vec<&str> = rows.iter().filter(|row| row.changes.is_empty()).flat_map(|row| &row.who).map(String::as_str).collect();
    if !same.is_empty() {
        text.push_str(&format!("  nothing changes for {}\n", same.join(", ")));
    }
    text
}

#[derive(Debug)]
struct Both {
    was: Rendered,
    is: Rendered,
}

struct Nothing;

impl Texts for Nothing {
    fn texts(&self, _: &str) -> Option<(String, String)> {
        None
    }
}

impl Texts for Both {
    fn texts(&self, path: &str) -> Option<(String, String)> {
        let (old, new) = (text(&self.was, path)?, text(&self.is, path)?);
        (old != new).then_some((old, new))
    }
}

/// The text of a file that everybody may read; empty where there is none.
fn text(rendered: &Rendered, path: &str) -> Option<String> {
    let Some(entry) = rendered.desired.entries.get(path) else { return Some(String::new()) };
    match &entry.state.node {
        Node::File { digest, .. } if entry.shown => {
            let bytes = rendered.contents.get(digest).filter(|bytes| bytes.len() <= MAX_TEXT && !bytes.contains(&0))?;
            String::from_utf8(bytes.clone()).ok()
        }
        _ => None,
    }
}
