//! Files that are no Git objects: artifacts, from the source's own server or one that this host's settings name.
//!
//! A commit must not make a host ask whatever it likes of the network that the host stands in: a URL is asked for only if it lies beneath one of
//! [`Artifacts::allow`] or on the source's own server, and so must each redirect. Credentials go to the source's own server only.
//!
//! Guarantees: a piece has at most [`MAX_PIECE`] bytes and comes after some seconds at the latest, so that whoever waits sees life; no more is read
//! than the asker said, and more or less than that is told; nothing is kept on the disk. What comes is believed by nobody: the agent hashes it.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use reqwest::Url;
use serde::Deserialize;

use super::http::{Download, Opened, Web};
use super::meter::{LinkError, Meter};
use super::protocol::{MAX_PIECE, Part, Reply};
use super::source::{Location, SourceConfig};
use super::{CourierConfig, CourierError};

/// A piece is handed over after this long, however little it is.
const LIFE: Duration = Duration::from_secs(2);
/// Redirects for one file, at most.
const HOPS: usize = 5;
/// Room for the heads of answers.
const HEADS: u64 = 64 << 10;

/// The `[artifacts]` table of agent.toml.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Artifacts {
    /// Where artifacts may be fetched from, beside the source's own server: URLs that end in `/`, each standing for all beneath it.
    pub allow: Vec<Allowed>,
    /// Trust only the certificate authorities of this PEM file for those, instead of the system's.
    pub ca_file: Option<PathBuf>,
}

/// A URL that ends in `/`: all that lies beneath it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed(Url);

impl<'de> Deserialize<'de> for Allowed {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(&text).map_err(|why| serde::de::Error::custom(format!("{text:?} cannot be allowed: {why}")))
    }
}

impl Allowed {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let url = Url::parse(text).map_err(|_| "it is no URL such as \"https://dl.example.org/\"")?;
        if !["https", "http", "file"].contains(&url.scheme()) {
            return Err("it begins with https://, http:// or file://");
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err("it has no credentials, no ? and no #");
        }
        if (url.scheme() == "file") == url.host_str().is_some_and(|host| !host.is_empty()) {
            return Err("https:// and http:// need a host, and file:// must have none");
        }
        if !text.ends_with('/') {
            return Err("it ends in / and stands for all that lies beneath it");
        }
        Ok(Self(url))
    }

    /// The origin, and the path up to a slash.
    fn covers(&self, url: &Url) -> bool {
        let same = |a: &Url, b: &Url| {
            (a.scheme(), a.host_str(), a.port_or_known_default()) == (b.scheme(), b.host_str(), b.port_or_known_default())
        };
        same(&self.0, url) && url.path().starts_with(self.0.path())
    }
}

impl std::fmt::Display for Allowed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl Artifacts {
    /// Whether it goes together with the source. To be asked once, after reading it.
    pub fn check(&self, source: &SourceConfig) -> Result<(), super::SourceError> {
        if !source.allow_http && self.allow.iter().any(|allowed| allowed.0.scheme() == "http") {
            let why = "[artifacts] allow names an http:// server, and [source] has no allow-http = true: others could withhold what it serves";
            return Err(super::SourceError::Settings(why));
        }
        Ok(())
    }
}

/// All that lies on the source's own server; beside a source that is a folder or a file of this machine, what lies beside it.
fn own(source: &SourceConfig) -> Option<Allowed> {
    match &source.url {
        Location::Http { url, .. } => {
            let mut url = Url::parse(url).ok()?;
            url.set_path("/");
            Some(Allowed(url))
        }
        Location::Ssh { host, .. } => {
            let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            Url::parse(&format!("https://{host}/")).ok().map(Allowed)
        }
        Location::Local(path) => Url::from_directory_path(path.parent()?).ok().map(Allowed),
    }
}

/// All places that artifacts may come from: servers, and folders of this machine.
pub(super) fn places(config: &CourierConfig) -> Vec<Url> {
    own(&config.source).iter().chain(&config.artifacts.allow).map(|allowed| allowed.0.clone()).collect()
}

