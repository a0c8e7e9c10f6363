//! Layers with names, links and deletions that other tools went wrong with, and that mean something harmless: they are taken,
//! and all that comes of them lies inside.

use std::path::Path;

use serde_json::json;

use super::draft::{archive_of, config, entry, honest, layer, pax, spoiled, Draft, TAR};

const FILE: u8 = b'0';
const HARD: u8 = b'1';
const SYMBOLIC: u8 = b'2';
const CHARACTER: u8 = b'3';
const DIRECTORY: u8 = b'5';

/// What is there of the image: a path, and `a directory`, `a link to T`, `a file of TEXT`, or nothing.
pub type Holds = (&'static str, Option<&'static str>);

pub struct Contained {
    pub what: &'static str,
    pub draft: Draft,
    pub holds: Vec<Holds>,
}

fn file(path: &str, text: &str) -> Vec<u8> {
    entry(path.as_bytes(), FILE, text.as_bytes(), b"")
}

fn directory(path: &str) -> Vec<u8> {
    entry(path.as_bytes(), DIRECTORY, b"", b"")
}

fn link(path: &str, target: &str) -> Vec<u8> {
    entry(path.as_bytes(), SYMBOLIC, b"", target.as_bytes())
}

fn hard(path: &str, target: &str) -> Vec<u8> {
    entry(path.as_bytes(), HARD, b"", target.as_bytes())
}

fn layers(all: &[&[Vec<u8>]]) -> Draft {
    Draft {
        layers: all
            .iter()
            .map(|entries| (TAR.to_owned(), archive_of(entries)))
            .collect(),
        ..honest()
    }
}

fn case(what: &'static str, entries: &[Vec<u8>], holds: &[Holds]) -> Contained {
    let draft = layer(TAR, archive_of(entries));
    Contained {
        what,
        draft,
        holds: holds.to_vec(),
    }
}

fn cases_of(what: &'static str, all: &[&[Vec<u8>]], holds: &[Holds]) -> Contained {
    Contained {
        what,
        draft: layers(all),
        holds: holds.to_vec(),
    }
}

const NOTHING: Option<&str> = None;
const A_FILE: Option<&str> = Some("a file of mine");
const A_DIRECTORY: Option<&str> = Some("a directory");

fn names() -> Vec<Contained> {
    let old = spoiled(b"old/", 0, b"", |header| header[257..265].fill(0));
    let mine = |path: &str| file(path, "mine");
    vec![
        case("an absolute name", &[mine("/opt/a")], &[("opt/a", A_FILE)]),
        case(
            "a name with two slashes in front",
            &[mine("//opt/a")],
            &[("opt/a", A_FILE)],
        ),
        case("a name that begins here", &[mine("././opt/a")], &[("opt/a", A_FILE)]),
        case(
            "a name that begins with points",
            &[mine("..a/...")],
            &[("..a/...", A_FILE)],
        ),
        case(
            "names that differ in case",
            &[mine("a"), file("A", "other")],
            &[("a", A_FILE), ("A", Some("a file of other"))],
        ),
        case(
            "names that look alike",
            &[mine("\u{e9}"), file("e\u{301}", "other")],
            &[("\u{e9}", A_FILE), ("e\u{301}", Some("a file of other"))],
        ),
        case(
            "a name that clears a terminal",
            &[mine("\u{1b}[2J\u{7}")],
            &[("\u{1b}[2J\u{7}", A_FILE)],
        ),
        case("a name of two lines", &[mine("a\nb")], &[("a\nb", A_FILE)]),
        case("a name with a backslash", &[mine("..\\a")], &[("..\\a", A_FILE)]),
        case(
            "a name that an option has",
            &[mine("--checkpoint-action=exec=sh")],
            &[("--checkpoint-action=exec=sh", A_FILE)],
        ),
        case(
            "an extended name over a header that climbs",
            &[pax("path", b"opt/a"), mine("../../a")],
            &[("opt/a", A_FILE)],
        ),
        case(
            "two extended names",
            &[pax("path", b"b"), pax("path", b"opt/a"), mine("c")],
            &[("opt/a", A_FILE), ("b", NOTHING), ("c", NOTHING)],
        ),
        case(
            "a directory as the seventh edition wrote it",
            &[old],
            &[("old", A_DIRECTORY)],
        ),
        case("a file twice", &[file("a", "first"), mine("a")], &[("a", A_FILE)]),
        case(
            "a path in the kernel's directories",
            &[mine("opt/proc/self/fd/1")],
            &[("opt/proc/self/fd/1", A_FILE)],
        ),
        case(
            "entries behind the end",
            &[mine("a"), vec![0; 1024], mine("hidden")],
            &[("a", A_FILE), ("hidden", NOTHING)],
        ),
        case("nothing at all", &[], &[("a", NOTHING)]),
    ]
}

