//! A structured content as a tree in which each value knows its place in the text; comparing two, and putting values of one into the text of
//! the other.

use std::collections::BTreeMap;
use std::ops::Range;

use super::path::Keys;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    /// Bytes of the text; for a table of TOML that has a header, the header.
    pub(super) span: Range<usize>,
    pub(super) what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// What a scalar says, whatever way it is written; the same text only for the same value.
    Leaf(String),
    Map(Vec<Member>),
    List(Vec<Node>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) key: String,
    /// Where the key stands.
    pub(super) at: Range<usize>,
    pub(super) node: Node,
}

/// What YAML and JSON call nothing.
pub(super) const NULL: &str = "null";

/// The members of a map by name; the last one, where a format lets a key come twice. Made once for each map that is looked into: a file may have
/// tens of thousands of keys, and whoever may write it must not have them compared each with each.
type Names<'n> = BTreeMap<&'n str, &'n Member>;

fn names(members: &[Member]) -> Names<'_> {
    members.iter().map(|member| (member.key.as_str(), member)).collect()
}

impl Node {
    /// None of what is no map.
    fn names(&self) -> Names<'_> {
        match &self.what {
            What::Map(members) => names(members),
            _ => Names::new(),
        }
    }

    fn is_null(&self) -> bool {
        matches!(&self.what, What::Leaf(says) if says == NULL)
    }
}

/// How a format writes things.
pub(super) trait Style {
    /// A found value as text that can stand in any place for a value.
    fn value(&self, text: &str, node: &Node) -> String;
    /// Where, and as what text, members are added to a map. `path`: the way to it.
    fn add(&self, text: &str, map: &Node, path: &[String], members: &[(String, String)]) -> Option<(usize, String)>;
    /// Where a value that is to be replaced stands, and what must stand before the new one.
    fn place(&self, _text: &str, node: &Node, _key: Option<&Range<usize>>) -> (Range<usize>, &'static str) {
        (node.span.clone(), "")
    }
}

/// Whether two values say the same but for what is ignored beneath them.
pub(super) fn same(a: &Node, b: &Node, keys: &Keys<'_>) -> bool {
    match (&a.what, &b.what) {
        (What::Map(ours), What::Map(theirs)) => {
            let (ours, theirs) = (names(ours), names(theirs));
            let only_theirs = theirs.keys().filter(|name| !ours.contains_key(*name));
            ours.keys().chain(only_theirs).all(|name| {
                let (ignored, rest) = keys.step(name);
                ignored
                    || match (ours.get(name), theirs.get(name)) {
                        (Some(a), Some(b)) => same(&a.node, &b.node, &rest),
                        (Some(one), None) | (None, Some(one)) => vanishes(&one.node, &rest),
                        (None, None) => true,
                    }
            })
        }
        (What::List(ours), What::List(theirs)) => (0..ours.len().max(theirs.len())).all(|at| {
            let (ignored, rest) = keys.step(&at.to_string());
            ignored || ours.get(at).zip(theirs.get(at)).is_some_and(|(a, b)| same(a, b, &rest))
        }),
        (What::Leaf(a), What::Leaf(b)) => a == b,
        (What::Map(_), What::Leaf(_)) if b.is_null() => vanishes(a, keys),
        (What::Leaf(_), What::Map(_)) if a.is_null() => vanishes(b, keys),
        _ => false,
    }
}

/// A map in which nothing is left without what is ignored is as good as none.
fn vanishes(node: &Node, keys: &Keys<'_>) -> bool {
    if keys.is_empty() {
        return false;
    }
    match &node.what {
        What::Map(members) => members.iter().all(|member| {
            let (ignored, rest) = keys.step(&member.key);
            ignored || vanishes(&member.node, &rest)
        }),
        What::Leaf(_) => node.is_null(),
        What::List(_) => false,
    }
}

/// Whether all ignored values of `found` are in `result`; those only that `within` has a place for, when it is given.
pub(super) fn holds(result: &Node, found: &Node, within: Option<&Node>, keys: &Keys<'_>) -> bool {
    let one = |name: &str, inner: &Node, is: Option<&Node>, has: Option<Option<&Node>>| {
        let (ignored, rest) = keys.step(name);
        // No place for it in what is wanted.
        if has == Some(None) {
            return true;
        }
        match is {
            Some(is) if ignored => has_all(is, inner, has.flatten()),
            Some(is) => rest.is_empty() || holds(is, inner, has.flatten(), &rest),
            None => !ignored && pick(inner, &rest).is_none(),
        }
    };
    match &found.what {
        // A scalar or a list is wanted there: no place for any key.
        What::Map(_) if !matches!(result.what, What::Map(_)) => true,
        What::Map(members) => {
            let (are, has) = (result.names(), within.map(Node::names));
            names(members).into_iter().all(|(name, member)| {
                one(
                    name,
                    &member.node,
                    are.get(name).map(|is| &is.node),
                    has.as_ref().map(|has| has.get(name).map(|has| &has.node)),
                )
            })
        }
        What::List(elements) => {
            let (What::List(are), within) = (&result.what, within) else { return true };
            let has = |at: usize| within.map(|within| if let What::List(list) = &within.what { list.get(at) } else { None });
            // Elements are never added.
            elements.iter().zip(are).enumerate().all(|(at, (inner, is))| one(&at.to_string(), inner, Some(is), has(at)))
        }
        What::Leaf(_) => true,
    }
}

