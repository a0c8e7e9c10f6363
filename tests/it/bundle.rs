//! `gantry bundle`: what another runtime gets. crun and runc run it in User-Mode Linux (`scripts/test-limits bundle`).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{add_layer, example, function, shared, tiny, tool, Gantry};

/// hello:1, which nobody changes.
fn hello() -> &'static Gantry {
    let gantry = shared();
    gantry.ok(["build", example("hello").to_str().unwrap(), "--tag", "bundled:1"]);
    gantry
}

fn config(bundle: &Path) -> Value {
    serde_json::from_slice(&fs::read(bundle.join("config.json")).unwrap()).unwrap()
}

/// Each regular file below `root` with its bytes and permissions, each link with where it leads.
fn files(root: &Path) -> BTreeMap<PathBuf, (Vec<u8>, u32)> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(root).unwrap().to_owned();
            if kind.is_dir() {
                pending.push(path);
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes();
                found.insert(name, (target, 0));
            } else {
                found.insert(name, (fs::read(&path).unwrap(), kind.permissions().mode() & 0o777));
            }
        }
    }
    found
}

#[test]
fn the_root_is_what_umoci_unpacks() {
    let (gantry, scratch) = (hello(), tempfile::tempdir().unwrap());
    let at = |name: &str| scratch.path().join(name);
    gantry.ok(["bundle", "--unpack", "bundled:1", at("ours").to_str().unwrap()]);
    let layout = format!("oci:{}:x", at("layout").display());
    gantry.ok(["push", "bundled:1", &layout]);
    let image = layout.trim_start_matches("oci:");
    tool(
        Command::new("umoci")
            .args(["unpack", "--rootless", "--image", image])
            .arg(at("theirs")),
    );
    let mut ours = files(&at("ours/rootfs"));
    let mut theirs = files(&at("theirs/rootfs"));
    tool(Command::new("chmod").args(["-R", "u+rwX"]).arg(at("theirs")));
    theirs.remove(Path::new("etc/hosts"));
    let (hosts, _) = ours.remove(Path::new("etc/hosts")).unwrap();
    assert_eq!(
        String::from_utf8(hosts).unwrap(),
        "127.0.0.1 localhost\n127.0.0.1 sandbox\n"
    );
    assert!(ours.len() > 500, "{}", ours.len());
    let only = |some: &BTreeMap<PathBuf, _>, others: &BTreeMap<PathBuf, _>| {
        let missing = some.keys().filter(|name| !others.contains_key(*name));
        missing.cloned().collect::<Vec<_>>()
    };
    assert_eq!((only(&ours, &theirs), only(&theirs, &ours)), (vec![], vec![]));
    for (name, file) in &ours {
        assert!(
            theirs[name] == *file,
            "{} differs: mode {:o}, {:o}",
            name.display(),
            file.1,
            theirs[name].1
        );
    }
}

#[test]
fn a_bundle_is_the_same_each_time_and_says_the_limits_of_the_run() {
    let (gantry, scratch) = (hello(), tempfile::tempdir().unwrap());
    let at = |name: &str| scratch.path().join(name);
    let options = [
        "--memory",
        "256M",
        "--pids",
        "9",
        "--cpus",
        "0.5",
        "--env",
        "COLOUR=red",
    ];
    for name in ["one", "other"] {
        let place = at(name);
        let words = [
            &["bundle"],
            &options[..],
            &["bundled:1", place.to_str().unwrap(), "--", "--fast"],
        ]
        .concat();
        let printed = gantry.ok(words);
        assert_eq!(printed.trim(), at(name).to_str().unwrap());
    }
    assert_eq!(
        fs::read(at("one/config.json")).unwrap(),
        fs::read(at("other/config.json")).unwrap()
    );
    let config = config(&at("one"));
    assert_eq!(config["linux"]["resources"]["memory"]["limit"], 256 << 20);
    assert_eq!(config["linux"]["resources"]["pids"]["limit"], 9);
    assert_eq!(config["linux"]["resources"]["cpu"]["quota"], 50_000);
    assert_eq!(config["process"]["args"].as_array().unwrap().last().unwrap(), "--fast");
    assert!(
        config["process"]["env"]
            .as_array()
            .unwrap()
            .contains(&"COLOUR=red".into()),
        "{config}"
    );
    assert_eq!(config["root"], serde_json::json!({"path": "rootfs", "readonly": true}));
    assert_eq!(config["process"]["user"]["uid"], 1000);
    assert!(config["linux"]["seccomp"]["syscalls"].as_array().unwrap().len() > 50);
    // Whatever stands there is a directory of the store, and there is nothing else.
    let layers = fs::read_to_string(at("one/layers")).unwrap();
    assert!(
        layers.lines().count() > 2 && layers.lines().all(|layer| Path::new(layer).is_dir()),
        "{layers}"
    );
    let names = fs::read_dir(at("one")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, ["config.json", "layers", "rootfs"]);
    assert_eq!(fs::read_dir(at("one/rootfs")).unwrap().count(), 0);
}

