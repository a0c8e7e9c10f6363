//! Work that a signal may end, or the caller's end, or a deadline: it runs in a thread of its own, while the calling thread waits for signals.
//!
//! This is how every command but a run's sandbox ends by a signal; the sandbox has a poll loop of its own.

use std::io;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::sandbox::{Signals, Stop};
use crate::store;

/// Pause between two deletions of what the work has made, until it notices.
const AGAIN: Duration = Duration::from_millis(20);
/// Work that has made nothing new for this long waits for something, such as a lock or a server: it is left behind.
const QUIET: Duration = Duration::from_millis(100);
/// Longest wait until the work notices.
const PATIENCE: Duration = Duration::from_secs(2);
/// Stack of that thread: Rust gives 2 MiB to threads other than the first, whose work this is.
const STACK: usize = 8 << 20;

/// What became of the work.
#[derive(Debug)]
pub enum Worked<T> {
    /// It is done.
    Done(T),
    /// Something that ends it came first.
    Stopped {
        /// What.
        stop: Stop,
        /// What the work came to, when it ended soon: an error because its files were gone, or it was done just then.
        result: Option<T>,
    },
}

/// Does `work` in a thread of its own, until there is a stop among `signals`.
///
/// Then the scratch directories of this process are deleted, again and again while it makes new ones, so that the work
/// fails soon and leaves nothing. Work that does not notice is left behind: the process is about to end.
pub fn unless_signalled<T: Send + 'static>(
    signals: &Signals,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Worked<T>> {
    let (ours, theirs) = UnixStream::pair()?;
    let work = move || {
        // Closed when the work ends, however it ends.
        let _theirs = theirs;
        work()
    };
    let worker = std::thread::Builder::new().stack_size(STACK).spawn(work)?;
    let join = |worker: JoinHandle<T>| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let Some(stop) = wait(&ours, signals)? else {
        return Ok(Worked::Done(join(worker)));
    };
    let told = Instant::now();
    let mut made = told;
    // A deadline keeps little in reserve.
    let patience = if matches!(stop, Stop::Deadline { .. }) {
        AGAIN
    } else {
        PATIENCE
    };
    loop {
        if store::abandon() {
            made = Instant::now();
        }
        if is_closed(&ours, AGAIN)? {
            let result = Some(join(worker));
            return Ok(Worked::Stopped { stop, result });
        }
        if made.elapsed() > QUIET || told.elapsed() > patience {
            return Ok(Worked::Stopped { stop, result: None });
        }
    }
}

/// Waits until the other end of `work` is closed, or there is a stop, which is returned.
fn wait(work: &UnixStream, signals: &Signals) -> io::Result<Option<Stop>> {
    loop {
        let mut events = vec![PollFd::new(work, PollFlags::IN)];
        events.extend(signals.event());
        match poll(&mut events, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if let Some(stop) = signals.take() {
            return Ok(Some(stop));
        }
        if is_closed(work, Duration::ZERO)? {
            return Ok(None);
        }
    }
}

/// Whether the other end of `work` is closed, or is within `patience`.
fn is_closed(work: &UnixStream, patience: Duration) -> io::Result<bool> {
    let patience = Timespec::try_from(patience).ok();
    match poll(&mut [PollFd::new(work, PollFlags::IN)], patience.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
