//! The agent's end of the courier's socket.
//!
//! Guarantees: every call ends within its patience, whatever the courier does; no reply is taken that is larger than what
//! was asked for, and nothing is repeated to a person that is more than one short line; after a failure the connection is thrown
//! away (its next bytes could belong to an earlier question) and the next call makes a new one. Dropping the client ends and
//! reaps a courier that it started.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gix_hash::ObjectId;

use trimtab_model::outbound::Signed;
use trimtab_model::status::CourierStatus;

use super::protocol::{COMFORTABLE_BODY, Class, MAX_BODY, MAX_IDS, MAX_PIECE, Part, Piece, Reply, Request, Traffic};
use crate::wire::{self, ObjectError, ObjectKind, ObjectSource, WireError};

const COURIER: &str = "courier";
/// So many characters of what it says of itself are listened to.
const DETAIL: usize = 300;
/// The most characters of what it says to people that are repeated to them.
const MAX_MESSAGE: usize = 2000;

/// Why the courier brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It could not be started.
    #[error("cannot start the courier {}", program.display())]
    Spawn {
        /// The binary.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its socket could not be reached.
    #[error("cannot reach the courier at {}; is trimtab-courier.socket active?", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The conversation broke, took too long or made no sense.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It answered another question.
    #[error("the courier answered something that was not asked")]
    Unexpected,
    /// The source says that it has no such object.
    #[error("the source has no object {0}")]
    Missing(ObjectId),
    /// It tried, and says why it failed.
    #[error("{message}")]
    Failed {
        /// What to do about it.
        class: Class,
        /// The whole chain of causes.
        message: String,
    },
}

impl ClientError {
    /// What to do about it.
    pub fn class(&self) -> Class {
        match self {
            Self::Failed { class, .. } => *class,
            Self::Spawn { .. } => Class::Configuration,
            Self::Missing(_) => Class::Hold,
            Self::Connect { .. } | Self::Wire(_) | Self::Unexpected => Class::Retry,
        }
    }
}

/// Where a reference points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Polled {
    /// The object that it names; `None` if there is no such reference.
    pub id: Option<ObjectId>,
    /// The commit behind it, if it names an annotated tag.
    pub peeled: Option<ObjectId>,
    /// The object that the other reference names, if one was asked for and is there.
    pub beside: Option<ObjectId>,
    /// What it took.
    pub traffic: Traffic,
    /// How the courier is, as it says of itself.
    pub courier: CourierStatus,
}

/// What a sink made of what was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// It took all of it.
    Taken {
        /// What it took.
        traffic: Traffic,
    },
    /// It took nothing.
    Refused {
        /// It will say the same again until somebody changes something.
        lasting: bool,
        /// What was sent is what it will not have: it is too much at once, or something in it is wrong.
        unfit: bool,
        /// For so long it wants to be left alone.
        retry_after: Option<Duration>,
        /// Why, in one line.
        message: String,
    },
}

enum How {
    Child { program: PathBuf, config: PathBuf, cache: PathBuf, user: Option<(u32, u32)> },
    Socket(PathBuf),
}

/// A courier, asked by the agent.
pub struct Client {
    how: How,
    patience: Duration,
    link: Option<Link>,
}

struct Link {
    stream: UnixStream,
    child: Option<Child>,
}

impl Client {
    /// Starts `program courier --config CONFIG --cache CACHE` as a plain child, for where there is no systemd.
    /// No call takes longer than `patience`, see [`SourceConfig::patience`](super::SourceConfig::patience).
    pub fn spawn(program: &Path, config: &Path, cache: &Path, patience: Duration) -> Result<Self, ClientError> {
        Self::spawn_as(None, program, config, cache, patience)
    }

    /// As [`Client::spawn`], as another user and group; only root can.
    pub fn spawn_as(
        user: Option<(u32, u32)>,
        program: &Path,
        config: &Path,
        cache: &Path,
        patience: Duration,
    ) -> Result<Self, ClientError> {
        let how = How::Child { program: program.into(), config: config.into(), cache: cache.into(), user };
        let mut client = Self { how, patience, link: None };
        client.link = Some(client.open()?);
        Ok(client)
    }

