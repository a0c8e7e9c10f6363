//! The whole corpus through the binary: a process for each, which may take neither time nor memory without end, may not
//! panic, and may change nothing beside its store.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{json, Value};

use super::cases::{cases, files};
use super::contained::contained;
use super::named;
use super::streams::bombs;
use crate::common::{tool, Gantry};

/// At least so many layouts are shown to the binary; see the list with `cargo test --test it -- --nocapture corpus`.
const LEAST: usize = 250;
const MOST_KILOBYTES: u64 = 200_000;

struct Ended {
    code: i64,
    kilobytes: u64,
    errors: String,
}

/// Runs each command, watched from outside.
fn watch(commands: &[Command], scratch: &Path) -> Vec<Ended> {
    let errors = |number: usize| scratch.join(format!("{number}.err"));
    let text = |word: &std::ffi::OsStr| word.to_str().unwrap().to_owned();
    let jobs = commands.iter().enumerate().map(|(number, command)| {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let variables = command
            .get_envs()
            .filter_map(|(name, value)| Some((text(name), text(value?))));
        json!({
            "words": words.map(text).collect::<Vec<_>>(),
            "environment": variables.collect::<BTreeMap<_, _>>(),
            "errors": errors(number),
        })
    });
    let jobs = Value::from_iter(jobs).to_string();
    let mut python = Command::new("python3");
    python.args(["-c", include_str!("watch.py")]);
    let mut child = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(jobs.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let ended: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let ended = ended.iter().enumerate().map(|(number, ended)| Ended {
        code: ended["code"].as_i64().unwrap(),
        kilobytes: ended["kilobytes"].as_u64().unwrap(),
        errors: fs::read_to_string(errors(number)).unwrap(),
    });
    ended.collect()
}

/// Everything below a directory as it is: kinds, permissions, times, contents.
fn state(top: &Path) -> BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)> {
    let look = |path: &PathBuf| {
        let found = fs::symlink_metadata(path).unwrap();
        let contents = match found.is_file() {
            true => fs::read(path).unwrap(),
            false => Vec::new(),
        };
        (
            path.clone(),
            (found.mode(), found.mtime(), found.mtime_nsec(), contents),
        )
    };
    let mut all = crate::common::tree(top);
    all.push(top.to_owned());
    all.iter().map(look).collect()
}

/// What is wrong with how a command ended that read `what`.
fn misbehaviour(ended: &Ended) -> Option<String> {
    let Ended {
        code,
        kilobytes,
        errors,
    } = ended;
    let is_ending = (0..=9).contains(code) && !errors.contains("panicked");
    let is_plain = !errors.contains(|byte: char| byte.is_control() && byte != '\n');
    match (is_ending, is_plain, *kilobytes <= MOST_KILOBYTES) {
        (true, true, true) => None,
        (false, ..) => Some(format!("ended with {code}: {errors}")),
        (_, false, _) => Some(format!("wrote to the terminal what it was sent: {errors:?}")),
        (.., false) => Some(format!("took {kilobytes} kB")),
    }
}

/// What no unpacked layer may have.
fn unsafe_nodes(layers: &Path) -> Vec<String> {
    let mut wrong = Vec::new();
    for path in crate::common::tree(layers) {
        let found = fs::symlink_metadata(&path).unwrap();
        let (kind, mode) = (found.file_type(), found.permissions().mode());
        let is_node =
            kind.is_block_device() || kind.is_fifo() || kind.is_socket() || kind.is_char_device() && found.rdev() != 0;
        if is_node || !kind.is_symlink() && mode & 0o6000 != 0 {
            wrong.push(format!("{}: {mode:o}", path.display()));
        }
        let mut names = vec![0; 4096];
        let length = rustix::fs::llistxattr(&path, &mut names[..]).unwrap_or(0);
        let names = String::from_utf8_lossy(&names[..length]).into_owned();
        if names.split_terminator('\0').any(|name| name != "user.overlay.opaque") {
            wrong.push(format!("{}: {names:?}", path.display()));
        }
    }
    wrong
}

fn describe(path: &Path) -> Option<String> {
    let found = fs::symlink_metadata(path).ok()?;
    Some(match () {
        () if found.is_dir() => "a directory".to_owned(),
        () if found.is_symlink() => format!("a link to {}", fs::read_link(path).unwrap().display()),
        () if found.is_file() => format!("a file of {}", fs::read_to_string(path).unwrap()),
        () => "something else".to_owned(),
    })
}

