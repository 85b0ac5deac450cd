//! Templates: minijinja, strict about what is undefined, bounded in steps and output, with no way out of the file.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Object, ObjectRepr, Serde, Value as Rendered};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};

use super::{FUEL, MAX_OUTPUT};
use crate::facts::Host;
use crate::finding::Findings;
use crate::fleet::read::{Located, Place, brief, did_you_mean};
use crate::fleet::value::Value;

/// What templates are rendered with.
pub(super) struct Engine {
    environment: Environment<'static>,
}

/// What a component's templates see.
pub(super) struct Context {
    root: Rendered,
    /// Every name that can be written, for "did you mean".
    names: Vec<String>,
}

/// Labels as templates see them.
#[derive(Debug)]
struct Labels {
    known: BTreeMap<String, String>,
    /// A placeholder host has every label: which ones the real hosts have is not known.
    any: bool,
}

impl Object for Labels {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Rendered) -> Option<Rendered> {
        let known = key.as_str().and_then(|key| self.known.get(key));
        known.map(|label| Rendered::from(label.as_str())).or_else(|| self.any.then(|| Rendered::from("placeholder")))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.known.keys().map(|key| Rendered::from(key.as_str())).collect())
    }
}

impl Context {
    /// The context of one component on one host.
    pub(super) fn new(
        host: &Host,
        labels: &BTreeMap<String, String>,
        any_label: bool,
        fleet: &BTreeMap<String, Value>,
        own: &BTreeMap<String, Value>,
    ) -> Self {
        let mut root: BTreeMap<String, Rendered> =
            own.iter().map(|(name, value)| (name.clone(), Rendered::from(Serde(value)))).collect();
        let mut names: Vec<String> = own.keys().cloned().collect();
        names.extend(fleet.keys().map(|name| format!("fleet.{name}")));
        names.extend(labels.keys().map(|name| format!("labels.{name}")));
        let facts = facts(host, &mut names);
        names.extend(["fleet", "labels", "host"].map(str::to_owned));
        root.insert("fleet".to_owned(), Rendered::from(Serde(fleet)));
        root.insert("facts".to_owned(), facts);
        root.insert("labels".to_owned(), Rendered::from_object(Labels { known: labels.clone(), any: any_label }));
        root.insert("host".to_owned(), Rendered::from(host.name.as_str()));
        Self { root: Rendered::from(root), names }
    }
}

/// The facts, by names that a template can write: `facts.os.version_id`, for `version-id` would be a subtraction.
fn facts(host: &Host, names: &mut Vec<String>) -> Rendered {
    fn snake(value: serde_json::Value, at: &str, names: &mut Vec<String>) -> serde_json::Value {
        names.push(at.to_owned());
        match value {
            serde_json::Value::Object(map) => map
                .into_iter()
                .map(|(key, value)| {
                    let key = key.replace('-', "_");
                    let value = snake(value, &format!("{at}.{key}"), names);
                    (key, value)
                })
                .collect(),
            other => other,
        }
    }
    let plain = serde_json::to_value(&host.facts).expect("because facts are plain data with string keys");
    Rendered::from(Serde(snake(plain, "facts", names)))
}

impl Engine {
    pub(super) fn new() -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(100);
        environment.set_debug(true);
        // A configuration file ends in a newline, and what is written is what comes out.
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
        environment.set_syntax(syntax.expect("because the delimiters are minijinja's own"));
        environment.remove_global("debug");
        environment.add_filter("json", |value: Rendered| {
            serde_json::to_string(&value).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))
        });
        environment.add_filter("shell_quote", |value: String| format!("'{}'", value.replace('\'', r"'\''")));
        Self { environment }
    }

    /// Whether the text is a template at all; if not, says where.
    pub(super) fn compile(&self, file: &str, bytes: &[u8], findings: &mut Findings) -> bool {
        let Some(text) = template_text(file, bytes, findings) else { return false };
        match self.environment.template_from_named_str(file, text) {
            Ok(_) => true,
            Err(error) => {
                tell(&error, file, text, &[], findings);
                false
            }
        }
    }

    /// Renders a file; `None` with the reason in `findings`.
    pub(super) fn render(&self, file: &str, bytes: &[u8], context: &Context, findings: &mut Findings) -> Option<Vec<u8>> {
        let text = template_text(file, bytes, findings)?;
        let mut out = Bounded { bytes: Vec::new(), full: false };
        let rendered = self
            .environment
            .template_from_named_str(file, text)
            .and_then(|template| template.render_captured_to(context.root.clone(), &mut out).map(|_| ()));
        match rendered {
            Ok(()) => Some(out.bytes),
            Err(_) if out.full => {
                findings.at_with(
                    Place::file(file),
                    format!("it renders to more than {} MiB", MAX_OUTPUT >> 20),
                    "look for a loop that repeats too much",
                );
                None
            }
            Err(error) => {
                tell(&error, file, text, &context.names, findings);
                None
            }
        }
    }
}

