//! Runs a group of attacks inside and outside, once each, and compares the answers with the rows.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock};

use serde_json::Value;

use crate::common::{shared, DEGRADED};

/// One attack: what it is answered inside, and what the same code is answered without the sandbox.
#[derive(Debug)]
pub struct Row {
    /// The Python function.
    pub name: &'static str,
    /// The answer inside.
    pub inside: &'static str,
    /// Where the positive twin runs.
    pub twin: Side,
    /// Its answer, or its answers on differently built kernels, with `|` between them.
    pub outside: &'static str,
}

/// Who runs a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// `gantry run`.
    Sandbox,
    /// The user of the tests.
    Host,
    /// This user as root of namespaces of its own, where the kernel wants a capability before it looks further.
    Root,
    /// Root of namespaces of its own with a range of ids: the only way to `setgroups`.
    Ids,
}

/// The image that holds every attack.
pub const IMAGE: &str = "attacks:1";

/// What came of an attack.
#[derive(Debug, Default, Clone)]
pub struct Answer {
    /// Its word: "ok", an errno, a signal, or what it saw.
    pub got: String,
    /// Numbers and results (negative: errno) of the system calls it made by number.
    pub calls: Vec<(u32, i64)>,
}

/// Every answer of a group, by the name of the attack.
type Answers = BTreeMap<String, Answer>;

/// Asserts both answers of `row`.
pub fn check(group: &'static str, row: &Row) {
    let twins: Vec<&str> = row.outside.split('|').collect();
    assert!(!twins.contains(&row.inside), "the twin of {} proves nothing", row.name);
    let answer = |side| answers(group, side).get(row.name).cloned().unwrap_or_default().got;
    let (inside, outside) = (answer(Side::Sandbox), answer(row.twin));
    assert_eq!(inside, row.inside, "{group}::{} in the sandbox", row.name);
    assert!(
        twins.contains(&outside.as_str()),
        "{group}::{} as {:?}: {outside}",
        row.name,
        row.twin
    );
}

/// Asserts that every attack of the group's file has a row.
pub fn check_complete(group: &'static str, rows: &[Row]) {
    let mut judged: Vec<&str> = rows.iter().map(|row| row.name).collect();
    judged.sort_unstable();
    let answers = answers(group, Side::Sandbox);
    let written: Vec<&str> = answers.keys().map(String::as_str).collect();
    assert_eq!(written, judged);
}

/// Runs `group` on `side`, once per process.
pub fn answers(group: &'static str, side: Side) -> Arc<Answers> {
    type Cell = Arc<OnceLock<Arc<Answers>>>;
    static RUNS: Mutex<BTreeMap<(&str, Side), Cell>> = Mutex::new(BTreeMap::new());
    let cell = {
        let mut runs = RUNS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        Arc::clone(runs.entry((group, side)).or_default())
    };
    Arc::clone(cell.get_or_init(|| {
        let output = match side {
            Side::Sandbox => inside(group),
            _ => outside(group, side),
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{group} as {side:?}: {}\n{text}\n{said}",
            output.status
        );
        Arc::new(text.lines().map(answer).collect())
    }))
}

fn answer(line: &str) -> (String, Answer) {
    let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let word = |key: &str| line[key].as_str().unwrap().to_owned();
    let calls = serde_json::from_value(line["calls"].clone()).unwrap();
    (
        word("name"),
        Answer {
            got: word("got"),
            calls,
        },
    )
}

/// The directory of an image with every attack in it, ready to be built or to be run outside.
pub fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/attacks");
    for entry in fs::read_dir(sources).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "py") {
            fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    let removable = dir.path().join("removable.py");
    fs::write(&removable, "").unwrap();
    fs::set_permissions(&removable, fs::Permissions::from_mode(0o6755)).unwrap();
    fs::write(dir.path().join("refusals.txt"), crate::attacks::profile::refusals()).unwrap();
    dir
}

/// Builds the image once per process.
pub fn image() -> &'static str {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        shared().build(directory().path(), IMAGE);
    });
    IMAGE
}

/// What an attack could reach if the walls were not there; exists as long as it is held.
pub struct Targets {
    scratch: tempfile::TempDir,
    _listeners: Vec<UnixListener>,
    victim: Child,
    abstract_name: String,
}

