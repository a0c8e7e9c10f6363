use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::*;
use crate::archive::packed::{gzip, zstd};
use crate::oci::{DiffId, Digest};
use crate::progress::Silent;
use crate::store::tests::examples::{image, image_that_says, put, tar};
use crate::store::tests::store;
use crate::store::{Claim, Count, RoomCall, RoomMade, RoomMaker, StoreError};
use crate::sys::fault::{Step, ERRNO, FAIL};

/// A store that is far away, and says what was asked of it.
struct Away<'a> {
    of: &'a Store,
    /// Blobs that were opened, and from which byte on.
    asked: Mutex<Vec<(Digest, u64)>>,
    /// Layers break off there once.
    breaks_at: Mutex<Option<u64>>,
    /// Layers that come with another last byte.
    wrong: HashSet<Digest>,
}

impl<'a> Away<'a> {
    fn new(of: &'a Store) -> Self {
        Self {
            of,
            asked: Mutex::default(),
            breaks_at: Mutex::default(),
            wrong: HashSet::new(),
        }
    }

    fn asked_from(&self, digest: &Digest) -> Vec<u64> {
        let asked = self.asked.lock().unwrap();
        asked
            .iter()
            .filter(|(of, _)| of == digest)
            .map(|(_, from)| *from)
            .collect()
    }
}

impl Source for Away<'_> {
    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + '_>, TransferError> {
        self.open_at(blob, 0)
    }

    fn open_at(&self, blob: &Descriptor, from: u64) -> Result<Box<dyn Read + '_>, TransferError> {
        self.asked.lock().unwrap().push((blob.digest, from));
        let mut bytes = fs::read(self.of.blobs().path(&blob.digest)).unwrap();
        if self.wrong.contains(&blob.digest) {
            *bytes.last_mut().unwrap() ^= 1;
        }
        let bytes = bytes.split_off(from as usize);
        let is_layer = blob.media_type.contains("layer");
        Ok(match self.breaks_at.lock().unwrap().take_if(|_| is_layer) {
            None => Box::new(io::Cursor::new(bytes)),
            Some(at) => Box::new(io::Cursor::new(bytes).take(at).chain(Broken)),
        })
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        PathBuf::from(format!("away: {digest}"))
    }

    fn reach(&self) -> Reach {
        Reach::Away
    }

    fn at_once(&self) -> usize {
        1
    }

    fn prove(&self, _: &Descriptor) -> Result<(), TransferError> {
        Ok(())
    }
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

/// An empty store below `scratch`.
fn empty(scratch: &tempfile::TempDir, name: &str) -> Store {
    Store::open(&scratch.path().join(name)).unwrap()
}

fn pull(store: &Store, from: &Away<'_>, image: &Image) -> Result<Image, TransferError> {
    ensure_copied(store, from, &image.descriptor(), &Silent).map(|brought| brought.image)
}

fn left_in(store: &Store, folder: &str) -> usize {
    fs::read_dir(store.root().join(folder)).unwrap().count()
}

/// Whether nothing is there of the layers of `image`, nor on its way.
fn has_nothing_of(store: &Store, image: &Image) {
    for (layer, diff_id) in image.manifest.layers.iter().zip(&image.config.rootfs.diff_ids) {
        assert!(store.blobs().size(&layer.digest).is_none(), "the blob is there");
        assert!(!store.trees().path(diff_id).exists(), "the tree is there");
    }
    assert_eq!((left_in(store, "tmp"), left_in(store, "partial")), (0, 0));
    assert!(store.images().read_snapshot(&image.digest).unwrap().is_none());
}

#[test]
fn a_layer_is_unpacked_from_what_comes_and_not_from_the_disk() {
    let (scratch, source) = store();
    let wanted = image(&source, &[&[("a", 600_000)], &[("b", 5)]]);
    let (from, here) = (Away::new(&source), empty(&scratch, "here"));
    let target = Unpacked::of(&here, Unpacking::OnTheWay);
    copy_image(&from, &wanted.descriptor(), &target, None, &Silent).unwrap();
    // Its room goes with it.
    drop(target);
    // Nobody has prepared the image yet.
    for (diff_id, file) in wanted.config.rootfs.diff_ids.iter().zip(["a", "b"]) {
        assert!(here.trees().path(diff_id).join(file).exists());
    }
    pull(&here, &from, &wanted).unwrap();
    assert!(here.images().snapshot(&wanted.digest).unwrap().is_some());
    assert_eq!((left_in(&here, "tmp"), left_in(&here, "partial")), (0, 0));
    for layer in &wanted.manifest.layers {
        assert_eq!(from.asked_from(&layer.digest).first(), Some(&0));
    }
}

