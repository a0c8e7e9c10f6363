//! The base images: variants with wheels share the layers of functions, and a base outlives its packages' places in
//! the archive.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::common::{done, function, shared, tool, Done, Gantry};
use serde_json::Value;
use sha2::{Digest, Sha256};

const NUMPY: &str = "numpy==1.26.4\n";

/// Builds `dir` on `base` and returns the report.
fn build(gantry: &Gantry, dir: &Path, base: &str, tag: &str) -> Value {
    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("report.json");
    gantry.ok([
        "build",
        dir.to_str().unwrap(),
        "--base",
        base,
        "--tag",
        tag,
        "--report",
        report.to_str().unwrap(),
    ]);
    serde_json::from_slice(&fs::read(&report).unwrap()).unwrap()
}

/// Reason and digest of every layer.
fn layers(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let layers = report["layers"].as_array().unwrap();
    let layers = layers.iter();
    layers
        .map(|layer| (text(&layer["reason"]), text(&layer["digest"])))
        .collect()
}

fn of<'a>(layers: &'a [(String, String)], name: &str) -> Vec<&'a (String, String)> {
    layers.iter().filter(|(reason, _)| reason.contains(name)).collect()
}

const SHOW: &str = "import importlib.metadata as metadata, numpy\nprint(numpy.__version__, [d.version for d in metadata.distributions() if d.name == 'numpy'])\n";

#[test]
fn all_variants_are_listed() {
    let listed = shared().ok(["base", "ls"]);
    let expected = [
        "python-3.11",
        "python-3.11-slim",
        "python-3.11-numpy",
        "python-3.11-scipy",
        "python-3.12",
        "python-3.12-slim",
        "python-3.12-numpy",
        "python-3.12-scipy",
        "python-3.13",
        "python-3.13-slim",
        "python-3.13-numpy",
        "python-3.13-scipy",
    ];
    let names: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(names, [&["NAME"][..], &expected].concat());
    assert!(
        listed.starts_with("NAME") && listed.contains("PYTHON   DESCRIPTION"),
        "{listed}"
    );
    let names = shared().ok(["base", "ls", "--quiet"]);
    assert_eq!(names.lines().collect::<Vec<_>>(), expected);
    let json: Vec<String> = serde_json::from_str(&shared().ok(["base", "ls", "--format", "json"])).unwrap();
    assert_eq!(json, expected);
    // A name that is no base comes with those that are.
    let done = shared().gantry(["base", "build", "nope"]);
    assert_eq!(done.code, 1);
    assert!(
        done.stderr.contains("(python-3.11, python-3.11-slim,"),
        "{}",
        done.stderr
    );
}

#[test]
fn a_base_with_numpy_has_the_layers_that_functions_have() {
    let gantry = shared();
    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("report.json");
    gantry.ok([
        "base",
        "build",
        "python-3.11-numpy",
        "--report",
        report.to_str().unwrap(),
    ]);
    let base: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    let base = layers(&base);
    assert_eq!(of(&base, "numpy").len(), 2, "the wheel and its bytecode: {base:?}");

    let requires = function(SHOW, Some(NUMPY));
    let plain = layers(&build(gantry, requires.path(), "python-3.11", "bases:plain"));
    assert_eq!(of(&base, "numpy"), of(&plain, "numpy"));

    // The same requirement on the base that has it: nothing twice, and the very same image but for the order.
    let both = layers(&build(gantry, requires.path(), "python-3.11-numpy", "bases:both"));
    assert_eq!(both, plain);
    assert_eq!(gantry.run(&["bases:both"]).stdout, "1.26.4 ['1.26.4']\n");
}

#[test]
fn functions_use_the_wheels_of_their_base_without_requiring_them() {
    let gantry = shared();
    let dir = function(SHOW, None);
    let report = build(gantry, dir.path(), "python-3.11-numpy", "bases:numpy");
    assert_eq!(report["warnings"], serde_json::json!([]));
    assert_eq!(gantry.run(&["bases:numpy"]).stdout, "1.26.4 ['1.26.4']\n");

    let code = "import numpy, scipy.linalg\nprint(scipy.__version__, float(scipy.linalg.det(numpy.eye(3) * 2)))\n";
    let scipy = build(gantry, function(code, None).path(), "python-3.11-scipy", "bases:scipy");
    assert_eq!(gantry.run(&["bases:scipy"]).stdout, "1.11.4 8.0\n");
    assert_eq!(of(&layers(&scipy), "numpy"), of(&layers(&report), "numpy"));
}

