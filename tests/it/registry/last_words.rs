//! What is said when an image has moved: where it is now. Standard output stays what programs read: the digest.

use std::fs;

use super::fake::Fake;
use super::images::{image, store_of};
use crate::common::Gantry;

/// The last line of standard error; standard output has the digest, and `more` behind it.
fn last_word(gantry: &Gantry, args: &[&str], printed: &str) -> String {
    let done = gantry.gantry(args);
    assert_eq!((done.code, &*done.stdout), (0, printed), "{args:?}: {}", done.stderr);
    let quiet = gantry.gantry([&["-q"], args].concat());
    assert_eq!(
        (quiet.code, &*quiet.stdout, &*quiet.stderr),
        (0, printed, ""),
        "{args:?}"
    );
    done.stderr.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn who_moves_an_image_is_told_where_it_is_now() {
    let fake = Fake::start();
    let gantry = store_of(&[&fake], "");
    let digest = image(&gantry, "a:1", &[(1, 2000)]);
    let printed = format!("{digest}\n");
    let say = |args: &[&str]| last_word(&gantry, args, &printed);
    let remote = fake.name("team/a:1");
    let sent = gantry.gantry(["push", "a:1", &remote]);
    assert_eq!(sent.stdout, printed);
    let line = sent.stderr.lines().last().unwrap_or_default();
    assert!(
        line.starts_with(&format!("Pushed a:1 to {remote}: ")) && line.ends_with("B sent"),
        "{line}"
    );
    let again = say(&["push", "a:1", &remote]);
    assert_eq!(again, format!("Pushed a:1 to {remote}, which had its layers"));
    assert_eq!(say(&["copy", "a:1", "b"]), "Copied a:1 to b:latest");
    assert_eq!(say(&["copy", &remote, "c:1"]), format!("Copied {remote} to c:1"));
    let layout = format!("oci:{}:x", gantry.home.join("layout").display());
    assert_eq!(say(&["push", "a:1", &layout]), format!("Pushed a:1 to {layout}"));
    assert_eq!(say(&["copy", &layout, "d:1"]), format!("Copied {layout} to d:1"));
}

#[test]
fn who_saves_and_loads_is_told_the_file_and_the_names() {
    let gantry = Gantry::new();
    let digest = image(&gantry, "a:1", &[(1, 2000)]);
    let file = gantry.home.join("a.tar");
    let path = file.to_str().unwrap();
    assert_eq!(
        last_word(&gantry, &["save", "a:1", path], ""),
        format!("Saved {digest} to {path}")
    );
    let loaded = |name: &str| format!("{digest} {name}\n");
    assert_eq!(last_word(&gantry, &["load", path], &loaded("a:1")), "Loaded a:1");
    assert_eq!(
        last_word(&gantry, &["load", path, "--tag", "b:1"], &loaded("b:1")),
        "Loaded b:1"
    );
    assert!(fs::metadata(file).is_ok());
}
