//! Container images in Podman's local storage: which are there, which of them run, and getting those that are not there.
//!
//! Guarantees: all pulls come before anything is stopped, each in a transient unit with a time limit; what a pull gave is looked up
//! again before it counts; a question has a time limit, and an answer one in size. Limits: root's storage only; an image that the repository
//! drops stays until `podman image prune`.

use std::collections::{BTreeMap, BTreeSet};
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
    /// Podman could not list what runs.
    #[error("could not list podman's containers")]
    Containers {
        /// Why.
        source: CommandError,
    },
    /// Podman's list is not what is known of it.
    #[error("podman's list could not be read")]
    Unreadable {
        /// What the parser said.
        source: serde_json::Error,
    },
    /// The list is larger than any host should have.
    #[error("podman's list is longer than {LIST_LIMIT} bytes; prune the storage")]
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

impl ImageError {
    /// Whether Podman had to be stopped: one that hangs is not asked in pass after pass.
    pub fn is_hang(&self) -> bool {
        use CommandError::TimedOut;
        matches!(self, Self::List { source: TimedOut { .. } } | Self::Containers { source: TimedOut { .. } })
    }
}

/// Ids of images.
pub type Ids = BTreeSet<String>;

/// `podman images`, of one image.
#[derive(Debug, Deserialize)]
struct Listed {
    #[serde(rename = "Id")]
    id: String,
    #[serde(rename = "Names", default)]
    names: Option<Vec<String>>,
    #[serde(rename = "RepoDigests", default)]
    digests: Option<Vec<String>>,
}

/// `podman ps`, of one container.
#[derive(Debug, Deserialize)]
struct Contained {
    #[serde(rename = "ImageID", default)]
    image: String,
    #[serde(rename = "Labels", default)]
    labels: Option<BTreeMap<String, String>>,
}

/// Podman puts it on each container that a unit of Quadlet's starts.
const UNIT_LABEL: &str = "PODMAN_SYSTEMD_UNIT";

fn podman(what: &'static str, arguments: &[&str]) -> Command {
    Command::new(what, std::iter::once("podman").chain(arguments.iter().copied()))
}

fn told_missing(error: CommandError, other: impl FnOnce(CommandError) -> ImageError) -> ImageError {
    match error {
        CommandError::Missing { .. } => ImageError::NoPodman,
        error => other(error),
    }
}

/// Those of the images that are in local storage, each with the ids that its name means: one, but for a digest that stands for the images of
/// several architectures. One start of Podman for all that its list shows by name; one or two more for each that it does not (a short name,
/// which only Podman can resolve, or an image that is truly missing and about to be pulled anyway).
pub async fn present(images: impl IntoIterator<Item = &str>, runner: &Runner) -> Result<BTreeMap<String, Ids>, ImageError> {
    let images: BTreeSet<&str> = images.into_iter().collect();
    if images.is_empty() {
        return Ok(BTreeMap::new());
    }
    let listing = podman("images", &["images", "--no-trunc", "--format", "json"]).about("list images");
    let known = names(&list(listing, runner, |source| ImageError::List { source }).await?)?;
    let mut found = BTreeMap::new();
    for image in images {
        if let Some(ids) = known.get(&canonical(image)) {
            found.insert(image.to_owned(), ids.clone());
        } else if exists(image, runner).await? {
            found.insert(image.to_owned(), id(image, runner).await?.into_iter().collect());
        }
    }
    Ok(found)
}

/// By unit, the images that its running containers were made from: one start of Podman.
pub async fn running(runner: &Runner) -> Result<BTreeMap<String, Ids>, ImageError> {
    let listing = podman("containers", &["ps", "--no-trunc", "--format", "json"]).about("list containers");
    contained(&list(listing, runner, |source| ImageError::Containers { source }).await?)
}

async fn list(listing: Command, runner: &Runner, failed: impl FnOnce(CommandError) -> ImageError) -> Result<Vec<u8>, ImageError> {
    let listed = command::run(&listing.output_limit(LIST_LIMIT), runner).await.and_then(command::Output::successful);
    let output = listed.map_err(|error| told_missing(error, failed))?;
    if output.cut { Err(ImageError::TooMany) } else { Ok(output.stdout) }
}

