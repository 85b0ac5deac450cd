//! What reads bytes from elsewhere, each as one function of bytes, for the fuzzing engine (`tests/fuzz`) and for the replay of its corpus
//! (`tests/replay`) alike.
//!
//! A target asserts more than that nothing panics: what was accepted and is written again reads as the same; what is signed has one reading; a
//! signature counts only if it is one that was really made ([`known`]). [`run`] adds the bounds: so much memory and so much time for any input.
//! Limits: what lies behind a hash is only reached because a target computes the hash itself; what lies behind a signature only with the few
//! signatures that were made.

pub mod bundles;
pub mod courier;
pub mod desk;
pub mod found;
pub mod known;
pub mod objects;
pub mod signatures;
pub mod stored;
pub mod texts;
pub mod trees;
pub mod weight;

use std::path::PathBuf;
use std::time::Duration;

/// Something that reads bytes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: of its program in `fuzz_targets` and of its folder in `corpus`.
    pub name: &'static str,
    /// Reads them, and asserts what must hold.
    pub read: fn(&[u8]),
    /// The most memory that it may hold at once, in bytes.
    pub memory: usize,
    /// The most processor time of a release build.
    pub time: Duration,
}

const MIB: usize = 1 << 20;

const fn target(name: &'static str, read: fn(&[u8])) -> Target {
    Target { name, read, memory: 32 * MIB, time: Duration::from_millis(100) }
}

/// All of them.
pub const TARGETS: [Target; 26] = [
    target("blocks", signatures::blocks),
    target("bundle", bundles::bundle),
    target("chain", texts::chain),
    target("client", courier::client),
    target("commit", objects::commit),
    target("fleet", desk::fleet),
    target("keys_ini", found::ini),
    target("keys_json", found::json),
    target("keys_path", found::path),
    target("keys_systemd", found::systemd),
    target("keys_toml", found::toml),
    target("keys_yaml", found::yaml),
    target("line", signatures::line),
    target("manifest", bundles::manifest),
    target("memory", stored::memory),
    target("minisign", signatures::minisign),
    target("openpgp", signatures::openpgp),
    target("root", texts::root),
    target("slice", trees::slice),
    target("sshsig", signatures::sshsig),
    target("statement", texts::statement),
    target("stored", stored::stored),
    target("tag", objects::tag),
    target("tree", trees::tree),
    target("trust_toml", texts::trust_toml),
    target("unit", desk::unit),
    // `wire` is covered twice: bare here, and through the agent's client in `client`.
];

/// The target of this name.
///
/// # Panics
/// If there is none.
pub fn named(name: &str) -> Target {
    *TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("there is no fuzz target {name}"))
}

/// Reads an input as this target, within its bounds.
///
/// # Panics
/// If something does not hold.
pub fn run(name: &str, bytes: &[u8]) {
    let target = named(name);
    let (peak, time) = weight::weigh(|| (target.read)(bytes));
    assert!(peak <= target.memory, "{name} held {peak} bytes for an input of {}; {} are allowed", bytes.len(), target.memory);
    let most = target.time * weight::SLOWNESS;
    assert!(time <= most, "{name} took {time:?} for an input of {} bytes; {most:?} are allowed in this build", bytes.len());
}

/// The folder with the engine's side of all this.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The parts of an input that stands for several files: what stands between NUL bytes.
fn parts<const N: usize>(bytes: &[u8]) -> [&[u8]; N] {
    let mut all = bytes.splitn(N, |byte| *byte == 0);
    std::array::from_fn(|_| all.next().unwrap_or_default())
}
