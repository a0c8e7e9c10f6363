//! The signals that end a run, as bytes of a socket that `poll` can wait for.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags};
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

impl StopSignal {
    const ALL: [Self; 3] = [Self::Hangup, Self::Interrupt, Self::Terminate];

    /// Its number (signal(7)).
    pub fn number(self) -> i32 {
        let signal = match self {
            Self::Hangup => Signal::HUP,
            Self::Interrupt => Signal::INT,
            Self::Terminate => Signal::TERM,
        };
        signal.as_raw()
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.number() == i32::from(byte))
    }
}

impl std::fmt::Display for StopSignal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.number())
    }
}

/// Asks to be told of the signals that end a run; until dropped.
#[derive(Debug)]
pub struct Signals {
    pipe: Option<UnixStream>,
    ids: Vec<(i32, signal_hook::SigId)>,
}

impl Signals {
    /// Leaves all signals as they are.
    pub fn ignored() -> Self {
        Self {
            pipe: None,
            ids: Vec::new(),
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

    /// What to wait for before [`take`](Self::take).
    pub fn event(&self) -> Option<PollFd<'_>> {
        self.pipe.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN))
    }

    /// The first of the signals that have come. Several at once are one wish: systemd sends SIGTERM and SIGHUP together,
    /// and timeout(1) one to us and one to our group.
    pub fn take(&self) -> Option<StopSignal> {
        let mut numbers = [0u8; 64];
        let read = self.pipe.as_ref()?.read(&mut numbers).ok()?;
        numbers.get(..read)?.first().copied().and_then(StopSignal::from_byte)
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
}