fn links(canary: &str) -> Vec<Contained> {
    let target: &'static str = format!("a link to {canary}").leak();
    let through = |name: &str| file(name, "mine");
    vec![
        case(
            "a link that leads out",
            &[link("out", canary)],
            &[("out", Some(target))],
        ),
        case(
            "a link that climbs out",
            &[link("a/out", "../../../../../../../../etc/passwd")],
            &[("a/out", Some("a link to ../../../../../../../../etc/passwd"))],
        ),
        case(
            "links in a ring",
            &[link("a", "b"), link("b", "a")],
            &[("a", Some("a link to b"))],
        ),
        case(
            "a file in the place of a link that leads out",
            &[link("out", &format!("{canary}/x")), through("out")],
            &[("out", A_FILE)],
        ),
        case(
            "a directory in the place of a link that leads out",
            &[link("out", canary), directory("out"), through("out/x")],
            &[("out", A_DIRECTORY), ("out/x", A_FILE)],
        ),
        case(
            "a link in the place of a directory",
            &[directory("d"), through("d/x"), link("d", canary)],
            &[("d", Some(target))],
        ),
        case(
            "a hard link in the place of a link that leads out",
            &[through("a"), link("out", &format!("{canary}/x")), hard("out", "a")],
            &[("out", A_FILE)],
        ),
        case(
            "a file whose other name is overwritten",
            &[through("a"), hard("b", "a"), file("b", "other")],
            &[("a", A_FILE), ("b", Some("a file of other"))],
        ),
        cases_of(
            "a file through a link of the layer below",
            &[&[link("out", canary)], &[through("out/x")]],
            &[("out", A_DIRECTORY), ("out/x", A_FILE)],
        ),
        cases_of(
            "a directory over a link of the layer below",
            &[&[link("out", canary)], &[directory("out/d")]],
            &[("out", A_DIRECTORY), ("out/d", A_DIRECTORY)],
        ),
        cases_of(
            "a file over a directory of the layer below",
            &[&[through("d/x")], &[through("d")]],
            &[("d", A_FILE)],
        ),
        cases_of(
            "a link over a directory, and a file through it",
            &[&[through("d/x")], &[link("d", canary)], &[through("d/y")]],
            &[("d", A_DIRECTORY), ("d/x", NOTHING), ("d/y", A_FILE)],
        ),
        cases_of("the layer twice", &[&[through("a")], &[through("a")]], &[("a", A_FILE)]),
    ]
}

fn whiteouts(canary: &str) -> Vec<Contained> {
    let target: &'static str = format!("a link to {canary}").leak();
    let mine = |path: &str| file(path, "mine");
    let gone = |path: &str| entry(path.as_bytes(), FILE, b"", b"");
    vec![
        case(
            "a deletion of what the layer has",
            &[mine("a"), gone(".wh.a")],
            &[("a", A_FILE)],
        ),
        case(
            "a deletion with contents",
            &[mine("a/b"), file("a/.wh.c", "contents")],
            &[("a/b", A_FILE), ("a/c", NOTHING)],
        ),
        case(
            "a deletion through a link of its layer",
            &[link("out", canary), gone("out/.wh.x")],
            &[("out", Some(target))],
        ),
        case(
            "an opaque link of its layer",
            &[link("out", canary), gone("out/.wh..wh..opq")],
            &[("out", Some(target))],
        ),
        case(
            "a deletion below a file",
            &[mine("a"), gone("a/.wh.x")],
            &[("a", A_FILE)],
        ),
        cases_of(
            "a deletion through a link of the layer below",
            &[&[link("out", canary)], &[gone("out/.wh.x")]],
            &[("out/x", NOTHING)],
        ),
        cases_of(
            "everything below deleted",
            &[&[mine("a"), mine("b/c")], &[gone(".wh..wh..opq"), mine("d")]],
            &[("a", NOTHING), ("b", NOTHING), ("d", A_FILE)],
        ),
        cases_of(
            "a deletion of a directory and a file in it",
            &[&[mine("d/old")], &[gone(".wh.d"), mine("d/new")]],
            &[("d/old", NOTHING), ("d/new", A_FILE)],
        ),
        cases_of(
            "a hard link to what a deletion hides",
            &[&[mine("d/x")], &[mine("d/x"), hard("y", "d/x"), gone("d/.wh.x")]],
            &[("d/x", A_FILE), ("y", A_FILE)],
        ),
        cases_of(
            "deletions of nothing",
            &[&[mine("a")], &[gone(".wh.b"), gone("c/d/.wh.e")]],
            &[("a", A_FILE), ("b", NOTHING)],
        ),
    ]
}

