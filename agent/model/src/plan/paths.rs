//! What to do about one path: want, found and owned against each other.

use std::collections::BTreeMap;

use super::policy::{self, Stance};
use super::{Action, Cause, Change, Difference, Note, PRIVATE, Plan, Problem, Step, Verb};
use crate::desired::{Entry, FileState, Node, Origin};
use crate::drift::LeftAlone;
use crate::ledger::{Before, Owned};
use crate::names::HostPath;
use crate::observed::{Alike, Found, Meta, Observed};
use crate::xattr::{self, Xattrs};

/// Account numbers by name, as the host resolved them.
pub(super) struct Accounts<'a> {
    users: &'a BTreeMap<String, Option<u32>>,
    groups: &'a BTreeMap<String, Option<u32>>,
    /// The repository brings sysusers.d files: a missing account may be about to come.
    may_come: bool,
}

impl<'a> Accounts<'a> {
    pub(super) fn new(observed: &'a Observed, may_come: bool) -> Self {
        Self { users: &observed.users, groups: &observed.groups, may_come }
    }

    /// The wanted accounts that do not exist, as `user app`.
    pub(super) fn missing(&self, state: &FileState) -> Vec<String> {
        let absent = |map: &BTreeMap<String, Option<u32>>, name: &str| matches!(map.get(name), Some(None));
        let mut list = Vec::new();
        if absent(self.users, state.owner.as_str()) {
            list.push(format!("user {}", state.owner));
        }
        if absent(self.groups, state.group.as_str()) {
            list.push(format!("group {}", state.group));
        }
        list
    }
}

/// One path and all that is known of it.
pub(super) struct Place<'a> {
    pub(super) path: &'a HostPath,
    pub(super) want: Option<&'a Entry>,
    pub(super) found: &'a Found,
    pub(super) owned: Option<&'a Owned>,
    pub(super) pinned: bool,
    /// What stands there, but for the keys in it that belong to others.
    pub(super) alike: Alike,
    /// The extended attributes on it; `None`: there are none that count.
    pub(super) xattrs: Option<&'a Xattrs>,
}