/// Fetches for one connection of the agent.
pub(super) struct Fetcher {
    source: SourceConfig,
    artifacts: Artifacts,
    own: Option<Allowed>,
    meter: Rc<Meter>,
    /// The clients, made when they are first needed: with the source's credentials, and without.
    known: Option<Web>,
    strange: Option<Web>,
    running: Option<Running>,
}

/// A file that is being read.
struct Running {
    url: String,
    at: u64,
    body: Body,
    /// Came and was not handed over yet.
    left: Vec<u8>,
}

enum Body {
    Web(Box<Download>),
    File(File),
}

impl Fetcher {
    pub(super) fn new(config: &CourierConfig) -> Self {
        let meter = Rc::new(Meter::new(config.source.idle_timeout, config.source.total_timeout));
        let (source, artifacts) = (config.source.clone(), config.artifacts.clone());
        Self { own: own(&source), source, artifacts, meter, known: None, strange: None, running: None }
    }

    /// Reads all that a fetch takes from the disk beside the files themselves; nothing goes over the network yet.
    pub(super) fn prepare(&mut self) -> Result<(), CourierError> {
        let is_web = |allowed: &Allowed| allowed.0.scheme() != "file";
        let wanted = [(true, self.own.iter().any(is_web)), (false, self.artifacts.allow.iter().any(is_web))];
        wanted.into_iter().filter(|(_, wanted)| *wanted).try_for_each(|(is_own, _)| self.web(is_own).map(drop))
    }

    /// The next bytes of a file from `from` on. Asked again for where the last piece ended, it goes on with the same answer of the server.
    pub(super) fn fetch(&mut self, url: &str, part: Part, from: u64) -> Result<(Reply, Vec<u8>), CourierError> {
        self.meter.begin(self.source.total_timeout);
        // What a server that knows no ranges sends again is read and passed over.
        self.meter.allow(part.limit().saturating_add(HEADS));
        let mut running = match self.running.take().filter(|running| running.url == url && running.at == from) {
            Some(running) => running,
            None => self.open(url, part, from)?,
        };
        let (bytes, end) = running.piece(part)?;
        if !end {
            self.running = Some(running);
        }
        Ok((Reply::Fetched { end }, bytes))
    }

    fn open(&mut self, url: &str, part: Part, from: u64) -> Result<Running, CourierError> {
        self.source.check()?;
        self.artifacts.check(&self.source)?;
        let mut at = Url::parse(url).map_err(|_| CourierError::Request("an artifact's URL is no URL"))?;
        for _ in 0..HOPS {
            let is_own = self.own.as_ref().is_some_and(|own| own.covers(&at));
            if !is_own && !self.artifacts.allow.iter().any(|allowed| allowed.covers(&at)) {
                return Err(self.forbidden(&at));
            }
            if at.scheme() == "file" {
                let body = Body::File(self.open_file(&at, part, from)?);
                return Ok(Running { url: url.to_owned(), at: from, body, left: Vec::new() });
            }
            match self.web(is_own)?.download(at.as_str(), from)? {
                Opened::Here(download) => {
                    part.judge(download.total).map_err(CourierError::Bound)?;
                    return Ok(Running { url: url.to_owned(), at: from, body: Body::Web(Box::new(download)), left: Vec::new() });
                }
                Opened::Beyond => return Err(CourierError::Bound(part.shorter(from))),
                Opened::Elsewhere(location) => {
                    at = at.join(&location).map_err(|_| CourierError::Bound(format!("{} redirects to no URL", host(&at))))?;
                }
            }
        }
        Err(CourierError::Bound(format!("{} redirects more than {HOPS} times", host(&at))))
    }

    fn forbidden(&self, url: &Url) -> CourierError {
        let mut shown = url.clone();
        shown.set_query(None);
        let (_, _) = (shown.set_username(""), shown.set_password(None));
        let allowed: Vec<String> = self.own.iter().chain(&self.artifacts.allow).map(ToString::to_string).collect();
        CourierError::Forbidden { url: shown.to_string(), allowed: allowed.join(", ") }
    }

