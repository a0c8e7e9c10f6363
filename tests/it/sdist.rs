//! `gantry build --allow-sdist`: packages without wheels, honest ones of the real index and hostile ones of an index of
//! our own.

mod native;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::{function, shared, tool, tree, Done, Gantry};
use serde_json::Value;

/// Builds the function in `dir` with source distributions allowed.
fn build(gantry: &Gantry, dir: &Path, tag: &str) -> (Done, Value) {
    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("report.json");
    let (dir, path) = (dir.to_str().unwrap(), report.to_str().unwrap());
    let done = gantry.gantry(["build", dir, "--tag", tag, "--allow-sdist", "--report", path]);
    let report = fs::read(&report).map_or(Value::Null, |json| serde_json::from_slice(&json).unwrap());
    (done, report)
}

fn builds(gantry: &Gantry, dir: &Path, tag: &str) -> (Done, Value) {
    let (done, report) = build(gantry, dir, tag);
    assert_eq!(done.code, 0, "{}", done.stderr);
    (done, report)
}

/// A package index that serves `packages`: their files are made by `setup` in the directory of each.
struct Index {
    server: Child,
    url: String,
    directory: tempfile::TempDir,
}

impl Drop for Index {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Serves the simple interface with sizes and hashes (PEP 691) for the archives of a directory. A file `NAME.size` holds
/// the size that the index claims for `NAME`.
const SERVER: &str = r#"
import hashlib, http.server, json, os, re, sys
root = sys.argv[1]
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments): pass
    def answer(self, kind, body):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
    def do_HEAD(self):
        self.do_GET()
    def do_GET(self):
        parts = self.path.strip("/").split("/")
        if parts[0] == "simple" and len(parts) == 2:
            files = []
            for name in sorted(os.listdir(root)):
                project = re.sub(r"[-_.]+", "-", name.rsplit("-", 1)[0] if name.endswith(".gz") else name.split("-")[0]).lower()
                if project == parts[1] and not name.endswith(".size"):
                    data = open(os.path.join(root, name), "rb").read()
                    size = os.path.join(root, name + ".size")
                    size = int(open(size).read()) if os.path.exists(size) else len(data)
                    files.append({"filename": name, "url": "/files/" + name, "size": size, "hashes": {"sha256": hashlib.sha256(data).hexdigest()}})
            if files:
                body = json.dumps({"meta": {"api-version": "1.0"}, "name": parts[1], "files": files}).encode()
                return self.answer("application/vnd.pypi.simple.v1+json", body)
        elif parts[0] == "files" and parts[1] in os.listdir(root):
            return self.answer("application/octet-stream", open(os.path.join(root, parts[1]), "rb").read())
        self.send_error(404)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

/// Name, version, and the files, relative to the top directory: path and text.
type Package<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

impl Index {
    fn new(packages: &[Package<'_>]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, version, files) in packages {
            let scratch = tempfile::tempdir().unwrap();
            let top = scratch.path().join(format!("{name}-{version}"));
            for (path, text) in *files {
                let path = top.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            let archive = directory.path().join(format!("{name}-{version}.tar.gz"));
            let mut tar = Command::new("tar");
            tar.arg("-czf").arg(archive).arg("-C").arg(scratch.path());
            tool(tar.arg(format!("{name}-{version}")));
        }
        // The build requirements of the packages are wheels of the real index.
        let mut pip = Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--dest",
        ]);
        tool(pip.arg(directory.path()).args(["setuptools==75.8.0", "wheel==0.45.1"]));
        let mut server = Command::new("python3")
            .args(["-c", SERVER])
            .arg(directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(server.stdout.take().unwrap())
            .read_line(&mut port)
            .unwrap();
        let url = format!("http://127.0.0.1:{}/simple", port.trim());
        Self { server, url, directory }
    }

    /// Adds a wheel of the project `name`, version 1.0, that holds nothing and is said to have `size` bytes.
    fn add_wheel(&self, name: &str, size: u64) {
        let file = self.directory.path().join(format!("{name}-1.0-py3-none-any.whl"));
        let script = "import sys, zipfile\nname, file, size = sys.argv[1:]\nwith zipfile.ZipFile(file, 'w') as wheel:\n for path, text in {'METADATA': f'Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n', 'WHEEL': 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n', 'RECORD': ''}.items(): wheel.writestr(f'{name}-1.0.dist-info/{path}', text)\nopen(file + '.size', 'w').write(size)\n";
        tool(
            Command::new("python3")
                .args(["-c", script, name])
                .arg(file)
                .arg(size.to_string()),
        );
    }