    /// Speaks to the courier that systemd starts for each connection to `socket`.
    pub fn connect(socket: &Path, patience: Duration) -> Result<Self, ClientError> {
        let mut client = Self { how: How::Socket(socket.into()), patience, link: None };
        client.link = Some(client.open()?);
        Ok(client)
    }

    /// Lets the courier go, so that its memory is given back; the next call starts another.
    pub fn hang_up(&mut self) {
        self.link = None;
    }

    /// The process id of a courier that was started as a child.
    pub fn child_id(&self) -> Option<u32> {
        self.link.as_ref()?.child.as_ref().map(Child::id)
    }

    /// Where does this reference (a full name) point?
    pub fn poll(&mut self, reference: &str) -> Result<Polled, ClientError> {
        self.poll_beside(reference, None)
    }

    /// As [`Client::poll`], and where another one points whose name begins with the first: one question brings both.
    pub fn poll_beside(&mut self, reference: &str, beside: Option<&str>) -> Result<Polled, ClientError> {
        let request = Request::Poll { reference: reference.to_owned(), beside: beside.map(str::to_owned) };
        match self.ask(&request, 0)? {
            (Reply::Polled { id, peeled, beside, traffic, courier }, _) => {
                let mut courier = courier.map_or_else(CourierStatus::default, |courier| *courier);
                courier.detail = courier.detail.chars().filter(|c| !c.is_control()).take(DETAIL).collect();
                let parse = |hex: Option<String>| hex.map(|hex| Self::id(&hex)).transpose();
                let (id, peeled, beside) = (parse(id), parse(peeled), parse(beside));
                match (id, peeled, beside) {
                    (Ok(id), Ok(peeled), Ok(beside)) => Ok(Polled { id, peeled, beside, traffic, courier }),
                    _ => Err(self.unexpected()),
                }
            }
            (other, _) => Err(self.not_that(other)),
        }
    }

    /// Makes the courier hold the commits from `have` to `tip`, so that asking for them is cheap.
    pub fn advance(&mut self, tip: &ObjectId, have: Option<&ObjectId>) -> Result<Traffic, ClientError> {
        let hex = |id: &ObjectId| id.to_hex().to_string();
        match self.ask(&Request::Advance { tip: hex(tip), have: have.map(hex) }, 0)? {
            (Reply::Advanced { traffic }, _) => Ok(traffic),
            (other, _) => Err(self.not_that(other)),
        }
    }

    /// The next bytes of an artifact from a byte on, and whether they are the last.
    pub fn fetch(&mut self, url: &str, part: Part, from: u64) -> Result<(Vec<u8>, bool), ClientError> {
        match self.ask(&Request::Fetch { url: url.to_owned(), part, from }, MAX_PIECE as u64)? {
            (Reply::Fetched { end }, bytes) => Ok((bytes, end)),
            (other, _) => Err(self.not_that(other)),
        }
    }

    /// Sends reports, oldest first, to a sink of agent.toml: all are taken, or none.
    pub fn deliver(&mut self, sink: &str, reports: &[Signed]) -> Result<Delivery, ClientError> {
        let size = |bytes: &[u8]| bytes.len() as u64;
        let pieces =
            reports.iter().map(|one| Piece { report: size(&one.report), signature: size(one.signature.as_bytes()) }).collect();
        let body: Vec<u8> =
            reports.iter().flat_map(|one| [one.report.as_slice(), one.signature.as_bytes()]).flatten().copied().collect();
        match self.say(&Request::Deliver { sink: sink.to_owned(), pieces }, &body, 0)? {
            (Reply::Delivered { traffic }, _) => Ok(Delivery::Taken { traffic }),
            (Reply::Undelivered { lasting, unfit, retry_after, message }, _) => {
                let retry_after = retry_after.map(Duration::from_secs);
                Ok(Delivery::Refused { lasting, unfit, retry_after, message: plain(&message) })
            }
            (other, _) => Err(self.not_that(other)),
        }
    }

