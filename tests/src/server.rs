//! A real git server for tests: HTTP or HTTPS on loopback, in front of the system's own `git http-backend`.
//!
//! It counts requests and wire bytes (TLS included) and can be told, while it runs, to misbehave as servers on bad lines
//! do ([`Fault`]). Threads, no runtime; port 0; everything ends when it is dropped. It is a test's server: a request is
//! held in memory whole, and so is the answer.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

/// What lies beneath this is no repository: a file is served as it is.
pub const FILES: &str = "/files/";

/// How long a connection may idle, and the longest that a fault lasts.
const PATIENCE: Duration = Duration::from_secs(60);

/// A certificate authority of a test's own.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// A fresh one.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("because there is no name to refuse");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("because ring makes keys");
        let certificate = params.self_signed(&key).expect("because the parameters are sound");
        Self { pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    /// Its certificate, for `ca-file`.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate and its key for these names or addresses, as PEM.
    pub fn issue(&self, names: &[&str]) -> (String, String) {
        let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let params = CertificateParams::new(names).expect("because the names are sound");
        let key = KeyPair::generate().expect("because ring makes keys");
        let certificate = params.signed_by(&key, &self.issuer).expect("because the parameters are sound");
        (certificate.pem(), key.serialize_pem())
    }
}

/// Whether and how the server speaks TLS.
pub enum Tls<'a> {
    /// Plain HTTP.
    Off,
    /// HTTPS with a certificate of this authority.
    On(&'a Authority),
    /// The same, and clients must show a certificate of this authority too.
    Mutual(&'a Authority),
}

/// What the server does wrong, from the next request on.
#[derive(Debug, Clone, Default)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Sends this many bytes of the body, then nothing more.
    Stall(usize),
    /// Sends the body byte by byte with this pause between them.
    Trickle(Duration),
    /// Sends the true body, and then zeros for ever.
    Endless,
    /// Sends this many bytes of the body and hangs up.
    Cut(usize),
    /// Answers with this status and page.
    Status(u16, String),
    /// Sends the client there.
    Redirect(String),
    /// Sends there who asks for a file; repositories are served.
    RedirectFiles(String),
    /// Refuses a command before which nobody has asked for the handshake.
    RejectBarePost,
    /// Speaks only the protocol of before 2018.
    OldProtocol,
    /// Answers each command with these bytes.
    Canned(Vec<u8>),
    /// Answers each request with these bytes, head and all, and hangs up.
    Raw(Vec<u8>),
    /// Sends header fields for ever.
    EndlessHead,
    /// Sends files whole, whatever part was asked for.
    NoRanges,
    /// Sends another part of a file than was asked for, and says so.
    OtherRange,
}

/// Which credentials the server wants to see.
#[derive(Debug, Clone, Default)]
pub enum Auth {
    /// None.
    #[default]
    Open,
    /// This header, e.g. `Bearer secret`; what is refused is echoed in the error page, as careless servers do.
    Header(String),
}

/// The running server.
pub struct GitServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    scheme: &'static str,
}

struct Shared {
    root: PathBuf,
    tls: Option<Arc<ServerConfig>>,
    fault: Mutex<Fault>,
    auth: Mutex<Auth>,
    log: Mutex<Vec<String>>,
    requests: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    shaken: AtomicBool,
    over: AtomicBool,
}

impl GitServer {
    /// Serves every repository under `root`.
    pub fn start(root: &Path, tls: Tls<'_>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("because loopback has free ports");
        let address = listener.local_addr().expect("because it is bound");
        let (scheme, tls) = match tls {
            Tls::Off => ("http", None),
            Tls::On(authority) => ("https", Some(Arc::new(server_config(authority, false)))),
            Tls::Mutual(authority) => ("https", Some(Arc::new(server_config(authority, true)))),
        };
        let shared = Arc::new(Shared {
            root: root.to_owned(),
            tls,
            fault: Mutex::default(),
            auth: Mutex::default(),
            log: Mutex::default(),
            requests: AtomicU64::new(0),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            shaken: AtomicBool::new(false),
            over: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if accepting.over.load(Ordering::Relaxed) {
                    return;
                }
                let shared = accepting.clone();
                std::thread::spawn(move || shared.connection(stream));
            }
        });
        Self { shared, address, scheme }
    }

    /// Where it is, without a trailing slash.
    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.address.port())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Bytes from clients so far, as they went over the wire.
    pub fn bytes_up(&self) -> u64 {
        self.shared.up.load(Ordering::Relaxed)
    }

    /// Bytes to clients so far, as they went over the wire.
    pub fn bytes_down(&self) -> u64 {
        self.shared.down.load(Ordering::Relaxed)
    }

    /// Begins to count anew, and forgets the log.
    pub fn reset(&self) {
        for counter in [&self.shared.requests, &self.shared.up, &self.shared.down] {
            counter.store(0, Ordering::Relaxed);
        }
        lock(&self.shared.log).clear();
    }

    /// Method, path and body of each request so far, the body with unprintable bytes as dots.
    pub fn log(&self) -> Vec<String> {
        lock(&self.shared.log).clone()
    }

    /// From the next request on, do this wrong.
    pub fn set_fault(&self, fault: Fault) {
        self.shared.shaken.store(false, Ordering::Relaxed);
        *lock(&self.shared.fault) = fault;
    }

    /// From the next request on, want this.
    pub fn set_auth(&self, auth: Auth) {
        *lock(&self.shared.auth) = auth;
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn server_config(authority: &Authority, mutual: bool) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let (certificate, key) = authority.issue(&["localhost", "127.0.0.1"]);
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("because rcgen wrote it");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("because rcgen wrote it");
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().expect("because ring has them");
    let builder = if mutual {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("because rcgen wrote it"))
            .expect("because it is a certificate");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        builder.with_client_cert_verifier(verifier.expect("because there is a root"))
    } else {
        builder.with_no_client_auth()
    };
    builder.with_single_cert(vec![certificate], key).expect("because key and certificate belong together")
}

