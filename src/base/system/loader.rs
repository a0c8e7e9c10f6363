//! The loader's list of libraries, for those of the packages: what `ldconfig` makes of them over the base's own list.

use std::collections::BTreeMap;

use super::error::SystemError;
use super::unpacking::Unpacked;
use crate::base::loader_cache::{LoaderCache, PLACE};
use crate::store::LayerStack;

/// The list with the libraries of `unpacked`, and those of the base, `below`, called `base`; none when `unpacked` has no
/// library.
///
/// # Errors
/// A list of the base that is none: what is there must be found as before.
pub(super) fn cache(
    unpacked: &Unpacked,
    base: &str,
    below: &LayerStack,
) -> Result<BTreeMap<String, Vec<u8>>, SystemError> {
    let mut cache = LoaderCache::scan(unpacked).map_err(|source| SystemError::ListLibraries { source })?;
    if cache.is_empty() {
        return Ok(BTreeMap::new());
    }
    let listed = LoaderCache::read(below).map_err(|source| SystemError::ReadBase {
        base: base.to_owned(),
        path: PLACE.to_owned(),
        source,
    })?;
    cache.add_below(listed.map_err(|reason| SystemError::Base {
        base: base.to_owned(),
        reason: format!("/{PLACE}: {reason}"),
    })?);
    Ok([(PLACE.to_owned(), cache.to_bytes())].into())
}
