//! Asks one registry again and again, as long as its failures call for that.

use std::time::{Duration, Instant};

use crate::registry::{asked_pause, pause, Failure, RegistryError, Step};

/// Tries where there is no other registry: 0.1 to 0.2, 0.4, 0.8 and 1.6 s of pauses.
const TRIES: u32 = 5;
/// A registry may ask for more patience than this; then the request fails, and the caller may come back later.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// And no longer than this where another registry can be asked instead.
const LONGEST_BESIDE: Duration = Duration::from_millis(300);

/// Whether there is somebody else to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Another registry may have it.
    OneOfSeveral,
    /// This one or none.
    Last,
}

/// How often a registry is tried that fails so.
fn tries(error: &RegistryError, standing: Standing) -> u32 {
    match (standing, error.failure()) {
        // Nobody has heard of it, and it had all the time that it may have: a person waits for that once.
        (_, Failure::Silent | Failure::Unreachable) if error.is_unheard() => 1,
        // A cache on the way may have had it wrong once; twice is no accident.
        (_, Failure::WrongBytes | Failure::NotARegistry) => 2,
        (Standing::Last, _) => TRIES,
        // Who is away stays away for longer than the other one takes.
        (Standing::OneOfSeveral, Failure::Unreachable | Failure::Silent) => 1,
        (Standing::OneOfSeveral, _) => 2,
    }
}

/// The pause before another try of a request that failed with `error` at the `tried`th; none when it is not tried again.
pub(super) fn pause_before_retry(error: &RegistryError, tried: u32, standing: Standing) -> Option<Duration> {
    if error.step() != Step::Retry || tried >= tries(error, standing) {
        return None;
    }
    let longest = match standing {
        Standing::Last => LONGEST_PAUSE,
        Standing::OneOfSeveral => LONGEST_BESIDE,
    };
    match error.after() {
        Some(asked) if asked > longest => None,
        Some(asked) => Some(asked_pause(asked, tried)),
        None => Some(pause(tried).min(longest)),
    }
}

/// Does `work` until it succeeds, or fails in a way that another try does not mend, or has failed often enough.
pub(super) fn persist<T>(
    standing: Standing,
    mut work: impl FnMut() -> Result<T, RegistryError>,
) -> Result<T, RegistryError> {
    let mut tried = 0;
    loop {
        let error = match work() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        tried += 1;
        match pause_before_retry(&error, tried, standing) {
            Some(pause) => sleep(pause),
            None => return Err(error),
        }
    }
}

/// Sleeps, and shows those that wait for a lock of ours that we are alive: the pause is bounded.
pub(super) fn sleep(pause: Duration) {
    let until = Instant::now() + pause;
    while let Some(left) = until
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
    {
        std::thread::sleep(left.min(Duration::from_secs(1)));
        crate::sys::lock::beat();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(failure: Failure) -> RegistryError {
        RegistryError::broken("fetch", "https://a.example/", failure, "no".to_owned())
    }

    #[test]
    fn a_registry_is_left_soon_when_there_is_another_one() {
        for (failure, alone, beside) in [
            (Failure::Unreachable, 5, 1),
            (Failure::Unresolved, 1, 1),
            (Failure::Silent, 5, 1),
            (Failure::Broken, 5, 2),
            (Failure::ServerError, 5, 2),
            (Failure::Busy, 5, 2),
            (Failure::WrongBytes, 2, 2),
            (Failure::NotARegistry, 2, 2),
            (Failure::NotFound, 1, 1),
            (Failure::Denied, 1, 1),
            (Failure::Refused, 1, 1),
            (Failure::TooLarge, 1, 1),
        ] {
            for (standing, most) in [(Standing::Last, alone), (Standing::OneOfSeveral, beside)] {
                let allowed =
                    (1..10).take_while(|tried| pause_before_retry(&error(failure), *tried, standing).is_some());
                assert_eq!(
                    u32::try_from(allowed.count()).unwrap() + 1,
                    most,
                    "{failure:?} {standing:?}"
                );
            }
        }
    }

    #[test]
    fn a_registry_that_asks_for_less_is_not_stormed_and_one_that_asks_for_too_much_is_left() {
        let after = |after: Duration, tried, standing| {
            pause_before_retry(&RegistryError::busy("https://a.example/", Some(after)), tried, standing)
        };
        for tried in 1..TRIES {
            let least = Duration::from_millis(99) * 2_u32.pow(tried - 1);
            for asked in [Duration::ZERO, Duration::from_micros(880)] {
                let pause = after(asked, tried, Standing::Last).unwrap();
                assert!(pause >= least, "{tried} {asked:?}: {pause:?}");
            }
        }
        assert!(after(LONGEST_PAUSE, 1, Standing::Last).unwrap() > LONGEST_PAUSE);
        assert_eq!(after(LONGEST_PAUSE + Duration::from_millis(1), 1, Standing::Last), None);
        assert_eq!(after(LONGEST_PAUSE, 1, Standing::OneOfSeveral), None);
    }

    #[test]
    fn work_is_done_until_it_succeeds() {
        let mut left = 1;
        let done = persist(Standing::OneOfSeveral, || {
            left -= 1;
            if left >= 0 {
                Err(error(Failure::Broken))
            } else {
                Ok(7)
            }
        });
        assert_eq!(done.unwrap(), 7);
        let mut count = 0;
        let failed = persist(Standing::Last, || {
            count += 1;
            Err::<(), _>(error(Failure::Refused))
        });
        assert!(failed.is_err());
        assert_eq!(count, 1);
    }
}
