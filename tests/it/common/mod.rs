//! Runs the binary from the outside, in directories of its own.
#![allow(dead_code, reason = "every test file uses another part")]

pub mod images;
pub mod port;
pub mod server;
pub mod wait;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// Names what makes the containers of the runs of these tests; without it, it is what gantry has by default. The tests that
/// are about the sandbox are run once with each (`scripts/test`).
const RUNTIME: &str = "GANTRY_TEST_RUNTIME";

/// What this host cannot enforce for an unprivileged user is named here, once.
pub const DEGRADED: &str = "memory,cpu";

/// A store with the base image; shared by the tests of one file.
pub struct Gantry {
    pub root: PathBuf,
    pub home: PathBuf,
    _scratch: Option<tempfile::TempDir>,
}

/// What a command did.
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Gantry {
    /// An empty store.
    pub fn new() -> Self {
        assert_ne!(
            rustix::process::geteuid().as_raw(),
            0,
            "run the tests as an unprivileged user: scripts/test does"
        );
        let scratch = tempfile::tempdir().unwrap();
        let (root, home) = (scratch.path().join("store"), scratch.path().join("home"));
        fs::create_dir(&home).unwrap();
        Self {
            root,
            home,
            _scratch: Some(scratch),
        }
    }

    /// A store that has the debs and wheels of earlier tests, and nothing else: saves the network, not the work.
    pub fn with_downloads() -> Self {
        let gantry = Self::new();
        let shared = shared().root.join("downloads");
        fs::create_dir_all(gantry.root.join("downloads")).unwrap();
        for entry in fs::read_dir(shared).unwrap() {
            let entry = entry.unwrap();
            // A name that is still being written there is linked whole or not at all.
            let _ = fs::hard_link(entry.path(), gantry.root.join("downloads").join(entry.file_name()));
        }
        gantry
    }

    /// A store of its own with the function `code` as the image `name`, which the shared one builds: nobody else sweeps here.
    pub fn with_function(code: &str, name: &str) -> Self {
        let (gantry, scratch) = (Self::new(), tempfile::tempdir().unwrap());
        let archive = scratch.path().join("image.tar");
        let archive = archive.to_str().unwrap();
        shared().build(function(code, None).path(), name);
        shared().ok(["save", name, archive]);
        gantry.ok(["load", archive]);
        gantry
    }

    /// `gantry` with an environment that holds nothing of the caller's but what reaching the network needs.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gantry"));
        command
            .env_clear()
            .env("HOME", &self.home)
            .env("GANTRY_ROOT", &self.root)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin");
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        // A test that has a configuration chooses there.
        let has_own = self.home.join(".config/gantry/config.toml").exists();
        if let Some(config) = chosen_runtime().filter(|_| !has_own) {
            command.env("GANTRY_CONFIG", config);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs `gantry ARGS` to its end.
    pub fn gantry<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Done {
        done(self.command().args(args).output().unwrap())
    }

    /// Runs `gantry ARGS`, which must succeed, and returns its standard output.
    pub fn ok<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let done = self.gantry(args);
        assert_eq!(done.code, 0, "{}\n{}", done.stdout, done.stderr);
        done.stdout
    }

    /// Builds `dir` under `name` and returns the digest.
    pub fn build(&self, dir: &Path, name: &str) -> String {
        self.ok(["build", dir.to_str().unwrap(), "--tag", name])
            .trim()
            .to_owned()
    }

    /// `gantry run` with what this host cannot enforce excepted, plus `args`.
    pub fn run(&self, args: &[&str]) -> Done {
        let mut all = vec!["run", "--allow-degraded", DEGRADED];
        all.extend(args);
        self.gantry(all)
    }

    /// Runs gantry with a report and returns the outcome in it as well.
    pub fn run_with_outcome(&self, args: &[&str]) -> (Done, Value) {
        let scratch = tempfile::tempdir().unwrap();
        let report = scratch.path().join("outcome.json");
        let mut all = vec!["--report", report.to_str().unwrap()];
        all.extend(args);
        let done = self.run(&all);
        let outcome = fs::read(&report).unwrap_or_else(|error| panic!("no outcome: {error}; {}", done.stderr));
        (done, serde_json::from_slice(&outcome).unwrap())
    }

    /// Builds a function of one file and runs it.
    pub fn try_python(&self, name: &str, code: &str, args: &[&str]) -> (Done, Value) {
        let function = function(code, None);
        self.build(function.path(), name);
        let mut all = args.to_vec();
        all.push(name);
        self.run_with_outcome(&all)
    }
}

/// What makes the containers of runs that do not say.
pub fn runtime() -> gantry::policy::Runtime {
    let chosen = std::env::var(RUNTIME);
    chosen.map_or_else(|_| gantry::policy::Runtime::default(), |name| name.parse().unwrap())
}

/// The configuration that chooses it.
fn chosen_runtime() -> Option<&'static Path> {
    static CONFIG: OnceLock<Option<PathBuf>> = OnceLock::new();
    let write = || {
        std::env::var_os(RUNTIME)?;
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("runtimes");
        fs::create_dir_all(&directory).unwrap();
        let config = directory.join(format!("{}-{}.toml", runtime(), std::process::id()));
        fs::write(&config, format!("[run]\nruntime = \"{}\"\n", runtime())).unwrap();
        Some(config)
    };
    CONFIG.get_or_init(write).as_deref()
}

const PASSED_ON: &[&str] = &[
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "PIP_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_INDEX_URL",
];

