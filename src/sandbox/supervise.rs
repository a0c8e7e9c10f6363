//! gantry's side of a run: start the init, hand it its orders, drain the pipes, keep the time, wait for the end.
//!
//! Synchronous and single-threaded: one `poll` over two pipes, the control socket, the init's pidfd and a signal pipe.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{fcntl_setfl, OFlags};
use rustix::pipe::{pipe_with, PipeFlags};
use rustix::process::{pidfd_send_signal, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::bundle::{Bundle, End, Finished, SandboxError, Sink, Times, Usage};
use super::init;
use super::wire::{self, Frame, Inbox, Orders, Report};
use super::workload;
use crate::policy::{Level, Promise};
use crate::sys::process::{self, Init, SETUP_STEPS};

/// One read of a pipe: its default capacity.
const CHUNK: usize = 64 << 10;
/// The kernel's limit on layers of an overlay.
const MAX_LOWERS: usize = 500;

/// Runs `bundle` to its end. When it returns, no process, mount or file of the run exists.
///
/// With [`Sink::Inherit`], SIGINT, SIGTERM and SIGHUP end the run while it lasts.
pub fn run(bundle: &Bundle, sink: Sink) -> Result<Finished, SandboxError> {
    check(bundle)?;
    let started = Instant::now();
    let signals = Signals::watch(sink)?;
    let mut run = Run::start(bundle, sink, started)?;
    let result = run.orders(bundle).and_then(|()| run.supervise(&signals));
    // Whatever happened, the init is dead and gone before we return.
    let ended = run.end()?;
    result?;
    run.finish(ended)
}

fn check(bundle: &Bundle) -> Result<(), SandboxError> {
    let bad = |reason| Err(SandboxError::Bundle { reason });
    if bundle.lowers.len() < 2 {
        return bad("it has no layers");
    }
    if bundle.lowers.len() > MAX_LOWERS {
        return bad("it has over 500 layers");
    }
    if bundle
        .lowers
        .iter()
        .any(|lower| lower.to_str().is_none_or(|lower| lower.len() > 255))
    {
        return bad("the path of a layer is not UTF-8 or over 255 bytes");
    }
    if bundle.argv.is_empty() {
        return bad("it has no command");
    }
    Ok(())
}

/// Asks to be told of the signals that end a run.
struct Signals {
    pipe: Option<UnixStream>,
    ids: Vec<signal_hook::SigId>,
}

impl Signals {
    fn watch(sink: Sink) -> Result<Self, SandboxError> {
        let mut signals = Self {
            pipe: None,
            ids: Vec::new(),
        };
        if sink == Sink::Capture {
            return Ok(signals);
        }
        let io_error = io("watch for signals");
        let (read, write) = UnixStream::pair().map_err(&io_error)?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let end = write.try_clone().map_err(&io_error)?;
            // The number itself is written: `write` of one byte is all a handler may do.
            let number = u8::try_from(signal).unwrap_or(0);
            let id = register(signal, move || drop((&end).write(&[number]))).map_err(&io_error)?;
            signals.ids.push(id);
        }
        read.set_nonblocking(true).map_err(&io_error)?;
        signals.pipe = Some(read);
        Ok(signals)
    }

    fn take(&self) -> Option<i32> {
        let mut number = [0u8];
        let read = self.pipe.as_ref()?.read(&mut number).ok()?;
        (read == 1).then(|| i32::from(number[0]))
    }
}

/// [`signal_hook::low_level::register`] behind its safe face: the action writes one byte to a socket, which is allowed
/// in a handler.
fn register(signal: i32, action: impl Fn() + Send + Sync + 'static) -> io::Result<signal_hook::SigId> {
    crate::sys::process::on_signal(signal, action)
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}

/// A stream of the workload on its way to somewhere.
struct Stream {
    pipe: Option<File>,
    to: To,
    limit: u64,
    bytes: u64,
}

enum To {
    Stdout,
    Stderr,
    Memory(Vec<u8>),
    /// Our own stream is closed: drain on, so that the workload does not notice.
    Nowhere,
}

