//! The status document for who asks on this host: as JSON, as metrics and as a page, over HTTP on a Unix socket (or loopback TCP, when the
//! operator adds that to the socket's unit).
//!
//! A process of its own without rights: systemd starts it at the first connection and it leaves when nobody asks any more. It reads one file.
//! Guarantees: nothing is ever written; what it says holds no last words of programs and no line of a file
//! ([`trimtab_model::public`]); it serves nobody but this host, whatever it is given to listen on; a client that is slow, endless or one of
//! many takes bounded memory and is ended. Limits: who may connect is said by the socket's unit, and is everybody on the host by default.

mod answer;
mod document;
mod listen;
pub mod metrics;
mod page;
mod serve;
mod timeline;

pub use listen::{EndpointError, Listen, Listener};
pub use serve::serve;
