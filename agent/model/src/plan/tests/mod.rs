//! The plan against a model of a host.

pub(crate) mod host;
mod images;
mod policies;
pub(crate) mod properties;

use std::collections::BTreeSet;

use super::*;
use crate::desired::{Desired, Enablement, Entry, Node, OnChange, Role};
use crate::drift::DriftPolicy;
use crate::ledger::{Ledger, Owned};
use crate::observed::Found;
use host::{Host, artifact_of, entry, path, service, unit};

fn one_service() -> (Host, Desired) {
    let mut desired = Desired::default();
    desired.entries.insert(path("/etc/systemd/system/a.service"), entry("unit", Role::Unit(unit("a.service"))));
    desired.entries.insert(path("/etc/conf"), entry("conf", Role::Plain));
    desired.units.insert(unit("a.service"), service("/etc/systemd/system/a.service", &["/etc/conf"]));
    let mut host = Host::default();
    host.converge(&desired);
    (host, desired)
}

#[test]
fn a_job_that_its_timer_starts_is_recorded_and_then_left_alone() {
    let mut desired = Desired::default();
    desired.entries.insert(path("/etc/systemd/system/a.service"), entry("unit", Role::Unit(unit("a.service"))));
    let mut job = service("/etc/systemd/system/a.service", &[]);
    (job.enabled, job.active, job.oneshot) = (None, None, true);
    desired.units.insert(unit("a.service"), job);
    let mut host = Host::default();
    host.converge(&desired);
    assert!(host.units["a.service"].active.is_empty());
    let again = host.plan(&desired);
    assert!(again.is_empty() && again.bookkeeping.is_empty(), "{again:#?}");
}

#[test]
fn an_artifact_is_fetched_once_before_anything_is_switched() {
    let (mut host, mut desired) = one_service();
    desired.entries.insert(path("/usr/local/bin/tool"), artifact_of("c", "tool"));
    let plan = host.plan(&desired);
    assert_eq!(plan.steps.iter().map(word).collect::<Vec<_>>(), ["fetch", "put"]);
    assert_eq!(verbs(&plan), [("file /usr/local/bin/tool".to_owned(), Verb::Create, Cause::Update)]);
    let told = plan.changes[0].differs.iter().find(|differs| differs.property == "artifact").unwrap();
    assert_eq!(told.wanted, "4 bytes from https://dl.example.org/4");
    host.converge(&desired);
    host.file("/usr/local/bin/tool", "spoiled", 0o644);
    assert_eq!(host.plan(&desired).steps.iter().map(word).collect::<Vec<_>>(), ["put"], "repaired without a network");
}

#[test]
fn what_stands_there_already_is_taken_into_the_store_and_is_no_change() {
    let mut desired = Desired::default();
    desired.entries.insert(path("/opt/tool"), artifact_of("c", "tool"));
    let mut host = Host::default();
    host.file("/opt/tool", "tool", 0o644);
    let plan = host.plan(&desired);
    assert_eq!((plan.steps.iter().map(word).collect::<Vec<_>>(), plan.changes.len()), (vec!["fetch".to_owned()], 0));
    host.converge(&desired);
    // What is left as it is needs no content.
    desired.entries.insert(path("/opt/other"), artifact_of("c", "other"));
    host.pinned.insert("file /opt/other".to_owned());
    assert!(host.plan(&desired).steps.is_empty());
}

#[test]
fn another_place_for_the_same_bytes_is_the_same_state() {
    let (mut one, mut other) = (Desired::default(), Desired::default());
    one.entries.insert(path("/opt/tool"), artifact_of("c", "tool"));
    let moved = crate::desired::Artifact { url: "https://elsewhere.example.org/tool".to_owned(), minisign: None };
    other.entries.insert(path("/opt/tool"), Entry { artifact: Some(moved), ..artifact_of("c", "tool") });
    assert_eq!(one.effect(), other.effect());
    assert_ne!(one.digest(), other.digest());
}

