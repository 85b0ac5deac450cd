//! A person who commits to the fleet's repository: plain git, an SSH key, a push over HTTPS.

use std::process::{Command, Stdio};

use super::{Machine, project};

/// Somebody with a key and a clone, working in a machine.
#[derive(Debug)]
pub struct Person<'m> {
    machine: &'m Machine,
    home: String,
}

impl<'m> Person<'m> {
    /// A new person with a new ed25519 key and a clone of the fleet's repository.
    #[must_use]
    #[track_caller]
    pub fn new(machine: &'m Machine, name: &str) -> Self {
        let home = format!("/srv/people/{name}");
        machine.sh(&format!(
            "set -e; mkdir -p {home}; cd {home}; ssh-keygen -q -t ed25519 -N '' -C {name} -f key; \
             git clone -q https://localhost/fleet.git fleet 2>/dev/null; cd fleet; git symbolic-ref HEAD refs/heads/main; \
             git config user.name {name}; git config user.email {name}@example.org; \
             git config gpg.format ssh; git config user.signingkey {home}/key; git config commit.gpgsign true"
        ));
        Self { machine, home }
    }

    /// Where this person works.
    #[must_use]
    pub fn machine(&self) -> &'m Machine {
        self.machine
    }

    /// The public key, as one line of an `authorized_keys` file.
    #[must_use]
    pub fn key(&self) -> String {
        self.machine.read(&format!("{}/key.pub", self.home))
    }

    /// Where the public key is, in the machine.
    #[must_use]
    pub fn key_file(&self) -> String {
        format!("{}/key.pub", self.home)
    }

    /// The clone's folder, in the machine.
    #[must_use]
    pub fn working_copy(&self) -> String {
        format!("{}/fleet", self.home)
    }

    /// Writes a file of the clone.
    #[track_caller]
    pub fn write(&self, path: &str, text: &str) -> &Self {
        self.machine.write(&format!("{}/{path}", self.working_copy()), text);
        self
    }

    /// Removes a file or folder of the clone.
    #[track_caller]
    pub fn remove(&self, path: &str) -> &Self {
        self.machine.sh(&format!("rm -r '{}/{path}'", self.working_copy()));
        self
    }

    /// Lays one of the project's examples into the clone.
    #[track_caller]
    pub fn example(&self, name: &str) -> &Self {
        let folder = project().join("examples").join(name);
        let tar = Command::new("tar").arg("-C").arg(&folder).args(["-c", "."]).stderr(Stdio::inherit()).output();
        let tar = tar.expect("because tar is part of the base system");
        assert!(tar.status.success(), "there is no example {}", folder.display());
        let ran = self.machine.try_sh_with(&format!("tar -C {} -x --no-same-owner", self.working_copy()), &tar.stdout);
        assert!(ran.code == 0, "{ran}");
        self
    }

    /// Commits all that is there, signed, and pushes it; the commit's id.
    #[track_caller]
    pub fn push(&self, message: &str) -> String {
        self.push_as(message, "")
    }

    /// As [`Person::push`], with options of `git commit` such as `--no-gpg-sign`.
    #[track_caller]
    pub fn push_as(&self, message: &str, options: &str) -> String {
        self.git(&format!("add -A && git commit -q --allow-empty {options} -m '{message}' && git push -q origin HEAD:main"));
        self.git("rev-parse HEAD")
    }

    /// Any git command in the clone.
    #[track_caller]
    pub fn git(&self, arguments: &str) -> String {
        self.machine.sh(&format!("cd {} && git {arguments}", self.working_copy()))
    }
}