/// Counts what passes.
struct Counted {
    stream: TcpStream,
    shared: Arc<Shared>,
}

impl Read for Counted {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let size = self.stream.read(into)?;
        self.shared.up.fetch_add(size as u64, Ordering::Relaxed);
        Ok(size)
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let size = self.stream.write(bytes)?;
        self.shared.down.fetch_add(size as u64, Ordering::Relaxed);
        Ok(size)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

pub(crate) trait Duplex: Read + Write {}
impl<T: Read + Write> Duplex for T {}

pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    query: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

struct Response {
    status: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Response {
    fn plain(status: &str, body: &str) -> Self {
        let headers = vec![("Content-Type".to_owned(), "text/plain".to_owned())];
        Self { status: status.to_owned(), headers, body: body.as_bytes().to_vec() }
    }
}

impl Shared {
    fn connection(self: &Arc<Self>, stream: TcpStream) {
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let _ = stream.set_write_timeout(Some(PATIENCE));
        let _ = stream.set_nodelay(true);
        let counted = Counted { stream, shared: self.clone() };
        let duplex: Box<dyn Duplex> = match &self.tls {
            None => Box::new(counted),
            Some(config) => match ServerConnection::new(config.clone()) {
                Ok(connection) => Box::new(StreamOwned::new(connection, counted)),
                Err(_) => return,
            },
        };
        let mut reader = BufReader::new(duplex);
        // An error is a client that went away, which is the client's right.
        while let Ok(Some(request)) = read_request(&mut reader) {
            self.requests.fetch_add(1, Ordering::Relaxed);
            let body: String =
                request.body.iter().take(4096).map(|b| if b.is_ascii_graphic() { *b as char } else { '.' }).collect();
            let said = |name: &str| request.headers.get(name).map(|value| format!(" {name}: {value}")).unwrap_or_default();
            let heads = if request.path.starts_with(FILES) { said("range") + &said("authorization") } else { String::new() };
            lock(&self.log).push(format!("{} {}?{} {body}{heads}", request.method, request.path, request.query));
            let fault = lock(&self.fault).clone();
            let response = self.respond(&request, &fault);
            if self.write(reader.get_mut(), response, &fault).is_err() {
                return;
            }
        }
    }

    fn respond(&self, request: &Request, fault: &Fault) -> Response {
        if let Auth::Header(wanted) = &*lock(&self.auth) {
            let shown = request.headers.get("authorization").map_or("", String::as_str);
            if shown != wanted {
                return Response::plain("401 Unauthorized", &format!("not with {shown}"));
            }
        }
        if request.path.ends_with("/info/refs") {
            self.shaken.store(true, Ordering::Relaxed);
        }
        let post = request.method == "POST";
        match fault {
            Fault::Status(code, page) => Response::plain(&format!("{code} Fault"), page),
            Fault::Redirect(to) => {
                let mut response = Response::plain("301 Moved Permanently", "");
                response.headers.push(("Location".to_owned(), to.clone()));
                response
            }
            Fault::RedirectFiles(to) if request.path.starts_with(FILES) => {
                let mut response = Response::plain("302 Found", "");
                response.headers.push(("Location".to_owned(), to.clone()));
                response
            }
            Fault::RejectBarePost if post && !self.shaken.load(Ordering::Relaxed) => {
                Response::plain("400 Bad Request", "ask for info/refs first")
            }
            Fault::Canned(bytes) if post => {
                let service = if request.path.ends_with("git-receive-pack") { "receive" } else { "upload" };
                let kind = format!("application/x-git-{service}-pack-result");
                Response { status: "200 OK".to_owned(), headers: vec![("Content-Type".to_owned(), kind)], body: bytes.clone() }
            }
            _ if request.path.starts_with(FILES) => self.file(request, fault),
            _ => self
                .backend(request, matches!(fault, Fault::OldProtocol))
                .unwrap_or_else(|error| Response::plain("502 Bad Gateway", &format!("git http-backend: {error}"))),
        }
    }

