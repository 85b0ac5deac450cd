//! The published schema and the program say the same: whatever the program can write is accepted, whatever is of another type is refused.

use std::collections::BTreeSet;
use std::process::Command;

use jsonschema::Validator;
use proptest::prelude::*;
use serde_json::{Value, json};
use trimtab_model::status::Status;
use trimtab_tests::trimtab_binary;

use crate::{example, published};

fn validator() -> Validator {
    let schema: Value = serde_json::from_str(&published("status.schema.json")).unwrap();
    assert!(jsonschema::meta::is_valid(&schema), "it is a schema of draft 2020-12");
    jsonschema::draft202012::new(&schema).unwrap()
}

#[track_caller]
fn accepted(validator: &Validator, document: &Value) {
    let wrong: Vec<String> = validator.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Pointers to every value of a document.
fn pointers(value: &Value, at: &str, list: &mut Vec<String>) {
    if !at.is_empty() {
        list.push(at.to_owned());
    }
    match value {
        Value::Object(map) => map.iter().for_each(|(key, one)| pointers(one, &format!("{at}/{}", key.replace('/', "~1")), list)),
        Value::Array(items) => items.iter().enumerate().for_each(|(number, one)| pointers(one, &format!("{at}/{number}"), list)),
        _ => {}
    }
}

fn all(value: &Value) -> Vec<String> {
    let mut list = Vec::new();
    pointers(value, "", &mut list);
    list
}

/// Every word that an enumeration of the schema knows.
fn words(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for word in map.get("enum").and_then(Value::as_array).into_iter().flatten().chain(map.get("const")) {
                found.extend(word.as_str().map(str::to_owned));
            }
            map.values().for_each(|one| words(one, found));
        }
        Value::Array(items) => items.iter().for_each(|one| words(one, found)),
        _ => {}
    }
}

#[test]
fn the_example_says_everything_that_the_schema_knows_and_the_program_writes() {
    let validator = validator();
    accepted(&validator, &example());
    let read: Status = serde_json::from_value(example()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), example(), "nothing is lost or added on the way through the program");
    accepted(&validator, &serde_json::to_value(Status { format: 2, ..Status::default() }).unwrap());
    // Every property that the schema names is in the example: what the program does not write (any more) must not stand there.
    let schema: Value = serde_json::from_str(&published("status.schema.json")).unwrap();
    let (mut named, mut used) = (BTreeSet::new(), BTreeSet::new());
    for pointer in all(&schema) {
        let mut parts: Vec<&str> = pointer.rsplitn(3, '/').collect();
        parts.truncate(2);
        if parts[1] == "properties" {
            named.insert(parts[0].to_owned());
        }
    }
    used.extend(all(&example()).iter().map(|pointer| pointer.rsplit('/').next().unwrap().to_owned()));
    let unused: Vec<_> = named.difference(&used).collect();
    // Of one kind of denial and from the command line only.
    assert_eq!(unused, ["agentRunning", "unreached"]);
}

#[test]
fn the_command_prints_what_is_published() {
    let said = Command::new(trimtab_binary()).args(["status", "--schema"]).output().unwrap();
    assert!(said.status.success());
    assert_eq!(String::from_utf8(said.stdout).unwrap(), published("status.schema.json"));
}

#[test]
fn another_type_anywhere_is_refused() {
    let validator = validator();
    let mut tried = 0;
    for pointer in all(&example()) {
        let is = example().pointer(&pointer).unwrap().clone();
        for other in [json!("text"), json!(-1), json!([1]), json!({ "a": 1 }), json!(true), json!(1.5)] {
            let same = std::mem::discriminant(&other) == std::mem::discriminant(&is);
            let is_float = pointer == "/counters/passSeconds" && other == json!(1.5);
            // Another text may be a text as good; a number below nothing, or a broken one, is none.
            if (same && !other.is_number()) || is_float {
                continue;
            }
            let mut document = example();
            *document.pointer_mut(&pointer).unwrap() = other.clone();
            assert!(!validator.is_valid(&document), "{pointer} = {other} is accepted");
            tried += 1;
        }
    }
    assert!(tried > 1000, "{tried}");
    for (pointer, other) in [("/format", json!(1)), ("/clock", json!("late")), ("/conditions/0/type", json!("Fine"))] {
        let mut document = example();
        *document.pointer_mut(pointer).unwrap() = other;
        assert!(!validator.is_valid(&document), "{pointer}");
    }
    let mut document = example();
    document["surprise"] = json!(1);
    assert!(!validator.is_valid(&document), "an unknown key");
}

#[derive(Debug, Clone)]
enum Twist {
    Drop,
    Empty,
    Twice,
    Word(prop::sample::Index),
    Text(String),
    Number(u64),
}

fn twist() -> impl Strategy<Value = (prop::sample::Index, Twist)> {
    let kind = prop_oneof![
        Just(Twist::Drop),
        Just(Twist::Empty),
        Just(Twist::Twice),
        any::<prop::sample::Index>().prop_map(Twist::Word),
        ".{0,40}".prop_map(Twist::Text),
        any::<u64>().prop_map(Twist::Number),
    ];
    (any::<prop::sample::Index>(), kind)
}

fn apply(document: &mut Value, at: &str, twist: &Twist, words: &[String]) {
    let Some((parent, key)) = at.rsplit_once('/') else { return };
    if let (Twist::Drop, Some(Value::Object(map))) = (twist, document.pointer_mut(parent)) {
        map.remove(&key.replace("~1", "/"));
        return;
    }
    let Some(place) = document.pointer_mut(at) else { return };
    match (place, twist) {
        (Value::Array(list), Twist::Empty) => list.clear(),
        (Value::Array(list), Twist::Twice) => list.extend_from_within(..),
        (Value::String(text), Twist::Word(word)) => word.get(words).clone_into(text),
        (Value::String(text), Twist::Text(other)) => other.clone_into(text),
        (place @ Value::Number(_), Twist::Number(number)) => *place = (*number).into(),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random documents: the example, twisted at random. What the program takes it can also hold, and writes again: that must be accepted.
    #[test]
    fn whatever_the_program_can_write_is_accepted(twists in prop::collection::vec(twist(), 0..12)) {
        thread_local!(static KNOWN: (Validator, Vec<String>) = {
            let mut found = BTreeSet::new();
            words(&serde_json::from_str(&published("status.schema.json")).unwrap(), &mut found);
            (validator(), found.into_iter().collect())
        });
        KNOWN.with(|(validator, words)| {
            let mut document = example();
            for (place, twist) in &twists {
                let before = document.clone();
                let list = all(&document);
                apply(&mut document, place.get(list.as_slice()).as_str(), twist, words);
                // What the program would not take is not a document of it; the format is its own.
                if document["format"] != 2 || serde_json::from_value::<Status>(document.clone()).is_err() {
                    document = before;
                }
            }
            let status: Status = serde_json::from_value(document).unwrap();
            let written = serde_json::to_value(&status).unwrap();
            // Longer lists than the program ever writes.
            let bounded = status.history.len() <= 10 && status.units.len() <= 500 && status.drift.len() <= 50;
            if bounded {
                accepted(validator, &written);
            }
        });
    }
}
