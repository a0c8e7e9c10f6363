//! The signals that end a run, as bytes of a socket that `poll` can wait for.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Asks to be told of the signals that end a run; until dropped.
#[derive(Debug)]
pub struct Signals {
    pipe: Option<UnixStream>,
    ids: Vec<signal_hook::SigId>,
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
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let end = write.try_clone()?;
            // The number itself is written: `write` of one byte is all a handler may do.
            let number = u8::try_from(signal).unwrap_or(0);
            let id = crate::sys::process::on_signal(signal, move || drop((&end).write(&[number])))?;
            signals.ids.push(id);
        }
        read.set_nonblocking(true)?;
        signals.pipe = Some(read);
        Ok(signals)
    }

    /// Becomes readable with the next signal.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(|pipe| pipe.as_fd())
    }

    /// The next signal that has come.
    pub fn take(&self) -> Option<i32> {
        let mut number = [0u8];
        let read = self.pipe.as_ref()?.read(&mut number).ok()?;
        (read == 1).then(|| i32::from(number[0]))
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}
