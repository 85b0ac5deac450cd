//! Bounded HTTP for gix: its `Http` trait on one `reqwest` client and a runtime of the current thread.
//!
//! Every await has the shorter of the idle timeout and what is left of the total one; every byte passes the [`Meter`].
//! Redirects are not followed, a proxy is used only if the configuration says so, and certificates are checked against the
//! system's authorities or those of `ca-file` alone. No HTTP/2: small requests one after the other gain nothing by it.
//!
//! gix insists on a handshake (a GET of `info/refs`) before the first command. Protocol 2 does not need it, so [`Web`] can
//! answer it from memory with what the server is assumed to be able to do: a poll is then one request and not two.

mod download;

use std::cell::RefCell;
use std::error::Error as _;
use std::io::{self, BufReader, Read, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use gix_transport::client::blocking_io::http::{GetResponse, Http, PostBodyDataKind, PostResponse};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, USER_AGENT};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::runtime::Runtime;

pub(super) use self::download::{Download, Opened};
use super::CourierError;
use super::meter::{LinkError, Meter};
use super::source::{Location, SourceConfig};
use crate::sinks::HttpRequest;

/// How many characters of an error page help a human.
const SNIPPET: usize = 200;
/// How many bytes of a sink's answer are read.
const ANSWER: usize = 16 << 10;

/// The client, shared by every transport of this process: connections and TLS tickets are used again.
#[derive(Clone)]
pub(super) struct Web {
    core: Rc<Core>,
    /// What `info/refs` is answered with, without asking.
    assumed: Option<Rc<[u8]>>,
}

struct Core {
    client: reqwest::Client,
    runtime: Option<Runtime>,
    headers: HeaderMap,
    host: String,
    meter: Rc<Meter>,
}

impl Drop for Core {
    fn drop(&mut self) {
        // A name lookup that hangs would otherwise hold up the end of the process.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Web {
    /// Reads certificates and secrets and builds the client; nothing goes over the network yet.
    pub(super) fn new(config: &SourceConfig, url: &str, tls: bool, meter: Rc<Meter>) -> Result<Self, CourierError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CourierError::Runtime)?;
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(config.idle_timeout)
            .pool_idle_timeout(Duration::from_secs(90))
            .pool_max_idle_per_host(1);
        builder = match config.proxy.as_deref() {
            Some("environment") => builder,
            None => builder.no_proxy(),
            Some(proxy) => {
                let proxy = reqwest::Proxy::all(proxy).map_err(|source| CourierError::Proxy(source.without_url()))?;
                builder.no_proxy().proxy(proxy)
            }
        };
        // Always given, or reqwest would look for a provider that nobody installed, and panic.
        let certain = tls || config.proxy.as_deref().is_some_and(|proxy| proxy == "environment" || proxy.starts_with("https:"));
        builder = builder.tls_backend_preconfigured(tls_config(config, certain)?);
        let client = builder.build().map_err(CourierError::Client)?;
        let headers = credentials(config)?;
        let host = reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
        Ok(Self { core: Rc::new(Core { client, runtime: Some(runtime), headers, host, meter }), assumed: None })
    }

    /// The same client, but with the handshake answered from memory.
    pub(super) fn assuming(&self, advertisement: &[u8]) -> Self {
        Self { core: self.core.clone(), assumed: Some(advertisement.into()) }
    }
}

