//! What is being done, for people who wait.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often the display moves.
const TICK: Duration = Duration::from_millis(100);

/// What is being done, on standard error: a moving line on a terminal, else a line for each step.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn begin(message: &'static str) -> Self {
        let bar = ProgressBar::new_spinner();
        // The default style is taken if this one is wrong.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.set_message(message);
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    pub(crate) fn tell(&self, message: &'static str) {
        self.0.set_message(message);
        if self.0.is_hidden() {
            eprintln!("{message}");
        }
    }

    pub(crate) fn end(&self) {
        self.0.finish_and_clear();
    }
}
