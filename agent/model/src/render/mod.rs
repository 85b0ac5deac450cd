//! Rendering: from proven bytes and a host to what is wanted there.
//!
//! A pure function: the same bundle, labels and facts give the same bytes and the same digest on a laptop, in CI and on the
//! device. It either yields a whole desired state or all the reasons why not; there is nothing in between that could be applied.
//!
//! Limits: a template may take [`FUEL`] steps, a file [`MAX_OUTPUT`] bytes and a host [`MAX_TOTAL`] bytes. What these do not
//! bound (a template can double a string forty times in forty steps) is bounded by the process that the daemon renders in.

mod artifact;
mod health;
mod layout;
mod resolve;
mod template;
mod units;
mod uses;
mod validate;

use std::collections::BTreeMap;

pub use validate::{Member, Report, everybody, validate};

use crate::bundle::Bundle;
use crate::desired::{Desired, Entry, FileState, Node, Origin, Rendered, Role};
use crate::digest::Digest;
use crate::facts::Host;
use crate::finding::Findings;
use crate::fleet::read::Place;
use crate::names::{HostPath, RepoPath};
use layout::{Draft, Part, What};
use resolve::{Choice, Values};
use template::{Context, Engine};
use units::Ready;

/// Steps that one template may take.
pub const FUEL: u64 = 1_000_000;
/// Bytes that one file may render to.
pub const MAX_OUTPUT: usize = 16 << 20;
/// Bytes that all files of a host may come to.
pub const MAX_TOTAL: usize = 64 << 20;

/// The component folders (`components/<name>`) that this host still needs beside those in the bundle; empty when the bundle is
/// complete for it. Asked again after each addition, for what is added may depend on more.
///
/// Fails only when `fleet.toml` cannot be used at all: every other problem is [`render`]'s to tell, together with all the rest.
pub fn needs(bundle: &Bundle, host: &Host) -> Result<Vec<RepoPath>, Findings> {
    let mut findings = Findings::default();
    let Some(choice) = resolve::choose(bundle, host, &mut findings) else {
        findings.settle();
        return Err(findings);
    };
    let path = |name| format!("components/{name}").parse().expect("because a component name is a path part");
    Ok(choice.missing.iter().map(path).collect())
}

/// What is wanted on a host, or all that is wrong with the repository as far as this host is concerned.
pub fn render(bundle: &Bundle, host: &Host) -> Result<Rendered, Findings> {
    render_watched(bundle, host, &mut |_| {})
}

/// As [`render`], and calls `watch` with the path of each template before it is rendered: when a process ends in the middle,
/// this is what names the culprit.
pub fn render_watched(bundle: &Bundle, host: &Host, watch: &mut dyn FnMut(&str)) -> Result<Rendered, Findings> {
    let mut pass = Pass::new(bundle, host, false);
    let rendered = pass.run(watch);
    pass.findings.settle();
    match rendered {
        Some(rendered) => pass.findings.or(rendered),
        None => Err(pass.findings),
    }
}

struct Pass<'b> {
    bundle: &'b Bundle,
    host: &'b Host,
    /// The host is a placeholder: every label has some value.
    any_label: bool,
    findings: Findings,
    warnings: Findings,
}

impl<'b> Pass<'b> {
    fn new(bundle: &'b Bundle, host: &'b Host, any_label: bool) -> Self {
        Self { bundle, host, any_label, findings: Findings::default(), warnings: Findings::default() }
    }

    fn run(&mut self, watch: &mut dyn FnMut(&str)) -> Option<Rendered> {
        let choice = resolve::choose(self.bundle, self.host, &mut self.findings)?;
        for name in &choice.missing {
            self.findings.at(Place::file("components"), format!("the folder components/{name} was not read"));
        }
        let values = choice.values(self.host, &mut self.findings);
        let mut drafts = Vec::new();
        for component in choice.components.values() {
            drafts.extend(layout::lay_out(self.bundle, component, &self.host.policy, &mut self.findings));
        }
        let claims = layout::judge_claims(drafts, &mut self.findings);
        let files = self.contents(&choice, &values, claims, watch);
        let units = units::units(&files, &choice.components, &self.host.policy, &mut self.findings, &mut self.warnings);
        let (health, hooks) = health::checks(&files, &choice.components, &units, &mut self.findings, &mut self.warnings);
        // Anything wrong: no desired state. This is the one place that decides it.
        if !self.findings.is_empty() {
            return None;
        }
        let mut rendered = Rendered {
            desired: Desired {
                entries: BTreeMap::new(),
                units: units.managed,
                images: units.images,
                components: choice
                    .components
                    .iter()
                    .map(|(name, c)| (name.clone(), c.depends.iter().map(|d| d.value.clone()).collect()))
                    .collect(),
                health,
                hooks,
                confirm: choice.components.iter().filter_map(|(name, c)| Some((name.clone(), c.confirm?))).collect(),
                isolated: choice.components.iter().filter(|(_, c)| c.isolate).map(|(name, _)| name.clone()).collect(),
                exclusive: BTreeMap::new(),
            },
            contents: BTreeMap::new(),
        };
        let mut roles = units.roles;
        for (path, mut ready) in files {
            let role = roles.remove(&path);
            if let Some(exclusive) = ready.draft.exclusive.take() {
                rendered.desired.exclusive.insert(path.clone(), exclusive);
            }
            rendered.desired.entries.insert(path, entry(ready, role, &mut rendered.contents));
        }
        Some(rendered)
    }