fn word(step: &Step) -> String {
    serde_json::to_value(&step.action).unwrap()["do"].as_str().unwrap().to_owned()
}

fn verbs(plan: &Plan) -> Vec<(String, Verb, Cause)> {
    plan.changes.iter().map(|change| (change.resource.clone(), change.verb, change.cause)).collect()
}

#[test]
fn an_edited_file_is_drift_and_its_reader_is_restarted() {
    let (mut host, desired) = one_service();
    host.file("/etc/conf", "edited", 0o644);
    let expected = vec![
        ("file /etc/conf".to_owned(), Verb::Update, Cause::Drift),
        ("unit a.service".to_owned(), Verb::Restart, Cause::Follows),
    ];
    assert_eq!(verbs(&host.plan(&desired)), expected);
}

#[test]
fn a_mode_put_right_restarts_nobody() {
    let (mut host, desired) = one_service();
    host.file("/etc/conf", "conf", 0o666);
    assert_eq!(verbs(&host.plan(&desired)), vec![("file /etc/conf".to_owned(), Verb::Update, Cause::Drift)]);
}

#[test]
fn an_edit_and_an_update_at_once_are_told_as_both() {
    let (mut host, mut desired) = one_service();
    host.file("/etc/conf", "edited", 0o644);
    desired.entries.insert(path("/etc/conf"), entry("new", Role::Plain));
    assert_eq!(host.plan(&desired).changes[0].cause, Cause::UpdateAndDrift);
}

#[test]
fn a_stopped_unit_is_drift() {
    let (mut host, desired) = one_service();
    host.found(&unit("a.service")).active = "inactive".to_owned();
    assert_eq!(verbs(&host.plan(&desired)), vec![("unit a.service".to_owned(), Verb::Start, Cause::Drift)]);
}

#[test]
fn an_edited_file_that_leaves_is_removed_as_update_and_drift() {
    let (mut host, mut desired) = one_service();
    host.file("/etc/conf", "edited", 0o644);
    desired.entries.remove("/etc/conf");
    desired.units.get_mut("a.service").unwrap().uses.clear();
    let plan = host.plan(&desired);
    assert_eq!(plan.changes[0].verb, Verb::Remove);
    assert_eq!(plan.changes[0].cause, Cause::UpdateAndDrift);
}

#[test]
fn a_directory_in_the_way_is_a_problem_and_the_rest_goes_on() {
    let (mut host, mut desired) = one_service();
    let meta = host.meta(0o755, 0);
    host.files.insert(path("/etc/dir"), Found::Directory { meta, mount: false });
    desired.entries.insert(path("/etc/dir"), entry("x", Role::Plain));
    desired.entries.insert(path("/etc/other"), entry("x", Role::Plain));
    let plan = host.plan(&desired);
    assert_eq!(plan.problems.len(), 1);
    assert!(plan.problems[0].message.contains("a directory stands"), "{}", plan.problems[0].message);
    assert_eq!(plan.steps.len(), 1);
}

#[test]
fn an_unknown_user_is_a_problem_unless_sysusers_may_bring_it() {
    let mut desired = Desired::default();
    let mut file = entry("x", Role::Plain);
    file.state.owner = "app".parse().unwrap();
    desired.entries.insert(path("/etc/x"), file);
    let mut observed = Host::default().observe();
    observed.users.insert("app".to_owned(), None);
    let refused = plan(&desired, &observed, &Ledger::default());
    assert!(refused.problems[0].message.contains("user app does not exist"), "{:?}", refused.problems);
    desired.entries.insert(path("/etc/sysusers.d/app.conf"), entry("u app -", Role::Sysusers));
    let planned = plan(&desired, &observed, &Ledger::default());
    assert!(planned.problems.is_empty());
    let kinds: Vec<String> = planned.steps.iter().map(|step| step.action.resource()).collect();
    assert_eq!(kinds, ["file /etc/sysusers.d/app.conf", "sysusers", "file /etc/x"]);
}

