use std::fs;

use super::*;
use crate::store::tests::store;
use crate::sys::page_cache::{let_go, PAGE};

/// A store with two layers of files, and the layers.
fn with_layers() -> (tempfile::TempDir, crate::store::Store, [DiffId; 2]) {
    let (scratch, store) = store();
    let layers = [DiffId::of(b"one"), DiffId::of(b"two")];
    for (layer, files) in layers
        .iter()
        .zip([&["bin/python", "lib/os.pyc"][..], &["lib/numpy.so"]])
    {
        for (at, file) in files.iter().enumerate() {
            let path = store.trees().path(layer).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, vec![1; (400 - 350 * at) * PAGE as usize]).unwrap();
            File::open(&path).unwrap().sync_all().unwrap();
        }
    }
    (scratch, store, layers)
}

fn let_all_go(store: &crate::store::Store, layers: &[DiffId]) {
    for layer in layers {
        for file in ["bin/python", "lib/os.pyc", "lib/numpy.so"] {
            let _ = File::open(store.trees().path(layer).join(file)).map(|file| let_go(&file));
        }
    }
}

fn image() -> Digest {
    Digest::of(b"image")
}

fn measure(store: &crate::store::Store, layers: &[DiffId]) -> Option<u64> {
    StartFiles::measure(&store.disk, &image(), layers, u64::MAX).unwrap()
}

fn find(store: &crate::store::Store) -> Option<StartFiles<'_>> {
    StartFiles::find(&store.disk, &image())
}

#[test]
fn what_was_in_memory_is_recorded_and_comes_back() {
    let (_scratch, store, layers) = with_layers();
    assert!(find(&store).is_none());
    let_all_go(&store, &layers);
    assert_eq!(measure(&store, &layers), None);
    // What was read is recorded, and nothing else.
    let part = |name: &str| {
        let tree = Tree::open(&store.trees().path(&layers[usize::from(name.ends_with("so"))])).unwrap();
        tree.read_through(name, &[(0, 400 * PAGE)]).unwrap()
    };
    let read = part("bin/python") + part("lib/numpy.so");
    assert_eq!(measure(&store, &layers), Some(read));
    let text = fs::read_to_string(store.root().join("profiles").join(image().hex())).unwrap();
    assert!(text.lines().count() == 3 && !text.contains("os.pyc"), "{text}");
    assert!(!find(&store).unwrap().are_cold());
    let_all_go(&store, &layers);
    assert!(find(&store).unwrap().are_cold());
    find(&store).unwrap().ask_for();
    assert_eq!(find(&store).unwrap().read_through(), read);
    assert!(!find(&store).unwrap().are_cold());
    let again = measure(&store, &layers);
    assert_eq!(again, Some(read));
}

#[test]
fn more_than_a_profile_may_have_is_none() {
    let (_scratch, store, layers) = with_layers();
    assert_eq!(
        StartFiles::measure(&store.disk, &image(), &layers, 800 * PAGE).unwrap(),
        None
    );
    assert!(find(&store).is_none());
    assert_eq!(measure(&store, &layers), Some(850 * PAGE));
    assert_eq!(measure(&store, &[DiffId::of(b"gone")]), None);
}

#[test]
fn a_layer_that_is_gone_is_passed_over() {
    let (_scratch, store, layers) = with_layers();
    measure(&store, &layers).unwrap();
    fs::remove_dir_all(store.trees().path(&layers[0])).unwrap();
    assert_eq!(find(&store).unwrap().read_through(), 400 * PAGE);
    fs::remove_dir_all(store.trees().path(&layers[1])).unwrap();
    let found = find(&store).unwrap();
    assert!(!found.are_cold());
    assert_eq!(found.read_through(), 0);
}

#[test]
fn a_broken_profile_counts_as_absent_and_leads_nowhere() {
    let (scratch, store, layers) = with_layers();
    measure(&store, &layers).unwrap();
    let path = store.root().join("profiles").join(image().hex());
    let whole = fs::read_to_string(&path).unwrap();
    let other = whole.replace("\"version\":1", "\"version\":2");
    let long = format!("{{\"version\":1,{}}}\n", " ".repeat(5000));
    for absent in ["", "{", "null\n", "[]\n", "\u{0}\u{0}", &other, &long] {
        fs::write(&path, absent).unwrap();
        assert!(find(&store).is_none(), "{absent:.40}");
    }
    // Cut anywhere, it gives what is whole.
    let first = whole.lines().take(2).map(|line| line.len() + 1).sum::<usize>();
    fs::write(&path, &whole[..first + 10]).unwrap();
    assert_eq!(find(&store).unwrap().read_through(), 400 * PAGE);
    // A tampered one reads nothing but files of layers, and no more than a profile may have.
    fs::write(scratch.path().join("outside"), vec![1; 9000]).unwrap();
    let head = whole.lines().next().unwrap();
    let layer = layers[0].hex();
    let huge = 1u64 << 60;
    for line in [
        format!(r#"["{layer}","../../../../outside",[[0,9000]]]"#),
        format!(r#"["{layer}","/etc/passwd",[[0,9000]]]"#),
        format!(r#"["../{layer}","bin/python",[[0,9000]]]"#),
        format!(r#"["{layer}","bin/python",[[0,{huge}]]]"#),
        format!(r#"["{layer}","bin/python",[[0,-1]]]"#),
        format!(r#"["{layer}","bin",[[0,9000]]]"#),
    ] {
        fs::write(&path, format!("{head}\n{line}\n")).unwrap();
        assert_eq!(find(&store).unwrap().read_through(), 0, "{line}");
        find(&store).unwrap().ask_for();
    }
    let odd = head.replace(",0,", ",1,");
    fs::write(&path, format!("{odd}\n")).unwrap();
    assert!(!find(&store).unwrap().are_cold());
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    assert!(find(&store).is_none());
}
