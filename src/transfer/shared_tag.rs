//! What a tag means, asked once for all processes of a store that want to know it at the same time: a registry may count its
//! questions, and fifty workers that start on one image ask the same one.
//!
//! The one that asks leaves the answer in the file of its lock. Who waited for it takes an answer whose question was asked
//! after it came itself, and so never one from before a push that it knows of. Nobody waits for one failure after another:
//! who sees that the one before it failed, or gives no sign of life, asks by itself, beside the others.

use serde::{Deserialize, Serialize};

use super::TransferError;
use crate::oci::{Descriptor, Digest};
use crate::progress::Progress;
use crate::store::{Flight, Store, StoreError, Task};
use crate::sys::{clock, kernel};

/// What the last process left that asked.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    schema: u32,
    /// Its times are of this boot of the machine.
    boot: Option<String>,
    /// Nanoseconds since the boot when it began to ask, and when it was done.
    began: u64,
    ended: u64,
    /// The answer; none when it failed.
    found: Option<Descriptor>,
}

/// What is done about a note.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Take(Box<Descriptor>),
    /// Asking beside all others.
    AskBeside,
    /// Asking for all others.
    Ask,
}

/// What `ask` says, or what another process was told that asked the same. `question` names the tag and where it is asked for,
/// which is all that the answer depends on.
pub(super) fn ask_once(
    store: &Store,
    progress: &dyn Progress,
    question: &str,
    ask: impl Fn() -> Result<Descriptor, TransferError>,
) -> Result<Descriptor, TransferError> {
    let came = clock::since_boot();
    let digest = Digest::of(question.as_bytes());
    let does = format!("asks what {question} means");
    let task = Task { does: &does, progress };
    let lock = match store.locks().exclusive(Flight::Tag(&digest), task) {
        // The one that asks is stopped, or as good as that.
        Err(StoreError::Stalled { .. }) => return ask(),
        lock => lock?,
    };
    let boot = kernel::boot_id();
    if lock.has_waited() {
        match judge(&lock.note(), boot.as_deref(), came) {
            Verdict::Take(found) => return Ok(*found),
            Verdict::AskBeside => {
                drop(lock);
                return ask();
            }
            Verdict::Ask => {}
        }
    }
    let began = clock::since_boot();
    let answer = ask();
    let note = Note {
        schema: 1,
        boot,
        began,
        ended: clock::since_boot(),
        found: answer.as_ref().ok().cloned(),
    };
    lock.leave(&serde_json::to_vec(&note).unwrap_or_default());
    answer
}

