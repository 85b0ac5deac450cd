//! Git's protocol over whichever transport: list one reference, fetch one pack.
//!
//! Over HTTP the first attempt assumes what the server can do ([`ASSUMED`], or what it said last time) and so saves the
//! handshake: one request per poll. A server that does not play along is asked properly and remembered for a day.
//! Over ssh the connection is kept for as long as this process lives, and made anew once if it broke meanwhile.

use std::cell::RefCell;
use std::fs;
use std::io::{self, BufRead};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use gix::bstr::{BString, ByteSlice};
use gix::progress::Discard;
use gix_hash::ObjectId;
use gix_protocol::fetch::{Arguments, Response};
use gix_protocol::handshake::Ref;
use gix_protocol::ls_refs::RefPrefixes;
use gix_protocol::{Command, Handshake, LsRefsCommand};
use gix_transport::client::blocking_io::{ExtendedBufRead, Transport, TransportV2Ext, http};
use gix_transport::{Protocol, Service};

use super::http::Web;
use super::meter::{LinkError, Meter};
use super::source::SourceConfig;
use super::ssh::Ssh;
use super::{CourierError, chain};

/// What every Git server since 2.26 can do. No `object-format`: servers before 2.28 would not know the word.
const ASSUMED: &str = "version 2\nls-refs\nfetch=shallow filter\n";
/// The most bytes of the answer to a poll.
const MAX_POLL: u64 = 64 << 10;
/// The most bytes of a proper handshake: with old protocols it lists every reference.
const MAX_HANDSHAKE: u64 = 4 << 20;
/// How long a server's own words are believed instead of [`ASSUMED`].
const REMEMBER: Duration = Duration::from_secs(24 * 3600);
const AGENT: &str = concat!("trimtab/", env!("CARGO_PKG_VERSION"));

/// How to get a connection.
pub(super) enum Dial {
    Web { web: Web, url: String },
    Ssh(Box<SourceConfig>),
}

/// What a fetch asks for.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) wants: Vec<ObjectId>,
    pub(super) have: Option<ObjectId>,
    /// Only the wanted commits, without their history.
    pub(super) shallow: bool,
    /// Left out towards servers that cannot filter.
    pub(super) filter: Option<&'static str>,
    /// The most bytes of the answer.
    pub(super) limit: u64,
}

/// What the server can do, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Server {
    /// It hands out any object by its id.
    pub(super) by_id: bool,
    /// It can leave out trees and blobs.
    pub(super) filters: bool,
}

/// Where a reference points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pointer {
    pub(super) id: ObjectId,
    pub(super) peeled: Option<ObjectId>,
}

pub(super) struct Session {
    dial: Dial,
    host: String,
    meter: Rc<Meter>,
    scratch: PathBuf,
    /// Where the server's own words are kept.
    memory: PathBuf,
    link: Option<Link>,
}

/// A connection, or over HTTP what stands for one.
struct Link {
    transport: Box<dyn Transport>,
    handshake: Handshake,
    ssh: Option<Ssh>,
    assumed: bool,
    used: bool,
}

impl Link {
    fn is_v2(&self) -> bool {
        self.handshake.server_protocol_version == Protocol::V2
    }

    fn server(&self) -> Server {
        let capabilities = &self.handshake.capabilities;
        // What was filtered out could not be asked for later with the old protocol, so there it is no use.
        let filters = self.is_v2() && capabilities.capability("fetch").and_then(|fetch| fetch.supports("filter")) == Some(true);
        Server { by_id: self.is_v2(), filters }
    }
}

impl Session {
    pub(super) fn new(dial: Dial, host: String, meter: Rc<Meter>, scratch: PathBuf, memory: PathBuf) -> Self {
        Self { dial, host, meter, scratch, memory, link: None }
    }

    /// Where the reference points, if it exists, and likewise one whose name begins with it: the server answers by prefix.
    pub(super) fn poll(
        &mut self,
        reference: &str,
        beside: Option<&str>,
    ) -> Result<(Option<Pointer>, Option<Pointer>), CourierError> {
        self.with_link("ls-refs", |link, meter| {
            let refs = if let Some(refs) = link.handshake.refs.take() {
                refs
            } else {
                meter.allow(MAX_POLL);
                let mut prefixes = RefPrefixes::new();
                prefixes.extend([BString::from(reference)]);
                let command = LsRefsCommand::new(Some(prefixes), &link.handshake.capabilities, ("agent", Some(AGENT.into())));
                command.invoke_blocking(&mut link.transport, &mut Discard, false).map_err(Fault::from)?
            };
            let find = |name: &str| refs.iter().find_map(|found| pointer(found, name));
            Ok((find(reference), beside.and_then(find)))
        })
    }

