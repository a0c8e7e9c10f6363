//! What an operation tells while it works: steps, bytes, warnings and time spent. The one channel for all of them.
//!
//! A stage returns its value alone. Whoever shows progress to a person, or puts warnings and times into a report,
//! implements [`Progress`]; the command line does.

use std::time::{Duration, Instant};

/// Receives what a stage has to tell. Called from several threads at once.
pub trait Progress: Sync {
    /// A step begins: a present participle and what it is about, such as `Downloading` and `numpy`.
    fn step(&self, verb: &str, object: &str);
    /// Bytes of the current transfer, done and in total.
    fn bytes(&self, done: u64, total: u64);
    /// Something the user should know; it is shown and listed in the report.
    fn warn(&self, text: &str);
    /// Wall-clock time that the stage called `stage` took. Stages may overlap.
    fn spent(&self, stage: &'static str, time: Duration);
}

/// Runs `work` and reports the time it took as that of `stage`.
pub fn timed<T>(progress: &dyn Progress, stage: &'static str, work: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let value = work();
    progress.spent(stage, begin.elapsed());
    value
}

/// A [`Progress`] that drops everything it is told.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _: &str, _: &str) {}
    fn bytes(&self, _: u64, _: u64) {}
    fn warn(&self, _: &str) {}
    fn spent(&self, _: &'static str, _: Duration) {}
}
