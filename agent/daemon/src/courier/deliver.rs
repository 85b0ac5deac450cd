//! Reports on their way out: takes them from the agent, shapes them for one sink, sends them, and tells what the sink said.
//!
//! Guarantees: a delivery ends within [`TOTAL`], reads at most [`ANSWERS`] bytes of answers, follows no redirect, and its message holds none of
//! the sink's secrets though the sink may echo them. All requests of a delivery were taken, or the delivery was not: sending one twice is what
//! idempotency keys are for.
//! Limits: a 2xx is believed; whoever lies about having kept a report cannot be caught from here.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use trimtab_model::outbound::Report;

use super::http::{Said, Web, printable};
use super::meter::{LinkError, Meter};
use super::protocol::{Class, MAX_REPORTS, Piece, Reply, Traffic};
use super::serve::without;
use super::source::Location;
use super::{CourierConfig, CourierError, SourceConfig, chain, push, remark};
use crate::sinks::{self, Answer, HttpRequest, Outgoing, Parcel, Secrets, SinkConfig, SinkKind};

/// How long a sink may be silent, if `[source]` has no less patience.
const IDLE: Duration = Duration::from_secs(10);
/// How long one delivery may take, likewise.
const TOTAL: Duration = Duration::from_secs(30);
/// How many bytes all answers of a delivery may have.
const ANSWERS: u64 = 256 << 10;

/// The sinks, and the connection to the last one that was spoken to.
pub(super) struct Deliverer {
    sinks: Result<Vec<SinkConfig>, Rc<CourierError>>,
    /// For who has nothing but Git: where the source is, what must not be told of it, and where to remember things.
    source: SourceConfig,
    hidden: Vec<String>,
    cache: PathBuf,
    open: Option<(String, Line)>,
    idle: Duration,
    total: Duration,
}

/// What one sink is spoken to with.
struct Line {
    web: Web,
    /// For a push: the way to the source, if that is over HTTP.
    source: Option<Web>,
    secrets: Secrets,
    meter: Rc<Meter>,
}

/// Why a sink took nothing.
enum Refusal {
    /// It could not be asked.
    Courier(CourierError),
    /// It said no.
    Said(Said),
    /// It said no, but only for now.
    Later(Said),
}

impl<E: Into<CourierError>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Courier(error.into())
    }
}

impl Deliverer {
    /// `hidden` is what must be in no message about the source.
    pub(super) fn new(config: &CourierConfig, hidden: Vec<String>) -> Self {
        let sinks = sinks::check_all(&config.sinks).map(|()| config.sinks.clone()).map_err(|flaw| Rc::new(flaw.into()));
        let (idle, total) = (config.source.idle_timeout.min(IDLE), config.source.total_timeout.min(TOTAL));
        Self { sinks, source: config.source.clone(), hidden, cache: config.cache.clone(), open: None, idle, total }
    }

    /// Sends what the agent handed over; whatever happens, the reply says it.
    pub(super) fn deliver(&mut self, name: &str, pieces: &[Piece], body: &[u8]) -> Reply {
        let sink = match self.prepare(name) {
            Ok(sink) => sink,
            Err(refusal) => return refusal,
        };
        let sent = unpack(pieces, body).map_err(Refusal::from).and_then(|parcels| self.send(&sink, &parcels));
        let user = sink.username;
        let mut secrets = self.open.as_ref().map(|(_, line)| told_by(&line.secrets, user.as_deref())).unwrap_or_default();
        secrets.extend(self.hidden.iter().cloned());
        match sent {
            Ok(traffic) => Reply::Delivered { traffic },
            Err(Refusal::Courier(error)) => undelivered(error.class() == Class::Configuration, without(&chain(&error), &secrets)),
            Err(Refusal::Later(said)) => Reply::Undelivered {
                lasting: false,
                unfit: false,
                retry_after: said.retry_after,
                message: without(&said.words(), &secrets),
            },
            Err(Refusal::Said(said)) => Reply::Undelivered {
                lasting: is_lasting(said.code),
                unfit: is_unfit(said.code),
                retry_after: said.retry_after,
                message: without(&said.words(), &secrets),
            },
        }
    }

    /// Reads all that a delivery to this sink takes from the disk; nothing goes over the network yet. An error is the reply.
    pub(super) fn prepare(&mut self, name: &str) -> Result<SinkConfig, Reply> {
        let sinks = self.sinks.as_ref().map_err(|error| undelivered(true, chain(error.as_ref())))?;
        let refuse =
            |error: CourierError| undelivered(error.class() == Class::Configuration, without(&chain(&error), &self.hidden));
        let sink = sinks.iter().find(|sink| sink.name == name).cloned();
        let sink = sink.ok_or_else(|| refuse(CourierError::NoSink(name.to_owned())))?;
        if self.open.as_ref().is_none_or(|(open, _)| open != name) {
            let line = Line::open(&sink, &self.source, self.idle, self.total).map_err(refuse)?;
            self.open = Some((name.to_owned(), line));
        }
        Ok(sink)
    }