fn judge(note: &[u8], boot: Option<&str>, came: u64) -> Verdict {
    let Ok(note) = serde_json::from_slice::<Note>(note) else {
        return Verdict::Ask;
    };
    // Where the kernel names no boot, the times of a note mean nothing.
    if boot.is_none() || note.boot.as_deref() != boot || note.schema != 1 {
        return Verdict::Ask;
    }
    match note.found {
        Some(found) if note.began > came => Verdict::Take(Box::new(found)),
        None if note.ended > came => Verdict::AskBeside,
        _ => Verdict::Ask,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::oci::media_type;
    use crate::progress::Silent;
    use crate::store::tests::store;

    /// Counts those that wait.
    #[derive(Default)]
    struct Waiters(AtomicU64);

    impl Progress for Waiters {
        fn step(&self, verb: &str, _: &str) {
            assert_eq!(verb, "Waiting for");
            self.0.fetch_add(1, Ordering::SeqCst);
        }
        fn bytes(&self, _: u64, _: u64) {}
        fn warn(&self, _: &str) {}
        fn spent(&self, _: &'static str, _: std::time::Duration) {}
    }

    #[test]
    fn of_many_that_ask_while_one_does_a_second_asks_for_all() {
        const MANY: u64 = 20;
        let (_scratch, store) = store();
        let (waiters, asked) = (Waiters::default(), AtomicU64::new(0));
        let ask = || {
            let number = asked.fetch_add(1, Ordering::SeqCst);
            while number == 0 && waiters.0.load(Ordering::SeqCst) < MANY {
                std::thread::yield_now();
            }
            Ok(Descriptor::new(media_type::MANIFEST, Digest::of(b"x"), 1 + number))
        };
        let sizes = std::thread::scope(|scope| {
            let one = || ask_once(&store, &waiters, "a:1 at b", ask).unwrap().size;
            let mut all = vec![scope.spawn(one)];
            // Whoever came before it asked could take its answer.
            while asked.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            all.extend((0..MANY).map(|_| scope.spawn(one)));
            let mut sizes: Vec<u64> = all.into_iter().map(|thread| thread.join().unwrap()).collect();
            sizes.sort_unstable();
            sizes
        });
        assert_eq!(asked.into_inner(), 2);
        assert_eq!((sizes[0], &sizes[1..]), (1, &[2; MANY as usize][..]));
        // And whoever comes later asks anew.
        let later = ask_once(&store, &Silent, "a:1 at b", || {
            Ok(Descriptor::new(media_type::MANIFEST, Digest::of(b"y"), 9))
        });
        assert_eq!(later.unwrap().size, 9);
    }

    #[test]
    fn who_waited_for_one_that_failed_asks_without_waiting_again() {
        const MANY: u64 = 5;
        let (_scratch, store) = store();
        let (waiters, asked) = (Waiters::default(), AtomicU64::new(0));
        let beside = std::sync::Barrier::new(MANY as usize);
        let ask = || {
            if asked.fetch_add(1, Ordering::SeqCst) > 0 {
                // All of them at once.
                beside.wait();
            }
            while waiters.0.load(Ordering::SeqCst) < MANY {
                std::thread::yield_now();
            }
            let path = "a".into();
            let reason = "none".to_owned();
            Err(TransferError::NotFound { path, reason })
        };
        std::thread::scope(|scope| {
            for _ in 0..=MANY {
                scope.spawn(|| ask_once(&store, &waiters, "a:1 at b", ask).unwrap_err());
            }
        });
        assert_eq!(asked.into_inner(), MANY + 1);
    }

    #[test]
    fn who_waited_for_one_that_is_stopped_asks_by_itself() {
        let (_scratch, store) = store();
        let digest = Digest::of(b"a:1 at b");
        let task = Task {
            does: "is stopped",
            progress: &Silent,
        };
        let _held = store.locks().exclusive(Flight::Tag(&digest), task).unwrap();
        let store = store.going_on_after(std::time::Duration::from_millis(20));
        let found = Descriptor::new(media_type::MANIFEST, Digest::of(b"x"), 1);
        let ask = || ask_once(&store, &Silent, "a:1 at b", || Ok(found.clone()));
        // In a thread of its own, as another process.
        let answer = std::thread::scope(|scope| scope.spawn(ask).join().unwrap());
        assert_eq!(answer.unwrap(), found);
    }

    #[test]
    fn an_answer_is_taken_when_its_question_was_asked_later() {
        let found = Descriptor::new(media_type::MANIFEST, Digest::of(b"x"), 1);
        let note = |began, found: Option<&Descriptor>| {
            let note = Note {
                schema: 1,
                boot: Some("now".to_owned()),
                began,
                ended: began + 10,
                found: found.cloned(),
            };
            serde_json::to_vec(&note).unwrap()
        };
        let take = Verdict::Take(Box::new(found.clone()));
        for (note, boot, verdict) in [
            (note(101, Some(&found)), Some("now"), take),
            (note(100, Some(&found)), Some("now"), Verdict::Ask),
            (note(95, Some(&found)), Some("now"), Verdict::Ask),
            (note(101, Some(&found)), Some("then"), Verdict::Ask),
            (note(101, Some(&found)), None, Verdict::Ask),
            (note(95, None), Some("now"), Verdict::AskBeside),
            (note(80, None), Some("now"), Verdict::Ask),
            (Vec::new(), Some("now"), Verdict::Ask),
            (b"{".to_vec(), Some("now"), Verdict::Ask),
        ] {
            assert_eq!(judge(&note, boot, 100), verdict, "{}", String::from_utf8_lossy(&note));
        }
    }
}
