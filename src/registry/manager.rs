//! Which way of listing and deleting a registry has.

use super::api::{Api, Secret};
use super::error::Problem;
use super::github::ByGitHub;
use super::management::{Entry, Holding, Management};
use super::pages::Listing;
use super::removing::delete_manifest;
use super::retry::Failure;
use super::said::shown;
use super::scaleway::ByScaleway;
use super::{RegistryError, Repository};
use crate::net::Url;

/// An API by which a registry says what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManagementApi {
    /// Scaleway's, of a region.
    Scaleway {
        /// Its address.
        url: String,
    },
    /// GitHub's, of an owner.
    GitHub {
        /// Its address.
        url: String,
    },
}

/// How `repository` is listed and deleted from: by the API, where its registry has one.
///
/// # Errors
///
/// When there are credentials that cannot be had.
pub(crate) fn manager<'r>(
    repository: &'r Repository,
    api: Option<&ManagementApi>,
) -> Result<Box<dyn Management + 'r>, RegistryError> {
    const DOING: &str = "reach the API at";
    let Some(api) = api else {
        return Ok(Box::new(ByProtocol(repository)));
    };
    let (ManagementApi::Scaleway { url } | ManagementApi::GitHub { url }) = api;
    let failed = |problem| RegistryError::new(DOING, &shown(url), problem);
    let base = Url::parse(url).map_err(|error| {
        failed(Problem::Wire {
            failure: Failure::Setup,
            text: error.to_string(),
            is_late: false,
        })
    })?;
    let login = repository.own_login().map_err(|error| failed(Problem::Login(error)))?;
    let api_by = |secret| Api::new(repository.wire().clone(), base.clone(), secret, login.as_ref());
    Ok(match api {
        ManagementApi::Scaleway { .. } => Box::new(ByScaleway {
            api: api_by(Secret::Header("x-auth-token")),
            repository,
        }),
        ManagementApi::GitHub { .. } => Box::new(ByGitHub {
            api: api_by(Secret::Bearer),
            repository,
        }),
    })
}

/// By the distribution protocol alone.
pub(crate) struct ByProtocol<'a>(pub &'a Repository);

impl Management for ByProtocol<'_> {
    fn list(&self) -> Result<Vec<Entry>, RegistryError> {
        let entry = |tag| Entry {
            digest: None,
            tags: vec![tag],
            id: None,
        };
        Ok(Listing::of(self.0).all_tags()?.into_iter().map(entry).collect())
    }

    fn delete(&self, holding: &Holding) -> Result<(), RegistryError> {
        delete_manifest(self.0, &holding.digest)
    }
}
