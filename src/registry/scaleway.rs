//! Scaleway's API of a region: namespaces, images in them, and tags.
//!
//! A tag is deleted by its id. `force` is never said: it would take other tags of the digest along. Without it a tag of a digest
//! that others share is refused, so a digest whose tags are all to go is deleted by the protocol, with all of them.

use serde::Deserialize;

use super::api::{Api, MAX_PAGES, PAGE};
use super::management::{agreed, Entry, Holding, Management};
use super::pages::is_tag;
use super::removing::delete_manifest;
use super::said::shown;
use super::{RegistryError, Repository};
use crate::net::Url;
use crate::oci::Digest;

const LIST: &str = "list tags by";

/// A repository by Scaleway's API.
pub(crate) struct ByScaleway<'a> {
    pub api: Api,
    pub repository: &'a Repository,
}

#[derive(Deserialize)]
struct Named {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Namespaces {
    namespaces: Vec<Named>,
    total_count: u64,
}

#[derive(Deserialize)]
struct Images {
    images: Vec<Named>,
    total_count: u64,
}

#[derive(Deserialize)]
struct Tags {
    tags: Vec<TagOfImage>,
    total_count: u64,
}

#[derive(Deserialize)]
struct TagOfImage {
    id: String,
    name: String,
    digest: Digest,
}

/// A page of a list, and how long the list is.
type Page<T> = (Vec<T>, u64);

impl ByScaleway<'_> {
    /// Reads a list to its end; `read` reads one page.
    fn all<T>(&self, read: &dyn Fn(&str) -> Result<Page<T>, RegistryError>) -> Result<Vec<T>, RegistryError> {
        let mut all = Vec::new();
        for number in 1..=MAX_PAGES {
            let (page, total) = read(&number.to_string())?;
            let is_last = page.is_empty();
            all.extend(page);
            if is_last || all.len() as u64 >= total {
                return Ok(all);
            }
        }
        Err(self.api.wrong(LIST, format!("a list has more than {MAX_PAGES} pages")))
    }

    fn page(&self, path: &[&str], number: &str, more: &[(&str, &str)]) -> Url {
        let size = PAGE.to_string();
        let query: Vec<(&str, &str)> = [("page", number), ("page_size", size.as_str())]
            .into_iter()
            .chain(more.iter().copied())
            .collect();
        self.api.url(path, &query)
    }

    /// The id of the one that is called `name`.
    fn id_of(&self, all: Vec<Named>, name: &str) -> Result<Option<String>, RegistryError> {
        let Some(found) = all.into_iter().find(|one| one.name == name) else {
            return Ok(None);
        };
        self.checked(&found.id)?;
        Ok(Some(found.id))
    }

    /// An id becomes a part of an address.
    fn checked(&self, id: &str) -> Result<(), RegistryError> {
        let is_id =
            !id.is_empty() && id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        match is_id {
            true => Ok(()),
            false => Err(self
                .api
                .wrong(LIST, format!("it says the id {:?}, which is none", shown(id)))),
        }
    }

    fn image(&self) -> Result<Option<String>, RegistryError> {
        let (space, name) = self
            .repository
            .name()
            .split_once('/')
            .unwrap_or((self.repository.name(), ""));
        let spaces = self.all(&|number| {
            let url = self.page(&["namespaces"], number, &[("name", space)]);
            let (page, _): (Namespaces, _) = self.api.get(LIST, &url)?;
            Ok((page.namespaces, page.total_count))
        })?;
        let Some(space) = self.id_of(spaces, space)? else {
            return Ok(None);
        };
        let images = self.all(&|number| {
            let url = self.page(&["images"], number, &[("namespace_id", &space), ("name", name)]);
            let (page, _): (Images, _) = self.api.get(LIST, &url)?;
            Ok((page.images, page.total_count))
        })?;
        self.id_of(images, name)
    }

    fn tags(&self, image: &str) -> Result<Vec<Entry>, RegistryError> {
        let tags = self.all(&|number| {
            let url = self.page(&["images", image, "tags"], number, &[]);
            let (page, _): (Tags, _) = self.api.get(LIST, &url)?;
            Ok((page.tags, page.total_count))
        })?;
        let mut all = Vec::new();
        for TagOfImage { id, name, digest } in tags {
            self.checked(&id)?;
            if !is_tag(&name) {
                return Err(self
                    .api
                    .wrong(LIST, format!("it lists the tag {:?}, which none can be", shown(&name))));
            }
            all.push(Entry {
                digest: Some(digest),
                tags: vec![name],
                id: Some(id),
            });
        }
        Ok(all)
    }
}

impl Management for ByScaleway<'_> {
    fn list(&self) -> Result<Vec<Entry>, RegistryError> {
        let Some(image) = self.image()? else {
            return Ok(Vec::new());
        };
        let moving = || self.api.wrong(LIST, "the list changes while it is read".to_owned());
        agreed(&mut || self.tags(&image))?.ok_or_else(moving)
    }

    fn delete(&self, holding: &Holding) -> Result<(), RegistryError> {
        match holding.ids.as_slice() {
            [id] => self.api.delete("delete a tag by", &self.api.url(&["tags", id], &[])),
            _ => delete_manifest(self.repository, &holding.digest),
        }
    }
}
