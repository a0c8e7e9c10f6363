//! Processors that no layer is being read on: work on one layer is divided only where there are some.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::OnceLock;

/// Threads of this process that read or write layers.
static BUSY: AtomicUsize = AtomicUsize::new(0);

/// Processors that count as busy while it lives.
#[derive(Debug)]
pub(crate) struct Taken(usize);

impl Taken {
    /// How many they are.
    pub(crate) fn count(&self) -> usize {
        self.0
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        BUSY.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// Takes one for the calling thread, which works whether one is free or not.
pub(crate) fn take_one() -> Taken {
    BUSY.fetch_add(1, Ordering::Relaxed);
    Taken(1)
}

/// Takes those that are free, at most `most`; may be none.
pub(crate) fn take_free(most: usize) -> Taken {
    let mut taken = 0;
    let took = BUSY.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |busy| {
        taken = most.min(count().saturating_sub(busy));
        (taken > 0).then_some(busy + taken)
    });
    Taken(took.map_or(0, |_| taken))
}

/// Processors that this process may use: its mask and its cgroup's quota count.
pub(crate) fn count() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_taken_than_there_are() {
        let most = count();
        let all: Vec<Taken> = (0..3).map(|_| take_free(most)).collect();
        assert!(all.iter().map(Taken::count).sum::<usize>() <= most);
        // Whoever has to work does, and what is taken once is not free.
        let here: Vec<Taken> = (0..most).map(|_| take_one()).collect();
        assert_eq!(take_free(1).count(), 0);
        drop((here, all));
    }
}
