//! Several registries are asked at once, and the first answer counts.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use crate::registry::RegistryError;
use crate::sys::lock::beat;

/// What several registries were asked at once.
pub(super) struct Race<T> {
    pub(super) first: usize,
    pub(super) tell: Sender<(usize, Result<T, RegistryError>)>,
    pub(super) told: Receiver<(usize, Result<T, RegistryError>)>,
    /// Who has not answered yet.
    pub(super) silent: Vec<usize>,
    pub(super) failures: Vec<(usize, RegistryError)>,
    /// An answer that waits for the first registry's.
    pub(super) held: Option<(usize, T)>,
}

impl<T> Race<T> {
    /// One that begins with the registry `first`.
    pub(super) fn new(first: usize) -> Self {
        let (tell, told) = mpsc::channel();
        Self {
            first,
            tell,
            told,
            silent: Vec::new(),
            failures: Vec::new(),
            held: None,
        }
    }

    /// The next answer, if one comes in time. Whoever waits for a lock of ours sees meanwhile that we are alive.
    pub(super) fn next(&mut self, until: Instant) -> Option<(usize, Result<T, RegistryError>)> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.told.recv_timeout(left.min(Duration::from_secs(1))) {
                Ok(answer) => {
                    self.silent.retain(|other| *other != answer.0);
                    return Some(answer);
                }
                Err(RecvTimeoutError::Timeout) if !left.is_zero() => beat(),
                Err(_) => return None,
            }
        }
    }
}
