//! The probe that `gantry doctor` runs inside the sandbox: gantry's own binary, trying what the sandbox refuses.
//!
//! It is the whole root file system of its sandbox, so that no image is needed. It answers with one JSON document.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{socket, AddressFamily, SocketType};
use serde::{Deserialize, Serialize};

/// Path of the probe inside its sandbox, and its `argv[0]`.
pub(super) const PATH: &str = "/gantry-probe";
/// Bytes after which the probe stops writing: a place that takes more has no limit.
const MOST_WRITTEN: usize = 64 << 20;
const MOST_CHILDREN: u32 = 200;
/// How long memory is held: where gantry only looks from time to time, a busy machine may look late.
const HOLD: Duration = Duration::from_secs(5);

/// How the kernel answered an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// Nothing refused it.
    WentThrough,
    /// This errno.
    Refused(i32),
    /// It failed for another reason than an errno.
    Failed(String),
}

impl Answer {
    /// Whether it is `errno`.
    pub(super) fn is(&self, errno: rustix::io::Errno) -> bool {
        *self == Self::Refused(errno.raw_os_error())
    }

    fn of<T>(result: io::Result<T>) -> Self {
        match result {
            Ok(_) => Self::WentThrough,
            Err(error) => error
                .raw_os_error()
                .map_or_else(|| Self::Failed(error.to_string()), Self::Refused),
        }
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::WentThrough => f.write_str("went through"),
            Self::Refused(errno) => io::Error::from_raw_os_error(*errno).fmt(f),
            Self::Failed(reason) => f.write_str(reason),
        }
    }
}

/// What the probe found.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Found {
    /// Real and effective user and group.
    pub ids: [u32; 4],
    /// The five sets.
    pub capabilities: Vec<String>,
    /// `NoNewPrivs` of `/proc/self/status`.
    pub no_new_privs: String,
    /// `Seccomp` of `/proc/self/status`.
    pub seccomp: String,
    /// Opening sockets of the Internet and of virtual machines.
    pub sockets: [Answer; 2],
    /// Creating a file in the root.
    pub root: Answer,
    /// Opening a file of `/proc` for writing.
    pub proc: Answer,
    /// Executing a file of `/tmp`.
    pub execute: Answer,
    /// Bytes that went into `/tmp` and what ended that.
    pub tmp: (usize, Answer),
    /// Bytes that went into `/output` and what ended that.
    pub output: (usize, Answer),
    /// Children that were started and what ended that.
    pub children: (u32, Answer),
    /// Network interfaces.
    pub interfaces: Vec<String>,
    /// Open descriptors besides the one that lists them.
    pub descriptors: usize,
    /// Names of the environment's variables.
    pub variables: Vec<String>,
}

/// Whether this process was started as the probe.
pub fn is_probe(name: Option<&OsStr>) -> bool {
    name == Some(OsStr::new(PATH))
}

/// Runs the probe; returns its exit code.
pub fn main(arguments: &[OsString]) -> u8 {
    let word = |index: usize| arguments.get(index).and_then(|word| word.to_str()).unwrap_or_default();
    let number = || word(2).parse::<u64>().map_err(io::Error::other);
    let done = match word(1) {
        "look" => serde_json::to_vec(&look())
            .map_err(io::Error::from)
            .and_then(|found| say(&found)),
        "allocate" => number().and_then(allocate),
        "spin" => number().and_then(|time| spin(Duration::from_millis(time))),
        "flood" => number().and_then(flood),
        "talk" => serde_json::to_vec(&talk())
            .map_err(io::Error::from)
            .and_then(|found| say(&found)),
        "wait" => say(b"up\n")
            .and_then(|()| number())
            .map(|time| std::thread::sleep(Duration::from_millis(time))),
        _ => return 2,
    };
    u8::from(done.is_err())
}

fn say(bytes: &[u8]) -> io::Result<()> {
    io::stdout().write_all(bytes)?;
    io::stdout().flush()
}

