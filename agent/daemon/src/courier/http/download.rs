//! A file's bytes over HTTP, from somewhere in the middle if need be, piece by piece.
//!
//! Guarantees: as for all of [`Web`]: each wait is bounded, each byte metered; a redirect is handed back and not followed; what a server
//! sends before the asked-for place (for it knows no ranges) is passed over.

use std::rc::Rc;

use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, LOCATION, RANGE};

use super::{Core, SNIPPET, Web, printable};
use crate::courier::meter::LinkError;

/// An answer that is being read.
pub(in crate::courier) struct Download {
    core: Rc<Core>,
    response: reqwest::Response,
    /// Bytes that the server sends before the place that was asked for.
    ahead: u64,
    /// The length of the whole file, where the server says it.
    pub(in crate::courier) total: Option<u64>,
}

/// How a server answered.
pub(in crate::courier) enum Opened {
    /// With the file.
    Here(Download),
    /// It points elsewhere.
    Elsewhere(String),
    /// It has no bytes from there on.
    Beyond,
}

impl Web {
    /// Asks for a file from a byte on.
    pub(in crate::courier) fn download(&self, url: &str, from: u64) -> Result<Opened, LinkError> {
        let core = &self.core;
        let mut request = core.client.get(url);
        for (name, value) in &core.headers {
            request = request.header(name, value);
        }
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        core.meter.sent(1, url.len() as u64);
        let mut response = core.step(request.send())?;
        let heads: usize = response.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        core.meter.received(heads as u64)?;
        let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let number = |text: &str| text.trim().parse::<u64>().ok();
        match response.status().as_u16() {
            200 => {
                let total = number(&text(CONTENT_LENGTH));
                Ok(Opened::Here(Download { core: core.clone(), response, ahead: from, total }))
            }
            206 => {
                let range = text(CONTENT_RANGE);
                let (place, total) = range.strip_prefix("bytes ").and_then(|range| range.split_once('/')).unwrap_or_default();
                if place.split_once('-').and_then(|(begin, _)| number(begin)) != Some(from) {
                    return Err(self.unsound("it sent another part of the file than was asked for"));
                }
                Ok(Opened::Here(Download { core: core.clone(), total: number(total), response, ahead: 0 }))
            }
            416 if from > 0 => Ok(Opened::Beyond),
            300..400 if !text(LOCATION).is_empty() => Ok(Opened::Elsewhere(text(LOCATION))),
            code => {
                let mut page = Vec::new();
                while page.len() < 4 * SNIPPET {
                    match core.step(response.chunk()) {
                        Ok(Some(chunk)) => page.extend_from_slice(&chunk),
                        _ => break,
                    }
                }
                let detail = printable(&page);
                let detail = if detail.is_empty() { detail } else { format!(": {detail}") };
                let advice = match code {
                    401 | 403 => " (the source's credentials are sent to the source's own server only)",
                    404 => " (no such file)",
                    _ => "",
                };
                Err(LinkError::Status { host: self.host_of(url), code, advice, detail })
            }
        }
    }

    fn host_of(&self, url: &str) -> String {
        let host = reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
        host.unwrap_or_else(|| self.core.host.clone())
    }

    fn unsound(&self, why: &'static str) -> LinkError {
        LinkError::Broken { host: self.core.host.clone(), certificate: false, source: why.into() }
    }
}

impl Download {
    /// The next bytes; nothing at the end. Never empty otherwise.
    pub(in crate::courier) fn chunk(&mut self) -> Result<Option<Vec<u8>>, LinkError> {
        loop {
            let Some(chunk) = self.core.step(self.response.chunk())? else { return Ok(None) };
            self.core.meter.received(chunk.len() as u64)?;
            let skipped = usize::try_from(self.ahead).map_or(chunk.len(), |ahead| ahead.min(chunk.len()));
            self.ahead -= skipped as u64;
            if skipped < chunk.len() {
                return Ok(Some(chunk[skipped..].to_vec()));
            }
        }
    }
}
