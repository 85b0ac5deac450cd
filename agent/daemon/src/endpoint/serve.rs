//! Connections, each within bounds: hyper parses, this counts, waits and ends.
//!
//! A client can have one of [`CLIENTS`] places, [`HEAD`] bytes of header within [`PATIENCE`], and [`LIFE`] in all: whoever reads slowly or says
//! nothing is ended, whatever it was doing. What it sends beyond a header is never read.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, HeaderName, HeaderValue, IF_NONE_MATCH};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::{Answer, Question, answer};
use super::document::Reader;
use super::listen::{EndpointError, Listener};

/// How many connections at once; more wait in the kernel's queue.
const CLIENTS: usize = 32;
/// How large a header may be, and the buffer of a connection (the least that hyper takes).
const HEAD: usize = 8192;
/// How long a client may take for its header, and may say nothing between two requests.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may last; a scraper opens another one for each visit.
const LIFE: Duration = Duration::from_secs(30);

/// What all connections share.
struct Desk {
    reader: RefCell<Reader>,
    asked: Cell<Instant>,
    open: Cell<usize>,
}

/// Serves a status document until nobody has asked for so long (`idle`), or for ever.
pub async fn serve(listeners: Vec<Listener>, document: PathBuf, idle: Option<Duration>) -> Result<(), EndpointError> {
    let desk = Rc::new(Desk { reader: RefCell::new(Reader::new(document)), asked: Cell::new(Instant::now()), open: Cell::new(0) });
    let places = std::sync::Arc::new(Semaphore::new(CLIENTS));
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            for listener in listeners {
                tokio::task::spawn_local(accept(listener, Rc::clone(&desk), std::sync::Arc::clone(&places)));
            }
            let Some(limit) = idle else { return std::future::pending().await };
            loop {
                let quiet = desk.asked.get().elapsed();
                if quiet >= limit && desk.open.get() == 0 {
                    return Ok(());
                }
                // A connection that says nothing ends by itself, and soon.
                tokio::time::sleep(limit.saturating_sub(quiet).max(Duration::from_secs(1))).await;
            }
        })
        .await
}

async fn accept(listener: Listener, desk: Rc<Desk>, places: std::sync::Arc<Semaphore>) {
    if let Listener::Refused(_, address) = &listener {
        tracing::error!("{address} is not of the loopback: who connects there is hung up on; the status is for this host only");
    }
    loop {
        // The semaphore is never closed.
        let Ok(place) = std::sync::Arc::clone(&places).acquire_owned().await else { return };
        let accepted = match &listener {
            Listener::Unix(socket) => socket.accept().await.map(|(stream, _)| attend(stream, &desk, place)),
            Listener::Tcp(socket) => socket.accept().await.map(|(stream, _)| attend(stream, &desk, place)),
            Listener::Refused(socket, _) => socket.accept().await.map(drop),
        };
        if let Err(error) = accepted {
            // Out of descriptors, say: what is served ends and gives some back.
            tracing::warn!("a connection could not be taken: {error}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn attend(stream: impl AsyncRead + AsyncWrite + Unpin + 'static, desk: &Rc<Desk>, place: OwnedSemaphorePermit) {
    let desk = Rc::clone(desk);
    desk.open.set(desk.open.get() + 1);
    tokio::task::spawn_local(async move {
        let service = hyper::service::service_fn(|request| {
            desk.asked.set(Instant::now());
            let response = respond(&request, &desk);
            async move { Ok::<_, Infallible>(response) }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(HEAD).max_headers(64).half_close(false);
        // How a client ends is its own business.
        let _ = tokio::time::timeout(LIFE, http.serve_connection(TokioIo::new(stream), service)).await;
        desk.open.set(desk.open.get() - 1);
        drop(place);
    });
}

fn respond(request: &Request<Incoming>, desk: &Desk) -> Response<Full<Bytes>> {
    let field = |name: HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let question = Question {
        method: request.method().as_str(),
        path: request.uri().path(),
        accept: field(ACCEPT),
        known: field(IF_NONE_MATCH),
        now,
    };
    response(answer(question, || desk.reader.borrow_mut().look()))
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = StatusCode::from_u16(answer.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let always = [("cache-control", "no-cache"), ("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer")];
    let kind = (!answer.kind.is_empty()).then_some(("content-type", answer.kind.to_owned()));
    let fields = always.map(|(name, value)| (name, value.to_owned())).into_iter().chain(kind).chain(answer.fields);
    for (name, value) in fields {
        // A reason may hold anything; what no field may hold is left out.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
