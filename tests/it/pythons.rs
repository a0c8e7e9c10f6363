//! Every Python that there is a base with. The examples and the cases run on 3.13, too; here is what depends on the version.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::server::Server;
use crate::common::{function, shared, tool, Done, Gantry};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Builds `dir` with `options` and returns the report.
fn build(gantry: &Gantry, dir: &Path, tag: &str, options: &[&str]) -> Value {
    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("report.json");
    let mut all = vec!["build", dir.to_str().unwrap(), "--tag", tag];
    all.extend(["--report", report.to_str().unwrap()]);
    all.extend(options);
    gantry.ok(all);
    serde_json::from_slice(&fs::read(&report).unwrap()).unwrap()
}

/// Builds a function of `code` and `requirements` with `options`, and runs it, which must succeed.
fn prints(tag: &str, code: &str, requirements: Option<&str>, options: &[&str]) -> String {
    build(shared(), function(code, requirements).path(), tag, options);
    succeeded(shared().run(&[tag]))
}

fn succeeded(done: Done) -> String {
    assert_eq!(done.code, 0, "{}\n{}", done.stdout, done.stderr);
    done.stdout
}

const VERSION: &str = "import sys\nprint('%d.%d' % sys.version_info[:2])\n";

/// Imports all that `sys` says the standard library has, and prints what cannot be.
const IMPORTS: &str = r#"
import importlib, os, sys
sys.stdout.flush()
missing = []
for name in sorted(sys.stdlib_module_names - {"antigravity", "this", "__main__"}):
    try:
        importlib.import_module(name)
    except ImportError:
        missing.append(name)
print(" ".join(missing))
"#;

/// Parts for other systems, and those that no base has: graphics, what installs pip, what a prompt is for, and what stands in for
/// `_decimal`.
const ELSEWHERE: [&str; 23] = [
    "_msi",
    "_overlapped",
    "_scproxy",
    "_tkinter",
    "_winapi",
    "_winreg",
    "_wmi",
    "ensurepip",
    "idlelib",
    "msilib",
    "msvcrt",
    "nt",
    "tkinter",
    "turtle",
    "turtledemo",
    "winreg",
    "winsound",
    "_gdbm",
    "_android_support",
    "_ios_support",
    "_pyrepl",
    "_pydecimal",
    "pydoc_data",
];

/// Modules of the standard library that should be there and are not.
fn lacking(tag: &str, options: &[&str]) -> Vec<String> {
    let missing = prints(tag, IMPORTS, None, options);
    let missing = missing.split_whitespace().filter(|name| !ELSEWHERE.contains(name));
    missing.map(str::to_owned).collect()
}

#[test]
fn the_whole_standard_library_of_python_3_13_can_be_imported() {
    assert_eq!(lacking("stdlib:3.13", &["--python", "3.13"]), [""; 0]);
}

#[test]
fn bytecode_is_that_of_the_interpreter() {
    let code = "import importlib.util, json\nwith open(json.__cached__, 'rb') as file: head = file.read(8)\nprint(json.__cached__.split('/')[-1], head[:4] == importlib.util.MAGIC_NUMBER, head[4])\n";
    let printed = prints("bytecode:3.13", code, None, &["--python", "3.13"]);
    assert_eq!(
        printed, "__init__.cpython-313.pyc True 1\n",
        "an unchecked hash (PEP 552)"
    );
}

#[test]
fn wheels_and_their_programs_are_those_of_the_python() {
    let code = "import subprocess, charset_normalizer.md as md\nprint(md.__file__.rsplit('.', 2)[1])\nprint(subprocess.run(['normalizer', '--help'], capture_output=True, text=True).returncode)\n";
    let options = ["--python", "3.13"];
    let printed = prints("wheels:3.13", code, Some("charset-normalizer==3.4.1\n"), &options);
    assert_eq!(printed, "cpython-313-x86_64-linux-gnu\n0\n");
}