impl Stream {
    /// Reads once; forgets the pipe at its end.
    fn drain(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut chunk = [0u8; CHUNK];
        match pipe.read(&mut chunk) {
            Ok(0) => self.pipe = None,
            Ok(count) => {
                let room = usize::try_from(self.limit.saturating_sub(self.bytes)).unwrap_or(usize::MAX);
                self.bytes += count as u64;
                self.pass_on(chunk.get(..count.min(room)).unwrap_or_default());
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.pipe = None,
        }
    }

    fn pass_on(&mut self, bytes: &[u8]) {
        let passed = match &mut self.to {
            To::Stdout => io::stdout().write_all(bytes).and_then(|()| io::stdout().flush()),
            To::Stderr => io::stderr().write_all(bytes),
            To::Memory(memory) => {
                memory.extend(bytes);
                Ok(())
            }
            To::Nowhere => Ok(()),
        };
        if passed.is_err() {
            self.to = To::Nowhere;
        }
    }

    fn into_memory(self) -> Vec<u8> {
        match self.to {
            To::Memory(memory) => memory,
            _ => Vec::new(),
        }
    }
}

struct Run {
    child: process::Child,
    control: UnixStream,
    inbox: Inbox,
    stdout: Stream,
    stderr: Stream,
    timeout: Duration,
    clock: Clock,
    levels: BTreeMap<Promise, Level>,
    output: Option<OwnedFd>,
    end: Option<End>,
}

/// When what happened.
struct Clock {
    begun: Instant,
    mounted: Option<Instant>,
    started: Option<Instant>,
    ended: Option<Instant>,
}

impl Run {
    fn start(bundle: &Bundle, sink: Sink, begun: Instant) -> Result<Self, SandboxError> {
        let executable = File::open("/proc/self/exe").map_err(io("open our own binary"))?;
        let (control, init_control) = UnixStream::pair().map_err(io("make the control socket"))?;
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|errno| io("make a pipe")(errno.into()));
        let ((stdin, _), (stdout, stdout_end), (stderr, stderr_end)) = (pipe()?, pipe()?, pipe()?);
        let map = |id: u32| format!("1000 {id} 1").into_bytes();
        let child = process::spawn_init(&Init {
            executable: executable.as_fd(),
            name: init::NAME,
            stdio: [stdin.as_fd(), stdout_end.as_fd(), stderr_end.as_fd()],
            control: init_control.as_fd(),
            uid_map: &map(rustix::process::geteuid().as_raw()),
            gid_map: &map(rustix::process::getegid().as_raw()),
            cgroup: None,
        });
        let child = child.map_err(|source| SandboxError::UserNamespace {
            step: "clone into new namespaces",
            source,
        })?;
        let limit = bundle.confinement.output_limit.0;
        let stream = |pipe: OwnedFd, to: To| Stream {
            pipe: Some(File::from(pipe)),
            to,
            limit,
            bytes: 0,
        };
        for pipe in [&stdout, &stderr] {
            fcntl_setfl(pipe, OFlags::NONBLOCK).map_err(|errno| io("set up a pipe")(errno.into()))?;
        }
        let (out, err) = match sink {
            Sink::Inherit => (To::Stdout, To::Stderr),
            Sink::Capture => (To::Memory(Vec::new()), To::Memory(Vec::new())),
        };
        Ok(Self {
            child,
            control,
            inbox: Inbox::default(),
            stdout: stream(stdout, out),
            stderr: stream(stderr, err),
            timeout: bundle.confinement.timeout,
            clock: Clock {
                begun,
                mounted: None,
                started: None,
                ended: None,
            },
            levels: BTreeMap::new(),
            output: None,
            end: None,
        })
    }

