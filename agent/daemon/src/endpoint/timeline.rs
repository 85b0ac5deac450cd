//! The last passes as a picture: one bar each, oldest on the left; the higher the longer it took, coloured by how it ended.

use maud::{Markup, html};
use trimtab_model::report::{Outcome, Pass, PassLine};

const WIDTH: usize = 330;
const HEIGHT: usize = 64;
const FLOOR: usize = 46;
/// The shortest bar, so that a pass of a millisecond is seen.
const LEAST: usize = 6;

/// How it is coloured: a class of the style sheet.
pub(super) fn tint(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Unchanged | Outcome::Converged => "good",
        Outcome::Planned | Outcome::Drifted | Outcome::Paused | Outcome::Unreachable => "warn",
        Outcome::Partial | Outcome::Held | Outcome::RolledBack | Outcome::Degraded | Outcome::Halted => "bad",
    }
}

/// The last pass and those before it, newest first.
pub(super) fn timeline(last: Option<&Pass>, history: &[PassLine], ago: impl Fn(u64) -> String) -> Markup {
    let newest = last.map(Pass::line);
    let mut lines: Vec<&PassLine> = newest.iter().chain(history).collect();
    lines.reverse();
    let step = WIDTH / lines.len().max(8);
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label="The last passes, oldest first" {
            line x1="0" x2=(WIDTH) y1=(FLOOR) y2=(FLOOR) class="axis" {}
            @for (at, line) in lines.iter().enumerate() {
                @let height = height(line.duration_ms);
                g class=(tint(line.outcome)) {
                    title { "pass " (line.number) ", " (ago(line.started)) " ago: " (line.outcome.word()) ", " (line.updates) " updated, " (line.drift) " drift, " (line.duration_ms) " ms" }
                    rect x=(at * step + 3) y=(FLOOR - height) width=(step.saturating_sub(6)) height=(height) rx="2" {}
                    @if line.updates + line.drift > 0 {
                        circle cx=(at * step + step / 2) cy=(FLOOR + 9) r="3.5" class=(if line.drift > 0 { "drift" } else { "update" }) {}
                    }
                }
            }
        }
    }
}

/// By the order of magnitude: passes take from a millisecond to hours.
fn height(ms: u64) -> usize {
    let magnitude = ms.max(1).ilog2() as usize;
    (LEAST + magnitude * (FLOOR - LEAST - 4) / 22).min(FLOOR - 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stay_in_the_picture() {
        let mut last = 0;
        for ms in [0, 1, 10, 1000, 60_000, 10_800_000, u64::MAX] {
            let height = height(ms);
            assert!(height >= last && (LEAST..FLOOR).contains(&height), "{ms}: {height}");
            last = height;
        }
        let line = |number| PassLine {
            number,
            started: number,
            duration_ms: 5,
            outcome: Outcome::Converged,
            revision: String::new(),
            updates: 1,
            drift: 0,
        };
        let history: Vec<PassLine> = (0..trimtab_model::status::HISTORY as u64).rev().map(line).collect();
        let drawn = timeline(None, &history, |_| "1 s".to_owned()).into_string();
        assert_eq!(drawn.matches("<rect").count(), history.len());
        let first = drawn.find("pass 0,").unwrap();
        assert!(drawn.find("pass 9,").unwrap() > first, "oldest first");
    }
}
