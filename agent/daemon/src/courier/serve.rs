//! The courier's loop: one request, one reply, until the agent hangs up.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use gix_hash::ObjectId;
use gix_object::Kind;
use trimtab_model::status::CourierStatus;

use super::deliver::Deliverer;
use super::fetch::Fetcher;
use super::gitbundle;
use super::local::Local;
use super::meter::Meter;
use super::protocol::{COMFORTABLE_BODY, MAX_BODY, MAX_DELIVERY, MAX_IDS, Reply, Request, Traffic};
use super::reach::Duty;
use super::remote::{Held, Remote};
use super::session::Pointer;
use super::source::Location;
use super::{CourierConfig, CourierError, chain};
use crate::wire::{self, ObjectKind, WireError};

const AGENT: &str = "agent";

/// Answers requests on `stream` until its other end is closed. A source that cannot be used is told to whoever asks.
pub fn serve(stream: UnixStream, config: CourierConfig, cache: &Path) -> Result<(), CourierError> {
    serve_behind(stream, config, cache, |_, _| CourierStatus::default())
}

/// As [`serve`]; `wall` is called once, when it is known what this life is for and everything for it has been read from the disk. From then on
/// requests for anything else are refused. What it says is told with each poll.
pub(super) fn serve_behind(
    stream: UnixStream,
    config: CourierConfig,
    cache: &Path,
    wall: impl Fn(&CourierConfig, &Duty) -> CourierStatus,
) -> Result<(), CourierError> {
    let config = CourierConfig { cache: cache.to_owned(), ..config };
    let mut desk = Deliverer::new(&config, secrets(&config));
    // Who only delivers needs no source: it may be the source that is down.
    let mut courier = None;
    let mut fetcher = None;
    let mut confined: Option<Duty> = None;
    let mut walls = CourierStatus::default();
    answer(stream, &secrets(&config), |request, body| {
        let duty = Duty::of(&request);
        if let Some(only) = confined.as_ref().filter(|only| **only != duty) {
            return Err(CourierError::Taken(only.clone()).into());
        }
        let mut raise = || {
            if confined.is_none() {
                walls = wall(&config, &duty);
                confined = Some(duty.clone());
            }
        };
        match request {
            Request::Deliver { sink, pieces } => {
                if let Err(refusal) = desk.prepare(&sink) {
                    return Ok((refusal, Vec::new()));
                }
                raise();
                Ok((desk.deliver(&sink, &pieces, &body), Vec::new()))
            }
            _ if !body.is_empty() => Err(CourierError::Request("a body that nobody asked for").into()),
            Request::Fetch { url, part, from } => {
                let fetcher = fetcher.get_or_insert_with(|| Fetcher::new(&config));
                fetcher.prepare().map_err(Rc::new)?;
                raise();
                fetcher.fetch(&url, part, from).map_err(Rc::new)
            }
            request => match courier.get_or_insert_with(|| Courier::open(&config).map_err(Rc::new)) {
                Ok(courier) => {
                    raise();
                    let (mut head, body) = courier.reply(request).map_err(Rc::new)?;
                    if let Reply::Polled { courier, .. } = &mut head {
                        *courier = Some(Box::new(walls.clone()));
                    }
                    Ok((head, body))
                }
                Err(error) => Err(error.clone()),
            },
        }
    })?;
    match courier {
        Some(Ok(Courier { place: Place::Remote(mut remote), .. })) => remote.tidy(),
        _ => Ok(()),
    }
}

impl Duty {
    fn of(request: &Request) -> Self {
        match request {
            Request::Deliver { sink, .. } => Self::Sink(sink.clone()),
            Request::Fetch { .. } => Self::Artifacts,
            Request::Poll { .. } | Request::Advance { .. } | Request::Objects { .. } => Self::Source,
        }
    }
}

/// Answers every request with why nothing can be done: the agent's log is where somebody will look.
pub(super) fn refuse(stream: UnixStream, error: CourierError) -> Result<(), CourierError> {
    let error = Rc::new(error);
    answer(stream, &[], |_, _| Err(error.clone()))
}

type Answer = Result<(Reply, Vec<u8>), Rc<CourierError>>;

