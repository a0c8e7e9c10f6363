//! Collects garbage beside those who use the store: what an eviction may take by its locks, which keep safe what comes and what a
//! build has made. What wants the store alone stays: leases, locks, notes whose day is over.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::oci::Digest;
use crate::store::{Count, Doomed, GarbageReport, Inventory, Keep, PartName, Remembered, Rules, Store, StoreError};

/// Removes what nothing needs, without waiting for anybody. Nothing that a process is bringing goes; while a build is at work only
/// images that nobody keeps do.
///
/// # Errors
/// [`StoreError`] when the store cannot be read, or something cannot be removed.
pub(crate) fn collect_beside(store: &Store, rules: Rules<'_>) -> Result<GarbageReport, StoreError> {
    let inventory = store.inventory(Count::Noted)?;
    let evicted = store.evict(&inventory, &doomed(&inventory, rules))?;
    let files: Vec<PathBuf> = evicted.remembered.into_iter().chain(evicted.loose).collect();
    let report = counted(&inventory, &evicted.images.into_iter().collect(), &files);
    Ok(GarbageReport {
        bytes: evicted.bytes,
        left_bytes: inventory.total.saturating_sub(evicted.bytes),
        ..report
    })
}

/// Says what [`collect_beside`] would remove, and changes nothing but notes of sizes.
///
/// # Errors
/// [`StoreError`] when the store cannot be read.
pub(crate) fn find_beside(store: &Store, rules: Rules<'_>) -> Result<GarbageReport, StoreError> {
    let inventory = store.inventory(Count::Noted)?;
    let doomed = doomed(&inventory, rules);
    let images = doomed.images.iter().map(|(digest, _)| *digest).collect();
    let mut files = Vec::new();
    if !store.locks().is_building()? {
        files.extend(doomed.remembered.into_iter().chain(doomed.loose));
    }
    Ok(counted(&inventory, &images, &files))
}

fn doomed(inventory: &Inventory, rules: Rules<'_>) -> Doomed {
    let is_unused = |kept: &&Remembered| match (rules.keep, rules.unused_since) {
        (Keep::ImagesOnly, _) => true,
        (Keep::Memoised, Some(since)) => kept.used.is_some_and(|used| used < since),
        (Keep::Memoised, None) => false,
    };
    let is_of_others = |tool: &&Remembered| {
        let name = tool.file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match name.ends_with("-cache") {
            true => rules.keep == Keep::ImagesOnly,
            false => !rules.tools.contains(&name),
        }
    };
    let remembered = inventory.remembered.iter().filter(is_unused);
    let tools = inventory.tools.iter().filter(is_of_others);
    Doomed {
        images: inventory
            .nameless
            .iter()
            .map(|image| (image.digest, image.used))
            .collect(),
        remembered: remembered.chain(tools).map(|kept| kept.file.clone()).collect(),
        loose: inventory.loose.iter().map(|file| file.file.clone()).collect(),
    }
}

/// What goes with `images` and `files`, by kind, and the bytes of it.
fn counted(inventory: &Inventory, images: &BTreeSet<Digest>, files: &[PathBuf]) -> GarbageReport {
    let files: BTreeSet<&PathBuf> = files.iter().collect();
    let mut report = GarbageReport {
        snapshots: images.len() as u64,
        ..GarbageReport::default()
    };
    for part in inventory.needed_by_these_alone(images, &files) {
        report.bytes += part.bytes;
        match part.what {
            PartName::Blob(_) => report.blobs += 1,
            PartName::Layer(_) => report.layers += 1,
            PartName::Merged(_) => report.merged += 1,
            PartName::Download(_) => report.downloads += 1,
        }
    }
    let all = inventory
        .remembered
        .iter()
        .chain(&inventory.tools)
        .chain(&inventory.loose);
    for kept in all.filter(|kept| files.contains(&kept.file)) {
        report.bytes += kept.bytes;
        count_file(&mut report, &kept.file);
    }
    report.left_bytes = inventory.total.saturating_sub(report.bytes);
    report
}

fn count_file(report: &mut GarbageReport, file: &Path) {
    let folder = file.iter().next().and_then(|folder| folder.to_str());
    let count = match folder {
        Some("blobs") => &mut report.blobs,
        Some("layers") => &mut report.layers,
        Some("merged") => &mut report.merged,
        Some("partial") => &mut report.partials,
        Some("profiles") => &mut report.profiles,
        Some("memo") => &mut report.memos,
        Some("tools") => &mut report.tools,
        Some("journal") => &mut report.journal_days,
        // A download is counted as the part that it is.
        _ => return,
    };
    *count += 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{examples, store};
    use crate::sys::clock;

    #[test]
    fn what_nothing_needs_goes_beside_others_and_what_builds_made_when_none_is_at_work() {
        let (_scratch, store) = store();
        let (kept, old) = (
            examples::image(&store, &[&[("a", 100_000)]]),
            examples::image(&store, &[&[("b", 100_000)]]),
        );
        for image in [&kept, &old] {
            store.images().prepare(image).unwrap();
        }
        store.names().set(&"kept:1".parse().unwrap(), &kept.digest).unwrap();
        store.blobs().put(b"nobody's").unwrap();
        let rules = |keep| Rules {
            keep,
            unused_since: None,
            max_bytes: None,
            tools: &[],
            now: clock::now(),
        };
        let memoised = rules(Keep::Memoised);
        // Others use the store, and one builds.
        let _used = store.locks().keep_collector_out().unwrap();
        let building = store.locks().building().unwrap();
        let told = find_beside(&store, memoised).unwrap();
        let went = collect_beside(&store, memoised).unwrap();
        assert_eq!(
            (told.layers, went.layers, went.snapshots),
            (1, 1, 1),
            "{told:?} {went:?}"
        );
        assert_eq!(told.blobs, went.blobs);
        assert!(store.blobs().size(&Digest::of(b"nobody's")).is_some());
        drop(building);
        store.downloads().put(b"a wheel").unwrap();
        let went = collect_beside(&store, memoised).unwrap();
        assert_eq!((went.blobs, went.downloads, went.layers), (1, 0, 0), "{went:?}");
        assert_eq!(collect_beside(&store, rules(Keep::ImagesOnly)).unwrap().downloads, 1);
        assert!(store.images().restore(&kept.digest).is_ok());
    }
}
