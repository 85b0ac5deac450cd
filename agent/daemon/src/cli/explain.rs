//! `trimtab explain`: why a resource is as it is, from what this host remembers, and what stands there now.
//!
//! Without a network. What can be looked at only with usable settings (the host as it is now) is left out when they are not, with the reason;
//! the rest is told all the same. Limit: who signed is remembered for the last accepted commit only.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use trimtab_model::desired::Origin;
use trimtab_model::drift::{DriftBook, DriftPolicy, LeftAlone};
use trimtab_model::explain::{Came, Explanation, Memory, find};
use trimtab_model::fleet::read::did_you_mean;
use trimtab_model::hold::{Held, Holds};
use trimtab_model::ledger::Ledger;
use trimtab_model::names::HostPath;
use trimtab_model::plan::{Difference, Verb};
use trimtab_model::transaction::Generation;

use super::ask::{error_code, remembered, short};
use super::machine::{Json, block_on};
use super::status::ago;
use super::{complain, fail, print_json, say};
use crate::config::Places;
use crate::cycle::holds::clocks;
use crate::cycle::{Cycle, Hold, now_ms};
use crate::host::root::Root;
use crate::log::chain;
use crate::store::Store;

/// How many drifts and changes are told to a person.
const SHOWN: usize = 5;

/// `trimtab explain`.
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// What: `/etc/app.conf`, `app.service`, or as a plan names it (`file /etc/app.conf`, `unit app.service`, `image …`).
    #[arg(value_name = "RESOURCE", required = true)]
    resource: Vec<String>,
    #[command(flatten)]
    json: Json,
}

/// What the store has, for who asks without holding it.
pub(super) struct Remembered {
    pub(super) store: Store,
    pub(super) ledger: Ledger,
    pub(super) generation: Option<Generation>,
    pub(super) book: DriftBook,
}

impl Remembered {
    pub(super) fn load(places: &Places) -> Result<Self, ExitCode> {
        let (store, ledger) = remembered(places).map_err(|error| fail(&error, error_code(&error)))?;
        let generation = store.load_generation(ledger.generation).map_err(|error| fail(&error, error_code(&error)))?;
        let book = store.load_book().map_err(|error| fail(&error, error_code(&error)))?.unwrap_or_default();
        Ok(Self { store, ledger, generation, book })
    }
}

/// What stands there now.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Now {
    /// Why nobody could look; empty: somebody did.
    #[serde(skip_serializing_if = "String::is_empty")]
    trouble: String,
    as_wanted: bool,
    differs: Vec<Difference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_alone: Option<LeftAlone>,
    /// Why it cannot be converged as things stand.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    #[serde(flatten)]
    known: Explanation,
    /// Who signed [`Explanation::revision`], where that is remembered.
    signer: Option<String>,
    now: Now,
}