#[test]
fn a_unit_that_leaves_is_stopped_and_disabled_before_its_file_goes() {
    let (host, _) = one_service();
    let plan = host.plan(&Desired::default());
    let order: Vec<String> = plan.steps.iter().map(word).collect();
    assert_eq!(order, ["stop", "disable", "remove", "remove", "daemon-reload", "forget"]);
}

#[test]
fn a_drop_in_that_leaves_is_gone_before_its_unit_is_restarted() {
    let (mut host, mut desired) = one_service();
    let drop_in = path("/etc/systemd/system/a.service.d/x.conf");
    desired.entries.insert(drop_in.clone(), entry("drop-in", Role::Unit(unit("a.service"))));
    let service = desired.units.get_mut("a.service").unwrap();
    service.definition.insert(drop_in.clone());
    service.on_change = OnChange::Reload;
    host.converge(&desired);
    host.found(&unit("a.service")).can_reload = true;
    desired.entries.remove(&drop_in);
    desired.units.get_mut("a.service").unwrap().definition.remove(&drop_in);
    let plan = host.plan(&desired);
    assert_eq!(plan.steps.iter().map(word).collect::<Vec<_>>(), ["remove", "daemon-reload", "enable", "restart"]);
    assert_eq!(plan.prune_from, 4);
}

#[test]
fn a_drop_in_of_a_template_or_a_prefix_is_gone_before_the_units_that_read_it_are_restarted() {
    for (name, of) in [("a@1.service", "a@.service"), ("a-b.service", "a-.service")] {
        let (fragment, drop_in) = (path("/etc/systemd/system/a.service"), path(&format!("/etc/systemd/system/{of}.d/x.conf")));
        let mut desired = Desired::default();
        desired.entries.insert(drop_in.clone(), entry("drop-in", Role::Unit(unit(of))));
        let mut reader = service(fragment.as_str(), &[]);
        reader.definition = BTreeSet::from([drop_in.clone()]);
        desired.units.insert(unit(name), reader);
        let mut host = Host::default();
        host.found(&unit(name)).load = "loaded".to_owned();
        host.converge(&desired);
        desired.entries.remove(&drop_in);
        desired.units.get_mut(name).unwrap().definition.clear();
        let plan = host.plan(&desired);
        let words: Vec<String> = plan.steps.iter().map(|step| format!("{} {}", word(step), step.action.resource())).collect();
        let expected = [
            format!("remove file {drop_in}"),
            "daemon-reload ".into(),
            format!("enable unit {name}"),
            format!("restart unit {name}"),
        ];
        assert_eq!(words, expected);
    }
}

#[test]
fn what_leaves_is_stopped_before_what_comes_is_started() {
    let (host, _) = one_service();
    let mut next = Desired::default();
    next.entries.insert(path("/etc/systemd/system/b.service"), entry("unit", Role::Unit(unit("b.service"))));
    next.units.insert(unit("b.service"), service("/etc/systemd/system/b.service", &[]));
    let plan = host.plan(&next);
    let jobs = |step: &&Step| matches!(step.action, Action::Stop { .. } | Action::Start { .. });
    let jobs: Vec<String> =
        plan.steps.iter().filter(jobs).map(|step| format!("{} {}", word(step), step.action.resource())).collect();
    assert_eq!(jobs, ["stop unit a.service", "start unit b.service"], "it may hold the port that the new one needs");
}

#[test]
fn a_directory_that_leaves_goes_after_what_is_in_it() {
    let (mut host, mut desired) = one_service();
    for (at, node) in [("/etc/dir", Node::Directory), ("/etc/dir/file", entry("x", Role::Plain).state.node)] {
        let mut one = entry("x", Role::Plain);
        one.state.node = node;
        desired.entries.insert(path(at), one);
    }
    let meta = host.meta(0o644, 0);
    host.files.insert(path("/etc/dir"), Found::Directory { meta, mount: false });
    host.file("/etc/dir/file", "x", 0o644);
    for at in ["/etc/dir", "/etc/dir/file"] {
        let entry = &desired.entries[at];
        let (state, role, origin) = (entry.state.clone(), entry.role.clone(), entry.origin.clone());
        host.ledger.entries.insert(
            path(at),
            Owned { state, role, before: Before::Absent, xattrs: None, pending: false, drift: DriftPolicy::Enforce, origin },
        );
    }
    desired.entries.retain(|at, _| !at.is_within("/etc/dir"));
    let resources: Vec<String> = host.plan(&desired).steps.iter().map(|step| step.action.resource()).collect();
    assert_eq!(resources, ["file /etc/dir/file", "file /etc/dir"]);
}

