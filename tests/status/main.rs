//! What is told of a host: the published schema against what the program writes, the endpoint as a process against clients that mean it ill,
//! and the page in a real browser.

// What the tests share stands outside of `#[test]`, where clippy.toml does not look.
#![allow(clippy::unwrap_used, clippy::panic)]

mod browser;
mod endpoint;
mod schema;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use trimtab_tests::trimtab_binary;

fn published(name: &str) -> String {
    std::fs::read_to_string(format!("{}/../examples/monitoring/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn example() -> Value {
    serde_json::from_str(&published("status.example.json")).unwrap()
}

/// A sandbox with this document in it, and an endpoint that serves it.
struct Served {
    folder: tempfile::TempDir,
    child: Child,
}

impl Served {
    fn new(document: &Value, listen: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut document = document.clone();
        // This very process stands for the agent.
        (document["agentPid"], document["nextMs"]) = (std::process::id().into(), 0.into());
        std::fs::create_dir_all(folder.path().join("run/trimtab")).unwrap();
        std::fs::write(folder.path().join("run/trimtab/status.json"), document.to_string()).unwrap();
        let mut command = Command::new(trimtab_binary());
        command.arg("--root").arg(folder.path()).args(["endpoint", "--listen"]);
        if listen.is_empty() {
            command.arg(folder.path().join("sock"))
        } else {
            command.arg(listen)
        };
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        Self { folder, child }
    }

    /// On a Unix socket.
    fn on_path(document: &Value) -> Self {
        let served = Self::new(document, "");
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::os::unix::net::UnixStream::connect(served.socket()).is_err() {
            assert!(Instant::now() < deadline, "it does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        served
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("sock")
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
