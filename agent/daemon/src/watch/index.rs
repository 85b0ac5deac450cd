//! Which names in which directories matter, and what an event on one of them means.
//!
//! Only directories are watched: each event comes with a directory and a name in it, so one watch covers creating, deleting, renaming over
//! and every change of the files beneath. The directories above are watched for the next name on the way, so that a renamed or exchanged
//! parent is seen, and one that is missing is seen when it comes.
//!
//! Guarantees: a name that matters to nobody is told apart by one look into a map, without an allocation. Limits: where a symlink stands on
//! the way, the link itself is watched and the directory that it leads to, not those above that one.

use std::collections::BTreeMap;

use trimtab_model::drift::Watched;
use trimtab_model::names::HostPath;

/// So many resources are told one by one when a directory above them changes; more are a reason to look at everything.
const MAX_BELOW: usize = 64;

/// What matters in one directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Directory {
    /// Without its leading slash; empty for the root.
    pub(super) path: String,
    names: BTreeMap<Box<str>, Role>,
    /// Everything in it is trimtab's business.
    exclusive: bool,
}

/// What a name in a directory is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Role {
    /// It is managed.
    managed: bool,
    /// Something below it is.
    way: bool,
}

/// What an event on a name means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Nothing.
    Nothing,
    /// This resource changed.
    Touched(String),
    /// A directory on the way to these came, went, or is another one now; `None` when they are too many to name.
    Moved(Option<Vec<String>>),
}

/// Every directory that matters, outermost first.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Index(Vec<Directory>);

impl Index {
    /// What must be watched to see everything of this.
    pub(super) fn of(watched: &Watched) -> Self {
        let mut all: BTreeMap<String, Directory> = BTreeMap::new();
        for path in &watched.paths {
            let (parent, name) = split(path.relative());
            directory(&mut all, parent).names.entry(name.into()).or_default().managed = true;
            way_to(&mut all, parent);
        }
        for path in &watched.exclusive {
            directory(&mut all, path.relative()).exclusive = true;
            way_to(&mut all, path.relative());
        }
        Self(all.into_values().collect())
    }

    /// The directories, outermost first.
    pub(super) fn directories(&self) -> &[Directory] {
        &self.0
    }

    /// What it means that something happened to `name` in the directory. `moved`: the name came or went, or leads elsewhere now.
    pub(super) fn meaning(&self, directory: usize, name: &str, moved: bool) -> Meaning {
        let Some(here) = self.0.get(directory) else { return Meaning::Nothing };
        let role = here.names.get(name).copied().unwrap_or_default();
        let path = || if here.path.is_empty() { name.to_owned() } else { format!("{}/{name}", here.path) };
        if role.way && moved {
            return Meaning::Moved(self.below(&path(), role.managed));
        }
        if role.managed || here.exclusive {
            return Meaning::Touched(resource(&path()));
        }
        Meaning::Nothing
    }

    /// What it means that something happened to the directory itself.
    pub(super) fn itself(&self, path: &str) -> Meaning {
        let (parent, name) = split(path);
        let at = self.0.binary_search_by(|directory| directory.path.as_str().cmp(parent));
        let is_managed = at.is_ok_and(|at| self.0[at].names.get(name).is_some_and(|role| role.managed));
        if is_managed { Meaning::Touched(resource(path)) } else { Meaning::Nothing }
    }

    /// What is managed here and was not in an earlier one; `None`: more than `most`, or a directory whose files cannot be listed.
    pub(super) fn beyond(&self, earlier: &Self, most: usize) -> Option<Vec<String>> {
        let mut list = Vec::new();
        for directory in &self.0 {
            let at = earlier.0.binary_search_by(|known| known.path.cmp(&directory.path));
            let known = at.ok().map(|at| &earlier.0[at]);
            if directory.exclusive && known.is_none_or(|known| !known.exclusive) {
                return None;
            }
            let is_new = |name: &&str| known.is_none_or(|known| !known.names.get(*name).is_some_and(|role| role.managed));
            for name in directory.managed().filter(is_new) {
                if list.len() == most {
                    return None;
                }
                list.push(if directory.path.is_empty() { resource(name) } else { resource(&format!("{}/{name}", directory.path)) });
            }
        }
        Some(list)
    }

