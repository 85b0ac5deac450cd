//! Users and groups by name and by number: from `/etc/passwd` and `/etc/group` beneath the root, and from systemd's user database.
//!
//! A static binary has no NSS, so the two files are read here, leniently: a line that makes no sense is skipped, the first one of a name wins.
//! Names that are in neither file are asked of systemd's `io.systemd.Multiplexer` over its Unix socket, when the root is the machine itself;
//! that covers LDAP, homed and dynamic users. Answers are kept until [`Accounts::refresh`].
//!
//! In a sandbox of an ordinary user, whatever is root's is that user's: names that mean 0 mean that user.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use trimtab_model::names::HostPath;

use super::root::Root;

/// Larger files are cut: an accounts database of 16 MiB has some 200,000 users.
const MAX_FILE: u64 = 16 << 20;
/// A record of systemd's user database is a few KiB.
const MAX_ANSWER: u64 = 1 << 20;
const USERDB: &str = "/run/systemd/userdb/io.systemd.Multiplexer";
const PATIENCE: Duration = Duration::from_secs(1);

/// Who is who on this host.
#[derive(Debug)]
pub struct Accounts {
    root: Root,
    users: Table,
    groups: Table,
}

#[derive(Debug, Clone, Copy)]
struct Kind {
    file: &'static str,
    method: &'static str,
    name_key: &'static str,
    id_key: &'static str,
}

const USERS: Kind =
    Kind { file: "/etc/passwd", method: "io.systemd.UserDatabase.GetUserRecord", name_key: "userName", id_key: "uid" };
const GROUPS: Kind =
    Kind { file: "/etc/group", method: "io.systemd.UserDatabase.GetGroupRecord", name_key: "groupName", id_key: "gid" };

#[derive(Debug)]
struct Table {
    kind: Kind,
    // What root's things are: 0, or the user of an unprivileged sandbox.
    own: u32,
    is_host: bool,
    stamp: Option<(u64, u64, i64, i64)>,
    by_name: HashMap<String, u32>,
    by_id: HashMap<u32, String>,
    // Answers of systemd, also the negative ones.
    asked_names: HashMap<String, Option<u32>>,
    asked_ids: HashMap<u32, Option<String>>,
}

impl Accounts {
    /// Reads both files.
    pub fn load(root: &Root) -> Self {
        let (uid, gid) = root.root_ids();
        let mut accounts = Self {
            root: root.clone(),
            users: Table::new(USERS, uid, root.is_host()),
            groups: Table::new(GROUPS, gid, root.is_host()),
        };
        accounts.refresh();
        accounts
    }

    /// Reads a file again if it is another than last time, and forgets what systemd said. Call it once a pass, and after systemd-sysusers.
    pub fn refresh(&mut self) {
        self.users.refresh(&self.root);
        self.groups.refresh(&self.root);
    }

    /// The number of a user; `None`: there is no such user.
    pub fn user(&mut self, name: &str) -> Option<u32> {
        self.users.id(name)
    }

    /// The number of a group.
    pub fn group(&mut self, name: &str) -> Option<u32> {
        self.groups.id(name)
    }

    /// The name of a user.
    pub fn user_name(&mut self, id: u32) -> Option<String> {
        self.users.name(id)
    }

    /// The name of a group.
    pub fn group_name(&mut self, id: u32) -> Option<String> {
        self.groups.name(id)
    }
}

impl Table {
    fn new(kind: Kind, own: u32, is_host: bool) -> Self {
        Self {
            kind,
            own,
            is_host,
            stamp: None,
            by_name: HashMap::new(),
            by_id: HashMap::new(),
            asked_names: HashMap::new(),
            asked_ids: HashMap::new(),
        }
    }

    fn refresh(&mut self, root: &Root) {
        self.asked_names.clear();
        self.asked_ids.clear();
        let path: HostPath = self.kind.file.parse().expect("because the two names are normal paths");
        let file = root.open_trusted(&path).ok();
        let stamp = file.as_ref().and_then(|file| file.metadata().ok()).map(|m| (m.dev(), m.ino(), m.ctime(), m.ctime_nsec()));
        if stamp.is_some() && stamp == self.stamp {
            return;
        }
        self.stamp = stamp;
        self.by_name.clear();
        self.by_id.clear();
        let Some(file) = file else { return };
        let mut bytes = Vec::new();
        // What could be read of a damaged file still serves.
        let _ = file.take(MAX_FILE).read_to_end(&mut bytes);
        for line in String::from_utf8_lossy(&bytes).lines() {
            let mut fields = line.split(':');
            let (name, id) = (fields.next().unwrap_or_default(), fields.nth(1));
            // "+" and "-" are NIS's, "#" nobody's.
            if name.is_empty() || name.starts_with(['+', '-', '#']) {
                continue;
            }
            if let Some(id) = id.and_then(|id| id.parse().ok()) {
                self.by_name.entry(name.to_owned()).or_insert(id);
                self.by_id.entry(id).or_insert_with(|| name.to_owned());
            }
        }
    }

