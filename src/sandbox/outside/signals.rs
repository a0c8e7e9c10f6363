//! What ends a run from outside, as one descriptor that `poll` can wait for: signals, the end of the caller, the deadline.
//!
//! Signals are bytes of a socket. Where there is more to wait for, an epoll descriptor stands for all of it, and a timer
//! for the deadline and for the pulse; a run that asks for neither has the socket alone.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::time::{timerfd_create, timerfd_settime, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};

use super::caller::Caller;
use super::stop::{Stop, StopSignal};

/// Asks to be told of what ends a run; until dropped.
#[derive(Debug)]
pub struct Signals {
    pipe: Option<UnixStream>,
    ids: Vec<(i32, signal_hook::SigId)>,
    /// Readable when one of the following is, or the pipe.
    gate: Option<OwnedFd>,
    caller: Option<Caller>,
    deadline: Option<(Deadline, OwnedFd)>,
    pulse: Option<Pulse>,
    /// The caller's end and the deadline are told once, as a signal is.
    told: Cell<bool>,
}

/// When the parts of a run are ended so that all of it is over in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// The time for everything together.
    pub of: Duration,
    /// When the workload is ended.
    pub run: Instant,
    /// When the taking of its results is ended.
    pub taking: Instant,
}

/// Something that is done now and then while one waits.
struct Pulse {
    timer: OwnedFd,
    beat: Box<dyn Fn(Beat)>,
}

/// What is told to whoever listens to the pulse of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// A phase begins.
    Phase(&'static str),
    /// The last one goes on.
    Still,
}

impl Signals {
    /// Leaves all signals as they are.
    pub fn ignored() -> Self {
        Self {
            pipe: None,
            ids: Vec::new(),
            gate: None,
            caller: None,
            deadline: None,
            pulse: None,
            told: Cell::new(false),
        }
    }

    /// SIGINT, SIGTERM and SIGHUP no longer end this process but are [taken](Self::take).
    pub fn watch() -> io::Result<Self> {
        let mut signals = Self::ignored();
        let (read, write) = UnixStream::pair()?;
        // A handler must never wait.
        write.set_nonblocking(true)?;
        for signal in StopSignal::ALL {
            let (signal, [number, ..]) = (signal.number(), signal.number().to_le_bytes());
            // Who started us with a signal ignored (nohup, a job in the background) wants it ignored.
            if crate::sys::process::is_ignored(signal)? {
                continue;
            }
            let end = write.try_clone()?;
            // The number itself is written: `write` of one byte is all a handler may do.
            let id = crate::sys::process::on_signal(signal, move || drop((&end).write(&[number])))?;
            signals.ids.push((signal, id));
        }
        read.set_nonblocking(true)?;
        signals.pipe = Some(read);
        Ok(signals)
    }

    /// From now on the end of `caller` is a stop, too.
    pub fn end_with(&mut self, caller: Caller) -> io::Result<()> {
        self.let_caller_go()?;
        epoll::add(self.gate()?, &caller, EventData::new_u64(0), EventFlags::IN)?;
        self.caller = Some(caller);
        Ok(())
    }

    /// The end of the caller is no stop any more.
    pub fn let_caller_go(&mut self) -> io::Result<()> {
        if let (Some(caller), Some(gate)) = (self.caller.take(), &self.gate) {
            epoll::delete(gate, &caller)?;
        }
        Ok(())
    }

    /// From `deadline.run` on it is a stop that its time is over; of several deadlines the last one counts.
    pub fn end_by(&mut self, deadline: Deadline) -> io::Result<()> {
        // None is a timer that never strikes: 1 ns is "now".
        let left = deadline
            .run
            .saturating_duration_since(Instant::now())
            .max(Duration::from_nanos(1));
        let timer = timer(left, Duration::ZERO)?;
        epoll::add(self.gate()?, &timer, EventData::new_u64(0), EventFlags::IN)?;
        self.deadline = Some((deadline, timer));
        Ok(())
    }

