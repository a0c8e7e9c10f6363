//! The progress of one of several images that move at once.

use std::time::Duration;

use crate::progress::Progress;

/// Says what is done, and not how many bytes of which of several images.
pub(super) struct StepsOnly<'a>(pub &'a dyn Progress);

impl Progress for StepsOnly<'_> {
    fn step(&self, verb: &str, object: &str) {
        self.0.step(verb, object);
    }

    fn bytes(&self, _: u64, _: u64) {}

    fn warn(&self, text: &str) {
        self.0.warn(text);
    }

    fn spent(&self, stage: &'static str, time: Duration) {
        self.0.spent(stage, time);
    }
}