/// Connecting to a server of its own, and to an address that is nobody's (TEST-NET-1, RFC 5737).
fn talk() -> (Answer, Answer) {
    let near = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|own| TcpStream::connect(own.local_addr()?));
    let far = TcpStream::connect((Ipv4Addr::new(192, 0, 2, 1), 9));
    (Answer::of(near), Answer::of(far))
}

fn look() -> Found {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |key: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    let table = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let interfaces = table
        .lines()
        .skip(2)
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    let opens = |family| Answer::of(socket(family, SocketType::STREAM, None).map_err(io::Error::from));
    Found {
        ids: [
            rustix::process::getuid().as_raw(),
            rustix::process::geteuid().as_raw(),
            rustix::process::getgid().as_raw(),
            rustix::process::getegid().as_raw(),
        ],
        capabilities: ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(field).to_vec(),
        no_new_privs: field("NoNewPrivs"),
        seccomp: field("Seccomp"),
        sockets: [opens(AddressFamily::INET), opens(AddressFamily::VSOCK)],
        root: Answer::of(File::create("/probe")),
        proc: Answer::of(fs::OpenOptions::new().write(true).open("/proc/self/oom_score_adj")),
        execute: Answer::of(execute()),
        tmp: fill("/tmp/probe"),
        output: fill("/output/probe"),
        children: children(),
        interfaces: interfaces.collect(),
        descriptors: fs::read_dir("/proc/self/fd")
            .map_or(0, Iterator::count)
            .saturating_sub(1),
        variables: std::env::vars_os()
            .map(|(name, _)| name.to_string_lossy().into_owned())
            .collect(),
    }
}

fn execute() -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let script = "/tmp/execute";
    fs::write(script, format!("#!{PATH}\n"))?;
    fs::set_permissions(script, fs::Permissions::from_mode(0o755))?;
    Command::new(script).status().map(drop)
}

fn fill(path: &str) -> (usize, Answer) {
    let chunk = [1u8; 64 << 10];
    let mut written = 0;
    let filled = File::create(path).and_then(|mut file| {
        while written < MOST_WRITTEN {
            written += file.write(&chunk)?;
        }
        Ok(())
    });
    let _ = fs::remove_file(path);
    (written, Answer::of(filled))
}

fn children() -> (u32, Answer) {
    let mut started = Vec::new();
    let refused = loop {
        if started.len() >= MOST_CHILDREN as usize {
            break Answer::WentThrough;
        }
        let spawned = Command::new(PATH).args(["wait", "60000"]).stdout(Stdio::null()).spawn();
        match spawned {
            Ok(child) => started.push(child),
            Err(error) => break Answer::of::<()>(Err(error)),
        }
    };
    let count = started.len();
    for child in &mut started {
        let _ = child.kill();
        let _ = child.wait();
    }
    (u32::try_from(count).unwrap_or(u32::MAX), refused)
}

/// Takes memory a megabyte at a time and keeps it.
fn allocate(bytes: u64) -> io::Result<()> {
    let mut held: Vec<Vec<u8>> = Vec::new();
    for _ in 0..bytes >> 20 {
        held.push(vec![1; 1 << 20]);
        // Where someone only looks from time to time, there must be something to see.
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(HOLD);
    say(format!("{}\n", held.iter().map(Vec::len).sum::<usize>()).as_bytes())
}

/// Two threads that do nothing but count; says how many milliseconds of cpu they got.
fn spin(time: Duration) -> io::Result<()> {
    let used = || {
        let clock = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Duration::try_from(clock).unwrap_or_default()
    };
    let (until, before) = (Instant::now() + time, used());
    let busy = move || while Instant::now() < until {};
    let other = std::thread::spawn(busy);
    busy();
    let joined = other.join();
    joined.map_err(|_| io::Error::other("the second thread ended early"))?;
    say(format!("{}\n", used().saturating_sub(before).as_millis()).as_bytes())
}

fn flood(bytes: u64) -> io::Result<()> {
    let chunk = [b'x'; 4096];
    for _ in 0..bytes >> 12 {
        io::stdout().write_all(&chunk)?;
    }
    io::stdout().flush()
}