    /// Makes `gantry` use this index alone.
    fn serve(&self, gantry: &Gantry) {
        let folder = gantry.home.join(".config/gantry");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config.toml"), format!("[index]\nurl = \"{}\"\n", self.url)).unwrap();
    }
}

/// A store of its own that need not download anything again, with the base made.
fn store() -> Gantry {
    shared();
    Gantry::with_downloads()
}

/// A minimal package: `setup.py` with `code` before it calls setup().
fn setup(name: &str, code: &str) -> String {
    format!("{code}\nfrom setuptools import setup\nsetup(name={name:?}, version='1.0', py_modules=['honest'])\n")
}

fn layer_trees(gantry: &Gantry, report: &Value) -> Vec<PathBuf> {
    let layers = report["layers"].as_array().unwrap().iter();
    let hex = layers.map(|layer| {
        layer["diff_id"]
            .as_str()
            .unwrap()
            .trim_start_matches("sha256:")
            .to_owned()
    });
    hex.map(|hex| gantry.root.join("layers").join(hex).join("fs")).collect()
}

#[test]
fn a_pure_package_is_built_and_the_next_build_starts_no_sandbox() {
    let gantry = shared();
    let code = "import docopt\nprint(docopt.docopt('Usage: x [--name=N]', ['--name=5'])['--name'])\n";
    let dir = function(code, Some("docopt==0.6.2\n"));
    let refused = gantry.gantry(["build", dir.path().to_str().unwrap(), "--tag", "pure:1"]);
    assert_eq!(refused.code, 1);
    for part in ["docopt 0.6.2", "wheel", "--allow-sdist"] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    let (_, report) = builds(gantry, dir.path(), "pure:1");
    let warnings = report["warnings"].to_string();
    assert!(
        warnings.contains("docopt 0.6.2") && warnings.contains("built here"),
        "{warnings}"
    );
    let done = gantry.run(&["pure:1"]);
    assert_eq!((done.code, done.stdout.as_str()), (0, "5\n"), "{}", done.stderr);

    let (again, second) = builds(gantry, dir.path(), "pure:1");
    assert_eq!(second["digest"], report["digest"]);
    for verb in ["Building", "Packing", "Reading", "Resolving", "Compiling", "Assembling"] {
        assert!(!again.stderr.contains(verb), "{}", again.stderr);
    }
    // Another function that needs it has another lock, and the same wheel without building it.
    let other = function(
        "import docopt, six\nprint(six.__version__)\n",
        Some("docopt\nsix==1.16.0\n"),
    );
    let (done, _) = builds(gantry, other.path(), "pure:2");
    assert!(
        !done.stderr.contains("from its source distribution\n"),
        "{}",
        done.stderr
    );
    assert_eq!(gantry.run(&["pure:2"]).stdout, "1.16.0\n");
}

#[test]
fn what_a_wheel_depends_on_is_built_too() {
    // num2words is a wheel, docopt is none.
    let gantry = shared();
    let dir = function(
        "import num2words\nprint(num2words.num2words(42))\n",
        Some("num2words==0.5.13\n"),
    );
    builds(gantry, dir.path(), "transitive:1");
    let done = gantry.run(&["transitive:1"]);
    assert_eq!((done.code, done.stdout.as_str()), (0, "forty-two\n"), "{}", done.stderr);
}

#[test]
fn a_c_extension_is_compiled_and_the_toolchain_stays_outside() {
    let gantry = shared();
    let code = "import crcmod, crcmod._crcfunext as ext\nprint(ext.__file__.endswith('.so'), hex(crcmod.predefined.mkCrcFun('crc-32')(b'123456789')))\n";
    let code = code.replacen("import crcmod,", "import crcmod.predefined, crcmod,", 1);
    let dir = function(&code, Some("crcmod==1.7\n"));
    let (_, report) = builds(gantry, dir.path(), "compiled:sdist");
    let done = gantry.run(&["compiled:sdist"]);
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (0, "True 0xcbf43926\n"),
        "{}",
        done.stderr
    );

    let files: Vec<PathBuf> = layer_trees(gantry, &report)
        .iter()
        .flat_map(|tree| crate::common::tree(tree))
        .collect();
    assert!(files.len() > 1000, "{}", files.len());
    // The base has a directory of debugger scripts for libstdc++ that is called so.
    let others = files.iter().filter(|path| !path.ends_with("usr/share/gcc"));
    let foreign = others.filter_map(|path| path.file_name()?.to_str());
    let foreign: Vec<&str> = foreign
        .filter(|name| ["gcc", "cc", "cc1", "ld", "as", "make", "sh", "Python.h", "setuptools"].contains(name))
        .collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    let bases = gantry.ok(["base", "ls", "--quiet"]);
    assert!(bases.lines().all(|name| name.starts_with("python-")), "{bases}");
}

