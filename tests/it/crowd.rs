//! Many processes at once on one empty store: all of them end, each step is taken once, and the crowd costs little more
//! than one alone. How many there are, and how often, the environment says: `GANTRY_CROWD`, `GANTRY_CROWD_ROUNDS`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{json, Value};

use crate::common::server::Server;
use crate::common::{example, function, shared, tiny, Gantry};

/// Runs the jobs on its standard input at once; ends those that hang. Its own children are the jobs alone, so their
/// processor time is theirs.
const DRIVER: &str = r#"
import json, os, resource, subprocess, sys, tempfile, time
order = json.load(sys.stdin)
begun, running, done = time.monotonic(), {}, {}
for number, args in enumerate(order["jobs"]):
    said = tempfile.TemporaryFile()
    job = subprocess.Popen([order["program"], *args], env=order["env"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said)
    running[number] = (job, said)
while running and time.monotonic() - begun < order["seconds"]:
    for number, (job, said) in list(running.items()):
        if job.poll() is None: continue
        said.seek(0)
        done[number] = {"code": job.returncode, "stderr": said.read().decode(errors="replace")[-2000:]}
        del running[number]
    time.sleep(0.02)
for number, (job, said) in running.items():
    said.seek(0)
    done[number] = {"code": None, "stderr": said.read().decode(errors="replace")[-2000:]}
    job.kill()
    job.wait()
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"wall": time.monotonic() - begun, "cpu": used.ru_utime + used.ru_stime, "most_kib": used.ru_maxrss,
    "jobs": [done[number] for number in range(len(order["jobs"]))]}))
"#;

/// An index of wheels that are made up: `large-*` have a layer each, the others share one. No connection is faster than
/// the bytes per second it is started with.
const SERVER: &str = r#"
import hashlib, http.server, json, os, random, sys, time
log, rate, names = open(sys.argv[1], "w", buffering=1), int(sys.argv[2]), sys.argv[3:]
def wheel(name):
    module, data = name.replace("-", "_"), random.Random(name).randbytes((5 << 18) if name.startswith("large") else 1000)
    return made_wheel(name, "1.0", {f"{module}/__init__.py": f"name = '{name}'\n".encode(), f"{module}/data.bin": data})
