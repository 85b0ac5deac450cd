//! The agent's side: start a child, hand over, wait within bounds, believe nothing.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use trimtab_model::bundle::Bundle;
use trimtab_model::desired::{Node, Rendered};
use trimtab_model::digest::Digest;
use trimtab_model::facts::Host;
use trimtab_model::finding::Findings;
use trimtab_model::render::MAX_TOTAL;

use super::{Answer, Head, Request, WORKER};
use crate::wire::{self, WireError};

/// The largest answer: all contents and their index.
const MAX_ANSWER: u64 = MAX_TOTAL as u64 + (32 << 20);
/// How much of the end of the child's standard error is kept.
const KEPT: usize = 4096;

/// What a rendering may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of address space.
    pub memory: u64,
    /// Processor time, in whole seconds.
    pub cpu: Duration,
    /// Time on the clock.
    pub wall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: 512 << 20, cpu: Duration::from_secs(20), wall: Duration::from_secs(60) }
    }
}

/// Why there is no rendering.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The repository is wrong, as far as this host is concerned.
    #[error("the repository cannot be rendered for this host")]
    Refused {
        /// All that is wrong with it.
        #[source]
        findings: Findings,
    },
    /// The child went beyond its bounds, or ended in some other way of its own.
    #[error("the rendering {death}{at}", at = told(.at.as_deref()))]
    Died {
        /// How.
        death: Death,
        /// The template that it was at.
        at: Option<String>,
    },
    /// The child could not be started.
    #[error("cannot start {} {WORKER}", .exe.display())]
    Start {
        /// The program.
        exe: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The processes could not speak to each other.
    #[error("the rendering gave no answer")]
    Wire(#[from] WireError),
    /// What the child answered contradicts itself or the local policy.
    #[error("the rendering's answer is not to be believed: {0}")]
    Untrue(String),
}

fn told(at: Option<&str>) -> String {
    at.map(|file| format!(", while it was at {file}")).unwrap_or_default()
}

/// How a child died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Death {
    /// It asked for more memory than it may have.
    Memory {
        /// The bound in bytes.
        limit: u64,
    },
    /// It used more processor time than it may.
    Cpu {
        /// The bound.
        limit: Duration,
    },
    /// It took longer than it may.
    Wall {
        /// The bound.
        limit: Duration,
    },
    /// Something else: a signal, or an exit status.
    Other {
        /// What the system said of it.
        status: String,
        /// Its last words.
        said: String,
    },
}

impl std::fmt::Display for Death {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Death::Memory { limit } => {
                write!(f, "used more than {} MiB and was ended; look for a template that grows without end", limit >> 20)
            }
            Death::Cpu { limit } => {
                write!(f, "used more than {} s of processor time and was ended; look for a loop in a template", limit.as_secs())
            }
            Death::Wall { limit } => write!(f, "took longer than {} s and was ended", limit.as_secs_f32()),
            Death::Other { status, said } if said.is_empty() => write!(f, "ended by itself ({status})"),
            Death::Other { status, said } => write!(f, "ended by itself ({status}: {said})"),
        }
    }
}

/// Renders in a child process. Blocks for at most `limits.wall` and a little more.
pub fn render_in_child(exe: &Path, bundle: &Bundle, host: &Host, limits: Limits) -> Result<Rendered, RenderError> {
    let (head, body) = pack(bundle, host, limits)?;
    let mut child = Command::new(exe)
        .arg0(OsStr::from_bytes(wire::NAME.to_bytes()))
        .arg(WORKER)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| RenderError::Start { exe: exe.to_owned(), source })?;
    let stderr = child.stderr.take();
    let words = thread::spawn(move || stderr.map(last_words).unwrap_or_default());
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("because the kernel's process ids are i32"));
    let (done, over) = channel::<()>();
    let watchdog = thread::spawn(move || watch(pid, limits.wall, &over));

    let talked = talk(&mut child, &head, &body);
    // Whether it answered or not, it has nothing more to do. The watchdog is stopped before the child is reaped: until then the
    // process id is the child's and nobody else's.
    let finished = talked.is_ok();
    drop(done);
    let late = watchdog.join().unwrap_or(false);
    if !finished && !late {
        // It may just be dying: a broken pipe arrives before the exit status does.
        give_it_a_moment(&mut child);
    }
    let _ = child.kill();
    let status = child.wait().map_err(|source| RenderError::Wire(WireError::Broken { peer: "render worker", source }))?;
    let words = words.join().unwrap_or_default();
    match talked {
        Ok((head, body)) => unpack(&head, body, host),
        Err(_) if late => Err(RenderError::Died { death: Death::Wall { limit: limits.wall }, at: place(&words) }),
        Err(_) if !status.success() => Err(RenderError::Died { death: death(status, &words, limits), at: place(&words) }),
        Err(error) => Err(error.into()),
    }
}

