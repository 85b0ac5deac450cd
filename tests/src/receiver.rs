//! What takes reports in the tests: HTTP or HTTPS on loopback, keeps what it took, and misbehaves as receivers do ([`Manner`]).
//!
//! In the lab's machines it runs as a program of its own (`tests/examples/receiver.rs`) and keeps what it took in a folder.

use std::collections::HashMap;
use std::io::{self, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::server::{Duplex, Request, Tls, lock, read_request, server_config};

/// The longest that it stays silent, trickles or floods.
const PATIENCE: Duration = Duration::from_secs(60);

/// How it treats the next requests.
#[derive(Debug, Clone, Default)]
pub enum Manner {
    /// Takes it and says so.
    #[default]
    Fine,
    /// Takes nothing and answers with this status, these fields and this page.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// Takes bodies of at most so many bytes; larger ones are answered with 413.
    AtMost(usize),
    /// Takes it and hangs up without a word: the sender cannot know.
    TakesAndHangsUp,
    /// Takes it and says so to every so many; the others it takes and hangs up, or takes not and answers 503.
    Moody,
    /// Hangs up at once.
    Slams,
    /// Reads the request and says nothing.
    Silent,
    /// Sends its head byte by byte with this pause.
    Trickles(Duration),
    /// A head without end.
    EndlessHead,
    /// Says 503, and a page without end.
    EndlessPage,
    /// Answers with these bytes.
    Rubbish(Vec<u8>),
}

/// A request that it took.
#[derive(Debug, Clone)]
pub struct Taken {
    /// Its path.
    pub path: String,
    /// Its fields, names in lower case.
    pub headers: HashMap<String, String>,
    /// Its body.
    pub body: Vec<u8>,
}

/// The running receiver.
pub struct Receiver {
    shared: Arc<Shared>,
    address: SocketAddr,
    scheme: &'static str,
}

struct Shared {
    tls: Option<Arc<ServerConfig>>,
    manner: Mutex<Manner>,
    taken: Mutex<Vec<Taken>>,
    requests: AtomicU64,
    over: AtomicBool,
    /// Where the program keeps what it took, and reads how to behave (`answer`: a status).
    folder: Option<PathBuf>,
}

impl Receiver {
    /// On a free port of loopback.
    ///
    /// # Panics
    /// When there is none.
    pub fn start(tls: Tls<'_>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("because loopback has free ports");
        let (scheme, tls) = match tls {
            Tls::Off => ("http", None),
            Tls::On(authority) => ("https", Some(Arc::new(server_config(authority, false)))),
            Tls::Mutual(authority) => ("https", Some(Arc::new(server_config(authority, true)))),
        };
        let address = listener.local_addr().expect("because it is bound");
        let shared = Arc::new(Shared::new(tls, None));
        let accepting = shared.clone();
        std::thread::spawn(move || accepting.accept(&listener));
        Self { shared, address, scheme }
    }

    /// For a program: on this port, keeping each body in the folder, for ever.
    ///
    /// # Panics
    /// When the port is taken.
    pub fn serve(port: u16, folder: PathBuf) {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("because nobody else has the port");
        Arc::new(Shared::new(None, Some(folder))).accept(&listener);
    }

    /// Where it is, without a trailing slash.
    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.address.port())
    }

    /// From the next request on.
    pub fn set(&self, manner: Manner) {
        *lock(&self.shared.manner) = manner;
    }

    /// What it took so far.
    pub fn taken(&self) -> Vec<Taken> {
        lock(&self.shared.taken).clone()
    }

    /// Requests so far, taken or not.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn new(tls: Option<Arc<ServerConfig>>, folder: Option<PathBuf>) -> Self {
        let (manner, taken) = (Mutex::default(), Mutex::default());
        // Started again, it goes on where it ended: what was taken before stays.
        let kept = |folder: &PathBuf| std::fs::read_dir(folder).map_or(0, Iterator::count) as u64;
        let requests = AtomicU64::new(folder.as_ref().map_or(0, kept) * 1000);
        Self { tls, manner, taken, requests, over: AtomicBool::new(false), folder }
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming().flatten() {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let shared = self.clone();
            std::thread::spawn(move || shared.connection(stream));
        }
    }

    fn connection(&self, stream: TcpStream) -> Option<()> {
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let _ = stream.set_write_timeout(Some(PATIENCE));
        if matches!(*lock(&self.manner), Manner::Slams) {
            self.requests.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let duplex: Box<dyn Duplex> = match &self.tls {
            None => Box::new(stream),
            Some(config) => Box::new(StreamOwned::new(ServerConnection::new(config.clone()).ok()?, stream)),
        };
        let mut reader = BufReader::new(duplex);
        // An error is a client that went away, which is the client's right.
        while let Ok(Some(request)) = read_request(&mut reader) {
            let number = self.requests.fetch_add(1, Ordering::Relaxed);
            let manner = self.manner();
            self.answer(reader.get_mut().as_mut(), request, manner, number).ok()?;
        }
        None
    }

    /// As it was told; a program is told by a file.
    fn manner(&self) -> Manner {
        let code = self.folder.as_ref().and_then(|folder| std::fs::read_to_string(folder.join("answer")).ok());
        match code.and_then(|code| code.trim().parse().ok()) {
            Some(code) => Manner::Answer(code, Vec::new(), "as it was told".to_owned()),
            None => lock(&self.manner).clone(),
        }
    }

    fn answer(&self, to: &mut dyn Duplex, request: Request, manner: Manner, number: u64) -> io::Result<()> {
        let fine = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n";
        let hang_up = || Err(io::ErrorKind::ConnectionAborted.into());
        match manner {
            Manner::AtMost(most) if request.body.len() > most => {
                to.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")?;
            }
            Manner::Fine | Manner::AtMost(_) => {
                self.take(request, number);
                to.write_all(fine)?;
            }
            Manner::Moody if number.is_multiple_of(3) => {
                self.take(request, number);
                to.write_all(fine)?;
            }
            Manner::Moody if number % 3 == 1 => {
                to.write_all(b"HTTP/1.1 503 Not Now\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")?;
            }
            Manner::TakesAndHangsUp | Manner::Moody => {
                self.take(request, number);
                return hang_up();
            }
            Manner::Answer(code, fields, page) => {
                write!(to, "HTTP/1.1 {code} So\r\n")?;
                for (name, value) in fields {
                    write!(to, "{name}: {value}\r\n")?;
                }
                write!(to, "Content-Length: {}\r\n\r\n{page}", page.len())?;
            }
            Manner::Slams => return hang_up(),
            Manner::Silent => self.until_over(|| {
                std::thread::sleep(Duration::from_millis(20));
                Ok(())
            })?,
            Manner::Trickles(pause) => self.until_over(|| {
                std::thread::sleep(pause);
                to.write_all(b"H").and_then(|()| to.flush())
            })?,
            Manner::EndlessHead => {
                to.write_all(b"HTTP/1.1 202 Accepted\r\n")?;
                self.until_over(|| {
                    to.write_all(b"X-More: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n")
                })?;
            }
            Manner::EndlessPage => {
                to.write_all(b"HTTP/1.1 503 Not Now\r\nConnection: close\r\n\r\n")?;
                self.until_over(|| to.write_all(&[b'a'; 16 << 10]))?;
            }
            Manner::Rubbish(bytes) => {
                to.write_all(&bytes)?;
                to.flush()?;
                return hang_up();
            }
        }
        to.flush()
    }

    fn take(&self, request: Request, number: u64) {
        if let Some(folder) = &self.folder {
            // Renamed, so that who looks never sees half of one.
            let (beside, path) = (folder.join(".new"), folder.join(format!("{number:06}.json")));
            let kept = std::fs::write(&beside, &request.body).and_then(|()| std::fs::rename(&beside, &path));
            kept.expect("because the folder is the test's own");
        }
        lock(&self.taken).push(Taken { path: request.path, headers: request.headers, body: request.body });
    }

    fn until_over(&self, mut step: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        let begun = Instant::now();
        while !self.over.load(Ordering::Relaxed) && begun.elapsed() < PATIENCE {
            step()?;
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}
