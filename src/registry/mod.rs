//! The client of the distribution protocol (OCI distribution specification 1.1): manifests, blobs, tags, uploads. Knows no disk.
//!
//! ```text
//! challenge, login   what a registry asks for, and what one has            pure
//! retry              what a failure means: the table                       pure
//! token              tokens, each fetched once per process
//! redact, said       what a registry says of its errors, without our credentials
//! registry_place, client  where a registry is; one request: who we are, where it leads, how it failed
//! presence           whether there is a registry at all
//! answered_document  what answers where a manifest was asked for
//! fetching, pushing, pages, removing  what is asked of a repository
//! management, plan   what a repository holds, by protocol or API, and what of it can go
//! ```
//!
//! Everything a registry sends is a stranger's: answers are bounded, digests are those of the bytes that came, credentials
//! go to the registry and to the one place where it says tokens are had, and nowhere else. Trying again and trying elsewhere is
//! for the caller, who knows the other places; [`RegistryError::step`] says which of both a failure calls for.

mod answered_document;
mod api;
mod challenge;
mod client;
mod error;
mod fetching;
mod fuzzed;
mod github;
mod login;
mod management;
mod manager;
mod pages;
mod plan;
mod presence;
mod pushing;
mod redact;
mod registry_place;
mod removing;
mod retry;
mod said;
mod scaleway;
mod token;

pub(crate) use answered_document::document_type;
pub(crate) use client::{Access, Registry, Repository};
pub(crate) use error::{Circumstances, LoginError, RegistryError, SaidBy};
pub(crate) use fetching::{BlobBody, BlobPlace, Contents, Found};
pub(crate) use fuzzed::{
    read_fuzzed_challenge, read_fuzzed_link, read_fuzzed_login_file, read_fuzzed_pause, read_fuzzed_range,
    read_fuzzed_token,
};
pub(crate) use login::{of_pair, read_auth_file, with_login, AuthFile, FoundLogin, Login, Said};
pub(crate) use management::{gather, Entry, Holding, Management};
pub(crate) use manager::{manager, ManagementApi};
pub(crate) use pages::{catalogue, Listing};
pub(crate) use plan::{plan_removal, KeptBecause, Known, Plan, Unwanted};
pub(crate) use presence::{check_login, find_stranger, Stranger};
pub(crate) use pushing::{Mounted, Pushes, Upload};
pub(crate) use registry_place::{RegistryPlace, Taken};
pub(crate) use retry::{asked_pause, pause, Failure, Step};
