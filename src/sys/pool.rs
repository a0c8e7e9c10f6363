//! A bounded number of threads that work through a list.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::lock::Locks;

/// Says to those at work that one of them failed.
#[derive(Debug, Default)]
pub(crate) struct Stop(AtomicBool);

impl Stop {
    /// Whether one of them failed: what the others make is not wanted any more.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Calls `work` for each of `items`, on at most `threads` threads at once, the caller's among them. Returns the results in
/// the order of the items.
///
/// The threads work for the caller, so the order of its locks is theirs.
///
/// # Errors
/// The first one, by time. No further item is begun then, and long work may look at [`Stop`].
pub(crate) fn each<T: Sync, R: Send, E: Send>(
    threads: usize,
    items: &[T],
    work: impl Fn(&T, &Stop) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let (next, stop) = (AtomicUsize::new(0), Stop::default());
    let done = Mutex::new((Vec::with_capacity(items.len()), None));
    let all = || loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(item) = items.get(number).filter(|_| !stop.is_set()) else {
            return;
        };
        let result = work(item, &stop);
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(result) => done.0.push((number, result)),
            Err(error) => {
                stop.0.store(true, Ordering::Relaxed);
                done.1.get_or_insert(error);
            }
        }
    };
    let locks = Locks::here();
    std::thread::scope(|scope| {
        for _ in 1..threads.min(items.len()) {
            scope.spawn(|| {
                locks.adopt();
                all();
            });
        }
        all();
    });
    let (mut results, error) = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = error {
        return Err(error);
    }
    results.sort_by_key(|(number, _)| *number);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        let items: Vec<u32> = (0..100).collect();
        let squares = each(4, &items, |item, _| Ok::<_, ()>(item * item)).unwrap();
        assert_eq!(squares, items.iter().map(|item| item * item).collect::<Vec<_>>());
        assert_eq!(each(4, &[], |(): &(), _| Ok::<(), ()>(())), Ok(Vec::new()));
    }

    #[test]
    fn as_many_work_at_once_as_were_asked_for() {
        // Each waits for the other two.
        let all = Barrier::new(3);
        each(3, &[(); 3], |(), _| Ok::<_, ()>(all.wait().is_leader())).unwrap();
    }

    #[test]
    fn the_first_failure_is_the_answer_and_nothing_is_begun_after_it() {
        let begun = AtomicUsize::new(0);
        let refused = each(2, &[1, 2, 3, 4, 5, 6], |item, stop| {
            begun.fetch_add(1, Ordering::Relaxed);
            if *item == 1 {
                return Err::<(), _>(1);
            }
            while !stop.is_set() {
                std::thread::yield_now();
            }
            Err(*item)
        });
        assert_eq!(refused, Err(1));
        assert!(begun.into_inner() <= 2);
    }
}