    /// Fetches one pack and gives it to `take`. What is asked for may depend on what the server can do.
    pub(super) fn fetch(
        &mut self,
        plan: impl Fn(Server) -> Result<Ask, CourierError>,
        mut take: impl FnMut(&mut dyn BufRead, Server) -> Result<(), CourierError>,
    ) -> Result<(), CourierError> {
        self.with_link("fetch", |link, meter| {
            let server = link.server();
            let ask = plan(server).map_err(Fault::Ours)?;
            meter.allow(ask.limit);
            let said = Rc::new(RefCell::new(String::new()));
            let result = pack_of(link, &ask, &said, &mut |reader| take(reader, server));
            match result {
                Err(Fault::Theirs(source)) if !said.borrow().is_empty() => {
                    Err(Fault::Theirs(format!("the server says: {} ({})", said.borrow().trim(), chain(&*source)).into()))
                }
                other => other,
            }
        })
    }

    fn with_link<T>(
        &mut self,
        command: &'static str,
        mut work: impl FnMut(&mut Link, &Meter) -> Result<T, Fault>,
    ) -> Result<T, CourierError> {
        let mut properly = false;
        loop {
            let mut link = match self.link.take() {
                Some(link) => link,
                None => self.connect(properly)?,
            };
            let fault = match work(&mut link, &self.meter) {
                Ok(value) => {
                    link.used = true;
                    // Before protocol 2 a connection is good for one command only.
                    self.link = link.is_v2().then_some(link);
                    return Ok(value);
                }
                Err(fault) => fault,
            };
            let error = self.reason(fault, command, link.ssh.as_mut());
            let refused = link.assumed && is_refusal(&error);
            // A connection that lay idle may have gone; what was too slow or too much would only be so again.
            let gone = matches!(error, CourierError::Link(LinkError::Broken { .. } | LinkError::Ssh { .. }));
            let stale = link.used && (gone || matches!(error, CourierError::Refused { .. }));
            if properly || !(refused || stale) {
                return Err(error);
            }
            properly = true;
        }
    }

    /// The typed reason, where there is one, before what gix made of it.
    fn reason(&self, fault: Fault, command: &'static str, ssh: Option<&mut Ssh>) -> CourierError {
        if let Some(reason) = self.meter.failure() {
            return reason.into();
        }
        match fault {
            Fault::Ours(error @ (CourierError::Bound(_) | CourierError::Costly(_) | CourierError::Cache { .. })) => error,
            Fault::Ours(error) => ssh.and_then(Ssh::verdict).map_or(error, CourierError::Link),
            Fault::Theirs(source) => {
                if let Some(missing) = not_our_ref(&chain(&*source)) {
                    return CourierError::Missing(missing);
                }
                let verdict = ssh.and_then(Ssh::verdict).map(CourierError::Link);
                verdict.unwrap_or_else(|| CourierError::Refused { host: self.host.clone(), command, source })
            }
        }
    }

    fn connect(&mut self, properly: bool) -> Result<Link, CourierError> {
        self.meter.allow(MAX_HANDSHAKE);
        let mut ssh = None;
        let remembered = if properly { None } else { Some(self.remembered().unwrap_or_else(|| ASSUMED.to_owned())) };
        let assumed = matches!(self.dial, Dial::Web { .. }) && remembered.is_some();
        let mut transport: Box<dyn Transport> = match &self.dial {
            Dial::Web { web, url } => {
                let web = remembered.map_or_else(|| web.clone(), |lines| web.assuming(&advertisement(&lines)));
                let url = gix::url::parse(url.as_str()).map_err(|error| CourierError::Refused {
                    host: self.host.clone(),
                    command: "handshake",
                    source: error.into(),
                })?;
                Box::new(http::Transport::new_http(web, url, Protocol::V2, false))
            }
            Dial::Ssh(config) => {
                let (program, connection) = Ssh::start(config, Service::UploadPack, &self.scratch, &self.meter)?;
                self.meter.sent(1, 0);
                ssh = Some(program);
                Box::new(connection)
            }
        };
        // Never ask anybody for a password: nobody is there.
        let nobody = |_| Ok(None);
        let handshake = gix_protocol::handshake(&mut transport, Service::UploadPack, nobody, Vec::new(), &mut Discard);
        match handshake {
            Ok(handshake) => {
                if properly && handshake.server_protocol_version == Protocol::V2 {
                    self.remember(&handshake);
                }
                Ok(Link { transport, handshake, ssh, assumed, used: false })
            }
            Err(error) => Err(self.reason(Fault::from(error), "handshake", ssh.as_mut())),
        }
    }

    /// What the server said of itself, if that is not too long ago.
    fn remembered(&self) -> Option<String> {
        let age = fs::metadata(&self.memory).ok()?.modified().ok()?.elapsed().ok()?;
        let text = fs::read_to_string(&self.memory).ok().filter(|_| age < REMEMBER)?;
        let (host, lines) = text.split_once('\n')?;
        (host == self.identity() && lines.starts_with("version 2\n") && lines.len() < 8192).then(|| lines.to_owned())
    }

