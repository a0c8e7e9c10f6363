//! A package index that wants to know who asks: credentials reach it, and nobody else hears of them.

use std::fs;
use std::path::Path;

use crate::common::server::Server;
use crate::common::{done, function, shared, tree, Done, Gantry};

const USER: &str = "me@home";
const PASSWORD: &str = "h0rse%41/battery";

/// An index that demands Basic authentication, and beside it a server of files that demands nothing. The index has one
/// wheel, `honest`, which it serves itself, and one, `elsewhere`, for which it redirects to the other server.
const SERVER: &str = r#"
import base64, hashlib, http.server, json, sys, threading
log, wanted = open(sys.argv[1], "w", buffering=1), "Basic " + base64.b64encode(sys.argv[2].encode()).decode()
wheels = dict(made_wheel(name, "1.0", {f"{name}.py": f"print('{name}')\n".encode()}) for name in ("honest", "elsewhere"))
class Files(http.server.BaseHTTPRequestHandler):
    role = "files"
    def log_message(self, *arguments): pass
    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD": self.wfile.write(body)
    def do_HEAD(self): self.do_GET()
    def do_GET(self):
        log.write(f"{self.role} {self.path} {self.headers.get('authorization')}\n")
        self.serve(self.path.strip("/").split("/"))
    def serve(self, parts):
        self.answer(200, wheels[parts[-1]]) if parts[-1] in wheels else self.answer(404)
class Index(Files):
    role = "index"
    def serve(self, parts):
        if self.headers.get("authorization") != wanted: return self.answer(401, www_authenticate='Basic realm="x"')
        if parts[0] == "simple":
            listed = [{"filename": name, "url": "/files/" + name, "size": len(data), "hashes": {"sha256": hashlib.sha256(data).hexdigest()}}
                for name, data in wheels.items() if name.split("-")[0] == parts[-1]]
            body = json.dumps({"meta": {"api-version": "1.0"}, "name": parts[-1], "files": listed}).encode()
            return self.answer(200, body, content_type="application/vnd.pypi.simple.v1+json")
        if parts[-1].startswith("elsewhere"):
            return self.answer(302, location=f"http://localhost:{files.server_address[1]}/{parts[-1]}")
        super().serve(parts)
files = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
threading.Thread(target=files.serve_forever, daemon=True).start()
index = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
print(index.server_address[1], flush=True)
index.serve_forever()
"#;

struct Index(Server);

impl Index {
    fn new() -> Self {
        Self(Server::python(SERVER, [format!("{USER}:{PASSWORD}")]))
    }

    /// What was asked of the server called `role`: paths, each with the credentials that came along.
    fn asked(&self, role: &str) -> Vec<String> {
        let log = self.0.log();
        let lines = log.lines().filter_map(|line| line.strip_prefix(role));
        lines.map(|line| line.trim().to_owned()).collect()
    }

    /// Configures this index, with the password in the variable `INDEX_PASSWORD`.
    fn configure(&self, gantry: &Gantry) {
        let text = format!(
            "[index]\nurl = \"http://127.0.0.1:{}/simple\"\nuser = \"{USER}\"\npassword_env = \"INDEX_PASSWORD\"\n",
            self.0.port
        );
        fs::create_dir_all(gantry.home.join(".config/gantry")).unwrap();
        fs::write(gantry.home.join(".config/gantry/config.toml"), text).unwrap();
    }
}

fn build(gantry: &Gantry, dir: &Path, variables: &[(&str, &str)]) -> (Done, String) {
    let mut command = gantry.command();
    command.env_remove("UV_DEFAULT_INDEX").env_remove("UV_INDEX_URL");
    command.envs(variables.iter().copied());
    let report = gantry.home.join("report.json");
    command
        .arg("build")
        .arg(dir)
        .args(["--tag", "private:1", "--report"])
        .arg(&report);
    let done = done(command.output().unwrap());
    let report = fs::read_to_string(report).unwrap();
    (done, report)
}

/// Nothing of the password in what was said, nor in any file of the store.
fn keeps_quiet(gantry: &Gantry, done: &Done, report: &str) {
    let secret = |bytes: &[u8]| {
        let encoded = "h0rse%2541%2Fbattery";
        let text = String::from_utf8_lossy(bytes);
        text.contains(PASSWORD) || text.contains(encoded)
    };
    for text in [&done.stdout, &done.stderr, report] {
        assert!(!secret(text.as_bytes()), "{text}");
    }
    for path in tree(&gantry.root.join("memo"))
        .iter()
        .chain(&tree(&gantry.root.join("journal")))
    {
        assert!(!path.is_file() || !secret(&fs::read(path).unwrap()), "{path:?}");
    }
}

#[test]
fn a_private_index_is_asked_with_its_credentials_and_its_redirects_without() {
    shared();
    let (gantry, index) = (Gantry::with_downloads(), Index::new());
    index.configure(&gantry);
    let dir = function("import honest, elsewhere\n", Some("honest\nelsewhere\n"));
    let (done, report) = build(&gantry, dir.path(), &[("INDEX_PASSWORD", PASSWORD)]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    keeps_quiet(&gantry, &done, &report);
    assert_eq!(gantry.run(&["private:1"]).stdout, "honest\nelsewhere\n");
    let wheels = index.asked("index /files/");
    assert!(
        wheels
            .iter()
            .any(|line| line.contains("honest") && line.contains("Basic")),
        "{wheels:?}"
    );
    let moved = index.asked("files");
    assert!(
        !moved.is_empty() && moved.iter().all(|line| line.ends_with(" None")),
        "{moved:?}"
    );
}

#[test]
fn credentials_of_the_resolvers_environment_are_used_as_well() {
    shared();
    let (gantry, index) = (Gantry::with_downloads(), Index::new());
    let url = format!(
        "http://me%40home:h0rse%2541%2Fbattery@127.0.0.1:{}/simple",
        index.0.port
    );
    let dir = function("import honest\n", Some("honest\n"));
    let (done, report) = build(&gantry, dir.path(), &[("UV_DEFAULT_INDEX", &url)]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    keeps_quiet(&gantry, &done, &report);
    assert_eq!(gantry.run(&["private:1"]).stdout, "honest\n");
}

#[test]
fn wrong_or_missing_credentials_are_said_without_saying_them() {
    shared();
    let (gantry, index) = (Gantry::with_downloads(), Index::new());
    index.configure(&gantry);
    let dir = function("import honest\n", Some("honest\n"));
    let (missing, _) = build(&gantry, dir.path(), &[]);
    // What is missing is the configuration's.
    assert_eq!(missing.code, 2, "{}", missing.stderr);
    for part in ["INDEX_PASSWORD", "password_env", "[index]"] {
        assert!(missing.stderr.contains(part), "{part}: {}", missing.stderr);
    }
    let wrong = "wr0ng-battery";
    let (refused, report) = build(&gantry, dir.path(), &[("INDEX_PASSWORD", wrong)]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    for text in [&refused.stderr, &report] {
        assert!(text.contains("honest") && !text.contains(wrong), "{text}");
    }

    let inline = gantry.home.join("inline.toml");
    fs::write(&inline, "[index]\nurl = \"https://me:hunter2@index.example/simple\"\n").unwrap();
    let done = gantry.gantry(["--config", inline.to_str().unwrap(), "images", "ls"]);
    assert_eq!(done.code, 2);
    for part in ["inline.toml", "index.url", "password_env"] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
    assert!(!done.stderr.contains("hunter2"), "{}", done.stderr);
}