#[test]
fn with_another_id_the_report_says_what_is_lost() {
    let (gantry, scratch) = (hello(), tempfile::tempdir().unwrap());
    let (bundle, report) = (scratch.path().join("bundle"), scratch.path().join("report.json"));
    gantry.ok([
        "bundle",
        "--id",
        "0",
        "bundled:1",
        bundle.to_str().unwrap(),
        "--report",
        report.to_str().unwrap(),
    ]);
    assert_eq!(config(&bundle)["linux"]["uidMappings"][0]["containerID"], 0);
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    let state = |promise: &str| {
        let promises = report["promises"].as_array().unwrap();
        let found = promises.iter().find(|found| found["promise"] == promise).unwrap();
        found["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        ["user", "landlock", "seccomp", "memory"].map(state),
        ["lost", "lost", "said", "depends"]
    );
    assert_eq!((&report["schema"], &report["root"]), (&1.into(), &"layers".into()));
}

#[test]
fn what_cannot_be_a_bundle_is_refused_and_leaves_nothing() {
    let (gantry, scratch) = (hello(), tempfile::tempdir().unwrap());
    let bundle = scratch.path().join("bundle");
    let place = bundle.to_str().unwrap();
    for (words, code, said) in [
        (
            vec!["bundle", "nothing:1", place],
            1,
            "error: bundle nothing:1: no such image in the store",
        ),
        (
            vec!["bundle", "--id", "7", "bundled:1", place],
            2,
            "possible values: 1000, 0",
        ),
        (vec!["bundle", "--input", "/nowhere", "bundled:1", place], 1, "/nowhere"),
    ] {
        let done = gantry.gantry(&words);
        assert!(
            done.code == code && done.stderr.contains(said),
            "{words:?}: {} {}",
            done.code,
            done.stderr
        );
        assert!(!bundle.exists(), "{words:?}");
    }
    fs::create_dir(&bundle).unwrap();
    fs::write(bundle.join("mine"), "x").unwrap();
    let done = gantry.gantry(["bundle", "bundled:1", place]);
    assert!(
        done.code == 2 && done.stderr.contains("it is not empty"),
        "{} {}",
        done.code,
        done.stderr
    );
    assert_eq!(fs::read_dir(&bundle).unwrap().count(), 1);
}

/// gantry is killed by strace at the call that touches a file of the bundle: before, while and after it is filled.
#[test]
fn one_that_was_killed_is_made_anew() {
    let (gantry, scratch) = (hello(), tempfile::tempdir().unwrap());
    let bundle = scratch.path().join("bundle");
    let words = ["bundle", "--unpack", "bundled:1", bundle.to_str().unwrap()];
    for (call, file) in [
        ("mkdir", "rootfs"),
        ("mkdir", "rootfs/usr/lib"),
        ("rename", ".new"),
        ("unlink", ".unfinished"),
    ] {
        let direct = gantry.command();
        let variables = direct
            .get_envs()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
        let mut command = Command::new("strace");
        command
            .args([
                "-f",
                "-o",
                "/dev/null",
                "-e",
                &format!("inject={call}:signal=KILL"),
                "-P",
            ])
            .arg(bundle.join(file))
            .arg(direct.get_program())
            .args(words)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .envs(variables.collect::<Vec<_>>());
        assert!(!command.status().unwrap().success(), "{call} {file} was not made");
        // The last call is made before the signal comes.
        assert!(bundle.join(".unfinished").exists() || call == "unlink", "{call} {file}");
        if call == "unlink" {
            assert!(bundle.join("config.json").exists());
            fs::remove_dir_all(&bundle).unwrap();
        }
        gantry.ok(words);
        assert!(!bundle.join(".unfinished").exists() && bundle.join("config.json").exists());
        assert!(files(&bundle.join("rootfs")).len() > 500, "{call} {file}");
        fs::remove_dir_all(&bundle).unwrap();
    }
}

/// What the image has in the place of a directory leads nowhere but into the bundle.
#[test]
fn a_link_in_the_place_of_a_directory_leads_nobody_out() {
    let (gantry, scratch) = (Gantry::new(), tempfile::tempdir().unwrap());
    let outside = scratch.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("hosts"), "mine").unwrap();
    let layout = scratch.path().join("layout");
    tiny(&gantry, &["trap:1"]);
    gantry.ok(["push", "trap:1", &format!("oci:{}:x", layout.display())]);
    let entries = serde_json::json!({"etc": {"link": outside.to_str().unwrap()}});
    add_layer(&layout, &entries, None);
    gantry.ok(["pull", &format!("oci:{}:x", layout.display()), "--tag", "trap:2"]);
    let bundle = scratch.path().join("bundle");
    let place = bundle.to_str().unwrap();
    gantry.ok(["bundle", "--unpack", "--entrypoint", "/bin/true", "trap:2", place]);
    assert_eq!(fs::read_to_string(outside.join("hosts")).unwrap(), "mine");
    assert!(bundle.join("rootfs/etc").symlink_metadata().unwrap().is_dir());
}

/// A root that says what it should, to somebody who knows nothing of gantry.
#[test]
fn bubblewrap_runs_what_is_in_it() {
    let (gantry, scratch) = (shared(), tempfile::tempdir().unwrap());
    let code =
        "import json, os, sys\nprint(json.dumps([sys.version_info[:2], os.path.exists('/app/user_function.py')]))\n";
    let directory = function(code, None);
    gantry.build(directory.path(), "bundled-code:1");
    let bundle = scratch.path().join("bundle");
    gantry.ok(["bundle", "--unpack", "bundled-code:1", bundle.to_str().unwrap()]);
    let config = config(&bundle);
    let args = config["process"]["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap());
    let printed = tool(
        Command::new("bwrap")
            .args(["--ro-bind", bundle.join("rootfs").to_str().unwrap(), "/"])
            .args(["--dev", "/dev", "--proc", "/proc", "--unshare-all", "--clearenv"])
            .args(["--setenv", "PATH", "/opt/py/bin:/usr/bin:/bin", "--chdir", "/app"])
            .args(args),
    );
    let direct = gantry.run(&["bundled-code:1"]);
    assert_eq!((printed, direct.code), (direct.stdout.clone(), 0), "{}", direct.stderr);
}
