//! The render worker as a program of its own, as `trimtab render-worker` is: what the tests of its limits start.

use std::process::ExitCode;

fn main() -> ExitCode {
    match trimtab::render::worker(std::io::stdin().lock(), std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "{error}: {:?}", std::error::Error::source(&error));
            ExitCode::FAILURE
        }
    }
}