fn answer(
    mut stream: UnixStream,
    secrets: &[String],
    mut reply: impl FnMut(Request, Vec<u8>) -> Answer,
) -> Result<(), CourierError> {
    loop {
        let (request, body) = match wire::receive::<Request>(&mut stream, AGENT, MAX_DELIVERY) {
            Ok(received) => received,
            Err(WireError::Broken { source, .. }) if source.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let (head, body) = reply(request, body).unwrap_or_else(|error| (failed(&error, secrets), Vec::new()));
        wire::send(&mut stream, AGENT, &head, &body)?;
    }
}

fn failed(error: &CourierError, secrets: &[String]) -> Reply {
    Reply::Failed { class: error.class(), message: without(&chain(error), secrets) }
}

/// A message as it may be told.
pub(super) fn without(message: &str, secrets: &[String]) -> String {
    let message = secrets.iter().fold(message.to_owned(), |message, secret| message.replace(secret.as_str(), "***"));
    message.chars().take(2000).collect()
}

/// What must be in no message, though a server may echo it. What cannot be read cannot be told either.
fn secrets(config: &CourierConfig) -> Vec<String> {
    use base64::Engine as _;
    let source = &config.source;
    let mut found: Vec<String> =
        [&source.password_file, &source.token_file].into_iter().flatten().filter_map(|path| super::secret(path).ok()).collect();
    if let (Some(user), Some(password)) = (&source.username, found.first().filter(|_| source.password_file.is_some())) {
        found.push(base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")));
    }
    let proxy = source.proxy.as_deref().and_then(|proxy| reqwest::Url::parse(proxy).ok());
    found.extend(proxy.and_then(|proxy| proxy.password().map(str::to_owned)));
    found.retain(|secret| !secret.is_empty());
    found
}

enum Place {
    Local(Local),
    Remote(Box<Remote>),
}

struct Courier {
    place: Place,
    /// The source is a bundle, and what is known of what it was made into.
    bundle: Option<Bundle>,
    meter: Rc<Meter>,
    config: CourierConfig,
}

/// A source that is a bundle.
struct Bundle {
    path: PathBuf,
    state: Unfolded,
}

/// Whether a bundle was made into a repository.
#[derive(PartialEq, Eq)]
enum Unfolded {
    /// Not in this life.
    Not,
    /// In an earlier life: it may have been damaged since.
    Before,
    /// In this life: what is not in it now is not in the bundle.
    Now,
}

type Served = Result<(Reply, Vec<u8>), CourierError>;

impl Courier {
    fn open(config: &CourierConfig) -> Result<Self, CourierError> {
        config.source.check()?;
        let meter = Rc::new(Meter::new(config.source.idle_timeout, config.source.total_timeout));
        let place = match &config.source.url {
            Location::Local(path) => Place::Local(Local::new(path)),
            _ => Place::Remote(Box::new(Remote::open(config, meter.clone())?)),
        };
        let bundle = match &config.source.url {
            Location::Local(path) if gitbundle::is_bundle(path) => Some(Bundle { path: path.clone(), state: Unfolded::Not }),
            _ => None,
        };
        Ok(Self { place, bundle, meter, config: config.clone() })
    }

    fn reply(&mut self, request: Request) -> Served {
        self.meter.begin(self.config.source.total_timeout);
        // Only now: its pack is as much a stranger's as one from a server, and is taken apart behind the wall.
        if self.bundle.as_ref().is_some_and(|bundle| bundle.state == Unfolded::Not) {
            self.unfold(false)?;
        }
        let served = self.serve(&request);
        let lacks = matches!(served, Err(CourierError::Local { .. }) | Ok((Reply::Missing { .. }, _)));
        if lacks && self.bundle.as_ref().is_some_and(|bundle| bundle.state == Unfolded::Before) {
            self.unfold(true)?;
            return self.serve(&request);
        }
        served
    }

    /// Makes a bundle into the repository that is served from.
    fn unfold(&mut self, anew: bool) -> Result<(), CourierError> {
        let Some(bundle) = &mut self.bundle else { return Ok(()) };
        let made = gitbundle::repository(&bundle.path, &self.config.cache, self.config.source.max_bytes, anew, &self.meter)?;
        bundle.state = if made.anew { Unfolded::Now } else { Unfolded::Before };
        self.place = Place::Local(Local::new(&made.folder));
        Ok(())
    }

    fn serve(&mut self, request: &Request) -> Served {
        match request {
            Request::Poll { reference, beside } => self.poll(reference, beside.as_deref()),
            Request::Advance { tip, have } => self.advance(tip, have.as_deref()),
            Request::Objects { kind, ids, limit } => self.objects(*kind, ids, *limit),
            Request::Deliver { .. } | Request::Fetch { .. } => Err(CourierError::Request("this has nothing to do with the source")),
        }
    }

    fn traffic(&self) -> Traffic {
        self.meter.traffic()
    }

    fn poll(&mut self, reference: &str, beside: Option<&str>) -> Served {
        let fits = |name: &str| name == "HEAD" || name.starts_with("refs/") && name.len() <= 255;
        let legal = |name: &str| fits(name) && gix::validate::reference::name(name.into()).is_ok();
        if !legal(reference) || beside.is_some_and(|beside| !legal(beside) || !beside.starts_with(reference)) {
            return Err(CourierError::Request(
                "a reference is HEAD or a full name such as refs/heads/main, and one beside it begins with it",
            ));
        }
        let (found, beside) = match &mut self.place {
            Place::Local(local) => {
                let beside = beside.map(|beside| local.poll(beside)).transpose()?.flatten();
                (local.poll(reference)?, beside)
            }
            Place::Remote(remote) => remote.poll(reference, beside)?,
        };
        let hex = |id: ObjectId| id.to_hex().to_string();
        let id = found.map(|Pointer { id, .. }| hex(id));
        let peeled = found.and_then(|pointer| pointer.peeled).map(hex);
        let beside = beside.map(|pointer| hex(pointer.id));
        Ok((Reply::Polled { id, peeled, beside, traffic: self.traffic(), courier: None }, Vec::new()))
    }

    fn advance(&mut self, tip: &str, have: Option<&str>) -> Served {
        let (tip, have) = (parse(tip)?, have.map(parse).transpose()?);
        match &mut self.place {
            Place::Remote(remote) => match remote.advance(tip, have) {
                Err(CourierError::Missing(id)) => return Ok((Reply::Missing { id: id.to_hex().to_string() }, Vec::new())),
                other => other?,
            },
            // Everything is here already; whether the tip is shows when it is asked for.
            Place::Local(_) => {}
        }
        Ok((Reply::Advanced { traffic: self.traffic() }, Vec::new()))
    }

    fn objects(&mut self, kind: ObjectKind, ids: &[String], limit: u64) -> Served {
        if ids.is_empty() || ids.len() > MAX_IDS || limit > MAX_BODY {
            return Err(CourierError::Request("too few or too many ids, or too high a limit"));
        }
        let kind = match kind {
            ObjectKind::Commit => Kind::Commit,
            ObjectKind::Tree => Kind::Tree,
            ObjectKind::Blob => Kind::Blob,
            ObjectKind::Tag => Kind::Tag,
        };
        let ids = ids.iter().map(|id| parse(id)).collect::<Result<Vec<_>, _>>()?;
        let held = match &mut self.place {
            Place::Local(local) => local.held(kind, &ids, limit, COMFORTABLE_BODY)?,
            Place::Remote(remote) => match remote.bring(kind, &ids, limit) {
                Ok(Ok(())) => from_cache(remote, kind, &ids, limit)?,
                Ok(Err(id)) => return Ok((Reply::TooLarge { id: id.to_hex().to_string() }, Vec::new())),
                Err(CourierError::Missing(id)) => return Ok((Reply::Missing { id: id.to_hex().to_string() }, Vec::new())),
                Err(error) => return Err(error),
            },
        };
        let (mut sizes, mut body) = (Vec::new(), Vec::new());
        for (held, id) in held.into_iter().zip(&ids) {
            match held {
                Held::Here(content) if body.len() as u64 + content.len() as u64 <= MAX_BODY => {
                    sizes.push(content.len() as u64);
                    body.extend_from_slice(&content);
                }
                Held::Here(_) => break,
                Held::Missing => return Ok((Reply::Missing { id: id.to_hex().to_string() }, Vec::new())),
                Held::TooLarge => return Ok((Reply::TooLarge { id: id.to_hex().to_string() }, Vec::new())),
            }
        }
        Ok((Reply::Objects { sizes }, body))
    }
}

/// From the front, until it is comfortably much. A file that turned out damaged is fetched once more.
fn from_cache(remote: &mut Remote, kind: Kind, ids: &[ObjectId], limit: u64) -> Result<Vec<Held>, CourierError> {
    let (mut held, mut size) = (Vec::new(), 0);
    for id in ids {
        let mut next = remote.held(kind, id, limit)?;
        if matches!(next, Held::Missing) && remote.bring(kind, std::slice::from_ref(id), limit)?.is_ok() {
            next = remote.held(kind, id, limit)?;
        }
        size += if let Held::Here(content) = &next { content.len() as u64 } else { 0 };
        held.push(next);
        if size >= COMFORTABLE_BODY {
            break;
        }
    }
    Ok(held)
}

fn parse(hex: &str) -> Result<ObjectId, CourierError> {
    ObjectId::from_hex(hex.as_bytes()).map_err(|_| CourierError::Request("an id is 40 or 64 hexadecimal digits"))
}