fn pack(bundle: &Bundle, host: &Host, limits: Limits) -> Result<(Head, Vec<u8>), RenderError> {
    let request = Request {
        host: host.clone(),
        components: bundle.components.iter().cloned().collect(),
        files: bundle.files.iter().map(|(path, blob)| (path.clone(), blob.kind, blob.bytes.len() as u64)).collect(),
        memory: limits.memory,
        cpu_seconds: limits.cpu.as_secs().max(1),
    };
    let mut body = serde_json::to_vec(&request).map_err(|source| WireError::Malformed { peer: "render worker", source })?;
    let head = Head { index: body.len() as u64 };
    for blob in bundle.files.values() {
        body.extend_from_slice(&blob.bytes);
    }
    Ok((head, body))
}

fn talk(child: &mut Child, head: &Head, body: &[u8]) -> Result<(Head, Vec<u8>), WireError> {
    const PEER: &str = "render worker";
    let gone = || WireError::Broken { peer: PEER, source: io::ErrorKind::BrokenPipe.into() };
    let mut stdin = child.stdin.take().ok_or_else(gone)?;
    let mut stdout = child.stdout.take().ok_or_else(gone)?;
    wire::send(&mut stdin, PEER, head, body)?;
    drop(stdin);
    wire::receive(&mut stdout, PEER, MAX_ANSWER)
}

/// Ends the child at the deadline, unless told before that it is no longer needed; whether it did.
fn watch(pid: Pid, wall: Duration, over: &Receiver<()>) -> bool {
    let late = over.recv_timeout(wall) == Err(RecvTimeoutError::Timeout);
    if late {
        // The child is not reaped before this thread is joined, so the id cannot have become another's.
        let _ = kill(pid, Signal::SIGKILL);
    }
    late
}

fn give_it_a_moment(child: &mut Child) {
    for _ in 0..100 {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Reads to the end, and keeps the end.
fn last_words(mut from: impl Read) -> String {
    let (mut kept, mut buffer) = (Vec::new(), [0; KEPT]);
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..read]);
        kept.drain(..kept.len().saturating_sub(KEPT));
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// The template that the child was at.
fn place(words: &str) -> Option<String> {
    words.lines().rev().find_map(|line| line.strip_prefix("at ")).map(str::to_owned)
}

fn death(status: ExitStatus, words: &str, limits: Limits) -> Death {
    if words.contains("memory allocation of ") {
        return Death::Memory { limit: limits.memory };
    }
    if status.signal() == Some(Signal::SIGXCPU as i32) {
        return Death::Cpu { limit: limits.cpu };
    }
    let said = words.lines().rev().find(|line| !line.trim().is_empty() && !line.starts_with("at ")).unwrap_or_default();
    Death::Other { status: status.to_string(), said: said.chars().filter(|c| !c.is_control()).take(300).collect() }
}

fn unpack(head: &Head, body: Vec<u8>, host: &Host) -> Result<Rendered, RenderError> {
    let untrue = |what: &str| RenderError::Untrue(what.to_owned());
    let index = usize::try_from(head.index).ok().filter(|n| *n <= body.len()).ok_or_else(|| untrue("its index is too long"))?;
    let answer: Answer =
        serde_json::from_slice(&body[..index]).map_err(|source| WireError::Malformed { peer: "render worker", source })?;
    let (desired, list) = match answer {
        Answer::Refused(findings) => return Err(RenderError::Refused { findings }),
        Answer::Rendered { desired, contents } => (*desired, contents),
    };
    let mut rendered = Rendered { desired, ..Rendered::default() };
    let mut rest = &body[index..];
    for (digest, size) in list {
        let size = usize::try_from(size).map_err(|_| untrue("a content is too long"))?;
        let (bytes, after) = rest.split_at_checked(size).ok_or_else(|| untrue("a content is cut short"))?;
        if Digest::of(bytes) != digest {
            return Err(untrue("a content is not what its digest says"));
        }
        rendered.contents.insert(digest, bytes.to_vec());
        rest = after;
    }
    for (path, entry) in &rendered.desired.entries {
        host.policy.judge(path).map_err(|why| RenderError::Untrue(format!("{path} may not be managed: {why}")))?;
        if let Some(why) = entry.artifact.as_ref().and_then(|artifact| artifact.check().err()) {
            return Err(RenderError::Untrue(format!("{path} cannot be fetched: {why}")));
        }
        if let Node::File { digest, size } = &entry.state.node
            && entry.artifact.is_none()
            && rendered.contents.get(digest).map(Vec::len) != usize::try_from(*size).ok()
        {
            return Err(RenderError::Untrue(format!("{path} has no content")));
        }
    }
    for unit in rendered.desired.units.keys() {
        host.policy.judge_unit(unit).map_err(|why| RenderError::Untrue(format!("{unit} may not be managed: {why}")))?;
    }
    Ok(rendered)
}