/// Whether a value that is ignored as a whole has come over: in a map, what is only wanted may stand beside it.
fn has_all(result: &Node, found: &Node, within: Option<&Node>) -> bool {
    match (&result.what, &found.what) {
        (What::Map(are), What::Map(members)) => {
            let (are, within) = (names(are), within.map(Node::names));
            names(members).into_iter().all(|(name, member)| {
                let has = within.as_ref().map(|within| within.get(name).map(|has| &has.node));
                has == Some(None) || are.get(name).is_some_and(|is| has_all(&is.node, &member.node, has.flatten()))
            })
        }
        _ => same(result, found, &Keys::new(&[])),
    }
}

/// Of a value, only the ignored keys beneath it; `None` when there are none. Nothing is picked out of a list: its elements have no names.
fn pick(node: &Node, keys: &Keys<'_>) -> Option<Node> {
    if keys.is_empty() {
        return None;
    }
    let What::Map(members) = &node.what else { return None };
    let picked: Vec<Member> = members
        .iter()
        .filter_map(|member| {
            let (ignored, rest) = keys.step(&member.key);
            let node = if ignored { member.node.clone() } else { pick(&member.node, &rest)? };
            Some(Member { node, ..member.clone() })
        })
        .collect();
    (!picked.is_empty()).then(|| Node { span: node.span.clone(), what: What::Map(picked) })
}

/// The text of `wanted` with the ignored values of `found`.
pub(super) fn splice(
    style: &dyn Style,
    wanted: (&str, &Node),
    found: (&str, &Node),
    keys: &Keys<'_>,
    adds: bool,
) -> Option<String> {
    let mut splice = Splice { style, text: wanted.0, from: found.0, adds, edits: Vec::new(), path: Vec::new() };
    splice.walk(wanted.1, found.1, Some(keys));
    splice.carry_out()
}

struct Splice<'a> {
    style: &'a dyn Style,
    text: &'a str,
    from: &'a str,
    adds: bool,
    edits: Vec<(Range<usize>, String)>,
    path: Vec<String>,
}

impl Splice<'_> {
    /// `keys` is `None` where everything beneath is ignored.
    fn walk(&mut self, wanted: &Node, found: &Node, keys: Option<&Keys<'_>>) {
        let step = |name: &str| {
            keys.map_or((true, None), |keys| {
                let (ignored, rest) = keys.step(name);
                (ignored, Some(rest))
            })
        };
        match (&wanted.what, &found.what) {
            (What::Map(ours), What::Map(theirs)) => {
                let mut added = Vec::new();
                let (ours, last) = (names(ours), names(theirs));
                // In the order in which they stand there; of a key that comes twice, the last counts.
                for member in theirs.iter().filter(|member| std::ptr::eq(*member, last[member.key.as_str()])) {
                    let (ignored, rest) = step(&member.key);
                    let rest = if ignored { None } else { rest };
                    if let Some(own) = ours.get(member.key.as_str()) {
                        self.path.push(own.key.clone());
                        self.meet(&own.node, &member.node, Some(&own.at), rest.as_ref());
                        self.path.pop();
                        continue;
                    }
                    let picked = rest.map_or_else(|| Some(member.node.clone()), |rest| pick(&member.node, &rest));
                    added.extend(picked.map(|node| (member.key.clone(), self.style.value(self.from, &node))));
                }
                if self.adds
                    && !added.is_empty()
                    && let Some((at, text)) = self.style.add(self.text, wanted, &self.path, &added)
                {
                    self.edits.push((at..at, text));
                }
            }
            (What::List(ours), What::List(theirs)) => {
                for (at, (own, their)) in ours.iter().zip(theirs).enumerate() {
                    let (ignored, rest) = step(&at.to_string());
                    self.path.push(at.to_string());
                    self.meet(own, their, None, if ignored { None } else { rest }.as_ref());
                    self.path.pop();
                }
            }
            _ => {}
        }
    }

    fn meet(&mut self, own: &Node, their: &Node, key: Option<&Range<usize>>, rest: Option<&Keys<'_>>) {
        let both_maps = matches!((&own.what, &their.what), (What::Map(_), What::Map(_)));
        match rest {
            Some(rest) if rest.is_empty() => {}
            Some(rest) if own.is_null() => {
                if let (true, Some(picked)) = (self.adds, pick(their, rest)) {
                    self.replace(own, &picked, key);
                }
            }
            None if !both_maps => {
                if !same(own, their, &Keys::new(&[])) {
                    self.replace(own, their, key);
                }
            }
            rest => self.walk(own, their, rest),
        }
    }

    fn replace(&mut self, own: &Node, their: &Node, key: Option<&Range<usize>>) {
        let (at, before) = self.style.place(self.text, own, key);
        self.edits.push((at, format!("{before}{}", self.style.value(self.from, their))));
    }

    fn carry_out(mut self) -> Option<String> {
        self.edits.sort_by_key(|(at, _)| (at.start, at.end));
        let mut text = String::with_capacity(self.text.len());
        let mut done = 0;
        for (at, new) in &self.edits {
            text.push_str(self.text.get(done..at.start)?);
            text.push_str(new);
            done = at.end;
        }
        text.push_str(self.text.get(done..)?);
        Some(text)
    }
}
