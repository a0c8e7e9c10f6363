//! The one loop that moves an image: `pull`, `push`, `copy`, `save` and `load` are this between two places.
//!
//! Everything a stranger wrote is checked here, whatever place it lies in: size and digest of each blob while it is read,
//! the documents by themselves and against each other, and that a layer is packed as its media type says. What a layer
//! unpacks to is found out by whoever unpacks it.

use super::peer::{Destination, Documents, Incoming, Reach, Source, Tally};
use super::referrers::{copy_referrers, warn_of_index};
use super::verified::read_verified;
use super::TransferError;
use crate::archive::tar_reader::check_compression;
use crate::oci::{media_type, parse_config, parse_index, parse_manifest, Compression, Descriptor, Digest};
use crate::progress::Progress;
use crate::store::StoreError;
use crate::sys::pool;

/// Indexes inside indexes: one level is common, more is a maze.
const MAX_INDEX_DEPTH: usize = 4;

/// Copies the image that `wanted` leads to, and calls it `name` there; returns the digest of its manifest.
///
/// Of an index the image for linux/amd64 is copied. Layers go as many at once as both places take. Those that are there
/// already are not written again, but `from` has to show that it has them.
///
/// # Errors
///
/// [`TransferError`]; blobs that were complete by then stay at the destination, but neither manifest nor name.
pub fn copy_image(
    from: &dyn Source,
    wanted: &Descriptor,
    to: &dyn Destination,
    name: Option<&str>,
    progress: &dyn Progress,
) -> Result<Digest, TransferError> {
    copy_image_with(Companions::Left, from, wanted, to, name, progress)
}

/// What becomes of what refers to an image that is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Companions {
    /// It is copied as well.
    Along,
    /// It stays where it is.
    Left,
}

/// As [`copy_image`], with or without what refers to the image. That is there before the image has its name.
///
/// # Errors
///
/// As [`copy_image`]; also when more refers to it than is copied.
pub fn copy_image_with(
    companions: Companions,
    from: &dyn Source,
    wanted: &Descriptor,
    to: &dyn Destination,
    name: Option<&str>,
    progress: &dyn Progress,
) -> Result<Digest, TransferError> {
    let image = read_documents(from, &find_manifest(from, wanted, 0)?)?;
    image.layers().into_iter().try_for_each(|layer| from.look_at(layer))?;
    to.begin(&image)?;
    copy_blobs(from, &image, to, progress)?;
    if companions == Companions::Along {
        let digest = &image.descriptor.digest;
        copy_referrers(from, digest, to, progress)?;
        if wanted.digest != *digest && to.keeps_referrers().is_some() {
            warn_of_index(from, &wanted.digest, digest, progress);
        }
    }
    match to.finish(&image, name) {
        Err(error) if to.doubts(&error) => {
            copy_blobs(from, &image, to, progress)?;
            to.finish(&image, name)?;
        }
        finished => finished?,
    }
    Ok(image.descriptor.digest)
}

/// Configuration and layers, as many at once as both places take.
fn copy_blobs(
    from: &dyn Source,
    image: &Documents,
    to: &dyn Destination,
    progress: &dyn Progress,
) -> Result<(), TransferError> {
    let mut layers = image.layers();
    // A stranger's sizes may come to more than there is.
    let total = layers
        .iter()
        .fold(0u64, |total, layer| total.saturating_add(layer.size));
    let tally = Tally::new(progress, total);
    let at_once = from.at_once().min(to.at_once(from.reach()));
    if at_once > 1 {
        // The longest first: what is begun last is over soon.
        layers.sort_by_key(|layer| (to.expects(layer), std::cmp::Reverse(layer.size)));
    }
    let blobs: Vec<Option<&Descriptor>> = [None].into_iter().chain(layers.into_iter().map(Some)).collect();
    pool::each(at_once, &blobs, |blob, _| match blob {
        Some(layer) => copy_layer(from, layer, to, &tally),
        None => to.put_config(image),
    })?;
    Ok(())
}

/// The digest of the image that would be copied: of an index that of its image for linux/amd64.
///
/// # Errors
///
/// As [`copy_image`].
pub fn resolve_image(from: &dyn Source, wanted: &Descriptor) -> Result<Digest, TransferError> {
    match media_type::is_index(&wanted.media_type) {
        true => Ok(find_manifest(from, wanted, 0)?.digest),
        false => Ok(wanted.digest),
    }
}