#[test]
fn a_requirement_that_leaves_it_open_takes_the_version_of_the_base() {
    let gantry = shared();
    let code = SHOW.to_owned() + "import six\nprint(six.__version__)\n";
    let dir = function(&code, Some("numpy>=1.20\nsix==1.16.0\n"));
    let report = build(gantry, dir.path(), "python-3.11-numpy", "bases:open");
    assert_eq!(gantry.run(&["bases:open"]).stdout, "1.26.4 ['1.26.4']\n1.16.0\n");
    assert_eq!(of(&layers(&report), "numpy").len(), 2);
    assert_eq!(report["warnings"], serde_json::json!([]));
}

#[test]
fn a_requirement_that_contradicts_the_base_wins_alone() {
    let gantry = shared();
    let code = SHOW.to_owned() + "import importlib.util\nprint(importlib.util.find_spec('scipy'))\n";
    let dir = function(&code, Some("numpy==1.25.2\n"));
    for _again in 0..2 {
        let report = build(gantry, dir.path(), "python-3.11-scipy", "bases:other");
        // Nothing of the other version is left, and no scipy that was made for it.
        assert_eq!(gantry.run(&["bases:other"]).stdout, "1.25.2 ['1.25.2']\nNone\n");
        let warning = report["warnings"][0].as_str().unwrap();
        for part in ["numpy 1.25.2", "numpy 1.26.4", "scipy 1.11.4", "left out"] {
            assert!(warning.contains(part), "{warning}");
        }
        let plain = build(gantry, dir.path(), "python-3.11", "bases:other-plain");
        assert_eq!(layers(&report), layers(&plain));
    }
}

#[test]
fn a_base_whose_wheels_are_there_asks_no_index() {
    shared().ok(["base", "build", "python-3.11-numpy"]);
    let gantry = Gantry::with_downloads();
    let config = gantry.home.join("config.toml");
    fs::write(
        &config,
        "[index]\nurl = \"http://127.0.0.1:1/simple\"\nuv = \"/nonexistent/uv\"\n",
    )
    .unwrap();
    gantry.ok([
        "--config",
        config.to_str().unwrap(),
        "base",
        "build",
        "python-3.11-numpy",
    ]);
}

/// Answers by path; 404 or another status for everything else.
pub(crate) struct Server {
    pub(crate) address: String,
    served: Arc<Mutex<Served>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Served {
    files: BTreeMap<String, Vec<u8>>,
    otherwise: String,
    asked: Vec<String>,
}

impl Server {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let served = Arc::new(Mutex::new(Served {
            otherwise: "404 Not Found".to_owned(),
            ..Served::default()
        }));
        let shared = Arc::clone(&served);
        let serve = move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let (mut request, mut byte) = (Vec::new(), [0]);
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                    request.push(byte[0]);
                }
                let request = String::from_utf8(request).unwrap();
                // The connection of `drop` asks for nothing.
                let Some(path) = request.split(' ').nth(1) else { return };
                let path = path.trim_start_matches('/').to_owned();
                let mut served = shared.lock().unwrap();
                let (status, body) = match served.files.get(&path) {
                    Some(body) => ("200 OK".to_owned(), body.clone()),
                    None => (served.otherwise.clone(), Vec::new()),
                };
                served.asked.push(path);
                let length = body.len();
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
            }
        };
        Self {
            address,
            served,
            thread: Some(std::thread::spawn(serve)),
        }
    }

    pub(crate) fn put(&self, path: &str, bytes: Vec<u8>) {
        self.served.lock().unwrap().files.insert(path.to_owned(), bytes);
    }

    /// Answers everything with `status` from now on.
    pub(crate) fn fail(&self, status: &str) {
        let mut served = self.served.lock().unwrap();
        served.files.clear();
        served.otherwise = status.to_owned();
    }

    /// Serves `packages` as the list of `suite`, signed by `key`.
    pub(crate) fn publish(&self, key: &Key, suite: &str, packages: &[u8]) {
        let mut packed = Vec::new();
        liblzma::read::XzEncoder::new(packages, 1)
            .read_to_end(&mut packed)
            .unwrap();
        let (hash, size) = (hex(&packed), packed.len());
        let release = format!(
            "Codename: {suite}\nDate: Sat, 01 Jan 2022 00:00:00 UTC\nSHA256:\n {hash} {size} main/binary-amd64/Packages.xz\n"
        );
        let signed = key.gpg(&["--clearsign"], release.as_bytes());
        self.put(&format!("dists/{suite}/InRelease"), signed);
        self.put(&format!("dists/{suite}/main/binary-amd64/Packages.xz"), packed);
    }

    pub(crate) fn asked(&self, part: &str) -> usize {
        let served = self.served.lock().unwrap();
        served.asked.iter().filter(|path| path.contains(part)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(TcpStream::connect(&self.address));
        let _ = self.thread.take().unwrap().join();
    }
}