#[test]
fn a_hash_of_the_source_distribution_is_checked_before_it_is_built() {
    let gantry = shared();
    let right = "docopt==0.6.2 --hash=sha256:49b3a825280bd66b3aa83585ef59c4a8c82f2c8a522dbe754a8bc8d08c85c491\n";
    builds(gantry, function("import docopt\n", Some(right)).path(), "hashed:sdist");
    let wrong = format!("docopt==0.6.2 --hash=sha256:{}\n", "1".repeat(64));
    let (done, _) = build(gantry, function("import docopt\n", Some(&wrong)).path(), "hashed:wrong");
    assert_eq!(done.code, 1);
    for part in ["docopt 0.6.2", "49b3a825", &"1".repeat(64)] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
    assert!(!done.stderr.contains("Building docopt"), "{}", done.stderr);
}

/// Tries everything that a build must not do, writes down what came of it, and leaves a process behind.
const HOSTILE: &str = r#"
import json, os, socket, time
found = {}
def attempt(name, act):
    try:
        found[name] = repr(act())
    except BaseException as error:
        found[name] = "refused " + type(error).__name__ + " " + str(getattr(error, "errno", ""))
attempt("touch", lambda: open("@MARK@", "w"))
attempt("home", lambda: os.listdir("@HOME@"))
attempt("shadow", lambda: open("/etc/shadow").read())
attempt("inet", lambda: socket.socket(socket.AF_INET))
attempt("local", lambda: socket.socket(socket.AF_UNIX))
attempt("connect", lambda: socket.create_connection(("127.0.0.1", @PORT@), 2))
attempt("root", lambda: open("/opt/py/site/evil.py", "w"))
attempt("input", lambda: open("/input/evil", "w"))
attempt("mount", lambda: os.unshare(0x10000000) if hasattr(os, "unshare") else __import__("ctypes").CDLL(None, use_errno=True).unshare(0x10000000))
found["ids"] = [os.getuid(), os.getgid()]
found["environment"] = sorted(os.environ)
found["ppid"] = os.getppid()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            time.sleep(0.05)
            open("/output/late-@TOKEN@", "w").close()
    os._exit(0)
"#;

/// Processes of this machine whose command line holds `text`.
fn processes_with(text: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(text)).collect()
}