#[test]
fn python_chooses_the_variant_and_keeps_what_else_it_has() {
    let code = VERSION.to_owned()
        + "import shutil, importlib.util\nprint(bool(shutil.which('sh')), bool(importlib.util.find_spec('numpy')))\n";
    for (tag, options, expected) in [
        ("chosen:1", &[][..], "3.11\nFalse False\n"),
        ("chosen:2", &["--python", "3.13"][..], "3.13\nFalse False\n"),
        ("chosen:3", &["--base", "python-3.13"][..], "3.13\nFalse False\n"),
        (
            "chosen:4",
            &["--base", "python-3.11-slim", "--python", "3.13"][..],
            "3.13\nTrue False\n",
        ),
        (
            "chosen:5",
            &["--base", "python-3.11-numpy", "--python", "3.13"][..],
            "3.13\nFalse True\n",
        ),
    ] {
        assert_eq!(prints(tag, &code, None, options), expected, "{options:?}");
    }
    let dir = function(VERSION, None);
    let path = dir.path().to_str().unwrap();
    let other = ["build", path, "--base", "python-3.13", "--python", "3.11"];
    let said = shared().gantry(other).stderr;
    assert!(
        said.contains("python-3.11, which is python-3.13 with Python 3.11"),
        "{said}"
    );
    let done = shared().gantry(["build", path, "--python", "2.7"]);
    assert_eq!(done.code, 1);
    assert!(
        done.stderr.contains("use Python 2.7") && done.stderr.contains("3.11, 3.12, 3.13"),
        "{}",
        done.stderr
    );
}

#[test]
fn the_variants_of_python_3_13_have_their_wheels() {
    let code = "import numpy, scipy.linalg\nprint(numpy.__version__, scipy.__version__, float(scipy.linalg.det(numpy.eye(3) * 2)))\n";
    let printed = prints("variants:3.13", code, None, &["--base", "python-3.13-scipy"]);
    assert_eq!(printed, "2.2.6 1.16.3 8.0\n");
}

#[test]
fn packages_without_wheels_are_built_for_python_3_13() {
    let options = [
        "--python",
        "3.13",
        "--allow-sdist",
        "--allow-degraded",
        crate::common::DEGRADED,
    ];
    let code = "import docopt\nprint(docopt.docopt('Usage: x [--name=N]', ['--name=5'])['--name'])\n";
    assert_eq!(prints("pure:3.13", code, Some("docopt==0.6.2\n"), &options), "5\n");
    // With a compiler, against this Python's headers.
    let printed = prints("compiled:3.13", COMPILED, Some("crcmod==1.7\n"), &options);
    assert_eq!(printed, "cpython-313-x86_64-linux-gnu 0xcbf43926\n");
}

#[test]
fn an_image_of_any_python_is_a_base() {
    let scratch = tempfile::tempdir().unwrap();
    for version in ["3.11", "3.13"] {
        let tag = format!("layout:{version}");
        build(shared(), function(VERSION, None).path(), &tag, &["--python", version]);
        let layout = format!("oci:{}", scratch.path().join(version).display());
        shared().ok(["copy", &tag, &layout]);
        // Which Python it has is found out, and wheels are for it.
        let code = VERSION.to_owned()
            + "import markupsafe._speedups as speedups\nprint(speedups.__file__.rsplit('.', 2)[1])\n";
        let printed = prints(
            &format!("on-{tag}"),
            &code,
            Some("markupsafe==3.0.2\n"),
            &["--base", &layout],
        );
        let short = version.replace('.', "");
        assert_eq!(printed, format!("{version}\ncpython-{short}-x86_64-linux-gnu\n"));
        let other = if version == "3.11" { "3.13" } else { "3.11" };
        let dir = function(VERSION, None);
        let done = shared().gantry([
            "build",
            dir.path().to_str().unwrap(),
            "--base",
            &layout,
            "--python",
            other,
        ]);
        assert_eq!(done.code, 1);
        assert!(done.stderr.contains(&format!("no Python {other}")), "{}", done.stderr);
    }
}