    fn web(&mut self, is_own: bool) -> Result<Web, CourierError> {
        let slot = if is_own { &mut self.known } else { &mut self.strange };
        if slot.is_none() {
            let mut config = self.source.clone();
            if !is_own {
                // Neither credentials nor this host's certificate, and other authorities.
                config.ca_file.clone_from(&self.artifacts.ca_file);
                (config.username, config.password_file, config.token_file) = (None, None, None);
                (config.client_cert, config.client_key) = (None, None);
            }
            *slot = Some(Web::new(&config, "", true, self.meter.clone())?);
        }
        slot.clone().ok_or(CourierError::Request("there is no client"))
    }

    /// A file of this machine, if it is one and lies where it claims to.
    fn open_file(&self, url: &Url, part: Part, from: u64) -> Result<File, CourierError> {
        let path = url.to_file_path().map_err(|()| CourierError::Request("a file:// URL is no path"))?;
        let failed = |source| CourierError::File { path: path.clone(), source };
        let real = path.canonicalize().map_err(failed)?;
        let is_beneath = |allowed: &Allowed| {
            let folder = (allowed.0.scheme() == "file").then(|| allowed.0.to_file_path().ok()).flatten();
            folder.and_then(|folder| folder.canonicalize().ok()).is_some_and(|folder| real.starts_with(folder))
        };
        if !self.own.iter().chain(&self.artifacts.allow).any(is_beneath) {
            return Err(self.forbidden(&Url::from_file_path(&real).unwrap_or_else(|()| url.clone())));
        }
        let mut file = open_regular(&real).map_err(failed)?;
        part.judge(Some(file.metadata().map_err(failed)?.len())).map_err(CourierError::Bound)?;
        file.seek(SeekFrom::Start(from)).map_err(failed)?;
        Ok(file)
    }
}

fn open_regular(path: &Path) -> std::io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::Error::other("it is no regular file")) }
}

fn host(url: &Url) -> String {
    url.host_str().unwrap_or("this machine").to_owned()
}

impl Running {
    /// As much as comes in a while; and whether that was the end.
    fn piece(&mut self, part: Part) -> Result<(Vec<u8>, bool), CourierError> {
        let begun = Instant::now();
        let mut bytes = std::mem::take(&mut self.left);
        let mut end = false;
        while !end && bytes.len() < MAX_PIECE && (bytes.is_empty() || begun.elapsed() < LIFE) {
            match self.next() {
                Ok(Some(more)) => bytes.extend_from_slice(&more),
                Ok(None) => end = true,
                // What came is handed over; the rest is asked for anew, and then this is told if it lasts.
                Err(LinkError::TooMuch(_)) => return Err(CourierError::Bound(part.longer())),
                Err(error) if bytes.is_empty() => return Err(error.into()),
                Err(_) => {
                    self.url.clear();
                    break;
                }
            }
            if self.at + bytes.len() as u64 > part.limit() {
                return Err(CourierError::Bound(part.longer()));
            }
        }
        if bytes.len() > MAX_PIECE {
            self.left = bytes.split_off(MAX_PIECE);
            end = false;
        }
        self.at += bytes.len() as u64;
        if end && self.at < part.least() {
            return Err(CourierError::Bound(part.shorter(self.at)));
        }
        Ok((bytes, end))
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, LinkError> {
        match &mut self.body {
            Body::Web(download) => download.chunk(),
            Body::File(file) => {
                let mut buffer = vec![0; 256 << 10];
                let broken = |source: std::io::Error| LinkError::Broken {
                    host: "the file".to_owned(),
                    certificate: false,
                    source: source.into(),
                };
                let got = file.read(&mut buffer).map_err(broken)?;
                buffer.truncate(got);
                Ok((got > 0).then_some(buffer))
            }
        }
    }
}