/// The authorities, the client certificate, and ring underneath. Without need, nobody is trusted.
fn tls_config(config: &SourceConfig, needed: bool) -> Result<rustls::ClientConfig, CourierError> {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(path) = &config.ca_file {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|source| CourierError::Certificate { path: path.clone(), source: source.into() })?;
        }
    } else if needed {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(CourierError::NoAuthorities);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("because ring's provider has the default protocol versions")
        .with_root_certificates(roots);
    match (&config.client_cert, &config.client_key) {
        (Some(certificate), Some(key)) => {
            let path = SourceConfig::secret_path(key);
            let wrong = |source: Box<dyn std::error::Error + Send + Sync>| CourierError::Certificate { path: path.clone(), source };
            let key = PrivateKeyDer::from_pem_file(&path).map_err(|source| wrong(source.into()))?;
            builder.with_client_auth_cert(certificates(certificate)?, key).map_err(|source| wrong(source.into()))
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, CourierError> {
    let wrong = |source: Box<dyn std::error::Error + Send + Sync>| CourierError::Certificate { path: path.to_owned(), source };
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found.map_err(|source| wrong(source.into()))? {
        empty if empty.is_empty() => Err(wrong("it holds no PEM certificate".into())),
        some => Ok(some),
    }
}

/// The headers that go with every request: who we are, and the credentials if there are some.
fn credentials(config: &SourceConfig) -> Result<HeaderMap, CourierError> {
    use base64::Engine as _;
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("trimtab/", env!("CARGO_PKG_VERSION"))));
    let (path, text) = if let (Some(user), Some(path)) = (&config.username, &config.password_file) {
        let pair = format!("{user}:{}", super::secret(path)?);
        (path, format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
    } else if let Some(path) = &config.token_file {
        (path, format!("Bearer {}", super::secret(path)?))
    } else {
        return Ok(headers);
    };
    let mut value = HeaderValue::from_str(&text).map_err(|_| CourierError::SecretText { path: path.clone() })?;
    value.set_sensitive(true);
    headers.insert(AUTHORIZATION, value);
    Ok(headers)
}

impl Core {
    /// One await under the bounds.
    fn step<T>(&self, what: impl Future<Output = reqwest::Result<T>>) -> Result<T, LinkError> {
        let patience = self.meter.patience()?;
        let runtime = self.runtime.as_ref().expect("because only drop takes it");
        match runtime.block_on(async { tokio::time::timeout(patience, what).await }) {
            Err(_) => Err(self.meter.timed_out()),
            Ok(Err(error)) if error.is_timeout() => Err(self.meter.timed_out()),
            Ok(Err(error)) => Err(LinkError::Broken {
                host: self.host.clone(),
                certificate: is_certificate(&error),
                source: error.without_url().into(),
            }),
            Ok(Ok(value)) => Ok(value),
        }
    }

    fn send(&self, outgoing: Outgoing) -> Result<reqwest::Response, LinkError> {
        let mut size = outgoing.url.len() + outgoing.body.len();
        let mut request =
            if outgoing.post { self.client.post(&outgoing.url).body(outgoing.body) } else { self.client.get(&outgoing.url) };
        for (name, value) in outgoing.headers.iter().chain(&self.headers) {
            size += name.as_str().len() + value.len() + 4;
            request = request.header(name, value);
        }
        self.meter.sent(1, size as u64);
        let mut response = self.step(request.send())?;
        let heads: usize = response.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        self.meter.received(heads as u64)?;
        match response.status().as_u16() {
            200 => Ok(response),
            code @ 300..400 => {
                let location = response.headers().get(LOCATION).map_or(String::new(), |to| printable(to.as_bytes()));
                if location.is_empty() {
                    return Err(self.status(code, String::new()));
                }
                // Tokens in a redirect's query are somebody's secret; they help nobody in a journal.
                Err(LinkError::Redirect { host: self.host.clone(), location: without_secrets(&location) })
            }
            code => {
                let mut page = Vec::new();
                while page.len() < 4 * SNIPPET {
                    match self.step(response.chunk()) {
                        Ok(Some(chunk)) => page.extend_from_slice(&chunk),
                        _ => break,
                    }
                }
                Err(self.status(code, printable(&page)))
            }
        }
    }

    fn status(&self, code: u16, detail: String) -> LinkError {
        let advice = match code {
            401 => " (the credentials are missing or wrong: see username, password-file, token-file)",
            403 => " (these credentials may not read the repository)",
            404 => " (no such repository, or hidden from these credentials: check url)",
            407 => " (the proxy wants credentials: see proxy)",
            429 => " (too many requests)",
            _ => "",
        };
        let detail = if detail.is_empty() { detail } else { format!(": {detail}") };
        LinkError::Status { host: self.host.clone(), code, advice, detail }
    }
}

fn is_certificate(error: &reqwest::Error) -> bool {
    let mut next = error.source();
    while let Some(cause) = next {
        // rustls's error travels inside an io::Error, which hides it from `source`.
        let inner =
            cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref).map(|inner| inner as &(dyn std::error::Error + 'static));
        let found = [Some(cause), inner].into_iter().flatten().find_map(|error| error.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)) = found {
            return true;
        }
        next = inner.or_else(|| cause.source());
    }
    false
}

pub(super) fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|c| !c.is_control()).take(SNIPPET).collect()
}

