//! Reading what the checkers say: which complaint is about which changed file, and which is only true before the switch.
//!
//! Text in, verdicts out; nothing here runs anything. The wording is systemd's (247 to 262) and Quadlet's (4.4 to 5.8).
//! Limits: an unknown key is a warning, as systemd itself takes it: one repository serves hosts with several versions of systemd,
//! and a key that the older ones do not know must not hold them back. A known key with a bad value is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use trimtab_model::names::HostPath;

/// A file that a checker refuses, or has something to say about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint {
    /// The file.
    pub path: HostPath,
    /// The checker's own sentence, with the file's real path in it.
    pub message: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Most checkers begin with the path themselves.
        if !self.message.contains(self.path.as_str()) {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// What a checker's output means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Nothing may be switched.
    pub errors: Vec<Complaint>,
    /// Worth telling.
    pub warnings: Vec<Complaint>,
}

impl Verdict {
    /// Both together.
    #[must_use]
    pub fn and(mut self, other: Verdict) -> Verdict {
        self.errors.extend(other.errors);
        self.warnings.extend(other.warnings);
        self
    }
}

/// What was given to a checker, and what stands for what in its output.
#[derive(Debug, Default)]
pub(super) struct Subjects {
    /// The folder with the copies, as it stands in paths in the output, without a trailing slash.
    pub(super) folder: String,
    /// The folder that it stands for.
    pub(super) stands_for: &'static str,
    /// Changed files by the name below the folder (`app.service`, `app.service.d/10.conf`).
    pub(super) files: BTreeMap<String, HostPath>,
    /// Units that change, each with the changed file that a complaint about the unit is put down to.
    pub(super) units: BTreeMap<String, HostPath>,
    /// Units below the folder that a generator made, each with the changed file that it was made of.
    pub(super) generated: BTreeMap<String, HostPath>,
    /// Every name below the folder, changed or not.
    pub(super) all: BTreeSet<String>,
    /// Programs that come with this pass.
    pub(super) coming: BTreeSet<String>,
}