/// What a name means that only Podman can resolve; `None`: it went away meanwhile.
async fn id(image: &str, runner: &Runner) -> Result<Option<String>, ImageError> {
    let asking = podman("image", &["image", "inspect", "--format", "{{.Id}}", "--", image]);
    let failed = |error| told_missing(error, |source| ImageError::List { source });
    let output = command::run(&asking, runner).await.map_err(failed)?;
    Ok(output.is_success().then(|| bare(&output.text())).filter(|id| !id.is_empty()))
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

/// Gets one image, named by digest, from an archive that holds it alone and gives it no other name (`bundle::archive`): Podman believes its archives. It is
/// asked afterwards what it has: another image under that name is removed.
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

/// Every name by which the list knows an image, and what it means.
fn names(list: &[u8]) -> Result<BTreeMap<String, Ids>, ImageError> {
    // Podman before 4.0 prints `null` for an empty storage.
    let list: Option<Vec<Listed>> = serde_json::from_slice(list).map_err(|source| ImageError::Unreadable { source })?;
    let mut all: BTreeMap<String, Ids> = BTreeMap::new();
    for image in list.unwrap_or_default() {
        for name in [image.names, image.digests].into_iter().flatten().flatten() {
            all.entry(name).or_default().insert(bare(&image.id));
        }
    }
    Ok(all)
}

/// By unit, what its containers were made from.
fn contained(list: &[u8]) -> Result<BTreeMap<String, Ids>, ImageError> {
    let list: Option<Vec<Contained>> = serde_json::from_slice(list).map_err(|source| ImageError::Unreadable { source })?;
    let mut all: BTreeMap<String, Ids> = BTreeMap::new();
    for mut container in list.unwrap_or_default() {
        let unit = container.labels.as_mut().and_then(|labels| labels.remove(UNIT_LABEL));
        if let Some(unit) = unit.filter(|_| !container.image.is_empty()) {
            all.entry(unit).or_default().insert(bare(&container.image));
        }
    }
    Ok(all)
}

/// An id with the name of its algorithm or without is the same.
fn bare(id: &str) -> String {
    let id = id.trim();
    id.strip_prefix("sha256:").unwrap_or(id).to_owned()
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

    fn ids(of: &[&str]) -> Ids {
        of.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn the_list_of_podman_5_is_read() {
        let list = br#"[{"Id":"sha256:1","RepoTags":null,"RepoDigests":["r/a@sha256:1","r/a@sha256:2"],"Names":["r/a:1"],"Size":3},
            {"Id":"2","RepoDigests":null},{"Id":"3","RepoDigests":["r/a@sha256:2"]}]"#;
        let names = names(list).unwrap();
        let means = |name: &str| names.get(name).cloned().unwrap_or_default();
        assert_eq!((means("r/a:1"), means("r/a@sha256:1")), (ids(&["1"]), ids(&["1"])));
        assert_eq!(means("r/a@sha256:2"), ids(&["1", "3"]), "the digest of a list of two architectures");
        assert_eq!(names.len(), 3);
        assert!(super::names(b"null").unwrap().is_empty());
        assert!(super::names(b"no json").is_err());
    }

    #[test]
    fn a_container_is_of_the_unit_that_its_label_names() {
        let list = br#"[{"Id":"c","Image":"r/a:1","ImageID":"sha256:1","Labels":{"PODMAN_SYSTEMD_UNIT":"a.service","x":"y"},"Names":["web"]},
            {"Id":"d","ImageID":"2","Labels":{"PODMAN_SYSTEMD_UNIT":"a.service"}},{"Id":"e","ImageID":"3","Labels":null},
            {"Id":"f","ImageID":"","Labels":{"PODMAN_SYSTEMD_UNIT":"pod.service"}}]"#;
        assert_eq!(contained(list).unwrap(), BTreeMap::from([("a.service".to_owned(), ids(&["1", "2"]))]));
        assert!(contained(b"null").unwrap().is_empty() && contained(b"{}").is_err());
    }
}
