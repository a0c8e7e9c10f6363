//! A store on a file system of 64 MB that is full at every stage of a command: nothing is half there, and the same command
//! succeeds once there is room.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{json, Value};

use crate::common::{done, Gantry};
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
