//! What is wrong with a repository, told so that the person who wrote it can mend it: file, line, column, a caret
//! under the spot, and what to do. All problems at once, not the first only.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::{Deserialize, Serialize};

/// More than this many findings help nobody; the rest are counted.
pub const MAX_FINDINGS: usize = 50;

/// A source text that findings point into is cut to this many bytes around the spot, so that a 50 MB file cannot become a 50 MB report.
const MAX_LINE: usize = 240;

/// A spot in a file of the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spot {
    /// The file, as the repository names it.
    pub file: String,
    /// The line, from 1; 0 when the whole file is meant.
    pub line: u32,
    /// The column in characters, from 1; 0 when the whole file is meant.
    pub column: u32,
    /// How many characters the caret underlines; at least 1.
    pub width: u32,
    /// The text of that line (cut when it is very long), for the caret; empty for a whole file.
    pub text: String,
    /// What is at this spot, e.g. "also claimed here"; may be empty.
    pub label: String,
}

impl Spot {
    /// The spot of a byte range in a source text.
    pub fn at(file: &str, source: &str, span: Range<usize>, label: impl Into<String>) -> Self {
        let start = floor_boundary(source, span.start.min(source.len()));
        let line_start = source[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = source[start..].find('\n').map_or(source.len(), |at| start + at);
        let end = floor_boundary(source, span.end.clamp(start, line_end));
        // Only as much of the line as a person can read, always with the spot in it.
        let from = floor_boundary(source, start.saturating_sub(MAX_LINE / 2).max(line_start));
        let to = floor_boundary(source, (from + MAX_LINE).min(line_end));
        let count = |text: &str| u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
        Self {
            file: file.to_owned(),
            line: count_lines(&source[..start]),
            column: count(&source[line_start..start]) + 1,
            width: count(&source[start..end.min(to).max(start)]).max(1),
            text: source[from..to].trim_end_matches('\r').to_owned(),
            label: label.into(),
        }
        .shifted(count(&source[line_start..from]))
    }

    /// A spot that is a whole file.
    pub fn file(file: &str) -> Self {
        Self { file: file.to_owned(), line: 0, column: 0, width: 1, text: String::new(), label: String::new() }
    }

    // A long line was cut at its front: keep the true column, remember nothing else; the caret is drawn from the text's own start.
    fn shifted(mut self, cut: u32) -> Self {
        if cut > 0 {
            self.text.insert(0, '…');
        }
        self
    }
}

fn count_lines(before: &str) -> u32 {
    u32::try_from(before.bytes().filter(|b| *b == b'\n').count()).unwrap_or(u32::MAX - 1) + 1
}

fn floor_boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What is wrong, one sentence without a full stop.
    pub message: String,
    /// Where; the first is the spot that should change, further ones are related.
    pub spots: Vec<Spot>,
    /// What to do about it; may be empty.
    pub help: String,
}

impl Finding {
    /// A finding at one spot.
    pub fn new(message: impl Into<String>, spot: Spot) -> Self {
        Self { message: message.into(), spots: vec![spot], help: String::new() }
    }

    /// Adds what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }

    /// Adds a related spot.
    #[must_use]
    pub fn also(mut self, spot: Spot) -> Self {
        self.spots.push(spot);
        self
    }

    /// The finding as rustc would draw it; `color` for terminals only.
    pub fn draw(&self, color: bool) -> String {
        self.draw_at(&Level::ERROR, color)
    }

    fn draw_at(&self, level: &Level<'static>, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut group = Group::with_title(level.clone().primary_title(self.message.as_str()));
        for (at, spot) in self.spots.iter().enumerate() {
            let kind = if at == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
            if spot.line == 0 {
                group = group.element(annotate_snippets::Origin::path(spot.file.as_str()));
                continue;
            }
            let span = caret(spot);
            let mut mark = kind.span(span);
            if !spot.label.is_empty() {
                mark = mark.label(spot.label.as_str());
            }
            group = group.element(
                Snippet::source(spot.text.as_str()).line_start(spot.line as usize).path(spot.file.as_str()).annotation(mark),
            );
        }
        if !self.help.is_empty() {
            group = group.element(Level::HELP.message(self.help.as_str()));
        }
        renderer.render(&[group])
    }
}

/// Where in the (possibly cut) text of a spot its caret stands, in bytes.
fn caret(spot: &Spot) -> Range<usize> {
    let cut = if spot.text.starts_with('…') { MAX_LINE / 2 } else { (spot.column as usize).saturating_sub(1) };
    let byte = |chars: usize| spot.text.char_indices().nth(chars).map_or(spot.text.len(), |(at, _)| at);
    byte(cut)..byte(cut + spot.width as usize)
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(spot) = self.spots.first() {
            write!(f, "{}", spot.file)?;
            if spot.line > 0 {
                write!(f, ":{}:{}", spot.line, spot.column)?;
            }
            write!(f, ": ")?;
        }
        write!(f, "{}", self.message)?;
        if !self.help.is_empty() {
            write!(f, " ({})", self.help)?;
        }
        Ok(())
    }
}

/// All that is wrong, in the order of the repository's paths; never empty when it is an error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// The first [`MAX_FINDINGS`].
    pub list: Vec<Finding>,
    /// How many more there were.
    pub more: usize,
}

impl Findings {
    /// Adds one, up to the bound.
    pub fn push(&mut self, finding: Finding) {
        if self.list.len() < MAX_FINDINGS {
            self.list.push(finding);
        } else {
            self.more += 1;
        }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// `Ok(value)` when nothing is wrong.
    pub fn or<T>(self, value: T) -> Result<T, Findings> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }

    /// All of them drawn with carets, and a closing line.
    pub fn draw(&self, color: bool) -> String {
        let mut text = String::new();
        for finding in &self.list {
            text.push_str(&finding.draw(color));
            text.push_str("\n\n");
        }
        text.push_str(&self.summary());
        text.push('\n');
        text
    }

    /// As [`Findings::draw`], for what is no more than a warning.
    pub fn draw_warnings(&self, color: bool) -> String {
        self.list.iter().map(|finding| finding.draw_at(&Level::WARNING, color) + "\n\n").collect()
    }

    /// "3 problems".
    pub fn summary(&self) -> String {
        match self.list.len() + self.more {
            1 => "1 problem".to_owned(),
            n => format!("{n} problems"),
        }
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.list.first() {
            Some(first) if self.list.len() == 1 => write!(f, "{first}"),
            Some(first) => write!(f, "{}, the first: {first}", self.summary()),
            None => f.write_str("no problem"),
        }
    }
}

impl std::error::Error for Findings {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_stands_under_the_spot() {
        let source = "a = 1\nport = \"x\"\n";
        let finding = Finding::new("expected an integer", Spot::at("hosts/a.toml", source, 13..16, "")).help("write a number");
        assert_eq!(finding.to_string(), "hosts/a.toml:2:8: expected an integer (write a number)");
        let drawn = finding.draw(false);
        assert!(drawn.contains("hosts/a.toml:2:8"), "{drawn}");
        assert!(drawn.contains("2 | port = \"x\"\n  |        ^^^"), "{drawn}");
    }

    #[test]
    fn a_huge_line_does_not_make_a_huge_report() {
        let source = format!("x = \"{}\"", "é".repeat(100_000));
        let drawn = Finding::new("too long", Spot::at("f", &source, 50_000..50_002, "here")).draw(false);
        assert!(drawn.len() < 2000, "{}", drawn.len());
        assert!(drawn.contains("^ here"), "{drawn}");
    }
}