impl Place<'_> {
    /// Adds what this path needs to the plan. Steps are added unordered; `build` sorts them.
    pub(super) fn decide(&self, accounts: &Accounts<'_>, plan: &mut Plan) {
        match (self.want, self.owned) {
            (Some(want), _) => self.keep(want, accounts, plan),
            (None, Some(owned)) => self.leave(owned, accounts, plan),
            (None, None) => {}
        }
    }

    fn keep(&self, want: &Entry, accounts: &Accounts<'_>, plan: &mut Plan) {
        if policy::is_past(want, self.found) {
            return policy::remember(self.path, want, self.owned, plan);
        }
        let mut differs = differences(&want.state, self.found, self.alike.wanted, accounts);
        differs.extend(self.xattr());
        if differs.is_empty() {
            match self.owned {
                None => plan.bookkeeping.push(Note::Adopt { path: self.path.clone(), before: before(self.found) }),
                Some(owned)
                    if owned.pending
                        || owned.state != want.state
                        || owned.role != want.role
                        || owned.origin != want.origin
                        || owned.drift != want.drift =>
                {
                    plan.bookkeeping.push(Note::Confirm { path: self.path.clone() });
                }
                Some(_) => {}
            }
            return;
        }
        let cause = self.cause(Some(&want.state), accounts);
        let stance = if self.pinned { Stance::Tell(LeftAlone::Pinned) } else { policy::stance(want.drift, cause) };
        let unfit = self.unfit(&want.state, accounts).filter(|_| stance == Stance::Mend);
        if let Some(message) = unfit {
            plan.problems.push(Problem { resource: self.resource(), message, origin: want.origin.clone() });
            return;
        }
        self.hide(want, &mut differs);
        let left_alone = match &stance {
            Stance::Tell(why) => Some(why.clone()),
            Stance::Mend => None,
            Stance::Ignore => return policy::remember(self.path, want, self.owned, plan),
        };
        plan.changes.push(Change {
            resource: self.resource(),
            verb: if matches!(self.found, Found::Missing) { Verb::Create } else { Verb::Update },
            cause: policy::told(want.drift, cause),
            differs,
            replaces: self.owned.is_none() && !matches!(self.found, Found::Missing),
            left_alone: left_alone.clone(),
            origin: want.origin.clone(),
        });
        if left_alone == Some(LeftAlone::Pinned) {
            plan.left.insert(self.path.clone());
            return;
        }
        if left_alone.is_some() {
            return policy::remember(self.path, want, self.owned, plan);
        }
        plan.steps.push(Step {
            action: Action::Put {
                path: self.path.clone(),
                expected: self.found.expectation(),
                before: self.owned.is_none().then(|| before(self.found)),
            },
            component: Some(want.origin.component.clone()),
            cause,
        });
    }

    /// Extended attributes that are others than after our own write; while one is only announced, nobody knows.
    fn xattr(&self) -> Option<Difference> {
        let owned = self.owned.filter(|owned| !owned.pending)?;
        let (Node::File { .. }, Found::File { .. }) = (&owned.state.node, self.found) else { return None };
        let none = Xattrs::new();
        let differs = xattr::differences(owned.xattrs.as_ref()?, self.xattrs.unwrap_or(&none));
        (!differs.is_empty()).then(|| difference("xattr", differs, "as written"))
    }

    /// Changes go to the journal and the status document, which many may read: a digest of a password is found out by trying passwords.
    fn hide(&self, want: &Entry, differs: &mut [Difference]) {
        let content = differs.iter_mut().find(|differs| differs.property == "content");
        if let Some(content) = content.filter(|_| !want.shown || self.found.is_private()) {
            *content = difference("content", PRIVATE, "other, and not shown");
        }
    }

    fn leave(&self, owned: &Owned, accounts: &Accounts<'_>, plan: &mut Plan) {
        let back = match &owned.before {
            Before::Absent if !self.pinned && policy::stays(owned, self.found) => None,
            Before::Absent if matches!(self.found, Found::Missing) => None,
            Before::Absent => Some((Verb::Remove, Action::Remove { path: self.path.clone(), expected: self.found.expectation() })),
            original @ Before::Original { .. } if *original == before(self.found) => None,
            original @ Before::Original { .. } => Some((
                Verb::Restore,
                Action::Restore { path: self.path.clone(), expected: self.found.expectation(), before: original.clone() },
            )),
        };
        let Some((verb, action)) = back else {
            plan.bookkeeping.push(Note::Drop { path: self.path.clone() });
            return;
        };
        if let Some(message) = self.unfit_to_leave(owned) {
            plan.problems.push(Problem { resource: self.resource(), message, origin: owned.origin.clone() });
            return;
        }
        let (cause, left_alone) = (self.cause(None, accounts), self.pinned.then_some(LeftAlone::Pinned));
        let change = Change {
            resource: self.resource(),
            verb,
            cause,
            differs: vec![difference("wanted", kind_word(&owned.state.node), "no longer in the repository")],
            replaces: false,
            left_alone,
            origin: owned.origin.clone(),
        };
        plan.changes.push(change);
        if !self.pinned {
            plan.steps.push(Step { action, component: Some(owned.origin.component.clone()), cause });
        }
    }

    fn resource(&self) -> String {
        format!("file {}", self.path)
    }

    /// Three-way: ledger against found is drift, wanted against ledger is an update. A pending write that is not done is unfinished work.
    fn cause(&self, want: Option<&FileState>, accounts: &Accounts<'_>) -> Cause {
        let Some(owned) = self.owned.filter(|owned| !owned.pending) else { return Cause::Update };
        let drift = !differences(&owned.state, self.found, self.alike.written, accounts).is_empty() || self.xattr().is_some();
        let update = want != Some(&owned.state);
        match (update, drift) {
            (true, true) => Cause::UpdateAndDrift,
            (false, true) => Cause::Drift,
            // Without both: keys in it that were somebody else's are not any more.
            (_, false) => Cause::Update,
        }
    }

    /// Why the path cannot become what is wanted; nothing of the operator's is destroyed to make it fit.
    fn unfit(&self, want: &FileState, accounts: &Accounts<'_>) -> Option<String> {
        let missing = accounts.missing(want);
        if !missing.is_empty() && !accounts.may_come {
            return Some(format!(
                "{} does not exist on this host; declare it in the component's sysusers/ folder",
                missing.join(" and ")
            ));
        }
        match (&want.node, self.found) {
            (_, Found::Unfit(why)) => Some(why.clone()),
            (Node::File { .. } | Node::Symlink { .. }, Found::Directory { mount, .. }) => Some(format!(
                "a {} is wanted where a {} stands; move it away first",
                kind_word(&want.node),
                if *mount { "mounted file system" } else { "directory" },
            )),
            (Node::Directory, Found::File { .. } | Found::Symlink { .. }) => {
                Some(format!("a directory is wanted where {} stands; move it away first", self.found.kind()))
            }
            _ => None,
        }
    }

    fn unfit_to_leave(&self, owned: &Owned) -> Option<String> {
        let wrote_directory = matches!(owned.state.node, Node::Directory);
        match self.found {
            Found::Unfit(why) => Some(format!("it left the repository, but {why}; it is left as it is")),
            Found::Directory { mount: true, .. } if matches!(owned.before, Before::Absent) => {
                Some("it left the repository, but a file system is mounted on it; unmount it and it will be removed".to_owned())
            }
            Found::Directory { .. } if !wrote_directory => {
                Some("it left the repository, but somebody put a directory in its place; it is left as it is".to_owned())
            }
            Found::File { .. } | Found::Symlink { .. } if wrote_directory => {
                Some("it left the repository, but somebody put a file in its place; it is left as it is".to_owned())
            }
            _ => None,
        }
    }
}

