//! The images are anybody's images: skopeo, umoci, podman and a registry take them and give them back unchanged.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::common::{example, shared, tool, Gantry};
use serde_json::{json, Value};

/// The image all of these tests move around.
fn hello() -> (&'static Gantry, String) {
    let gantry = shared();
    let digest = gantry.build(&example("hello"), "interop:1");
    (gantry, digest)
}

fn skopeo() -> Command {
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy", "--tmpdir", env!("CARGO_TARGET_TMPDIR")]);
    command
}

fn digest_of(image: &str) -> String {
    let raw = tool(skopeo().args(["inspect", "--raw", "--tls-verify=false", image]));
    gantry::oci::Digest::of(raw.as_bytes()).to_string()
}

/// A registry on a free port, ended with the test.
pub struct Registry {
    server: Child,
    pub address: String,
    _data: tempfile::TempDir,
}

impl Registry {
    pub fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let config = data.path().join("config.yml");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\nhttp: {{addr: \"127.0.0.1:0\"}}\n",
                data.path().join("blobs").display()
            ),
        )
        .unwrap();
        let mut server = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(server.stderr.take().unwrap()).lines();
        let address = log
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                line.split("listening on ")
                    .nth(1)?
                    .split([' ', '"', ','])
                    .next()
                    .map(str::to_owned)
            })
            .expect("the registry says where it listens");
        // Keep its log drained, or it stops at a full pipe.
        std::thread::spawn(move || log.for_each(drop));
        Self {
            server,
            address,
            _data: data,
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn skopeo_copies_it_to_a_registry_and_back_unchanged() {
    let (gantry, digest) = hello();
    let registry = Registry::start();
    let scratch = tempfile::tempdir().unwrap();
    let source = format!("oci:{}:interop:1", gantry.root.display());
    let remote = format!("docker://{}/team/hello:1", registry.address);
    let back = format!("oci:{}:hello", scratch.path().join("back").display());
    assert_eq!(digest_of(&source), digest);
    tool(skopeo().args(["copy", "--dest-tls-verify=false", &source, &remote]));
    assert_eq!(digest_of(&remote), digest);
    tool(skopeo().args(["copy", "--src-tls-verify=false", &remote, &back]));
    assert_eq!(digest_of(&back), digest);

    // And home again into another store, where it runs.
    let other = Gantry::new();
    let copied = other.ok(["pull", &back]);
    assert_eq!(copied.trim(), digest);
    other.ok(["copy", &back, "again:1"]);
    let done = other.run(&["again:1"]);
    assert_eq!(
        (done.code, done.stdout),
        (0, fs::read_to_string(example("hello").join("expected.txt")).unwrap()),
        "{}",
        done.stderr
    );
}

#[test]
fn umoci_unpacks_it_without_root() {
    let (gantry, _) = hello();
    let scratch = tempfile::tempdir().unwrap();
    let layout = scratch.path().join("layout");
    gantry.ok(["push", "interop:1", &format!("oci:{}:x", layout.display())]);
    let bundle = scratch.path().join("bundle");
    tool(
        Command::new("umoci")
            .args(["unpack", "--rootless", "--image", &format!("{}:x", layout.display())])
            .arg(&bundle),
    );
    for file in [
        "rootfs/app/user_function.py",
        "rootfs/usr/bin/python3.11",
        "rootfs/usr/lib/x86_64-linux-gnu/libc.so.6",
    ] {
        assert!(bundle.join(file).exists(), "{file}");
    }
    // umoci makes directories it cannot remove as a user either; the scratch directory must.
    tool(Command::new("chmod").args(["-R", "u+rwX"]).arg(&bundle));
}

/// A layer of empty files and, where the path ends in `/`, directories.
fn layer(entries: &[&str]) -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    for path in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(0);
        header.set_entry_type(match path.ends_with('/') {
            true => tar::EntryType::Directory,
            false => tar::EntryType::Regular,
        });
        layer.append_data(&mut header, path, &b""[..]).unwrap();
    }
    layer.into_inner().unwrap()
}