fn without_secrets(location: &str) -> String {
    match reqwest::Url::parse(location) {
        Ok(mut url) => {
            url.set_query(None);
            let (_, _) = (url.set_username(""), url.set_password(None));
            url.to_string()
        }
        Err(_) => location.split(['?', '#']).next().unwrap_or_default().to_owned(),
    }
}

/// What a sink said.
pub(super) struct Said {
    /// HTTP status.
    pub(super) code: u16,
    /// Seconds, where it named some.
    pub(super) retry_after: Option<u64>,
    /// Where it points to instead; without secrets.
    pub(super) location: String,
    /// The begin of its answer: no more than helps.
    pub(super) page: Vec<u8>,
}

impl Web {
    /// Sends one request of a sink, as it is. An answer's head is its word; of the body only the begin is read, and how that ends matters to nobody.
    pub(super) fn deliver(&self, request: &HttpRequest) -> Result<Said, LinkError> {
        let core = &self.core;
        let method = reqwest::Method::from_bytes(request.method.as_bytes()).unwrap_or(reqwest::Method::POST);
        let mut size = request.url.len() + request.body.len();
        let mut outgoing = core.client.request(method, &request.url).body(request.body.clone());
        for (name, value) in &request.headers {
            size += name.len() + value.len() + 4;
            let mut value = HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static(""));
            value.set_sensitive(*name == "Authorization");
            outgoing = outgoing.header(*name, value);
        }
        for (name, value) in &core.headers {
            outgoing = outgoing.header(name, value);
        }
        core.meter.sent(1, size as u64);
        let mut response = core.step(outgoing.send())?;
        let heads: usize = response.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        core.meter.received(heads as u64)?;
        let text = |name| response.headers().get(name).map_or(String::new(), |value| printable(value.as_bytes()));
        let (code, location) = (response.status().as_u16(), without_secrets(&text(LOCATION)));
        // A date instead of seconds is rare, and would need a clock that both agree on.
        let retry_after = text(RETRY_AFTER).trim().parse().ok();
        let mut page = Vec::new();
        while page.len() < ANSWER {
            match core.step(response.chunk()) {
                Ok(Some(chunk)) if core.meter.received(chunk.len() as u64).is_ok() => page.extend_from_slice(&chunk),
                _ => break,
            }
        }
        page.truncate(ANSWER);
        Ok(Said { code, retry_after, location, page })
    }
}

struct Outgoing {
    post: bool,
    url: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// One request and its answer. gix wants the answer's readers before it has written the request: it is sent at the first read.
enum Exchange {
    Prepared(Option<Outgoing>),
    Answering { response: reqwest::Response, heads: Vec<u8>, chunk: Chunk },
    FromMemory { heads: Vec<u8>, chunk: Chunk },
    Over,
}

/// What came and was not read yet.
#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    at: usize,
}

impl Chunk {
    fn take(&mut self, into: &mut [u8]) -> usize {
        let rest = &self.bytes[self.at..];
        let size = rest.len().min(into.len());
        into[..size].copy_from_slice(&rest[..size]);
        self.at += size;
        size
    }
}

#[derive(Clone)]
struct Line {
    core: Rc<Core>,
    exchange: Rc<RefCell<Exchange>>,
}

impl Line {
    /// Sends what is prepared.
    fn ensure_sent(&self) -> io::Result<()> {
        let mut exchange = self.exchange.borrow_mut();
        let Exchange::Prepared(outgoing) = &mut *exchange else { return Ok(()) };
        let Some(outgoing) = outgoing.take() else { return Ok(()) };
        let sent = self.core.send(outgoing).map_err(|reason| self.core.meter.stop(reason));
        let response = sent.inspect_err(|_| *exchange = Exchange::Over)?;
        let kind = response.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        let heads = [b"content-type: ", kind, b"\n"].concat();
        *exchange = Exchange::Answering { response, heads, chunk: Chunk::default() };
        Ok(())
    }
}

/// The answer's headers, as lines; gix looks at `content-type` only.
pub(super) struct Heads(Line);