    fn orders(&mut self, bundle: &Bundle) -> Result<(), SandboxError> {
        let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
        let confinement = &bundle.confinement;
        let orders = Orders {
            lowers: once_each(bundle.lowers.iter().map(|lower| path(lower))),
            argv: bundle.argv.clone(),
            env: bundle.env.clone(),
            cwd: bundle.cwd.clone(),
            hostname: bundle.hostname.clone(),
            input: bundle.input.as_deref().map(path),
            secrets: bundle.secrets.iter().map(|(name, _)| name.clone()).collect(),
            tmp_bytes: confinement.tmp_size.0,
            output_bytes: confinement.output_size.0,
            pids: confinement.pids,
            timeout_ms: u64::try_from(confinement.timeout.as_millis()).unwrap_or(u64::MAX),
            given: given(),
            allow_degraded: confinement.allow_degraded.iter().copied().collect(),
        };
        let sent = wire::send(&mut self.control, &orders).and_then(|()| {
            bundle
                .secrets
                .iter()
                .try_for_each(|(_, value)| wire::send_secret(&mut self.control, value))
        });
        // A broken pipe means that the init has said why it ended; that is read next and is the better answer.
        match sent {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(io("send orders")(error)),
            _ => Ok(()),
        }
    }

    /// Until the init has said its last word, or time or a signal makes us end it.
    fn supervise(&mut self, signals: &Signals) -> Result<(), SandboxError> {
        while self.end.is_none() {
            let deadline = self.clock.started.map(|started| started + self.timeout);
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                self.stop(End::TimedOut);
                break;
            }
            self.wait_for_events(signals, left)?;
            if let Some(signal) = signals.take() {
                self.stop(End::Killed(signal));
            }
        }
        Ok(())
    }

    fn wait_for_events(&mut self, signals: &Signals, left: Option<Duration>) -> Result<(), SandboxError> {
        let mut events = vec![PollFd::new(&self.control, PollFlags::IN)];
        let streams = [&self.stdout.pipe, &self.stderr.pipe];
        let others = streams
            .into_iter()
            .flatten()
            .map(|pipe| pipe.as_fd())
            .chain(signals.pipe.as_ref().map(|pipe| pipe.as_fd()));
        events.extend(others.map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN)));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut events, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(io("wait for the sandbox")(errno.into())),
        }
        let spoke = events.first().is_some_and(|control| !control.revents().is_empty());
        self.stdout.drain();
        self.stderr.drain();
        if spoke {
            self.inbox.fill(self.control.as_fd()).map_err(io("hear the init"))?;
            while let Some(frame) = self.inbox.next().map_err(io("hear the init"))? {
                self.hear(frame)?;
            }
        }
        Ok(())
    }

    fn hear(&mut self, frame: Frame) -> Result<(), SandboxError> {
        let report = match frame {
            Frame::Json(json) => {
                serde_json::from_slice(&json).map_err(|error| io("understand the init")(error.into()))?
            }
            Frame::SetupFailed(step, errno) => return Err(setup_failed(step, errno)),
            Frame::Secret(_) => return Err(io("understand the init")(io::ErrorKind::InvalidData.into())),
            Frame::End => {
                // Without a last word: killed from outside.
                self.end.get_or_insert(End::Killed(Signal::KILL.as_raw()));
                return Ok(());
            }
        };
        let now = Instant::now();
        match report {
            Report::Mounted => {
                self.clock.mounted = Some(now);
                self.output = self.inbox.take_descriptor();
            }
            Report::Restricted(levels) => self.levels = levels,
            Report::Refused(levels, lost) => return Err(SandboxError::Refused { levels, lost }),
            Report::Failed(reason) => return Err(SandboxError::Setup { reason }),
            Report::Started => self.clock.started = Some(now),
            Report::NotStarted(errno) => {
                self.clock.started = Some(now);
                self.stop(End::Exited(workload::code_of(errno)));
            }
            Report::Exited(code) => self.stop(End::Exited(code)),
            Report::Signaled(signal) => self.stop(End::Signaled(signal)),
            Report::TimedOut => self.stop(End::TimedOut),
        }
        Ok(())
    }

    /// The first end that is known is the one that counts.
    fn stop(&mut self, end: End) {
        self.clock.ended.get_or_insert_with(Instant::now);
        self.end.get_or_insert(end);
    }

    /// Ends the init, and with it every process in its namespace, and waits until it is gone.
    fn end(&mut self) -> Result<process::Ended, SandboxError> {
        // Not for one that has said its last word: it exits by itself, and a kill would only race with that.
        let _ = pidfd_send_signal(&self.child.pidfd, Signal::KILL);
        let ended = process::wait(self.child.pid).map_err(io("wait for the init"))?;
        for stream in [&mut self.stdout, &mut self.stderr] {
            // Everyone who could write is dead: what is in the pipe is all there is.
            while stream.pipe.is_some() {
                stream.drain();
            }
        }
        Ok(ended)
    }

    fn finish(self, ended: process::Ended) -> Result<Finished, SandboxError> {
        let Clock {
            begun,
            mounted,
            started,
            ended: stopped,
        } = self.clock;
        let (Some(mounted), Some(started)) = (mounted, started) else {
            if let Some(End::Killed(signal)) = self.end.filter(|_| ended.code.is_none()) {
                if signal != Signal::KILL.as_raw() {
                    return Ok(Finished {
                        end: End::Killed(signal),
                        ..Finished::nothing()
                    });
                }
            }
            return Err(SandboxError::InitDied { code: ended.code });
        };
        let stopped = stopped.unwrap_or_else(Instant::now);
        let truncated = [&self.stdout, &self.stderr]
            .iter()
            .any(|stream| stream.bytes > stream.limit);
        Ok(Finished {
            end: self.end.unwrap_or(End::Killed(Signal::KILL.as_raw())),
            usage: Usage {
                cpu_ms: u64::try_from(ended.cpu.as_millis()).unwrap_or(u64::MAX),
                memory_peak_bytes: Some(ended.largest_resident),
                pids_peak: None,
            },
            stdout_bytes: self.stdout.bytes,
            stderr_bytes: self.stderr.bytes,
            stdout: self.stdout.into_memory(),
            stderr: self.stderr.into_memory(),
            truncated,
            enforced: self.levels,
            output: self.output,
            times: Times {
                prepare: mounted - begun,
                start: started - mounted,
                run: stopped - started,
                teardown: stopped.elapsed(),
            },
        })
    }
}

