//! A sandbox from outside: start its init, hand it its orders, drain the pipes, keep the time, wait for the end.
//!
//! Synchronous and single-threaded: one `poll` over two pipes, the control socket and a signal pipe.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::process::{setrlimit, Resource, Rlimit};

use super::super::bundle::{Bundle, Stdin};
use super::super::error::SandboxError;
use super::super::launch::{launch, InitProcess, Launched, Launcher};
use super::super::orders::{Report, RoomOrders, WorkOrders, TERMINATE};
use super::super::wire::{self, Frame, Inbox};
use super::cgroup::{Cgroup, CgroupError, Subtree};
use super::doors::{self, OpenDoors};
use super::feed::Feed;
use super::finished::{Clock, End, Finished, Usage};
use super::levels;
use super::machine;
use super::output_watch::OutputWatch;
use super::rooms::Rooms;
use super::signals::Signals;
use super::stop::Stop;
use super::stream::{Stream, To};
use super::watch::{Output, Watch};
use crate::policy::{HostPort, Level, Promise};
use crate::sys::process::{Ended, SETUP_STEPS};

/// Signals closer together than a person's second Ctrl-C are one.
const ONE_WISH: Duration = Duration::from_millis(300);
/// How long a reader gets for what is left when the run must be over: a reader that reads needs none of it, and less than
/// a deadline keeps in reserve.
const LAST_WORDS: Duration = Duration::from_millis(20);
/// How long a reader gets at least for what is left at the end of a function: one that is only slow reads meanwhile, and
/// one that never reads does not keep a run slot.
const UNREAD: Duration = Duration::from_secs(5);

/// Where the workload's output goes, up to the limit.
#[derive(Debug, Clone, Copy)]
pub enum Sink<'a> {
    /// To our own standard output and error; the signals end the run.
    Inherit(&'a Signals, Stdout),
    /// Into [`Finished`]; signals are the caller's business.
    Capture,
}

/// Where the workload's standard output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdout {
    /// To ours.
    Own,
    /// To our standard error: something else is written to ours.
    Error,
}

/// A confined execution: a process, its cgroup, and what we know of it. Dropping it kills every process of it, waits
/// until they are gone and removes the cgroup; the mounts go with the processes.
#[derive(Debug)]
pub struct Sandbox {
    // Dropped first: the cgroup can be removed once nobody is in it.
    init: InitProcess,
    cgroup: Result<Cgroup, CgroupError>,
    control: UnixStream,
    inbox: Inbox,
    feed: Option<Feed>,
    stdout: Stream,
    stderr: Stream,
    timeout: Duration,
    grace: Duration,
    egress: Vec<HostPort>,
    /// What the run ends as once it has been asked to end, and when that is over.
    asked: Option<Asked>,
    /// Looks at memory where no cgroup limits it.
    watch: Option<Watch>,
    /// Looks at an `/output` on disk.
    output_watch: Option<OutputWatch>,
    rooms: Rooms,
    pids: u32,
    clock: Clock,
    levels: BTreeMap<Promise, Level>,
    output: Option<OwnedFd>,
    /// Listeners of the egress, on their way from the init to the caller.
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

impl Sandbox {
    /// Starts an init and tells it what is known before the job: it makes the file system of `bundle` and waits.
    ///
    /// # Errors
    ///
    /// [`SandboxError::UserNamespace`] when this machine does not allow one, [`SandboxError::Bundle`] for a bundle that
    /// cannot be run. What fails in the init is said by [`finish`](Self::finish).
    pub fn launch(launcher: &dyn Launcher, bundle: &Bundle, sink: Sink<'_>) -> Result<Self, SandboxError> {
        bundle.check()?;
        let clock = Clock::start();
        let confinement = &bundle.confinement;
        let cgroup = Subtree::open_or_ask(bundle.scope).and_then(|subtree| {
            subtree.sweep()?;
            subtree.make(confinement)
        });
        let Launched {
            init,
            control,
            stdin,
            stdout,
            stderr,
        } = launch(launcher, cgroup.as_ref().ok().map(Cgroup::directory))?;
        let (out, err) = match sink {
            Sink::Inherit(_, Stdout::Own) => (To::Stdout, To::Stderr),
            Sink::Inherit(_, Stdout::Error) => (To::Stderr, To::Stderr),
            Sink::Capture => (To::Memory(Vec::new()), To::Memory(Vec::new())),
        };
        let limit = confinement.output_limit.0;
        let output_watch = bundle.output.as_deref();
        let output_watch = output_watch.map(|directory| OutputWatch::new(directory, confinement.output_size.0));
        let output_watch = output_watch.transpose().map_err(io("watch the directory of /output"))?;
        let given = levels::given(cgroup.as_ref(), init.pid())?;
        let mut sandbox = Self {
            init,
            watch: cgroup
                .is_err()
                .then(|| Watch::new(confinement.memory.0, Output::of(bundle.output.as_deref()))),
            output_watch,
            rooms: Rooms::default(),
            pids: confinement.pids,
            cgroup,
            control,
            inbox: Inbox::default(),
            feed: match bundle.stdin {
                Stdin::Empty => None,
                Stdin::Ours => Some(Feed::new(stdin, confinement.input_limit.0)),
            },
            stdout: Stream::new(stdout, out, limit),
            stderr: Stream::new(stderr, err, limit),
            timeout: confinement.timeout,
            grace: confinement.grace,
            egress: confinement.network.egress().to_vec(),
            asked: None,
            clock,
            levels: BTreeMap::new(),
            output: None,
            listeners: Vec::new(),
            end: None,
        };
        // While the init starts.
        let machine = machine::files(confinement).map_err(io("look at this machine"))?;
        let room = RoomOrders::of(bundle, launcher.runtime(), given, machine);
        sandbox.tell(|control| wire::send(control, &room))?;
        sandbox.give_network(launcher)?;
        Ok(sandbox)
    }