#[test]
fn hostile_code_runs_in_the_sandbox_alone() {
    let gantry = store();
    let outside = tempfile::tempdir().unwrap();
    let mark = outside.path().join("mark");
    fs::set_permissions(outside.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let hostile = HOSTILE
        .replace("@MARK@", mark.to_str().unwrap())
        .replace("@HOME@", gantry.home.to_str().unwrap())
        .replace("@PORT@", &listener.local_addr().unwrap().port().to_string());
    // What the attempts came to is part of the package, so the function can print it.
    let quiet = hostile.split("if os.fork()").next().unwrap();
    let record = format!("{quiet}\nopen('honest.py', 'w').write('FOUND = ' + repr(json.dumps(found)))");
    let daemon = hostile.replace("@TOKEN@", "daemon");
    let index = Index::new(&[
        ("hostile", "1.0", &[("setup.py", &setup("hostile", &record))]),
        (
            "staying",
            "1.0",
            &[("setup.py", &setup("staying", &daemon)), ("honest.py", "")],
        ),
    ]);
    index.serve(&gantry);
    let dir = function("import honest\nprint(honest.FOUND)\n", Some("hostile\n"));
    builds(&gantry, dir.path(), "hostile:1");
    let done = gantry.run(&["hostile:1"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let found: Value = serde_json::from_str(done.stdout.trim()).unwrap();
    for name in ["touch", "home", "shadow", "inet", "local", "connect", "root", "input"] {
        assert!(found[name].as_str().unwrap().starts_with("refused"), "{name}: {found}");
    }
    assert_eq!(found["inet"], "refused OSError 97");
    assert_eq!(found["local"], "refused OSError 97");
    assert_eq!(found["mount"], "-1");
    assert_eq!(found["ids"], serde_json::json!([1000, 1000]));
    let environment = found["environment"].to_string();
    assert!(
        !environment.contains("GANTRY") && environment.contains("SOURCE_DATE_EPOCH"),
        "{environment}"
    );
    assert!(!mark.exists(), "code of the package ran on this machine");
    let connected = listener.accept();
    assert!(connected.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    // The positive twin: outside, the same code does leave its mark.
    let twin = outside.path().join("twin.py");
    fs::write(&twin, quiet).unwrap();
    tool(Command::new("python3").arg(&twin));
    assert!(mark.exists(), "the probe itself does nothing");

    // One that stays behind with a hand on /output: its process is dead before anything is collected.
    let dir = function("import honest\n", Some("staying\n"));
    let (done, _) = build(&gantry, dir.path(), "staying:1");
    assert!(done.code == 0 || done.stderr.contains("late-daemon"), "{}", done.stderr);
    assert_eq!(processes_with("staying-1.0.tar.gz"), Vec::<String>::new());
}

#[test]
fn a_build_that_fails_says_so_and_leaves_nothing() {
    let gantry = store();
    let failing = setup("failing", "import sys\nif 'bdist_wheel' in sys.argv:\n    print('\\x1b[31mthe last words', file=sys.stderr)\n    sys.exit(3)\n");
    let empty: &[(&str, &str)] = &[("README", "nothing")];
    let misnamed = "from setuptools import setup\nsetup(name='other', version='1.0', py_modules=['honest'])\n";
    let native = "from setuptools import setup, Extension\nsetup(name='native', version='1.0', ext_modules=[Extension('native', ['native.c'])])\n";
    let asking = "[build-system]\nrequires = ['setuptools', 'evil @ https://example.org/evil-1.0-py3-none-any.whl']\n";
    let missing = "[build-system]\nrequires = ['there-is-no-such-package']\nbuild-backend = 'x'\n";
    let index = Index::new(&[
        ("failing", "1.0", &[("setup.py", &failing), ("honest.py", "")]),
        ("empty", "1.0", empty),
        ("misnamed", "1.0", &[("setup.py", misnamed), ("honest.py", "")]),
        (
            "native",
            "1.0",
            &[("setup.py", native), ("native.c", "#include <no-such-header.h>\n")],
        ),
        ("asking", "1.0", &[("pyproject.toml", asking)]),
        ("missing", "1.0", &[("pyproject.toml", missing)]),
    ]);
    index.serve(&gantry);
    let before = |gantry: &Gantry| {
        let folders = ["tmp", "partial", "memo/sdist"];
        folders.map(|folder| tree(&gantry.root.join(folder)).len())
    };
    for (name, says) in [
        ("failing", ["failing 1.0", "exit code", "the last words"]),
        (
            "empty",
            ["empty 1.0", "exit code", "neither a pyproject.toml nor a setup.py"],
        ),
        ("misnamed", ["misnamed 1.0", "the wheel is called", "other-1.0"]),
        ("native", ["native 1.0", "exit code", "no-such-header.h"]),
        ("asking", ["asking 1.0", "evil", "direct URL"]),
        (
            "missing",
            ["missing 1.0", "build requirements", "there-is-no-such-package"],
        ),
    ] {
        let dir = function("print(1)\n", Some(&format!("{name}==1.0\n")));
        let (done, _) = build(&gantry, dir.path(), "failing:1");
        assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{name}: {}", done.stderr);
        for part in says {
            assert!(done.stderr.contains(part), "{part:?} is not in:\n{}", done.stderr);
        }
        assert!(!done.stderr.contains('\u{1b}'), "{}", done.stderr);
        assert_eq!(before(&gantry), [0, 0, 0], "{name}");
        assert!(!gantry.ok(["images", "ls"]).contains("failing:1"));
    }
}

#[test]
fn resolution_builds_nothing_here_whatever_the_metadata_say() {
    // Dynamic metadata, static ones (2.2), a backend of the package's own without requirements: none is executed by the
    // resolver, with or without the option.
    let gantry = store();
    let outside = tempfile::tempdir().unwrap();
    let mark = outside.path().join("mark");
    let code = format!("open({:?}, 'w').close()\n", mark.to_str().unwrap());
    let static_metadata = "Metadata-Version: 2.2\nName: static\nVersion: 1.0\n";
    let own = "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n";
    let index = Index::new(&[
        (
            "dynamic",
            "1.0",
            &[("setup.py", &setup("dynamic", &code)), ("honest.py", "")],
        ),
        (
            "static",
            "1.0",
            &[("setup.py", &setup("static", &code)), ("PKG-INFO", static_metadata)],
        ),
        ("own", "1.0", &[("pyproject.toml", own), ("backend.py", &code)]),
    ]);
    index.serve(&gantry);
    for name in ["dynamic", "static", "own"] {
        let dir = function("print(1)\n", Some(&format!("{name}\n")));
        let path = dir.path().to_str().unwrap();
        let without = gantry.gantry(["build", path, "--tag", "resolved:1"]);
        assert!(
            without.code == 1 && without.stderr.contains("has no wheel"),
            "{}",
            without.stderr
        );
        assert!(!mark.exists(), "{name} ran on this machine");
        // The write to a path of this machine fails in the sandbox, and with it the build.
        let (with, _) = build(&gantry, dir.path(), "resolved:1");
        assert!(with.code == 1 && with.stderr.contains(name), "{}", with.stderr);
        assert!(with.stderr.contains("FileNotFoundError"), "{}", with.stderr);
        assert!(!mark.exists(), "{name} ran on this machine");
    }
}

#[test]
fn build_requirements_over_two_gigabytes_are_refused_before_they_are_downloaded() {
    let gantry = store();
    let project = "[build-system]\nrequires = ['vast']\nbuild-backend = 'vast'\n";
    let index = Index::new(&[("needy", "1.0", &[("pyproject.toml", project), ("honest.py", "")])]);
    index.add_wheel("vast", 3_000_000_000);
    index.serve(&gantry);
    let (done, report) = build(&gantry, function("print(1)\n", Some("needy\n")).path(), "needy:1");
    assert_eq!(done.code, 3, "{}", done.stderr);
    for part in ["needy 1.0", "3.0 GB", "vast 1.0"] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
    assert!(!done.stderr.contains("Downloading vast"), "{}", done.stderr);
    assert_eq!(report["status"], "refused");
}

#[test]
fn a_base_the_toolchain_is_not_for_is_refused() {
    let gantry = shared();
    let dir = function("print(1)\n", Some("docopt==0.6.2\n"));
    let plain = function("print(1)\n", None);
    gantry.build(plain.path(), "foreign:base");
    // The same image with another release file on top: what a base of another distribution looks like from here.
    let scratch = tempfile::tempdir().unwrap();
    let layout = scratch.path().join("layout");
    gantry.ok(["push", "foreign:base", &format!("oci:{}:base", layout.display())]);
    crate::common::add_layer(
        &layout,
        &serde_json::json!({"usr/lib/os-release": "VERSION_CODENAME=other\n"}),
        None,
    );
    let base = format!("oci:{}:base", layout.display());
    let path = dir.path().to_str().unwrap();
    let done = gantry.gantry(["build", path, "--tag", "foreign:1", "--allow-sdist", "--base", &base]);
    assert_eq!(done.code, 1, "{}", done.stderr);
    for part in ["docopt 0.6.2", "bookworm", "hint:"] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
}

#[test]
fn a_killed_build_of_a_package_leaves_neither_process_nor_file() {
    let gantry = store();
    let marker = format!("gantry-sdist-{}", std::process::id());
    // It has a child that left its session, ignores what can be ignored, and shows the marker in its command line.
    let child = "import signal, sys, time\nfor s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n    except OSError: pass\ntime.sleep(600)";
    let code = format!(
        "import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {child:?}, {marker:?}], start_new_session=True)\ntime.sleep(600)"
    );
    let index = Index::new(&[("lasting", "1.0", &[("setup.py", &setup("lasting", &code))])]);
    index.serve(&gantry);
    let dir = function("print(1)\n", Some("lasting==1.0\n"));
    for (signal, code) in [
        (rustix::process::Signal::KILL, None),
        (rustix::process::Signal::TERM, Some(128 + 15)),
    ] {
        let mut build = gantry.command();
        build.args([
            "build",
            dir.path().to_str().unwrap(),
            "--tag",
            "lasting:1",
            "--allow-sdist",
        ]);
        let mut build = build.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let waits = |present: bool| {
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(600);
            while processes_with(&marker).is_empty() == present {
                assert!(std::time::Instant::now() < deadline, "{:?}", processes_with(&marker));
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        };
        waits(true);
        rustix::process::kill_process(rustix::process::Pid::from_child(&build), signal).unwrap();
        assert_eq!(build.wait().unwrap().code(), code);
        waits(false);
        gantry.ok(["images", "ls"]);
        let folders = ["tmp", "partial", "memo/sdist"];
        assert_eq!(folders.map(|folder| tree(&gantry.root.join(folder)).len()), [0, 0, 0]);
    }
}