/// The store of all tests that do not care what else is in it; it stays between runs.
pub fn shared() -> &'static Gantry {
    static SHARED: OnceLock<Gantry> = OnceLock::new();
    SHARED.get_or_init(|| {
        let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shared");
        let (root, home) = (scratch.join("store"), scratch.join("home"));
        fs::create_dir_all(&home).unwrap();
        assert_ne!(
            rustix::process::geteuid().as_raw(),
            0,
            "run the tests as an unprivileged user: scripts/test does"
        );
        let gantry = Gantry {
            root,
            home,
            _scratch: None,
        };
        gantry.ok(["base", "build"]);
        gantry
    })
}

/// A command that ends with `code` and says all of `parts` on standard error.
pub fn says(done: &Done, code: i32, parts: &[&str]) {
    assert_eq!(done.code, code, "{}{}", done.stdout, done.stderr);
    for part in parts {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
}

/// A function's directory.
pub fn function(code: &str, requirements: Option<&str>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("user_function.py"), code).unwrap();
    if let Some(requirements) = requirements {
        fs::write(dir.path().join("requirements.txt"), requirements).unwrap();
    }
    dir
}

/// The Pythons that functions are run on whatever they are about.
pub const PYTHONS: [&str; 2] = ["3.11", "3.13"];

/// A directory of `examples/`.
pub fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

pub fn done(output: Output) -> Done {
    use std::os::unix::process::ExitStatusExt;
    Done {
        code: output
            .status
            .code()
            .unwrap_or_else(|| 128 + output.status.signal().unwrap()),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs another program, which must succeed.
pub fn tool(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A process that holds the lock of `file` and gives no sign of life: stopped, as by a person or a debugger.
pub fn holder_of(file: &Path, how: &str) -> std::process::Child {
    use std::io::Read;
    let code = "import fcntl, os, signal, sys\nf = open(sys.argv[1], 'a')\nfcntl.flock(f, getattr(fcntl, sys.argv[2]))\nprint('up', flush=True)\nos.kill(os.getpid(), signal.SIGSTOP)\n";
    let mut command = Command::new("python3");
    command.args(["-c", code]).arg(file).arg(how).stdout(Stdio::piped());
    let mut holder = command.spawn().unwrap();
    holder.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    holder
}

/// Makes a program of a script. Another process writes it: a child that this one forks at that moment would hold the file open for
/// writing, and such a file cannot be executed.
pub fn program(path: &Path, script: &str) {
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(path);
    let mut install = install.stdin(Stdio::piped()).spawn().unwrap();
    install.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(install.wait().unwrap().success(), "{}", path.display());
}

/// The lines of the journal, oldest day first, without one that somebody is just writing.
pub fn journal(gantry: &Gantry) -> Vec<Value> {
    let mut days = tree(&gantry.root.join("journal"));
    days.retain(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
    let text: String = days.iter().filter_map(|day| fs::read_to_string(day).ok()).collect();
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Everything below `dir`, files and directories, sorted.
pub fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                pending.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Images of one small file, made without a base; they hold no program. Returns their digests.
pub fn tiny(gantry: &Gantry, names: &[&str]) -> Vec<String> {
    tiny_as(gantry, names, &gantry::oci::ImageConfigBody::default())
}

/// [`tiny`] images that are run as `body` says.
pub fn tiny_as(gantry: &Gantry, names: &[&str], body: &gantry::oci::ImageConfigBody) -> Vec<String> {
    let file = |name: &str| ("etc/name".to_owned(), name.as_bytes().to_vec());
    let make = |name: &&str| images::image_of(gantry, name, &[file(name)], body);
    names.iter().map(make).collect()
}

/// Argument one is a layout of one image, two the entries of a layer, three the new environment or null.
const ADD_LAYER: &str = r#"
import base64, gzip, hashlib, io, json, os, sys, tarfile
root, entries, env = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
def load(descriptor): return json.load(open(path(descriptor["digest"])))
def path(digest): return os.path.join(root, "blobs/sha256", digest.split(":")[1])
def store(data):
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    open(path(digest), "wb").write(data)
    return {"digest": digest, "size": len(data)}
def dump(value): return json.dumps(value).encode()
out = io.BytesIO()
with tarfile.open(fileobj=out, mode="w") as tar:
    for name, what in entries.items():
        entry = tarfile.TarInfo(name)
        if isinstance(what, dict) and "base64" in what:
            data = base64.b64decode(what["base64"])
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
        elif isinstance(what, dict):
            entry.type, entry.linkname = tarfile.SYMTYPE, what["link"]
            tar.addfile(entry)
        else:
            if what is None:
                folder, last = os.path.split(name)
                entry.name, what = os.path.join(folder, ".wh." + last), ""
            entry.size, entry.mode = len(what.encode()), 0o644
            tar.addfile(entry, io.BytesIO(what.encode()))
index = json.load(open(os.path.join(root, "index.json")))
manifest = load(index["manifests"][0])
config = load(manifest["config"])
config["rootfs"]["diff_ids"].append("sha256:" + hashlib.sha256(out.getvalue()).hexdigest())
config.pop("history", None)
if env is not None: config["config"]["Env"] = env
manifest["config"].update(store(dump(config)))
manifest["layers"].append({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **store(gzip.compress(out.getvalue(), mtime=0))})
index["manifests"][0].update(store(dump(manifest)))
json.dump(index, open(os.path.join(root, "index.json"), "w"))
"#;

/// Puts a layer on top of the image of a layout: what a base of somebody else's looks like from here. An entry is a
/// text, `{"base64": BYTES}` of a program, `{"link": TARGET}`, or null for a whiteout.
pub fn add_layer(layout: &Path, entries: &Value, env: Option<&[&str]>) {
    let mut command = Command::new("python3");
    command.args(["-c", ADD_LAYER]).arg(layout).arg(entries.to_string());
    tool(command.arg(serde_json::json!(env).to_string()));
}
