//! Tags and manifests of a registry are listed and deleted.
//!
//! What is there is read whole before anything is deleted, as a digest goes with all its tags, and an index needs what it lists.

use std::collections::BTreeMap;
use std::time::Duration;

use super::persist::{persist, sleep, Standing};
use super::registries::Registries;
use super::TransferError;
use crate::oci::{media_type, Descriptor, Digest, Reference};
use crate::progress::Progress;
use crate::registry::{
    catalogue, gather, plan_removal, Contents, Entry, Holding, KeptBecause, Known, Listing, Management, Plan,
    RegistryError, Repository, Step, Unwanted,
};
use crate::sys::pool;

/// Manifests of one repository that are looked at.
const MOST: usize = 10_000;
/// Questions that are asked at once, where so many connections to the registry are allowed.
const AT_ONCE: usize = 8;
/// Times that a registry may ask for patience with one request, and for how much.
const MOST_WAITS: u32 = 10;
const LONGEST_WAIT: Duration = Duration::from_secs(90);

/// A repository whose manifests are listed and deleted.
pub struct Keeper<'a> {
    registries: &'a Registries,
    progress: &'a dyn Progress,
    reference: Reference,
    repository: Repository,
}

/// A manifest that is deleted, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Its digest.
    pub digest: Digest,
    /// Its tags, which go with it.
    pub tags: Vec<String>,
}

impl<'a> Keeper<'a> {
    /// The repository of `reference`. Nothing is asked of it yet.
    ///
    /// # Errors
    ///
    /// [`TransferError::NotFound`] for a reference that is of no registry.
    pub fn new(
        registries: &'a Registries,
        reference: &Reference,
        progress: &'a dyn Progress,
    ) -> Result<Self, TransferError> {
        let Reference::Registry { host, repository, .. } = reference else {
            return Err(TransferError::NotFound {
                path: reference.to_string().into(),
                reason: "it is no image of a registry, which is called HOST/REPOSITORY[:TAG]".to_owned(),
            });
        };
        let client = registries.client(host).map_err(|error| failed(reference, error))?;
        Ok(Self {
            registries,
            progress,
            reference: reference.clone(),
            repository: client.repository(repository),
        })
    }

    /// All its tags, sorted, for people.
    ///
    /// # Errors
    ///
    /// [`TransferError::Registry`]; also for a list without end.
    pub fn tags(&self) -> Result<Vec<String>, TransferError> {
        let tags = self.ask(|| Listing::of(&self.repository).all_tags())?;
        Ok(tags.iter().map(|tag| self.repository.redact(tag)).collect())
    }

    /// Deletes what the tags and digests `unwanted` mean, or says in a rehearsal what would be deleted; tells `done` of each, and
    /// returns what stays although it is said to belong to what goes.
    ///
    /// # Errors
    ///
    /// [`TransferError::Kept`] when something that is to stay would go along; nothing is deleted then.
    pub fn remove(
        &self,
        unwanted: &[Unwanted],
        rehearsal: Rehearsal,
        done: &mut dyn FnMut(&Removed),
    ) -> Result<Vec<KeptBecause>, TransferError> {
        self.registries.may_delete(self.repository.host())?;
        let management = self
            .registries
            .management(&self.repository)
            .map_err(|error| failed(&self.reference, error))?;
        let there = self.holdings(&*management)?;
        let plan = self.plan(&there, unwanted)?;
        for digest in plan.going {
            let known = there.iter().find(|holding| holding.digest == digest);
            let holding = known.cloned().unwrap_or_else(|| Holding::untagged(digest));
            if rehearsal == Rehearsal::No {
                self.ask(|| management.delete(&holding))?;
            }
            done(&Removed {
                digest,
                tags: holding.tags,
            });
        }
        Ok(plan.left)
    }