#[test]
fn the_corpus_is_refused_or_contained_in_bounded_time_and_memory_and_nothing_else_changes() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let gantry = Gantry::new();
    // Beside the layouts, and where links of the layers lead.
    let canary = at("canary");
    fs::create_dir_all(canary.join("d")).unwrap();
    fs::write(canary.join("x"), "untouched").unwrap();
    let before = (state(&canary), state(&gantry.home));
    fs::create_dir(at("errors")).unwrap();

    let refused: Vec<_> = cases().into_iter().chain(files()).chain(bombs()).collect();
    let contained = contained(&canary);
    let names: BTreeSet<&str> = refused
        .iter()
        .map(|case| case.0)
        .chain(contained.iter().map(|case| case.what))
        .collect();
    assert_eq!(names.len(), refused.len() + contained.len(), "two cases have one name");
    assert!(names.len() >= LEAST, "{} cases", names.len());

    let layout = |number: usize| at(&format!("layout-{number}"));
    let copy = |number: usize| {
        let mut command = gantry.command();
        command.args([
            "copy",
            &format!("oci:{}:x", layout(number).display()),
            &format!("case-{number}:1"),
        ]);
        command
    };
    let drafts: Vec<_> = refused
        .iter()
        .map(|case| &case.3)
        .chain(contained.iter().map(|case| &case.draft))
        .collect();
    let written: Vec<_> = drafts
        .iter()
        .enumerate()
        .map(|(number, draft)| draft.write(&layout(number)))
        .collect();
    let commands: Vec<Command> = (0..drafts.len()).map(copy).collect();
    let ended = watch(&commands, &at("errors"));

    let mut wrong = Vec::new();
    for (number, (what, variant, says, _)) in refused.iter().enumerate() {
        let (ended, name) = (&ended[number], named(*says, &written[number]));
        println!(
            "{:3} {:>7} kB  refused    {what}: {variant}",
            ended.code, ended.kilobytes
        );
        wrong.extend(misbehaviour(ended).map(|why| format!("{what}: {why}")));
        if ended.code == 0 || !ended.errors.contains(&name) {
            wrong.push(format!("{what}: {}, should name {name}: {}", ended.code, ended.errors));
        }
        // Limits are rules of ours, so their refusal is one; the rest is wrong with the image.
        if variant.starts_with("limit") && ended.code != 3 {
            wrong.push(format!("{what}: a limit ends with {}", ended.code));
        }
    }
    for (at, case) in contained.iter().enumerate() {
        let (number, what) = (refused.len() + at, case.what);
        let ended = &ended[number];
        println!("{:3} {:>7} kB  contained  {what}", ended.code, ended.kilobytes);
        wrong.extend(misbehaviour(ended).map(|why| format!("{what}: {why}")));
        if ended.code != 0 {
            wrong.push(format!("{what}: {}: {}", ended.code, ended.errors));
        }
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));

    // What the images that were taken hold, as a run sees it.
    let bundle = |at: usize| scratch.path().join(format!("bundle-{at}"));
    let bundles = (0..contained.len()).map(|at| {
        let mut command = gantry.command();
        command.args(["bundle", "--unpack", &format!("case-{}:1", refused.len() + at)]);
        command.arg(bundle(at));
        command
    });
    let ended = watch(&bundles.collect::<Vec<_>>(), &at("errors"));
    for (at, case) in contained.iter().enumerate() {
        wrong.extend(misbehaviour(&ended[at]).map(|why| format!("{}: bundle: {why}", case.what)));
        for (path, expected) in &case.holds {
            let found = describe(&bundle(at).join("rootfs").join(path));
            if found.as_deref() != *expected {
                wrong.push(format!(
                    "{}: {path} is {found:?}, not {expected:?}; {}",
                    case.what, ended[at].errors
                ));
            }
        }
    }
    wrong.extend(unsafe_nodes(&gantry.root.join("layers")));
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));

    assert_eq!((state(&canary), state(&gantry.home)), before);
    // Nothing half-done stays, and no image but those that were taken.
    assert_eq!(crate::common::tree(&gantry.root.join("tmp")), [] as [PathBuf; 0]);
    let images: Value = serde_json::from_str(&gantry.ok(["images", "ls", "--json"])).unwrap();
    assert_eq!(images.as_array().unwrap().len(), contained.len());
    // Directories that nobody may enter can only be removed when somebody may.
    tool(Command::new("chmod").args(["-R", "u+rwX"]).arg(scratch.path()));
}