/// A key of an archive.
pub(crate) struct Key(pub(crate) tempfile::TempDir);

impl Key {
    pub(crate) fn new() -> Self {
        let key = Self(tempfile::tempdir().unwrap());
        key.gpg(&["--quick-gen-key", "archive", "ed25519", "sign", "never"], b"");
        fs::write(key.0.path().join("keys.gpg"), key.gpg(&["--export"], b"")).unwrap();
        key
    }

    fn gpg(&self, args: &[&str], input: &[u8]) -> Vec<u8> {
        let home = self.0.path();
        fs::write(home.join("input"), input).unwrap();
        let mut command = Command::new("gpg");
        command.arg("--homedir").arg(home);
        let output = command
            .args(["--batch", "--yes", "--pinentry-mode", "loopback", "--passphrase", ""])
            .args(args)
            .stdin(fs::File::open(home.join("input")).unwrap())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        let mut gpgconf = Command::new("gpgconf");
        let _ = gpgconf
            .arg("--homedir")
            .arg(self.0.path())
            .args(["--kill", "all"])
            .output();
    }
}

/// A store that lacks one pinned package, and an archive that has another version of it; the store has all others.
struct Superseded {
    gantry: Gantry,
    server: Server,
    key: Key,
}

const GONE: &str = "netbase";

pub(crate) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The package at `deb` as version 99:1.
fn newer(deb: &Path) -> Vec<u8> {
    let scratch = tempfile::tempdir().unwrap();
    let (tree, built) = (scratch.path().join("tree"), scratch.path().join("new.deb"));
    tool(Command::new("dpkg-deb").arg("-R").arg(deb).arg(&tree));
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control).unwrap();
    let version = text.lines().find(|line| line.starts_with("Version: ")).unwrap();
    fs::write(&control, text.replace(version, "Version: 99:1")).unwrap();
    tool(
        Command::new("dpkg-deb")
            .args(["--root-owner-group", "-b"])
            .arg(&tree)
            .arg(&built),
    );
    fs::read(built).unwrap()
}

impl Superseded {
    fn new() -> Self {
        let (gantry, server, key) = (Gantry::with_downloads(), Server::new(), Key::new());
        let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("rootfs/python-3.11.lock");
        let lock = fs::read_to_string(lock).unwrap();
        let mut packages = String::new();
        for line in lock.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let [name, mut version, _, mut path, size, hash] = fields[..] else {
                panic!("{line}")
            };
            let (mut size, mut hash) = (size.to_owned(), hash.to_owned());
            if name == GONE {
                let download = gantry.root.join("downloads").join(&hash);
                let deb = newer(&download);
                fs::remove_file(&download).unwrap();
                (version, path) = ("99:1", "pool/main/n/netbase/netbase_1_all.deb");
                (size, hash) = (deb.len().to_string(), hex(&deb));
                server.put(path, deb);
            }
            packages.push_str(&format!(
                "Package: {name}\nVersion: {version}\nArchitecture: amd64\nFilename: {path}\nSize: {size}\nSHA256: {hash}\n\n"
            ));
        }
        let archive = Self { gantry, server, key };
        archive.publish("bookworm", packages.as_bytes());
        archive.publish("bookworm-security", b"");
        let config = format!(
            "[base]\nmirror = \"http://{0}\"\nsecurity_mirror = \"http://{0}\"\nkeyring = {1:?}\n",
            archive.server.address,
            archive.key.0.path().join("keys.gpg")
        );
        fs::write(archive.config(), config).unwrap();
        archive
    }

    fn config(&self) -> std::path::PathBuf {
        self.gantry.home.join("config.toml")
    }

    fn publish(&self, suite: &str, packages: &[u8]) {
        self.server.publish(&self.key, suite, packages);
    }

    fn build_base(&self, report: &Path) -> Done {
        let mut command = self.gantry.command();
        command.arg("--config").arg(self.config());
        done(
            command
                .args(["base", "build", "--report"])
                .arg(report)
                .output()
                .unwrap(),
        )
    }

    /// Fails with `code`, says `says`, and leaves neither a lock nor a base.
    fn refuses(&self, code: i32, says: &str) {
        let report = self.gantry.home.join("report.json");
        let done = self.build_base(&report);
        assert_eq!((done.code, done.stdout.as_str()), (code, ""), "{}", done.stderr);
        assert!(done.stderr.contains(says), "{says:?} is not in:\n{}", done.stderr);
        let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
        let status = if code == 4 { "unavailable" } else { "failed" };
        assert_eq!(
            (&report["status"], &report["exit_code"]),
            (&status.into(), &code.into())
        );
        assert!(report["error"].as_str().unwrap().contains(says) && report.get("digest").is_none());
        for folder in ["memo/lock", "memo/relock", "memo/base", "layers", "blobs/sha256", "tmp"] {
            // Folders of memos are made with the first one.
            let left = fs::read_dir(self.gantry.root.join(folder)).map_or(0, Iterator::count);
            assert_eq!(left, 0, "{folder} holds something");
        }
    }
}

