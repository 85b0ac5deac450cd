//! A source on this machine: read in-process, without a git program, a cache or a copy.
//!
//! The repository is opened anew for each request, isolated from every configuration but its own: a long-lived handle
//! would run out of slots for packs as the repository grows.

use std::path::{Path, PathBuf};

use gix_hash::ObjectId;
use gix_object::Kind;

use super::CourierError;
use super::remote::Held;
use super::session::Pointer;

/// A repository's path: bare, or with a work tree.
pub(super) struct Local(PathBuf);

impl Local {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    fn failed(&self) -> impl Fn(gix::Error) -> CourierError + '_ {
        |error| CourierError::Local { path: self.0.clone(), source: error.into() }
    }

    fn open(&self) -> Result<gix::Repository, CourierError> {
        let options = gix::open::Options::isolated().config_overrides(["gitoxide.objects.allocLimit=67108864"]);
        Ok(options.open(&self.0).map_err(self.failed())?.to_thread_local())
    }

    pub(super) fn poll(&self, reference: &str) -> Result<Option<Pointer>, CourierError> {
        let repository = self.open()?;
        let found = repository.try_find_reference(reference).map_err(self.failed())?;
        // The look-up guesses (`main` finds `refs/heads/main`); only the very name counts.
        let Some(mut found) = found.filter(|found| found.name().as_bstr() == reference) else { return Ok(None) };
        if let Some(Err(_)) = found.follow() {
            return Ok(None); // HEAD of an empty repository
        }
        let id = found.follow_to_object().map_err(self.failed())?.detach();
        let peeled = found.peel_to_id().map_err(self.failed())?.detach();
        Ok(Some(Pointer { id, peeled: (peeled != id).then_some(peeled) }))
    }

    pub(super) fn held(&self, kind: Kind, ids: &[ObjectId], limit: u64, enough: u64) -> Result<Vec<Held>, CourierError> {
        let repository = self.open()?;
        let (mut held, mut size) = (Vec::new(), 0);
        for id in ids {
            let next = match repository.try_find_header(*id).map_err(self.failed())? {
                Some(header) if header.kind() != kind => Held::Missing,
                Some(header) if header.size() > limit => Held::TooLarge,
                Some(_) => match repository.try_find_object(*id).map_err(self.failed())? {
                    Some(object) => Held::Here(object.detach().data),
                    None => Held::Missing,
                },
                None => Held::Missing,
            };
            size += if let Held::Here(content) = &next { content.len() as u64 } else { 0 };
            held.push(next);
            if size >= enough {
                break;
            }
        }
        Ok(held)
    }
}
