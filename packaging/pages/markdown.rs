//! Markdown to roff, for the constructs that this project's documents use and no more: headings, paragraphs, fenced text,
//! tables, lists, `code`, **bold** and links. Anything else would show as it is written, and the lint of the packages sees it.

use std::fmt::Write as _;

use crate::{Edition, MANUAL};

/// A whole page. The document's own title is replaced by NAME.
pub(crate) fn page(name: &str, section: &str, edition: &Edition, what: &str, text: &str) -> String {
    let mut roff = format!(".TH {} {section} {} \"{}\" {MANUAL}\n", name.to_uppercase(), edition.date, edition.source);
    let _ = write!(roff, ".SH NAME\n{} \\- {}\n", escape(name), escape(what));
    let rest = text.split_once('\n').map_or("", |(first, rest)| if first.starts_with("# ") { rest } else { text });
    roff + ".SH DESCRIPTION\n" + &body(rest)
}

/// A section whose lines stand as they are.
pub(crate) fn literal(heading: &str, text: &str) -> String {
    let mut roff = format!(".SH {heading}\n.nf\n");
    for line in text.lines() {
        roff.push_str(&escape_line(line.trim_start()));
    }
    roff + ".fi\n"
}

/// The text of a page, without its head.
pub(crate) fn body(text: &str) -> String {
    let mut roff = String::new();
    let mut lines = text.lines().peekable();
    let mut fresh = true;
    while let Some(line) = lines.next() {
        if line.starts_with("```") {
            roff.push_str(".PP\n.RS 4\n.nf\n");
            for line in lines.by_ref().take_while(|line| !line.starts_with("```")) {
                roff.push_str(&escape_line(line));
            }
            roff.push_str(".fi\n.RE\n");
            fresh = true;
        } else if let Some(title) = line.strip_prefix("## ") {
            let _ = writeln!(roff, ".SH \"{}\"", escape(&plain(title)).replace('"', "\\(dq"));
            fresh = false;
        } else if let Some(title) = line.strip_prefix("### ") {
            let _ = writeln!(roff, ".SS \"{}\"", escape(&plain(title)).replace('"', "\\(dq"));
            fresh = false;
        } else if line.starts_with('|') {
            let mut rows = vec![line];
            while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
                rows.push(row);
            }
            table(&mut roff, &rows);
            fresh = true;
        } else if let Some(item) = bullet(line) {
            let _ = writeln!(roff, ".IP {} 3", item.0);
            roff.push_str(&escape_line_of(&inline(item.1)));
        } else if line.trim().is_empty() {
            fresh = true;
        } else {
            if fresh {
                roff.push_str(".PP\n");
                fresh = false;
            }
            roff.push_str(&escape_line_of(&inline(line.trim())));
        }
    }
    roff
}

/// `- text` and `1. text`.
fn bullet(line: &str) -> Option<(&str, &str)> {
    if let Some(rest) = line.strip_prefix("- ") {
        return Some(("\\(bu", rest));
    }
    let (number, rest) = line.split_once(". ")?;
    number.parse::<u8>().is_ok().then(|| (&line[..=number.len()], rest))
}

/// The first column as the tag of a paragraph, the others as its text: a page is narrower than a table.
fn table(roff: &mut String, rows: &[&str]) {
    let cells = |row: &str| -> Vec<String> { row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect() };
    let head = cells(rows[0]);
    for row in rows.iter().skip(2) {
        let row = cells(row);
        let _ = write!(roff, ".TP\n{}", escape_line_of(&inline(&row[0])));
        let several = row.len() > 2;
        let told = row.iter().zip(&head).skip(1).filter(|(cell, _)| !cell.is_empty());
        let told: Vec<String> = told.map(|(cell, name)| if several { format!("{name}: {cell}") } else { cell.clone() }).collect();
        roff.push_str(&escape_line_of(&inline(&told.join("; "))));
    }
}

/// Code and bold in bold, links as their text.
fn inline(text: &str) -> String {
    let (mut roff, mut rest, mut bold) = (String::new(), text, false);
    while let Some(at) = rest.find(['`', '*', '[', '&']) {
        roff.push_str(&escape(&rest[..at]));
        let here = &rest[at..];
        let taken = if let Some((code, _)) = here.strip_prefix('`').and_then(|tail| tail.split_once('`')) {
            let _ = write!(roff, "\\fB{}\\fR", escape(code));
            code.len() + 2
        } else if here.starts_with("**") {
            bold = !bold;
            roff.push_str(if bold { "\\fB" } else { "\\fR" });
            2
        } else if let Some((words, link)) = here.strip_prefix('[').and_then(|tail| tail.split_once("]("))
            && let Some(end) = link.find(')')
        {
            roff.push_str(&escape(words));
            words.len() + end + 4
        } else {
            let entity = [("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")].into_iter().find(|(entity, _)| here.starts_with(entity));
            roff.push_str(&escape(entity.map_or(&here[..1], |(_, character)| character)));
            entity.map_or(1, |(entity, _)| entity.len())
        };
        rest = &here[taken..];
    }
    roff + &escape(rest)
}

fn plain(text: &str) -> String {
    text.replace(['`', '*'], "").replace("&lt;", "<").replace("&gt;", ">")
}

fn escape(text: &str) -> String {
    let mut roff = String::new();
    for character in text.chars() {
        match character {
            '\\' => roff.push_str("\\e"),
            '-' => roff.push_str("\\-"),
            '~' => roff.push_str("\\(ti"),
            '^' => roff.push_str("\\(ha"),
            '\'' => roff.push_str("\\(aq"),
            '`' => roff.push_str("\\(ga"),
            '…' => roff.push_str("..."),
            other => roff.push(other),
        }
    }
    roff
}

fn escape_line(line: &str) -> String {
    escape_line_of(&escape(line))
}

/// A line that begins with a dot or an apostrophe would be a command.
fn escape_line_of(line: &str) -> String {
    let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
    format!("{guard}{line}\n")
}