#[test]
fn a_base_is_locked_again_once_a_package_has_left_the_archive() {
    let archive = Superseded::new();
    let report = archive.gantry.home.join("report.json");
    let first = archive.build_base(&report);
    assert_eq!(first.code, 0, "{}", first.stderr);
    let digest = first.stdout.trim().to_owned();
    for part in ["the digest of the base changed", &digest, "netbase ", " -> 99:1"] {
        assert!(first.stderr.contains(part), "{part:?} is not in:\n{}", first.stderr);
    }
    let written: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    let warning = written["warnings"][0].as_str().unwrap();
    assert!(warning.contains("netbase ") && !warning.contains("libc6"), "{warning}");
    assert_ne!(digest, shared().ok(["base", "build"]).trim(), "it is another base");

    // From then on the archive is not asked again, builds say so each time, and what is built on it runs.
    let asked = archive.server.asked("");
    let dir = function("import socket\nprint(socket.getservbyname('https'))\n", None);
    let mut command = archive.gantry.command();
    command
        .arg("--config")
        .arg(archive.config())
        .arg("build")
        .arg(dir.path());
    let built = done(command.args(["--tag", "relocked:1"]).output().unwrap());
    assert_eq!(built.code, 0, "{}", built.stderr);
    assert!(
        built.stderr.contains("the digest of the base changed"),
        "{}",
        built.stderr
    );
    assert_eq!(archive.gantry.run(&["relocked:1"]).stdout, "443\n");
    assert_eq!(archive.server.asked(""), asked);
}

#[test]
fn an_index_that_cannot_be_trusted_changes_nothing() {
    let archive = Superseded::new();
    let other = Key::new();
    fs::copy(other.0.path().join("keys.gpg"), archive.key.0.path().join("keys.gpg")).unwrap();
    archive.refuses(1, "signature is refused");
}

#[test]
fn a_package_the_index_still_lists_is_not_replaced() {
    let archive = Superseded::new();
    let lock = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("rootfs/python-3.11.lock")).unwrap();
    let paragraph = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        format!(
            "Package: {}\nVersion: {}\nArchitecture: all\nFilename: {}\nSize: {}\nSHA256: {}\n\n",
            fields[0], fields[1], fields[3], fields[4], fields[5]
        )
    };
    let of = |archive: &str| {
        let lines = lock.lines().filter(|line| line.contains(&format!(" {archive} ")));
        lines.map(paragraph).collect::<String>()
    };
    archive.publish("bookworm", of("main").as_bytes());
    archive.publish("bookworm-security", of("security").as_bytes());
    archive.refuses(1, "the server answers 404");
}

#[test]
fn a_mirror_that_is_down_is_not_one_without_the_package() {
    let archive = Superseded::new();
    archive.server.served.lock().unwrap().otherwise = "503 Service Unavailable".to_owned();
    archive.refuses(4, "the server answers 503");
    assert_eq!(archive.server.asked("InRelease"), 0);
}

