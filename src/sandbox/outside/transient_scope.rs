//! A cgroup from the user's own systemd, where this process has none that is delegated to it: a login shell's, say.
//!
//! `StartTransientUnit` of the user's manager moves this process into a scope with `Delegate=yes`, below
//! `user@UID.service`, which systemd delegates to the user. The scope ends with the last process in it, whatever ended that;
//! it is systemd's to clean up. Our caller stays where it is.
//!
//! The call goes through `busctl`, a part of systemd: it has a deadline like every program that gantry runs, a manager
//! that hangs cannot hang a run, and no client of D-Bus is linked in for one call (docs/decisions.md).

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::rand::{getrandom, GetRandomFlags};

use crate::policy::one_line;
use crate::sys::program::{Program, ProgramError};

/// Longest wait for the manager's answer and until it has moved us, together: it takes milliseconds, and nobody is heard
/// meanwhile.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks whether we have been moved.
const LOOK: Duration = Duration::from_millis(1);
/// Where `busctl` is looked for.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/run/current-system/sw/bin";

/// Why there is no scope.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    /// This user has no manager, or none that listens on a bus.
    #[error("no systemd of this user's own listens at {bus}")]
    NoManager {
        /// Where it would listen.
        bus: PathBuf,
    },
    /// `busctl` could not be run.
    #[error("{}", one_line(.0))]
    Program(#[from] ProgramError),
    /// The manager refuses.
    #[error("the user's systemd gives none: {said}")]
    Refused {
        /// What it said.
        said: String,
    },
    /// The scope was promised, and this process is not in it.
    #[error("the user's systemd promised {scope} and did not move this process there within {} s", PATIENCE.as_secs())]
    NotMoved {
        /// Its name.
        scope: String,
    },
    /// No name could be made.
    #[error("make a name for it: {0}")]
    Name(#[source] io::Error),
}

/// Moves this process into a scope of its own.
///
/// # Errors
///
/// [`ScopeError`]; this process is where it was, or in the scope that came too late.
pub(super) fn enter() -> Result<(), ScopeError> {
    let uid = rustix::process::geteuid().as_raw();
    let runtime = PathBuf::from(format!("/run/user/{uid}"));
    enter_by(&runtime, uid, Path::new("/proc/self/cgroup"))
}

fn enter_by(runtime: &Path, uid: u32, own: &Path) -> Result<(), ScopeError> {
    let bus = runtime.join("bus");
    // Not another user's, who would say into which cgroup we go.
    if !bus.metadata().is_ok_and(|bus| bus.uid() == uid) {
        return Err(ScopeError::NoManager { bus });
    }
    let mut random = [0u8; 4];
    getrandom(&mut random, GetRandomFlags::empty()).map_err(|errno| ScopeError::Name(errno.into()))?;
    let scope = format!("gantry-{}-{:08x}.scope", std::process::id(), u32::from_ne_bytes(random));
    let started = Instant::now();
    let done = call(runtime, &bus, &scope).run()?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let said = said.lines().next().unwrap_or("nothing").chars().take(200).collect();
        return Err(ScopeError::Refused { said });
    }
    // The answer is that the job was taken on; then it is carried out.
    while !is_in(own, &scope) {
        if started.elapsed() > PATIENCE {
            return Err(ScopeError::NotMoved { scope });
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn call(runtime: &Path, bus: &Path, scope: &str) -> Program {
    let address = format!("--address=unix:path={}", bus.display());
    let pid = std::process::id().to_string();
    Program::new("busctl", PATIENCE)
        .env("PATH", PATH)
        .env("XDG_RUNTIME_DIR", runtime)
        .args([address.as_str(), "--quiet", "call", "org.freedesktop.systemd1"])
        .args(["/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"])
        // (name, what of one that exists, properties, further units): org.freedesktop.systemd1(5).
        .args(["StartTransientUnit", "ssa(sv)a(sa(sv))", scope, "fail", "4"])
        .args(["PIDs", "au", "1", &pid])
        .args(["Delegate", "b", "true"])
        .args(["Description", "s", "gantry and its runs"])
        .args(["CollectMode", "s", "inactive-or-failed"])
        .arg("0")
}

fn is_in(own: &Path, scope: &str) -> bool {
    let table = std::fs::read_to_string(own).unwrap_or_default();
    let path = table.lines().find_map(|line| line.strip_prefix("0::"));
    path.is_some_and(|path| path.split('/').any(|part| part == scope))
}