#[test]
fn a_unit_that_leaves_on_its_way_down_is_waited_for() {
    let (mut host, _) = one_service();
    for (active, stops) in [("failed", true), ("deactivating", true), ("inactive", false)] {
        host.found(&unit("a.service")).active = active.to_owned();
        let plan = host.plan(&Desired::default());
        assert_eq!(plan.steps.iter().any(|step| matches!(step.action, Action::Stop { .. })), stops, "{active}");
    }
}

#[test]
fn a_plan_without_its_prune_forgets_nothing() {
    let (mut host, mut desired) = one_service();
    host.files.remove("/etc/conf");
    desired.entries.remove("/etc/conf");
    desired.units.get_mut("a.service").unwrap().uses.clear();
    let plan = host.plan(&desired);
    let drops = |plan: &Plan| plan.bookkeeping.iter().any(|note| matches!(note, Note::Drop { .. }));
    assert!(drops(&plan) && !drops(&plan.without_prune()), "a change that is undone may want it back");
}

#[test]
fn what_only_takes_away_is_the_end_of_a_plan() {
    let (mut host, desired) = one_service();
    let mut next = Desired::default();
    next.entries.insert(path("/etc/new"), entry("new", Role::Plain));
    let plan = host.plan(&next);
    let first = plan.without_prune();
    let resources: Vec<String> = first.steps.iter().map(|step| step.action.resource()).collect();
    assert_eq!(resources, ["file /etc/new", "unit a.service"]);
    host.apply(&next, &first).unwrap();
    assert!(desired.entries.keys().all(|at| host.files.contains_key(at)), "nothing is removed yet");
    let rest = host.plan(&next);
    assert_eq!(rest.prune_from, 0, "{rest:#?}");
    host.apply(&next, &rest).unwrap();
    assert!(host.plan(&next).is_empty() && host.files.len() == 1);
}

#[test]
fn a_distribution_unit_gets_back_what_it_was() {
    let mut desired = Desired::default();
    let mut chrony = service("/etc/x", &[]);
    chrony.definition.clear();
    (chrony.enabled, chrony.active) = (Some(Enablement::Masked), None);
    desired.units.insert(unit("chrony.service"), chrony);
    let mut host = Host::default();
    let found = host.found(&unit("chrony.service"));
    (found.load, found.active, found.file_state) = ("loaded".into(), "active".into(), "enabled".into());
    host.converge(&desired);
    assert_eq!(host.units["chrony.service"].file_state, "masked");
    let plan = host.plan(&Desired::default());
    let verbs: Vec<Verb> = plan.changes.iter().map(|change| change.verb).collect();
    assert_eq!(verbs, [Verb::Unmask, Verb::Enable, Verb::Start]);
}

#[test]
fn the_text_shows_the_diff_but_nothing_private() {
    struct Fixed;
    impl Texts for Fixed {
        fn texts(&self, path: &str) -> Option<(String, String)> {
            (path == "/etc/conf").then(|| ("a\nb\n".to_owned(), "a\nc\x1b[2J\n".to_owned()))
        }
    }
    let (mut host, desired) = one_service();
    host.file("/etc/conf", "edited", 0o644);
    let text = show(&host.plan(&desired), &Fixed, false);
    assert!(text.contains("~ file /etc/conf  update (drift)"), "{text}");
    assert!(text.contains("    -b\n    +c\u{fffd}[2J"), "{text}");
    assert!(text.ends_with("2 to change (1 of them drift).\n"), "{text}");
}
