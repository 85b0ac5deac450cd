//! `trimtab endpoint`: serves the status document over HTTP; started by systemd at the first connection, or by hand with `--listen`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{complain, fail};
use crate::config::Places;
use crate::endpoint::{EndpointError, Listen, Listener, serve};
use crate::log;

/// `trimtab endpoint`.
#[derive(Debug, Args)]
pub(super) struct EndpointArgs {
    /// Listen here instead of on what systemd hands over, and stay: a path for a Unix socket, or an address of the loopback with a port.
    #[arg(long, value_name = "PATH|127.0.0.1:PORT")]
    listen: Option<Listen>,
    /// Leave when nobody has asked for so long; not with `--listen`.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration, conflicts_with = "listen")]
    idle: Duration,
}

pub(super) fn run(places: &Places, args: &EndpointArgs) -> ExitCode {
    log::start(if args.listen.is_some() { log::Audience::Person } else { log::Audience::Journal });
    let document = places.runtime().join("status.json");
    // Under systemd the unit says so.
    let limited = if args.listen.is_some() { limit_self() } else { Ok(()) };
    let outcome = limited.and_then(|()| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(EndpointError::Runtime)?;
        runtime.block_on(async {
            let listeners = match &args.listen {
                Some(listen) => vec![Listener::open(listen)?],
                None => Listener::handed_over()?,
            };
            let idle = args.listen.is_none().then_some(args.idle);
            serve(listeners, document, idle).await
        })
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(EndpointError::NoSocket) => {
            complain(&EndpointError::NoSocket.to_string());
            ExitCode::from(64)
        }
        Err(error) => fail(&error, 1),
    }
}

/// It holds a few connections and one document; whatever is sent to it, it stays within that.
fn limit_self() -> Result<(), EndpointError> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let cap = |resource, most: u64| {
        let (_, hard) = getrlimit(resource)?;
        setrlimit(resource, most.min(hard), most.min(hard))
    };
    cap(Resource::RLIMIT_NOFILE, 64)
        .and_then(|()| cap(Resource::RLIMIT_CORE, 0))
        .map_err(|errno| EndpointError::Runtime(errno.into()))
}