/// What must be put back if the path ever leaves the repository.
pub fn before(found: &Found) -> Before {
    let original = |node: Node, meta: &Meta| Before::Original { node, mode: meta.mode, uid: meta.uid, gid: meta.gid };
    match found {
        Found::Missing | Found::Unfit(_) => Before::Absent,
        Found::File { digest, size, meta } => original(Node::File { digest: *digest, size: *size }, meta),
        Found::Symlink { target, meta } => original(Node::Symlink { target: target.clone() }, meta),
        Found::Directory { meta, .. } => original(Node::Directory, meta),
    }
}

/// Whether what stands at a path is not what was put there; `observed` has the numbers of its owner and group.
pub fn has_drifted(put: &FileState, found: &Found, observed: &Observed) -> bool {
    !differences(put, found, false, &Accounts::new(observed, false)).is_empty()
}

/// In what a path differs from a state; empty when it is exactly as the state says. `alike`: its content counts as the same.
pub(super) fn differences(state: &FileState, found: &Found, alike: bool, accounts: &Accounts<'_>) -> Vec<Difference> {
    let mut list = Vec::new();
    match (&state.node, found) {
        (node, Found::Missing) => return vec![difference("missing", "nothing", kind_word(node))],
        (Node::File { digest, .. }, Found::File { digest: is, .. }) => {
            if digest != is && !alike {
                list.push(difference("content", is.short(), digest.short()));
            }
        }
        (Node::Symlink { target }, Found::Symlink { target: is, .. }) => {
            if target != is {
                list.push(difference("target", is, target));
            }
        }
        (Node::Directory, Found::Directory { .. }) => {}
        (node, other) => return vec![difference("kind", other.kind(), kind_word(node))],
    }
    let Some(meta) = found.meta() else { return list };
    if !matches!(state.node, Node::Symlink { .. }) && state.mode != meta.mode {
        list.push(difference("mode", format!("{:04o}", meta.mode), format!("{:04o}", state.mode)));
    }
    let account = |name: &str, map: &BTreeMap<String, Option<u32>>, is: u32, property: &str| {
        (map.get(name).copied().flatten() != Some(is)).then(|| difference(property, is.to_string(), name))
    };
    list.extend(account(state.owner.as_str(), accounts.users, meta.uid, "owner"));
    list.extend(account(state.group.as_str(), accounts.groups, meta.gid, "group"));
    list
}

pub(super) fn difference(property: &str, found: impl Into<String>, wanted: impl Into<String>) -> Difference {
    Difference { property: property.to_owned(), found: found.into(), wanted: wanted.into() }
}

/// Changes whose content a running unit may have read.
pub(super) fn is_substantial(differs: &[Difference]) -> bool {
    differs.iter().any(|d| matches!(d.property.as_str(), "content" | "missing" | "kind" | "target" | "wanted"))
}

pub(super) fn kind_word(node: &Node) -> &'static str {
    match node {
        Node::File { .. } => "file",
        Node::Symlink { .. } => "symlink",
        Node::Directory => "directory",
    }
}

/// A unit or image change has no path; its origin says where it comes from.
pub(super) fn plain_change(resource: String, verb: Verb, cause: Cause, differs: (&str, &str, &str), origin: &Origin) -> Change {
    let (property, found, wanted) = differs;
    Change {
        resource,
        verb,
        cause,
        differs: vec![difference(property, found, wanted)],
        replaces: false,
        left_alone: None,
        origin: origin.clone(),
    }
}