    fn below(&self, path: &str, itself: bool) -> Option<Vec<String>> {
        let inside =
            |directory: &&Directory| directory.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let mut list: Vec<String> = itself.then(|| resource(path)).into_iter().collect();
        for directory in self.0.iter().filter(inside) {
            if directory.exclusive {
                return None;
            }
            for (name, _) in directory.names.iter().filter(|(_, role)| role.managed) {
                if list.len() == MAX_BELOW {
                    return None;
                }
                list.push(resource(&format!("{}/{name}", directory.path)));
            }
        }
        Some(list)
    }
}

impl Directory {
    /// The managed paths in it.
    pub(super) fn managed(&self) -> impl Iterator<Item = &str> {
        self.names.iter().filter(|(_, role)| role.managed).map(|(name, _)| &**name)
    }

    /// Whether nothing in it matters but which directories stand there.
    pub(super) fn is_only_a_way(&self) -> bool {
        !self.exclusive && self.names.values().all(|role| !role.managed)
    }
}

/// As [`trimtab_model::plan::Change::resource`] names a path.
fn resource(relative: &str) -> String {
    format!("file /{relative}")
}

/// The path that such a resource is; `None` for a unit.
pub(super) fn path_of(resource: &str) -> Option<HostPath> {
    resource.strip_prefix("file ")?.parse().ok()
}

fn split(relative: &str) -> (&str, &str) {
    relative.rsplit_once('/').unwrap_or(("", relative))
}

fn directory<'a>(all: &'a mut BTreeMap<String, Directory>, path: &str) -> &'a mut Directory {
    // Not `entry`: it would make a copy of the path for each of the files.
    if !all.contains_key(path) {
        all.insert(path.to_owned(), Directory { path: path.to_owned(), ..Directory::default() });
    }
    all.get_mut(path).expect("because it was just put there")
}

fn way_to(all: &mut BTreeMap<String, Directory>, path: &str) {
    let mut at = path;
    while !at.is_empty() {
        let (parent, name) = split(at);
        let role = directory(all, parent).names.entry(name.into()).or_default();
        if std::mem::replace(&mut role.way, true) {
            return;
        }
        at = parent;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(paths: &[&str], exclusive: &[&str]) -> Index {
        let parse = |list: &[&str]| list.iter().map(|path| path.parse().unwrap()).collect();
        Index::of(&Watched { paths: parse(paths), exclusive: parse(exclusive), units: Vec::new() })
    }

    fn at(index: &Index, path: &str) -> usize {
        index.directories().iter().position(|directory| directory.path == path).unwrap()
    }

    #[test]
    fn each_directory_on_the_way_is_watched_for_the_next_name() {
        let index = index(&["/etc/app/a.conf", "/etc/app/b.conf", "/etc/motd"], &["/etc/app/conf.d"]);
        let paths: Vec<_> = index.directories().iter().map(|directory| directory.path.as_str()).collect();
        assert_eq!(paths, ["", "etc", "etc/app", "etc/app/conf.d"]);
        assert!(index.directories()[0].is_only_a_way() && !index.directories()[1].is_only_a_way());
        let touched = |name: &str| Meaning::Touched(format!("file /etc/app/{name}"));
        assert_eq!(index.meaning(at(&index, "etc/app"), "a.conf", false), touched("a.conf"));
        assert_eq!(index.meaning(at(&index, "etc/app"), "sedXYZ", true), Meaning::Nothing);
        assert_eq!(index.meaning(at(&index, "etc/app/conf.d"), "strange", true), touched("conf.d/strange"));
        assert_eq!(index.meaning(at(&index, "etc"), "app", false), Meaning::Nothing, "its mode is nobody's business");
        assert_eq!(index.meaning(at(&index, "etc"), "app", true), Meaning::Moved(None), "what is exclusive cannot be listed");
        assert_eq!(index.meaning(77, "x", true), Meaning::Nothing);
    }

    #[test]
    fn what_lies_below_a_moved_directory_is_told_up_to_a_bound() {
        let few = index(&["/a/b/c", "/a/b", "/a/bb/c", "/z"], &[]);
        let moved = few.meaning(at(&few, "a"), "b", true);
        assert_eq!(moved, Meaning::Moved(Some(vec!["file /a/b".to_owned(), "file /a/b/c".to_owned()])));
        assert_eq!(few.itself("a/b"), Meaning::Touched("file /a/b".to_owned()));
        assert_eq!(few.itself("a"), Meaning::Nothing);
        let paths: Vec<String> = (0..=MAX_BELOW).map(|number| format!("/a/b/{number}")).collect();
        let many = index(&paths.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
        assert_eq!(many.meaning(at(&many, "a"), "b", true), Meaning::Moved(None));
    }
}
