//! The one file that is read, and whether what it says is still so.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use trimtab_model::digest::Digest;
use trimtab_model::public::for_everybody;
use trimtab_model::status::Status;

/// Longest document that is read; the agent's own bounds keep it far below that.
const MAX_BYTES: u64 = 16 << 20;

/// A document as everybody may see it.
#[derive(Debug)]
pub(super) struct Document {
    /// The document.
    pub(super) status: Status,
    /// The same as JSON.
    pub(super) json: String,
    /// Names this text and no other: the entity tag, in quotes.
    pub(super) tag: String,
}

/// What stands in the place of the document at one moment.
#[derive(Debug, Clone)]
pub(super) enum Seen {
    /// A document, and why it must not be believed any more (nothing: it may be).
    Told(Rc<Document>, Option<String>),
    /// None, and why.
    Nothing(String),
}

/// Which state of which file: the agent replaces it as a whole.
type Stamp = (u64, i64, i64, u64);

/// The file, read again only when it was replaced.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    last: Option<(Stamp, Rc<Document>)>,
}

impl Document {
    /// As it is to be shown.
    pub(super) fn new(status: Status) -> Self {
        let status = for_everybody(status);
        let json = serde_json::to_string_pretty(&status).expect("because plain data with string keys always serialises") + "\n";
        let tag = format!("\"{}\"", Digest::of(json.as_bytes()).short());
        Self { status, json, tag }
    }
}

impl Reader {
    /// Nothing is read yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, last: None }
    }

    /// The document as it is now.
    pub(super) fn look(&mut self) -> Seen {
        match self.read() {
            Ok(document) => {
                let doubt = doubt(&document.status, now_ms(), is_running);
                Seen::Told(document, doubt)
            }
            Err(why) => {
                self.last = None;
                Seen::Nothing(why)
            }
        }
    }

    fn read(&mut self) -> Result<Rc<Document>, String> {
        let wrong = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => "no pass has ended since this machine started".to_owned(),
            _ => format!("the status document cannot be read: {error}"),
        };
        let meta = std::fs::metadata(&self.path).map_err(wrong)?;
        let stamp = (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len());
        if let Some((last, document)) = &self.last
            && *last == stamp
        {
            return Ok(Rc::clone(document));
        }
        let status = parse(&self.path).map_err(wrong)?;
        let document = Rc::new(Document::new(status));
        self.last = Some((stamp, Rc::clone(&document)));
        Ok(document)
    }
}

fn parse(path: &Path) -> std::io::Result<Status> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Why a document must not be believed any more.
fn doubt(status: &Status, now_ms: u64, is_running: impl Fn(u32) -> bool) -> Option<String> {
    if status.agent_pid == 0 {
        return Some("no agent runs; the last pass was made by hand".to_owned());
    }
    if !is_running(status.agent_pid) {
        return Some("the agent does not run, so nothing holds this host".to_owned());
    }
    if status.next_ms > 0 && now_ms > status.next_ms {
        return Some("the agent has not said anything for longer than it may take".to_owned());
    }
    None
}

/// Whether a process of this number lives. This one may not see others in /proc, nor signal them: that it may not is the answer.
fn is_running(pid: u32) -> bool {
    let Ok(pid) = i32::try_from(pid) else { return false };
    !matches!(nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None), Err(nix::errno::Errno::ESRCH))
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_believed_while_its_agent_lives_and_keeps_its_time() {
        let status = Status { agent_pid: 7, next_ms: 1000, ..Status::default() };
        assert_eq!(doubt(&status, 1000, |_| true), None);
        assert!(doubt(&status, 1001, |_| true).unwrap().contains("longer than it may take"));
        assert!(doubt(&status, 0, |_| false).unwrap().contains("does not run"));
        assert!(doubt(&Status { agent_pid: 0, ..status }, 0, |_| true).unwrap().contains("by hand"));
        assert!(is_running(std::process::id()) && is_running(1) && !is_running(u32::MAX) && !is_running(i32::MAX as u32));
    }

    #[test]
    fn the_file_is_read_again_when_it_was_replaced_and_only_then() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("status.json");
        let mut reader = Reader::new(path.clone());
        assert!(matches!(reader.look(), Seen::Nothing(why) if why.contains("no pass")));
        let write = |host: &str| {
            let status = Status { host: host.to_owned(), ..Status::default() };
            crate::durable::replace(&path, &serde_json::to_vec(&status).unwrap(), 0o600).unwrap();
        };
        let told = |reader: &mut Reader| match reader.look() {
            Seen::Told(document, _) => document,
            Seen::Nothing(why) => panic!("{why}"),
        };
        write("one");
        let (first, same) = (told(&mut reader), told(&mut reader));
        assert!(Rc::ptr_eq(&first, &same) && first.status.host == "one");
        write("two");
        let second = told(&mut reader);
        assert!(second.status.host == "two" && second.tag != first.tag);
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(reader.look(), Seen::Nothing(why) if why.contains("cannot be read")));
    }
}
