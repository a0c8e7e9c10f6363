//! GitHub's API of packages: a package is an image, a version of it a manifest with its tags.
//!
//! The address of the API is that of the owner: `.../orgs/NAME` or `.../users/NAME`. A version that is deleted takes all its
//! tags along.

use serde::Deserialize;

use super::api::{Api, MAX_PAGES, PAGE};
use super::management::{agreed, Entry, Holding, Management};
use super::pages::is_tag;
use super::said::shown;
use super::{RegistryError, Repository};
use crate::oci::Digest;

const LIST: &str = "list versions by";

/// A repository by GitHub's API.
pub(crate) struct ByGitHub<'a> {
    pub api: Api,
    pub repository: &'a Repository,
}

#[derive(Deserialize)]
struct Version {
    id: u64,
    /// Its digest.
    name: String,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Deserialize, Default)]
struct Metadata {
    #[serde(default)]
    container: Container,
}

#[derive(Deserialize, Default)]
struct Container {
    #[serde(default)]
    tags: Vec<String>,
}

impl ByGitHub<'_> {
    /// `packages/container/NAME/versions`: the first part of the repository is the owner, which is in the address of the API.
    fn path(&self) -> [&str; 4] {
        let name = self.repository.name();
        let package = name.split_once('/').map_or(name, |(_, package)| package);
        ["packages", "container", package, "versions"]
    }

    fn entry(&self, version: Version) -> Result<Entry, RegistryError> {
        let digest = version
            .name
            .parse::<Digest>()
            .map_err(|error| self.api.wrong(LIST, error.to_string()))?;
        let mut tags = version.metadata.container.tags;
        if let Some(strange) = tags.iter().find(|tag| !is_tag(tag)) {
            return Err(self.api.wrong(
                LIST,
                format!("it lists the tag {:?}, which none can be", shown(strange)),
            ));
        }
        tags.sort();
        Ok(Entry {
            digest: Some(digest),
            tags,
            id: Some(version.id.to_string()),
        })
    }

    fn versions(&self) -> Result<Vec<Entry>, RegistryError> {
        let size = PAGE.to_string();
        let mut url = self.api.url(&self.path(), &[("per_page", &size), ("state", "active")]);
        let mut all = Vec::new();
        for _ in 0..MAX_PAGES {
            let (page, next): (Vec<Version>, _) = match self.api.get(LIST, &url) {
                Err(error) if error.is_not_found() && all.is_empty() => return Ok(all),
                page => page?,
            };
            for version in page {
                all.push(self.entry(version)?);
            }
            match next {
                Some(next) => url = next,
                None => return Ok(all),
            }
        }
        Err(self
            .api
            .wrong(LIST, format!("the list has more than {MAX_PAGES} pages")))
    }
}

impl Management for ByGitHub<'_> {
    fn list(&self) -> Result<Vec<Entry>, RegistryError> {
        let moving = || self.api.wrong(LIST, "the list changes while it is read".to_owned());
        agreed(&mut || self.versions())?.ok_or_else(moving)
    }

    fn delete(&self, holding: &Holding) -> Result<(), RegistryError> {
        let Some(id) = holding.ids.first() else {
            let reason = format!("it lists no version {}", holding.digest);
            return Err(self.api.wrong("delete a version by", reason));
        };
        let path: Vec<&str> = self.path().into_iter().chain([id.as_str()]).collect();
        self.api.delete("delete a version by", &self.api.url(&path, &[]))
    }
}