fn copy_layer(
    from: &dyn Source,
    layer: &Descriptor,
    to: &dyn Destination,
    tally: &Tally<'_>,
) -> Result<(), TransferError> {
    let place = from.place(&layer.digest);
    let compression = Compression::of_layer(layer).map_err(|source| TransferError::Document {
        path: place.clone(),
        source,
    })?;
    if from.reach() == Reach::Away && to.has(layer)? {
        tally.add(layer.size);
        return from.prove(layer);
    }
    loop {
        let mut incoming = Incoming::new(layer, from, tally);
        let copied = match to.resumes() && from.reach() == Reach::Away {
            // It knows where to begin.
            true => to.put(layer, &mut incoming),
            false => copy_anew(from, layer, compression, &mut incoming, to),
        };
        match copied {
            Err(error) if to.starts_over() && from.gives_again(layer, &error) => {}
            other => return other,
        }
    }
}

fn copy_anew(
    from: &dyn Source,
    layer: &Descriptor,
    compression: Compression,
    incoming: &mut Incoming<'_>,
    to: &dyn Destination,
) -> Result<(), TransferError> {
    check_start(layer, compression, incoming)?;
    match from.reach() == Reach::Here && to.has(layer)? {
        true => from.prove(layer),
        false => to.put(layer, incoming),
    }
}

/// Whether a layer that is read from its beginning is packed as its media type says.
pub(super) fn check_start(
    layer: &Descriptor,
    compression: Compression,
    incoming: &mut Incoming<'_>,
) -> Result<(), TransferError> {
    let start = incoming.peek(Compression::MAGIC)?;
    let checked = check_compression(compression, &start).map_err(|source| StoreError::Layer {
        digest: layer.digest,
        source,
    });
    Ok(checked?)
}

/// The manifest that `wanted` leads to: itself, or of an index the one for linux/amd64.
pub(super) fn find_manifest(from: &dyn Source, wanted: &Descriptor, depth: usize) -> Result<Descriptor, TransferError> {
    let path = from.place(&wanted.digest);
    let missing = |reason: String| TransferError::NotFound {
        path: path.clone(),
        reason,
    };
    if media_type::is_index(&wanted.media_type) {
        if depth >= MAX_INDEX_DEPTH {
            return Err(missing("indexes are nested too deep".to_owned()));
        }
        let raw = read_verified(from, "manifest", wanted)?;
        let index = parse_index(&raw).map_err(|source| TransferError::Document {
            path: path.clone(),
            source,
        })?;
        let ours = index.manifests.iter().find(|manifest| {
            let platform = manifest.platform.as_ref();
            platform.is_none_or(|platform| platform.os == "linux" && platform.architecture == "amd64")
        });
        let ours = ours.ok_or_else(|| missing("its index has no image for linux/amd64".to_owned()))?;
        return find_manifest(from, ours, depth + 1);
    }
    if !media_type::is_manifest(&wanted.media_type) {
        let reason = format!(
            "what is there has the media type {:?}, which is no image",
            wanted.media_type
        );
        return Err(missing(reason));
    }
    Ok(wanted.clone())
}

/// Reads and checks manifest and configuration.
pub(super) fn read_documents(from: &dyn Source, wanted: &Descriptor) -> Result<Documents, TransferError> {
    let manifest_raw = read_verified(from, "manifest", wanted)?;
    let refused = |source| TransferError::Document {
        path: from.place(&wanted.digest),
        source,
    };
    let manifest = parse_manifest(&manifest_raw).map_err(refused)?;
    let config_raw = read_verified(from, "image config", &manifest.config)?;
    let config = parse_config(&config_raw, &manifest).map_err(|source| TransferError::Document {
        path: from.place(&manifest.config.digest),
        source,
    })?;
    // As the manifest says itself: what the place says may be another name for it.
    let name = manifest.media_type.as_deref().unwrap_or(&wanted.media_type);
    Ok(Documents {
        descriptor: Descriptor::new(name, wanted.digest, manifest_raw.len() as u64),
        manifest,
        manifest_raw,
        config,
        config_raw,
    })
}