impl Subjects {
    /// `systemd-analyze verify`.
    pub(super) fn read_analyze(&self, output: &str, success: bool) -> Verdict {
        let mut verdict = Verdict::default();
        let mut understood = false;
        for line in output.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let Some(path) = self.about(line) else {
                understood |= self.names_another(line);
                continue;
            };
            understood = true;
            let complaint = Complaint { path, message: self.in_place(line) };
            if self.is_coming(line) || is_remark(line) {
                continue;
            }
            if line.contains("Unknown key") || line.contains("Unknown section") || line.contains("Unknown lvalue") {
                verdict.warnings.push(complaint);
            } else {
                verdict.errors.push(complaint);
            }
        }
        self.or_all(verdict, output, success || understood)
    }

    /// Quadlet's generator.
    pub(super) fn read_quadlet(&self, output: &str, success: bool) -> Verdict {
        let mut verdict = Verdict::default();
        let mut understood = false;
        for line in output.lines().map(|line| strip_tag(line.trim())).filter(|line| !line.is_empty()) {
            // "Loading source unit file …" with -v; never a complaint.
            if line.starts_with("Loading ") || line.starts_with("Writing ") {
                continue;
            }
            let Some(path) = self.about(line) else {
                understood |= self.names_another(line);
                continue;
            };
            understood = true;
            let complaint = Complaint { path, message: self.in_place(line) };
            if success || line.to_ascii_lowercase().starts_with("warning") {
                verdict.warnings.push(complaint);
            } else {
                verdict.errors.push(complaint);
            }
        }
        self.or_all(verdict, output, success || understood)
    }

    /// The changed file that a line is about.
    fn about(&self, line: &str) -> Option<HostPath> {
        // The longest name first: `app.service.d/10.conf` before `app.service`.
        let by_length = |map: &BTreeMap<String, HostPath>| {
            let mut names: Vec<(String, HostPath)> = map.iter().map(|(name, path)| (name.clone(), path.clone())).collect();
            names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
            names
        };
        // A line about a given file: only by its whole path, or it could be an unchanged neighbour's.
        if line.contains(&format!("{}/", self.folder)) {
            let named = by_length(&self.files)
                .into_iter()
                .chain(by_length(&self.generated))
                .find(|(name, _)| mentions(line, &format!("{}/{name}", self.folder)));
            if let Some((_, path)) = named {
                return Some(path);
            }
        }
        let subject = line.strip_prefix("Unit ").unwrap_or(line);
        let leading = by_length(&self.units).into_iter().find(|(name, _)| {
            let rest = subject.strip_prefix(name.as_str());
            rest.is_some_and(|rest| rest.starts_with(':') || rest.starts_with(' '))
        });
        leading
            .or_else(|| by_length(&self.files).into_iter().find(|(name, _)| line.contains(&format!("\"{name}\""))))
            .map(|(_, path)| path)
    }

    /// Whether a line is about some unit that does not change here: a neighbour's trouble is not this commit's.
    fn names_another(&self, line: &str) -> bool {
        const KINDS: [&str; 10] =
            [".service", ".socket", ".timer", ".target", ".mount", ".path", ".slice", ".container", ".network", ".volume"];
        self.all.iter().any(|name| line.contains(name.as_str()))
            || line
                .split(|c: char| c.is_whitespace() || "\":,'".contains(c))
                .any(|word| KINDS.iter().any(|kind| word.ends_with(kind)))
    }

    /// "Command X is not executable", where X is about to be written.
    fn is_coming(&self, line: &str) -> bool {
        let Some((_, rest)) = line.split_once("Command ") else { return false };
        let Some((program, _)) = rest.split_once(" is not executable") else { return false };
        let beneath =
            |coming: &String| program == coming || program.strip_prefix(coming.as_str()).is_some_and(|rest| rest.starts_with('/'));
        self.coming.iter().any(beneath)
    }

    /// The line as it reads to somebody who knows nothing of the copies.
    fn in_place(&self, line: &str) -> String {
        let mut text = line.to_owned();
        for name in self.generated.keys() {
            text = text.replace(&format!("{}/{name}", self.folder), &format!("generated {name}"));
        }
        text.replace(&format!("{}/", self.folder), &format!("{}/", self.stands_for)).chars().take(500).collect()
    }

    /// A refusal that names nothing we know is put down to all that changes: better held than switched unread.
    fn or_all(&self, mut verdict: Verdict, output: &str, understood: bool) -> Verdict {
        if !understood {
            let message = self.in_place(output.trim().lines().last().unwrap_or("refused without a word"));
            let all: BTreeSet<&HostPath> = self.files.values().chain(self.units.values()).collect();
            verdict.errors.extend(all.into_iter().map(|path| Complaint { path: path.clone(), message: message.clone() }));
        }
        for list in [&mut verdict.errors, &mut verdict.warnings] {
            // The checker's own order: what it found first is what the rest follows from.
            let mut seen = BTreeSet::new();
            list.retain(|complaint| seen.insert(complaint.clone()));
        }
        verdict
    }
}

/// Lines that only sum up an error told before, or that are true of the copy and not of the file.
fn is_remark(line: &str) -> bool {
    line.contains("is marked executable")
        || line.contains("is marked world-inaccessible")
        || line.contains("is marked world-writable")
}

/// `quadlet-generator[123]: ` in front of each line.
fn strip_tag(line: &str) -> &str {
    match line.split_once("]: ") {
        Some((tag, rest)) if tag.starts_with("quadlet") || tag.starts_with("podman") => rest,
        _ => line,
    }
}