#[test]
fn what_an_earlier_try_has_of_a_layer_is_unpacked_from_the_disk_and_the_rest_as_it_comes() {
    let (scratch, source) = store();
    let wanted = image(&source, &[&[("a", 900_000), ("b", 70_000)]]);
    let layer = &wanted.manifest.layers[0];
    let (from, here) = (Away::new(&source), empty(&scratch, "here"));
    *from.breaks_at.lock().unwrap() = Some(600_001);
    let broken = pull(&here, &from, &wanted);
    assert!(matches!(broken, Err(TransferError::Io { .. })), "{broken:?}");
    assert!(!here.trees().path(&wanted.config.rootfs.diff_ids[0]).exists());
    assert_eq!((left_in(&here, "tmp"), left_in(&here, "partial")), (0, 1));
    pull(&here, &from, &wanted).unwrap();
    assert_eq!(from.asked_from(&layer.digest), [0, 600_001]);
    let tree = here.trees().path(&wanted.config.rootfs.diff_ids[0]);
    assert_eq!(fs::metadata(tree.join("a")).unwrap().len(), 900_000);
    assert_eq!(fs::metadata(tree.join("b")).unwrap().len(), 70_000);
}

#[test]
fn an_image_is_pulled_beside_a_process_that_is_stopped() {
    let (scratch, source) = store();
    let wanted = image(&source, &[&[("a", 1000)]]);
    let here = empty(&scratch, "here");
    let task = Task {
        does: "is stopped",
        progress: &Silent,
    };
    let _held = here.locks().exclusive(Flight::Image(&wanted.digest), task).unwrap();
    let waiter = here.going_on_after(std::time::Duration::from_millis(20));
    // In a thread of its own, as another process: the lock that is held here is none of its own.
    let pulled = std::thread::scope(|scope| {
        scope
            .spawn(|| pull(&waiter, &Away::new(&source), &wanted))
            .join()
            .unwrap()
    });
    assert_eq!(pulled.unwrap().digest, wanted.digest);
}

#[test]
fn a_layer_that_is_refused_leaves_neither_blob_nor_tree() {
    let (scratch, source) = store();
    let good = tar(&[("a", 600_000)]);
    let cut = gzip(&good[..1000]);
    let mut bad_end = gzip(&good);
    bad_end.extend([7; 100]);
    let own = DiffId::of(&good);
    for (number, (blob, diff_id)) in [
        // The tar of another layer, a tar that ends early, a gzip with something behind it, the same in zstd.
        (gzip(&good), DiffId::of(b"another")),
        (cut, DiffId::of(&good[..1000])),
        (bad_end, own),
        (zstd(&good[..1000], 20), DiffId::of(&good[..1000])),
        // Only who has more memory sees that it is another layer.
        (zstd(&good, 27), DiffId::of(b"another")),
    ]
    .into_iter()
    .enumerate()
    {
        let wanted = image_that_says(&source, vec![(put(&source, &blob), diff_id)]);
        let here = empty(&scratch, &format!("here-{number}"));
        let refused = pull(&here, &Away::new(&source), &wanted);
        assert!(
            matches!(
                refused,
                Err(TransferError::Store(
                    StoreError::Layer { .. } | StoreError::DiffId { .. }
                ))
            ),
            "{number}: {refused:?}"
        );
        has_nothing_of(&here, &wanted);
    }
    // Nor do bytes that are not what they are called, whatever they inflate to.
    let blob = gzip(&good);
    let wanted = image_that_says(&source, vec![(put(&source, &blob), own)]);
    let here = empty(&scratch, "here-wrong");
    let mut from = Away::new(&source);
    from.wrong.insert(wanted.manifest.layers[0].digest);
    let refused = pull(&here, &from, &wanted);
    assert!(
        matches!(refused, Err(TransferError::Store(StoreError::Digest { .. }))),
        "{refused:?}"
    );
    has_nothing_of(&here, &wanted);
    pull(&here, &Away::new(&source), &wanted).unwrap();
}