#[test]
fn a_base_of_python_3_13_is_hardly_larger_than_one_of_python_3_11() {
    let scratch = tempfile::tempdir().unwrap();
    let bytes = |name: String| {
        let report = scratch.path().join(&name);
        shared().ok(["base", "build", &name, "--report", report.to_str().unwrap()]);
        let report: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
        report["layers"][0]["unpacked_bytes"].as_u64().unwrap()
    };
    for flavour in ["", "-slim"] {
        let (old, new) = (
            bytes(format!("python-3.11{flavour}")),
            bytes(format!("python-3.13{flavour}")),
        );
        assert!(new <= old + old / 20, "{new} bytes, {old} of python-3.11{flavour}");
    }
}

/// Makes an archive laid out as those of python-build-standalone, of the unpacked base that is argument one and its
/// Python, whose version is argument two, with the headers in argument four unless that is empty. Debian's name for the directory of packages is a link to the usual one.
const ARCHIVE: &str = r#"
import io, json, os, sys, tarfile, time
base, version, out, headers = sys.argv[1:]
def keep(entry):
    entry.uid = entry.gid = 0
    return entry
with tarfile.open(out, "w:gz", compresslevel=1) as tar:
    tar.add(f"{base}/usr/bin/python{version}", f"python/bin/python{version}", filter=keep)
    def link(path, target):
        entry = tarfile.TarInfo(path)
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        tar.addfile(entry)
    link("python/bin/python", f"python{version}")
    link("python/bin/python3", f"python{version}")
    top = f"{base}/usr/lib/python{version}"
    for folder, _, files in os.walk(top):
        for name in files:
            path = os.path.join(folder, name)
            place = f"python/lib/python{version}/{os.path.relpath(path, top)}"
            if name.startswith("_sysconfigdata_"):
                # As their builders write it: with a compiler and places of their own, and again as JSON.
                found = {}
                exec(open(path).read(), found)
                values = found["build_time_vars"]
                ours = [("x86_64-linux-gnu-gcc-ar", "/tools/llvm/bin/llvm-ar"), ("x86_64-linux-gnu-gcc", "clang"), ("x86_64-linux-gnu-g++", "clang++")]
                for name, value in values.items():
                    for debian, other in ours:
                        if isinstance(value, str):
                            value = value.replace(debian, other)
                    values[name] = "/install" if value == "/usr" else value
                text = ("build_time_vars = " + json.dumps(values, indent=4, sort_keys=True)).encode()
                entry = tarfile.TarInfo(place)
                entry.size = len(text)
                tar.addfile(entry, io.BytesIO(text))
            elif os.path.isfile(path):
                tar.add(os.path.realpath(path), place, filter=keep)
    if headers:
        tar.add(headers, f"python/include/python{version}", filter=keep)
    # That of others looks for packages there; the module which knows where is a part of Debian's program.
    link(f"python/lib/python{version}/dist-packages", "site-packages")
    # No two archives are the same, so that what one test downloaded is not another one's.
    head = tarfile.TarInfo(f"python/include/python{version}/{time.time_ns()}.h")
    tar.addfile(head)
"#;

/// Serves the files of the directory that is argument two.
const FILES: &str = "import functools, http.server, sys\nhandler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[2])\nserver = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)\nprint(server.server_address[1], flush=True)\nserver.serve_forever()\n";

/// A definition of a base whose Python an archive brings, in a directory of its own, and where the archive is served.
struct OwnPython {
    scratch: tempfile::TempDir,
    server: Server,
}

const ARCHIVE_NAME: &str = "cpython-3.13.5+1-install_only.tar.gz";

