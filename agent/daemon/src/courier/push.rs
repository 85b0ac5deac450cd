//! A push of one commit to the host's own status reference, over the ways by which the source is reached: what gix cannot do yet.
//!
//! Git's protocol as in its `Documentation/gitprotocol-pack.adoc`, "Pushing Data To a Server": the server tells its references (versions 0 and
//! 1; there is no version 2 of it), gets one command `old new reference` and one pack, and reports. The far end is Git's own receive-pack, also
//! for a repository on this machine: its permissions, quarantine and hooks count.
//!
//! Guarantees: the reference goes from what the server said it is to the new commit, or stays: a server that meanwhile has something else there
//! refuses. What was pushed already is not pushed again. Answers are bounded, and a refusal is told in the server's own words.
//! Limits: the server tells *all* of its references before it listens. Over HTTP that is spared from the second push on by remembering what was
//! pushed last; over ssh it costs about 70 bytes for each host of the fleet and push.

use std::cell::RefCell;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::ops::ControlFlow;
use std::path::Path;
use std::rc::Rc;

use gix::bstr::ByteSlice;
use gix_hash::{Kind, ObjectId};
use gix_transport::client::blocking_io::{Transport, http};
use gix_transport::client::{Capabilities, MessageKind, WriteMode};
use gix_transport::packetline::{PacketLineRef, decode};
use gix_transport::{Protocol, Service};

use super::http::{Web, printable, url_of};
use super::meter::{LinkError, Meter};
use super::offering::{Offering, offering};
use super::source::{Location, SourceConfig};
use super::ssh::Ssh;
use super::{CourierError, chain};
use crate::sinks::StatusPush;

/// The most bytes of the references that a server tells: those of some forty thousand hosts.
const MAX_REFERENCES: u64 = 4 << 20;
/// The most bytes of its report, and of what its hooks have to say.
const MAX_REPORT: u64 = 64 << 10;
/// How many characters of what the far end says help a person.
const WORDS: usize = 300;
/// What the last push to a server over HTTP left there, in the cache.
const MEMORY: &str = "pushed";
const AGENT: &str = concat!("trimtab/", env!("CARGO_PKG_VERSION"));

/// What the server said of itself and of the reference.
struct Greeting {
    /// Where the reference points; all zeros where there is none.
    old: ObjectId,
    hash: Kind,
}

/// Why a try was in vain.
enum Fault {
    /// The server said no to the command.
    Declined(String),
    /// It, or the way to it, failed.
    Failed(Box<dyn std::error::Error + Send + Sync>),
    Ours(CourierError),
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Failed(Box::new(error))
    }
}

/// Pushes to the source's repository, within the source's times. `cache` is the courier's own folder.
pub fn push_status(source: &SourceConfig, cache: &Path, status: &StatusPush) -> Result<(), CourierError> {
    let meter = Rc::new(Meter::new(source.idle_timeout, source.total_timeout));
    meter.begin(source.total_timeout);
    let web = web_of(source, &meter)?;
    push(source, web.as_ref(), cache, &meter, status)
}

/// The client for a source that is reached over HTTP. It has read whatever it needs: certificates, and who we are.
pub(super) fn web_of(source: &SourceConfig, meter: &Rc<Meter>) -> Result<Option<Web>, CourierError> {
    source.check()?;
    url_of(&source.url).map(|(url, tls)| Web::new(source, url, tls, meter.clone())).transpose()
}