    /// From now on `beat` is told of each phase, and `every` so often that it goes on, while one waits for signals.
    pub fn beat(&mut self, every: Duration, beat: Box<dyn Fn(Beat)>) -> io::Result<()> {
        let timer = timer(every, every)?;
        epoll::add(self.gate()?, &timer, EventData::new_u64(0), EventFlags::IN)?;
        self.pulse = Some(Pulse { timer, beat });
        Ok(())
    }

    /// Tells whoever listens that `phase` begins.
    pub fn enter(&self, phase: &'static str) {
        if let Some(pulse) = &self.pulse {
            (pulse.beat)(Beat::Phase(phase));
        }
    }

    /// What to wait for before [`take`](Self::take).
    pub fn event(&self) -> Option<PollFd<'_>> {
        let descriptor = match (&self.gate, &self.pipe) {
            (Some(gate), _) => Some(gate.as_fd()),
            (None, pipe) => pipe.as_ref().map(AsFd::as_fd),
        };
        descriptor.map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN))
    }

    /// The first that has come. Several signals at once are one wish: systemd sends SIGTERM and SIGHUP together, and
    /// timeout(1) one to us and one to our group.
    pub fn take(&self) -> Option<Stop> {
        self.take_by(|deadline| deadline.run)
    }

    fn take_by(&self, part: fn(&Deadline) -> Instant) -> Option<Stop> {
        if let Some(pulse) = self.pulse.as_ref().filter(|pulse| has_struck(&pulse.timer)) {
            (pulse.beat)(Beat::Still);
        }
        if let Some(signal) = self.take_signal() {
            return Some(Stop::Signal(signal));
        }
        if self.told.get() {
            return None;
        }
        let stop = self.find_stop(part)?;
        self.told.set(true);
        // What stays readable would make every further wait a busy one.
        if let Some(gate) = &self.gate {
            let caller = self.caller.as_ref().map(AsFd::as_fd);
            let deadline = self.deadline.as_ref().map(|(_, timer)| timer.as_fd());
            for descriptor in [caller, deadline].into_iter().flatten() {
                let _ = epoll::delete(gate, descriptor);
            }
        }
        Some(stop)
    }

    /// What ends the taking of results: a stop that has not been told, and the deadline once the time for results is over, whether it
    /// ended the workload or not.
    pub fn take_while_taking(&self) -> Option<Stop> {
        let taking = |deadline: &Deadline| deadline.taking;
        self.take_by(taking).or_else(|| self.is_over(taking))
    }

    /// Waits for `longest` at most, or until there is something to [take](Self::take), and takes it.
    pub fn wait(&self, longest: Duration) -> io::Result<Option<Stop>> {
        let mut events: Vec<PollFd<'_>> = self.event().into_iter().collect();
        match poll(&mut events, Timespec::try_from(longest).ok().as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(self.take()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn take_signal(&self) -> Option<StopSignal> {
        let mut numbers = [0u8; 64];
        let read = self.pipe.as_ref()?.read(&mut numbers).ok()?;
        numbers.get(..read)?.first().copied().and_then(StopSignal::from_byte)
    }

    fn find_stop(&self, part: fn(&Deadline) -> Instant) -> Option<Stop> {
        if let Some(caller) = self.caller.as_ref().filter(is_readable) {
            return Some(Stop::CallerEnded { pid: caller.pid() });
        }
        self.is_over(part)
    }

    fn is_over(&self, part: fn(&Deadline) -> Instant) -> Option<Stop> {
        let (deadline, _) = self.deadline.as_ref()?;
        (Instant::now() >= part(deadline)).then_some(Stop::Deadline { of: deadline.of })
    }

    fn gate(&mut self) -> io::Result<&OwnedFd> {
        if self.gate.is_none() {
            let gate = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            if let Some(pipe) = &self.pipe {
                epoll::add(&gate, pipe, EventData::new_u64(0), EventFlags::IN)?;
            }
            self.gate = Some(gate);
        }
        self.gate.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for (signal, id) in self.ids.drain(..) {
            signal_hook::low_level::unregister(id);
            // It does not put back what was there.
            crate::sys::process::default_signal(signal);
        }
    }
}

impl fmt::Debug for Pulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pulse")
            .field("timer", &self.timer)
            .finish_non_exhaustive()
    }
}

