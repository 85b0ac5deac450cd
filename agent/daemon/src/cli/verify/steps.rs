//! The steps of a device's judgement, one by one: what each rule expected, and what it found.
//!
//! Limits: an explanation. The verdict is not put together from it: it is the device's own, on all at once.

use gix_hash::ObjectId;
use serde::Serialize;

use crate::author::draft::{Draft, Said};
use crate::author::reach::Reached;
use crate::cli::release::preview::fleet;
use crate::log::many;
use crate::trust::begin;
use crate::trust::blocks;
use crate::trust::chain;
use crate::trust::hash::Verified;
use crate::trust::memory::{Memory, Moment};
use crate::trust::policy::{Anchor, RootFile};
use crate::trust::release::Rules;
use crate::trust::statement::{Statement, show_time};
use crate::trust::tag::MAX_TAG;
use crate::trust::threshold::RELEASE_NAMESPACE;
use crate::trust::verdict::Verdict;
use crate::wire::ObjectKind;

/// One rule.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    /// Its name.
    pub(super) rule: &'static str,
    /// Whether it holds.
    pub(super) ok: bool,
    /// What it asks for.
    pub(super) expected: String,
    /// What there is.
    pub(super) found: String,
}

/// All of them, in the order of the device.
#[derive(Debug, Default)]
pub(super) struct Steps {
    pub(super) list: Vec<Step>,
}

impl Steps {
    pub(super) fn add(&mut self, rule: &'static str, ok: bool, expected: String, found: impl Into<String>) -> bool {
        self.list.push(Step { rule, ok, expected, found: found.into() });
        ok
    }

    /// Whether the fleet behind what is believed can be used.
    pub(super) fn is_usable(&self) -> bool {
        self.list.iter().all(|step| step.ok || !matches!(step.rule, "tree" | "fleet"))
    }

    /// The steps of release mode, as far as they lead.
    pub(super) fn release(
        &mut self,
        tag: ObjectId,
        alive: Option<ObjectId>,
        reached: &mut Reached,
        rules: Rules<'_>,
        memory: &Memory,
        moment: Moment,
    ) {
        let Some(draft) = self.tag(tag, reached, "tag") else { return };
        let Said::Release(statement) = &draft.said else {
            self.add("statement", false, "a `trimtab-release v1` statement".to_owned(), "it is an `alive` statement");
            return;
        };
        let tree = match reached.tree_of(draft.commit) {
            Ok(tree) => tree,
            Err(error) => {
                self.add("commit", false, format!("the commit {} that the tag names", draft.commit), crate::log::chain(&error));
                return;
            }
        };
        let Some(root) = self.roots(tree, reached, rules.anchor, memory) else { return };
        self.signatures(&draft, &root, rules);
        self.binding(statement, &draft, tree, &root, rules);
        self.order(statement, &draft, rules, memory);
        self.time(statement, memory, moment);
        if let Some(alive) = alive
            && let Some(said) = self.tag(alive, reached, "alive")
        {
            let (end, place) = (said.said.tag_name(), said.said.place());
            self.add(
                "alive",
                place <= statement.place,
                format!("{end} names nothing newer than {}", statement.place),
                place.to_string(),
            );
        }
    }

    fn tag(&mut self, tag: ObjectId, reached: &mut Reached, rule: &'static str) -> Option<Draft> {
        let expected = "an annotated tag with a statement, whose bytes are what its id names".to_owned();
        let object = match Verified::new(reached.courier(), MAX_TAG).one(ObjectKind::Tag, tag, MAX_TAG) {
            Ok(object) => object,
            Err(error) => {
                self.add(rule, false, expected, crate::log::chain(&error));
                return None;
            }
        };
        match Draft::parse(tag.kind(), object.into_bytes()) {
            Ok(draft) => {
                let found = format!("{} at commit {}, statement {}", draft.said.tag_name(), draft.commit, draft.digest());
                self.add(rule, true, expected, found);
                Some(draft)
            }
            Err(error) => {
                self.add(rule, false, expected, error.to_string());
                None
            }
        }
    }

    /// The newest root that the tree leads to.
    pub(super) fn roots(&mut self, tree: ObjectId, reached: &mut Reached, anchor: &Anchor, memory: &Memory) -> Option<RootFile> {
        let first = match begin::first(tree, reached.courier(), anchor, memory) {
            Ok(first) => first,
            Err(error) => {
                self.add("root", false, "the root that trust begins with".to_owned(), error.to_string());
                return None;
            }
        };
        self.add(
            "root",
            true,
            "the root that trust begins with".to_owned(),
            format!("root {}, {}", first.root.version, first.digest()),
        );
        let begin = first.root.version;
        match chain::follow(first, tree, reached.courier()) {
            Ok(followed) => {
                let (version, epoch) = (followed.newest.root.version, followed.newest.root.epoch);
                let found = match &followed.fault {
                    Some(fault) => fault.to_string(),
                    None if followed.steps == 0 => format!("there is none after root {begin} (epoch {epoch})"),
                    None => format!("followed to root {version} (epoch {epoch}), each signed by the keys before it and by its own"),
                };
                self.add(
                    "chain",
                    followed.fault.is_none(),
                    "each later root is signed by enough keys of the one before, and by its own".to_owned(),
                    found,
                );
                Some(followed.newest)
            }
            Err(error) => {
                self.add("chain", false, "each later root can be read".to_owned(), error.to_string());
                None
            }
        }
    }

