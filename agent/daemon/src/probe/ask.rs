//! `trimtab probe`: the unprivileged process that asks the network whether a service is healthy, until that is decided.
//!
//! Guarantees: it ends by the timeout; of an answer it reads at most [`MAX_BODY`] bytes; it follows no redirect, uses no proxy, and an https
//! server must show a certificate that the system's authorities vouch for.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use trimtab_model::health::{Answer, Timing};

use super::Clocked;

/// How much of an answer is searched for `body`.
pub const MAX_BODY: usize = 64 << 10;
/// One question has this long.
const ONE: Duration = Duration::from_secs(10);

/// For one connection: whom it asks is this host. One that is made in the moment in which a container's port is being published hangs in the
/// kernel for a minute, while the next one is answered.
const CONNECT: Duration = Duration::from_secs(2);

/// What to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// A GET.
    Http {
        /// Of this.
        url: String,
        /// The statuses that are good; empty: 200 to 299.
        status: Vec<u16>,
        /// What the answer contains.
        body: Option<String>,
    },
    /// A connection to `host:port`.
    Tcp(String),
}

/// Why a question could not even be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The machine is out of something.
    #[error("the probe could not begin")]
    Runtime(#[source] std::io::Error),
    /// No TLS, or not that URL.
    #[error("the probe's HTTP client could not be made")]
    Client(#[source] reqwest::Error),
    /// Nobody could vouch for an https server.
    #[error("this machine has no certificate authorities (package ca-certificates), so no https server can be believed")]
    NoAuthorities,
    /// It was asked, and it is not healthy.
    #[error("{0}")]
    Unhealthy(String),
}

/// Asks until it is decided.
pub fn ask(question: &Question, timing: Timing) -> Result<(), AskError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AskError::Runtime)?;
    let client = client(matches!(question, Question::Http { url, .. } if url.starts_with("https:")))?;
    let decided = runtime.block_on(async {
        let mut clocked = Clocked::new(timing);
        loop {
            let limit = clocked.left().min(ONE);
            let answer = match tokio::time::timeout(limit, once(&client, question)).await {
                Ok(Ok(())) => Answer::Good,
                Ok(Err(why)) => Answer::Bad(why),
                Err(_) => Answer::Bad(format!("no answer within {}", humantime::format_duration(limit))),
            };
            if let Some(decided) = clocked.take(Some(answer)) {
                return decided;
            }
            tokio::time::sleep_until(clocked.next()).await;
        }
    });
    // A name lookup that hangs must not hold up the end.
    runtime.shutdown_background();
    decided.map_err(AskError::Unhealthy)
}

fn client(tls: bool) -> Result<reqwest::Client, AskError> {
    let mut roots = rustls::RootCertStore::empty();
    if tls {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(AskError::NoAuthorities);
        }
    }
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("because ring's provider has the default protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .user_agent(concat!("trimtab/", env!("CARGO_PKG_VERSION")))
        // Each question is a new one: a connection that the old process still holds says nothing about the new one.
        .pool_max_idle_per_host(0)
        .connect_timeout(CONNECT)
        // Always given, or reqwest would look for a provider that nobody installed, and panic.
        .tls_backend_preconfigured(tls)
        .build()
        .map_err(AskError::Client)
}

async fn once(client: &reqwest::Client, question: &Question) -> Result<(), String> {
    match question {
        Question::Tcp(address) => match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(connected) => connected.map(drop).map_err(|error| error.to_string()),
            Err(_) => Err(format!("no connection within {}", humantime::format_duration(CONNECT))),
        },
        Question::Http { url, status, body } => {
            let mut response = client.get(url).send().await.map_err(told)?;
            let is = response.status();
            let good = if status.is_empty() { is.is_success() } else { status.contains(&is.as_u16()) };
            if !good {
                return Err(format!("answered with status {}", is.as_u16()));
            }
            let Some(wanted) = body else { return Ok(()) };
            let mut found = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(told)? {
                let room = MAX_BODY - found.len();
                found.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if contains(&found, wanted.as_bytes()) {
                    return Ok(());
                }
                if found.len() == MAX_BODY {
                    break;
                }
            }
            Err("the answer does not contain what `body` asks for".to_owned())
        }
    }
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}

