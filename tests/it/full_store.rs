//! A store on a file system of 64 MB that is full at every stage of a command: nothing is half there, and the same command
//! succeeds once there is room.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::{json, Value};

use crate::common::{done, function, Gantry};
use crate::registry::fake::Fake;
use crate::registry::images::{configure, image};

/// For each scene and each amount of room: a fresh store, a balloon that leaves so much room, the command, and what is found.
const DRIVER: &str = r#"
import json, os, shutil, subprocess, sys
order = json.load(sys.stdin)
root, store = order["root"], order["root"] + "/store"
def gantry(args):
    done = subprocess.run([order["program"], *args], env=order["env"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    return {"code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
def fresh(before):
    shutil.rmtree(store, ignore_errors=True)
    for args in before: assert gantry(args)["code"] == 0
def free():
    disk = os.statvfs(root)
    return disk.f_bavail * disk.f_frsize
def look(name, room, args):
    full = gantry(args)
    at_full = gantry(["cache", "check"])
    os.remove(root + "/balloon")
    found = {"name": name, "room": room, "full": full, "at_full": at_full, "check": gantry(["cache", "check"]), "again": gantry(args),
        "after": gantry(["cache", "check"]), "tmp": os.listdir(store + "/tmp")}
    print(json.dumps(found), flush=True)
for name, before, args in order["scenes"]:
    fresh(before)
    start = free()
    assert gantry(args)["code"] == 0
    needs = start - free()
    for step in range(order["steps"] + 1):
        fresh(before)
        room = (needs + (256 << 10)) * step // order["steps"] & ~4095
        with open(root + "/balloon", "wb") as balloon: os.posix_fallocate(balloon.fileno(), 0, free() - room)
        look(name, room, args)
"#;

#[test]
fn a_store_that_is_full_at_any_stage_is_whole_and_goes_on_when_there_is_room() {
    let (fake, source) = (Fake::start(), Gantry::new());
    let digest = image(&source, "a:1", &[(1, 3_000_000), (2, 1_000_000), (3, 1000)]);
    fake.hold(&source.root, &digest, "team/a", "1");
    let archive = source.home.join("a.tar");
    source.ok(["save", "a:1", archive.to_str().unwrap()]);
    let (archive, name) = (archive.to_str().unwrap(), fake.name("team/a:1"));
    let entry = format!("[[registry]]\nhost = \"{}\"\nplain_http = true\n", fake.host);
    configure(&source, &entry);
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().to_str().unwrap();
    let mut env: std::collections::BTreeMap<String, String> = source
        .command()
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_str()?.to_owned(), value?.to_str()?.to_owned())))
        .collect();
    env.insert("GANTRY_ROOT".to_owned(), format!("{root}/store"));
    let order = json!({
        "root": root,
        "program": env!("CARGO_BIN_EXE_gantry"),
        "env": env,
        "steps": 16,
        "scenes": [
            ["pull", [["images", "ls"]], ["pull", name]],
            ["load", [["images", "ls"]], ["load", archive]],
            ["tag", [["load", archive]], ["copy", "a:1", "b:1"]],
        ],
    });
    let script = format!("mount -t tmpfs -o size=64m tmpfs {root} && exec python3 -c \"$0\"");
    let mut driver = Command::new("unshare");
    driver.args(["--user", "--mount", "--map-root-user", "sh", "-c", &script, DRIVER]);
    driver
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut driver = driver.spawn().unwrap();
    driver
        .stdin
        .take()
        .unwrap()
        .write_all(order.to_string().as_bytes())
        .unwrap();
    let driven = done(driver.wait_with_output().unwrap());
    assert_eq!(driven.code, 0, "{}", driven.stderr);
    let (mut failed, mut scenes, mut count) = (BTreeSet::new(), BTreeMap::<String, [usize; 2]>::new(), 0);
    for line in driven.stdout.lines() {
        let found: Value = serde_json::from_str(line).unwrap();
        count += 1;
        let code = found["full"]["code"].as_i64().unwrap();
        let scene = scenes.entry(found["name"].as_str().unwrap().to_owned()).or_default();
        scene[usize::from(code != 0)] += 1;
        assert!([0, 1, 4].contains(&code), "{found}");
        if code != 0 {
            let said = found["full"]["stderr"].as_str().unwrap();
            let is_named = ["space left", "has room for", "no room", "does not fit"]
                .iter()
                .any(|text| said.contains(text));
            assert!(is_named, "{found}");
            let error = said.lines().find(|line| line.starts_with("error: ")).unwrap();
            failed.insert(error.split(root).next().unwrap().to_owned());
        }
        // What is there is right on the full disk, too.
        for look in ["at_full", "check", "after"] {
            assert_eq!(found[look]["code"], 0, "{look}: {found}");
        }
        assert_eq!(
            (&found["again"]["code"], &found["tmp"]),
            (&json!(0), &json!([])),
            "{found}"
        );
    }
    eprintln!("{count} times full; the errors begin with {failed:#?}");
    assert_eq!(count, 3 * 17);
    // A pull says at every stage that it cannot make room, the others what they cannot write.
    assert!(failed.len() >= 3, "{failed:?}");
    // An archive is read into scratch first, so that a load wants more while it goes on than it takes in the end.
    let is_tried =
        |(name, [succeeded, failed]): (&String, &[usize; 2])| *failed > 0 && (*succeeded > 0 || name == "load");
    assert!(scenes.len() == 3 && scenes.iter().all(is_tried), "{scenes:?}");
}

