//! What a unit reads, worked out from its text: files, other Quadlet files, images.
//!
//! Limits: a path that only the running manager knows (some specifiers) or that a program opens by itself is not found here;
//! `uses` of a `[[unit]]` names it.

use super::layout::{QUADLET_DIR, ends_in};
use crate::names::UnitName;
use crate::unitfile::{Assignment, UnitFile, expand, words};

/// What a unit reads.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// Absolute paths (files, or directories with all beneath), perhaps with `*` and `?`.
    pub(super) paths: Vec<String>,
    /// Quadlet files that it names: `web.network`.
    pub(super) quadlets: Vec<String>,
    /// Images that it names and that are pulled, with the line.
    pub(super) images: Vec<(String, u32)>,
    /// What its last `Image=` says: an image, or a Quadlet file that names or builds one.
    pub(super) image: Option<String>,
}

struct Reader<'u> {
    text: &'u UnitFile,
    unit: &'u UnitName,
    inputs: Inputs,
}

/// Works out what a unit reads. `quadlet` is the kind of Quadlet file that it is, if it is one (`container`, `kube`, …).
pub(super) fn inputs(text: &UnitFile, unit: &UnitName, quadlet: Option<&str>) -> Inputs {
    let mut reader = Reader { text, unit, inputs: Inputs::default() };
    reader.systemd();
    if let Some(kind) = quadlet {
        reader.quadlet(kind);
    }
    reader.inputs
}

/// The section of a Quadlet file that is named after its kind.
pub(super) fn section(kind: &str) -> String {
    let mut chars = kind.chars();
    chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

impl Reader<'_> {
    fn each(&mut self, key: &str, mut take: impl FnMut(&mut Self, &Assignment, &str)) {
        let text = self.text;
        for assignment in text.anywhere(key) {
            if let Some(value) = expand(&assignment.value, self.unit) {
                take(self, assignment, &value);
            }
        }
    }

    fn path(&mut self, path: &str) {
        if path.starts_with('/') {
            self.inputs.paths.push(path.to_owned());
        }
    }

    /// A path in a Quadlet file: relative ones are relative to the file.
    fn quadlet_path(&mut self, path: &str) {
        let mut parts: Vec<&str> = Vec::new();
        let joined = if path.starts_with('/') { path.to_owned() } else { format!("{QUADLET_DIR}/{path}") };
        for part in joined.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop();
                }
                part => parts.push(part),
            }
        }
        self.inputs.paths.push(format!("/{}", parts.join("/")));
    }

    fn systemd(&mut self) {
        self.each("EnvironmentFile", |r, a, value| {
            if a.section != "Container" {
                r.path(value.strip_prefix('-').unwrap_or(value));
            }
        });
        for key in ["ExecStart", "ExecStartPre", "ExecStartPost", "ExecReload", "ExecCondition", "ExecStop", "ExecStopPost"] {
            self.each(key, |r, _, value| {
                for (at, word) in words(value).iter().enumerate() {
                    let word = if at == 0 { word.trim_start_matches(['-', '@', '+', '!', ':', '|']) } else { word };
                    // `--config=/etc/app.conf` names a file as much as `/etc/app.conf` does.
                    r.path(word.split_once('=').map_or(word, |(_, path)| path));
                }
            });
        }
        for key in ["LoadCredential", "LoadCredentialEncrypted"] {
            self.each(key, |r, _, value| r.path(value.split_once(':').map_or("", |(_, path)| path)));
        }
        self.each("ConfigurationDirectory", |r, _, value| {
            for name in words(value) {
                r.path(&format!("/etc/{}", name.split(':').next().unwrap_or(&name)));
            }
        });
        for key in ["BindPaths", "BindReadOnlyPaths"] {
            self.each(key, |r, _, value| {
                for word in words(value) {
                    let word = word.strip_prefix('-').unwrap_or(&word);
                    r.path(word.split(':').next().unwrap_or(word));
                }
            });
        }
    }

    fn quadlet(&mut self, kind: &str) {
        self.each("EnvironmentFile", |r, a, value| {
            if a.section == "Container" {
                r.quadlet_path(value.strip_prefix('-').unwrap_or(value));
            }
        });
        for key in ["Volume", "GlobalArgs", "PodmanArgs"] {
            self.each(key, |r, _, value| if key == "Volume" { r.volume(value) } else { r.arguments(value) });
        }
        self.each("Mount", |r, _, value| r.mount(value));
        for key in ["Yaml", "ConfigMap", "ContainersConfModule"] {
            self.each(key, |r, _, value| r.quadlet_path(value));
        }
        if kind == "build" {
            self.each("File", |r, _, value| r.quadlet_path(value));
            self.each("SetWorkingDirectory", |r, _, value| {
                if !["file", "unit", "yaml"].contains(&value) && !value.contains("://") {
                    r.quadlet_path(value);
                }
            });
        }
        for key in ["Network", "Pod"] {
            self.each(key, |r, _, value| {
                let name = value.split(':').next().unwrap_or(value);
                if ["network", "container", "pod"].iter().any(|end| ends_in(name, end)) {
                    r.inputs.quadlets.push(name.to_owned());
                }
            });
        }
        self.images(kind);
    }

    fn images(&mut self, kind: &str) {
        let pulls = self.text.last(&section(kind), "Pull") != Some("never");
        let section = section(kind);
        let Some(assignment) = self.text.values(&section, "Image").last().copied() else { return };
        let Some(image) = expand(&assignment.value, self.unit) else { return };
        self.inputs.image = Some(image.clone());
        if ends_in(&image, "image") || ends_in(&image, "build") {
            self.inputs.quadlets.push(image);
        } else if ["container", "image"].contains(&kind) && pulls {
            self.inputs.images.push((image, assignment.line));
        }
    }

    fn volume(&mut self, value: &str) {
        let source = value.split(':').next().unwrap_or(value);
        if ends_in(source, "volume") && !source.contains('/') {
            self.inputs.quadlets.push(source.to_owned());
        } else if source.starts_with(['/', '.']) {
            self.quadlet_path(source);
        }
    }

    fn mount(&mut self, value: &str) {
        for option in value.split(',') {
            let Some((key, source)) = option.split_once('=') else { continue };
            if !["source", "src"].contains(&key.trim()) {
                continue;
            }
            if ["volume", "image", "build"].iter().any(|end| ends_in(source, end)) && !source.contains('/') {
                self.inputs.quadlets.push(source.to_owned());
            } else if source.starts_with(['/', '.']) {
                self.quadlet_path(source);
            }
        }
    }

    fn arguments(&mut self, value: &str) {
        let words = words(value);
        for (at, word) in words.iter().enumerate() {
            let next = words.get(at + 1).map_or("", String::as_str);
            match word.split_once('=').unwrap_or((word, next)) {
                ("-v" | "--volume", volume) => self.volume(volume),
                ("--env-file", path) => self.quadlet_path(path),
                ("--mount", mount) => {
                    let mount = mount.to_owned();
                    self.mount(&mount);
                }
                _ => {}
            }
        }
    }
}
