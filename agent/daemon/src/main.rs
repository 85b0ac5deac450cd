//! The `trimtab` program.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "courier", "--config", config, "--cache", cache] => {
            trimtab::courier::run_as_process(Path::new(config), Path::new(cache))
        }
        _ => ExitCode::from(64),
    }
}