    fn send(&mut self, sink: &SinkConfig, parcels: &[Parcel]) -> Result<Traffic, Refusal> {
        let (_, line) = self.open.as_ref().expect("because it was prepared");
        line.meter.begin(self.total);
        line.meter.allow(ANSWERS);
        for outgoing in sinks::shape(sink, parcels, &line.secrets).map_err(CourierError::from)? {
            match outgoing {
                Outgoing::Http(request) => {
                    if let Some(loss) = line.post(sink.kind, &request)? {
                        let secrets = told_by(&line.secrets, sink.username.as_deref());
                        remark(&without(&format!("sink {}: {loss}", sink.name), &secrets));
                    }
                }
                Outgoing::Push(status) => push::push(&self.source, line.source.as_ref(), &self.cache, &line.meter, &status)?,
            }
        }
        Ok(line.meter.traffic())
    }
}

impl Line {
    fn open(sink: &SinkConfig, source: &SourceConfig, idle: Duration, total: Duration) -> Result<Self, CourierError> {
        let read = |path: &Option<PathBuf>| path.as_deref().map(super::secret).transpose();
        let secrets = Secrets {
            token: read(&sink.token_file)?,
            password: read(&sink.password_file)?,
            hmac: read(&sink.hmac_file)?.map(String::into_bytes),
        };
        let meter = Rc::new(Meter::new(idle, total));
        // The same bounds and the same TLS as for the source; who we are is in the requests themselves.
        let way = SourceConfig {
            ca_file: sink.ca_file.clone(),
            client_cert: sink.client_cert.clone(),
            client_key: sink.client_key.clone(),
            proxy: sink.proxy.clone(),
            idle_timeout: idle,
            total_timeout: total,
            ..SourceConfig::new(Location::Local("/".into()))
        };
        let web = Web::new(&way, &sink.url, sink.url.starts_with("https:"), meter.clone())?;
        let source = if sink.kind == SinkKind::Git { push::web_of(source, &meter)? } else { None };
        Ok(Self { web, source, secrets, meter })
    }

    /// Sends one; what of it was lost for good, if some was.
    fn post(&self, kind: SinkKind, request: &HttpRequest) -> Result<Option<String>, Refusal> {
        let said = self.web.deliver(request).map_err(|error: LinkError| CourierError::from(error))?;
        match sinks::judge(kind, request, said.code, &said.page) {
            Answer::Taken => Ok(None),
            Answer::Dropped(why) => Ok(Some(format!("{why}; {}", said.words()))),
            Answer::Again => Err(Refusal::Later(said)),
            Answer::Refused => Err(Refusal::Said(said)),
        }
    }
}

impl Said {
    fn words(&self) -> String {
        let advice = match self.code {
            400 | 415 | 422 => " (it does not understand what it was sent: is it what `type` says?)",
            401 => " (the credentials are missing or wrong: see token-file, username, password-file)",
            403 => " (these credentials may not write there)",
            404 | 405 | 410 => " (nothing takes reports there: check url)",
            407 => " (the proxy wants credentials: see proxy)",
            413 => " (too much at once)",
            429 => " (too many requests)",
            300..=399 => " (redirects are not followed: if that is right, set it as url)",
            _ => "",
        };
        let points = (300..400).contains(&self.code) && !self.location.is_empty();
        let location = if points { format!(" to {}", self.location) } else { String::new() };
        let page = printable(&self.page);
        let page = if page.is_empty() { page } else { format!(": {page}") };
        format!("it answered {}{location}{advice}{page}", self.code)
    }
}

/// Nothing but a change, here or there, makes it work.
fn is_lasting(code: u16) -> bool {
    matches!(code, 400..=407 | 410 | 411 | 413..=417 | 422 | 501)
}

/// What was sent is what it will not have: less of it, or without something in it, may do.
fn is_unfit(code: u16) -> bool {
    matches!(code, 400 | 413 | 422)
}

fn undelivered(lasting: bool, message: String) -> Reply {
    Reply::Undelivered { lasting, unfit: false, retry_after: None, message }
}

/// What must be in no message, in all the forms in which it is sent.
fn told_by(secrets: &Secrets, user: Option<&str>) -> Vec<String> {
    let mut list: Vec<String> = [&secrets.token, &secrets.password].into_iter().flatten().cloned().collect();
    list.extend(secrets.hmac.as_ref().and_then(|key| String::from_utf8(key.clone()).ok()));
    if let (Some(user), Some(password)) = (user, &secrets.password) {
        list.push(base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")));
    }
    list.retain(|secret| !secret.is_empty());
    list
}

/// Cuts the body into reports. They come from the agent, who is root; but a length that lies must not end this process.
fn unpack(pieces: &[Piece], body: &[u8]) -> Result<Vec<Parcel>, CourierError> {
    const WRONG: CourierError = CourierError::Request("reports whose sizes do not fit");
    if pieces.is_empty() || pieces.len() > MAX_REPORTS {
        return Err(CourierError::Request("too few or too many reports"));
    }
    let mut rest = body;
    let mut take = |size: u64| {
        let (piece, after) = usize::try_from(size).ok().and_then(|size| rest.split_at_checked(size)).ok_or(WRONG)?;
        rest = after;
        Ok::<_, CourierError>(piece.to_vec())
    };
    let mut parcels = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let (bytes, signature) = (take(piece.report)?, take(piece.signature)?);
        let report: Report = serde_json::from_slice(&bytes).map_err(|_| CourierError::Request("a report that is none"))?;
        let signature = String::from_utf8(signature).map_err(|_| CourierError::Request("a signature that is no text"))?;
        parcels.push(Parcel { report, bytes, signature });
    }
    if rest.is_empty() { Ok(parcels) } else { Err(WRONG) }
}
