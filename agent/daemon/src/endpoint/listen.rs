//! What is listened on: sockets that systemd hands over, or one that a person names. Never anything but this host.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;
use std::str::FromStr;

use nix::sys::socket::{AddressFamily, SockaddrLike as _, SockaddrStorage, getsockname};

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A Unix socket at this path.
    Unix(PathBuf),
    /// A port of the loopback.
    Tcp(SocketAddr),
}

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Others than this host would be served.
    #[error("{0} is not an address of the loopback: the status is for this host only")]
    NotLoopback(SocketAddr),
    /// Nothing was handed over.
    #[error("systemd handed over no socket; it is started by trimtab-status.socket, or by hand with --listen")]
    NoSocket,
    /// A socket cannot be used.
    #[error("cannot listen on {0}")]
    Socket(String, #[source] std::io::Error),
    /// The process itself cannot go on.
    #[error("cannot serve")]
    Runtime(#[source] std::io::Error),
}

impl FromStr for Listen {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            return Ok(Listen::Unix(PathBuf::from(text)));
        }
        let address: SocketAddr =
            text.parse().map_err(|_| format!("{text:?} is neither a path nor an address such as 127.0.0.1:9464"))?;
        if address.ip().is_loopback() {
            return Ok(Listen::Tcp(address));
        }
        Err(EndpointError::NotLoopback(address).to_string())
    }
}

/// A socket that listens.
#[derive(Debug)]
pub enum Listener {
    /// On a path.
    Unix(tokio::net::UnixListener),
    /// On the loopback.
    Tcp(tokio::net::TcpListener),
    /// On something that others than this host can reach: whoever connects is hung up on.
    Refused(tokio::net::TcpListener, SocketAddr),
}

impl Listener {
    /// Opens what a person named. Must be called within a runtime.
    pub fn open(listen: &Listen) -> Result<Self, EndpointError> {
        match listen {
            Listen::Unix(path) => {
                let wrong = |error| EndpointError::Socket(path.display().to_string(), error);
                // One that a killed process left; nothing else is taken away.
                if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
                    std::fs::remove_file(path).map_err(wrong)?;
                }
                tokio::net::UnixListener::bind(path).map(Listener::Unix).map_err(wrong)
            }
            Listen::Tcp(address) => {
                let bound = std::net::TcpListener::bind(address).and_then(tcp);
                bound.map(Listener::Tcp).map_err(|error| EndpointError::Socket(address.to_string(), error))
            }
        }
    }

    /// The sockets that systemd handed over. Must be called within a runtime.
    pub fn handed_over() -> Result<Vec<Self>, EndpointError> {
        let wrong = |error: std::io::Error| EndpointError::Socket("what systemd handed over".to_owned(), error);
        let sockets = crate::host::sys::handed_over().map_err(wrong)?;
        let list: Result<Vec<Self>, std::io::Error> = sockets.into_iter().map(Self::of).collect();
        let list = list.map_err(wrong)?;
        if list.is_empty() { Err(EndpointError::NoSocket) } else { Ok(list) }
    }

    fn of(socket: OwnedFd) -> std::io::Result<Self> {
        let name: SockaddrStorage = getsockname(socket.as_raw_fd())?;
        if name.family() == Some(AddressFamily::Unix) {
            let listener = std::os::unix::net::UnixListener::from(socket);
            listener.set_nonblocking(true)?;
            return tokio::net::UnixListener::from_std(listener).map(Listener::Unix);
        }
        // Of any other kind: asking for its address says that it is none of TCP.
        let listener = std::net::TcpListener::from(socket);
        let address = listener.local_addr()?;
        let listener = tcp(listener)?;
        Ok(if address.ip().is_loopback() { Listener::Tcp(listener) } else { Listener::Refused(listener, address) })
    }
}

fn tcp(listener: std::net::TcpListener) -> std::io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}
