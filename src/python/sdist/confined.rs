//! One run of the build script in the sandbox: what it is given, and what of what it leaves is taken.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::SdistError;
use crate::policy::{Bytes, Confinement, Promise};
use crate::python::resolve::LockedSdist;
use crate::sandbox::{self, collect, Bundle, CollectLimits, Collected, End, Finished, Purpose, Sink};
use crate::sys::signal;

/// The script that builds a wheel with the base's own Python, in the sandbox.
pub(super) const BUILD_WHEEL: &str = include_str!("../build_wheel.py");
/// numpy takes five minutes on two cores.
const TIMEOUT: Duration = Duration::from_secs(600);
/// For all packages of one build together: three as large as numpy, or many small ones.
const TIMEOUT_OF_ALL: Duration = Duration::from_secs(1800);
/// Sources, objects and the wheel of scipy have 700 MB.
const TMP: Bytes = Bytes(1 << 30);
/// The largest wheels of the index have some hundred megabytes.
const OUTPUT: Bytes = Bytes(256 << 20);
/// make starts one process for each source it compiles, and each of those three.
const PIDS: u32 = 256;
/// A compiler's optimiser on one large source takes a gigabyte.
const MEMORY: Bytes = Bytes(4 << 30);
/// What a build says is kept for its end alone; one that says more is shown the end of this much.
const SAID: Bytes = Bytes(16 << 20);
/// Of that, what an error shows.
const SHOWN_LINES: usize = 30;
const SHOWN_CHARACTERS: usize = 4000;
/// The list of build requirements: the longest honest ones have a kilobyte.
const MAX_REQUIRES: u64 = 64 << 10;
/// Where the script leaves it.
const REQUIRES: &str = "requires.json";
/// The first moment a zip archive can name.
const EPOCH: &str = "315532800";

/// What a run of the script came to.
pub(super) enum Answer {
    /// It needs these to be installed.
    Needs(Vec<String>),
    /// Name and bytes.
    Wheel(String, Vec<u8>),
}

/// What is left of the time for the packages of one build.
#[derive(Debug)]
pub(super) struct TimeLeft(Cell<Duration>);

impl Default for TimeLeft {
    fn default() -> Self {
        Self(Cell::new(TIMEOUT_OF_ALL))
    }
}

impl TimeLeft {
    /// How long the next run may take.
    fn of_one(&self) -> Duration {
        TIMEOUT.min(self.0.get())
    }

    /// What a run took is no longer there for others.
    fn spend(&self, took: Duration) {
        self.0.set(self.0.get().saturating_sub(took));
    }
}

/// Runs the script with `python` of the tree `lowers` (top first); the archive of `sdist` lies in `input`. Without
/// `requires` it only says what the package itself asks for. `allow_degraded` goes without saying for memory and cpu.
pub(super) fn build(
    sdist: &LockedSdist,
    python: &str,
    lowers: Vec<PathBuf>,
    input: &Path,
    requires: Option<&[String]>,
    allow_degraded: &BTreeSet<Promise>,
    time: &TimeLeft,
) -> Result<Answer, SdistError> {
    // -s -P: nothing but the layers is searched for modules; not -I, which would drop the hash seed.
    let script = [
        python,
        "-s",
        "-P",
        "-B",
        "-X",
        "utf8",
        "-c",
        BUILD_WHEEL,
        &sdist.file_name,
    ];
    let mut argv: Vec<String> = script.map(str::to_owned).to_vec();
    argv.extend(requires.map(|requires| serde_json::json!(requires).to_string()));
    let confinement = confinement(time.of_one(), allow_degraded);
    let bundle = Bundle {
        input: Some(input.to_owned()),
        ..Bundle::of_build(Purpose::PackageBuild, lowers, argv, &ENVIRONMENT, confinement)
    };
    let began = Instant::now();
    let finished = sandbox::run(&bundle, Sink::Capture);
    time.spend(began.elapsed());
    let finished = finished.map_err(|source| SdistError::Sandbox {
        package: sdist.title(),
        source,
    })?;
    take(sdist, &finished, bundle.confinement.timeout)
}

/// Every build gets this environment, so that it never makes a difference to the bytes.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("PATH", "/opt/py/bin:/usr/local/bin:/usr/bin:/bin"),
    ("HOME", "/tmp"),
    ("LANG", "C.UTF-8"),
    ("PYTHONHASHSEED", "0"),
    ("SOURCE_DATE_EPOCH", EPOCH),
];

fn confinement(timeout: Duration, allow_degraded: &BTreeSet<Promise>) -> Confinement {
    Confinement {
        memory: MEMORY,
        #[allow(clippy::cast_precision_loss, reason = "a handful of processors")]
        cpus: std::thread::available_parallelism().map_or(1, usize::from) as f64,
        pids: PIDS,
        timeout,
        tmp_size: TMP,
        output_size: OUTPUT,
        output_limit: SAID,
        // As for bytecode: a build is refused for no lack of a cgroup; time, processes and disk are exact.
        // But root has no limit on processes without one (`processes_level`), and here strangers' code runs: refused.
        allow_degraded: allow_degraded | &[Promise::Memory, Promise::Cpu].into(),
        ..Confinement::default()
    }
}

