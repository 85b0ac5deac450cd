//! What is asked of whom, and when nobody needs to be asked any more. No systemd in these.

use super::*;

fn name(text: &str) -> ComponentName {
    text.parse().unwrap()
}

fn unit(component: &str, active: Option<bool>, oneshot: bool) -> trimtab_model::desired::Unit {
    serde_json::from_value(serde_json::json!({
        "enabled": null, "active": active, "oneshot": oneshot, "on_change": "restart", "definition": [], "uses": [], "after": [],
        "generated": false, "origin": {"component": component, "file": "x"}
    }))
    .unwrap()
}

fn check(component: &str, probe: serde_json::Value) -> HealthCheck {
    let mut value = serde_json::json!({
        "timeout_ms": 1000, "interval_ms": 100, "settle_ms": 0, "retries": 0, "origin": {"component": component, "file": "x"}
    });
    value.as_object_mut().unwrap().extend(probe.as_object().unwrap().clone());
    serde_json::from_value(value).unwrap()
}

#[test]
fn every_touched_unit_that_is_to_run_is_checked_once() {
    let mut wanted = Desired::default();
    for (text, active, oneshot) in [
        ("runs.service", Some(true), false),
        ("asked.service", Some(true), false),
        ("stopped.service", Some(false), false),
        ("once.service", Some(true), true),
        ("others.service", None, false),
        ("untouched.service", Some(true), false),
    ] {
        wanted.units.insert(text.parse().unwrap(), unit("c", active, oneshot));
    }
    let touched: BTreeSet<UnitName> =
        ["runs", "asked", "stopped", "once", "others", "gone"].map(|u| format!("{u}.service").parse().unwrap()).into();
    wanted.health.push(check("c", serde_json::json!({"kind": "unit", "unit": "asked.service"})));
    wanted.health.push(check("unaffected", serde_json::json!({"kind": "tcp", "address": "127.0.0.1:1"})));
    let found: Vec<_> = jobs(&wanted, &[name("c")].into(), &touched, Duration::from_secs(3))
        .into_iter()
        .map(|job| match job.what {
            What::Unit { expected, started, .. } => (job.resource, expected, started, job.timing.settle_ms),
            What::Asked(_) => panic!("{}", job.resource),
        })
        .collect();
    assert_eq!(
        found,
        [
            ("unit asked.service".to_owned(), Expected::Active, true, 0),
            ("unit once.service".to_owned(), Expected::Ended, true, 3000),
            ("unit others.service".to_owned(), Expected::NotFailed, true, 3000),
            ("unit runs.service".to_owned(), Expected::ActiveIfAllowed, true, 3000),
        ]
    );
}

#[test]
fn what_depends_on_a_failed_component_has_nothing_left_to_say() {
    let mut wanted = Desired::default();
    for (component, needs) in [("base", &[][..]), ("app", &["base"]), ("web", &["app"]), ("other", &[])] {
        wanted.components.insert(name(component), needs.iter().map(|need| name(need)).collect());
    }
    let app = name("app");
    assert_eq!(fallen(&wanted, Some(&app)), [&name("app"), &name("web")].into());
    assert_eq!(fallen(&wanted, None), BTreeSet::new());
}

#[test]
fn without_systemd_nothing_is_asked_and_a_remark_says_so() {
    let mut wanted = Desired::default();
    wanted.health.push(check("c", serde_json::json!({"kind": "tcp", "address": "127.0.0.1:1"})));
    let affected = [name("c")].into();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let verdict = runtime.block_on(watch(&wanted, &affected, &BTreeSet::new(), Duration::ZERO, &None, &Runner::Child));
    assert!(verdict.is_good() && verdict.passed == 0);
    assert_eq!(verdict.remarks, ["1 health check not asked, for there is no systemd here"]);
}
