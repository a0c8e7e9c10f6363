//! The deadline of a run: everything, from the start of gantry to the outcome in its place, is over by then.

use std::time::{Duration, Instant};

/// What ending a sandbox and writing an outcome may take on a busy machine.
const MOST_RESERVE: Duration = Duration::from_secs(1);
/// The smallest time that is worth keeping.
const LEAST_RESERVE: Duration = Duration::from_millis(10);
/// A short deadline keeps this part of itself.
const PART: u32 = 20;

/// When a run that began at `begun` is ended, so that all is done when `deadline` is over: a twentieth of it before, at
/// most a second.
pub fn ends_at(begun: Instant, deadline: Duration) -> Instant {
    let reserve = (deadline / PART).clamp(LEAST_RESERVE, MOST_RESERVE);
    begun + deadline.saturating_sub(reserve)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_ended_a_little_before_its_deadline() {
        let begun = Instant::now();
        for (deadline, ends) in [(2_000, 1_900), (100, 90), (5, 0), (3_000_000, 2_999_000)] {
            let [deadline, ends] = [deadline, ends].map(Duration::from_millis);
            assert_eq!(ends_at(begun, deadline), begun + ends, "{deadline:?}");
        }
    }
}
