//! The one way to run a program of this machine: `uv`, `pip`, `gpgv`.
//!
//! A program gets a deadline, standard input from nowhere or a few bytes that it is given, output up to a limit, and an environment of exactly what it is
//! given. It cannot gain privileges and has no descriptor of ours. When it has ended, at its deadline or by itself,
//! nothing that it started is left; when gantry ends, by a signal or by SIGKILL, the program and all that it started end
//! too ([`keeper`] says how). [`end_all`] ends all of them before gantry itself ends.
//!
//! These programs do not run in the sandbox. They are programs of this machine, made for its libraries, its certificates,
//! its name servers and its configuration, and the sandbox shows nothing of this machine. uv and pip are what gantry
//! reaches a package index with, so they need the network; they are run so that they execute nothing that they find.
//! Whatever executes a stranger's code runs in the sandbox and not here.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{memfd_create, MemfdFlags};
use rustix::pipe::{pipe_with, PipeFlags};
use rustix::process::{pidfd_open, Pid, PidfdFlags};

use super::keeper;

/// What one stream may hold unless another limit is set. `pip -vv` and the longest locks of uv have some hundred
/// kilobytes.
const OUTPUT: usize = 16 << 20;
/// How long [`end_all`] waits for programs to be gone. Killing takes milliseconds; a program that a disk holds in the
/// kernel does not keep gantry from ending.
const GONE: Duration = Duration::from_secs(1);

/// A program about to be run.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    command: Command,
    deadline: Duration,
    limit: usize,
    input: Vec<u8>,
}

