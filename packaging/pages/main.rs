//! Makes what the packages carry for readers: `cargo run -p trimtab --example pages -- FOLDER DATE`.
//!
//! - `man/*.8` from the definition of the command line itself, one page for each command a person types;
//! - `man/*.5` and `man/*.7` from Markdown: the pages beside this file, and `examples/FORMAT.md` for the fleet repository;
//! - `completions/` for bash, zsh and fish.
//!
//! The same source and date give the same bytes: no clock, no path, no environment gets in.

use std::error::Error;
use std::fs;
use std::path::Path;

use clap_complete::Shell;
use clap_mangen::Man;

mod markdown;

const MANUAL: &str = "trimtab";

/// What stands at the foot of every page.
struct Edition {
    source: String,
    date: String,
}

/// Pages written by hand: name, section, the line under NAME, and the text.
const FORMATS: [(&str, &str, &str, &str); 3] = [
    ("trimtab-agent.toml", "5", "how a host follows its fleet repository", include_str!("agent.toml.md")),
    ("trimtab-trust.toml", "5", "whose signature counts on a host", include_str!("trust.toml.md")),
    ("trimtab-fleet", "7", "the fleet repository, format 1", include_str!("../../examples/FORMAT.md")),
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let (Some(out), Some(date)) = (words.next(), words.next()) else { return Err("usage: pages FOLDER DATE".into()) };
    let out = Path::new(&out);
    let (man, completions) = (out.join("man"), out.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;

    let edition = Edition { source: format!("trimtab {}", env!("CARGO_PKG_VERSION")), date };
    for (name, section, what, text) in FORMATS {
        fs::write(man.join(format!("{name}.{section}")), markdown::page(name, section, &edition, what, text))?;
    }
    let mut command = shown(trimtab::cli::command());
    command.build();
    pages(&command, &edition, &man)?;
    for (shell, file) in [(Shell::Bash, "trimtab.bash"), (Shell::Zsh, "_trimtab"), (Shell::Fish, "trimtab.fish")] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command, "trimtab", &mut text);
        fs::write(completions.join(file), text)?;
    }
    Ok(())
}

/// The command line without what only the agent itself and systemd start. clap cannot take a subcommand away again, so a
/// new root gets the others.
fn shown(full: clap::Command) -> clap::Command {
    let mut command = clap::Command::new("trimtab").disable_help_subcommand(true).propagate_version(true);
    command = command.version(env!("CARGO_PKG_VERSION")).subcommand_required(true).args(full.get_arguments().cloned());
    if let Some(about) = full.get_about() {
        command = command.about(about.clone());
    }
    if let Some(after) = full.get_after_help() {
        command = command.after_help(after.clone());
    }
    let typed: Vec<_> = full.get_subcommands().filter(|one| !one.is_hide_set()).cloned().collect();
    command.subcommands(typed)
}

fn pages(command: &clap::Command, edition: &Edition, folder: &Path) -> Result<(), Box<dyn Error>> {
    let name = command.get_display_name().unwrap_or("trimtab").to_owned();
    let page = Man::new(command.clone()).title(name.to_uppercase()).section("8").manual(MANUAL);
    let page = page.source(&edition.source).date(&edition.date);
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    if command.has_subcommands() {
        page.render_subcommands_section(&mut text)?;
    }
    // clap's words after the options are an example, or where to begin: laid out as they are.
    if let Some(after) = command.get_after_help() {
        let after = after.to_string();
        let example = after.strip_prefix("Example:\n");
        let heading = if example.is_some() { "EXAMPLE" } else { "WHERE TO BEGIN" };
        text.extend(markdown::literal(heading, example.unwrap_or(&after)).bytes());
    }
    text.extend(markdown::body(include_str!("common.md")).bytes());
    // Each part of clap's brings the definition of the apostrophe; once at the top is enough.
    let text = String::from_utf8(text)?;
    let apostrophe: Vec<&str> = text.lines().take(2).collect();
    let rest = text.lines().skip(2).filter(|line| !apostrophe.contains(line));
    let text = apostrophe.iter().copied().chain(rest).collect::<Vec<_>>().join("\n") + "\n";
    fs::write(folder.join(format!("{name}.8")), text)?;
    for one in command.get_subcommands() {
        pages(one, edition, folder)?;
    }
    Ok(())
}
