//! The signals that end a run, as bytes of a socket that `poll` can wait for.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

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
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // Who started us with a signal ignored (nohup, a job in the background) wants it ignored.
            if crate::sys::process::is_ignored(signal)? {
                continue;
            }
            let end = write.try_clone()?;
            // The number itself is written: `write` of one byte is all a handler may do.
            let number = u8::try_from(signal).unwrap_or(0);
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
    pub fn take(&self) -> Option<i32> {
        let mut numbers = [0u8; 64];
        let read = self.pipe.as_ref()?.read(&mut numbers).ok()?;
        (read > 0).then(|| i32::from(numbers[0]))
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