impl Finished {
    /// A run that was stopped before its workload began.
    fn nothing() -> Self {
        Self {
            end: End::Killed(0),
            usage: Usage::default(),
            stdout: Vec::new(),
            stderr: Vec::new(),
            stdout_bytes: 0,
            stderr_bytes: 0,
            truncated: false,
            enforced: BTreeMap::new(),
            output: None,
            times: Times::default(),
        }
    }
}

/// An image may name a layer twice, overlayfs may not. The upper one hides all that the lower one brings.
fn once_each(lowers: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    lowers.filter(|lower| seen.insert(lower.clone())).collect()
}

/// The levels of promises that are kept, or not, from outside the sandbox.
fn given() -> BTreeMap<Promise, (Level, String)> {
    let absent = |what: &str| {
        (
            Level::Absent,
            format!("{what} needs a delegated cgroup, which this version does not use"),
        )
    };
    let enforced = (Level::Enforced, String::new());
    BTreeMap::from([
        (Promise::Memory, absent("a memory limit")),
        (Promise::Cpu, absent("a cpu limit")),
        // By RLIMIT_NPROC, set and inherited in the workload, counted per user namespace.
        (Promise::Processes, enforced.clone()),
        (Promise::Time, enforced.clone()),
        (Promise::OutputSize, enforced.clone()),
        (Promise::Death, enforced),
    ])
}

fn setup_failed(step: u8, errno: i32) -> SandboxError {
    let source = io::Error::from_raw_os_error(errno);
    let name = SETUP_STEPS.get(usize::from(step)).copied().unwrap_or("set itself up");
    match step {
        0 => SandboxError::UserNamespace { step: name, source },
        _ => SandboxError::Setup {
            reason: format!("{name}: {source}"),
        },
    }
}

fn io(action: &'static str) -> impl Fn(io::Error) -> SandboxError {
    move |source| SandboxError::Io { action, source }
}
