//! What an operation tells while it works: steps, bytes, warnings and time spent. The one channel for all of them.
//!
//! A stage returns its value alone. Whoever shows progress to a person, or puts warnings and times into a report,
//! implements [`Progress`]; the command line does.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Receives what a stage has to tell. Called from several threads at once.
pub trait Progress: Sync {
    /// A step begins: a present participle and what it is about, such as `Downloading` and `numpy`.
    fn step(&self, verb: &str, object: &str);
    /// Bytes of the current transfer, done and in total.
    fn bytes(&self, done: u64, total: u64);
    /// Bytes of one of several parts of the current transfer, which come at once: `layer 0123456789ab`.
    fn part(&self, _part: &str, _done: u64, _total: u64) {}
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

/// Hands everything on to another [`Progress`], and keeps the warnings and the times for a report.
pub struct Recorder<'a> {
    to: &'a dyn Progress,
    warnings: Mutex<Vec<String>>,
    times: Mutex<BTreeMap<&'static str, Duration>>,
}

impl<'a> Recorder<'a> {
    /// Hands on to `to`.
    pub fn new(to: &'a dyn Progress) -> Self {
        Self {
            to,
            warnings: Mutex::default(),
            times: Mutex::default(),
        }
    }

    /// The warnings so far, the oldest first.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Seconds by stage, rounded to a tenth of a millisecond.
    pub fn seconds(&self) -> BTreeMap<&'static str, f64> {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let rounded = |time: &Duration| (time.as_secs_f64() * 1e4).round() / 1e4;
        times.iter().map(|(stage, time)| (*stage, rounded(time))).collect()
    }
}

impl Progress for Recorder<'_> {
    fn step(&self, verb: &str, object: &str) {
        self.to.step(verb, object);
    }

    fn bytes(&self, done: u64, total: u64) {
        self.to.bytes(done, total);
    }

    fn part(&self, part: &str, done: u64, total: u64) {
        self.to.part(part, done, total);
    }

    fn warn(&self, text: &str) {
        self.to.warn(text);
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.push(text.to_owned());
    }

    fn spent(&self, stage: &'static str, time: Duration) {
        self.to.spent(stage, time);
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        *times.entry(stage).or_default() += time;
    }
}

/// Hands everything but warnings on at once. Warnings wait for [`tell`](Self::tell), so that those of work that is done
/// beside other work, or that may turn out not to matter, keep their place.
pub struct Later<'a> {
    to: &'a dyn Progress,
    warnings: Mutex<Vec<String>>,
}

impl<'a> Later<'a> {
    /// Hands on to `to`.
    pub fn new(to: &'a dyn Progress) -> Self {
        Self {
            to,
            warnings: Mutex::default(),
        }
    }

    /// Hands on the warnings; dropped without it, there were none.
    pub fn tell(self) {
        let warnings = self.warnings.into_inner().unwrap_or_else(PoisonError::into_inner);
        warnings.iter().for_each(|warning| self.to.warn(warning));
    }
}

impl Progress for Later<'_> {
    fn step(&self, verb: &str, object: &str) {
        self.to.step(verb, object);
    }

    fn bytes(&self, done: u64, total: u64) {
        self.to.bytes(done, total);
    }

    fn part(&self, part: &str, done: u64, total: u64) {
        self.to.part(part, done, total);
    }

    fn warn(&self, text: &str) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.push(text.to_owned());
    }

    fn spent(&self, stage: &'static str, time: Duration) {
        self.to.spent(stage, time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_what_was_told_in_the_order_it_was_told() {
        let report = Recorder::new(&Silent);
        let later = Later::new(&report);
        later.warn("second");
        report.warn("first");
        later.spent("wheels", Duration::from_micros(1_250_030));
        later.tell();
        Later::new(&report).warn("never");
        report.spent("wheels", Duration::from_secs(1));
        assert_eq!(report.warnings(), ["first", "second"]);
        assert_eq!(report.seconds(), [("wheels", 2.25)].into());
    }
}
