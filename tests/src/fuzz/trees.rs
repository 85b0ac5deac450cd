//! Trees: one by itself, and a whole slice of a repository whose ids are computed here, so that every part of it can be changed.

use std::collections::BTreeMap;

use gix_hash::{Kind, ObjectId};
use trimtab::trust::tree::{self, MAX_DEPTH, MAX_ENTRIES, TreeError};
use trimtab::wire::{ObjectError, ObjectKind, ObjectSource};
use trimtab_model::bundle::BlobKind;
use trimtab_model::names::RepoPath;

use super::objects::id;

/// Objects by kind and id; what is not there is missing.
#[derive(Default)]
struct Objects<'b>(BTreeMap<(bool, ObjectId), std::borrow::Cow<'b, [u8]>>);

impl ObjectSource for Objects<'_> {
    fn objects(&mut self, kind: ObjectKind, ids: &[ObjectId], _: u64) -> Result<Vec<Vec<u8>>, ObjectError> {
        let one = |id: &ObjectId| {
            let found = self.0.get(&(kind == ObjectKind::Tree, *id));
            found.map(|bytes| bytes.to_vec()).ok_or(ObjectError::Missing { kind, id: *id })
        };
        ids.iter().map(one).collect()
    }
}

/// The content of one tree object.
pub fn tree(bytes: &[u8]) {
    for kind in [Kind::Sha1, Kind::Sha256] {
        let Some(root) = id(kind, "tree", bytes) else { continue };
        let mut source = Objects([((true, root), bytes.into())].into());
        let read = tree::read_unproven(root, &mut source, &[]);
        // Whatever lies beneath it is missing here: that says nothing of this one.
        if matches!(read, Ok(_) | Err(TreeError::Fetch { .. })) {
            hold(kind, bytes);
        }
    }
}

/// What must hold of a tree that was accepted: read here in another way.
fn hold(kind: Kind, bytes: &[u8]) {
    let mut rest = bytes;
    let mut last: Option<Vec<u8>> = None;
    let mut count = 0;
    while !rest.is_empty() {
        let nul = rest.iter().position(|byte| *byte == 0).expect("because an entry ends");
        let head = std::str::from_utf8(&rest[..nul]).expect("because names are texts");
        let (mode, name) = head.split_once(' ').expect("because a mode stands before a name");
        assert!(["40000", "100644", "100755", "120000"].contains(&mode), "{mode}");
        assert!(!name.is_empty() && !name.contains('/') && !name.chars().any(char::is_control), "{name:?}");
        let plain = name.to_ascii_lowercase();
        assert!(![".", "..", ".git", "git~1"].contains(&plain.as_str()), "{name:?}");
        // As git sorts: a folder as if its name ended in a slash.
        let key = format!("{name}{}", if mode == "40000" { "/" } else { "" }).into_bytes();
        assert!(last.as_ref().is_none_or(|last| *last < key), "{name:?} is out of order");
        last = Some(key);
        rest = &rest[nul + 1 + kind.len_in_bytes()..];
        count += 1;
    }
    assert!(count <= MAX_ENTRIES);
}

/// Objects with places for ids: the parts between two bytes 0xff are objects, the first is the root; an entry of a tree is `mode SP name NUL` and one
/// byte, the number of an object behind its own. What is not of that shape is an entry as it stands.
pub fn slice(bytes: &[u8]) {
    let mut contents: Vec<&[u8]> = Vec::new();
    let mut rest = bytes;
    while contents.len() < 64 {
        let Some(at) = rest.windows(2).position(|pair| pair == [0xff, 0xff]) else { break };
        contents.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    contents.push(rest);
    let kind = if bytes.first() == Some(&b' ') { Kind::Sha256 } else { Kind::Sha1 };
    let mut objects = Objects::default();
    // From the last to the first: an object names those behind it, so there is no circle.
    let mut ids: Vec<Option<[ObjectId; 2]>> = vec![None; contents.len()];
    for at in (0..contents.len()).rev() {
        let folder = expand(contents[at].strip_prefix(b" ").unwrap_or(contents[at]), at, kind, &ids);
        let (Some(tree), Some(blob)) = (id(kind, "tree", &folder), id(kind, "blob", contents[at])) else { return };
        objects.0.insert((true, tree), folder.into());
        objects.0.insert((false, blob), contents[at].into());
        ids[at] = Some([tree, blob]);
    }
    let root = ids[0].expect("because there is a first object")[0];
    let all: Vec<RepoPath> = ["a", "b", "components", "fleet.toml", "hosts", ".trimtab/root"]
        .iter()
        .map(|path| path.parse().expect("because it is a path"))
        .collect();
    let Ok(bundle) = tree::read_unproven(root, &mut objects, &all) else { return };
    for (path, blob) in &bundle.files {
        let text = path.as_str();
        assert!(text.split('/').count() <= MAX_DEPTH && all.iter().any(|one| text.starts_with(one.as_str())), "{text}");
        assert!(text.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && !part.eq_ignore_ascii_case(".git")));
        assert!(!text.chars().any(char::is_control), "{text:?}");
        assert!(contents.contains(&blob.bytes.as_slice()), "{text} has bytes of nobody's");
        assert!(blob.kind != BlobKind::Symlink || !(blob.bytes.is_empty() || blob.bytes.contains(&0)));
    }
    hold(kind, &objects.0[&(true, root)]);
}

/// The bytes of a tree whose ids are numbers of objects behind it.
fn expand(text: &[u8], own: usize, kind: Kind, ids: &[Option<[ObjectId; 2]>]) -> Vec<u8> {
    let mut folder = Vec::new();
    let mut rest = text;
    while let Some(nul) = rest.iter().position(|byte| *byte == 0) {
        let Some(number) = rest.get(nul + 1) else { break };
        let is_folder = rest.starts_with(b"40000 ");
        let there = ids.get(usize::from(*number)).copied().flatten().filter(|_| usize::from(*number) > own);
        let id = there.map_or(ObjectId::null(kind), |[tree, blob]| if is_folder { tree } else { blob });
        folder.extend(&rest[..=nul]);
        folder.extend(id.as_slice());
        rest = &rest[nul + 2..];
    }
    folder.extend(rest);
    folder
}
