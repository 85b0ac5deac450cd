//! The one binary of trimtab; every role of it is a subcommand.

fn main() -> std::process::ExitCode {
    trimtab::cli::main()
}