/// A program that cannot write any more, as uv and pip say it.
const FULL: &str = r#"#!/bin/sh
case "$*" in
*--version) echo 'uv 0.11.0 (fake)'; exit ;;
*config\ list) exit ;;
esac
echo "SAID" >&2
exit 2
"#;

#[test]
fn a_build_on_a_full_disk_says_so_in_the_same_words_whoever_came_upon_it() {
    let gantry = Gantry::with_downloads();
    let plain = function("print(1)\n", None);
    let packages = function("import never\n", Some("never-answered\n"));
    let uv = "error: Failed to fetch: `https://example.org/`\n  Caused by: failed to write to file `cache/x`: No space left on device (os error 28)";
    let quota = "error: failed to create directory `cache/x`: Disk quota exceeded (os error 122)";
    let pip = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device";
    let says = |name: &str, said: &str| {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join(name);
        fs::write(&path, FULL.replace("SAID", &said.replace('`', ""))).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        for tool in ["sh", "cat", "echo"] {
            std::os::unix::fs::symlink(std::path::Path::new("/bin").join(tool), scratch.path().join(tool)).unwrap();
        }
        scratch
    };
    let programs = [("uv", uv), ("uv", quota), ("python3", pip)].map(|(name, said)| (said, says(name, said)));
    let config = gantry.home.join("config.toml");
    fs::write(&config, "[index]\nurl = \"http://127.0.0.1:1/simple\"\n").unwrap();
    let build = |function: &tempfile::TempDir, fault: &str, path: Option<&std::path::Path>| {
        let mut command = gantry.command();
        command.arg("--config").arg(&config).arg("build").arg(function.path());
        command.args(["--tag", "full:1"]).env("GANTRY_FAULT", fault);
        if let Some(path) = path {
            command.env("PATH", path);
        }
        done(command.output().unwrap())
    };
    let expected = format!(
        "error: build: there is no space left for the store {}",
        gantry.root.display()
    );
    let check = |case: &str, done: &crate::common::Done| {
        let told = format!("{case}: {}", done.stderr);
        assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{told}");
        let mut lines = done.stderr.lines().skip_while(|line| !line.starts_with("error: "));
        assert_eq!(lines.next(), Some(expected.as_str()), "{told}");
        assert!(
            lines.next().is_some_and(|line| line.starts_with("caused by: ")),
            "{told}"
        );
        let hints: Vec<&str> = lines.filter(|line| line.starts_with("hint: ")).collect();
        let hint = format!("hint: the disk of the store, {}, has ", gantry.root.display());
        assert!(
            hints.len() == 1 && hints[0].starts_with(&hint) && hints[0].contains("gantry cache gc"),
            "{told}"
        );
    };
    for (said, program) in &programs {
        let done = build(&packages, "", Some(program.path()));
        check(said, &done);
        assert!(
            !done.stderr.contains("cache/x") && !done.stderr.contains("OSError"),
            "{}",
            done.stderr
        );
    }
    for step in ["Scratch", "Memo", "Blob", "Tree", "Document", "Name"] {
        check(step, &build(&plain, &format!("{step}:0+:28"), None));
    }
    let done = build(&plain, "", None);
    assert_eq!(done.code, 0, "{}", done.stderr);
}

#[test]
fn a_build_without_room_says_that_others_left_the_store_over_its_limit() {
    let gantry = Gantry::with_downloads();
    for (name, seed) in [("a:1", 1), ("b:1", 2)] {
        image(&gantry, name, &[(seed, 1000)]);
        gantry.ok(["cache", "pin", name]);
    }
    configure(&gantry, "[cache]\nmax_images = 1\n");
    let plain = function("print(1)\n", None);
    let mut command = gantry.command();
    command
        .arg("build")
        .arg(plain.path())
        .env("GANTRY_FAULT", "Document:0+:28");
    let built = done(command.output().unwrap());
    assert_eq!(built.code, 1, "{}", built.stderr);
    assert!(
        built.stderr.contains("there is no space left for the store"),
        "{}",
        built.stderr
    );
    let warning = "warning: the store holds 2 images, 1 more than max_images = 1: 2 images are pinned; ";
    assert!(built.stderr.contains(warning), "{}", built.stderr);
}