/// Reads what a finished run left: a list of requirements, or one wheel, and nothing else.
fn take(sdist: &LockedSdist, finished: &Finished, timeout: Duration) -> Result<Answer, SdistError> {
    let package = sdist.title();
    if finished.end != End::Exited(0) {
        return Err(SdistError::Failed {
            package,
            end: describe(finished.end, timeout),
            output: tail(&[&*finished.stdout, &*finished.stderr].concat(), finished.truncated),
        });
    }
    let fail = |reason: String| SdistError::Result {
        package: package.clone(),
        reason,
    };
    let output = finished
        .output
        .as_ref()
        .ok_or_else(|| fail("it left nothing".to_owned()))?;
    let limits = CollectLimits {
        entries: 2,
        bytes: OUTPUT.0,
        depth: 1,
    };
    let mut left = Vec::new();
    let collected = collect(output.as_fd(), limits, &mut |path, collected| {
        let mut contents = Vec::new();
        if let Collected::File { file, size } = collected {
            file.take(size).read_to_end(&mut contents)?;
        }
        left.push((path.to_owned(), contents));
        Ok(())
    });
    collected.map_err(|source| SdistError::Collect {
        package: package.clone(),
        source,
    })?;
    let (name, contents) = match (left.pop(), left.pop()) {
        (Some(one), None) => one,
        (None, _) => return Err(fail("it left no wheel".to_owned())),
        (Some((one, _)), Some((other, _))) => return Err(fail(format!("it left {other:?} and {one:?}"))),
    };
    if name != REQUIRES {
        return Ok(Answer::Wheel(name, contents));
    }
    let requires = (contents.len() as u64 <= MAX_REQUIRES).then(|| serde_json::from_slice(&contents).ok());
    let requires = requires
        .flatten()
        .ok_or_else(|| fail("its build requirements are no list of texts".to_owned()))?;
    Ok(Answer::Needs(requires))
}

fn describe(end: End, timeout: Duration) -> String {
    match end {
        End::Exited(code) => format!("it ended with exit code {code}"),
        End::NotExecuted { errno, .. } => {
            format!(
                "its Python cannot be executed: {}",
                std::io::Error::from_raw_os_error(errno)
            )
        }
        End::Signaled(signal) => format!("it was ended by {}", signal::describe(signal)),
        End::Stopped(signal) => format!("it was ended by signal {signal}"),
        End::KilledFromOutside => "it was killed from outside".to_owned(),
        End::TimedOut if timeout < TIMEOUT => {
            let minutes = TIMEOUT_OF_ALL.as_secs() / 60;
            format!("with it, the packages of this build without a wheel took longer than {minutes} minutes")
        }
        End::TimedOut => format!("it took longer than {} minutes", TIMEOUT.as_secs() / 60),
        End::Oom => format!("it took more than {MEMORY} of memory"),
        End::TooMuchInput => "it was given too much input".to_owned(),
        End::TooMuchOutput(_) => "it wrote too much output".to_owned(),
    }
}

/// The last lines of what a build said.
fn tail(said: &[u8], truncated: bool) -> String {
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let shown = lines
        .get(lines.len().saturating_sub(SHOWN_LINES)..)
        .unwrap_or_default()
        .join("\n");
    let characters = shown.chars().count();
    let mut shown: String = shown
        .chars()
        .skip(characters.saturating_sub(SHOWN_CHARACTERS))
        .collect();
    if truncated {
        shown.push_str(&format!("\n(what it said after {SAID} is not kept)"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_accepts_goes_beyond_memory_and_cpu() {
        let accepted = confinement(TIMEOUT, &[Promise::Landlock].into()).allow_degraded;
        assert_eq!(accepted, [Promise::Landlock, Promise::Memory, Promise::Cpu].into());
    }

    #[test]
    fn the_packages_of_a_build_share_their_time() {
        let time = TimeLeft::default();
        for _ in 0..3 {
            assert_eq!(time.of_one(), TIMEOUT);
            time.spend(TIMEOUT - Duration::from_secs(1));
        }
        assert_eq!(time.of_one(), Duration::from_secs(3));
        let end = describe(End::TimedOut, time.of_one());
        assert!(end.contains("30 minutes"), "{end}");
        assert!(describe(End::TimedOut, TIMEOUT).contains("10 minutes"));
        time.spend(TIMEOUT);
        assert_eq!(time.of_one(), Duration::ZERO, "the next one ends as it begins");
    }

    #[test]
    fn the_end_of_what_a_build_said_is_bounded() {
        let long: String = (0..1000).map(|number| format!("line {number}\n")).collect();
        let shown = tail(long.as_bytes(), false);
        assert_eq!(shown.lines().count(), SHOWN_LINES);
        assert!(shown.ends_with("line 999"), "{shown}");
        assert_eq!(tail("x".repeat(100_000).as_bytes(), false).len(), SHOWN_CHARACTERS);
        assert!(tail(b"a", true).contains("not kept"));
        assert_eq!(tail(b"", false), "");
    }
}
