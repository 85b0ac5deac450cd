//! Structured files that are found on the host, where anybody may have written them: the agent reads them as root.
//!
//! An input is three parts with NUL bytes between: paths of keys, one a line; the wanted content; the found content.

use trimtab_model::drift::{IgnoredKeys, Structure};
use trimtab_model::keys::{self, MAX_FILE, MAX_KEYS};

use super::parts;

/// The path of a key.
pub fn path(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match keys::parse_path(text) {
        Ok(parts) => {
            assert!(!parts.is_empty() && parts.len() <= 16);
            let quoted: Vec<String> =
                parts
                    .iter()
                    .map(|part| {
                        if part == "*" {
                            "*".to_owned()
                        } else {
                            format!("\"{}\"", part.replace('\\', "\\\\").replace('"', "\\\""))
                        }
                    })
                    .collect();
            assert_eq!(keys::parse_path(&quoted.join(".")), Ok(parts), "{text:?} has another reading");
        }
        Err(error) => assert!(error.at <= text.len()),
    }
}

/// INI.
pub fn ini(bytes: &[u8]) {
    read(Structure::Ini, bytes);
}

/// JSON.
pub fn json(bytes: &[u8]) {
    read(Structure::Json, bytes);
}

/// systemd's unit files.
pub fn systemd(bytes: &[u8]) {
    read(Structure::Systemd, bytes);
}

/// TOML.
pub fn toml(bytes: &[u8]) {
    read(Structure::Toml, bytes);
}

/// YAML.
pub fn yaml(bytes: &[u8]) {
    read(Structure::Yaml, bytes);
}

fn read(format: Structure, bytes: &[u8]) {
    let [paths, wanted, found] = parts(bytes);
    let paths = String::from_utf8_lossy(paths);
    let keys = paths.lines().filter_map(|line| keys::parse_path(line).ok()).take(MAX_KEYS).collect();
    let ignored = IgnoredKeys { format, keys };
    let same = |a: &[u8], b: &[u8]| keys::same(&ignored, a, b);
    let (reads, finds) = (keys::judge(format, wanted).is_ok(), keys::judge(format, found).is_ok());
    assert!(wanted.len() <= MAX_FILE || !reads);
    let is_same = same(wanted, found);
    assert_eq!(is_same, same(found, wanted), "what is the same depends on which is asked first");
    assert!(!is_same || wanted == found || (reads && finds));
    let result = keys::splice(&ignored, wanted, found);
    if !reads || !finds || ignored.keys.is_empty() {
        assert_eq!(result, wanted, "what cannot be read changed something");
        return;
    }
    assert!(same(wanted, &result), "the result does not say what is wanted:\n{}", String::from_utf8_lossy(&result));
    let again = keys::splice(&ignored, wanted, &result);
    assert_eq!(String::from_utf8_lossy(&again), String::from_utf8_lossy(&result), "once is not enough");
}