fn put(layout: &Path, bytes: &[u8]) -> Value {
    let digest = gantry::oci::Digest::of(bytes);
    fs::write(layout.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
    json!({"digest": digest.to_string(), "size": bytes.len()})
}

fn get(layout: &Path, descriptor: &Value) -> Value {
    let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    serde_json::from_slice(&fs::read(layout.join("blobs/sha256").join(digest)).unwrap()).unwrap()
}

/// The only image of the layout with more layers below and above its own, and another command.
fn extend(layout: &Path, below: &[Vec<u8>], above: &[Vec<u8>], command: &[&str]) {
    let mut index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let mut manifest = get(layout, &index["manifests"][0]);
    let mut config = get(layout, &manifest["config"]);
    let mut insert = |at: Option<usize>, bytes: &[u8]| {
        let mut descriptor = put(layout, bytes);
        let diff_ids = config["rootfs"]["diff_ids"].as_array_mut().unwrap();
        let at = at.unwrap_or(diff_ids.len());
        diff_ids.insert(at, descriptor["digest"].clone());
        descriptor["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar");
        manifest["layers"].as_array_mut().unwrap().insert(at, descriptor);
    };
    below.iter().enumerate().for_each(|(at, bytes)| insert(Some(at), bytes));
    above.iter().for_each(|bytes| insert(None, bytes));
    config.as_object_mut().unwrap().remove("history");
    config["config"]["Cmd"] = json!(command);
    let config = put(layout, &serde_json::to_vec(&config).unwrap());
    for key in ["digest", "size"] {
        manifest["config"][key] = config[key].clone();
    }
    let manifest = put(layout, &serde_json::to_vec(&manifest).unwrap());
    for key in ["digest", "size"] {
        index["manifests"][0][key] = manifest[key].clone();
    }
    fs::write(layout.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
}

#[test]
fn whiteouts_mean_what_they_mean_to_umoci() {
    let (gantry, _) = hello();
    let scratch = tempfile::tempdir().unwrap();
    let layout = scratch.path().join("layout");
    gantry.ok(["push", "interop:1", &format!("oci:{}:x", layout.display())]);
    let below = [layer(&["t/", "t/below"]), layer(&[".wh..wh..opq", "t/", "t/bottom"])];
    let mut lower = vec!["t/".to_owned()];
    for name in ["a", "b", "c", "d", "e", "f"] {
        lower.extend(["", "old", "s/", "s/old"].map(|below| format!("t/{name}/{below}")));
    }
    lower.extend(["t/r".to_owned(), "t/q".to_owned()]);
    let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
    let upper = [
        // A directory instead of another; with and without an entry of its own, before and after.
        "t/.wh.a",
        "t/a/",
        "t/a/new",
        "t/.wh.b",
        "t/b/new",
        "t/c/",
        "t/c/new",
        "t/.wh.c",
        // Files of the same layer, gone ones, and whiteouts below those.
        "t/r",
        "t/.wh.r",
        "t/.wh.q",
        "t/q",
        "t/d/.wh.s",
        "t/.wh.d",
        "t/e/.wh.s",
        "t/e/s/new",
        "t/f/.wh..wh..opq",
    ];
    let list = "import os\nfor d, ds, fs in sorted(os.walk('/t')):\n for n in sorted(ds + fs): print(d + '/' + n)";
    extend(
        &layout,
        &below,
        &[layer(&lower), layer(&upper)],
        &["python", "-c", list],
    );

    let bundle = scratch.path().join("bundle");
    let image = format!("{}:x", layout.display());
    tool(
        Command::new("umoci")
            .args(["unpack", "--rootless", "--image", &image])
            .arg(&bundle),
    );
    let rootfs = bundle.join("rootfs");
    let mut theirs: Vec<_> = crate::common::tree(&rootfs.join("t"))
        .iter()
        .map(|path| format!("/{}", path.strip_prefix(&rootfs).unwrap().display()))
        .collect();
    tool(Command::new("chmod").args(["-R", "u+rwX"]).arg(&bundle));
    theirs.sort();
    assert!(theirs.contains(&"/t/a/new".to_owned()) && !theirs.contains(&"/t/a/old".to_owned()));
    assert!(!theirs.contains(&"/t/below".to_owned()));

    let other = Gantry::new();
    other.ok(["copy", &format!("oci:{image}"), "whiteouts:1"]);
    let done = other.run(&["whiteouts:1"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let mut ours: Vec<_> = done.stdout.lines().map(str::to_owned).collect();
    ours.sort();
    assert_eq!(ours, theirs);
}

#[test]
fn podman_and_buildah_take_the_archive_and_what_they_write_runs() {
    let (gantry, _) = hello();
    let scratch = tempfile::tempdir().unwrap();
    let archive = scratch.path().join("image.tar");
    gantry.ok(["save", "interop:1", archive.to_str().unwrap()]);
    let tool_of_theirs = |name: &str, args: &[&str]| {
        let mut command = Command::new(name);
        command
            .env_clear()
            .env("HOME", scratch.path())
            .env("XDG_RUNTIME_DIR", scratch.path())
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .args(["--storage-driver", "vfs", "--root"])
            .arg(scratch.path().join("storage"))
            .arg("--runroot")
            .arg(scratch.path().join("run"))
            .args(args);
        command
    };
    let podman = |args: &[&str]| tool_of_theirs("podman", &[&["--cgroup-manager", "cgroupfs"], args].concat());
    let loaded = tool(&mut podman(&["load", "--quiet", "-i", archive.to_str().unwrap()]));
    assert!(loaded.contains("interop:1"), "{loaded}");
    let inspected = tool(&mut podman(&["image", "inspect", "interop:1"]));
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected[0]["Config"]["User"], "1000:1000");
    assert_eq!(inspected[0]["Config"]["WorkingDir"], "/app");

    // What podman saves in docker's form, and what buildah makes of the image and pushes.
    let theirs = |name: &str| scratch.path().join(name).display().to_string();
    tool(&mut podman(&[
        "save",
        "--quiet",
        "-o",
        &theirs("saved.tar"),
        "interop:1",
    ]));
    let buildah = |args: &[&str]| tool(&mut tool_of_theirs("buildah", args)).trim().to_owned();
    let container = buildah(&["from", "--pull-never", "localhost/interop:1"]);
    buildah(&["config", "--label", "by=buildah", &container]);
    buildah(&["commit", "--quiet", &container, "made:2"]);
    buildah(&[
        "push",
        "--quiet",
        "made:2",
        &format!("docker-archive:{}:made:2", theirs("made.tar")),
    ]);
    let registry = Registry::start();
    let remote = format!("{}/team/made:2", registry.address);
    buildah(&[
        "push",
        "--quiet",
        "--tls-verify=false",
        "made:2",
        &format!("docker://{remote}"),
    ]);
    let other = Gantry::new();
    for (file, name) in [("saved.tar", "interop:1"), ("made.tar", "made:2")] {
        let loaded = other.ok(["load", &theirs(file)]);
        assert!(loaded.trim().ends_with(name), "{loaded}");
        let name = loaded.split_whitespace().nth(1).unwrap();
        assert_eq!(other.run(&[name]).code, 0, "{name}");
    }
    let folder = other.home.join(".config/gantry");
    fs::create_dir_all(&folder).unwrap();
    let known = format!("[[registry]]\nhost = \"{}\"\nplain_http = true\n", registry.address);
    fs::write(folder.join("config.toml"), known).unwrap();
    other.ok(["pull", &remote]);
    assert_eq!(other.run(&[&remote]).code, 0);
    tool(&mut podman(&[
        "unshare",
        "rm",
        "-rf",
        scratch.path().join("storage").to_str().unwrap(),
    ]));
}

#[test]
fn save_and_load_give_the_same_image() {
    let (gantry, digest) = hello();
    let scratch = tempfile::tempdir().unwrap();
    let (one, two) = (scratch.path().join("1.tar"), scratch.path().join("2.tar"));
    gantry.ok(["save", "interop:1", one.to_str().unwrap()]);
    gantry.ok(["save", "interop:1", two.to_str().unwrap()]);
    assert!(
        fs::read(&one).unwrap() == fs::read(&two).unwrap(),
        "saving twice gives other bytes"
    );
    let other = Gantry::new();
    let loaded = other.ok(["load", one.to_str().unwrap()]);
    assert!(loaded.contains(&digest), "{loaded}");
    assert_eq!(other.run(&["interop:1"]).code, 0);

    // skopeo reads it, without root as well.
    let read = tool(skopeo().args(["inspect", &format!("oci-archive:{}", one.display())]));
    let read: serde_json::Value = serde_json::from_str(&read).unwrap();
    assert_eq!(read["Digest"], digest.as_str());

    // So does what skopeo writes in docker's form: one archive is one image, with its configuration as it is.
    let (docker, source) = (
        scratch.path().join("docker.tar"),
        format!("oci:{}:interop:1", gantry.root.display()),
    );
    tool(skopeo().args(["copy", &source, &format!("docker-archive:{}:tool:1", docker.display())]));
    let (fourth, fifth) = (Gantry::new(), Gantry::new());
    let loaded = fourth.ok(["load", docker.to_str().unwrap()]);
    assert!(loaded.trim().ends_with("tool:1"), "{loaded}");
    assert_eq!(fifth.ok(["load", docker.to_str().unwrap()]), loaded);
    let config = |gantry: &Gantry, name: &str| {
        let image: serde_json::Value = serde_json::from_str(&gantry.ok(["images", "show", name, "--json"])).unwrap();
        image["manifest"]["config"]["digest"].clone()
    };
    let name = loaded.split_whitespace().nth(1).unwrap();
    assert_eq!(config(&fourth, name), config(gantry, "interop:1"));
    assert_eq!(fourth.run(&[name]).code, 0);

    // What skopeo writes loads as well.
    let foreign = scratch.path().join("skopeo.tar");
    let source = format!("oci:{}:interop:1", gantry.root.display());
    tool(skopeo().args(["copy", &source, &format!("oci-archive:{}:other", foreign.display())]));
    let third = Gantry::new();
    assert!(third
        .ok(["load", foreign.to_str().unwrap(), "--tag", "third:1"])
        .contains(&digest));
    assert_eq!(third.run(&["third:1"]).code, 0);
}

#[test]
fn a_damaged_archive_is_refused_and_leaves_nothing() {
    let (gantry, _) = hello();
    let scratch = tempfile::tempdir().unwrap();
    let archive = scratch.path().join("image.tar");
    gantry.ok(["save", "interop:1", archive.to_str().unwrap()]);
    let mut bytes = fs::read(&archive).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&archive, bytes).unwrap();
    let other = Gantry::new();
    let done = other.gantry(["load", archive.to_str().unwrap()]);
    assert_eq!(done.code, 1);
    assert!(done.stderr.contains("sha256:"), "{}", done.stderr);
    let left: Vec<_> = crate::common::tree(&other.root)
        .into_iter()
        .filter(|path| path.is_file() && in_content(&other.root, path))
        .collect();
    assert!(left.iter().all(|path| is_whole(path)), "{left:?}");
    assert!(crate::common::tree(&other.root.join("tmp")).is_empty());
    assert_eq!(other.ok(["images", "ls", "--json"]).trim(), "[]");
}

fn in_content(root: &Path, path: &Path) -> bool {
    path.starts_with(root.join("blobs"))
}

fn is_whole(path: &Path) -> bool {
    gantry::oci::Digest::of(&fs::read(path).unwrap()).hex() == path.file_name().unwrap().to_string_lossy()
}
