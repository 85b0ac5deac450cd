//! A plan as a person reads it: one line a resource, the reason, what differs, and a unified diff where the text may be shown.

use std::fmt::Write as _;

use similar::TextDiff;

use super::{Cause, Change, Plan, Verb};

/// Where the texts of a changed path come from; contents that may not be shown are never asked for.
pub trait Texts {
    /// What stands there and what is wanted, as text: `None` when there is no difference that may be shown (binary, private, too large).
    fn texts(&self, path: &str) -> Option<(String, String)>;
}

/// Longest diff of one file, in lines, before it is cut.
const MAX_DIFF_LINES: usize = 200;
/// What a plan compares.
const HEADER: (&str, &str) = ("on the host", "in the repository");

/// The plan as text; `color` for terminals only.
pub fn show(plan: &Plan, texts: &impl Texts, color: bool) -> String {
    let paint = Paint { color };
    let mut out = String::new();
    for change in &plan.changes {
        one(change, texts, HEADER, paint, &mut out);
    }
    for problem in &plan.problems {
        let _ = writeln!(out, "{} {}  {}", paint.of("31", "!"), problem.resource, problem.message);
        let _ = writeln!(out, "    from {}", place(&problem.origin));
    }
    let _ = writeln!(out, "{}", summary(plan));
    out
}

/// What differs between two states, each under its name.
pub fn show_compared(changes: &[Change], texts: &impl Texts, names: (&str, &str), color: bool) -> String {
    let mut out = String::new();
    for change in changes {
        one(change, texts, names, Paint { color }, &mut out);
    }
    let _ = match changes.len() {
        0 => writeln!(out, "No difference between {} and {}.", names.0, names.1),
        1 => writeln!(out, "1 differs from {} to {}.", names.0, names.1),
        count => writeln!(out, "{count} differ from {} to {}.", names.0, names.1),
    };
    out
}

/// A unified diff of two texts, each under its name; empty when they are the same.
pub fn show_diff(old: &str, new: &str, names: (&str, &str), color: bool) -> String {
    let mut out = String::new();
    diff(old, new, names, Paint { color }, &mut out);
    out
}

/// "3 to change (1 of them drift), 1 problem".
fn summary(plan: &Plan) -> String {
    if plan.changes.is_empty() && plan.problems.is_empty() {
        return "Nothing to do: the host is as the repository says.".to_owned();
    }
    let mut text = format!("{} to change", plan.changes.len());
    if plan.drift_count() > 0 {
        let _ = write!(text, " ({} of them drift)", plan.drift_count());
    }
    match plan.problems.len() {
        0 => {}
        1 => text.push_str(", 1 problem"),
        n => {
            let _ = write!(text, ", {n} problems");
        }
    }
    text.push('.');
    text
}

fn one(change: &Change, texts: &impl Texts, names: (&str, &str), paint: Paint, out: &mut String) {
    let (sign, tint, word) = match change.verb {
        Verb::Create => ("+", "32", "create"),
        Verb::Pull => ("+", "32", "pull"),
        Verb::Start => ("+", "32", "start"),
        Verb::Enable => ("+", "32", "enable"),
        Verb::Update => ("~", "33", "update"),
        Verb::Restart => ("~", "33", "restart"),
        Verb::Reload => ("~", "33", "reload"),
        Verb::Unmask => ("~", "33", "unmask"),
        Verb::Remove => ("-", "31", "remove"),
        Verb::Restore => ("-", "31", "restore what was there before"),
        Verb::Stop => ("-", "31", "stop"),
        Verb::Disable => ("-", "31", "disable"),
        Verb::Mask => ("-", "31", "mask"),
    };
    let cause = match change.cause {
        Cause::Update => "update",
        Cause::Drift => "drift",
        Cause::UpdateAndDrift => "update and drift",
        Cause::Follows => "follows",
    };
    let _ = writeln!(
        out,
        "{} {}  {word} ({cause})  from {}",
        paint.of(tint, sign),
        paint.of("1", &change.resource),
        place(&change.origin)
    );
    for differs in &change.differs {
        let _ = writeln!(out, "    {}: {} -> {}", differs.property, differs.found, differs.wanted);
    }
    if let Some(why) = &change.left_alone {
        let _ = writeln!(out, "    left alone: {}", why.words());
    }
    if change.replaces {
        let _ = writeln!(out, "    replaces what stands there; kept in the backup (`trimtab backups`)");
    }
    let path = change.resource.strip_prefix("file ");
    if let Some((found, wanted)) = path.and_then(|path| texts.texts(path)) {
        diff(&found, &wanted, names, paint, out);
    }
}

fn diff(found: &str, wanted: &str, names: (&str, &str), paint: Paint, out: &mut String) {
    let diff = TextDiff::from_lines(found, wanted);
    let text = diff.unified_diff().context_radius(3).header(names.0, names.1).to_string();
    for (count, line) in text.lines().enumerate() {
        if count == MAX_DIFF_LINES {
            let _ = writeln!(out, "    … {} more lines", text.lines().count() - count);
            break;
        }
        // A file's text must not be able to steer the terminal.
        let line: String = line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
        let tint = match line.as_bytes().first() {
            Some(b'+') => "32",
            Some(b'-') => "31",
            Some(b'@') => "36",
            _ => "",
        };
        let _ = writeln!(out, "    {}", paint.of(tint, &line));
    }
}

fn place(origin: &crate::desired::Origin) -> String {
    if origin.line > 0 { format!("{}:{}", origin.file, origin.line) } else { origin.file.clone() }
}

#[derive(Clone, Copy)]
struct Paint {
    color: bool,
}

impl Paint {
    fn of(self, tint: &str, text: &str) -> String {
        if self.color && !tint.is_empty() { format!("\x1b[{tint}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
