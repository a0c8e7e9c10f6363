//! Reports progress on standard error: steps as lines, and on a terminal bars below them for as long as bytes move, one for
//! each part that comes at once.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::escape::escape;
use crate::policy::{Bytes, Verbosity};
use crate::progress::Progress;

/// The bars that are on the terminal. There is one terminal, and whoever ends the process has to be able to remove them.
static BARS: Mutex<Option<Bars>> = Mutex::new(None);

/// What the bar of a whole transfer is called, beside those of its parts.
const WHOLE: &str = "";

struct Bars {
    screen: MultiProgress,
    /// By the name of the part.
    parts: BTreeMap<String, ProgressBar>,
    /// Whether the transfer is shown by its parts.
    has_parts: bool,
}

impl Bars {
    fn new() -> Self {
        Self {
            screen: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            parts: BTreeMap::new(),
            has_parts: false,
        }
    }

    fn show(&mut self, part: &str, message: &str, done: u64, total: u64) {
        self.has_parts |= part != WHOLE;
        if part == WHOLE && self.has_parts {
            return;
        }
        if done >= total {
            if let Some(bar) = self.parts.remove(part) {
                bar.finish_and_clear();
                self.screen.remove(&bar);
            }
            return;
        }
        let new = || self.screen.add(new_bar(message));
        let bar = self.parts.entry(part.to_owned()).or_insert_with(new);
        bar.set_length(total);
        bar.set_position(done);
    }
}

fn bars() -> MutexGuard<'static, Option<Bars>> {
    BARS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remove(bars: &mut Option<Bars>) {
    if let Some(bars) = bars.take() {
        bars.parts.values().for_each(ProgressBar::finish_and_clear);
        let _ = bars.screen.clear();
    }
}

/// Removes the bars, so that what is written next begins a line.
fn clear() {
    remove(&mut bars());
}

/// Removes the bars for good: the process ends, and threads that are still at work wait before they draw another.
pub(super) fn end() {
    let mut bars = bars();
    remove(&mut bars);
    std::mem::forget(bars);
}

/// Prints what a build does. Several threads may call it at once.
pub(super) struct Narrator {
    verbosity: Verbosity,
    on_terminal: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the next bar is about.
    step: String,
    /// Done and in total, as last shown.
    shown: (u64, u64),
}

impl Narrator {
    /// Says as much as `verbosity` allows.
    pub(super) fn new(verbosity: Verbosity) -> Self {
        Self {
            verbosity,
            on_terminal: std::io::stderr().is_terminal(),
            state: Mutex::default(),
        }
    }

    /// Removes the bars.
    pub(super) fn finish(&self) {
        clear();
    }

    /// Says what came of it all.
    pub(super) fn done(&self, text: &str) {
        if self.verbosity > Verbosity::Quiet {
            line(&escape(text));
        }
    }
}

/// Writes a line above the bars.
fn line(text: &str) {
    // A closed standard error is no reason to stop.
    match bars().as_ref().filter(|bars| !bars.parts.is_empty()) {
        Some(bars) => drop(bars.screen.println(text)),
        None => drop(writeln!(std::io::stderr(), "{text}")),
    }
}

/// Says for whom the store waits, where that is no step of its own.
pub(super) fn tell_wait(holder: &str) {
    line(&format!("Waiting for {}", escape(holder)));
}

/// Says that a collection waits until nobody else uses the store.
pub(super) fn tell_others(verbosity: Verbosity) {
    if verbosity > Verbosity::Quiet {
        line("Waiting for builds and other commands that use the store");
    }
}

/// Says something that is no step of a command's own.
pub(super) fn tell(text: &str) {
    line(&escape(text));
}

impl Progress for Narrator {
    fn step(&self, verb: &str, object: &str) {
        if self.verbosity == Verbosity::Quiet {
            return;
        }
        let text = format!("{verb} {}", escape(object));
        line(&text);
        // What comes next may be no transfer of several parts.
        bars().take_if(|bars| bars.parts.is_empty());
        self.state.lock().unwrap_or_else(PoisonError::into_inner).step = text;
    }

    fn bytes(&self, done: u64, total: u64) {
        if self.verbosity == Verbosity::Quiet || total == 0 {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.on_terminal {
            // The bar ends with its step.
            bars()
                .get_or_insert_with(Bars::new)
                .show(WHOLE, &state.step, done, total);
        } else if total != state.shown.1 || done * 4 / total > state.shown.0 * 4 / total {
            // Quarters: a log of four lines for any size.
            line(&format!("  {} of {}", Bytes(done), Bytes(total)));
        } else {
            return;
        }
        state.shown = (done, total);
    }

    fn part(&self, part: &str, done: u64, total: u64) {
        if self.verbosity > Verbosity::Quiet && self.on_terminal && total > 0 {
            bars().get_or_insert_with(Bars::new).show(part, part, done, total);
        }
    }

    fn warn(&self, text: &str) {
        line(&format!("warning: {}", escape(text)));
    }

    /// Times are for reports, whose `progress::Recorder` keeps them, and for who wants to know everything.
    fn spent(&self, stage: &'static str, time: Duration) {
        if self.verbosity == Verbosity::Verbose {
            line(&format!("  {stage} took {:.3} s", time.as_secs_f64()));
        }
    }
}

fn new_bar(step: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    // The units of all other sizes.
    let template = "{msg:40!} {wide_bar} {decimal_bytes}/{decimal_total_bytes}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(step.to_owned());
    bar
}