/// The innermost cause says it best: "Connection refused".
fn told(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = cause.to_string();
        next = cause.source();
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// A server that gives the next of these answers to each connection, and nothing at all to those after.
    fn server(answers: Vec<Vec<u8>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let mut held = Vec::new();
            let mut answers = answers.into_iter();
            while let Ok((mut stream, _)) = listener.accept() {
                match answers.next() {
                    Some(answer) => {
                        let _ = stream.read(&mut [0; 4096]);
                        // Who has read enough hangs up.
                        let _ = stream.write_all(&answer);
                    }
                    None => held.push(stream),
                }
            }
        });
        address
    }

    #[test]
    fn a_connection_that_hangs_does_not_hold_up_the_next() {
        use nix::sys::socket::{Backlog, listen};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        // Its queue is full, and stays so: each further connection hangs.
        let first = std::net::TcpStream::connect(&address).unwrap();
        let http = Question::Http { url: format!("http://{address}/"), status: Vec::new(), body: None };
        for question in [Question::Tcp(address), http] {
            let asked = ask(&question, timing(3_000));
            let AskError::Unhealthy(why) = asked.unwrap_err() else { panic!("it was asked") };
            assert!(!why.contains("no answer within 3s"), "the first one held up the others: {why}");
        }
        drop(first);
    }

    fn answer(head: &str, body: &str) -> Vec<u8> {
        format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).into_bytes()
    }

    fn timing(timeout_ms: u64) -> Timing {
        Timing { timeout_ms, interval_ms: 20, settle_ms: 0, retries: 0 }
    }

    fn http(answers: Vec<Vec<u8>>, status: &[u16], body: Option<&str>) -> Result<(), String> {
        let question =
            Question::Http { url: format!("http://{}/", server(answers)), status: status.to_vec(), body: body.map(str::to_owned) };
        ask(&question, timing(1500)).map_err(|error| error.to_string())
    }

    fn failed(why: &str) -> Result<(), String> {
        Err(format!("it was not good within 1500ms: {why}"))
    }

    #[test]
    fn an_answer_is_judged_by_its_status_and_its_text() {
        assert_eq!(http(vec![answer("204 No Content", "")], &[], None), Ok(()));
        assert_eq!(http(vec![answer("503 Busy", "")], &[503, 200], None), Ok(()));
        assert_eq!(http(vec![answer("200 OK", "all is ready")], &[], Some("is rea")), Ok(()));
        // Bad ones are waited out.
        assert_eq!(http(vec![answer("500 No", ""), answer("500 No", ""), answer("200 OK", "")], &[], None), Ok(()));
        assert_eq!(
            http(vec![answer("200 OK", "no"); 400], &[], Some("yes")),
            failed("the answer does not contain what `body` asks for")
        );
        // No redirect is followed: the next answer would be good.
        let away = answer("302 Found\r\nLocation: /", "");
        assert_eq!(http(vec![away; 400], &[], None), failed("answered with status 302"));
    }

    #[test]
    fn no_more_is_read_than_is_told() {
        let filled = |before: usize| answer("200 OK", &format!("{}end", "x".repeat(before)));
        assert_eq!(http(vec![filled(MAX_BODY - 3)], &[], Some("end")), Ok(()));
        assert_eq!(
            http(vec![filled(MAX_BODY - 2); 400], &[], Some("end")),
            failed("the answer does not contain what `body` asks for")
        );
    }

    #[test]
    fn a_server_that_says_nothing_does_not_hold_it_up() {
        // One question may take what is left, at least a second: the answer to the second one comes after the deadline.
        let said = http(Vec::new(), &[], None).unwrap_err();
        assert!(said.starts_with("it was not good within 1500ms: no answer within 1s"), "{said}");
        let silent = server(Vec::new());
        assert!(ask(&Question::Tcp(silent), timing(1000)).is_ok(), "accepted is all that tcp asks for");
    }
}
