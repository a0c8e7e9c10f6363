//! Reports progress on standard error: a bar on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::escape::escape;
use crate::progress::Progress;

/// Prints what a build does. Several threads may call it at once.
pub struct Narrator {
    bar: Option<ProgressBar>,
    last: Mutex<(u64, u64)>,
}

impl Narrator {
    /// Draws a bar when standard error is a terminal.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{msg:40!} {wide_bar} {bytes}/{total_bytes}") {
                bar.set_style(style);
            }
            bar
        });
        Self {
            bar,
            last: Mutex::default(),
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            // A closed standard error is no reason to stop.
            None => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }
}

/// Says for whom the store waits, where that is no step of its own.
pub fn tell_wait(holder: &str) {
    // A closed standard error is no reason to stop.
    drop(writeln!(std::io::stderr(), "Waiting for {}", escape(holder)));
}

impl Progress for Narrator {
    fn step(&self, verb: &str, object: &str) {
        let text = format!("{verb} {}", escape(object));
        if let Some(bar) = &self.bar {
            bar.set_message(text.clone());
        }
        self.line(&text);
    }

    fn bytes(&self, done: u64, total: u64) {
        let Ok(mut last) = self.last.lock() else { return };
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        } else if total > 0 && (total != last.1 || done * 4 / total > last.0 * 4 / total) {
            // Quarters: a log of four lines for any size.
            self.line(&format!(
                "  {} of {}",
                crate::policy::Bytes(done),
                crate::policy::Bytes(total)
            ));
        } else {
            return;
        }
        *last = (done, total);
    }

    fn warn(&self, text: &str) {
        self.line(&format!("warning: {}", escape(text)));
    }

    // Times are for reports, whose `progress::Recorder` keeps them.
    fn spent(&self, _: &'static str, _: Duration) {}
}
