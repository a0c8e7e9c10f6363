//! Work that a signal may end: it runs in a thread of its own, while the caller listens.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};

use crate::sandbox::{Signals, StopSignal};
use crate::store;

/// How often work that shall end loses what it has made.
const AGAIN: Duration = Duration::from_millis(20);
/// How long it may take to notice; it may wait for a lock that another process holds.
const PATIENCE: Duration = Duration::from_secs(2);

/// What became of the work.
#[derive(Debug)]
pub enum Worked<T> {
    /// It is done.
    Done(T),
    /// This signal came first.
    Signalled(StopSignal),
}

/// Does `work`. A signal takes its scratch directories away, so that it fails soon and leaves nothing; work that does not
/// notice in time is left behind, for the process is about to end.
pub fn unless_signalled<T: Send + 'static>(
    signals: &Signals,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Worked<T>> {
    let (ours, theirs) = UnixStream::pair()?;
    let worker = std::thread::spawn(move || {
        // Closed when the work ends, however it ends.
        let _theirs = theirs;
        work()
    });
    let mut told: Option<(StopSignal, Instant)> = None;
    loop {
        let mut events = vec![PollFd::new(&ours, PollFlags::IN)];
        events.extend(signals.event());
        let wait = told.and_then(|_| Timespec::try_from(AGAIN).ok());
        match poll(&mut events, wait.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let is_over = events.first().is_some_and(|end| !end.revents().is_empty());
        told = told.or_else(|| signals.take().map(|signal| (signal, Instant::now())));
        match told {
            Some((signal, since)) if is_over || since.elapsed() > PATIENCE => {
                store::abandon();
                return Ok(Worked::Signalled(signal));
            }
            Some(_) => store::abandon(),
            None if is_over => {
                let result = worker.join();
                return Ok(Worked::Done(
                    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                ));
            }
            None => {}
        }
    }
}
