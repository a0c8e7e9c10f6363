//! Garbage is what nothing needs, whoever is at work meanwhile.

use std::time::Duration;

use serde::Deserialize;

use super::*;
use crate::oci::Descriptor;
use crate::store::tests::{add_image, add_layer, collect, gc_rules, store};
use crate::store::{Key, Memo, Step, Store};

/// A memo whose fields are called like nothing that garbage collection knows.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Renamed {
    packed: Digest,
    tree: DiffId,
}

impl Memo for Renamed {
    const FOLDER: &'static str = "renamed";

    fn roots(&self) -> Roots {
        Roots {
            blobs: vec![self.packed],
            layers: vec![self.tree],
            downloads: Vec::new(),
        }
    }
}

fn is_there(store: &Store, layer: &Descriptor, diff_id: &DiffId) -> bool {
    store.blobs().has(layer).unwrap() && store.trees().path(diff_id).exists()
}

#[test]
fn what_a_memo_says_it_needs_stays_whatever_its_fields_are_called() {
    let (_scratch, store) = store();
    let (layer, diff_id) = add_layer(&store, "x").unwrap();
    let key = Key::of(Step::CodeLayer).with("x").finish();
    let memo = Renamed {
        packed: layer.digest,
        tree: diff_id,
    };
    store.memos().put(&key, &memo).unwrap();
    collect(&store, Keep::Memoised, false);
    assert!(is_there(&store, &layer, &diff_id));
    let report = collect(&store, Keep::ImagesOnly, false);
    assert_eq!((report.memos, report.blobs, report.layers), (1, 1, 1));
    assert!(!is_there(&store, &layer, &diff_id));
    assert_eq!(store.memos().find::<Renamed>(&key).unwrap(), None);
}

#[test]
fn what_a_memo_of_an_earlier_version_needs_stays() {
    let (_scratch, store) = store();
    let (layer, diff_id) = add_layer(&store, "x").unwrap();
    let folder = store.root().join("memo/wheel");
    fs::create_dir_all(&folder).unwrap();
    let memo = serde_json::json!({
        "digest": layer.digest, "size": layer.size, "diff_id": diff_id, "unpacked_bytes": 1, "note": null,
    });
    fs::write(folder.join("0.json"), memo.to_string()).unwrap();
    collect(&store, Keep::Memoised, false);
    assert!(is_there(&store, &layer, &diff_id));
}

#[test]
fn nobody_waits_while_garbage_is_deleted() {
    let (_scratch, store) = store();
    add_image(&store, "x").unwrap();
    store.names().remove(&"image:1".parse().unwrap()).unwrap();
    let (mut garbage, scratch) = set_aside(
        &store.disk,
        gc_rules(Keep::ImagesOnly),
        0,
        Patience::default(),
        &mut || (),
    )
    .unwrap();
    // All of it is still there, and the lock is free again.
    let moved: Vec<_> = garbage.paths().collect();
    assert!(
        moved.len() >= 5
            && moved
                .iter()
                .all(|path| path.starts_with(scratch.path()) && path.exists())
    );
    assert!(names(&store.root().join("layers")).unwrap().is_empty());
    let none = Patience {
        most: Duration::ZERO,
        between: Duration::ZERO,
    };
    drop(
        store
            .locks()
            .collector_alone(none, &mut || panic!("somebody has it"))
            .unwrap(),
    );
    let report = garbage.report(0);
    assert_eq!((report.blobs, report.layers, report.snapshots), (3, 1, 1));
    drop(scratch);
    assert!(names(&store.root().join("tmp")).unwrap().is_empty());
}

fn rules(keep: Keep) -> Rules<'static> {
    Rules {
        keep,
        unused_since: None,
        max_bytes: None,
        tools: &["uv-2"],
        now: SystemTime::UNIX_EPOCH + Duration::from_secs(100 * SECONDS_A_DAY),
    }
}

