//! What a function's directory holds, and where its packages come from.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::cases::{assert_prints, case, directory, prints, prints_with};
use crate::common::server::Server;
use crate::common::{function, runtime, shared, tool, tree, Done, Gantry, PYTHONS};

/// A copy of the case `name`, for what git does not keep.
fn copy(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(directory(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}

fn build(directory: &Path, tag: &str, args: &[&str]) -> Done {
    let words = ["build", directory.to_str().unwrap(), "--tag", tag];
    shared().gantry([&words[..], args].concat())
}

/// Builds what is in `directory`, runs it, and returns what the build said.
fn directory_prints(directory: &Path, tag: &str, args: &[&str], expected: &str) -> String {
    let built = build(directory, tag, args);
    assert_eq!(built.code, 0, "{}", built.stderr);
    assert_prints(&shared().run(&[tag]), expected);
    built.stderr
}

#[test]
fn an_empty_directory_is_part_of_the_function() {
    let copy = copy("empty-directory");
    fs::create_dir_all(copy.path().join("plugins")).unwrap();
    for python in PYTHONS {
        directory_prints(copy.path(), "case-empty-directory:1", &["--python", python], "[]\n");
    }
    // So is one that a link leads to, and one below others.
    let dir = function("import os\nprint(os.listdir('alias'), os.listdir('a/b'))\n", None);
    fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
    std::os::unix::fs::symlink("a/b/c", dir.path().join("alias")).unwrap();
    directory_prints(dir.path(), "case-empty-directory:2", &[], "[] ['c']\n");
}

#[test]
fn a_module_without_a_source_is_part_of_the_function() {
    assert_prints(&case("sourceless-module"), "42\n");
}

#[test]
fn a_virtual_environment_of_any_name_is_left_out_and_said() {
    let copy = copy("venv-of-another-name");
    tool(
        Command::new("python3")
            .args(["-m", "venv", "--without-pip"])
            .arg(copy.path().join("env")),
    );
    for python in PYTHONS {
        let said = directory_prints(copy.path(), "case-venv:1", &["--python", python], "ok\n");
        assert!(
            said.contains("Leaving out env (env is a virtual environment)"),
            "{said}"
        );
    }
}

#[test]
fn requirements_are_read_by_the_mark_of_their_encoding() {
    prints("utf16-requirements", "1.16.0\n");
}

#[test]
fn what_a_pyproject_lists_is_installed_or_said() {
    let directory = directory("pyproject-only");
    let refused = build(&directory, "case-pyproject:1", &[]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    for part in [
        "no requirements.txt",
        "pyproject.toml lists six",
        "hint:",
        "--from pyproject",
    ] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    prints_with("pyproject-only", &["--from", "pyproject"], &[], "six\n");
    // An empty list of requirements is an answer.
    let copy = copy("pyproject-only");
    fs::write(copy.path().join("requirements.txt"), "").unwrap();
    assert_eq!(build(copy.path(), "case-pyproject:2", &[]).code, 0);
}

#[test]
fn requirements_that_are_a_directory_are_said() {
    let dir = function("print(1)\n", None);
    fs::create_dir(dir.path().join("requirements.txt")).unwrap();
    fs::write(dir.path().join("requirements.txt/base.txt"), "six\n").unwrap();
    let refused = build(dir.path(), "case-directory:1", &[]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("it is a directory, not a file") && refused.stderr.contains("hint:"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_wheel_of_native_instructions_is_for_the_platforms_processors() {
    prints_with("native-instructions", &["--allow-sdist"], &[], "(1, 1)\n");
}

/// Two indexes. The main one wants nobody's name, and has a `torch` that nobody shall get. The other wants a password;
/// it has torch as PyTorch's has it, without sizes, and newer packages of the main one's names.
const INDEXES: &str = r#"
import base64, hashlib, http.server, sys, threading
log, wanted = open(sys.argv[1], "w", buffering=1), "Basic " + base64.b64encode(sys.argv[2].encode()).decode()
def wheel(name, version, *requires):
    text = f"class ones:\n    def __init__(self, n): self.n = n\n    def sum(self): return self\n    def item(self): return float(self.n)\n__version__ = '{version}'\n"
    return made_wheel(name, version, {f"{name}.py": text.encode()}, *requires)
class Index(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments): pass
    def answer(self, status, body=b"", kind="text/html", **headers):
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD": self.wfile.write(body)
    def do_HEAD(self): self.do_GET()
    def do_GET(self):
        log.write(f"{self.role} {self.path}\n")
        if self.wanted and self.headers.get("authorization") != self.wanted:
            return self.answer(401, www_authenticate='Basic realm="x"')
        parts = self.path.replace("%2B", "+").strip("/").split("/")
        if parts[0] == "simple":
            rows = [f'<a href="/files/{name.replace("+", "%2B")}#sha256={hashlib.sha256(data).hexdigest()}">{name}</a><br/>'
                for name, data in self.wheels.items() if name.split("-")[0].replace("_", "-") == parts[-1]]
            body = ("<!DOCTYPE html><html><body>" + "".join(rows) + "</body></html>").encode()
            return self.answer(200, body) if rows else self.answer(404)
        self.answer(200, self.wheels[parts[-1]], "application/octet-stream") if parts[-1] in self.wheels else self.answer(404)
class Main(Index):
    role, wanted = "main", None
    wheels = dict([wheel("torch", "9.9"), wheel("helper", "1.0"), wheel("needs_torch", "1.0", "torch"), wheel("needs_private", "1.0", "private")])
class Extra(Index):
    role, wanted = "extra", wanted
    wheels = dict([wheel("torch", "2.3.1+cpu", "helper"), wheel("torch", "2.3.0+cpu", "helper"), wheel("helper", "7.7"), wheel("private", "1.0")])
servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), role) for role in (Main, Extra)]
threading.Thread(target=servers[0].serve_forever, daemon=True).start()
print(*(server.server_address[1] for server in servers), flush=True)
servers[1].serve_forever()
"#;

const PASSWORD: &str = "h0rse%41/battery";

/// A store that is configured for both, `packages` being those of the other index, and the server of both.
fn with_indexes(packages: &str) -> (Gantry, Server) {
    shared();
    let (gantry, server) = (
        Gantry::with_downloads(),
        Server::python(INDEXES, [format!("me:{PASSWORD}")]),
    );
    let (main, extra) = server.port.split_once(' ').unwrap();
    let text = format!(
        "[index]\nurl = \"http://127.0.0.1:{main}/simple\"\n[[index.extra]]\nname = \"cpu\"\nurl = \"http://127.0.0.1:{extra}/simple/\"\npackages = {packages}\nuser = \"me\"\npassword_env = \"CPU_PASSWORD\"\n[run]\nruntime = \"{}\"\n",
        runtime()
    );
    fs::create_dir_all(gantry.home.join(".config/gantry")).unwrap();
    fs::write(gantry.home.join(".config/gantry/config.toml"), text).unwrap();
    (gantry, server)
}

fn build_in(gantry: &Gantry, directory: &Path, tag: &str) -> Done {
    build_on(gantry, directory, tag, "3.11")
}

fn build_on(gantry: &Gantry, directory: &Path, tag: &str, python: &str) -> Done {
    let mut command = gantry.command();
    command.args(["build", directory.to_str().unwrap(), "--tag", tag, "--python", python]);
    command.env("CPU_PASSWORD", PASSWORD);
    crate::common::done(command.output().unwrap())
}

#[test]
fn a_variant_of_another_index_is_installed_from_there() {
    let (gantry, server) = with_indexes("[\"torch\"]");
    let built = build_in(&gantry, &directory("torch-cpu"), "torch:1");
    assert_eq!(built.code, 0, "{}", built.stderr);
    assert_prints(&gantry.run(&["torch:1"]), "2.0\n");
    assert!(built.stderr.contains("torch at http://127.0.0.1"), "{}", built.stderr);
    // What it needs and what is not listed come from the main index; of torch that one is not even asked.
    let log = server.log();
    assert!(
        log.contains("main /simple/helper/") && log.contains("extra /simple/torch/"),
        "{log}"
    );
    for never in ["main /simple/torch", "extra /simple/helper", "extra /files/helper"] {
        assert!(!log.contains(never), "{never}: {log}");
    }
    let secret = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        text.contains(PASSWORD) || text.contains("h0rse%2541%2Fbattery")
    };
    assert!(!secret(built.stderr.as_bytes()), "{}", built.stderr);
    for path in tree(&gantry.root)
        .iter()
        .filter(|path| path.is_file() && !path.is_symlink())
    {
        let is_data = path.starts_with(gantry.root.join("layers")) || path.starts_with(gantry.root.join("downloads"));
        assert!(is_data || !secret(&fs::read(path).unwrap()), "{path:?}");
    }

    let later = build_on(&gantry, &directory("torch-cpu"), "torch:3.13", "3.13");
    assert_eq!(later.code, 0, "{}", later.stderr);
    assert_prints(&gantry.run(&["torch:3.13"]), "2.0\n");

    let missing = function("import torch\n", Some("torch==9.9\n"));
    let refused = build_in(&gantry, missing.path(), "torch:2");
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("you require torch==9.9"), "{}", refused.stderr);
}

#[test]
fn packages_that_only_others_need_come_from_their_index_as_well() {
    let (gantry, server) = with_indexes("[\"torch\", \"Private\"]");
    let code = "import torch, private, helper\nprint(torch.__version__, private.__version__, helper.__version__)\n";
    let dir = function(code, Some("needs-torch\nneeds-private\n"));
    let built = build_in(&gantry, dir.path(), "others:1");
    assert_eq!(built.code, 0, "{}", built.stderr);
    assert_prints(&gantry.run(&["others:1"]), "2.3.1+cpu 1.0 1.0\n");
    assert!(server.log().contains("extra /files/torch"), "{}", server.log());
    // Nobody needs them here, so they are not there.
    let code = "import importlib.util as found\nprint([found.find_spec(name) for name in ('torch', 'private')])\n";
    let dir = function(code, Some("helper\n"));
    assert_eq!(build_in(&gantry, dir.path(), "others:2").code, 0);
    assert_prints(&gantry.run(&["others:2"]), "[None, None]\n");
    // A marker that is false wants nothing of it either.
    let dir = function(code, Some("helper\ntorch ; sys_platform == 'win32'\n"));
    assert_eq!(build_in(&gantry, dir.path(), "others:3").code, 0);
    assert_prints(&gantry.run(&["others:3"]), "[None, None]\n");
}

#[test]
fn a_version_of_another_index_is_explained_where_none_is_configured() {
    let dir = directory("torch-cpu");
    let refused = build(&dir, "case-torch:1", &[]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    for part in ["torch==2.3.1+cpu", "hint:", "[[index.extra]]"] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
}