impl Targets {
    /// Listens on an abstract and a path socket, starts a process to be signalled, and makes files to be found.
    pub fn new() -> Self {
        use std::os::linux::net::SocketAddrExt;
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().to_owned();
        for name in ["app", "scratch", "input"] {
            fs::create_dir(path.join(name)).unwrap();
        }
        fs::write(path.join("canary"), "planted-canary").unwrap();
        for key in ["key", "scratch/KEY"] {
            fs::write(path.join(key), "a secret").unwrap();
        }
        fs::write(path.join("input/data"), "input").unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let abstract_name = format!("gantry-attacks-{name}-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&abstract_name).unwrap();
        Self {
            _listeners: vec![
                UnixListener::bind_addr(&address).unwrap(),
                UnixListener::bind(path.join("socket")).unwrap(),
            ],
            victim: Command::new("/bin/sleep")
                .arg("600")
                .env_clear()
                .stdin(Stdio::null())
                .process_group(0)
                .spawn()
                .unwrap(),
            scratch,
            abstract_name,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// What the attacks read from their environment, on either side.
    fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("ATTACK_ABSTRACT", self.abstract_name.clone()),
            ("ATTACK_PATH", self.path("socket").display().to_string()),
            ("ATTACK_CANARY", self.path("canary").display().to_string()),
            ("ATTACK_VICTIM", self.victim.id().to_string()),
            ("ATTACK_STORE", shared().root.display().to_string()),
            ("ATTACK_SCRATCH", self.path("scratch").display().to_string()),
        ]
    }
}

impl Drop for Targets {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
    }
}

/// A shell that opens what a careless caller leaves open before it becomes `command`: the root directory, a file and a
/// writable file, announced as socket activation does.
pub fn planting(command: &Command, targets: &Targets) -> Command {
    let mut shell = Command::new("/bin/sh");
    let canary = targets.path("canary");
    shell
        .args(["-c", "exec 5</ 6<\"$0\" 7>>\"$0\" 9<\"$0\"; exec \"$@\""])
        .arg(canary)
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    shell.envs([
        ("LISTEN_FDS", "3"),
        ("LISTEN_PID", "1"),
        ("PLANTED", "1"),
        ("XDG_RUNTIME_DIR", "/run/user/1"),
    ]);
    shell
}

fn inside(group: &str) -> Output {
    let targets = Targets::new();
    let mut command = shared().command();
    command.args(["run", "--allow-degraded", DEGRADED]);
    for (name, value) in targets.variables() {
        command.args(["--env", &format!("{name}={value}")]);
    }
    match group {
        "bombs" => {
            let limits = [
                "--pids",
                "32",
                "--tmp-size",
                "8M",
                "--output-size",
                "4M",
                "--shm-size",
                "4M",
            ];
            command.args(limits)
        }
        "files" => command
            .arg("--secret")
            .arg(format!("KEY={}", targets.path("key").display()))
            .arg("--input")
            .arg(targets.path("input")),
        _ => &mut command,
    };
    command.args([image(), "--", group]);
    planting(&command, &targets).stdin(Stdio::null()).output().unwrap()
}

fn outside(group: &str, side: Side) -> Output {
    let targets = Targets::new();
    let app = targets.path("app");
    let source = directory();
    for entry in fs::read_dir(source.path()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), app.join(entry.file_name())).unwrap();
    }
    let mut command = match side {
        Side::Root => unshare(&[
            "--map-root-user",
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "--ipc",
            "--uts",
            "--net",
            "--cgroup",
        ]),
        Side::Ids => unshare(&["--map-root-user", "--map-auto"]),
        Side::Host | Side::Sandbox => Command::new("/usr/bin/python3"),
    };
    command
        .env_clear()
        .arg(app.join("user_function.py"))
        .args([group, "--outside"])
        .envs(targets.variables())
        .env("PATH", "/usr/bin:/bin");
    planting(&command, &targets)
        .current_dir(&app)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn unshare(options: &[&str]) -> Command {
    let mut command = Command::new("/usr/bin/unshare");
    command.arg("--user").args(options).arg("/usr/bin/python3");
    command
}