#[test]
fn a_layer_with_a_large_window_is_unpacked_all_the_same() {
    let (scratch, source) = store();
    let bytes = tar(&[("a", 100_000)]);
    let blob = zstd(&bytes, 27);
    let wanted = image_that_says(&source, vec![(put(&source, &blob), DiffId::of(&bytes))]);
    let here = empty(&scratch, "here");
    pull(&here, &Away::new(&source), &wanted).unwrap();
    let tree = here.trees().path(&wanted.config.rootfs.diff_ids[0]);
    assert_eq!(fs::metadata(tree.join("a")).unwrap().len(), 100_000);
}

#[test]
fn what_has_come_is_no_garbage_while_a_pull_makes_room_for_its_last_try() {
    let (scratch, source) = store();
    let wanted = image(&source, &[&[("a", 600_000)]]);
    let from = Away::new(&source);
    let made = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&made);
    // A quota: nobody is told of it before a file cannot be made, at the first and at the second try.
    ERRNO.set(Some(rustix::io::Errno::DQUOT));
    let make = move |store: &Store, call, _: Option<&Claim<'_>>| {
        match call {
            RoomCall::Before(..) if !told.load(Ordering::Relaxed) => FAIL.set(Some((Step::Tree, 0))),
            RoomCall::Full(_) => {
                FAIL.set(None);
                let loose = store.inventory(Count::Noted)?.loose;
                assert!(loose.is_empty(), "{loose:?}");
                told.store(true, Ordering::Relaxed);
                return Ok(RoomMade {
                    has_come: true,
                    warning: None,
                });
            }
            RoomCall::Before(..) | RoomCall::Passing(_) | RoomCall::After(_) => {}
        }
        Ok(RoomMade::default())
    };
    let maker = RoomMaker::new(make, |_, _| Ok(false));
    let here = empty(&scratch, "here").making_room_by(maker);
    let pulled = pull(&here, &from, &wanted);
    ERRNO.set(None);
    FAIL.set(None);
    assert_eq!(pulled.unwrap().digest, wanted.digest);
    assert!(made.load(Ordering::Relaxed), "it was never full");
    assert_eq!(from.asked_from(&wanted.manifest.layers[0].digest), [0]);
}

#[test]
fn a_failure_at_any_durable_step_leaves_a_sound_store() {
    let (scratch, source) = store();
    let wanted = image(&source, &[&[("a", 600_000)], &[("b", 5)]]);
    for step in [Step::Bytes, Step::Download, Step::Tree, Step::Document, Step::Snapshot] {
        for after in 0.. {
            let here = empty(&scratch, &format!("here-{step:?}-{after}"));
            let from = Away::new(&source);
            FAIL.set(Some((step, after)));
            let failed = pull(&here, &from, &wanted).is_err();
            FAIL.set(None);
            assert_eq!(left_in(&here, "tmp"), 0, "{step:?} {after} left something");
            if !failed {
                assert!(after > 0, "{step:?} is never reached");
                break;
            }
            pull(&here, &from, &wanted).unwrap();
            assert_eq!(left_in(&here, "partial"), 0, "{step:?} {after}");
            for (layer, diff_id) in wanted.manifest.layers.iter().zip(&wanted.config.rootfs.diff_ids) {
                assert!(here.blobs().has(layer).unwrap(), "{step:?} {after}");
                assert!(here.trees().path(diff_id).exists(), "{step:?} {after}");
                // Nothing that had come was asked for again.
                let asked = from.asked_from(&layer.digest);
                let whole = asked.iter().filter(|at| **at == 0).count();
                let allowed = if step == Step::Bytes { 2 } else { 1 };
                assert!(whole <= allowed, "{step:?} {after}: {asked:?}");
            }
        }
    }
}
