//! Reports progress on standard error: steps as lines, and on a terminal a bar below them for as long as bytes move.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::escape::escape;
use crate::policy::{Bytes, Verbosity};
use crate::progress::Progress;

/// The bar that is on the terminal. There is one terminal, and whoever ends the process has to be able to remove it.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn bar() -> MutexGuard<'static, Option<ProgressBar>> {
    BAR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes the bar, so that what is written next begins a line.
fn clear() {
    if let Some(bar) = bar().take() {
        bar.finish_and_clear();
    }
}

/// Removes the bar for good: the process ends, and threads that are still at work wait before they draw another.
pub(super) fn end() {
    let mut bar = bar();
    if let Some(bar) = bar.take() {
        bar.finish_and_clear();
    }
    std::mem::forget(bar);
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

    /// Removes the bar.
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

/// Writes a line above the bar.
fn line(text: &str) {
    match bar().as_ref() {
        Some(bar) => bar.println(text),
        // A closed standard error is no reason to stop.
        None => drop(writeln!(std::io::stderr(), "{text}")),
    }
}

/// Says for whom the store waits, where that is no step of its own.
pub(super) fn tell_wait(holder: &str) {
    line(&format!("Waiting for {}", escape(holder)));
}

impl Progress for Narrator {
    fn step(&self, verb: &str, object: &str) {
        if self.verbosity == Verbosity::Quiet {
            return;
        }
        let text = format!("{verb} {}", escape(object));
        line(&text);
        self.state.lock().unwrap_or_else(PoisonError::into_inner).step = text;
    }

    fn bytes(&self, done: u64, total: u64) {
        if self.verbosity == Verbosity::Quiet || total == 0 {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.on_terminal {
            // The bar ends with its step.
            if done >= total {
                clear();
            } else {
                let mut bar = bar();
                let bar = bar.get_or_insert_with(|| new_bar(&state.step));
                bar.set_length(total);
                bar.set_position(done);
            }
        } else if total != state.shown.1 || done * 4 / total > state.shown.0 * 4 / total {
            // Quarters: a log of four lines for any size.
            line(&format!("  {} of {}", Bytes(done), Bytes(total)));
        } else {
            return;
        }
        state.shown = (done, total);
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
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    // The units of all other sizes.
    let template = "{msg:40!} {wide_bar} {decimal_bytes}/{decimal_total_bytes}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(step.to_owned());
    bar
}