impl Read for Heads {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.ensure_sent()?;
        match &mut *self.0.exchange.borrow_mut() {
            Exchange::Answering { heads, .. } | Exchange::FromMemory { heads, .. } => {
                let size = heads.len().min(into.len());
                into[..size].copy_from_slice(&heads[..size]);
                heads.drain(..size);
                Ok(size)
            }
            _ => Ok(0),
        }
    }
}

/// The answer's body.
pub(super) struct Body(Line);

impl Read for Body {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        self.0.ensure_sent()?;
        let mut exchange = self.0.exchange.borrow_mut();
        loop {
            match &mut *exchange {
                Exchange::FromMemory { chunk, .. } => return Ok(chunk.take(into)),
                Exchange::Answering { response, chunk, .. } => {
                    let size = chunk.take(into);
                    if size > 0 {
                        return Ok(size);
                    }
                    let core = &self.0.core;
                    let next = core.step(response.chunk()).and_then(|next| {
                        core.meter.received(next.as_ref().map_or(0, |bytes| bytes.len() as u64))?;
                        Ok(next)
                    });
                    match next.map_err(|reason| core.meter.stop(reason)) {
                        Ok(Some(bytes)) => *chunk = Chunk { bytes: bytes.into(), at: 0 },
                        Ok(None) => *exchange = Exchange::Over,
                        Err(error) => {
                            *exchange = Exchange::Over;
                            return Err(error);
                        }
                    }
                }
                Exchange::Prepared(_) | Exchange::Over => return Ok(0),
            }
        }
    }
}

/// The request's body while gix writes it; commands are small, so it is held in memory and sent with its length.
pub(super) struct Outbox(Line);

impl Write for Outbox {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Exchange::Prepared(Some(outgoing)) = &mut *self.0.exchange.borrow_mut() {
            outgoing.body.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        Err(io::Error::other("the request was sent already"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn header_map(lines: impl IntoIterator<Item = impl AsRef<str>>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for line in lines {
        let Some((name, value)) = line.as_ref().split_once(':') else { continue };
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value.trim())) else { continue };
        // gix names itself; we name ourselves.
        if name != USER_AGENT {
            map.insert(name, value);
        }
    }
    map
}

impl Http for Web {
    type Headers = BufReader<Heads>;
    type ResponseBody = BufReader<Body>;
    type PostBody = Outbox;

    fn get(
        &mut self,
        url: &str,
        _base_url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> gix::Result<GetResponse<Self::Headers, Self::ResponseBody>> {
        let exchange = match &self.assumed {
            Some(advertisement) => Exchange::FromMemory {
                heads: format!("content-type: application/x-{}-advertisement\n", service_of(url)).into_bytes(),
                chunk: Chunk { bytes: advertisement.to_vec(), at: 0 },
            },
            None => Exchange::Prepared(Some(Outgoing {
                post: false,
                url: url.to_owned(),
                headers: header_map(headers),
                body: Vec::new(),
            })),
        };
        let line = Line { core: self.core.clone(), exchange: Rc::new(RefCell::new(exchange)) };
        Ok(GetResponse { headers: BufReader::new(Heads(line.clone())), body: BufReader::new(Body(line)) })
    }

    fn post(
        &mut self,
        url: &str,
        _base_url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
        _body: PostBodyDataKind,
    ) -> gix::Result<PostResponse<Self::Headers, Self::ResponseBody, Self::PostBody>> {
        let outgoing = Outgoing { post: true, url: url.to_owned(), headers: header_map(headers), body: Vec::new() };
        let exchange = Rc::new(RefCell::new(Exchange::Prepared(Some(outgoing))));
        let line = Line { core: self.core.clone(), exchange };
        Ok(PostResponse {
            post_body: Outbox(line.clone()),
            headers: BufReader::new(Heads(line.clone())),
            body: BufReader::new(Body(line)),
        })
    }

    fn configure(&mut self, _config: &dyn std::any::Any) -> gix::Result {
        Ok(())
    }
}

/// Which service a handshake asks for.
fn service_of(url: &str) -> &str {
    url.rsplit_once("service=").map_or("git-upload-pack", |(_, service)| service)
}

/// The URL of a location that is reached over HTTP.
pub(super) fn url_of(location: &Location) -> Option<(&str, bool)> {
    match location {
        Location::Http { url, tls, .. } => Some((url, *tls)),
        _ => None,
    }
}
