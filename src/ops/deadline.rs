//! The deadline of a run: everything, from the start of gantry to the outcome in its place, is over by then.

use std::time::{Duration, Instant};

use crate::sandbox::Deadline;

/// What ending a sandbox and writing an outcome may take on a busy machine.
const MOST_RESERVE: Duration = Duration::from_secs(1);
/// The smallest time that is worth keeping.
const LEAST_RESERVE: Duration = Duration::from_millis(10);
/// A short deadline keeps this part of itself.
const PART: u32 = 20;

/// When the parts of a run that began at `begun` are ended, so that all is done when `deadline` is over: the function a
/// twentieth of it before, at most a second. Half of that is for the results, the rest for the outcome, and for removing
/// what was copied of results that were too many.
pub fn ends(begun: Instant, deadline: Duration) -> Deadline {
    let reserve = (deadline / PART).clamp(LEAST_RESERVE, MOST_RESERVE);
    Deadline {
        of: deadline,
        run: begun + deadline.saturating_sub(reserve),
        taking: begun + deadline.saturating_sub(reserve / 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_ended_a_little_before_its_deadline_and_the_taking_of_its_results_halfway() {
        let begun = Instant::now();
        for (deadline, run, taking) in [
            (2_000, 1_900, 1_950),
            (100, 90, 95),
            (5, 0, 0),
            (3_000_000, 2_999_000, 2_999_500),
        ] {
            let [of, run, taking] = [deadline, run, taking].map(Duration::from_millis);
            let wanted = Deadline {
                of,
                run: begun + run,
                taking: begun + taking,
            };
            assert_eq!(ends(begun, of), wanted);
        }
    }
}