    fn id(hex: &str) -> Result<ObjectId, ClientError> {
        ObjectId::from_hex(hex.as_bytes()).map_err(|_| ClientError::Unexpected)
    }

    fn unexpected(&mut self) -> ClientError {
        self.abandon();
        ClientError::Unexpected
    }

    /// The error for a reply that does not answer the question.
    fn not_that(&mut self, reply: Reply) -> ClientError {
        match reply {
            Reply::Failed { class, message } => ClientError::Failed { class, message: plain(&message) },
            Reply::Missing { id } => match Self::id(&id) {
                Ok(id) => ClientError::Missing(id),
                Err(_) => self.unexpected(),
            },
            _ => self.unexpected(),
        }
    }

    fn ask(&mut self, request: &Request, limit: u64) -> Result<(Reply, Vec<u8>), ClientError> {
        self.say(request, &[], limit)
    }

    fn say(&mut self, request: &Request, body: &[u8], limit: u64) -> Result<(Reply, Vec<u8>), ClientError> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => self.open()?,
        };
        let mut timed = Timed { stream: &link.stream, deadline: Instant::now() + self.patience };
        let sent = wire::send(&mut timed, COURIER, request, body);
        match sent.and_then(|()| wire::receive(&mut timed, COURIER, limit)) {
            Ok(answer) => {
                self.link = Some(link);
                Ok(answer)
            }
            Err(error) => {
                link.kill();
                Err(error.into())
            }
        }
    }

    /// Ends the conversation at once.
    fn abandon(&mut self) {
        if let Some(mut link) = self.link.take() {
            link.kill();
        }
    }

    fn open(&self) -> Result<Link, ClientError> {
        match &self.how {
            How::Socket(socket) => {
                let stream = UnixStream::connect(socket);
                let stream = stream.map_err(|source| ClientError::Connect { socket: socket.clone(), source })?;
                Ok(Link { stream, child: None })
            }
            How::Child { program, config, cache, user } => {
                let start = || {
                    let (ours, theirs) = UnixStream::pair()?;
                    let mut command = Command::new(program);
                    command
                        .arg0(OsStr::from_bytes(wire::NAME.to_bytes()))
                        .arg("courier")
                        .arg("--config")
                        .arg(config)
                        .arg("--cache")
                        .arg(cache);
                    // What systemd told the agent is not meant for its children.
                    for variable in ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID"] {
                        command.env_remove(variable);
                    }
                    if let Some((uid, gid)) = *user {
                        make_cache(cache, uid, gid)?;
                        // This also gives up root's other groups.
                        command.uid(uid).gid(gid).current_dir("/").env("HOME", cache);
                    }
                    command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null());
                    command.spawn().map(|child| Link { stream: ours, child: Some(child) })
                };
                start().map_err(|source| ClientError::Spawn { program: program.clone(), source })
            }
        }
    }

    fn part(&mut self, kind: ObjectKind, ids: &[ObjectId], limit: u64) -> Result<Vec<Vec<u8>>, ObjectError> {
        let most = limit.saturating_mul(ids.len() as u64).min(MAX_BODY);
        let hex = ids.iter().map(|id| id.to_hex().to_string()).collect();
        let reply = self.ask(&Request::Objects { kind, ids: hex, limit }, most).map_err(unavailable)?;
        // A name that nobody asked for proves nothing.
        let asked = |hex: &str| ObjectId::from_hex(hex.as_bytes()).ok().filter(|id| ids.contains(id));
        match reply {
            (Reply::Objects { sizes }, body) => split(&sizes, body, ids.len(), limit).ok_or_else(|| {
                let error = self.unexpected();
                ObjectError::Unavailable { message: format!("{error}: sizes that do not fit") }
            }),
            (Reply::Missing { id }, _) if asked(&id).is_some() => {
                Err(ObjectError::Missing { kind, id: asked(&id).unwrap_or(ids[0]) })
            }
            (Reply::TooLarge { id }, _) if asked(&id).is_some() => {
                Err(ObjectError::TooLarge { kind, id: asked(&id).unwrap_or(ids[0]), limit })
            }
            (other, _) => Err(unavailable(self.not_that(other))),
        }
    }
}