/// A timer that strikes after `first`, and then `every` so often unless that is nothing.
fn timer(first: Duration, every: Duration) -> io::Result<OwnedFd> {
    let timer = timerfd_create(
        TimerfdClockId::Monotonic,
        TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
    )?;
    let time = |time: Duration| Timespec::try_from(time).map_err(io::Error::other);
    let times = Itimerspec {
        it_interval: time(every)?,
        it_value: time(first)?,
    };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times)?;
    Ok(timer)
}

/// Whether `timer` has struck since it was last asked.
fn has_struck(timer: &OwnedFd) -> bool {
    rustix::io::read(timer, &mut [0u8; 8]).is_ok()
}

fn is_readable(descriptor: &&Caller) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut events = [PollFd::new(*descriptor, PollFlags::IN)];
    poll(&mut events, Some(&now)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    fn is_ready(signals: &Signals) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut events = [signals.event().unwrap()];
        poll(&mut events, Some(&now)).unwrap() > 0
    }

    /// The run's time is over, and that of its results after `more`; and how long it was to take.
    fn told_to_end(more: Duration) -> (Signals, Duration) {
        let mut signals = Signals::ignored();
        let (of, run) = (Duration::from_secs(1), Instant::now());
        let taking = run + more;
        signals.end_by(Deadline { of, run, taking }).unwrap();
        (signals, of)
    }

    #[test]
    fn a_deadline_is_told_once_and_is_not_waited_for_again() {
        let mut signals = Signals::ignored();
        let of = Duration::from_millis(5);
        let long = Duration::from_secs(60);
        let run = Instant::now() + of;
        signals
            .end_by(Deadline {
                of,
                run,
                taking: run + long,
            })
            .unwrap();
        assert_eq!(signals.wait(long).unwrap(), Some(Stop::Deadline { of }));
        assert!(!is_ready(&signals));
        assert_eq!(signals.take(), None);
        assert_eq!(signals.take_while_taking(), None, "results have time yet");
    }

    #[test]
    fn a_deadline_that_was_told_ends_the_taking_of_results_as_well() {
        let (signals, of) = told_to_end(Duration::ZERO);
        assert_eq!(signals.take(), Some(Stop::Deadline { of }));
        assert_eq!(signals.take(), None);
        for _ in 0..2 {
            assert_eq!(signals.take_while_taking(), Some(Stop::Deadline { of }));
        }
    }

    #[test]
    fn results_of_a_workload_that_ended_by_itself_have_as_much_time_as_those_of_one_that_was_ended() {
        let (signals, _) = told_to_end(Duration::from_secs(60));
        assert_eq!(signals.take_while_taking(), None);
    }

    #[test]
    fn a_deadline_that_is_over_strikes_at_once() {
        let (signals, _) = told_to_end(Duration::ZERO);
        let stop = signals.wait(Duration::from_secs(60)).unwrap();
        assert!(matches!(stop, Some(Stop::Deadline { .. })));
    }

    #[test]
    fn the_end_of_a_caller_that_was_let_go_is_no_stop() {
        let mut signals = Signals::ignored();
        // Tests are started by a process that goes on until they are over.
        let caller = Caller::find(|| true).unwrap();
        if let Some(caller) = caller {
            signals.end_with(caller).unwrap();
            assert!(!is_ready(&signals));
        }
        signals.let_caller_go().unwrap();
        assert_eq!(signals.take(), None);
    }

    #[test]
    fn a_pulse_tells_phases_and_that_they_go_on() {
        let mut signals = Signals::ignored();
        let heard = Rc::new(std::cell::RefCell::new(Vec::new()));
        let to = Rc::clone(&heard);
        let beat = Box::new(move |beat| to.borrow_mut().push(beat));
        signals.beat(Duration::from_millis(1), beat).unwrap();
        signals.enter("run");
        while heard.borrow().len() < 3 {
            assert_eq!(signals.wait(Duration::from_secs(60)).unwrap(), None);
        }
        assert_eq!(heard.borrow()[..], [Beat::Phase("run"), Beat::Still, Beat::Still]);
    }
}