pub(super) fn run(places: &Places, args: &ExplainArgs) -> ExitCode {
    let memory = match Remembered::load(places) {
        Ok(memory) => memory,
        Err(code) => return code,
    };
    let holds = holds(places, &memory.store);
    let known = Memory { ledger: &memory.ledger, generation: memory.generation.as_ref(), book: &memory.book, holds: &holds };
    let (asked, names) = (args.resource.join(" "), known.names());
    let Some(resource) = find(&asked, &names) else {
        complain(&unknown(&memory, &asked, &names));
        return ExitCode::FAILURE;
    };
    let known = known.explain(&resource, |number| memory.store.load_generation(number).ok().flatten());
    let (now, signer) = look(places, &known);
    let answer = Answer { known, signer, now };
    if args.json.json {
        print_json(&answer);
    } else {
        say(&human(&answer, now_ms()));
    }
    match answer.now {
        Now { as_wanted: true, .. } => ExitCode::SUCCESS,
        Now { trouble, .. } if trouble.is_empty() => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}

/// What a person holds; a book that cannot be read holds nothing, and `trimtab holds` says why.
fn holds(places: &Places, store: &Store) -> Holds {
    let (Ok(mut book), Ok(root)) = (store.load_holds(), Root::open(&places.root)) else { return Holds::default() };
    book.review(&clocks(&root));
    book.holds
}

fn unknown(memory: &Remembered, asked: &str, names: &std::collections::BTreeSet<String>) -> String {
    let asked = plain(asked);
    let path = asked.strip_prefix("file ").unwrap_or(&asked).parse::<HostPath>().ok();
    let folder = path.and_then(|path| path.parent()).and_then(|folder| {
        let exclusive = memory.generation.as_ref()?.desired.exclusive.get(&folder)?;
        Some(format!("{folder} is exclusive by {}, and nobody declared this in it", place(&exclusive.origin)))
    });
    let bare = names.iter().filter_map(|name| name.split_once(' ')).map(|(_, bare)| bare);
    let near = did_you_mean(&asked, names.iter().map(String::as_str).chain(bare));
    let why = folder.unwrap_or_else(|| "it is not managed, and never drifted".to_owned());
    format!("nothing is known of {asked} on this host: {why}; {near}").trim_end_matches([';', ' ']).to_owned()
}

/// Looks at the host as a plan would, and who signed.
fn look(places: &Places, known: &Explanation) -> (Now, Option<String>) {
    let looked = block_on(async {
        let mut cycle = Cycle::open(places, Hold::ReadOnly)?;
        let looked = cycle.look(false).await;
        let pass = looked.wanted.is_some().then_some(looked.pass);
        Ok::<_, crate::cycle::OpenError>((pass, cycle.signer_of(&known.revision)))
    });
    let (pass, signer) = match looked {
        Ok(Ok(looked)) => looked,
        Ok(Err(error)) => return (Now { trouble: chain(&error), ..Now::default() }, None),
        Err(error) => return (Now { trouble: error.to_string(), ..Now::default() }, None),
    };
    let Some(pass) = pass else {
        return (Now { trouble: "there is nothing in force to compare with".to_owned(), ..Now::default() }, signer);
    };
    let of = |resource: &str| resource == known.resource;
    let mut now = Now::default();
    for change in pass.changes.into_iter().filter(|change| of(&change.resource)) {
        now.differs.extend(change.differs);
        now.left_alone = now.left_alone.or(change.left_alone);
    }
    now.problems = pass.problems.into_iter().filter(|problem| of(&problem.resource)).map(|problem| problem.message).collect();
    now.as_wanted = now.differs.is_empty() && now.problems.is_empty();
    (now, signer)
}

fn human(answer: &Answer, now: u64) -> String {
    let known = &answer.known;
    let mut text = format!("{}\n", plain(&known.resource));
    let mut line = |word: &str, value: &str| {
        let _ = writeln!(text, "{word:<12}{}", plain(value));
    };
    if !known.wanted {
        line(
            "wanted",
            if known.owned { "no longer in the repository; still managed until it is taken away" } else { "not, and not managed" },
        );
    }
    if let Some(origin) = &known.origin {
        line("from", &format!("component {}, {}", origin.component, place(origin)));
    }
    if known.generation > 0 {
        let signer =
            answer.signer.as_ref().map_or_else(|| "signer not remembered".to_owned(), |signer| format!("signed by {signer}"));
        line("in force", &format!("generation {}, revision {}, {signer}", known.generation, known.revision));
    }
    if known.withheld {
        line("held back", "its component is not as that revision has it, but as an earlier generation had it: `trimtab history`");
    }
    policy(known, &mut line);
    let held = |held: &Held| format!("for {} more by {}: {}", left(held, now / 1000), held.by, held.reason);
    for (word, hold) in [("pinned", &known.pinned), ("suspended", &known.suspended)] {
        if let Some(hold) = hold {
            line(word, &held(hold));
        }
    }
    let wanted: Vec<String> = known.state.iter().map(|state| format!("{} {}", state.property, state.wanted)).collect();
    line("wanted", &wanted.join(", "));
    stands(&answer.now, known.policy, &mut line);
    links(known, &mut line);
    history(known, now, &mut text);
    drift(known, now, &mut text);
    text
}

fn policy(known: &Explanation, line: &mut impl FnMut(&str, &str)) {
    let word = match known.policy {
        DriftPolicy::Enforce => "enforce: it is repaired",
        DriftPolicy::Report => "report: it is told and left alone",
        DriftPolicy::Ignore => "ignore: it is neither told nor repaired",
        DriftPolicy::CreateOnce => "create-once: it is made when it is missing, and left alone from then on",
    };
    line("drift", word);
    if !known.ignored_keys.is_empty() {
        line("not its keys", &known.ignored_keys.join(", "));
    }
}

fn stands(now: &Now, policy: DriftPolicy, line: &mut impl FnMut(&str, &str)) {
    if !now.trouble.is_empty() {
        line("now", &format!("could not be looked at: {}", now.trouble.lines().next().unwrap_or_default()));
        return;
    }
    match policy {
        DriftPolicy::Enforce | DriftPolicy::Report if now.as_wanted => line("now", "as wanted"),
        _ if now.as_wanted => line("now", "as wanted, but for what may differ"),
        _ => {}
    }
    for differs in &now.differs {
        line("now", &format!("{} is {}, and {} is wanted", differs.property, differs.found, differs.wanted));
    }
    for problem in &now.problems {
        line("problem", problem);
    }
    if let Some(why) = &now.left_alone {
        line("", why.words());
    }
}

/// What it hangs together with.
fn links(known: &Explanation, line: &mut impl FnMut(&str, &str)) {
    let mut list = |word: &str, names: Vec<String>| {
        if !names.is_empty() {
            line(word, &names.join(", "));
        }
    };
    list("reads", known.reads.iter().map(ToString::to_string).collect());
    list("read by", known.read_by.iter().map(ToString::to_string).collect());
    list("needs", known.needs.iter().map(|name| format!("component {name}")).collect());
    list("needed by", known.needed_by.iter().map(|name| format!("component {name}")).collect());
}

fn history(known: &Explanation, now: u64, text: &mut String) {
    if !known.history.is_empty() {
        text.push_str("changed by\n");
    }
    for Came { generation, revision, at, verb, differs } in known.history.iter().take(SHOWN) {
        let what: Vec<String> = differs.iter().map(|d| format!("{} {} -> {}", d.property, d.found, d.wanted)).collect();
        let what = match verb {
            Verb::Create => "came".to_owned(),
            Verb::Remove => "left".to_owned(),
            _ => what.join(", "),
        };
        let ago = ago(now / 1000, *at);
        let _ = writeln!(text, "    generation {generation}, {ago} ago, revision {}: {}", short(revision), plain(&what));
    }
    if known.history_is_cut {
        text.push_str("    (older generations are not kept)\n");
    }
}

fn drift(known: &Explanation, now: u64, text: &mut String) {
    if !known.drift.is_empty() {
        text.push_str("drifted     (`trimtab drift show ID` tells more)\n");
    }
    for drift in known.drift.iter().take(SHOWN) {
        let ago = ago(now / 1000, drift.seen_ms / 1000);
        let _ = writeln!(text, "    {}  {ago} ago, by {}: {}", drift.id, plain(&drift.by()), plain(&drift.words()));
    }
    if known.drift.len() > SHOWN {
        let _ = writeln!(text, "    and {} more", known.drift.len() - SHOWN);
    }
}

fn left(held: &Held, now: u64) -> String {
    humantime::format_duration(std::time::Duration::from_secs(held.until.saturating_sub(now).div_ceil(60) * 60)).to_string()
}

/// A place in the repository.
pub(super) fn place(origin: &Origin) -> String {
    if origin.line > 0 { format!("{}:{}", origin.file, origin.line) } else { origin.file.clone() }
}

/// A word that anybody on the host may have written: it must not be able to steer the terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