wheels = {name: wheel(name) for name in names}
files = dict(wheels.values())
class Index(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *arguments): pass
    def answer(self, body, kind="application/octet-stream"):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD": return
        piece = max(rate // 20, 1) if rate else len(body) or 1
        for start in range(0, len(body), piece):
            self.wfile.write(body[start:start + piece])
            if rate and len(body) > piece: time.sleep(0.05)
    def do_HEAD(self): self.do_GET()
    def do_GET(self):
        # Without metadata beside it, uv reads a wheel for its dependencies.
        log.write(f"{'resolver' if self.headers.get('user-agent', '').startswith('uv/') else 'gantry'} {self.path}\n")
        kind, _, name = self.path.strip("/").partition("/")
        if kind == "simple" and name in wheels:
            file, data = wheels[name]
            listed = [{"filename": file, "url": "/files/" + file, "size": len(data), "hashes": {"sha256": hashlib.sha256(data).hexdigest()}}]
            body = json.dumps({"meta": {"api-version": "1.0"}, "name": name, "files": listed}).encode()
            return self.answer(body, "application/vnd.pypi.simple.v1+json")
        if kind == "files" and name in files: return self.answer(files[name])
        self.send_error(404)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

struct Index(Server);

impl Index {
    fn new(bytes_per_second: u32, names: &[String]) -> Self {
        let rate = bytes_per_second.to_string();
        Self(Server::python(SERVER, std::iter::once(&rate).chain(names)))
    }

    fn configure(&self, gantry: &Gantry) {
        let text = format!("[index]\nurl = \"http://127.0.0.1:{}/simple\"\n", self.0.port);
        fs::create_dir_all(gantry.home.join(".config/gantry")).unwrap();
        fs::write(gantry.home.join(".config/gantry/config.toml"), text).unwrap();
    }

    /// Every request that begins with `start`, sorted.
    fn asked(&self, start: &str) -> Vec<String> {
        let log = self.0.log();
        let mut lines: Vec<String> = log
            .lines()
            .filter(|line| line.starts_with(start))
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    }
}

/// What a crowd did.
#[derive(Debug)]
struct Crowd {
    wall: f64,
    /// Seconds of processor time of all.
    cpu: f64,
    jobs: Vec<Value>,
}

/// Runs every one of `jobs` on the store of `gantry` at once. Each ends in time, with one of `codes`.
fn crowd(gantry: &Gantry, jobs: &[Vec<String>], seconds: u64, codes: &[i64]) -> Crowd {
    let command = gantry.command();
    let env: Vec<(String, String)> = command
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_str()?.to_owned(), value?.to_str()?.to_owned())))
        .collect();
    let env: Value = env.into_iter().map(|(name, value)| (name, json!(value))).collect();
    let order = json!({"program": env!("CARGO_BIN_EXE_gantry"), "env": env, "jobs": jobs, "seconds": seconds});
    let mut driver = Command::new("python3");
    driver.args(["-c", DRIVER]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut driver = driver.spawn().unwrap();
    driver
        .stdin
        .take()
        .unwrap()
        .write_all(order.to_string().as_bytes())
        .unwrap();
    let output = driver.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let ended = report["jobs"].as_array().unwrap().clone();
    for (job, ended) in jobs.iter().zip(&ended) {
        let said = ended["stderr"].as_str().unwrap();
        let code = ended["code"].as_i64();
        assert!(code.is_some(), "{job:?} hangs:\n{said}");
        assert!(code.is_some_and(|code| codes.contains(&code)), "{job:?}: {ended}");
    }
    Crowd {
        wall: report["wall"].as_f64().unwrap(),
        cpu: report["cpu"].as_f64().unwrap(),
        jobs: ended,
    }
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

fn build_of(directory: &Path, tag: &str) -> Vec<String> {
    words(["build", directory.to_str().unwrap(), "--tag", tag])
}

#[test]
fn equal_builds_at_once_resolve_and_download_once() {
    shared();
    let names = words(["large-a", "large-b", "small-a", "small-b"]);
    let (gantry, index) = (Gantry::with_downloads(), Index::new(0, &names));
    index.configure(&gantry);
    let dir = function("import large_a\n", Some(&names.join("\n")));
    let builds: Vec<_> = (0..number("GANTRY_CROWD", 8))
        .map(|number| build_of(dir.path(), &format!("equal:{number}")))
        .collect();
    crowd(&gantry, &builds, 600, &[0]);
    let pages = names.iter().map(|name| format!("resolver /simple/{name}/"));
    assert_eq!(index.asked("resolver /simple/"), pages.collect::<Vec<_>>());
    let files = names
        .iter()
        .map(|name| format!("gantry /files/{}-1.0-py3-none-any.whl", name.replace('-', "_")));
    assert_eq!(index.asked("gantry "), files.collect::<Vec<_>>());
}

#[test]
fn builds_that_share_wheels_and_all_other_commands_at_once_end() {
    shared();
    let names: Vec<String> = (0..10).map(|number| format!("large-{number}")).collect();
    // A wheel takes a second, so that every build has begun while the first ones are on their way.
    let (gantry, index) = (Gantry::with_downloads(), Index::new(1 << 20, &names));
    index.configure(&gantry);

    let (elsewhere, scratch) = (Gantry::new(), tempfile::tempdir().unwrap());
    tiny(&elsewhere, &["tiny:1"]);
    let layout = format!("oci:{}:tiny", scratch.path().join("layout").display());
    let archive = scratch.path().join("tiny.tar");
    elsewhere.ok(["copy", "tiny:1", &layout]);
    elsewhere.ok(["save", "tiny:1", archive.to_str().unwrap()]);

    let builds = number("GANTRY_CROWD", 8);
    let functions: Vec<_> = (0..builds)
        .map(|build| {
            // Another seven of the ten each, beginning with another one.
            let wanted: Vec<&str> = names
                .iter()
                .cycle()
                .skip(build * 3)
                .take(7)
                .map(String::as_str)
                .collect();
            function(&format!("print({build})\n"), Some(&wanted.join("\n")))
        })
        .collect();
    let mut jobs = Vec::new();
    for (build, function) in functions.iter().enumerate() {
        jobs.push(build_of(function.path(), &format!("shared:{build}")));
        jobs.push(match build % 5 {
            0 => words(["load", archive.to_str().unwrap()]),
            1 => words(["pull", &layout]),
            2 => words(["copy", &layout, &format!("copied:{build}")]),
            3 => words(["images", "ls"]),
            _ => words(["cache", "gc"]),
        });
    }
    // A collector may find the store busy, and says so.
    let crowd = crowd(&gantry, &jobs, 600, &[0, 4]);
    for (job, ended) in jobs.iter().zip(&crowd.jobs) {
        assert!(ended["code"] == 0 || job[0] == "cache", "{job:?}: {ended}");
    }
    for build in 0..builds {
        let done = gantry.run(&[&format!("shared:{build}")]);
        assert_eq!((done.code, done.stdout), (0, format!("{build}\n")), "{}", done.stderr);
    }
}

/// A copy of an example whose code is another for each `number`.
fn variant(of: &Path, number: usize) -> tempfile::TempDir {
    let code = fs::read_to_string(of.join("user_function.py")).unwrap();
    let requirements = fs::read_to_string(of.join("requirements.txt")).unwrap();
    function(&format!("{code}\n# {number}\n"), Some(&requirements))
}

#[test]
fn a_crowd_of_builds_costs_little_more_than_one() {
    shared();
    let beam: PathBuf = example("beam");
    let alone = crowd(&Gantry::with_downloads(), &[build_of(&beam, "beam:0")], 600, &[0]);
    for round in 0..number("GANTRY_CROWD_ROUNDS", 1) {
        let gantry = Gantry::with_downloads();
        let variants: Vec<_> = (0..number("GANTRY_CROWD", 12))
            .map(|number| variant(&beam, number))
            .collect();
        let builds: Vec<_> = variants
            .iter()
            .enumerate()
            .map(|(number, variant)| build_of(variant.path(), &format!("beam:{number}")))
            .collect();
        let all = crowd(&gantry, &builds, 900, &[0]);
        eprintln!(
            "round {round}: {} builds in {:.1} s and {:.1} s of processor time; one alone {:.1} s and {:.1} s",
            builds.len(),
            all.wall,
            all.cpu,
            alone.wall,
            alone.cpu
        );
        // Each compiles its own code in a sandbox of its own: that is work of its own as well.
        assert!(all.cpu < 3.0 * alone.cpu + 0.5 * builds.len() as f64, "{all:?}");
    }
}
