//! `examples/trust/README.md`: every command on the page is run, in its order, by the people that it names, with real keys; what they end up
//! with is looked at with git's own eyes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use trimtab_tests::git::{command, run};
use trimtab_tests::trimtab_binary;

use super::repository_root;

/// The people of the page, each with a home of their own.
const WHO: [&str; 4] = ["ann", "bob", "safe", "device"];

struct Stage {
    folder: tempfile::TempDir,
    tools: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tools = folder.path().join("bin");
        for name in WHO.iter().copied().chain(["bin", "stick"]) {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink(trimtab_binary(), tools.join("trimtab")).unwrap();
        let stage = Self { folder, tools };
        let (bare, work) = (stage.path("fleet.git"), stage.path("seed"));
        let git = |words: &[&str]| run(command("git", stage.folder.path()).args(words), b"");
        git(&["init", "--quiet", "--bare", "--initial-branch=main", bare.to_str().unwrap()]);
        git(&["init", "--quiet", "--initial-branch=main", work.to_str().unwrap()]);
        let write = |path: &str, text: &str| {
            let path = work.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("fleet.toml", "format = 1\n[[group]]\nname = \"all\"\nselect = \"*\"\ncomponents = [\"one\"]\n");
        write("components/one/files/etc/one.conf", "one\n");
        for words in
            [&["add", "--all"][..], &["commit", "--quiet", "-m", "One"], &["push", "--quiet", bare.to_str().unwrap(), "main"]]
        {
            git(&[&["-C", work.to_str().unwrap()], words].concat());
        }
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a part of the page as one of its people; what was said.
    fn play(&self, who: &str, script: &str) -> String {
        let home = self.path(who);
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", script]).current_dir(&home).stdin(Stdio::null()).env_clear();
        let path = format!("{}:{}", self.tools.display(), std::env::var("PATH").unwrap());
        bash.env("PATH", path).env("HOME", &home).env("LC_ALL", "C").env("TZ", "UTC").env("GIT_CONFIG_NOSYSTEM", "1");
        bash.env("fleet", self.path("fleet.git")).env("stick", self.path("stick")).env("root", self.path("device/root"));
        for role in ["AUTHOR", "COMMITTER"] {
            bash.env(format!("GIT_{role}_NAME"), who).env(format!("GIT_{role}_EMAIL"), format!("{who}@example.org"));
        }
        let output = bash.output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{who}:\n{script}\n--- {}\n{said}", output.status);
        said
    }
}

/// The commands of a page, in order: who, and what.
fn scripts(page: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(page).unwrap();
    let fences = text.split("```sh\n").skip(1).map(|rest| rest.split("\n```").next().unwrap());
    let one = |block: &str| {
        let (who, script) = block.strip_prefix("# ").and_then(|rest| rest.split_once('\n')).expect("each says whose it is");
        (who.to_owned(), script.to_owned())
    };
    fences.map(one).collect()
}

#[test]
fn every_command_of_the_page_does_what_it_says() {
    let stage = Stage::new();
    let page = scripts(&repository_root().join("examples/trust/README.md"));
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for (who, script) in &page {
        assert!(WHO.contains(&who.as_str()), "nobody is called {who}");
        *count.entry(who).or_default() += 1;
        let said = stage.play(who, script);
        if std::env::var_os("SHOW").is_some() {
            eprintln!("=== {who}\n{script}\n--- \n{said}");
        }
    }
    assert!(count.len() == WHO.len() && page.len() > 20, "{count:?}");

    // What the page leaves behind, in git's own eyes: Bob countersigned last.
    let signers = stage.path("signers");
    let line = std::fs::read_to_string(stage.path("bob/.ssh/release.pub")).unwrap();
    std::fs::write(&signers, format!("bob {line}")).unwrap();
    let mut verify = command("git", stage.folder.path());
    verify.arg("-C").arg(stage.path("fleet.git")).args(["-c", "gpg.format=ssh", "-c"]);
    verify.arg(format!("gpg.ssh.allowedSignersFile={}", signers.display())).args(["verify-tag", "refs/trimtab/production"]);
    let output = verify.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("Good \"git\" signature for bob"), "{said}");
    run(command("git", stage.folder.path()).arg("-C").arg(stage.path("fleet.git")).args(["fsck", "--strict"]), b"");
}