impl OwnPython {
    /// As python-3.13, without Debian's packages of Python; `headers` are a directory or nothing.
    fn new(headers: &str) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let (files, report) = (scratch.path().join("files"), scratch.path().join("report.json"));
        let definitions = scratch.path().join("bases");
        fs::create_dir(&files).unwrap();
        fs::create_dir(&definitions).unwrap();
        shared().ok(["base", "build", "python-3.13", "--report", report.to_str().unwrap()]);
        let report: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
        let diff_id = report["layers"][0]["diff_id"]
            .as_str()
            .unwrap()
            .trim_start_matches("sha256:");
        let base = shared().root.join("layers").join(diff_id).join("fs");
        let archive = files.join(ARCHIVE_NAME);
        tool(
            Command::new("python3")
                .args(["-c", ARCHIVE])
                .arg(base)
                .arg("3.13")
                .arg(&archive)
                .arg(headers),
        );
        let bytes = fs::read(&archive).unwrap();
        let hash: String = Sha256::digest(&bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let rootfs = Path::new(env!("CARGO_MANIFEST_DIR")).join("rootfs");
        let without = |name: &str| {
            let text = fs::read_to_string(rootfs.join(name)).unwrap();
            let lines = text.lines().filter(|line| {
                !line
                    .trim_start()
                    .trim_start_matches(['"', 'l', 'i', 'b'])
                    .starts_with("python3.13")
            });
            lines.map(|line| format!("{line}\n")).collect::<String>()
        };
        let pin = format!("\n[interpreter]\nurl = \"https://files.example.org/1/cpython-3.13.5%2B1-install_only.tar.gz\"\nsha256 = \"{hash}\"\ndrop = [\"include/\"]\n");
        fs::write(definitions.join("own.toml"), without("python-3.13.toml") + &pin).unwrap();
        fs::write(definitions.join("own.lock"), without("python-3.13.lock")).unwrap();
        // As toolchain-3.12: that of the release, with the headers of the archive.
        let toolchain = fs::read_to_string(rootfs.join("toolchain-3.13.toml")).unwrap();
        let pin = "\n[interpreter]\nof = \"own\"\nkeep = [\"include/\"]\n";
        fs::write(definitions.join("own-toolchain.toml"), toolchain + pin).unwrap();
        fs::copy(
            rootfs.join("toolchain-3.13.lock"),
            definitions.join("own-toolchain.lock"),
        )
        .unwrap();
        let server = Server::python(FILES, [&files]);
        let own = Self { scratch, server };
        own.configure(&format!("http://127.0.0.1:{}", own.server.port));
        own
    }

    /// Names a mirror.
    fn configure(&self, mirror: &str) {
        let definitions = self.scratch.path().join("bases");
        fs::write(
            self.config(),
            format!("[base]\ninterpreter_mirror = {mirror:?}\ndefinitions = {definitions:?}\n"),
        )
        .unwrap();
    }

    fn config(&self) -> std::path::PathBuf {
        self.scratch.path().join("config.toml")
    }

    /// Runs `gantry` with this configuration.
    fn gantry(&self, gantry: &Gantry, args: &[&str]) -> Done {
        let config = self.config();
        let options = ["--config", config.to_str().unwrap()];
        gantry.gantry(options.iter().chain(args))
    }
}