    /// Tells the init what comes with the job; the workload starts as soon as the init is ready for it.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Io`]. An init that is gone is no error here: [`finish`](Self::finish) knows why.
    pub fn begin(&mut self, bundle: &Bundle) -> Result<(), SandboxError> {
        if !bundle.secrets.is_empty() {
            keep_from_dumps().map_err(io("keep secrets from memory dumps"))?;
        }
        for stream in [&mut self.stdout, &mut self.stderr] {
            stream.hide(bundle.secrets.iter().map(|secret| secret.value.as_slice()));
        }
        let work = WorkOrders::of(bundle);
        self.tell(|control| {
            wire::send(control, &work)?;
            let mut secrets = bundle.secrets.iter();
            secrets.try_for_each(|secret| wire::send_secret(control, &secret.value))
        })
    }

    /// Makes the network namespace of the init, which fills its root meanwhile, and gives it.
    fn give_network(&mut self, launcher: &dyn Launcher) -> Result<(), SandboxError> {
        let network = self.init.network(launcher)?;
        self.tell(|control| wire::send_network(control, network.as_ref().map(AsFd::as_fd)))
    }

    fn tell(&mut self, send: impl FnOnce(&mut UnixStream) -> io::Result<()>) -> Result<(), SandboxError> {
        match send(&mut self.control) {
            // The init has said why it ended; that is read next and is the better answer.
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(()),
            sent => sent.map_err(io("send orders")),
        }
    }