fn attributes() -> Vec<Contained> {
    let mode = |path: &[u8], kind, mode: &[u8; 8]| {
        let mode = *mode;
        spoiled(path, kind, if kind == FILE { b"mine" } else { b"" }, move |header| {
            header[100..108].copy_from_slice(&mode)
        })
    };
    let mine = |path: &str| file(path, "mine");
    let owner = spoiled(b"a", FILE, b"mine", |header| header[108..116].fill(0xff));
    let device = |path: &[u8], kind| entry(path, kind, b"", b"");
    vec![
        case(
            "a file that becomes another user",
            &[mode(b"a", FILE, b"0006755\0")],
            &[("a", A_FILE)],
        ),
        case(
            "a directory that gives its group on",
            &[mode(b"d/", DIRECTORY, b"0007777\0")],
            &[("d", A_DIRECTORY)],
        ),
        case(
            "a file that nobody may read",
            &[mode(b"a", FILE, b"0000000\0")],
            &[("a", A_FILE)],
        ),
        case(
            "a directory that nobody may enter",
            &[mode(b"d/", DIRECTORY, b"0000000\0"), mine("d/a")],
            &[("d/a", A_FILE)],
        ),
        case(
            "a mode of all bits",
            &[mode(b"a", FILE, b"7777777\0")],
            &[("a", A_FILE)],
        ),
        case(
            "capabilities of a file",
            &[
                pax("SCHILY.xattr.security.capability", b"\x01\0\0\x02\xff\xff\xff\xff"),
                mine("a"),
            ],
            &[("a", A_FILE)],
        ),
        case(
            "a directory that leads into other layers",
            &[
                pax("SCHILY.xattr.user.overlay.redirect", b"/../../../etc"),
                directory("d"),
            ],
            &[("d", A_DIRECTORY)],
        ),
        cases_of(
            "a directory that hides by an attribute",
            &[
                &[mine("d/a")],
                &[pax("SCHILY.xattr.user.overlay.opaque", b"y"), directory("d")],
            ],
            &[("d/a", A_FILE)],
        ),
        case(
            "a file that the overlay takes for a deletion",
            &[
                pax("SCHILY.xattr.user.overlay.whiteout", b"y"),
                pax("LIBARCHIVE.xattr.user.overlay.metacopy", b""),
                mine("a"),
            ],
            &[("a", A_FILE)],
        ),
        case("an owner of no number", &[owner], &[("a", A_FILE)]),
        case(
            "a time before all others",
            &[pax("mtime", b"-99999999999999999999.5"), mine("a")],
            &[("a", A_FILE)],
        ),
        case(
            "devices below dev",
            &[
                device(b"dev/sda", b'4'),
                device(b"dev/null", CHARACTER),
                device(b"dev/initctl", b'6'),
                mine("a"),
            ],
            &[("a", A_FILE), ("dev/sda", NOTHING), ("dev/null", NOTHING)],
        ),
    ]
}

/// Configurations that ask for what no run gives.
fn configs() -> Vec<Contained> {
    let one = |what, key: &'static str, value: serde_json::Value| Contained {
        what,
        draft: config(move |config| config["config"][key] = value.clone()),
        holds: vec![("app/x", Some("a file of "))],
    };
    vec![
        one(
            "volumes over what the system has",
            "Volumes",
            json!({"/proc": {}, "/etc": {}, "/../../tmp": {}}),
        ),
        one("the user that may do all", "User", json!("0:0")),
        one("a user that is not in the image", "User", json!("nobody-of-ours")),
        one(
            "libraries before all others",
            "Env",
            json!(["LD_PRELOAD=/app/x", "LD_AUDIT=/app/x"]),
        ),
        one(
            "labels that clear a terminal",
            "Labels",
            json!({"\u{1b}[2J": "\u{1b}]0;x\u{7}"}),
        ),
        one(
            "a health check",
            "Healthcheck",
            json!({"Test": ["CMD-SHELL", "touch /tmp/x"]}),
        ),
        one("a signal of no number", "StopSignal", json!("SIGNONE")),
        one("a trigger of builds", "OnBuild", json!(["RUN touch /tmp/x"])),
    ]
}

/// All of them; some lead to `canary`, where nothing may change.
pub fn contained(canary: &Path) -> Vec<Contained> {
    let canary = canary.to_str().unwrap();
    let all = [names(), links(canary), whiteouts(canary), attributes(), configs()];
    all.into_iter().flatten().collect()
}
