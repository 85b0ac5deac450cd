//! Container images in Podman's local storage: which are there, and getting those that are not.
//!
//! Guarantees: all pulls come before anything is stopped, each in a transient unit with a time limit; what a pull gave is looked up
//! again before it counts. Limits: root's storage only; an image that the repository drops stays until `podman image prune`.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;

use super::command::{self, Command, CommandError, Runner};

/// Room for the list of some thousand images.
const LIST_LIMIT: usize = 8 << 20;

/// What went wrong with images.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is no Podman.
    #[error("podman is not installed on this host; containers and images need it (the package is called podman)")]
    NoPodman,
    /// Podman could not list what it has.
    #[error("could not list the images in podman's storage")]
    List {
        /// Why.
        source: CommandError,
    },
    /// Podman's list is not what is known of it.
    #[error("podman's list of images could not be read")]
    Unreadable {
        /// What the parser said.
        source: serde_json::Error,
    },
    /// The list is larger than any host should have.
    #[error("podman's list of images is longer than {LIST_LIMIT} bytes; prune the storage")]
    TooMany,
    /// The pull failed.
    #[error("could not pull {image}")]
    Pull {
        /// As `Image=` names it.
        image: String,
        /// Why.
        source: CommandError,
    },
    /// Podman said that it pulled the image, and does not have it.
    #[error("podman pulled {image} but does not have it afterwards; its name and digest may not belong together")]
    NotThere {
        /// As `Image=` names it.
        image: String,
    },
}

#[derive(Debug, Deserialize)]
struct Listed {
    #[serde(rename = "Names", default)]
    names: Option<Vec<String>>,
    #[serde(rename = "RepoDigests", default)]
    digests: Option<Vec<String>>,
}

fn podman(what: &'static str, arguments: &[&str]) -> Command {
    Command::new(what, std::iter::once("podman").chain(arguments.iter().copied()))
}

fn told_missing(error: CommandError, other: impl FnOnce(CommandError) -> ImageError) -> ImageError {
    match error {
        CommandError::Missing { .. } => ImageError::NoPodman,
        error => other(error),
    }
}

/// Which of the images are in local storage. One start of Podman for all that its list shows by name; one more for each that it does not
/// (a short name, which only Podman can resolve, or an image that is truly missing and about to be pulled anyway).
pub async fn present(images: impl IntoIterator<Item = &str>, runner: &Runner) -> Result<BTreeSet<String>, ImageError> {
    let images: BTreeSet<&str> = images.into_iter().collect();
    if images.is_empty() {
        return Ok(BTreeSet::new());
    }
    let listing = podman("images", &["images", "--format", "json"]).about("list images").output_limit(LIST_LIMIT);
    let failed = |error| told_missing(error, |source| ImageError::List { source });
    let output = command::run(&listing, runner).await.and_then(command::Output::successful).map_err(failed)?;
    if output.cut {
        return Err(ImageError::TooMany);
    }
    let known = names(&output.stdout)?;
    let mut found = BTreeSet::new();
    for image in images {
        if known.contains(&canonical(image)) || exists(image, runner).await? {
            found.insert(image.to_owned());
        }
    }
    Ok(found)
}

async fn exists(image: &str, runner: &Runner) -> Result<bool, ImageError> {
    let asking = podman("image", &["image", "exists", "--", image]);
    let failed = |error| told_missing(error, |source| ImageError::List { source });
    Ok(command::run(&asking, runner).await.map_err(failed)?.is_success())
}

/// Gets one image into local storage.
pub async fn pull(image: &str, runner: &Runner, patience: Duration) -> Result<(), ImageError> {
    let pulling = podman("pull", &["pull", "--quiet", "--", image]).about(format!("pull image {image}")).timeout(patience);
    let failed = |error| told_missing(error, |source| ImageError::Pull { image: image.to_owned(), source });
    let started = std::time::Instant::now();
    command::run(&pulling, runner).await.and_then(command::Output::successful).map_err(failed)?;
    if !exists(image, runner).await? {
        return Err(ImageError::NotThere { image: image.to_owned() });
    }
    tracing::info!(target: crate::log::PROGRESS, image, seconds = started.elapsed().as_secs(), "pulled");
    Ok(())
}

/// Gets one image, named by digest, from an archive in OCI's layout. Podman says afterwards what it has: another image under that name is removed.
pub async fn load(image: &str, archive: &std::path::Path, runner: &Runner, patience: Duration) -> Result<(), ImageError> {
    let archive = archive.display().to_string();
    let loading = podman("load", &["load", "--quiet", "--input", &archive]).about(format!("load image {image}")).timeout(patience);
    let failed = |error| told_missing(error, |source| ImageError::Pull { image: image.to_owned(), source });
    command::run(&loading, runner).await.and_then(command::Output::successful).map_err(failed)?;
    let asking = podman("image", &["image", "inspect", "--format", "{{.Digest}}", "--", image]);
    let said = command::run(&asking, runner).await.map_err(failed)?;
    let is_it = image.split_once('@').is_some_and(|(_, digest)| said.is_success() && said.text().trim() == digest);
    if is_it {
        tracing::info!(target: crate::log::PROGRESS, image, "loaded from the bundle");
        return Ok(());
    }
    // Nobody may run what only bears the name.
    let removing = podman("rmi", &["image", "rm", "--", image]);
    let _ = command::run(&removing, runner).await;
    Err(ImageError::NotThere { image: image.to_owned() })
}

/// Every name by which the list knows an image.
fn names(list: &[u8]) -> Result<BTreeSet<String>, ImageError> {
    // Podman before 4.0 prints `null` for an empty storage.
    let list: Option<Vec<Listed>> = serde_json::from_slice(list).map_err(|source| ImageError::Unreadable { source })?;
    let all = list.unwrap_or_default().into_iter().flat_map(|image| [image.names, image.digests]).flatten().flatten();
    Ok(all.collect())
}

/// As the list writes it: a digest outranks a tag, which Podman drops (`app:1@sha256:…` is stored as `app@sha256:…`).
fn canonical(image: &str) -> String {
    let Some((name, digest)) = image.split_once('@') else { return image.to_owned() };
    let tag = name.rfind(':').filter(|at| !name[*at..].contains('/'));
    format!("{}@{digest}", tag.map_or(name, |at| &name[..at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_outranks_a_tag_and_a_port_is_no_tag() {
        assert_eq!(canonical("localhost:5000/app@sha256:ab"), "localhost:5000/app@sha256:ab");
        assert_eq!(canonical("localhost:5000/app:1.2@sha256:ab"), "localhost:5000/app@sha256:ab");
        assert_eq!(canonical("quay.io/app:1"), "quay.io/app:1");
    }

    #[test]
    fn the_list_of_podman_5_is_read() {
        let list = br#"[{"Id":"1","RepoTags":null,"RepoDigests":["r/a@sha256:1","r/a@sha256:2"],"Names":["r/a:1"],"Size":3},{"Id":"2","RepoDigests":null}]"#;
        let names = names(list).unwrap();
        assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), ["r/a:1", "r/a@sha256:1", "r/a@sha256:2"]);
        assert!(super::names(b"null").unwrap().is_empty());
        assert!(super::names(b"no json").is_err());
    }
}