    /// Supervises the workload to its end; then nothing of the sandbox exists any more.
    ///
    /// # Errors
    ///
    /// Why the workload did not start.
    pub fn finish(mut self, sink: Sink<'_>, open: OpenDoors<'_>) -> Result<Finished, SandboxError> {
        let ignored = Signals::ignored();
        let signals = match sink {
            Sink::Inherit(signals, _) => signals,
            Sink::Capture => &ignored,
        };
        let supervised = self.supervise(signals, open);
        let has_started = self.clock.started.is_some();
        let supervised = supervised.map_err(|error| if has_started { error.after_the_start() } else { error });
        // Whatever happened, the init is dead and gone before we return, and so is the cgroup.
        let ended = self.tear_down(signals)?;
        let spent = self.cgroup.ok().map(Cgroup::finish);
        let could_be_oom = matches!(
            self.end,
            None | Some(End::Stopped(_) | End::KilledFromOutside | End::Signaled(_))
        );
        if spent.is_some_and(|spent| spent.oom) && could_be_oom {
            self.end = Some(End::Oom);
        } else {
            supervised?;
        }
        let Some(times) = self.clock.times() else {
            return match self.end {
                Some(end @ End::Stopped(_)) if ended.code.is_none() => Ok(Finished::nothing(end)),
                Some(End::Oom) => Ok(Finished::nothing(End::Oom)),
                _ => Err(SandboxError::InitDied { code: ended.code }),
            };
        };
        let seen = self.watch.map(|watch| watch.most).unwrap_or_default();
        // The init is one of those that are seen.
        let saw_all = seen.tasks > u64::from(self.pids);
        let end = self.end.unwrap_or(End::KilledFromOutside);
        Ok(Finished {
            end,
            has_started: !matches!(end, End::NotExecuted { .. }),
            usage: Usage::new(&ended, spent, seen),
            truncated: self.stdout.is_truncated() || self.stderr.is_truncated(),
            unread: [self.stdout.is_unread(), self.stderr.is_unread()],
            unwritable: unwritable(&self.stdout, &self.stderr),
            unreadable: self.feed.as_ref().and_then(Feed::failed),
            stdout_bytes: self.stdout.bytes(),
            stderr_bytes: self.stderr.bytes(),
            stdout: self.stdout.into_memory(),
            stderr: self.stderr.into_memory(),
            enforced: self.levels,
            full: self.rooms.full(),
            lacked_processes: saw_all || spent.is_some_and(|spent| spent.lacked_processes),
            output: self.output,
            times,
        })
    }

    /// Until the init has said its last word, or time or a signal makes us end it.
    fn supervise(&mut self, signals: &Signals, open: OpenDoors<'_>) -> Result<(), SandboxError> {
        let mut told = false;
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
            let has_started = self.clock.started.is_some();
            let looks = self.watch.as_ref().filter(|_| has_started).map(Watch::due);
            let output_looks = self.output_watch.as_ref().filter(|_| has_started);
            let wait = [left, looks, output_looks.map(OutputWatch::due)]
                .into_iter()
                .flatten()
                .min();
            self.wait_for_events(signals, wait)?;
            if !self.listeners.is_empty() {
                let passed = std::mem::take(&mut self.listeners);
                let doors = doors::doors(&self.egress, passed);
                doors.and_then(&mut *open).map_err(io("open the egress"))?;
            }
            if let Some(stop) = signals.take() {
                self.ask(End::Stopped(stop));
            }
            if !told && self.clock.started.is_some() {
                signals.enter("run");
                told = true;
            }
            let is_running = self.clock.started.is_some() && self.end.is_none();
            let watch = self.watch.as_mut().filter(|_| is_running);
            if watch.is_some_and(|watch| watch.is_over(self.init.pid())) {
                self.stop(End::Oom);
            }
            let output_watch = self.output_watch.as_mut().filter(|_| is_running);
            if let Some(excess) = output_watch.and_then(|watch| watch.excess(self.init.pid())) {
                self.stop(End::TooMuchOutput(excess));
            }
        }
        Ok(())
    }