    fn contents(
        &mut self,
        choice: &Choice<'b>,
        values: &Values,
        claims: BTreeMap<HostPath, Draft<'b>>,
        watch: &mut dyn FnMut(&str),
    ) -> BTreeMap<HostPath, Ready<'b>> {
        let engine = Engine::new();
        let contexts: BTreeMap<_, _> = choice
            .components
            .keys()
            .filter_map(|name| {
                // A template rendered with half of its values would only tell what was told already.
                let own = values.components.get(name)?.as_ref()?;
                Some((name, Context::new(self.host, &choice.labels, self.any_label, values.fleet.as_ref()?, own)))
            })
            .collect();
        let mut files = BTreeMap::new();
        let mut total = 0;
        for (path, draft) in claims {
            let mut fetched = None;
            let content = match &draft.what {
                What::Symlink(_) | What::Directory => None,
                What::Artifact(declared) => {
                    fetched = artifact::resolve(&engine, declared, contexts.get(&draft.component), &mut self.findings);
                    None
                }
                What::Bytes(bytes) => Some(bytes.to_vec()),
                What::Template(bytes) => {
                    watch(draft.place.file);
                    if let Some(context) = contexts.get(&draft.component) {
                        engine.render(draft.place.file, bytes, context, &mut self.findings)
                    } else {
                        engine.compile(draft.place.file, bytes, &mut self.findings);
                        None
                    }
                }
            };
            if let (Some(ignored), Some(bytes)) = (&draft.ignored, &content) {
                crate::fleet::judge_content(ignored, bytes, draft.place, &mut self.findings);
            }
            total += content.as_ref().map_or(0, Vec::len);
            if total > MAX_TOTAL {
                let message =
                    format!("the files of this host come to more than {} MiB, at the latest with this one", MAX_TOTAL >> 20);
                self.findings.at_with(draft.place, message, "large files are artifacts, not configuration: see [[artifact]]");
                break;
            }
            files.insert(path, Ready { draft, content, fetched });
        }
        files
    }
}

fn origin(draft: &Draft<'_>) -> Origin {
    Origin { component: draft.component.clone(), file: draft.place.file.to_owned(), line: draft.place.line() }
}

fn entry(ready: Ready<'_>, role: Option<Role>, contents: &mut BTreeMap<Digest, Vec<u8>>) -> Entry {
    let draft = ready.draft;
    let (origin, drift) = (origin(&draft), draft.drift);
    let (fetched, artifact) = ready.fetched.unzip();
    let node = match draft.what {
        What::Artifact(_) => fetched.unwrap_or(Node::Directory),
        What::Symlink(target) => Node::Symlink { target },
        What::Directory => Node::Directory,
        What::Bytes(_) | What::Template(_) => {
            let bytes = ready.content.unwrap_or_default();
            let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
            contents.insert(digest, bytes);
            Node::File { digest, size }
        }
    };
    let role = role.unwrap_or(match draft.part {
        Part::Sysusers => Role::Sysusers,
        Part::Tmpfiles => Role::Tmpfiles,
        Part::Sysctl => Role::Sysctl,
        _ => Role::Plain,
    });
    let readable = !matches!(node, Node::File { .. }) || draft.mode & 0o004 != 0;
    let state = FileState { node, mode: draft.mode, owner: draft.owner, group: draft.group };
    let ignored = draft.ignored.map(|declared| declared.value);
    Entry { state, role, shown: readable && !draft.sensitive, drift, ignored, artifact, origin }
}
