//! How many records so far and how fast, on stderr: a line that is drawn anew on a terminal, or a line a second where one is asked for.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

/// Between two lines where stderr is no terminal.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Leaves nothing on a terminal when it is dropped.
#[derive(Debug)]
pub(super) struct Progress {
    /// What has been done to the records: `acknowledged`, `read`.
    done: &'static str,
    bar: ProgressBar,
    plainly: bool,
    next: Instant,
    started: Instant,
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Progress {
    /// On a terminal always, elsewhere where `wanted`.
    pub(super) fn new(done: &'static str, wanted: bool) -> Progress {
        let is_terminal = std::io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template(&format!("{{spinner}} {{human_pos}} records {done}, {{per_sec}}"));
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        let now = Instant::now();
        Progress { done, bar, plainly: wanted && !is_terminal, next: now + REPORT_EVERY, started: now }
    }

    pub(super) fn silent() -> Progress {
        let now = Instant::now();
        Progress { done: "", bar: ProgressBar::hidden(), plainly: false, next: now, started: now }
    }

    pub(super) fn tell(&mut self, records: u64) {
        self.bar.set_position(records);
        if self.plainly && Instant::now() >= self.next {
            self.next = Instant::now() + REPORT_EVERY;
            let rate = records as f64 / self.started.elapsed().as_secs_f64();
            eprintln!("{records} records {}, {rate:.0} a second", self.done);
        }
    }
}