/// The same under the bounds of the caller's meter, through the caller's client.
pub(super) fn push(
    source: &SourceConfig,
    web: Option<&Web>,
    cache: &Path,
    meter: &Rc<Meter>,
    push: &StatusPush,
) -> Result<(), CourierError> {
    let fits = push.reference.starts_with("refs/trimtab/") && push.reference.len() <= 255;
    if !fits || gix::validate::reference::name(push.reference.as_str().into()).is_err() {
        return Err(CourierError::Request("the host's name cannot be part of a reference's name"));
    }
    let scratch = cache.join("tmp");
    fs::create_dir_all(&scratch).map_err(|source| CourierError::Cache { path: scratch.clone(), source })?;
    let memory = cache.join(MEMORY);
    if let (Some((url, _)), Some(web)) = (url_of(&source.url), web) {
        if let Some(old) = recall(&memory, url, &push.reference) {
            let greeting = format!("{old} {}\0report-status side-band-64k object-format={}", push.reference, old.kind());
            let known = format!("{:04x}{greeting}\n0000", greeting.len() + 5);
            // Whatever is wrong, asking properly either mends it or says it better.
            if let Ok(tip) = over_http(web.assuming(known.as_bytes()), url, meter, push) {
                remember(&memory, url, &push.reference, tip);
                return Ok(());
            }
            let _ = fs::remove_file(&memory);
        }
        let tip = over_http(web.clone(), url, meter, push).map_err(|fault| told(fault, url, &push.reference, meter, None))?;
        remember(&memory, url, &push.reference, tip);
        return Ok(());
    }
    let (mut program, mut connection) = Ssh::start(source, Service::ReceivePack, &scratch, meter)?;
    meter.sent(1, 0);
    let shown = source.url.to_string();
    let host = if let Location::Ssh { host, .. } = &source.url { host } else { &shown };
    let pushed = attempt(&mut connection, meter, push);
    drop(connection);
    pushed.map(drop).map_err(|fault| told(fault, host, &push.reference, meter, Some(&mut program)))
}

fn over_http(web: Web, url: &str, meter: &Meter, push: &StatusPush) -> Result<ObjectId, Fault> {
    let parsed = gix::url::parse(url).map_err(|error| Fault::Failed(error.into()))?;
    attempt(&mut http::Transport::new_http(web, parsed, Protocol::V1, false), meter, push)
}

/// One push, from the greeting to the report; the commit that the reference names then.
fn attempt(transport: &mut impl Transport, meter: &Meter, push: &StatusPush) -> Result<ObjectId, Fault> {
    meter.allow(MAX_REFERENCES);
    let greeting = greet(transport, &push.reference)?;
    let Offering { tip, pack } = offering(push, greeting.hash).map_err(Fault::Ours)?;
    if tip == greeting.old {
        return Ok(tip);
    }
    meter.allow(MAX_REPORT);
    let mut request = transport.request(WriteMode::Binary, MessageKind::Flush, false)?;
    let format = if greeting.hash == Kind::Sha256 { " object-format=sha256" } else { "" };
    let (old, reference) = (greeting.old, &push.reference);
    request.write_all(format!("{old} {tip} {reference}\0 report-status side-band-64k{format} agent={AGENT}").as_bytes())?;
    request.write_message(MessageKind::Flush)?;
    let (mut raw, mut answer) = request.into_parts();
    raw.write_all(&pack)?;
    raw.flush()?;
    drop(raw);
    let words = Rc::new(RefCell::new(String::new()));
    let heard = words.clone();
    answer.set_progress_handler(Some(Box::new(move |_, text: &[u8]| {
        let mut heard = heard.borrow_mut();
        if heard.len() < WORDS {
            heard.extend(text.to_str_lossy().chars().take(WORDS));
        }
        ControlFlow::Continue(())
    })));
    let mut report = Vec::new();
    answer.read_to_end(&mut report)?;
    drop(answer);
    match verdict(&report, reference) {
        Ok(()) => Ok(tip),
        Err(why) => {
            let words = printable(words.borrow().as_bytes());
            Err(Fault::Declined(if words.is_empty() { why } else { format!("{why} ({words})") }))
        }
    }
}

/// Reads what the server tells first.
fn greet(transport: &mut impl Transport, reference: &str) -> Result<Greeting, Fault> {
    let told = transport.handshake(Service::ReceivePack, &[])?;
    let hash = hash_of(&told.capabilities)?;
    let mut old = None;
    let mut refs = told.refs.ok_or_else(|| io::Error::other("it tells no references"))?;
    let mut line = String::new();
    while refs.readline_str(&mut line)? > 0 {
        if let Some((id, name)) = line.trim_end_matches('\n').split_once(' ')
            && name == reference
        {
            old = Some(ObjectId::from_hex(id.as_bytes()).map_err(|error| Fault::Failed(error.into()))?);
        }
        line.clear();
    }
    Ok(Greeting { old: old.unwrap_or_else(|| hash.null()), hash })
}

