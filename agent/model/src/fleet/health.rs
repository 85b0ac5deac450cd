//! `[[health]]` of component.toml.
//!
//! One key says what is asked (`unit`, `http`, `tcp`, `command` or `container`); the others say how. Keys that mean nothing for what is
//! asked are unknown keys. What only shows when files meet (whether the container is there) is [`crate::render`]'s.

use super::command::{read_run, read_user};
use super::component::refuse_name;
use super::read::{Item, Located, Place, Table, brief};
use super::time;
use crate::finding::Findings;
use crate::health::Timing;
use crate::names::{AccountName, UnitName};

/// What can be asked, by key.
const KINDS: [&str; 5] = ["unit", "http", "tcp", "command", "container"];
/// Without `timeout`.
const TIMEOUT: u64 = 60_000;
/// Without `interval`.
const INTERVAL: u64 = 2_000;
/// Without `settle`, for a unit.
const SETTLE: u64 = 10_000;
/// Without `retries`; a unit's restarts are not borne unless that is asked for.
const RETRIES: u32 = 2;
/// The most bytes of a text that an answer is searched for.
const MAX_BODY: usize = 1000;

/// `[[health]]`.
#[derive(Debug, Clone)]
pub struct DeclaredCheck<'s> {
    /// What is asked.
    pub ask: Ask<'s>,
    /// How long and how often.
    pub timing: Timing,
    /// What is asked, in the table.
    pub place: Place<'s>,
}

/// What a check asks, as it is written.
#[derive(Debug, Clone)]
pub enum Ask<'s> {
    /// `unit = "app.service"`.
    Unit(UnitName),
    /// `http = "http://127.0.0.1:8080/health"`.
    Http {
        /// The URL.
        url: String,
        /// `status`.
        status: Vec<u16>,
        /// `body`.
        body: Option<String>,
    },
    /// `tcp = "127.0.0.1:5432"`.
    Tcp(String),
    /// `command = ["/usr/local/bin/check"]`.
    Command {
        /// The program and its arguments.
        run: Vec<String>,
        /// `user`.
        user: Option<AccountName>,
        /// `memory-max`, in bytes.
        memory_max: Option<u64>,
    },
    /// `container = "web.container"`.
    Container {
        /// The Quadlet file's name.
        quadlet: Located<'s, String>,
        /// `image-health`: the image brings the check.
        image_health: bool,
    },
}

/// Reads one `[[health]]`.
pub(super) fn read_check<'s>(mut table: Table<'_, 's>, findings: &mut Findings) -> Option<DeclaredCheck<'s>> {
    let mut present: Vec<_> = KINDS.iter().filter_map(|kind| table.item(kind).map(|item| (*kind, item))).collect();
    if let [(first, one), (second, other), ..] = present.as_slice() {
        let message = format!("a check asks for one thing, and this asks for `{first}` and `{second}`");
        findings.at_both(other.place, message, one.place, "the first", "write a [[health]] for each");
    }
    if present.is_empty() {
        findings.at_with(table.place, "what is to be checked is missing here", format!("one of {}", KINDS.join(", ")));
    }
    present.truncate(1);
    let asked = present.pop();
    let ask = asked.and_then(|(kind, item)| read_ask(kind, item, &mut table, findings));
    let is_unit = asked.is_some_and(|(kind, _)| kind == "unit");
    let timing = read_timing(&mut table, is_unit, findings);
    let place = asked.map_or(table.place, |(_, item)| item.place);
    table.finish(findings);
    Some(DeclaredCheck { ask: ask?, timing: timing?, place })
}

fn read_ask<'s>(kind: &'static str, item: Item<'_, 's>, table: &mut Table<'_, 's>, findings: &mut Findings) -> Option<Ask<'s>> {
    match kind {
        "unit" => {
            let text = item.string(kind, findings)?;
            match text.value.parse::<UnitName>() {
                Ok(unit) if unit.is_template() => {
                    let message = format!("{unit} is a template, which never runs");
                    findings.at_with(text.place, message, "name an instance, e.g. x@one.service");
                    None
                }
                Ok(unit) => Some(Ask::Unit(unit)),
                Err(error) => {
                    refuse_name(&error, text.place, findings);
                    None
                }
            }
        }
        "http" => {
            let status = read_status(table, findings);
            let body = read_body(table, findings);
            let url = item.string(kind, findings)?;
            if let Err(why) = judge_url(&url.value) {
                findings.at(url.place, format!("`{}` cannot be asked: {why}", brief(&url.value)));
                return None;
            }
            Some(Ask::Http { url: url.value, status: status?, body })
        }
        "tcp" => {
            let address = item.string(kind, findings)?;
            if let Err(why) = judge_authority(&address.value, true) {
                let help = "host and port, e.g. tcp = \"127.0.0.1:5432\" or \"[::1]:5432\"";
                findings.at_with(address.place, format!("`{}` is not an address: {why}", brief(&address.value)), help);
                return None;
            }
            Some(Ask::Tcp(address.value))
        }
        "command" => {
            let user = read_user(table, findings);
            let memory_max = read_memory(table, findings);
            Some(Ask::Command { run: read_run(item, kind, findings)?, user, memory_max })
        }
        _ => {
            let image_health = table.boolean("image-health", findings).is_some_and(|asked| asked.value);
            let quadlet = item.string(kind, findings)?;
            if quadlet.value.strip_suffix(".container").is_none_or(|stem| stem.is_empty() || stem.contains('/')) {
                let help = "the name of a file in quadlet/, e.g. container = \"web.container\"";
                findings.at_with(quadlet.place, format!("`{}` is not a .container file", brief(&quadlet.value)), help);
                return None;
            }
            Some(Ask::Container { quadlet, image_health })
        }
    }
}