    fn id(&mut self, name: &str) -> Option<u32> {
        let id = if !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit()) {
            // 2^32 - 1 means "leave it" to chown, so it is nobody's number.
            name.parse().ok().filter(|id| *id != u32::MAX)
        } else {
            // root is 0 also where a sandbox has no accounts at all.
            let known = self.by_name.get(name).copied().or((name == "root").then_some(0));
            known.or_else(|| self.ask_name(name))
        };
        id.map(|id| if id == 0 { self.own } else { id })
    }

    fn name(&mut self, id: u32) -> Option<String> {
        if self.own != 0 && id == self.own {
            return Some("root".into());
        }
        let known = self.by_id.get(&id).cloned().or((id == 0).then(|| "root".into()));
        known.or_else(|| self.ask_id(id))
    }

    fn ask_name(&mut self, name: &str) -> Option<u32> {
        if !self.is_host {
            return None;
        }
        let kind = self.kind;
        let ask = || ask_userdb(Path::new(USERDB), kind, &serde_json::json!(name), kind.name_key).and_then(|(_, id)| id);
        *self.asked_names.entry(name.to_owned()).or_insert_with(ask)
    }

    fn ask_id(&mut self, id: u32) -> Option<String> {
        if !self.is_host {
            return None;
        }
        let kind = self.kind;
        let ask = || ask_userdb(Path::new(USERDB), kind, &serde_json::json!(id), kind.id_key).and_then(|(name, _)| name);
        self.asked_ids.entry(id).or_insert_with(ask).clone()
    }
}

// One varlink call: a JSON object and a NUL each way. Every failure is "not known": without systemd there is nobody to ask.
fn ask_userdb(socket: &Path, kind: Kind, value: &serde_json::Value, key: &str) -> Option<(Option<String>, Option<u32>)> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    let call = serde_json::json!({"method": kind.method, "parameters": {key: value, "service": "io.systemd.Multiplexer"}});
    let mut frame = serde_json::to_vec(&call).ok()?;
    frame.push(0);
    stream.write_all(&frame).ok()?;
    let mut answer = Vec::new();
    BufReader::new(stream).take(MAX_ANSWER).read_until(0, &mut answer).ok()?;
    if answer.pop() != Some(0) {
        return None;
    }
    let answer: serde_json::Value = serde_json::from_slice(&answer).ok()?;
    if answer.get("error").is_some() {
        return None;
    }
    let record = answer.get("parameters")?.get("record")?;
    let name = record.get(kind.name_key).and_then(serde_json::Value::as_str).map(str::to_owned);
    let id = record.get(kind.id_key).and_then(serde_json::Value::as_u64).and_then(|id| u32::try_from(id).ok());
    // A record of somebody else is no answer.
    (Some(value) == record.get(key)).then_some((name, id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread;

    fn answer(reply: &'static str) -> (tempfile::TempDir, thread::JoinHandle<Vec<u8>>) {
        let dir = tempfile::tempdir().expect("because /tmp is writable");
        let listener = UnixListener::bind(dir.path().join("s")).expect("because the folder is new");
        let served = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("because the test connects");
            let mut call = Vec::new();
            BufReader::new(stream.try_clone().expect("because it is open")).read_until(0, &mut call).expect("because it is sent");
            stream.write_all(reply.as_bytes()).expect("because the test reads");
            call
        });
        (dir, served)
    }

    #[test]
    fn systemd_is_asked_in_its_own_words() {
        let (dir, served) = answer("{\"parameters\":{\"record\":{\"userName\":\"anna\",\"uid\":60123},\"incomplete\":false}}\0");
        let found = ask_userdb(&dir.path().join("s"), USERS, &serde_json::json!("anna"), USERS.name_key);
        assert_eq!(found, Some((Some("anna".into()), Some(60123))));
        let call: serde_json::Value =
            serde_json::from_slice(served.join().expect("because it ended").strip_suffix(b"\0").expect("framed"))
                .expect("because it is JSON");
        assert_eq!(call["method"], "io.systemd.UserDatabase.GetUserRecord");
        assert_eq!(call["parameters"], serde_json::json!({"userName": "anna", "service": "io.systemd.Multiplexer"}));
    }

    #[test]
    fn no_such_user_and_a_record_of_another_are_no_answer() {
        for reply in [
            "{\"error\":\"io.systemd.UserDatabase.NoRecordFound\",\"parameters\":{}}\0",
            "{\"parameters\":{\"record\":{\"userName\":\"root\",\"uid\":0}}}\0",
            "{\"parameters\":{\"record\":{\"userName\":\"anna\",\"uid\":1}}}",
            "nonsense\0",
        ] {
            let (dir, served) = answer(reply);
            assert_eq!(ask_userdb(&dir.path().join("s"), USERS, &serde_json::json!("anna"), USERS.name_key), None, "{reply}");
            served.join().expect("because it ended");
        }
    }
}
