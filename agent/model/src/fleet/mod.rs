//! The fleet repository, format 1: its TOML files, parsed whole, with the place of everything that a finding may point at.
//!
//! Parsing looks at one file at a time and says all that is wrong with it; what only shows when files meet (a required variable
//! that nobody sets, two claims on one path) is [`crate::render`]'s. What operators read about it is `examples/FORMAT.md`.

mod artifact;
mod command;
mod component;
mod drift;
mod file;
mod health;
mod host;
mod ignore;
pub mod read;
pub mod selector;
pub mod time;
pub mod value;
mod variable;

pub use artifact::{DeclaredArtifact, MAX_SIZE as MAX_ARTIFACT};
pub(crate) use artifact::{judge_digest, judge_size, judge_url};
pub use command::DeclaredHook;
pub use component::{Component, FileRule, MadeDirectory, MadeSymlink, UnitRule};
pub(crate) use component::{folder as component_folder, judge_target};
pub use drift::ExclusiveRule;
pub(crate) use drift::judge_exclusive;
pub use file::{FleetFile, Group, Settings};
pub use health::{Ask, DeclaredCheck};
pub use host::HostFile;
pub use ignore::DeclaredKeys;
pub(crate) use ignore::judge_content;
pub use variable::{Variable, Variables, read_variables};

/// The format that this version reads.
pub const FORMAT: i64 = 1;
