//! Whatever the layers are: one tree for many shows the same files, is made once a boot, and nobody depends on it.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::store::disk::scratch;
use crate::store::tests::examples::{image_that_says, put};
use crate::store::tests::store;
use crate::store::{Image, LayerStack, Snapshot, Store, Visited};
use crate::sys::tree::{bytes_of, disk_bytes_of};

/// What a layer says of a path.
#[derive(Clone, Copy)]
enum Says {
    File(u32),
    Directory(u32),
    Link,
    Whiteout,
    Opaque,
}

fn tar(entries: &[(String, Says)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, says) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
        match says {
            Says::File(mode) => {
                header.set_mode(*mode);
                header.set_size(path.len() as u64);
                tar.append_data(&mut header, path, path.as_bytes())
            }
            Says::Directory(mode) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                tar.append_data(&mut header, path, io::empty())
            }
            Says::Link => {
                header.set_entry_type(tar::EntryType::Symlink);
                tar.append_link(&mut header, path, "target")
            }
            Says::Whiteout => tar.append_data(&mut header, format!("{parent}/.wh.{name}"), io::empty()),
            Says::Opaque => tar.append_data(&mut header, format!("{path}/.wh..wh..opq"), io::empty()),
        }
        .unwrap();
    }
    tar.into_inner().unwrap()
}

/// An image of these layers, base first.
fn image(store: &Store, layers: &[Vec<(String, Says)>]) -> Image {
    let layers = layers.iter().map(|entries| {
        let bytes = tar(entries);
        (put(store, &bytes), DiffId::of(&bytes))
    });
    image_that_says(store, layers.collect())
}

/// As many small layers as are merged, and those on top; each has a file of its own, and all have one directory.
fn many(store: &Store, first: &str) -> Image {
    let layers: Vec<_> = (0..FEWEST + ON_TOP)
        .map(|number| match number {
            0 => vec![(format!("shared/{first}"), Says::File(0o755))],
            _ => vec![(format!("shared/{number}"), Says::File(0o644))],
        })
        .collect();
    image(store, &layers)
}

/// Everything that trees, top first, show together.
fn shown(trees: Vec<PathBuf>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mode = |file: &File| file.metadata().unwrap().permissions().mode();
    LayerStack::open(trees)
        .unwrap()
        .walk(&mut |path, found| {
            let what = match found {
                Visited::Directory(directory) => format!("directory {:o}", mode(directory)),
                Visited::File(file) => format!("file {:o} {}", mode(file), io::read_to_string(&mut *file)?),
                Visited::Link(target) => format!("link {target}"),
                Visited::Other => "other".to_owned(),
            };
            all.insert(path.to_owned(), what);
            Ok(())
        })
        .unwrap();
    all
}

fn one_by_one(store: &Store, snapshot: &Snapshot) -> Vec<PathBuf> {
    store.images().trees(&snapshot.clone().layer_by_layer())
}

fn tree_of(store: &Store, snapshot: &Snapshot) -> PathBuf {
    snapshot.merged().unwrap().tree(&store.disk).unwrap()
}

fn is_swept(store: &Store) -> bool {
    scratch::sweep(&store.disk).unwrap();
    fs::read_dir(store.root().join("tmp")).unwrap().next().is_none()
}

#[test]
fn layers_are_called_by_their_chain_id_and_few_are_left_as_they_are() {
    let layers: Vec<DiffId> = (0..FEWEST + ON_TOP).map(|number| DiffId::of(&[number as u8])).collect();
    assert_eq!(Merged::of(&layers[1..]), None);
    let merged = Merged::of(&layers).unwrap();
    assert_eq!(merged.layers, FEWEST);
    // By another way: the digest of the text that the specification gives.
    let mut chain = layers[0].to_string();
    for layer in &layers[1..FEWEST] {
        chain = Digest::of(format!("{chain} {layer}").as_bytes()).to_string();
    }
    assert_eq!(merged.chain.to_string(), chain);
    let mut other = layers.clone();
    *other.last_mut().unwrap() = DiffId::of(b"code");
    assert_eq!(Merged::of(&other).unwrap(), merged);
    other[0] = DiffId::of(b"base");
    assert_ne!(Merged::of(&other).unwrap().chain, merged.chain);
}

