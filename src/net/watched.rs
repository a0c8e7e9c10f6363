//! The body of an upload, as far as it was taken.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

/// A reader that is shared with who looks how far it is read. Cheap to clone.
#[derive(Clone)]
pub(super) struct Watched {
    shared: Arc<Shared>,
}

struct Shared {
    /// None when it was ended.
    reader: Mutex<Option<Box<dyn Read + Send>>>,
    taken: AtomicU64,
}

impl Watched {
    pub(super) fn new(reader: Box<dyn Read + Send>) -> Self {
        let shared = Shared {
            reader: Mutex::new(Some(reader)),
            taken: AtomicU64::new(0),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Bytes that were read.
    pub(super) fn taken(&self) -> u64 {
        self.shared.taken.load(Ordering::Relaxed)
    }

    /// Whether somebody waits for its next bytes now: then it is the source that is slow.
    pub(super) fn is_read(&self) -> bool {
        matches!(self.shared.reader.try_lock(), Err(TryLockError::WouldBlock))
    }

    /// Lets go of the reader: from now on reading fails.
    pub(super) fn end(&self) {
        *self.shared.reader.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut reader = self.shared.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = || io::Error::from(io::ErrorKind::BrokenPipe);
        let count = reader.as_mut().ok_or_else(ended)?.read(buffer)?;
        self.shared.taken.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Says that it is read, and gives nothing before it is told to.
    struct Slow(mpsc::Sender<()>, mpsc::Receiver<()>);

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.send(()).unwrap();
            self.1.recv().unwrap();
            Ok(buffer.len())
        }
    }

    #[test]
    fn a_source_that_is_slow_is_told_from_a_server_that_takes_nothing() {
        let ((begun, begins), (go, goes)) = (mpsc::channel(), mpsc::channel());
        let watched = Watched::new(Box::new(Slow(begun, goes)));
        assert!(!watched.is_read());
        let mut reader = watched.clone();
        let reading = std::thread::spawn(move || reader.read(&mut [0; 7]));
        begins.recv().unwrap();
        assert!(watched.is_read());
        go.send(()).unwrap();
        assert_eq!(reading.join().unwrap().unwrap(), 7);
        assert_eq!((watched.taken(), watched.is_read()), (7, false));
        watched.end();
        assert!(watched.clone().read(&mut [0; 7]).is_err());
    }
}