impl ObjectSource for Client {
    fn objects(&mut self, kind: ObjectKind, ids: &[ObjectId], limit: u64) -> Result<Vec<Vec<u8>>, ObjectError> {
        let limit = limit.min(MAX_BODY);
        let mut found = Vec::with_capacity(ids.len());
        while found.len() < ids.len() {
            let rest = &ids[found.len()..];
            found.extend(self.part(kind, &rest[..rest.len().min(MAX_IDS)], limit)?);
        }
        Ok(found)
    }

    fn some(&mut self, kind: ObjectKind, ids: &[ObjectId], limit: u64) -> Result<Vec<Vec<u8>>, ObjectError> {
        self.part(kind, &ids[..ids.len().min(MAX_IDS)], limit.min(MAX_BODY))
    }
}

/// The cache's folder as systemd makes it (`CacheDirectory=`): the courier's own, in a folder that is root's. One that is there is left as it is.
fn make_cache(cache: &Path, uid: u32, gid: u32) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(cache) {
        Ok(()) => std::os::unix::fs::lchown(cache, Some(uid), Some(gid)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn unavailable(error: ClientError) -> ObjectError {
    match error {
        ClientError::Wire(error) => ObjectError::Wire(error),
        other => ObjectError::Unavailable { message: super::chain(&other) },
    }
}

/// One short line, whatever it sends: who has taken the courier over must not write into journal and status as he likes.
fn plain(message: &str) -> String {
    message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_MESSAGE).collect()
}

/// Cuts the body into objects; `None` if the sizes are a lie.
fn split(sizes: &[u64], body: Vec<u8>, asked: usize, limit: u64) -> Option<Vec<Vec<u8>>> {
    if sizes.is_empty() || sizes.len() > asked || sizes.iter().any(|size| *size > limit) {
        return None;
    }
    // An honest courier breaks off only where it has brought a good deal, or the next one may not fit: one by one, each just in time, would
    // never end.
    let little = (body.len() as u64) < COMFORTABLE_BODY && limit <= MAX_BODY - COMFORTABLE_BODY;
    if sizes.len() < asked && little {
        return None;
    }
    let total = sizes.iter().try_fold(0u64, |sum, size| sum.checked_add(*size))?;
    if total != body.len() as u64 {
        return None;
    }
    let mut rest = body.as_slice();
    let mut objects = Vec::with_capacity(sizes.len());
    for size in sizes {
        let (object, after) = rest.split_at_checked(usize::try_from(*size).ok()?)?;
        objects.push(object.to_vec());
        rest = after;
    }
    Some(objects)
}

impl Link {
    fn kill(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        // It ends by itself when the socket closes, having tidied its cache; not for ever, though.
        if let Some(child) = &mut self.child {
            let until = Instant::now() + Duration::from_secs(1);
            while Instant::now() < until {
                if !matches!(child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        self.kill();
    }
}

/// The socket under one deadline for the whole exchange: a courier that sends a byte a minute is no better than a silent one.
struct Timed<'a> {
    stream: &'a UnixStream,
    deadline: Instant,
}

impl Timed<'_> {
    fn left(&self) -> io::Result<Duration> {
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(Self::late()),
            left => Ok(left),
        }
    }

    fn late() -> io::Error {
        io::Error::new(io::ErrorKind::TimedOut, "it did not answer in time")
    }

    fn told(result: io::Result<usize>) -> io::Result<usize> {
        result.map_err(|error| if error.kind() == io::ErrorKind::WouldBlock { Self::late() } else { error })
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        Self::told((&mut &*self.stream).read(into))
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        Self::told((&mut &*self.stream).write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