fn hash_of(capabilities: &Capabilities) -> Result<Kind, Fault> {
    for needed in ["report-status", "side-band-64k"] {
        if !capabilities.contains(needed) {
            return Err(io::Error::other(format!("it cannot {needed}, which every Git since 1.6.6 can")).into());
        }
    }
    match capabilities.capability("object-format").and_then(|format| format.value().map(ToOwned::to_owned)) {
        None => Ok(Kind::Sha1),
        Some(format) if format == "sha1" => Ok(Kind::Sha1),
        Some(format) if format == "sha256" => Ok(Kind::Sha256),
        Some(format) => Err(io::Error::other(format!("its objects have ids of an unknown kind, {format}")).into()),
    }
}

/// `unpack ok` and `ok <reference>`, as packet lines; anything else is a no.
fn verdict(report: &[u8], reference: &str) -> Result<(), String> {
    let (mut rest, mut unpacked, mut taken) = (report, false, false);
    while let Ok(decode::Stream::Complete { line: PacketLineRef::Data(line), bytes_consumed }) = decode::streaming(rest) {
        rest = &rest[bytes_consumed..];
        let line = printable(line);
        if let Some(how) = line.strip_prefix("unpack ") {
            if how != "ok" {
                return Err(format!("it could not unpack what it was sent: {how}"));
            }
            unpacked = true;
        } else if let Some(why) = line.strip_prefix("ng ").and_then(|no| no.strip_prefix(reference)) {
            return Err(why.trim().to_owned());
        } else if line.strip_prefix("ok ") == Some(reference) {
            taken = true;
        }
    }
    if unpacked && taken { Ok(()) } else { Err("it does not say that it took it".to_owned()) }
}

/// The typed reason before what gix made of it, with advice for somebody who wants to write and not to read.
fn told(fault: Fault, host: &str, reference: &str, meter: &Meter, program: Option<&mut Ssh>) -> CourierError {
    const ADVICE: &str = " (these credentials may not write: the repository must take pushes to refs/trimtab/status/*)";
    let host = host.to_owned();
    match (meter.failure(), fault) {
        (Some(LinkError::Status { code: code @ (401 | 403 | 404), detail, .. }), _) => {
            LinkError::Status { host, code, advice: ADVICE, detail }.into()
        }
        (Some(reason), _) => reason.into(),
        (None, Fault::Ours(error)) => error,
        (None, Fault::Declined(reason)) => CourierError::Declined { host, reference: reference.to_owned(), reason },
        (None, Fault::Failed(source)) => match program.and_then(Ssh::verdict) {
            Some(verdict) => verdict.into(),
            // What the server says instead of an answer (`ERR …`) is in there.
            None => CourierError::Refused { host, command: "receive-pack", source: chain(&*source).into() },
        },
    }
}

/// What the last push left at that server.
fn recall(memory: &Path, url: &str, reference: &str) -> Option<ObjectId> {
    let text = fs::read_to_string(memory).ok().filter(|text| text.len() < 4096)?;
    let id = text.strip_prefix(url)?.strip_prefix('\n')?.strip_prefix(reference)?.strip_prefix('\n')?;
    ObjectId::from_hex(id.trim_end().as_bytes()).ok()
}

fn remember(memory: &Path, url: &str, reference: &str, tip: ObjectId) {
    // Only a saving: without it the next push asks first.
    let _ = fs::write(memory, format!("{url}\n{reference}\n{tip}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[&str]) -> Vec<u8> {
        let packets = text.iter().map(|line| format!("{:04x}{line}\n", line.len() + 5));
        packets.chain(["0000".to_owned()]).collect::<String>().into_bytes()
    }

    #[test]
    fn only_a_clear_yes_is_a_yes() {
        let reference = "refs/trimtab/status/a";
        assert_eq!(verdict(&lines(&["unpack ok", "ok refs/trimtab/status/a"]), reference), Ok(()));
        for (report, says) in [
            (lines(&["unpack ok", "ng refs/trimtab/status/a pre-receive hook declined"]), "pre-receive hook declined"),
            (lines(&["unpack index-pack abnormal exit", "ng refs/trimtab/status/a unpacker error"]), "could not unpack"),
            (lines(&["unpack ok", "ok refs/trimtab/status/ab"]), "does not say"),
            (lines(&["ok refs/trimtab/status/a"]), "does not say"),
            (lines(&["unpack ok"]), "does not say"),
            (b"unpack ok\nok refs/trimtab/status/a\n".to_vec(), "does not say"),
            (Vec::new(), "does not say"),
        ] {
            let said = verdict(&report, reference).unwrap_err();
            assert!(said.contains(says), "{said}");
        }
    }
}
