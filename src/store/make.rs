//! Makes a layer once: memo, single flight between processes, blob and unpacked tree in one pass.
//!
//! A layer is a pure function of its key. `memo/<kind>/<key>` names the finished blob and tree; it is written after
//! both are committed by rename, so that a memo entry whose blob or tree is gone only means "make it again". Between the blob
//! and its memo no eviction takes the blob.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{BlobWriter, Flight, Key, LayerStaging, Memo, Roots, Store, StoreError, Task};
use crate::archive::layer::WrittenLayer;
use crate::oci::{media_type, Descriptor, DiffId, Digest};
use crate::policy::ExtractionLimits;
use crate::progress::Progress;

/// A layer in the store, blob and tree, and why it is part of an image.
#[derive(Debug, Clone, Serialize)]
pub struct BuiltLayer {
    /// The compressed blob.
    #[serde(flatten)]
    pub descriptor: Descriptor,
    /// Hash of the uncompressed tar.
    pub diff_id: DiffId,
    /// For people: `base python-3.11`, `wheel numpy 1.26.4`, `code`.
    pub reason: String,
    /// Bytes of its files.
    pub unpacked_bytes: u64,
    /// Whether it was there already.
    pub reused: bool,
}

/// What a layer's maker remembers of it besides its bytes. Each maker has a type of its own.
pub trait LayerNote: Serialize + DeserializeOwned {
    /// The folder of the memos of such layers.
    const FOLDER: &'static str;
}

/// What is remembered of a layer, with the note of its maker.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered<T> {
    digest: Digest,
    size: u64,
    diff_id: DiffId,
    unpacked_bytes: u64,
    note: T,
}

/// Which layer is wanted.
#[derive(Debug, Clone, Copy)]
pub struct LayerWanted<'a> {
    /// Everything the bytes depend on.
    pub key: &'a Key,
    /// Why the layer is in the image.
    pub reason: &'a str,
}

/// Returns the layer of `wanted`, making it with `make` unless the store has it.
///
/// Idempotent, and safe to call at once from many processes: they wait for the first. `make` writes the blob and the
/// tree, and returns what else is worth remembering.
///
/// # Errors
///
/// What `make` returns, or a [`StoreError`]; nothing half-made stays. `Busy` when the process that makes the layer makes no
/// progress for too long.
pub fn ensure_layer<T, E>(
    store: &Store,
    wanted: LayerWanted<'_>,
    progress: &dyn Progress,
    make: impl FnOnce(&mut BlobWriter, &mut LayerStaging) -> Result<(WrittenLayer, T), E>,
) -> Result<(BuiltLayer, T), E>
where
    T: LayerNote,
    E: From<StoreError>,
{
    if let Some(found) = find_layer(store, wanted)? {
        return Ok(found);
    }
    let does = format!("makes {}", wanted.reason);
    let task = Task { does: &does, progress };
    let _single = store.locks().exclusive(Flight::Layer(wanted.key), task)?;
    if let Some(found) = find_layer(store, wanted)? {
        return Ok(found);
    }
    let mut blob = store.blobs().writer()?;
    let mut staging = store.trees().stage()?;
    let (written, note) = make(&mut blob, &mut staging)?;
    let descriptor = Descriptor::new(media_type::LAYER_GZIP, written.digest, written.size);
    staging.commit(&written.diff_id, &written.digest)?;
    let remembered = Remembered {
        digest: written.digest,
        size: written.size,
        diff_id: written.diff_id,
        unpacked_bytes: written.unpacked_bytes,
        note,
    };
    // An image may have the same blob, and an eviction that does not know of the memo takes both: either it sees the memo, or it
    // has taken what was there before. A tree that goes is unpacked again.
    let none_evicts = store.locks().keep_evictions_out()?;
    blob.commit_expecting(&descriptor)?;
    store.memos().put(wanted.key, &remembered)?;
    drop(none_evicts);
    Ok((remembered.layer(wanted.reason, false), remembered.note))
}

/// Returns the layer of `wanted` when the store has its blob; unpacks it again should only the tree be gone or damaged.
pub fn find_layer<T: LayerNote>(store: &Store, wanted: LayerWanted<'_>) -> Result<Option<(BuiltLayer, T)>, StoreError> {
    let Some(remembered) = store.memos().find::<Remembered<T>>(wanted.key)? else {
        return Ok(None);
    };
    let layer = remembered.layer(wanted.reason, true);
    if !store.blobs().has(&layer.descriptor)? {
        return Ok(None);
    }
    match store
        .trees()
        .unpack(&layer.descriptor, &layer.diff_id, &ExtractionLimits::default())
    {
        Err(StoreError::LayerLost { .. }) => Ok(None),
        other => other.map(|_| Some((layer, remembered.note))),
    }
}