#[test]
fn nothing_grows_for_ever() {
    let (_scratch, store) = store();
    let digest = add_image(&store, "x").unwrap();
    for path in [
        "tools/uv-cache/wheels/a",
        "tools/uv-1/uv",
        "tools/uv-2/uv",
        "journal/64.jsonl",
        "journal/65.jsonl",
        "journal/notes",
        "locks/layer-x",
        "memo/wheel/damaged.json",
    ] {
        let path = store.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"x").unwrap();
    }
    let gone = Renamed {
        packed: Digest::of(b"gone"),
        tree: DiffId::of(b"gone"),
    };
    let key = Key::of(Step::CodeLayer).with("gone").finish();
    store.memos().put(&key, &gone).unwrap();
    drop(store.locks().lease(&digest).unwrap());
    let unnamed = Digest::of(b"unnamed");
    drop(store.locks().lease(&unnamed).unwrap());
    let other = "example.org/deep/er:1".parse().unwrap();
    store.names().set(&other, &digest).unwrap();
    store.names().remove(&other).unwrap();

    let held = Store::open(store.root()).unwrap();
    let held = std::thread::spawn(move || held.locks().index().unwrap())
        .join()
        .unwrap();
    let locks = names(&store.root().join("locks")).unwrap().len() as u64 - 1;
    let find = |keep| {
        store
            .find_garbage(rules(keep), Patience::default(), &mut || ())
            .unwrap()
    };
    let counted = |found: &GarbageReport| (found.tools, found.journal_days, found.leases, found.memos, found.locks);
    // The one that is held stays, as does the collector's own.
    assert_eq!(counted(&find(Keep::Memoised)), (1, 1, 1, 2, locks));
    assert_eq!(counted(&find(Keep::ImagesOnly)), (2, 1, 1, 2, locks));
    assert!(
        store.root().join("leases").join(unnamed.hex()).exists(),
        "nothing is changed"
    );

    let removed = store
        .remove_garbage(rules(Keep::Memoised), Patience::default(), &mut || ())
        .unwrap();
    assert_eq!(counted(&removed), (1, 1, 1, 2, locks));
    let left = |folder: &str| names(&store.root().join(folder)).unwrap();
    assert_eq!(left("tools"), ["uv-2", "uv-cache"]);
    assert_eq!(left("journal"), ["65.jsonl", "notes"]);
    assert_eq!(left("leases"), [digest.hex()]);
    assert_eq!(left("locks"), ["collector", "index"]);
    assert_eq!(left("refs"), ["_local", "example.org"], "somebody writes names");

    drop(held);
    store
        .remove_garbage(rules(Keep::ImagesOnly), Patience::default(), &mut || ())
        .unwrap();
    assert_eq!(left("tools"), ["uv-2"]);
    assert_eq!(
        left("locks"),
        ["collector", "index"],
        "the lock that it took itself is back"
    );
    assert_eq!(left("refs"), ["_local"]);
    assert_eq!(store.names().find(&"image:1".parse().unwrap()).unwrap(), Some(digest));
}

#[test]
fn what_builds_have_not_used_for_long_goes_first_and_only_as_much_as_must() {
    let (_scratch, store) = store();
    add_image(&store, "named").unwrap();
    let mut paths = Vec::new();
    for (number, text) in ["oldest", "older", "old"].into_iter().enumerate() {
        let (layer, diff_id) = add_layer(&store, text).unwrap();
        let key = Key::of(Step::CodeLayer).with(text).finish();
        let memo = Renamed {
            packed: layer.digest,
            tree: diff_id,
        };
        store.memos().put(&key, &memo).unwrap();
        let path = store.root().join(format!("memo/renamed/{}.json", key.hex()));
        let used = SystemTime::UNIX_EPOCH + Duration::from_secs((number as u64 + 1) * SECONDS_A_DAY);
        fs::File::open(&path).unwrap().set_modified(used).unwrap();
        paths.push((path, layer, diff_id));
    }
    let find = |unused_since: Option<u64>, max_bytes| {
        let rules = Rules {
            unused_since: unused_since.map(|day| SystemTime::UNIX_EPOCH + Duration::from_secs(day * SECONDS_A_DAY)),
            max_bytes,
            ..gc_rules(Keep::Memoised)
        };
        store.find_garbage(rules, Patience::default(), &mut || ()).unwrap()
    };
    let (all, none) = (find(Some(100), None), find(None, None));
    assert_eq!((all.memos, all.layers, none.memos, none.layers), (3, 3, 0, 0));
    assert_eq!((find(Some(2), None).memos, find(Some(3), None).memos), (1, 2));
    // One byte too much, and the one that was unused for longest goes, with its layer.
    let one = find(None, Some(none.left_bytes - 1));
    assert_eq!((one.memos, one.layers, one.blobs), (1, 1, 1));
    assert_eq!(find(None, Some(none.left_bytes)).memos, 0);
    let enough = find(None, Some(one.left_bytes - 1));
    assert_eq!(enough.memos, 2);
    // Images stay, however little room there shall be.
    let least = find(None, Some(1));
    assert_eq!((least.memos, least.layers, least.snapshots), (3, 3, 0));
    assert!(least.left_bytes > 1);
    // To be looked up is to be of use.
    let key = Key::of(Step::CodeLayer).with("oldest").finish();
    assert!(store.memos().find::<Renamed>(&key).unwrap().is_some());
    assert_eq!(find(Some(3), None).memos, 1);
    let rules = Rules {
        max_bytes: Some(one.left_bytes),
        ..gc_rules(Keep::Memoised)
    };
    store.remove_garbage(rules, Patience::default(), &mut || ()).unwrap();
    assert!(paths[0].0.exists() && !paths[1].0.exists());
    assert!(is_there(&store, &paths[0].1, &paths[0].2) && !is_there(&store, &paths[1].1, &paths[1].2));
}

#[test]
fn a_lock_whose_file_went_away_is_still_one_lock() {
    let (_scratch, store) = store();
    let done = std::sync::atomic::AtomicBool::new(false);
    let inside = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let _single = store.locks().index().unwrap();
                        assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                collect(&store, Keep::Memoised, false);
            }
        });
        let ends: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        ends.into_iter().for_each(|end| end.unwrap());
    });
}
