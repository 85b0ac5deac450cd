//! Lengths of time as people write them: `"30s"`, `"5min"`, `"1m 30s"`.
//!
//! Always with a unit, for a bare number leaves seconds and milliseconds to be guessed; always within bounds that are told.

use super::read::{Item, Table, brief};
use crate::finding::Findings;

/// The longest that can be asked for, in milliseconds: an hour. A pass that waits longer does nothing else for its host.
pub const LONGEST: u64 = 3_600_000;

const UNITS: [(&str, u64); 10] = [
    ("ms", 1),
    ("s", 1000),
    ("sec", 1000),
    ("second", 1000),
    ("seconds", 1000),
    ("m", 60_000),
    ("min", 60_000),
    ("minute", 60_000),
    ("minutes", 60_000),
    ("h", 3_600_000),
];

/// Milliseconds of a written length of time; `None` when it is none.
pub fn parse(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut total = 0_u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let (_, factor) = UNITS.iter().find(|(unit, _)| *unit == &rest[..letters])?;
        total = total.checked_add(number.checked_mul(*factor)?)?;
        rest = rest[letters..].trim_start();
    }
    Some(total)
}

/// A length of time as it is told: `90s`, `1500ms`.
pub fn tell(ms: u64) -> String {
    match ms {
        0 => "0s".to_owned(),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(1000) => format!("{}s", ms / 1000),
        _ => format!("{ms}ms"),
    }
}

/// A key that holds a length of time of at least `least` and at most [`LONGEST`] milliseconds.
pub(super) fn read<'d, 's>(
    table: &mut Table<'d, 's>,
    key: &'static str,
    least: u64,
    findings: &mut Findings,
) -> Option<(u64, Item<'d, 's>)> {
    let item = table.item(key)?;
    let Some(text) = item.value.as_str() else {
        let message = format!("`{key}` must be a string, and this is {}", item.kind());
        findings.at_with(item.place, message, format!("a length of time with its unit, e.g. {key} = \"30s\""));
        return None;
    };
    let Some(ms) = parse(text) else {
        let message = format!("`{}` is not a length of time", brief(text));
        findings.at_with(item.place, message, format!("a number with ms, s, min or h, e.g. {key} = \"30s\""));
        return None;
    };
    if !(least..=LONGEST).contains(&ms) {
        findings.at(item.place, format!("`{key}` must be from {} to {}, and this is {}", tell(least), tell(LONGEST), brief(text)));
        return None;
    }
    Some((ms, item))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_as_people_do() {
        for (text, ms) in
            [("30s", 30_000), ("5min", 300_000), ("1m 30s", 90_000), ("1m30s", 90_000), ("250 ms", 250), ("1h", LONGEST), ("0s", 0)]
        {
            assert_eq!(parse(text), Some(ms), "{text}");
        }
        for text in ["", "30", "s", "-1s", "1.5s", "30 secs", "1d", "18446744073709551615h", "5ſ", "3é"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!([tell(0), tell(1500), tell(90_000), tell(7_200_000)], ["0s", "1500ms", "90s", "2h"]);
    }
}
