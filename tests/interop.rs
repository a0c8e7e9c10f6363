//! The images are anybody's images: skopeo, umoci, podman and a registry take them and give them back unchanged.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and says why on standard error"
)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{example, shared, tool, Gantry};

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
struct Registry {
    server: Child,
    address: String,
    _data: tempfile::TempDir,
}

impl Registry {
    fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let config = data.path().join("config.yml");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:0\"}}\n",
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

#[test]
fn podman_loads_the_archive() {
    let (gantry, _) = hello();
    let scratch = tempfile::tempdir().unwrap();
    let archive = scratch.path().join("image.tar");
    gantry.ok(["save", "interop:1", archive.to_str().unwrap()]);
    let podman = |args: &[&str]| {
        let mut command = Command::new("podman");
        command
            .env_clear()
            .env("HOME", scratch.path())
            .env("XDG_RUNTIME_DIR", scratch.path())
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"])
            .arg("--root")
            .arg(scratch.path().join("storage"))
            .arg("--runroot")
            .arg(scratch.path().join("run"))
            .args(args);
        command
    };
    let loaded = tool(&mut podman(&["load", "--quiet", "-i", archive.to_str().unwrap()]));
    assert!(loaded.contains("interop:1"), "{loaded}");
    let inspected = tool(&mut podman(&["image", "inspect", "interop:1"]));
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected[0]["Config"]["User"], "1000:1000");
    assert_eq!(inspected[0]["Config"]["WorkingDir"], "/app");
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
    let left: Vec<_> = common::tree(&other.root)
        .into_iter()
        .filter(|path| path.is_file() && in_content(&other.root, path))
        .collect();
    assert!(left.iter().all(|path| is_whole(path)), "{left:?}");
    assert!(common::tree(&other.root.join("tmp")).is_empty());
    assert_eq!(other.ok(["images", "ls", "--json"]).trim(), "[]");
}

fn in_content(root: &Path, path: &Path) -> bool {
    path.starts_with(root.join("blobs"))
}

fn is_whole(path: &Path) -> bool {
    gantry::oci::Digest::of(&fs::read(path).unwrap()).hex() == path.file_name().unwrap().to_string_lossy()
}