#[test]
fn an_archive_brings_a_python_and_its_whole_standard_library() {
    let own = OwnPython::new("");
    assert!(own
        .gantry(shared(), &["base", "ls", "--quiet"])
        .stdout
        .lines()
        .any(|name| name == "own"));
    let code = VERSION.to_owned() + "import numpy\nprint(sys.executable, sys.base_prefix, numpy.__version__)\nimport json, os\nprint(json.__cached__)\nprint(os.path.realpath('/etc/ssl/cert.pem'), os.path.exists('/etc/ssl/cert.pem'))\n" + IMPORTS;
    let dir = function(&code, Some("numpy==2.2.6\n"));
    let path = dir.path().to_str().unwrap();
    let built = own.gantry(shared(), &["build", path, "--base", "own", "--tag", "own:1"]);
    assert_eq!(built.code, 0, "{}", built.stderr);
    let printed = succeeded(shared().run(&["own:1"]));
    let mut lines = printed.lines();
    assert_eq!(lines.next(), Some("3.13"));
    assert_eq!(lines.next(), Some("/usr/local/bin/python /usr/local 2.2.6"));
    assert_eq!(
        lines.next(),
        Some("/usr/local/lib/python3.13/json/__pycache__/__init__.cpython-313.pyc")
    );
    // Where an interpreter with an OpenSSL of its own looks.
    assert_eq!(lines.next(), Some("/etc/ssl/certs/ca-certificates.crt True"));
    let missing = lines
        .next()
        .unwrap()
        .split_whitespace()
        .filter(|name| !ELSEWHERE.contains(name));
    assert_eq!(missing.collect::<Vec<_>>(), [""; 0]);
    // An image on it is a base like any other.
    let layout = format!("oci:{}", own.scratch.path().join("layout").display());
    shared().ok(["copy", "own:1", &layout]);
    assert_eq!(prints("own:2", VERSION, None, &["--base", &layout]), "3.13\n");
    // Nothing is like it with another Python.
    let done = own.gantry(shared(), &["build", path, "--base", "own", "--python", "3.11"]);
    assert_eq!(done.code, 1, "{}", done.stderr);
    let part = "no variant is like own with it; those that have it are python-3.11, python-3.11-slim";
    assert!(done.stderr.contains(part), "{}", done.stderr);
    // It is in the store: nobody is asked again.
    own.configure("http://127.0.0.1:1");
    let again = own.gantry(shared(), &["build", path, "--base", "own", "--tag", "own:1"]);
    assert_eq!((again.code, again.stdout), (0, built.stdout), "{}", again.stderr);
}

/// Built against the headers of this Python, and by its configuration.
const COMPILED: &str = "import crcmod.predefined, crcmod._crcfunext as ext\nprint(ext.__file__.rsplit('.', 2)[1], hex(crcmod.predefined.mkCrcFun('crc-32')(b'123456789')))\n";

#[test]
fn packages_without_wheels_are_built_for_a_python_of_an_archive() {
    let degraded = ["--allow-sdist", "--allow-degraded", crate::common::DEGRADED];
    let dir = function(COMPILED, Some("crcmod==1.7\n"));
    // It makes Debian's toolchain, whose headers the archive has, too.
    let options = [&["--python", "3.13"][..], &degraded].concat();
    build(shared(), dir.path(), "compiled:3.13-debian", &options);
    let layers = fs::read_dir(shared().root.join("layers")).unwrap();
    let headers = layers
        .map(|layer| layer.unwrap().path().join("fs/usr/include/python3.13"))
        .find(|headers| headers.join("Python.h").exists())
        .unwrap();
    let own = OwnPython::new(headers.to_str().unwrap());
    let path = dir.path().to_str().unwrap();
    let build = [
        &["build", path, "--base", "own", "--tag", "own:compiled"][..],
        &degraded,
    ]
    .concat();
    let built = own.gantry(shared(), &build);
    assert_eq!(built.code, 0, "{}", built.stderr);
    let printed = succeeded(shared().run(&["own:compiled"]));
    assert_eq!(printed, "cpython-313-x86_64-linux-gnu 0xcbf43926\n");
}

#[test]
fn an_archive_that_cannot_be_had_or_is_another_is_no_base() {
    let own = OwnPython::new("");
    let gantry = Gantry::with_downloads();
    // As with python-3.12 where there is no network.
    own.configure("http://127.0.0.1:1");
    for name in ["own", "python-3.12"] {
        let done = own.gantry(&gantry, &["base", "build", name]);
        assert_eq!(done.code, 4, "{}", done.stderr);
        assert!(
            done.stderr.contains(&format!("the interpreter of base {name}")),
            "{}",
            done.stderr
        );
        assert!(done.stderr.contains("interpreter_mirror"), "{}", done.stderr);
    }
    fs::write(own.scratch.path().join("files").join(ARCHIVE_NAME), "another file").unwrap();
    own.configure(&format!("http://127.0.0.1:{}", own.server.port));
    let done = own.gantry(&gantry, &["base", "build", "own"]);
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert!(done.stderr.contains("the definition pins sha256:"), "{}", done.stderr);
}
