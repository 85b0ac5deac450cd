//! Whether Landlock confines the courier is told to the operator: in the status document, by `trimtab status`, and once in the journal. A kernel
//! without it is played by strace, which answers the real courier's system call as such a kernel does. Needs strace.

use std::process::{Command, Output, Stdio};

use trimtab_model::status::Landlock;

use crate::Sandbox;

const WARNING: &str = "Landlock does not wholly confine the courier";

/// A pass on a kernel that answers the first question about Landlock with this error.
fn once_without(sandbox: &Sandbox, errno: &str) -> Output {
    let inject = format!("inject=landlock_create_ruleset:error={errno}");
    let trimtab = sandbox.trimtab(&["once"]);
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "trace=landlock_create_ruleset", "-e", &inject, "-o", "/dev/null"]);
    strace.arg(trimtab.get_program()).args(trimtab.get_args()).stdin(Stdio::null()).output().unwrap()
}

fn warned(output: &Output) -> bool {
    String::from_utf8_lossy(&output.stderr).contains(WARNING)
}

#[test]
fn a_kernel_without_landlock_is_told_once_and_stands_in_the_status() {
    let sandbox = Sandbox::new("");
    for (errno, says) in [("ENOSYS", "this kernel was built without Landlock"), ("EOPNOTSUPP", "it is not switched on")] {
        let _ = std::fs::remove_dir_all(sandbox.root().join("run"));
        let first = once_without(&sandbox, errno);
        assert!(matches!(first.status.code(), Some(0 | 2)) && warned(&first), "{}", String::from_utf8_lossy(&first.stderr));
        let courier = sandbox.status().unwrap().courier;
        assert!(courier.landlock == Landlock::Missing && courier.detail.contains(says), "{courier:?}");
        let (_, status, _) = sandbox.said(&["status"]);
        let line = status.lines().find(|line| line.starts_with("courier ")).unwrap_or_default();
        assert!(line.contains("not wholly confined by Landlock: ") && line.contains(says), "{status}");
        assert!(!warned(&once_without(&sandbox, errno)), "with each poll it would be noise");
        assert_eq!(sandbox.status().unwrap().courier, courier, "and it stands for as long as it lasts");
    }
    // On this machine's own kernel, whatever that is: said by the same courier, and never kept from before.
    let own = sandbox.trimtab(&["once"]).output().unwrap();
    let courier = sandbox.status().unwrap().courier;
    println!("{courier:?}: {}", String::from_utf8_lossy(&own.stderr));
    assert_ne!(courier.landlock, Landlock::Unknown);
    if courier.landlock == Landlock::Whole {
        assert_eq!((courier.detail.as_str(), warned(&own)), ("", false));
        let (_, status, _) = sandbox.said(&["status"]);
        assert!(!status.contains("Landlock"), "what is well is not told: {status}");
    }
}