    /// A plain file, or the end of it.
    fn file(&self, request: &Request, fault: &Fault) -> Response {
        let whole = matches!(fault, Fault::NoRanges);
        let Ok(body) = std::fs::read(self.root.join(&request.path[1..])) else {
            return Response::plain("404 Not Found", "no such file");
        };
        let range = request.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let Some(from) = range.filter(|_| !whole) else {
            return Response { status: "200 OK".to_owned(), headers: Vec::new(), body };
        };
        if from >= body.len() {
            return Response::plain("416 Range Not Satisfiable", "");
        }
        let from = if matches!(fault, Fault::OtherRange) { from / 2 } else { from };
        let place = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
        let headers = vec![("Content-Range".to_owned(), place)];
        Response { status: "206 Partial Content".to_owned(), headers, body: body[from..].to_vec() }
    }

    /// Runs `git http-backend` as a CGI program.
    fn backend(&self, request: &Request, old_protocol: bool) -> io::Result<Response> {
        let mut command = Command::new("git");
        command.arg("http-backend").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
            .env("GIT_PROJECT_ROOT", &self.root)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "safe.directory")
            .env("GIT_CONFIG_VALUE_0", "*")
            .env("PATH_INFO", &request.path)
            .env("QUERY_STRING", &request.query)
            .env("REQUEST_METHOD", &request.method)
            .env("CONTENT_LENGTH", request.body.len().to_string())
            .env("REMOTE_ADDR", "127.0.0.1")
            .env_remove("GIT_PROTOCOL");
        for (header, variable) in [("content-type", "CONTENT_TYPE"), ("content-encoding", "HTTP_CONTENT_ENCODING")] {
            if let Some(value) = request.headers.get(header) {
                command.env(variable, value);
            }
        }
        if let Some(version) = request.headers.get("git-protocol").filter(|_| !old_protocol) {
            command.env("GIT_PROTOCOL", version);
        }
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let body = request.body.clone();
        // Beside the reading, or both could wait for the other.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&body)));
        let output = child.wait_with_output()?.stdout;
        let _ = writer.join();
        let end = output.windows(4).position(|window| window == b"\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
        let (mut status, mut headers) = ("200 OK".to_owned(), Vec::new());
        for line in String::from_utf8_lossy(&output[..end]).split("\r\n") {
            match line.split_once(": ") {
                Some(("Status", value)) => value.clone_into(&mut status),
                Some((name, value)) => headers.push((name.to_owned(), value.to_owned())),
                None => {}
            }
        }
        Ok(Response { status, headers, body: output[end + 4..].to_vec() })
    }

    fn write(&self, to: &mut dyn Duplex, response: Response, fault: &Fault) -> io::Result<()> {
        if let Fault::Raw(bytes) = fault {
            to.write_all(bytes)?;
            to.flush()?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let mut head = format!("HTTP/1.1 {}\r\n", response.status);
        if matches!(fault, Fault::EndlessHead) {
            to.write_all(head.as_bytes())?;
            while !self.over.load(Ordering::Relaxed) {
                to.write_all(format!("X-Filler: {}\r\n", "x".repeat(1000)).as_bytes())?;
            }
        }
        for (name, value) in &response.headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        let body = &response.body;
        match fault {
            // Without a length the body ends when the connection does: never.
            Fault::Endless => head.push_str("Connection: close\r\n\r\n"),
            _ => head.extend(["Content-Length: ", &body.len().to_string(), "\r\n\r\n"]),
        }
        to.write_all(head.as_bytes())?;
        match fault {
            Fault::Stall(after) => {
                to.write_all(&body[..body.len().min(*after)])?;
                to.flush()?;
                self.wait(PATIENCE);
                Err(io::ErrorKind::TimedOut.into())
            }
            Fault::Cut(after) => {
                to.write_all(&body[..body.len().min(*after)])?;
                to.flush()?;
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Fault::Trickle(pause) => {
                for byte in body {
                    to.write_all(&[*byte])?;
                    to.flush()?;
                    self.wait(*pause);
                }
                Ok(())
            }
            Fault::Endless => {
                to.write_all(body)?;
                while !self.over.load(Ordering::Relaxed) {
                    to.write_all(&[b'0'; 16 << 10])?;
                }
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            _ => to.write_all(body).and_then(|()| to.flush()),
        }
    }

    fn wait(&self, span: Duration) {
        let step = Duration::from_millis(20).min(span);
        let mut waited = Duration::ZERO;
        while waited < span && !self.over.load(Ordering::Relaxed) {
            std::thread::sleep(step);
            waited += step;
        }
    }
}

pub(crate) fn read_request(reader: &mut BufReader<Box<dyn Duplex>>) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let (path, query) = target.split_once('?').map_or((target.as_str(), ""), |split| split);
    let (path, query) = (path.to_owned(), query.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    if headers.get("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
        reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let mut body = Vec::new();
    if headers.get("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
            reader.by_ref().take(size).read_to_end(&mut body)?;
            reader.read_line(&mut String::new())?;
            if size == 0 {
                break;
            }
        }
    } else if let Some(size) = headers.get("content-length").and_then(|value| value.parse().ok()) {
        reader.by_ref().take(size).read_to_end(&mut body)?;
    }
    Ok(Some(Request { method, path, query, headers, body }))
}