/// An image of somebody else's: that of a function of ours, changed by a layer of `entries` and by `env`.
pub(crate) fn foreign(entries: &Value, env: Option<&[&str]>) -> (tempfile::TempDir, String) {
    let gantry = shared();
    gantry.build(function("print(1)\n", None).path(), "bases:foreign");
    let scratch = tempfile::tempdir().unwrap();
    let layout = scratch.path().join("layout");
    let base = format!("oci:{}:base", layout.display());
    gantry.ok(["push", "bases:foreign", &base]);
    crate::common::add_layer(&layout, entries, env);
    (scratch, base)
}

fn try_build(dir: &Path, base: &str, tag: &str) -> Done {
    shared().gantry(["build", dir.to_str().unwrap(), "--base", base, "--tag", tag])
}

#[test]
fn a_base_gets_what_it_lacks() {
    // No `python` and no `python3`, nothing of ours, and only the whiteouts say so.
    let entries = serde_json::json!({
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh",
        "opt/py/lib": null,
        "opt/py/site": null,
        "usr/bin/python": null,
        "usr/bin/python3": null,
        "usr/lib/python3/dist-packages/gantry.pth": null,
    });
    let (_scratch, base) = foreign(&entries, Some(&["A=1", "PATH=/usr/bin:/bin"]));
    let code = "import os, six, sys\nprint(six.__version__, os.environ['PATH'], os.environ['A'], sys.executable)\nprint(open('/etc/passwd').read())\n";
    let dir = function(code, Some("six==1.16.0\n"));
    let done = try_build(dir.path(), &base, "bases:on-little");
    assert_eq!(done.code, 0, "{}", done.stderr);
    let done = shared().run(&["bases:on-little"]);
    let says = "1.16.0 /opt/py/bin:/usr/bin:/bin 1 /usr/bin/python\nroot:x:0:0:root:/root:/bin/sh\nmecapy:x:1000:1000:";
    assert!(
        done.code == 0 && done.stdout.starts_with(says),
        "{}{}",
        done.stdout,
        done.stderr
    );
}

#[test]
fn a_base_that_points_at_files_of_this_machine_gets_none_of_them() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, "SECRET-OF-THE-HOST:x:0:0:::\n").unwrap();
    let dir = function("print(open('/etc/passwd').read())\n", None);
    let link = |target: &Path| serde_json::json!({"link": target});
    let (_scratch, base) = foreign(&serde_json::json!({"etc/passwd": link(&secret)}), None);
    let done = try_build(dir.path(), &base, "bases:on-links");
    assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{}", done.stderr);
    for part in [base.as_str(), "/etc/passwd", "symbolic link"] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }

    // By way of a directory: it is looked for in the image, where it is not.
    fs::rename(&secret, outside.path().join("passwd")).unwrap();
    let (_scratch, base) = foreign(&serde_json::json!({"etc": link(outside.path())}), None);
    let done = try_build(dir.path(), &base, "bases:on-links");
    assert_eq!(done.code, 0, "{}", done.stderr);
    let ran = shared().run(&["bases:on-links"]);
    assert!(!ran.stdout.contains("SECRET-OF-THE-HOST"), "{}", ran.stdout);

    // An interpreter that only this machine has.
    let python = serde_json::json!({
        "usr/bin/python3.11": link(Path::new("../../../../../../../../../../usr/bin/python3")),
        "usr/bin/python3": null,
    });
    let done = try_build(dir.path(), &foreign(&python, None).1, "bases:on-links");
    assert!(
        done.code == 1 && done.stderr.contains("no Python 3.11"),
        "{}",
        done.stderr
    );
}

#[test]
fn a_base_without_glibc_is_refused() {
    let entries = serde_json::json!({
        "usr/lib64/ld-linux-x86-64.so.2": null,
        "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2": null,
        "usr/lib/ld-musl-x86_64.so.1": "",
    });
    let (_scratch, base) = foreign(&entries, None);
    let done = try_build(function("print(1)\n", None).path(), &base, "bases:on-musl");
    assert_eq!(done.code, 1, "{}", done.stderr);
    for part in [base.as_str(), "glibc", "/lib64/ld-linux-x86-64.so.2"] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
}