fn mentions(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let next = line[at + path.len()..].chars().next();
        next.is_none_or(|c| !(c.is_ascii_alphanumeric() || "-_.@/\\".contains(c)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subjects(changed: &[&str]) -> Subjects {
        let path = |name: &&str| ((*name).to_owned(), format!("/etc/systemd/system/{name}").parse().unwrap());
        let units = changed.iter().filter(|name| !name.contains('/')).map(path).collect();
        Subjects {
            folder: "/run/t/units".to_owned(),
            stands_for: "/etc/systemd/system",
            files: changed.iter().map(path).collect(),
            units,
            all: BTreeSet::from(["a.service".to_owned(), "old.service".to_owned()]),
            coming: BTreeSet::from(["/opt/app/run".to_owned()]),
            ..Subjects::default()
        }
    }

    fn paths(list: &[Complaint]) -> Vec<&str> {
        list.iter().map(|complaint| complaint.path.as_str()).collect()
    }

    // What systemd 252 and 257 really say, line by line.
    #[test]
    fn complaints_go_to_the_file_that_caused_them() {
        let changed = subjects(&["a.service", "a.service.d/10.conf"]);
        let verdict = changed.read_analyze(
            "/run/t/units/a.service:2: Failed to parse service type, ignoring: nonsense\n\
             /run/t/units/a.service.d/10.conf:2: Failed to parse TimeoutStartSec= parameter, ignoring: abc\n\
             a.service: Service has no ExecStart=, ExecStop=, or SuccessAction=. Refusing.\n",
            false,
        );
        let whole = "/etc/systemd/system/a.service";
        assert_eq!(paths(&verdict.errors), [whole, "/etc/systemd/system/a.service.d/10.conf", whole]);
        assert_eq!(
            verdict.errors[0].to_string(),
            "/etc/systemd/system/a.service:2: Failed to parse service type, ignoring: nonsense"
        );
    }

    #[test]
    fn what_is_only_true_before_the_switch_is_no_error() {
        let changed = subjects(&["a.service"]);
        let coming = "a.service: Command /opt/app/run is not executable: No such file or directory\n";
        assert_eq!(changed.read_analyze(coming, false), Verdict::default());
        let absent = "a.service: Command /opt/app/runner is not executable: No such file or directory\n";
        assert_eq!(paths(&changed.read_analyze(absent, false).errors).len(), 1);
    }

    #[test]
    fn an_unknown_key_is_a_warning() {
        let changed = subjects(&["a.service"]);
        let verdict = changed.read_analyze("/run/t/units/a.service:3: Unknown key 'Foo' in section [Service], ignoring.\n", false);
        assert_eq!((verdict.errors.len(), verdict.warnings.len()), (0, 1));
    }

    #[test]
    fn a_neighbours_trouble_is_not_ours_but_an_unread_refusal_is() {
        let changed = subjects(&["a.service"]);
        let neighbour = "/run/t/units/old.service:2: Failed to parse service type, ignoring: x\nUnit old.service has a bad unit file setting.\n";
        assert_eq!(changed.read_analyze(neighbour, false), Verdict::default());
        assert_eq!(paths(&changed.read_analyze("Failed to initialize manager: Permission denied\n", false).errors).len(), 1);
        assert_eq!(changed.read_analyze("", true), Verdict::default());
    }

    // What Podman 5.4's generator really says.
    #[test]
    fn quadlets_complaints_are_read() {
        let mut changed = subjects(&[]);
        changed.folder = "/run/t/quadlets".to_owned();
        changed.stands_for = "/etc/containers/systemd";
        changed.files = BTreeMap::from([("web.container".to_owned(), "/etc/containers/systemd/web.container".parse().unwrap())]);
        changed.all = BTreeSet::from(["web.container".to_owned(), "theirs.container".to_owned()]);
        let said = "quadlet-generator[12]: converting \"web.container\": unsupported key 'X' in group 'Container' in /run/t/quadlets/web.container\n";
        let verdict = changed.read_quadlet(said, false);
        assert_eq!(
            verdict.errors[0].message,
            "converting \"web.container\": unsupported key 'X' in group 'Container' in /etc/containers/systemd/web.container"
        );
        let theirs = "quadlet-generator[12]: converting \"theirs.container\": no Image or Rootfs key specified\n";
        assert_eq!(changed.read_quadlet(theirs, false), Verdict::default());
        assert_eq!(changed.read_quadlet("quadlet-generator[12]: something new\n", false).errors.len(), 1);
    }
}