#[test]
fn one_tree_shows_what_its_layers_show_and_takes_their_files() {
    // Numbers that look like chance, the same each time.
    let mut state = 7u64;
    let mut next = |most: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % most
    };
    let mut kinds = BTreeMap::new();
    for _ in 0..30 {
        let (_scratch, store) = store();
        let layers: Vec<Vec<(String, Says)>> = (0..FEWEST + ON_TOP)
            .map(|number| {
                let mut entries = vec![(format!("own/{number}"), Says::File(0o644))];
                let mut taken = Vec::new();
                for _ in 0..4 {
                    let depth = 1 + next(3);
                    let path: Vec<&str> = (0..depth).map(|_| ["a", "b", "c"][next(3) as usize]).collect();
                    let path = path.join("/");
                    // A layer says one thing of a path, and nothing of what is below or above it.
                    let is_apart = |other: &String| {
                        !format!("{other}/").starts_with(&format!("{path}/"))
                            && !format!("{path}/").starts_with(&format!("{other}/"))
                    };
                    if !taken.iter().all(is_apart) {
                        continue;
                    }
                    let says = match next(7) {
                        0 | 1 => Says::File([0o644, 0o755, 0o400][next(3) as usize]),
                        2 => Says::Directory([0o755, 0o700, 0o1777][next(3) as usize]),
                        3 => Says::Link,
                        4 | 5 => Says::Whiteout,
                        _ => Says::Opaque,
                    };
                    taken.push(path.clone());
                    entries.push((path, says));
                }
                entries
            })
            .collect();
        let image = image(&store, &layers);
        let snapshot = store.images().prepare(&image).unwrap();
        let trees = store.images().trees(&snapshot);
        assert_eq!(trees.len(), ON_TOP + 1);
        let expected = shown(one_by_one(&store, &snapshot));
        assert_eq!(shown(trees), expected);
        for what in expected.values() {
            *kinds.entry(what.split(' ').next().unwrap().to_owned()).or_insert(0) += 1;
        }
        // The merged layers alone, which are also seen where the ones on top hide nothing.
        let below = one_by_one(&store, &snapshot).split_off(ON_TOP);
        let tree = tree_of(&store, &snapshot);
        assert_eq!(shown(vec![tree.clone()]), shown(below));
        assert!(look(&store.disk, tree.parent().unwrap()).unwrap().is_none());
        assert!(is_swept(&store));
    }
    assert!(
        ["directory", "file", "link"].iter().all(|kind| kinds[*kind] > 10),
        "{kinds:?}"
    );
    assert!(!kinds.contains_key("other"), "a whiteout is shown");
}

#[test]
fn a_tree_is_shared_by_images_that_differ_on_top_and_takes_no_room_for_files() {
    let (_scratch, store) = store();
    let layers = |code: &str| {
        let below = (0..FEWEST).map(|number| vec![(format!("below/{number}"), Says::File(0o644))]);
        let top = (0..ON_TOP).map(|number| vec![(format!("{code}/{number}"), Says::File(0o644))]);
        below.chain(top).collect::<Vec<_>>()
    };
    let first = store.images().prepare(&image(&store, &layers("first"))).unwrap();
    let tree = tree_of(&store, &first);
    let made = fs::metadata(&tree).unwrap().ino();
    let second = store.images().prepare(&image(&store, &layers("second"))).unwrap();
    assert_eq!(
        (tree_of(&store, &second), fs::metadata(&tree).unwrap().ino()),
        (tree.clone(), made)
    );
    let original = LayerFolder::of(&store.disk, &first.layers[3]).tree().join("below/3");
    let linked = tree.join("below/3");
    assert_eq!(
        fs::metadata(original).unwrap().ino(),
        fs::metadata(linked).unwrap().ino()
    );
    // Sizes and blocks of the whole are those of the layers, and those of directories.
    let root = store.root();
    let layers = bytes_of(&root.join("layers")) + bytes_of(&tree.parent().unwrap().join("stamp.json"));
    let apart = ["layers", FOLDER].map(|folder| bytes_of(&root.join(folder)));
    assert!(apart[0] + apart[1] > layers);
    let mut seen = Default::default();
    let first = disk_bytes_of(&root.join("layers"), &mut seen);
    let more = disk_bytes_of(&tree, &mut seen);
    assert!(
        first > 0 && more == crate::sys::tree::disk_bytes_of_directories(&tree),
        "{more}"
    );
}

