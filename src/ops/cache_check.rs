//! `gantry cache check`: says what is wrong in the store, and repairs it.
//!
//! What is wrong goes first, alone in the store. Then each image that suffered is made again of what is left, and fetched
//! from a registry by its digest where it has the name of one, or one is known to have it. At the end everything that leads to something is followed
//! once more: only what is right by then counts as repaired.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::copies::{pull, Transport};
use super::images::ImagesError;
use crate::oci::{Digest, Place, Reference};
use crate::policy::{one_line, Sample};
use crate::store::{Finding, Looked, Part, Patience, State, Store};

/// How the store is to be checked.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckWanted {
    /// What is read of what is called by a digest; all of it without.
    pub sample: Option<Sample>,
    /// Whether what is wrong is to be repaired.
    pub repair: bool,
    /// How long others are waited for before something is removed; without it ten seconds.
    pub wait: Option<Duration>,
}

/// What is wrong in a store, and what became of it.
#[derive(Debug, Serialize)]
pub struct CheckReport {
    /// Always 1.
    pub schema: u32,
    /// `ok`, `repaired`, or `failed` when something is wrong and was not repaired.
    pub status: &'static str,
    /// What was read of blobs, downloads and layers; none for all of them.
    pub sample: Option<String>,
    /// What was looked at.
    pub looked: Looked,
    /// Blobs, downloads and layers that there were.
    pub contents: usize,
    /// Bytes of what was looked at, each once.
    pub bytes: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Checks the store of `transport`, and repairs it when that is wanted. `waiting` is called once when others use the store.
///
/// # Errors
/// [`ImagesError::Store`]: `Busy` when something has to go and others use the store for longer than is wanted. What cannot be
/// fetched is no error but said in the report.
pub fn check_cache(
    transport: &Transport<'_>,
    wanted: CheckWanted,
    waiting: &mut dyn FnMut(),
) -> Result<CheckReport, ImagesError> {
    let store = transport.store;
    let looked = store.integrity().look(wanted.sample, transport.progress)?;
    let mut findings = looked.findings;
    if wanted.repair && !findings.is_empty() {
        let usual = Patience::default();
        let patience = Patience {
            most: wanted.wait.unwrap_or(usual.most),
            ..usual
        };
        store
            .integrity()
            .mend(&mut findings, patience, transport.progress, waiting)?;
        // What is made and fetched now has no name that leads to it yet.
        let _kept_out = store.locks().keep_collector_out()?;
        let repair = Repair {
            transport,
            images: looked.images,
        };
        repair.bring_back(&mut findings)?;
    }
    if !wanted.repair {
        findings
            .iter_mut()
            .for_each(|finding| finding.remedy = remedy_of(store, finding));
    }
    let status = match (findings.is_empty(), findings.iter().all(Finding::is_repaired)) {
        (true, _) => "ok",
        (false, true) => "repaired",
        (false, false) => "failed",
    };
    // What was removed may have been about to be made again.
    if status != "ok" {
        store.check_not_ending()?;
    }
    Ok(CheckReport {
        schema: 1,
        status,
        sample: wanted.sample.map(|sample| sample.to_string()),
        looked: looked.looked,
        contents: looked.contents,
        bytes: looked.bytes,
        findings,
    })
}

/// What to do about something that is only reported.
fn remedy_of(store: &Store, finding: &Finding) -> Option<String> {
    let repair = "gantry cache check --repair";
    Some(match finding.what {
        Part::Image => match finding
            .which
            .parse()
            .ok()
            .and_then(|digest| sources(store, &digest, &finding.images).pop())
        {
            Some(_) => format!("`{repair}` fetches it again"),
            None => by_hand(store, &finding.images),
        },
        _ => format!("`{repair}` removes it, and makes or fetches again what images need"),
    })
}

/// How an image comes back that no registry is known to have.
fn by_hand(store: &Store, names: &[String]) -> String {
    let name = names.first().map_or("NAME", String::as_str);
    match name.parse::<Digest>() {
        Ok(digest) if is_pinned(store, &digest) => {
            format!("build it again (`gantry build DIR`) or load it again, or let it go: `gantry cache unpin {name}`")
        }
        Ok(_) => format!("build it again (`gantry build DIR`) or load it again, or remove it: `gantry images rm {name}`"),
        Err(_) => format!("build it again (`gantry build DIR --tag {name}`) or load it again, or remove the name: `gantry images rm {name}`"),
    }
}

fn is_pinned(store: &Store, digest: &Digest) -> bool {
    store.images().pinned().is_ok_and(|all| all.contains(digest))
}

/// The first of `names` that is one of a registry.
fn registry_name(names: &[String]) -> Option<Reference> {
    let mut parsed = names.iter().filter_map(|name| name.parse::<Reference>().ok());
    parsed.find(|name| matches!(name, Reference::Registry { .. }))
}

/// Where a registry has the image, or is known to: what it is called there, and then where it was pulled from or pushed to.
fn sources(store: &Store, digest: &Digest, names: &[String]) -> Vec<Reference> {
    let known = store.images().origins(digest).into_iter();
    let named = registry_name(names).into_iter();
    let all = named.chain(known.filter_map(|place| place.parse::<Reference>().ok()));
    let pinned = |reference| match reference {
        Reference::Registry { host, repository, .. } => Some(Reference::Registry {
            host,
            repository,
            tag: None,
            digest: Some(*digest),
        }),
        Reference::Local { .. } | Reference::Digest { .. } | Reference::Layout { .. } => None,
    };
    let mut sources: Vec<Reference> = Vec::new();
    for reference in all.filter_map(pinned) {
        if !sources.contains(&reference) {
            sources.push(reference);
        }
    }
    sources
}

/// Images that are brought back.
struct Repair<'a> {
    transport: &'a Transport<'a>,
    /// Those of the store when it was looked at, and their names.
    images: BTreeMap<Digest, Vec<String>>,
}

