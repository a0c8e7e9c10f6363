//! Why a run is to end that has not ended by itself.

use std::fmt;
use std::time::Duration;

use rustix::process::Signal;

/// A signal that ends a run. There is no such thing as "none of them": that is an `Option`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGHUP: the terminal or the session is gone.
    Hangup,
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM: what service managers and job queues send.
    Terminate,
}

/// What ends a run or another command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// A signal.
    Signal(StopSignal),
    /// Whoever called is gone: nobody wants the result. Treated as SIGTERM.
    CallerEnded {
        /// Its process number.
        pid: i32,
    },
    /// The time for everything together is over.
    Deadline {
        /// That time.
        of: Duration,
    },
}

impl StopSignal {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::Hangup, Self::Interrupt, Self::Terminate];

    /// Its number (signal(7)).
    pub fn number(self) -> i32 {
        let signal = match self {
            Self::Hangup => Signal::HUP,
            Self::Interrupt => Signal::INT,
            Self::Terminate => Signal::TERM,
        };
        signal.as_raw()
    }

    /// The signal whose number is `byte`.
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.number() == i32::from(byte))
    }
}

impl Stop {
    /// The number of the signal that it is, or is treated as; a deadline is none.
    pub fn signal(self) -> Option<i32> {
        match self {
            Self::Signal(signal) => Some(signal.number()),
            Self::CallerEnded { .. } => Some(StopSignal::Terminate.number()),
            Self::Deadline { .. } => None,
        }
    }

    /// How much of the time that the workload was granted to end in it gets.
    pub(super) fn grace(self, granted: Duration) -> Duration {
        /// The queue may have started the job anew by then, so little is left of the time to tidy up.
        const ORPHANED: Duration = Duration::from_secs(1);
        match self {
            Self::Signal(_) => granted,
            Self::CallerEnded { .. } => granted.min(ORPHANED),
            Self::Deadline { .. } => Duration::ZERO,
        }
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(signal) => write!(f, "stopped by signal {signal}"),
            Self::CallerEnded { pid } => write!(f, "the caller (pid {pid}) ended"),
            Self::Deadline { of } => write!(f, "the deadline, {of:?} after the start of gantry, passed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_one_of_three_and_never_zero() {
        let numbers = StopSignal::ALL.map(StopSignal::number);
        assert_eq!(numbers, [1, 2, 15]);
        for byte in 0..=u8::MAX {
            let known = StopSignal::from_byte(byte).map(StopSignal::number);
            assert_eq!(known, numbers.contains(&i32::from(byte)).then_some(i32::from(byte)));
        }
    }

    #[test]
    fn the_time_to_tidy_up_is_the_callers_as_long_as_there_is_one() {
        let granted = Duration::from_secs(30);
        assert_eq!(Stop::Signal(StopSignal::Interrupt).grace(granted), granted);
        assert_eq!(Stop::CallerEnded { pid: 2 }.grace(granted), Duration::from_secs(1));
        assert_eq!(Stop::CallerEnded { pid: 2 }.grace(Duration::ZERO), Duration::ZERO);
        assert_eq!(Stop::Deadline { of: granted }.grace(granted), Duration::ZERO);
    }
}
