//! What the tests share: real repositories made by git, real servers, the lab's machines, and a tracer that stops a program anywhere.

pub mod fuzz;
pub mod git;
pub mod lab;
pub mod receiver;
pub mod release;
pub mod server;
pub mod sweep;
pub mod token;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod trace;

use std::path::PathBuf;

/// The `trimtab` program of the same build as the running test. Building it first is the test runner's business.
///
/// # Panics
/// If it is not there; the message says how to build it.
pub fn trimtab_binary() -> PathBuf {
    let test = std::env::current_exe().expect("because the system knows what it runs");
    // target/<profile>/deps/<test>
    let profile = test.parent().and_then(|deps| deps.parent()).expect("because Cargo puts tests into target/<profile>/deps");
    let binary = profile.join("trimtab");
    let release = if profile.ends_with("release") { " --release" } else { "" };
    assert!(binary.is_file(), "there is no {}: build it first, with `cargo build -p trimtab{release}`", binary.display());
    binary
}
