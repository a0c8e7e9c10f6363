//! The layer by which libraries that wheels put into `/opt/py/lib` are found by their names: the loader's list of the layers
//! below, and these.
//!
//! In a virtual environment such a library is found by the modules that look for it three directories above their own
//! (`$ORIGIN/../../..`). Here packages are in `/opt/py/site`, from where that leads elsewhere. Libraries of the system and
//! those that a module finds by itself come first.

use std::collections::BTreeMap;

use super::definition::BaseNote;
use super::loader_cache::{LoaderCache, PLACE};
use super::BaseError;
use crate::archive::layer::{LayerWriter, FORMAT};
use crate::progress::Progress;
use crate::store::{ensure_layer, BuiltLayer, Key, LayerStack, LayerWanted, Step, Store};

/// The layer over `below`, the layers of the base called `base` and of its system packages, bottom first, for `libraries`:
/// absolute path by name.
///
/// # Errors
/// A list of the base that cannot be read, as what it has must be found as before.
pub(crate) fn ensure_loader_layer(
    store: &Store,
    base: &str,
    below: &[&BuiltLayer],
    libraries: BTreeMap<String, String>,
    progress: &dyn Progress,
) -> Result<BuiltLayer, BaseError> {
    let diff_ids: Vec<_> = below.iter().map(|layer| layer.diff_id).collect();
    let key = Key::of(Step::LoaderLayer)
        .with(FORMAT)
        .with_list(diff_ids.iter().map(ToString::to_string))
        .with_list(libraries.iter().flat_map(|(name, path)| [name, path]))
        .finish();
    let wanted = LayerWanted {
        key: &key,
        reason: "libraries of wheels by name",
    };
    let (layer, BaseNote) = ensure_layer(store, wanted, progress, |blob, tree| {
        let unreadable = |source| BaseError::Read {
            name: base.to_owned(),
            path: PLACE.to_owned(),
            source,
        };
        let visible = store.trees().visible(&diff_ids).iter().rev();
        let stack = LayerStack::open(visible.map(|diff_id| store.trees().path(diff_id))).map_err(unreadable)?;
        let listed = LoaderCache::read(&stack).map_err(unreadable)?;
        let mut cache = listed.map_err(|reason| BaseError::Refused {
            name: base.to_owned(),
            path: PLACE.to_owned(),
            reason,
        })?;
        cache.add_below(LoaderCache::of(libraries));
        let mut writer = LayerWriter::new(blob, Some(tree), 0);
        writer.file(PLACE, 0o644, &cache.to_bytes())?;
        Ok::<_, BaseError>((writer.finish()?, BaseNote))
    })?;
    Ok(layer)
}