    fn signatures(&mut self, draft: &Draft, root: &RootFile, rules: Rules<'_>) {
        let (channel, version) = (&rules.policy.channel, root.root.version);
        let Some(role) = root.root.release.get(channel) else {
            self.add("signatures", false, format!("root {version} says who may release to {channel}"), "it does not");
            return;
        };
        let quorum = root.root.quorum(role);
        let (mut lines, mut bad) = (Vec::new(), false);
        for block in blocks::split(&draft.bytes).map(|(_, blocks)| blocks).unwrap_or_default() {
            match block.signer(&draft.bytes[..block.start], RELEASE_NAMESPACE, quorum.keys.iter().map(|named| &named.key)) {
                Ok(key) => {
                    let name = quorum.keys.iter().find(|named| named.key == *key).map_or_else(String::new, ToString::to_string);
                    lines.push(format!("good: {name}"));
                }
                Err(fault) => {
                    bad |= matches!(fault, blocks::BlockFault::Bad { .. } | blocks::BlockFault::Malformed(_));
                    lines.push(format!("does not count: {fault}"));
                }
            }
        }
        let (signers, _) = draft.signers(&quorum);
        lines.push(format!("{} of {} needed", signers.len(), role.threshold));
        let expected = format!("{} of {} signed it (root {version}, release to {channel})", role.threshold, role.keys.join(", "));
        self.add("signatures", !bad && signers.len() >= role.threshold, expected, lines.join("\n"));
    }

    fn binding(&mut self, said: &Statement, draft: &Draft, tree: ObjectId, root: &RootFile, rules: Rules<'_>) {
        let name = crate::trust::tag::Tag::parse(tree.kind(), &draft.bytes).map(|tag| tag.name).unwrap_or_default();
        let pairs = [
            ("repository", rules.anchor.repo.to_string(), said.repo.to_string()),
            ("channel", rules.policy.channel.to_string(), said.channel.to_string()),
            ("commit", draft.commit.to_string(), said.commit.to_string()),
            ("tree", tree.to_string(), said.tree.to_string()),
            ("name", name, said.tag_name()),
            ("epoch", root.root.epoch.to_string(), said.place.epoch.to_string()),
        ];
        for (rule, want, found) in pairs {
            self.add(if rule == "tree" { "tree id" } else { rule }, want == found, format!("the statement says {want}"), found);
        }
        let have = root.root.version;
        self.add("root used", said.root <= have, format!("made under root {have} or one before it"), format!("root {}", said.root));
    }

    fn order(&mut self, said: &Statement, draft: &Draft, rules: Rules<'_>, memory: &Memory) {
        let floor = rules.policy.floor;
        match &memory.passed(rules.anchor.repo.as_str(), rules.policy.channel.as_str()) {
            Some(have) => {
                let ok = said.place > have.place || (said.place == have.place && have.statement == draft.digest());
                self.add(
                    "order",
                    ok && said.place >= floor,
                    format!("not below {}, which was accepted, and not another one of that number", have.place),
                    said.place.to_string(),
                );
            }
            None => {
                self.add(
                    "order",
                    said.place >= floor,
                    format!("not below the floor {floor} (nothing was accepted before)"),
                    said.place.to_string(),
                );
            }
        }
    }

    fn time(&mut self, said: &Statement, memory: &Memory, moment: Moment) {
        let passed = memory.passed(said.repo.as_str(), said.channel.as_str());
        let now = moment.clock.max(memory.floor(said.place.epoch, passed.as_ref()));
        let is_known = passed.is_some_and(|have| have.place == said.place);
        let ok = said.issued <= now + 600 && (is_known || said.expires >= now);
        let left = said.expires.saturating_sub(now);
        let rest = if left == 0 { "it has run out".to_owned() } else { format!("{} days are left", left / 86_400) };
        let found = format!("issued {}, expires {}: {rest}", show_time(said.issued), show_time(said.expires));
        self.add("time", ok, format!("issued before, and good at, {}", show_time(now)), found);
    }

    /// Whether what is behind it makes hosts: the tree by the device's rules, the fleet as `trimtab validate` judges it.
    pub(super) fn fleet(&mut self, verdict: &Verdict, reached: &mut Reached) {
        let Some(proven) = verdict.proven() else { return };
        let bundle = match fleet(proven.tree(), reached.courier()) {
            Ok(bundle) => bundle,
            Err(error) => {
                self.add(
                    "tree",
                    false,
                    "files, folders and links with plain names, within their bounds".to_owned(),
                    crate::log::chain(&error),
                );
                return;
            }
        };
        let found = format!("{} files of fleet.toml, hosts/ and components/", bundle.files.len());
        self.add("tree", true, "files, folders and links with plain names, within their bounds".to_owned(), found);
        let policy = trimtab_model::facts::PathPolicy { self_update: true, ..Default::default() };
        let report = trimtab_model::render::validate(&bundle, &policy);
        let found = if report.errors.is_empty() {
            format!("{}, {}", many(report.components, "component"), many(report.hosts, "host file"))
        } else {
            report.errors.draw(false)
        };
        self.add("fleet", report.errors.is_empty(), "every host can be rendered (`trimtab validate`)".to_owned(), found);
    }
}