fn template_text<'t>(file: &str, bytes: &'t [u8], findings: &mut Findings) -> Option<&'t str> {
    let text = std::str::from_utf8(bytes).ok();
    if text.is_none() {
        findings.at_with(
            Place::file(file),
            "a template must be UTF-8 text, and this is not",
            "take the ending .j2 off its name if it is not a template",
        );
    }
    text
}

impl Engine {
    /// Renders a string of a TOML file; `None` with the reason in `findings`, under the string.
    pub(super) fn inline(&self, text: &Located<'_, String>, context: Option<&Context>, findings: &mut Findings) -> Option<String> {
        let mut own = Findings::default();
        let bytes = if let Some(context) = context {
            self.render(text.place.file, text.value.as_bytes(), context, &mut own)
        } else {
            self.compile(text.place.file, text.value.as_bytes(), &mut own);
            None
        };
        own.list.into_iter().for_each(|finding| findings.at_with(text.place, finding.message, finding.help));
        bytes.and_then(|bytes| String::from_utf8(bytes).ok())
    }
}

/// Turns minijinja's error into a finding under the spot.
fn tell(error: &Error, file: &str, text: &str, names: &[String], findings: &mut Findings) {
    let line = error.line().unwrap_or(1);
    let whole_line = || {
        let start = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum::<usize>();
        start..start + text[start..].find('\n').unwrap_or(text.len() - start)
    };
    let span = error.range().filter(|range| text.get(range.clone()).is_some_and(|t| !t.is_empty())).unwrap_or_else(whole_line);
    let place = Place { file, text, start: span.start, end: span.end };
    // The span of `a.b.c` begins at the part that is missing; a person wants the whole of it.
    let before = text.get(..span.start).unwrap_or_default();
    let path = before.trim_end_matches(|c: char| c.is_ascii_alphanumeric() || "_.".contains(c)).len();
    let source = text.get(if text[span.clone()].starts_with('.') { path..span.end } else { span }).unwrap_or_default();
    let detail = error.detail().map(brief).unwrap_or_default();
    let (message, help) = match error.kind() {
        ErrorKind::UndefinedError => undefined(source, names),
        ErrorKind::OutOfFuel => {
            (format!("this template was ended after {FUEL} steps"), "look for a loop that repeats too much".to_owned())
        }
        ErrorKind::TemplateNotFound | ErrorKind::BadInclude => {
            ("a template cannot include or import another".to_owned(), "use a variable for what several files share".to_owned())
        }
        ErrorKind::SyntaxError => (format!("this is not a valid template: {detail}"), String::new()),
        kind if detail.is_empty() => (kind.to_string(), String::new()),
        kind => (format!("{kind}: {detail}"), String::new()),
    };
    findings.at_with(place, message, help);
}

fn undefined(source: &str, names: &[String]) -> (String, String) {
    let path: String = source.chars().take_while(|c| c.is_ascii_alphanumeric() || "_.".contains(*c)).collect();
    let path = path.trim_end_matches('.');
    if path.is_empty() {
        return ("something here is not defined".to_owned(), "give it a value, or a `| default(…)`".to_owned());
    }
    let mut help = did_you_mean(path, names.iter().map(String::as_str));
    let message = match path.strip_prefix("labels.") {
        Some(label) => format!("this host has no label `{}`", brief(label)),
        None => format!("`{}` is not defined", brief(path)),
    };
    if help.is_empty() {
        help = if path.starts_with("labels.") {
            format!("give it the label, or write `{path} | default(\"…\")`")
        } else {
            "declare it under [variables] in component.toml, or write `| default(…)` where it may be missing".to_owned()
        };
    }
    (message, help)
}

/// Takes no more than [`MAX_OUTPUT`] bytes.
struct Bounded {
    bytes: Vec<u8>,
    full: bool,
}

impl Write for &mut Bounded {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + more.len() > MAX_OUTPUT {
            self.full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