impl Repair<'_> {
    fn store(&self) -> &Store {
        self.transport.store
    }

    /// Makes or fetches again what images need that have a name, and says in the findings what came of it.
    fn bring_back(&self, findings: &mut Vec<Finding>) -> Result<(), ImagesError> {
        let names: BTreeSet<&String> = findings.iter().flat_map(|finding| &finding.images).collect();
        let suffered = self
            .images
            .iter()
            .filter(|(_, of)| of.iter().any(|name| names.contains(name)));
        let suffered: BTreeMap<&Digest, &Vec<String>> = suffered.collect();
        let (mut fetched, mut failed) = (BTreeSet::new(), BTreeMap::new());
        for (digest, names) in &suffered {
            match self.bring_back_image(digest, names) {
                Ok(true) => fetched.extend(names.iter()),
                Ok(false) => {}
                Err(remedy) => drop(failed.insert(digest.to_string(), remedy)),
            }
        }
        if !fetched.is_empty() {
            self.store().names().rewrite_index()?;
        }
        let left = self.store().integrity().dangling()?;
        let is_left = |finding: &Finding| {
            left.iter()
                .any(|one| (one.what, &one.which) == (finding.what, &finding.which))
        };
        let back = |finding: &Finding| match finding.images.iter().any(|name| fetched.contains(name)) {
            true => State::Fetched,
            false => State::Remade,
        };
        for finding in findings.iter_mut() {
            match finding.what {
                Part::Image if is_left(finding) => {
                    finding.state = State::Kept;
                    finding.remedy = failed
                        .get(&finding.which)
                        .cloned()
                        .or_else(|| Some(by_hand(self.store(), &finding.images)));
                }
                Part::Image => finding.state = back(finding),
                _ if finding.state == State::Removed && self.store().integrity().is_there(finding) => {
                    finding.state = back(finding);
                }
                Part::Name if finding.state == State::Removed => {
                    finding.remedy = Some(by_hand(self.store(), &finding.images));
                }
                _ => {}
            }
        }
        // What had to go was needed after all, and did not come back.
        for mut finding in left {
            let is_known = findings
                .iter()
                .any(|one| (one.what, &one.which) == (finding.what, &finding.which));
            let has_suffered = suffered.keys().any(|digest| digest.to_string() == finding.which);
            if finding.what == Part::Image && has_suffered && !is_known {
                finding.state = State::Kept;
                finding.remedy = failed
                    .get(&finding.which)
                    .cloned()
                    .or_else(|| Some(by_hand(self.store(), &finding.images)));
                findings.push(finding);
            }
        }
        Ok(())
    }

    /// Makes an image whole; whether it was fetched. An error is what to do instead, in words.
    fn bring_back_image(&self, digest: &Digest, names: &[String]) -> Result<bool, String> {
        let (store, progress) = (self.store(), self.transport.progress);
        let is_complete = || match store.images().open(digest) {
            Ok(image) => image
                .manifest
                .layers
                .iter()
                .all(|layer| store.blobs().has(layer).unwrap_or(false)),
            // It may run without its manifest, and can be neither pushed nor shown.
            Err(_) => false,
        };
        if is_complete() && store.images().restore(digest).is_ok() {
            return Ok(false);
        }
        let mut failed = by_hand(store, names);
        let again = |name: &Reference, error: &ImagesError| {
            format!("fetch it again (`gantry pull {name}`): {}", one_line(error))
        };
        let brought = sources(store, digest, names).into_iter().find(|source| {
            let name = registry_name(names).unwrap_or_else(|| source.clone());
            progress.step("Fetching", &name.to_string());
            match pull(self.transport, &Place::Image(source.clone()), None) {
                Ok(_) => true,
                Err(error) => {
                    failed = again(&name, &error);
                    false
                }
            }
        });
        let Some(source) = brought else { return Err(failed) };
        // Its names keep it, or its pin; what has neither is kept without a name, as it was.
        if is_pinned(store, digest) || names.iter().any(|name| name.parse::<Digest>().is_err()) {
            let forgotten = store.names().forget_unnamed(digest);
            forgotten.map_err(|error| again(&source, &error.into()))?;
        }
        let restored = store.images().restore(digest);
        restored.map_err(|error| again(&source, &error.into()))?;
        Ok(true)
    }
}