    /// Asks the workload to end, when it has been granted time for that and has not used it; else it is over.
    fn ask(&mut self, end: End) {
        let now = Instant::now();
        if let (Some(asked), End::Stopped(stop @ (Stop::CallerEnded { .. } | Stop::Deadline { .. }))) =
            (&mut self.asked, &end)
        {
            // Told once, and no wish of somebody who may say it again: it cuts what was granted.
            asked.until = asked.until.min(now + stop.grace(self.grace));
            return;
        }
        if self.asked.is_some_and(|asked| now < asked.again && now < asked.until) {
            return;
        }
        let grace = match end {
            End::Stopped(stop) => stop.grace(self.grace),
            _ => self.grace,
        };
        let granted = self.asked.is_none() && !grace.is_zero() && self.clock.started.is_some();
        if granted && self.control.write_all(&[TERMINATE]).is_ok() {
            self.asked = Some(Asked {
                end,
                again: now + ONE_WISH,
                until: now + grace,
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
        let feed = self.feed.as_ref().filter(|_| self.clock.started.is_some());
        let feed = feed.and_then(Feed::event);
        let has_feed = feed.is_some();
        events.extend(feed);
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
        let fed = has_feed && ready.next() == Some(true);
        if stdout {
            self.stdout.proceed();
        }
        if stderr {
            self.stderr.proceed();
        }
        if let Some(feed) = self.feed.as_mut().filter(|_| fed) {
            feed.proceed();
            if feed.is_over() {
                self.stop(End::TooMuchInput);
            }
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
            Report::Failed(reason) => return Err(SandboxError::Setup { reason }),
            Report::Started => {
                self.clock.started = Some(now);
                self.rooms = Rooms::of(self.init.pid());
            }
            Report::NotExecuted(obstacle, errno) => {
                self.clock.started = Some(now);
                self.stop(End::NotExecuted { obstacle, errno });
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

    /// Ends the init, and with it every process in its namespace, waits until it is gone, and passes on what is left in
    /// the pipes.
    fn tear_down(&mut self, signals: &Signals) -> Result<Ended, SandboxError> {
        // The last chance to see what the workload used: the kernel tells of ended children, not of those that die with the
        // init. One that ended by itself is the init's ended child; a look would be a tenth of a short run.
        let ended_itself = matches!(self.end, Some(End::Exited(_)));
        let is_worth_a_look = self.clock.started.is_some() && !ended_itself;
        if let Some(watch) = self.watch.as_mut().filter(|_| is_worth_a_look) {
            watch.last_look(self.init.pid());
        }
        let ended = self.init.end().map_err(io("wait for the init"))?;
        self.pass_on_the_rest(signals)?;
        Ok(ended)
    }

    /// Everyone who could write is dead. Our own reader may take what is left of the time limit, and [`UNREAD`], of which it has the
    /// latter where the run was told to stop; a signal is for us then. Where nobody may be there to read, or no time is left, it
    /// gets a moment.
    fn pass_on_the_rest(&mut self, signals: &Signals) -> Result<(), SandboxError> {
        let now = Instant::now();
        let is_stopped = matches!(self.end, Some(End::Stopped(_)));
        let until = match self.end {
            Some(End::Stopped(Stop::CallerEnded { .. } | Stop::Deadline { .. })) => now + LAST_WORDS,
            Some(End::Stopped(Stop::Signal(_))) => now + UNREAD,
            // The time limit is one for the whole run; a run that used all of it does not punish its reader.
            _ => {
                let limit = self.clock.started.and_then(|started| started.checked_add(self.timeout));
                limit.map_or(now, |limit| limit.max(now)).max(now + UNREAD)
            }
        };
        loop {
            let (stdout, stderr) = (self.stdout.is_done(), self.stderr.is_done());
            if stdout && stderr {
                return Ok(());
            }
            let streams = [&self.stdout, &self.stderr]
                .into_iter()
                .filter_map(|stream| stream.event());
            let mut events: Vec<PollFd<'_>> = streams.chain(signals.event()).collect();
            let left = until.saturating_duration_since(Instant::now());
            match poll(&mut events, Timespec::try_from(left).ok().as_ref()) {
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
            if signals.take().is_some() || (is_stopped && left.is_zero()) {
                self.stdout.abandon();
                self.stderr.abandon();
            } else if left.is_zero() {
                self.stdout.give_up();
                self.stderr.give_up();
            }
        }
    }
}

fn unwritable(stdout: &Stream, stderr: &Stream) -> Option<(&'static str, io::Error)> {
    let named = [("standard output", stdout), ("standard error", stderr)];
    named
        .into_iter()
        .find_map(|(name, stream)| Some((name, stream.unwritable()?)))
}

/// A crash of ours must not leave secrets in a core file; 1 also keeps programs in core_pattern from being started.
fn keep_from_dumps() -> io::Result<()> {
    let maximum = rustix::process::getrlimit(Resource::Core).maximum;
    let current = Some(maximum.unwrap_or(1).min(1));
    Ok(setrlimit(Resource::Core, Rlimit { current, maximum })?)
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