    fn remember(&self, handshake: &Handshake) {
        let mut text = format!("{}\nversion 2\n", self.identity());
        for capability in handshake.capabilities.iter() {
            text.push_str(&capability.name().to_str_lossy());
            if let Some(value) = capability.value() {
                text.push('=');
                text.push_str(&value.to_str_lossy());
            }
            text.push('\n');
        }
        // Only a saving: without it the next poll makes two requests more.
        let _ = fs::write(&self.memory, text);
    }

    fn identity(&self) -> &str {
        match &self.dial {
            Dial::Web { url, .. } => url,
            Dial::Ssh(_) => "",
        }
    }
}

/// One fetch command and its answer.
fn pack_of(
    link: &mut Link,
    ask: &Ask,
    said: &Rc<RefCell<String>>,
    take: &mut dyn FnMut(&mut dyn BufRead) -> Result<(), CourierError>,
) -> Result<(), Fault> {
    let filter = ask.filter.filter(|_| link.server().filters);
    let version = link.handshake.server_protocol_version;
    let mut features = Command::Fetch.default_features(version, &link.handshake.capabilities);
    // Thin packs have deltas against objects that we do not hold.
    features.retain(|(name, _)| *name != "thin-pack");
    features.push(("agent", Some(AGENT.to_owned())));
    let mut reader = if link.is_v2() {
        let mut arguments = vec![BString::from("ofs-delta"), "no-progress".into()];
        arguments.extend(ask.wants.iter().map(|id| BString::from(format!("want {id}"))));
        arguments.extend(ask.have.iter().map(|id| BString::from(format!("have {id}"))));
        arguments.extend(ask.shallow.then(|| "deepen 1".into()));
        arguments.extend(filter.map(|filter| BString::from(format!("filter {filter}"))));
        arguments.push("done".into());
        let features = features.iter().filter(|(_, value)| value.is_some()).map(|(name, value)| (*name, value.as_deref()));
        link.transport.invoke("fetch", features, Some(arguments.into_iter()), false).map_err(Fault::from)?
    } else {
        let mut arguments = Arguments::new(version, features, false);
        ask.wants.iter().for_each(|id| arguments.want(id));
        ask.have.iter().for_each(|id| arguments.have(id));
        if ask.shallow && arguments.can_use_shallow() {
            arguments.deepen(1);
        }
        if let Some(filter) = filter {
            arguments.filter(filter);
        }
        arguments.send(&mut link.transport, true).map_err(Fault::from)?
    };
    let response = Response::from_line_reader(version, &mut reader, true, false).map_err(Fault::from)?;
    if !response.has_pack() {
        return Err(Fault::Theirs("there is no pack in the answer".into()));
    }
    let said = said.clone();
    reader.set_progress_handler(Some(Box::new(move |is_error, text: &[u8]| {
        let mut said = said.borrow_mut();
        if is_error && said.len() < 300 {
            said.extend(text.to_str_lossy().chars().take(300));
        }
        ControlFlow::Continue(())
    })));
    take(&mut reader).map_err(Fault::Ours)?;
    // To the end, so that the connection can be used again; the meter bounds it.
    io::copy(&mut reader, &mut io::sink()).map_err(|error| Fault::Theirs(error.into()))?;
    Ok(())
}

fn pointer(found: &Ref, reference: &str) -> Option<Pointer> {
    let (name, id, peeled) = match found {
        Ref::Direct { full_ref_name, object } => (full_ref_name, *object, None),
        Ref::Peeled { full_ref_name, tag, object } => (full_ref_name, *tag, Some(*object)),
        Ref::Symbolic { full_ref_name, tag, object, .. } => match tag {
            Some(tag) => (full_ref_name, *tag, Some(*object)),
            None => (full_ref_name, *object, None),
        },
        Ref::Unborn { .. } => return None,
    };
    // The server answers by prefix: `refs/heads/main` finds `refs/heads/main2` too.
    (name == reference).then_some(Pointer { id, peeled })
}

/// The handshake as it would come over the wire.
fn advertisement(lines: &str) -> Vec<u8> {
    let packets = lines.lines().map(|line| format!("{:04x}{line}\n", line.len() + 5));
    packets.chain(["0000".to_owned()]).collect::<String>().into_bytes()
}

/// Whether it may help to ask the server first what it can do.
fn is_refusal(error: &CourierError) -> bool {
    match error {
        CourierError::Refused { .. } => true,
        CourierError::Link(LinkError::Status { code, .. }) => {
            (400..500).contains(code) && ![401, 403, 404, 407, 408, 429].contains(code)
        }
        _ => false,
    }
}

/// `upload-pack: not our ref <id>` is Git's way to say that it has no such object.
fn not_our_ref(text: &str) -> Option<ObjectId> {
    let rest = text.split("not our ref ").nth(1)?;
    let hex: String = rest.chars().take_while(char::is_ascii_hexdigit).collect();
    ObjectId::from_hex(hex.as_bytes()).ok()
}

/// Whose fault it was, before it is known what it was.
enum Fault {
    Theirs(Box<dyn std::error::Error + Send + Sync>),
    Ours(CourierError),
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Theirs(Box::new(error))
    }
}
