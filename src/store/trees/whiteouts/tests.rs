//! Layers whose entries come in every order; the trees are those `umoci unpack` leaves (tests/it/interop.rs asks it).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;

use super::super::opaque::is_opaque;
use super::*;
use crate::archive::tar_reader::TarError;
use crate::oci::{media_type, Descriptor, DiffId};
use crate::policy::ExtractionLimits;
use crate::store::tests::store;
use crate::store::{Store, StoreError};

/// A path that ends in `/` is a directory, one with `->` a link, the rest are files.
fn tar(entries: &[&str]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for path in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(0);
        match path.split_once("->") {
            Some((path, target)) => {
                header.set_entry_type(tar::EntryType::Symlink);
                tar.append_link(&mut header, path, target).unwrap();
            }
            None => {
                header.set_entry_type(match path.ends_with('/') {
                    true => tar::EntryType::Directory,
                    false => tar::EntryType::Regular,
                });
                tar.append_data(&mut header, path, &b""[..]).unwrap();
            }
        }
    }
    tar.into_inner().unwrap()
}

fn unpack(store: &Store, entries: &[&str]) -> Result<DiffId, StoreError> {
    let bytes = tar(entries);
    let digest = store.blobs().put(&bytes)?;
    let layer = Descriptor::new(media_type::LAYER_TAR, digest, bytes.len() as u64);
    store
        .trees()
        .unpack(&layer, &DiffId::of(&bytes), &ExtractionLimits::default())?;
    Ok(DiffId::of(&bytes))
}

/// What the layer's tree has: paths and what they are, as the mount sees them.
fn nodes(entries: &[&str]) -> BTreeMap<String, &'static str> {
    let (_scratch, store) = store();
    let root = store.trees().path(&unpack(&store, entries).unwrap());
    let mut found = BTreeMap::new();
    let mut pending = vec![root.clone()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let what = match () {
                () if kind.is_char_device() => "whiteout",
                () if kind.is_dir() && is_opaque(File::open(&path).unwrap()).unwrap() => "opaque",
                () if kind.is_dir() => "directory",
                () if kind.is_symlink() => "link",
                () => "file",
            };
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            found.insert(name, what);
            if kind.is_dir() {
                pending.push(path);
            }
        }
    }
    found
}

fn orders<'e>(entries: &[&'e str]) -> Vec<Vec<&'e str>> {
    let Some((first, rest)) = entries.split_first() else {
        return vec![Vec::new()];
    };
    let insert = |order: Vec<&'e str>| {
        let places = 0..=order.len();
        places.map(move |place| {
            let mut longer = order.clone();
            longer.insert(place, *first);
            longer
        })
    };
    orders(rest).into_iter().flat_map(insert).collect()
}

#[test]
fn whiteouts_hide_lower_layers_and_nothing_of_their_own_in_any_order() {
    type Case<'c> = (&'c [&'c str], &'c [(&'c str, &'c str)]);
    let cases: &[Case<'_>] = &[
        (&[".wh.d"], &[("d", "whiteout")]),
        (&[".wh.d", "d/", "d/new"], &[("d", "opaque"), ("d/new", "file")]),
        (&[".wh.d", "d/new"], &[("d", "opaque"), ("d/new", "file")]),
        (
            &[".wh.a", "a/b/c"],
            &[("a", "opaque"), ("a/b", "directory"), ("a/b/c", "file")],
        ),
        (&[".wh.r", "r"], &[("r", "file")]),
        (&[".wh.l", "l->/etc"], &[("l", "link")]),
        (
            &["d/", "d/.wh..wh..opq", "d/new"],
            &[("d", "opaque"), ("d/new", "file")],
        ),
        (&["d/.wh..wh..opq"], &[("d", "opaque")]),
        (
            &["d/.wh.s", "d/s/new"],
            &[("d", "directory"), ("d/s", "opaque"), ("d/s/new", "file")],
        ),
        (&["d/.wh.x"], &[("d", "directory"), ("d/x", "whiteout")]),
        (&[".wh.d", "d/.wh.x", "d/.wh..wh..opq"], &[("d", "whiteout")]),
        (&["d", "d/.wh..wh..opq"], &[("d", "file")]),
        (&["d->/etc", "d/.wh.x"], &[("d", "link")]),
    ];
    for (entries, expected) in cases {
        let expected: BTreeMap<_, _> = expected
            .iter()
            .map(|(path, what)| ((*path).to_owned(), *what))
            .collect();
        for order in orders(entries) {
            assert_eq!(nodes(&order), expected, "{order:?}");
        }
    }
}

#[test]
fn a_directory_in_place_of_a_file_of_its_own_layer_hides_what_the_file_hid() {
    let expected = BTreeMap::from([("d".to_owned(), "opaque")]);
    assert_eq!(nodes(&["d", "d/"]), expected);
    assert_eq!(nodes(&["d->/etc", "d/"]), expected);
    // Only an entry of its own may: a path that goes through a file or a link is no path.
    for through in ["d", "d->/etc"] {
        let refused = unpack(&store().1, &[through, "d/new"]);
        assert!(matches!(refused, Err(StoreError::Layer { .. })), "{refused:?}");
    }
}

#[test]
fn layers_below_an_opaque_root_are_not_seen() {
    let (_scratch, store) = store();
    let below = unpack(&store, &["old"]).unwrap();
    let opaque = unpack(&store, &["z", ".wh..wh..opq"]).unwrap();
    let above = unpack(&store, &["new"]).unwrap();
    assert_eq!(store.trees().visible(&[below, above]), [below, above]);
    assert_eq!(
        store.trees().visible(&[below, opaque, below, above]),
        [opaque, below, above]
    );
    assert_eq!(store.trees().visible(&[below, opaque]), [opaque]);
    assert_eq!(store.trees().visible(&[]), []);
}

#[test]
fn whiteouts_are_bounded_in_memory() {
    let mut whiteouts = Whiteouts::default();
    let (name, budget) = ("x".repeat(1 << 20), Budget::new(&ExtractionLimits::default()));
    let refused = (0..65).find_map(|_| whiteouts.hide(&name, &budget).err());
    assert!(refused.is_some_and(|error| error.kind() == std::io::ErrorKind::QuotaExceeded));
    assert!(matches!(budget.exceeded(), Some(TarError::Limit { limit, .. }) if limit == 64 << 20));
}