fn read_timing(table: &mut Table<'_, '_>, is_unit: bool, findings: &mut Findings) -> Option<Timing> {
    let before = findings.list.len() + findings.more;
    let timeout = time::read(table, "timeout", 1000, findings);
    let interval = time::read(table, "interval", 1000, findings);
    let settle = time::read(table, "settle", 0, findings);
    let retries = table.integer("retries", findings).and_then(|number| {
        let retries = u32::try_from(number.value).ok().filter(|retries| *retries <= 100);
        if retries.is_none() {
            findings.at(number.place, "`retries` must be from 0 to 100");
        }
        retries
    });
    let timeout_ms = timeout.map_or(TIMEOUT, |(ms, _)| ms);
    if let Some((settle, item)) = settle
        && settle >= timeout_ms
    {
        let message = format!("it cannot stay good for {} within {}", time::tell(settle), time::tell(timeout_ms));
        let help = "`timeout` is the whole wait, `settle` a part of it";
        match timeout {
            Some((_, other)) => findings.at_both(item.place, message, other.place, "the whole wait", help),
            None => findings.at_with(item.place, message, help),
        }
    }
    let settle_ms = settle.map_or(if is_unit { SETTLE.min(timeout_ms / 2) } else { 0 }, |(ms, _)| ms);
    let sound = findings.list.len() + findings.more == before;
    sound.then_some(Timing {
        timeout_ms,
        interval_ms: interval.map_or(INTERVAL, |(ms, _)| ms),
        settle_ms,
        retries: retries.unwrap_or(if is_unit { 0 } else { RETRIES }),
    })
}

fn read_status(table: &mut Table<'_, '_>, findings: &mut Findings) -> Option<Vec<u16>> {
    let Some(item) = table.item("status") else { return Some(Vec::new()) };
    let items = if item.as_integer().is_some() { vec![item] } else { item.list("status", findings)? };
    let mut statuses = Vec::new();
    for item in items {
        let status = item.as_integer().and_then(|status| u16::try_from(status).ok());
        let Some(status) = status.filter(|status| (100..=599).contains(status)) else {
            findings.at_with(item.place, "this is not an HTTP status", "a number from 100 to 599, or a list of such");
            return None;
        };
        statuses.push(status);
    }
    if statuses.is_empty() {
        findings.at(item.place, "no status would be good");
        return None;
    }
    Some(statuses)
}

fn read_body(table: &mut Table<'_, '_>, findings: &mut Findings) -> Option<String> {
    let body = table.string("body", findings)?;
    if body.value.is_empty() || body.value.len() > MAX_BODY || body.value.contains('\0') {
        findings.at(body.place, format!("`body` must be 1 to {MAX_BODY} bytes of text that the answer contains"));
        return None;
    }
    Some(body.value)
}

fn read_memory(table: &mut Table<'_, '_>, findings: &mut Findings) -> Option<u64> {
    let text = table.string("memory-max", findings)?;
    let value = text.value.trim();
    let (number, factor) = match value.as_bytes().last() {
        Some(b'K') => (&value[..value.len() - 1], 1 << 10),
        Some(b'M') => (&value[..value.len() - 1], 1 << 20),
        Some(b'G') => (&value[..value.len() - 1], 1 << 30),
        _ => (value, 1),
    };
    let bytes = Some(number).filter(|n| n.bytes().all(|b| b.is_ascii_digit())).and_then(|n| n.parse::<u64>().ok());
    let bytes = bytes.and_then(|n| n.checked_mul(factor)).filter(|bytes| *bytes >= 1 << 20);
    if bytes.is_none() {
        let message = format!("`{}` is not an amount of memory", brief(&text.value));
        findings.at_with(text.place, message, "at least one mebibyte, e.g. memory-max = \"64M\"");
    }
    bytes
}

fn judge_url(url: &str) -> Result<(), &'static str> {
    let Some(rest) = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")) else {
        return Err("it must begin with http:// or https://");
    };
    if url.len() > 2000 {
        return Err("it is longer than 2,000 bytes");
    }
    if url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("it contains white space");
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("it may not contain a user name or a password, which everybody on the host could read");
    }
    judge_authority(authority, false)
}

/// `host:port`; the port may be left out where it need not be told.
fn judge_authority(text: &str, needs_port: bool) -> Result<(), &'static str> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            if address.parse::<core::net::Ipv6Addr>().is_err() {
                return Err("what stands in [] is not an IPv6 address");
            }
            ("v6", if port.is_empty() { None } else { Some(port.strip_prefix(':').unwrap_or("")) })
        }
        None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() || host.len() > 253 {
        return Err("it names no host");
    }
    if !host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)) {
        return Err("a host is made of letters, digits, `-`, `_` and `.`, or is an IPv6 address in []");
    }
    match port {
        None if needs_port => Err("the port is missing"),
        None => Ok(()),
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0) => Ok(()),
        Some(_) => Err("the port is not a number from 1 to 65535"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["http://localhost", "https://a.b-c:8443/x?y=z", "http://[::1]:80/", "http://127.0.0.1:8080/health"] {
            assert_eq!(judge_url(good), Ok(()), "{good}");
        }
        for bad in [
            "ftp://x/",
            "http://",
            "http:///x",
            "http://u:p@x/",
            "http://x:0/",
            "http://x:port/",
            "http://a b/",
            "http://[x]/",
            "http://[::1]8/",
        ] {
            assert!(judge_url(bad).is_err(), "{bad}");
        }
        assert!(judge_authority("127.0.0.1:5432", true).is_ok() && judge_authority("[::1]:1", true).is_ok());
        for bad in ["127.0.0.1", "[::1]", ":80", "x:65536", "x:+1", "::1"] {
            assert!(judge_authority(bad, true).is_err(), "{bad}");
        }
    }
}
