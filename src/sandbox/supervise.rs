//! gantry's side of a run: start the init, hand it its orders, drain the pipes, keep the time, wait for the end.
//!
//! Synchronous and single-threaded: one `poll` over two pipes, the control socket and a signal pipe.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{fcntl_setfl, OFlags};
use rustix::pipe::{pipe_with, PipeFlags};
use rustix::process::{pidfd_send_signal, setrlimit, Resource, Rlimit, Signal};

use super::bundle::{Bundle, End, Finished, SandboxError, Sink, Times, Usage};
use super::cgroup::{Cgroup, Spent, Subtree};
use super::egress::{self, OpenDoors};
use super::init;
use super::signals::Signals;
use super::stream::{Stream, To};
use super::watch::{Seen, Watch};
use super::wire::{self, Frame, Inbox, Orders, Report};
use super::workload;
use crate::policy::{Level, Promise};
use crate::sys::process::{self, Init, SETUP_STEPS};

/// The kernel's limit on layers of an overlay.
const MAX_LOWERS: usize = 500;
/// Signals closer together than a person's second Ctrl-C are one.
const ONE_WISH: Duration = Duration::from_millis(300);

/// Runs `bundle` to its end. When it returns, no process, mount or file of the run exists.
///
/// With [`Sink::Inherit`], its signals end the run.
pub fn run(bundle: &Bundle, sink: Sink<'_>) -> Result<Finished, SandboxError> {
    run_with_doors(bundle, sink, &mut |_| Err(io::ErrorKind::Unsupported.into()))
}

/// Runs `bundle`, which has egress, as [`run`] does; `open` is called once with its doors. What it makes of them is the
/// caller's to end after the run.
pub fn run_with_doors(bundle: &Bundle, sink: Sink<'_>, open: OpenDoors<'_>) -> Result<Finished, SandboxError> {
    check(bundle)?;
    if !bundle.secrets.is_empty() {
        keep_from_dumps().map_err(io("keep secrets from memory dumps"))?;
    }
    let started = Instant::now();
    let ignored = Signals::ignored();
    let signals = match sink {
        Sink::Inherit(signals) => signals,
        Sink::Capture => &ignored,
    };
    let mut run = Run::start(bundle, sink, started)?;
    let result = run.orders(bundle).and_then(|()| run.supervise(signals, bundle, open));
    // Whatever happened, the init is dead and gone before we return, and so is the cgroup.
    let ended = run.end(signals)?;
    let spent = run.cgroup.take().map(Cgroup::finish);
    if spent.is_some_and(|spent| spent.oom)
        && matches!(
            run.end,
            None | Some(End::Stopped(_) | End::KilledFromOutside | End::Signaled(_))
        )
    {
        run.end = Some(End::Oom);
    } else {
        result?;
    }
    run.finish(ended, spent)
}