#[test]
fn another_boot_makes_the_tree_again_and_this_one_keeps_it() {
    let (_scratch, store) = store();
    let first = store.after_boot("first");
    let image = many(&first, "a");
    let snapshot = first.images().prepare(&image).unwrap();
    let tree = tree_of(&first, &snapshot);
    let made = fs::metadata(&tree).unwrap().ino();
    first.images().prepare(&image).unwrap();
    first.images().restore(&image.digest).unwrap();
    assert_eq!(fs::metadata(&tree).unwrap().ino(), made);

    // What a power loss did to its directories.
    fs::remove_file(tree.join("shared/a")).unwrap();
    fs::write(tree.join("shared/more"), "").unwrap();
    let second = store.after_boot("second");
    assert!(second.images().snapshot(&image.digest).unwrap().is_none());
    let snapshot = second.images().restore(&image.digest).unwrap();
    assert_ne!(fs::metadata(&tree).unwrap().ino(), made);
    assert_eq!(
        shown(second.images().trees(&snapshot)),
        shown(one_by_one(&second, &snapshot))
    );
    assert!(is_swept(&store));
}

#[test]
fn nobody_needs_the_tree() {
    for (errno, is_missed) in [
        (Errno::MLINK, false),
        (Errno::PERM, false),
        (Errno::XDEV, false),
        (Errno::NOSPC, false),
        (Errno::DQUOT, false),
        (Errno::MFILE, false),
        (Errno::IO, true),
    ] {
        let (_scratch, store) = store();
        let image = many(&store, "a");
        fault::ERRNO.set(Some(errno));
        fault::FAIL.set(Some((fault::Step::Merged, 0)));
        let prepared = store.images().prepare(&image);
        fault::FAIL.set(None);
        fault::ERRNO.set(None);
        assert_eq!(prepared.is_err(), is_missed, "{errno:?}");
        assert!(is_swept(&store), "{errno:?}");
        if let Ok(snapshot) = prepared {
            assert_eq!(snapshot.merged(), None);
            assert_eq!(store.images().trees(&snapshot).len(), FEWEST + ON_TOP);
        }
        // The next one who prepares the image makes it.
        let snapshot = store.images().prepare(&image).unwrap();
        assert_eq!(store.images().trees(&snapshot).len(), 1 + ON_TOP);
        // One that is gone is not waited for.
        fs::remove_dir_all(tree_of(&store, &snapshot).parent().unwrap()).unwrap();
        assert_eq!(store.images().trees(&snapshot), one_by_one(&store, &snapshot));
    }
}

#[test]
fn an_image_whose_root_hides_what_is_below_it_is_left_as_it_is() {
    let (_scratch, store) = store();
    let mut layers: Vec<_> = (0..2 * FEWEST)
        .map(|number| vec![(format!("{number}"), Says::File(0o644))])
        .collect();
    layers.insert(
        3,
        vec![(".".to_owned(), Says::Opaque), ("top".to_owned(), Says::File(0o644))],
    );
    let snapshot = store.images().prepare(&image(&store, &layers)).unwrap();
    let shown = shown(store.images().trees(&snapshot));
    assert!(shown.contains_key("top") && !shown.contains_key("0") && shown.contains_key("30"));
    assert_eq!((snapshot.merged(), snapshot.layers.len()), (None, layers.len() - 3));
}

#[test]
fn each_way_in_which_a_tree_differs_is_found() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 10] = [
        ("stamp.json, which says of which layers it is, got none", |tree| {
            let stamp = tree.parent().unwrap().join("stamp.json");
            fs::remove_file(&stamp).unwrap();
            rustix::fs::mkfifoat(CWD, &stamp, Mode::RWXU).unwrap();
        }),
        ("fs, a directory, got nothing", |tree| fs::remove_dir_all(tree).unwrap()),
        ("fs, a directory, got something else", |tree| {
            fs::remove_dir_all(tree).unwrap();
            std::os::unix::fs::symlink("/", tree).unwrap();
        }),
        ("its root with mode 755, got 700", |tree| {
            fs::set_permissions(tree, fs::Permissions::from_mode(0o700)).unwrap();
        }),
        ("shared/a as in its layer, got nothing", |tree| {
            fs::remove_file(tree.join("shared/a")).unwrap()
        }),
        ("shared/a as in its layer, got something else", |tree| {
            fs::remove_file(tree.join("shared/a")).unwrap();
            fs::write(tree.join("shared/a"), "shared/a").unwrap();
        }),
        ("shared/z not to be there, got something", |tree| {
            fs::write(tree.join("shared/z"), "").unwrap()
        }),
        ("shared as a directory, got something else", |tree| {
            fs::set_permissions(tree.join("shared"), fs::Permissions::from_mode(0o700)).unwrap();
        }),
        ("shared as a directory, got nothing", |tree| {
            fs::remove_dir_all(tree.join("shared")).unwrap()
        }),
        ("stamp.json, which says of which layers it is, got none", |tree| {
            fs::remove_file(tree.parent().unwrap().join("stamp.json")).unwrap();
        }),
    ];
    for (expected, damage) in damages {
        let (_scratch, store) = store();
        let snapshot = store.images().prepare(&many(&store, "a")).unwrap();
        let tree = tree_of(&store, &snapshot);
        damage(&tree);
        let wrong = look(&store.disk, tree.parent().unwrap()).unwrap().unwrap();
        assert_eq!(format!("{}, got {}", wrong.expected, wrong.got), expected);
    }
    let (_scratch, store) = store();
    let snapshot = store.images().prepare(&many(&store, "a")).unwrap();
    let tree = tree_of(&store, &snapshot);
    fs::remove_dir_all(tree.parent().unwrap()).unwrap();
    assert!(
        look(&store.disk, tree.parent().unwrap()).unwrap().is_none(),
        "gone is not wrong"
    );
}