impl<T: LayerNote> Memo for Remembered<T> {
    const FOLDER: &'static str = T::FOLDER;

    fn roots(&self) -> Roots {
        Roots {
            blobs: vec![self.digest],
            layers: vec![self.diff_id],
            downloads: Vec::new(),
        }
    }
}

impl<T> Remembered<T> {
    fn layer(&self, reason: &str, reused: bool) -> BuiltLayer {
        BuiltLayer {
            descriptor: Descriptor::new(media_type::LAYER_GZIP, self.digest, self.size),
            diff_id: self.diff_id,
            reason: reason.to_owned(),
            unpacked_bytes: self.unpacked_bytes,
            reused,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::archive::layer::{LayerError, LayerWriter};
    use crate::progress::Silent;
    use crate::store::Step;

    #[derive(Debug, thiserror::Error)]
    enum MakeError {
        #[error("{0}")]
        Layer(#[from] LayerError),
        #[error("{0}")]
        Store(#[from] StoreError),
    }

    #[derive(Serialize, Deserialize)]
    struct Note;

    impl LayerNote for Note {
        const FOLDER: &'static str = "test";
    }

    fn make(store: &Store) -> BuiltLayer {
        try_to_make(store).unwrap()
    }

    fn try_to_make(store: &Store) -> Result<BuiltLayer, MakeError> {
        let wanted = LayerWanted {
            key: &Key::of(Step::CodeLayer).with("key").finish(),
            reason: "test",
        };
        let made = ensure_layer::<Note, MakeError>(store, wanted, &Silent, |blob, tree| {
            let mut writer = LayerWriter::new(blob, Some(tree), 0);
            writer.file("a", 0o644, b"contents")?;
            Ok((writer.finish()?, Note))
        })?;
        Ok(made.0)
    }

    #[test]
    fn a_layer_that_the_last_power_loss_damaged_is_made_again() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Store::open(&scratch.path().join("store")).unwrap();
        let made = make(&store.after_boot("first"));
        let blob = store.root().join("blobs/sha256").join(made.descriptor.digest.hex());
        let file = store.trees().path(&made.diff_id).join("a");
        let sound = fs::read(&blob).unwrap();

        // The tree alone: it is unpacked again from the blob.
        fs::write(&file, b"").unwrap();
        let second = store.after_boot("second");
        assert!(make(&second).reused);
        assert_eq!(fs::read(&file).unwrap(), b"contents");

        // The blob, of the right size: only making it again helps. It is durable by now, so damage what is made anew.
        fs::remove_file(&blob).unwrap();
        assert!(!make(&second).reused);
        fs::write(&blob, vec![0; sound.len()]).unwrap();
        fs::write(&file, b"").unwrap();
        let third = store.after_boot("third");
        assert!(!make(&third).reused);
        assert_eq!(
            (fs::read(&blob).unwrap(), fs::read(&file).unwrap()),
            (sound, b"contents".to_vec())
        );
        assert!(make(&third).reused);
    }

    #[test]
    fn a_blob_that_turns_out_damaged_while_it_is_unpacked_is_made_again() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Store::open(&scratch.path().join("store")).unwrap();
        let made = make(&store);
        let blob = store.root().join("blobs/sha256").join(made.descriptor.digest.hex());
        let sound = fs::read(&blob).unwrap();
        fs::write(&blob, vec![0; sound.len()]).unwrap();
        fs::remove_dir_all(store.trees().path(&made.diff_id).parent().unwrap()).unwrap();
        assert!(!make(&store).reused);
        assert_eq!(fs::read(&blob).unwrap(), sound);
    }

    #[test]
    fn no_eviction_comes_between_a_blob_and_its_memo() {
        let (_scratch, store) = crate::store::tests::store();
        // What an eviction holds that is at work.
        let lock = fs::File::create(store.root().join("locks/eviction")).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let impatient = store.clone().giving_up_after(std::time::Duration::from_millis(10));
        let kept_out = try_to_make(&impatient);
        assert!(
            matches!(kept_out, Err(MakeError::Store(StoreError::Stalled { .. }))),
            "{kept_out:?}"
        );
        let empty = |folder: &str| fs::read_dir(store.root().join(folder)).unwrap().next().is_none();
        assert!(empty("blobs/sha256") && empty("memo"));
        // A program that another test starts at this moment has a copy.
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::Unlock).unwrap();
        assert!(!make(&store).reused);
        assert!(make(&store).reused);
    }
}