    /// Everything that is there.
    fn holdings(&self, management: &dyn Management) -> Result<Vec<Holding>, TransferError> {
        let entries = self.ask(|| management.list())?;
        if entries.len() > MOST {
            return Err(self.kept(KeptBecause::TooMany(entries.len())));
        }
        let (known, tags): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|entry| entry.digest.is_some());
        let of_known = known.into_iter().filter_map(|entry| Some((entry.digest?, None, entry)));
        // A tag may go while they are listed.
        let found = self.each(&tags, |entry| match entry.tags.first() {
            Some(tag) => Contents::of(&self.repository).find(tag),
            None => Ok(None),
        })?;
        let of_tags = tags.into_iter().zip(found).filter_map(|(entry, found)| {
            let found = found?;
            Some((found.digest, Some(media_type::is_index(&found.media_type)), entry))
        });
        let mut there = gather(of_known.chain(of_tags));
        let unclear: Vec<Digest> = there
            .iter()
            .filter(|holding| holding.is_index.is_none())
            .map(|holding| holding.digest)
            .collect();
        let found = self.each(&unclear, |digest| {
            Contents::of(&self.repository).find(&digest.to_string())
        })?;
        let found: BTreeMap<Digest, Option<Descriptor>> = unclear.into_iter().zip(found).collect();
        for holding in &mut there {
            if let Some(found) = found.get(&holding.digest) {
                holding.is_index = Some(
                    found
                        .as_ref()
                        .is_some_and(|found| media_type::is_index(&found.media_type)),
                );
            }
        }
        Ok(there)
    }

    /// What goes. All indexes are read for that, and what may belong to what goes.
    fn plan(&self, there: &[Holding], unwanted: &[Unwanted]) -> Result<Plan, TransferError> {
        let mut wanted: Vec<Digest> = there
            .iter()
            .filter(|holding| holding.is_index == Some(true))
            .map(|holding| holding.digest)
            .collect();
        let mut read = BTreeMap::new();
        loop {
            let documents = self.each(&wanted, |digest| {
                match Contents::of(&self.repository).manifest(digest) {
                    Ok(document) => Ok(Some(document)),
                    Err(error) if error.is_not_found() => Ok(None),
                    Err(error) => Err(error),
                }
            })?;
            for (digest, document) in wanted.iter().zip(documents) {
                let is_index = there
                    .iter()
                    .any(|one| one.digest == *digest && one.is_index == Some(true));
                let known = document.map(|(name, raw)| match Known::read(&name, &raw) {
                    // What only is said to belong to an image stays, and keeps nobody from deleting.
                    Err(_) if !is_index => Ok(Known::unreadable()),
                    known => known,
                });
                let known = known.transpose().map_err(|source| TransferError::Document {
                    path: format!("{}: {digest}", self.repository.host()).into(),
                    source,
                })?;
                read.insert(*digest, known);
            }
            if read.len() > MOST {
                return Err(self.kept(KeptBecause::TooMany(read.len())));
            }
            let plan = plan_removal(there, &read, unwanted).map_err(|reason| self.kept(reason))?;
            if plan.unread.is_empty() {
                return Ok(plan);
            }
            wanted = plan.unread;
        }
    }

    /// Does `work` for each of `all`, several at once; ends at the first failure.
    fn each<T: Sync, R: Send>(
        &self,
        all: &[T],
        work: impl Fn(&T) -> Result<R, RegistryError> + Sync,
    ) -> Result<Vec<R>, TransferError> {
        let at_once = AT_ONCE.min(self.registries.most_connections(self.repository.host()));
        pool::each(at_once, all, |one, _| self.ask(|| work(one)))
    }

    fn kept(&self, reason: KeptBecause) -> TransferError {
        TransferError::Kept {
            reference: self.reference.to_string(),
            reason,
        }
    }

    /// Asks until it is answered. A registry that says when it may be asked again is waited for, as all of a repository has to be
    /// known: that are many requests where twenty a minute are allowed.
    fn ask<T>(&self, mut work: impl FnMut() -> Result<T, RegistryError>) -> Result<T, TransferError> {
        for _ in 0..MOST_WAITS {
            match persist(Standing::Last, &mut work) {
                Err(error) => match error.after().filter(|after| *after <= LONGEST_WAIT) {
                    Some(after) if error.step() == Step::Retry => {
                        let text = format!(
                            "{} s for {}, which allows no more now",
                            after.as_secs(),
                            self.repository.host()
                        );
                        self.progress.step("Waiting", &text);
                        sleep(after);
                    }
                    _ => return Err(failed(&self.reference, error)),
                },
                Ok(value) => return Ok(value),
            }
        }
        persist(Standing::Last, work).map_err(|error| failed(&self.reference, error))
    }
}

/// Whether anything is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rehearsal {
    /// It is only said what would be.
    Yes,
    /// It is.
    No,
}

/// The repositories of a registry, sorted, as far as it lists them.
///
/// # Errors
///
/// [`TransferError::Registry`]; many registries have no such list.
pub fn list_repositories(registries: &Registries, host: &str) -> Result<Vec<String>, TransferError> {
    let failed = |error| TransferError::Registry {
        reference: host.to_owned(),
        failures: vec![error],
    };
    let client = registries.client(host).map_err(failed)?;
    persist(Standing::Last, || catalogue(&client)).map_err(failed)
}

fn failed(reference: &Reference, error: RegistryError) -> TransferError {
    TransferError::Registry {
        reference: reference.to_string(),
        failures: vec![error],
    }
}