#[test]
fn a_tree_without_its_files_is_made_again_and_one_that_does_not_say_what_it_is_stays() {
    let (_scratch, store) = store();
    let image = many(&store, "a");
    let snapshot = store.images().prepare(&image).unwrap();
    let tree = tree_of(&store, &snapshot);
    for link in [false, true] {
        fs::remove_dir_all(&tree).unwrap();
        if link {
            std::os::unix::fs::symlink("/", &tree).unwrap();
        }
        assert_eq!(store.images().trees(&snapshot), one_by_one(&store, &snapshot));
        store.images().prepare(&image).unwrap();
        assert!(tree_of(&store, &snapshot).join("shared/a").exists());
    }
    // Somebody may be running from it.
    let made = fs::metadata(&tree).unwrap().ino();
    fs::remove_file(tree.parent().unwrap().join("stamp.json")).unwrap();
    let again = store.images().prepare(&image).unwrap();
    assert_eq!((again.merged(), fs::metadata(&tree).unwrap().ino()), (None, made));
}

#[test]
fn nobody_new_uses_a_tree_whose_layer_was_unpacked_again() {
    let (_scratch, store) = store();
    let image = many(&store, "a");
    let snapshot = store.images().prepare(&image).unwrap();
    let (tree, layer) = (tree_of(&store, &snapshot), &snapshot.layers[0]);
    let made = fs::metadata(&tree).unwrap().ino();
    // By hand, as it was damaged.
    let file = LayerFolder::of(&store.disk, layer).tree().join("shared/a");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(&file, "damaged").unwrap();
    fs::remove_dir_all(LayerFolder::of(&store.disk, layer).path()).unwrap();
    let again = store.images().prepare(&image).unwrap();
    assert_eq!((again.merged(), fs::metadata(&tree).unwrap().ino()), (None, made));
    assert_eq!(shown(store.images().trees(&again))["shared/a"], "file 100755 shared/a");
    let wrong = look(&store.disk, tree.parent().unwrap()).unwrap().unwrap();
    assert_eq!(wrong.got, "something else");
    assert!(!is_of_layers(&store.disk, tree.parent().unwrap()));
    assert_eq!(
        with_layer(&store.disk, layer),
        [name(&Merged::of(&snapshot.layers).unwrap().chain)]
    );
    assert!(with_layer(&store.disk, snapshot.layers.last().unwrap()).is_empty());
    // In the next boot nobody uses it.
    let next = store.after_boot("next");
    let restored = next.images().restore(&image.digest).unwrap();
    assert!(restored.merged().is_some() && fs::metadata(&tree).unwrap().ino() != made);
}

#[test]
fn a_layer_that_an_image_has_many_times_is_read_once() {
    let (_scratch, store) = store();
    let layer = |number: usize| {
        vec![
            (format!("own/{number}"), Says::File(0o644)),
            ("all".to_owned(), Says::File(0o600 + number as u32 % 8)),
        ]
    };
    let mut layers: Vec<_> = (0..4).cycle().take(FEWEST + ON_TOP).map(layer).collect();
    layers[2].push(("own/1".to_owned(), Says::Whiteout));
    let snapshot = store.images().prepare(&image(&store, &layers)).unwrap();
    let stamp = read_stamp(tree_of(&store, &snapshot).parent().unwrap()).unwrap();
    assert_eq!(stamp.layers.len(), 5);
    assert_eq!(
        shown(store.images().trees(&snapshot)),
        shown(one_by_one(&store, &snapshot))
    );
}