/// A crash of ours must not leave secrets in a core file; 1 also keeps programs in core_pattern from being started.
fn keep_from_dumps() -> io::Result<()> {
    let maximum = rustix::process::getrlimit(Resource::Core).maximum;
    let current = Some(maximum.unwrap_or(1).min(1));
    Ok(setrlimit(Resource::Core, Rlimit { current, maximum })?)
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

struct Run {
    child: process::Child,
    cgroup: Option<Cgroup>,
    /// Why there is no cgroup.
    unlimited: Option<String>,
    control: UnixStream,
    inbox: Inbox,
    stdout: Stream,
    stderr: Stream,
    timeout: Duration,
    grace: Duration,
    /// What the run ends as once it has been asked to end, and when that is over.
    asked: Option<Asked>,
    /// Of memory, where only we look.
    watch: Option<Watch>,
    clock: Clock,
    levels: BTreeMap<Promise, Level>,
    output: Option<OwnedFd>,
    /// Of the egress, on their way from the init to the caller.
    listeners: Vec<OwnedFd>,
    end: Option<End>,
}

/// A workload that has been asked to end.
#[derive(Debug, Clone, Copy)]
struct Asked {
    end: End,
    /// A further signal this soon after is the same wish.
    again: Instant,
    /// When it is over.
    until: Instant,
}

/// When what happened.
struct Clock {
    begun: Instant,
    mounted: Option<Instant>,
    started: Option<Instant>,
    ended: Option<Instant>,
}

impl Run {
    fn start(bundle: &Bundle, sink: Sink<'_>, begun: Instant) -> Result<Self, SandboxError> {
        // Ignored by whoever started us, it would keep us from waiting for our child.
        process::default_signal(signal_hook::consts::SIGCHLD);
        let executable = File::open("/proc/self/exe").map_err(io("open our own binary"))?;
        let (control, init_control) = UnixStream::pair().map_err(io("make the control socket"))?;
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|errno| io("make a pipe")(errno.into()));
        let ((stdin, _), (stdout, stdout_end), (stderr, stderr_end)) = (pipe()?, pipe()?, pipe()?);
        let map = |id: u32| format!("1000 {id} 1").into_bytes();
        let cgroup = Subtree::open().and_then(|subtree| {
            subtree.sweep()?;
            subtree.make(&bundle.confinement)
        });
        let (cgroup, unlimited) = match cgroup {
            Ok(cgroup) => (Some(cgroup), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let child = process::spawn_init(&Init {
            executable: executable.as_fd(),
            name: init::NAME,
            stdio: [stdin.as_fd(), stdout_end.as_fd(), stderr_end.as_fd()],
            control: init_control.as_fd(),
            uid_map: &map(rustix::process::geteuid().as_raw()),
            gid_map: &map(rustix::process::getegid().as_raw()),
            cgroup: cgroup.as_ref().map(Cgroup::directory),
        });
        let child = child.map_err(|source| SandboxError::UserNamespace {
            step: "clone into new namespaces",
            source,
        })?;
        for pipe in [&stdout, &stderr] {
            fcntl_setfl(pipe, OFlags::NONBLOCK).map_err(|errno| io("set up a pipe")(errno.into()))?;
        }
        let (out, err) = match sink {
            Sink::Inherit(_) => (To::Stdout, To::Stderr),
            Sink::Capture => (To::Memory(Vec::new()), To::Memory(Vec::new())),
        };
        let limit = bundle.confinement.output_limit.0;
        let secrets: Vec<Vec<u8>> = bundle.secrets.iter().map(|secret| secret.value.clone()).collect();
        Ok(Self {
            child,
            watch: cgroup.is_none().then(|| Watch::new(bundle.confinement.memory.0)),
            cgroup,
            unlimited,
            control,
            inbox: Inbox::default(),
            stdout: Stream::new(stdout, out, limit, &secrets),
            stderr: Stream::new(stderr, err, limit, &secrets),
            timeout: bundle.confinement.timeout,
            grace: bundle.confinement.grace,
            asked: None,
            clock: Clock {
                begun,
                mounted: None,
                started: None,
                ended: None,
            },
            levels: BTreeMap::new(),
            output: None,
            listeners: Vec::new(),
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
            secrets: bundle
                .secrets
                .iter()
                .map(|secret| (secret.name.clone(), secret.place))
                .collect(),
            purpose: bundle.purpose,
            tmp_bytes: confinement.tmp_size.0,
            output_bytes: confinement.output_size.0,
            pids: confinement.pids,
            timeout_ms: milliseconds(confinement.timeout),
            grace_ms: milliseconds(confinement.grace),
            given: self.given()?,
            allow_degraded: confinement.allow_degraded.iter().copied().collect(),
            egress: confinement.network.egress().to_vec(),
        };
        let sent = wire::send(&mut self.control, &orders).and_then(|()| {
            bundle
                .secrets
                .iter()
                .try_for_each(|secret| wire::send_secret(&mut self.control, &secret.value))
        });
        // A broken pipe means that the init has said why it ended; that is read next and is the better answer.
        match sent {
            Err(error) if !matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                Err(io("send orders")(error))
            }
            _ => Ok(()),
        }
    }

    /// The levels of promises that are kept, or not, from outside the sandbox.
    fn given(&self) -> Result<BTreeMap<Promise, (Level, String)>, SandboxError> {
        let enforced = (Level::Enforced, String::new());
        let uid_map = std::fs::read_to_string("/proc/self/uid_map").map_err(io("read our own uid_map"))?;
        let (memory, cpu) = match (&self.cgroup, &self.unlimited) {
            // The limits were read back; that the init was born under them is read back here.
            (Some(cgroup), _) => match cgroup.holds(self.child.pid) {
                Ok(true) => (enforced.clone(), enforced.clone()),
                Ok(false) => return Err(setup("the init is not in its cgroup".to_owned())),
                Err(error) => return Err(setup(error.to_string())),
            },
            (None, reason) => {
                let reason = reason.clone().unwrap_or_default();
                ((Level::Watched, reason.clone()), (Level::Absent, reason))
            }
        };
        Ok(BTreeMap::from([
            (Promise::Memory, memory),
            (Promise::Cpu, cpu),
            (
                Promise::Processes,
                processes_level(self.cgroup.is_some(), rustix::process::geteuid().as_raw(), &uid_map),
            ),
            (Promise::Time, enforced.clone()),
            (Promise::OutputSize, enforced.clone()),
            (Promise::Death, enforced),
        ]))
    }

    /// Until the init has said its last word, or time or a signal makes us end it.
    fn supervise(&mut self, signals: &Signals, bundle: &Bundle, open: OpenDoors<'_>) -> Result<(), SandboxError> {
        while self.end.is_none() {
            let deadline = match self.asked {
                Some(asked) => Some(asked.until),
                None => self.clock.started.map(|started| started + self.timeout),
            };
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                // We may have been stopped: what was said in time counts.
                self.wait_for_events(signals, Some(Duration::ZERO))?;
                if self.end.is_none() {
                    self.ask(End::TimedOut);
                }
                continue;
            }
            let looks = self.watch.as_ref().filter(|_| self.clock.started.is_some());
            let wait = [left, looks.map(Watch::due)].into_iter().flatten().min();
            self.wait_for_events(signals, wait)?;
            if !self.listeners.is_empty() {
                let passed = std::mem::take(&mut self.listeners);
                let doors = egress::doors(bundle.confinement.network.egress(), passed);
                doors.and_then(&mut *open).map_err(io("open the egress"))?;
            }
            if let Some(signal) = signals.take() {
                self.ask(End::Stopped(signal));
            }
            let watch = self
                .watch
                .as_mut()
                .filter(|_| self.clock.started.is_some() && self.end.is_none());
            if watch.is_some_and(|watch| watch.is_over(self.child.pid)) {
                self.stop(End::Oom);
            }
        }
        Ok(())
    }

    /// Asks the workload to end, when it has been granted time for that and has not used it; else it is over.
    fn ask(&mut self, end: End) {
        let now = Instant::now();
        if self.asked.is_some_and(|asked| now < asked.again && now < asked.until) {
            return;
        }
        let granted = self.asked.is_none() && !self.grace.is_zero() && self.clock.started.is_some();
        if granted && self.control.write_all(&[wire::TERMINATE]).is_ok() {
            self.asked = Some(Asked {
                end,
                again: now + ONE_WISH,
                until: now + self.grace,
            });
        } else {
            self.stop(end);
        }
    }

    fn wait_for_events(&mut self, signals: &Signals, left: Option<Duration>) -> Result<(), SandboxError> {
        let rests = [self.stdout.rest(), self.stderr.rest()];
        let left = rests.into_iter().chain([left]).flatten().min();
        let mut events = vec![PollFd::new(&self.control, PollFlags::IN)];
        events.extend([self.stdout.event(), self.stderr.event()].into_iter().flatten());
        events.extend(signals.event());
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut events, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(io("wait for the sandbox")(errno.into())),
        }
        let spoke = events.first().is_some_and(|control| !control.revents().is_empty());
        let mut ready = events.iter().skip(1).map(|event| !event.revents().is_empty());
        let mut proceed = |stream: &Stream| stream.event().is_some() && ready.next() == Some(true);
        let (stdout, stderr) = (proceed(&self.stdout), proceed(&self.stderr));
        if stdout {
            self.stdout.proceed();
        }
        if stderr {
            self.stderr.proceed();
        }
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
                self.end.get_or_insert(End::KilledFromOutside);
                return Ok(());
            }
        };
        let now = Instant::now();
        match report {
            Report::Mounted => {
                self.clock.mounted = Some(now);
                let mut descriptors = self.inbox.take_descriptors().into_iter();
                self.output = descriptors.next();
                self.listeners = descriptors.collect();
            }
            Report::Restricted(levels) => self.levels = levels,
            Report::Refused(levels, lost) => return Err(SandboxError::Refused { levels, lost }),
            Report::Failed(reason) => return Err(setup(reason)),
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

    /// The first end that is known is the one that counts; one that was asked for is the reason of what follows.
    fn stop(&mut self, end: End) {
        self.clock.ended.get_or_insert_with(Instant::now);
        let end = self.asked.map_or(end, |asked| asked.end);
        self.end.get_or_insert(end);
    }

    /// Ends the init, and with it every process in its namespace, and waits until it is gone.
    fn end(&mut self, signals: &Signals) -> Result<process::Ended, SandboxError> {
        // The last chance to see what the workload used: the kernel tells of ended children, not of those that die with the
        // init. One that ended by itself is the init's ended child; a look would be a tenth of a short run.
        let ended_itself = matches!(self.end, Some(End::Exited(_)));
        if let Some(watch) = self
            .watch
            .as_mut()
            .filter(|_| self.clock.started.is_some() && !ended_itself)
        {
            watch.last_look(self.child.pid);
        }
        // An init that has said its last word exits by itself; this is for all others.
        let _ = pidfd_send_signal(&self.child.pidfd, Signal::KILL);
        let ended = process::wait(self.child.pid).map_err(io("wait for the init"))?;
        self.pass_on_the_rest(signals)?;
        Ok(ended)
    }

    /// Everyone who could write is dead. Our own reader may take its time; a signal is for us then.
    fn pass_on_the_rest(&mut self, signals: &Signals) -> Result<(), SandboxError> {
        loop {
            let (stdout, stderr) = (self.stdout.is_done(), self.stderr.is_done());
            if stdout && stderr {
                return Ok(());
            }
            let streams = [&self.stdout, &self.stderr]
                .into_iter()
                .filter_map(|stream| stream.event());
            let mut events: Vec<PollFd<'_>> = streams.chain(signals.event()).collect();
            match poll(&mut events, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(io("wait for our output")(errno.into())),
            }
            let mut ready = events.iter().map(|event| !event.revents().is_empty());
            let (first, second) = (ready.next() == Some(true), ready.next() == Some(true));
            let (out, err) = match (stdout, stderr) {
                (false, false) => (first, second),
                (false, true) => (first, false),
                _ => (false, first),
            };
            if out {
                self.stdout.proceed();
            }
            if err {
                self.stderr.proceed();
            }
            if signals.take().is_some() {
                self.stdout.abandon();
                self.stderr.abandon();
            }
        }
    }

    fn finish(self, ended: process::Ended, spent: Option<Spent>) -> Result<Finished, SandboxError> {
        let Clock {
            begun,
            mounted,
            started,
            ended: stopped,
        } = self.clock;
        let (Some(mounted), Some(started)) = (mounted, started) else {
            return match self.end {
                Some(End::Stopped(signal)) if ended.code.is_none() => Ok(Finished::nothing(End::Stopped(signal))),
                Some(End::Oom) => Ok(Finished::nothing(End::Oom)),
                _ => Err(SandboxError::InitDied { code: ended.code }),
            };
        };
        let stopped = stopped.unwrap_or_else(Instant::now);
        Ok(Finished {
            end: self.end.unwrap_or(End::KilledFromOutside),
            usage: usage(&ended, spent, self.watch.map(|watch| watch.most).unwrap_or_default()),
            truncated: self.stdout.is_truncated() || self.stderr.is_truncated(),
            stdout_bytes: self.stdout.bytes(),
            stderr_bytes: self.stderr.bytes(),
            stdout: self.stdout.into_memory(),
            stderr: self.stderr.into_memory(),
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

/// Whether the number of processes is limited: by `pids.max` of a cgroup; else by RLIMIT_NPROC, set and inherited in the
/// workload and counted per user namespace, from which the kernel excepts its own uid 0: ours, as `uid_map` has it.
fn processes_level(has_cgroup: bool, uid: u32, uid_map: &str) -> (Level, String) {
    let outside = uid_map.lines().find_map(|line| {
        let numbers: Vec<u32> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        match numbers.as_slice() {
            [inside, outside, count] if uid.checked_sub(*inside)? < *count => Some(outside + (uid - inside)),
            _ => None,
        }
    });
    match outside {
        Some(1..) => (Level::Enforced, String::new()),
        _ if has_cgroup => (Level::Enforced, String::new()),
        _ => {
            let reason = "gantry is root, whom the kernel exempts from RLIMIT_NPROC, and there is no cgroup";
            (Level::Absent, reason.to_owned())
        }
    }
}

impl Finished {
    /// A run that was stopped before its workload began.
    fn nothing(end: End) -> Self {
        Self {
            end,
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

/// The cgroup counts everything; without one there is what the kernel tells about a child, and what was seen.
fn usage(ended: &process::Ended, spent: Option<Spent>, seen: Seen) -> Usage {
    let cpu = spent.and_then(|spent| spent.cpu).unwrap_or(ended.cpu.max(seen.cpu));
    let memory = spent.and_then(|spent| spent.memory_peak);
    Usage {
        cpu_ms: milliseconds(cpu),
        memory_peak_bytes: memory.or(Some(ended.largest_resident.max(seen.memory))),
        // The init is not the workload's.
        pids_peak: spent
            .and_then(|spent| spent.pids_peak)
            .map(|peak| peak.saturating_sub(1)),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn setup(reason: String) -> SandboxError {
    SandboxError::Setup { reason }
}

fn setup_failed(step: u8, errno: i32) -> SandboxError {
    let source = io::Error::from_raw_os_error(errno);
    let name = SETUP_STEPS.get(usize::from(step)).copied().unwrap_or("set itself up");
    match step {
        0 => SandboxError::UserNamespace { step: name, source },
        _ => setup(format!("{name}: {source}")),
    }
}

fn io(action: &'static str) -> impl Fn(io::Error) -> SandboxError {
    move |source| SandboxError::Io { action, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_root_are_limited_by_a_cgroup_alone() {
        const WHOLE: &str = "         0          0 4294967295\n";
        let level = |has_cgroup, uid, uid_map| processes_level(has_cgroup, uid, uid_map).0;
        assert_eq!(level(false, 1000, WHOLE), Level::Enforced);
        assert_eq!(level(false, 0, WHOLE), Level::Absent);
        assert_eq!(level(true, 0, WHOLE), Level::Enforced);
        assert!(processes_level(false, 0, WHOLE).1.contains("RLIMIT_NPROC"));
        // In a container: root there is somebody else to the kernel when its ids are mapped.
        assert_eq!(level(false, 0, "0 1000 1\n1 100000 65536\n"), Level::Enforced);
        assert_eq!(level(false, 0, "0 0 1\n"), Level::Absent);
        assert_eq!(level(false, 1000, "1000 0 1\n"), Level::Absent);
        assert_eq!(level(false, 7, "0 1000 1\n"), Level::Absent, "whom nobody knows");
    }
}
