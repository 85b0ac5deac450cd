//! Which Debian mirror this machine uses, read from apt's own sources: one-line and deb822.

use std::fs;
use std::path::Path;

/// Where Debian is when the machine names no Debian mirror itself (Ubuntu, or a `mirror+file:` list).
const DEFAULT: &str = "http://deb.debian.org/debian";

/// The machine's own Debian mirror; `TRIMTAB_LAB_MIRROR` outranks it.
pub(super) fn of_this_machine() -> String {
    std::env::var("TRIMTAB_LAB_MIRROR").unwrap_or_else(|_| read(Path::new("/etc/apt")).unwrap_or_else(|| DEFAULT.to_owned()))
}

fn read(apt: &Path) -> Option<String> {
    let mut files: Vec<_> = fs::read_dir(apt.join("sources.list.d")).into_iter().flatten().flatten().map(|e| e.path()).collect();
    files.sort();
    files.insert(0, apt.join("sources.list"));
    files.iter().find_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        match file.extension()?.to_str()? {
            "list" => one_line(&text),
            "sources" => deb822(&text),
            _ => None,
        }
    })
}

fn one_line(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let line = line.trim().strip_prefix("deb ")?.trim();
        let rest = match line.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => line,
        };
        debian(rest.split_whitespace().next()?)
    })
}

fn deb822(text: &str) -> Option<String> {
    text.split("\n\n").find_map(|stanza| {
        let field = |name: &str| {
            stanza.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        if field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no")) {
            return None;
        }
        field("URIs")?.split_whitespace().find_map(debian)
    })
}

/// A security or a foreign archive has no base system in it; a `mirror+file:` list is not for mmdebstrap.
fn debian(uri: &str) -> Option<String> {
    let uri = uri.trim_end_matches('/');
    (uri.starts_with("http") && uri.ends_with("/debian")).then(|| uri.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_found_in_both_formats() {
        let list =
            "# deb http://old.example/debian x main\ndeb [arch=amd64 signed-by=/k] https://m.example/debian/ bookworm main\n";
        assert_eq!(one_line(list).as_deref(), Some("https://m.example/debian"));
        let stanzas = "Types: deb\nURIs: http://s.example/debian-security\n\nTypes: deb\nEnabled: no\nURIs: http://off.example/debian\n\n\
                       Types: deb\nURIs: http://on.example/debian\n";
        assert_eq!(deb822(stanzas).as_deref(), Some("http://on.example/debian"));
        assert_eq!(deb822("Types: deb\nURIs: http://archive.ubuntu.com/ubuntu\n"), None);
        assert_eq!(debian("mirror+file:/etc/apt/mirrors/debian"), None);
    }
}
