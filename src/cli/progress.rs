//! Progress on standard error: one bar a dataset on a terminal, else one plain line every few seconds.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::eval::{Event, Observer};
use crate::judging::JudgeCounters;

/// Without a terminal a line is written so often.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Shows a run's events.
pub(super) struct Progress<'a> {
    err: &'a mut dyn Write,
    quiet: bool,
    is_terminal: bool,
    bar: Option<(String, ProgressBar)>,
    last_line: Instant,
    started: Instant,
    n_done_at_start: usize,
    n_total: usize,
    n_warnings: usize,
}

/// A dataset of broken files must not bury the table.
const N_WARNINGS_SHOWN_MAX: usize = 20;

impl<'a> Progress<'a> {
    pub fn new(err: &'a mut dyn Write, quiet: bool) -> Self {
        Self {
            err,
            quiet,
            is_terminal: std::io::stderr().is_terminal(),
            bar: None,
            last_line: Instant::now(),
            started: Instant::now(),
            n_done_at_start: 0,
            n_total: 0,
            n_warnings: 0,
        }
    }

    /// A line that is not part of the progress.
    pub fn say(&mut self, line: &str) {
        if self.quiet {
            return;
        }
        match &self.bar {
            Some((_, bar)) if self.is_terminal => bar.suspend(|| writeln!(self.err, "{line}").unwrap_or(())),
            _ => writeln!(self.err, "{line}").unwrap_or(()),
        }
    }

    /// Ends the bars; says how many warnings were left out.
    pub fn finish(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish();
        }
        if self.n_warnings > N_WARNINGS_SHOWN_MAX {
            self.say(&format!("warning: {} more of these", self.n_warnings - N_WARNINGS_SHOWN_MAX));
        }
    }

    fn start(&mut self, dataset: &str, n_total: usize, n_done: usize) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish();
        }
        (self.started, self.n_done_at_start, self.n_total) = (Instant::now(), n_done, n_total);
        if self.quiet || !self.is_terminal {
            return;
        }
        let bar = ProgressBar::with_draw_target(Some(n_total as u64), ProgressDrawTarget::stderr());
        let template = "{prefix:16} {wide_bar} {pos}/{len}  {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(dataset.to_owned());
        bar.set_position(n_done as u64);
        self.bar = Some((dataset.to_owned(), bar));
    }

    fn status(&self, n_done: usize, n_correct: usize, n_unscored: usize, judges: &JudgeCounters) -> String {
        let seconds = self.started.elapsed().as_secs_f64().max(1e-3);
        let rate = (n_done - self.n_done_at_start.min(n_done)) as f64 / seconds;
        let left = if rate > 0.0 { (self.n_total - n_done.min(self.n_total)) as f64 / rate } else { 0.0 };
        let left = humantime::format_duration(Duration::from_secs(left as u64));
        let mut text = format!("{rate:.1} images/s, {left} left, {n_correct} correct, {n_unscored} unscored");
        if judges.n_distinct > 0 {
            text.push_str(&format!(
                ", judge: {} calls for {} pairs of {} answers",
                judges.n_calls, judges.n_distinct, judges.n_answers
            ));
        }
        text
    }

    fn plain(&mut self, line: &str) {
        if !self.quiet && self.last_line.elapsed() >= PLAIN_INTERVAL {
            self.last_line = Instant::now();
            writeln!(self.err, "{line}").unwrap_or(());
        }
    }
}

impl Observer for Progress<'_> {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::DatasetStarted { dataset, n_total, n_done } => self.start(dataset, n_total, n_done),
            Event::Progress { dataset, n_done, n_correct, n_unscored, judges } => {
                let status = self.status(n_done, n_correct, n_unscored, &judges);
                match &self.bar {
                    Some((_, bar)) => {
                        bar.set_position(n_done as u64);
                        bar.set_message(status);
                    }
                    None => {
                        let n_total = self.n_total.max(n_done);
                        self.plain(&format!("{dataset}: {n_done}/{n_total}, {status}"));
                    }
                }
            }
            Event::WaitingForJudges { n_open, judges } => {
                let line = format!("waiting for the judge: {n_open} answers open, {} calls made", judges.n_calls);
                match &self.bar {
                    Some((_, bar)) => bar.set_message(line),
                    None => self.plain(&line),
                }
            }
            Event::Warning(text) => {
                self.n_warnings += 1;
                if self.n_warnings <= N_WARNINGS_SHOWN_MAX {
                    self.say(&format!("warning: {text}"));
                }
            }
        }
    }
}