/// Why a program gave no result.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It could not be started; the source says whether it exists.
    #[error("run {program}")]
    Start {
        /// Its name or path.
        program: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It ran longer than it may, and was killed.
    #[error("run {program}: it has not ended after {} seconds", deadline.as_secs_f32())]
    Deadline {
        /// Its name or path.
        program: String,
        /// How long it might run.
        deadline: Duration,
        /// What it had written to standard error.
        said: Vec<u8>,
    },
    /// It wrote more than it may, and was killed.
    #[error("run {program}: it writes more than {limit} bytes to standard {stream}")]
    Output {
        /// Its name or path.
        program: String,
        /// `output` or `error`.
        stream: &'static str,
        /// The limit of that stream.
        limit: usize,
    },
    /// gantry is about to end, and has ended its programs.
    #[error("run {program}: gantry is ending")]
    Ending {
        /// Its name or path.
        program: String,
    },
    /// Its output could not be read, or its end not be waited for.
    #[error("wait for {program}")]
    Wait {
        /// Its name or path.
        program: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Program {
    /// The program at the path `program`, or of that name on the `PATH` of the environment it is given. It may run for
    /// `deadline`.
    pub(crate) fn new(program: impl AsRef<OsStr>, deadline: Duration) -> Self {
        let mut command = Command::new(program.as_ref());
        command.env_clear();
        Self {
            name: Path::new(program.as_ref()).display().to_string(),
            command,
            deadline,
            limit: OUTPUT,
            input: Vec::new(),
        }
    }

    /// Like [`new`](Self::new), but with the environment of gantry: for a tool that the user has set up by variables whose
    /// names gantry cannot know.
    pub(crate) fn with_our_environment(program: impl AsRef<OsStr>, deadline: Duration) -> Self {
        let command = Command::new(program.as_ref());
        Self {
            command,
            ..Self::new(program, deadline)
        }
    }

    /// Adds an argument.
    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    pub(crate) fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Adds a variable to its environment.
    pub(crate) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Adds variables to its environment.
    pub(crate) fn envs<N: AsRef<OsStr>, V: AsRef<OsStr>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        self.command.envs(variables);
        self
    }

    /// Starts it in `directory`.
    pub(crate) fn current_dir(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Lets each of its two output streams hold `bytes` at most.
    pub(crate) fn output_limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// Gives it `bytes` on its standard input; without it there is nothing.
    pub(crate) fn input(mut self, bytes: &[u8]) -> Self {
        self.input = bytes.to_vec();
        self
    }

    /// Runs it and waits until it and everything it has started is gone. How it ended is in the result; an exit code
    /// other than 0 is no error.
    ///
    /// # Errors
    ///
    /// [`ProgramError`] names the program and says what kept it from ending by itself.
    pub(crate) fn run(mut self) -> Result<Output, ProgramError> {
        let started = Instant::now();
        let running = match self.start() {
            Ok(running) => running,
            Err(Failed::Ending) => return Err(ProgramError::Ending { program: self.name }),
            Err(Failed::Io(source)) => {
                let program = self.name;
                return Err(ProgramError::Start { program, source });
            }
        };
        let read = running.read(started, self.deadline, self.limit);
        if ENDING.load(Ordering::SeqCst) {
            return Err(ProgramError::Ending { program: self.name });
        }
        let program = self.name;
        match read {
            Ok(Reading::Ended(output)) => Ok(output),
            Ok(Reading::Late { said }) => Err(ProgramError::Deadline {
                program,
                deadline: self.deadline,
                said,
            }),
            Ok(Reading::TooMuch { stream }) => Err(ProgramError::Output {
                program,
                stream,
                limit: self.limit,
            }),
            Err(source) => Err(ProgramError::Wait { program, source }),
        }
    }

    fn start(&mut self) -> Result<Running, Failed> {
        let (watched, lifeline) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
        keeper::put_between(&mut self.command, watched);
        let input = match self.input.is_empty() {
            true => Stdio::null(),
            false => {
                // A file in memory takes all of it before anybody reads; how much a pipe takes depends on the user's others.
                let file = memfd_create("gantry-input", MemfdFlags::CLOEXEC).map_err(io::Error::from)?;
                let mut file = File::from(file);
                file.write_all(&self.input)?;
                file.rewind()?;
                Stdio::from(file)
            }
        };
        self.command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Listed under one lock with the start: either `end_all` finds the program, or it is not started.
        let mut live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
        if ENDING.load(Ordering::SeqCst) {
            return Err(Failed::Ending);
        }
        let keeper = self.command.spawn()?;
        let end = Pid::from_raw(i32::try_from(keeper.id()).unwrap_or(0)).ok_or(io::ErrorKind::NotFound)?;
        let end = pidfd_open(end, PidfdFlags::empty()).map_err(io::Error::from)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        live.push(Live {
            number,
            lifeline: Some(lifeline),
            end: end.try_clone()?,
        });
        Ok(Running { number, keeper, end })
    }
}

/// Ends every program that runs, and those that would start from now on: gantry itself is about to end. Returns when they
/// are gone, or after a second.
pub(crate) fn end_all() {
    let deadline = Instant::now() + GONE;
    ENDING.store(true, Ordering::SeqCst);
    let mut live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
    for program in live.iter_mut() {
        program.lifeline = None;
    }
    for program in live.iter() {
        let left = deadline.saturating_duration_since(Instant::now());
        let _ = wait_for(&mut [PollFd::new(&program.end, PollFlags::IN)], left);
    }
}

/// Whether gantry is about to end.
static ENDING: AtomicBool = AtomicBool::new(false);
static NEXT: AtomicU64 = AtomicU64::new(0);
/// The programs that run.
static LIVE: Mutex<Vec<Live>> = Mutex::new(Vec::new());

/// A program that runs, for [`end_all`].
struct Live {
    number: u64,
    /// Closed to end the program.
    lifeline: Option<OwnedFd>,
    /// The keeper's pidfd.
    end: OwnedFd,
}

enum Failed {
    Ending,
    Io(io::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<io::ErrorKind> for Failed {
    fn from(kind: io::ErrorKind) -> Self {
        Self::Io(kind.into())
    }
}

/// A program that runs; dropping it ends the program.
struct Running {
    number: u64,
    keeper: Child,
    end: OwnedFd,
}

/// What reading a program's output came to.
enum Reading {
    Ended(Output),
    Late { said: Vec<u8> },
    TooMuch { stream: &'static str },
}

impl Running {
    fn read(mut self, started: Instant, deadline: Duration, limit: usize) -> io::Result<Reading> {
        let mut streams = [
            Stream::new("output", self.keeper.stdout.take().map(OwnedFd::from))?,
            Stream::new("error", self.keeper.stderr.take().map(OwnedFd::from))?,
        ];
        loop {
            let left = deadline.saturating_sub(started.elapsed());
            let mut events = vec![PollFd::new(&self.end, PollFlags::IN)];
            let open = streams.iter().filter_map(|stream| stream.file.as_ref());
            events.extend(open.map(|file| PollFd::new(file, PollFlags::IN)));
            wait_for(&mut events, left)?;
            let is_over = events.first().is_some_and(|end| !end.revents().is_empty());
            for stream in &mut streams {
                if !stream.read(limit)? {
                    let stream = stream.name;
                    return Ok(Reading::TooMuch { stream });
                }
            }
            let [output, error] = &mut streams;
            if is_over {
                // Everything that could write is gone, and what it wrote was read just now.
                let (stdout, stderr) = (std::mem::take(&mut output.bytes), std::mem::take(&mut error.bytes));
                let status = self.wait()?;
                return Ok(Reading::Ended(Output { status, stdout, stderr }));
            }
            if left.is_zero() {
                let said = std::mem::take(&mut error.bytes);
                return Ok(Reading::Late { said });
            }
        }
    }

    fn wait(&mut self) -> io::Result<ExitStatus> {
        self.keeper.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // First the lifeline, then the wait: the keeper ends when it has ended the program.
        let mut live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|program| program.number != self.number);
        drop(live);
        let _ = self.keeper.wait();
    }
}

/// One output stream of a program.
struct Stream {
    name: &'static str,
    /// None once its end was read.
    file: Option<File>,
    bytes: Vec<u8>,
}

impl Stream {
    fn new(name: &'static str, file: Option<OwnedFd>) -> io::Result<Self> {
        if let Some(file) = &file {
            rustix::io::ioctl_fionbio(file.as_fd(), true)?;
        }
        Ok(Self {
            name,
            file: file.map(File::from),
            bytes: Vec::new(),
        })
    }

    /// Reads what is there; whether it is within `limit` altogether.
    fn read(&mut self, limit: usize) -> io::Result<bool> {
        let Some(file) = &mut self.file else { return Ok(true) };
        let left = limit.saturating_add(1).saturating_sub(self.bytes.len());
        match file.take(left as u64).read_to_end(&mut self.bytes) {
            Ok(_) if self.bytes.len() > limit => return Ok(false),
            Ok(_) => self.file = None,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(self.bytes.len() <= limit)
    }
}

/// Waits until one of `events` happens, for `patience` at most.
fn wait_for(events: &mut [PollFd<'_>], patience: Duration) -> io::Result<()> {
    let patience = Timespec::try_from(patience).ok();
    match poll(events, patience.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests;
