//! Progress on standard error: one bar per dataset on a terminal, else one plain line every few seconds.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::eval::{Event, Observer};
use crate::judging::JudgeCounters;

/// Without a terminal a line is written at this interval.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Shows a run's events.
pub(super) struct Progress<'a> {
    err: &'a mut dyn Write,
    quiet: bool,
    is_terminal: bool,
    bar: Option<(String, ProgressBar)>,
    last_line: Instant,
    /// When the dataset's first batch was there, and how many samples were done then: how long that batch took, with all
    /// that had to be made ready for it, is not known here.
    timed_from: Option<(Instant, usize)>,
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
            timed_from: None,
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
        (self.timed_from, self.n_total) = (None, n_total);
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

    /// Images a second, and the time left; `None` until there are two batches to measure between.
    fn speed(&mut self, n_done: usize) -> Option<String> {
        let (start, n_done_before) = *self.timed_from.get_or_insert_with(|| (Instant::now(), n_done));
        let n_timed = n_done.checked_sub(n_done_before).filter(|&n| n > 0)?;
        let rate = n_timed as f64 / start.elapsed().as_secs_f64().max(1e-3);
        let left = Duration::from_secs((self.n_total.saturating_sub(n_done) as f64 / rate) as u64);
        Some(format!("{rate:.1} images/s, {} left, ", humantime::format_duration(left)))
    }

    fn status(&mut self, n_done: usize, n_correct: usize, n_unscored: usize, judges: &JudgeCounters) -> String {
        let speed = self.speed(n_done).unwrap_or_default();
        let mut text = format!("{speed}{n_correct} correct, {n_unscored} unscored");
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

/// The bar of a diagnosis while passes are read, one dataset after the other. Without a terminal, nothing is shown.
pub(super) struct InsideBar {
    is_shown: bool,
    bar: Option<(String, ProgressBar)>,
}

impl InsideBar {
    pub(super) fn new(quiet: bool) -> Self {
        Self { is_shown: !quiet && std::io::stderr().is_terminal(), bar: None }
    }

    /// Shows that `n_done` of `n_total` images of `dataset` were read.
    pub(super) fn show(&mut self, dataset: &str, n_done: usize, n_total: usize) {
        if !self.is_shown {
            return;
        }
        let is_new = self.bar.as_ref().is_none_or(|(shown, _)| shown != dataset);
        if is_new {
            let bar = ProgressBar::with_draw_target(Some(n_total as u64), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{prefix:16} {wide_bar} {pos}/{len}  inside the passes") {
                bar.set_style(style);
            }
            bar.set_prefix(dataset.to_owned());
            self.bar = Some((dataset.to_owned(), bar));
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_position(n_done as u64);
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
            Event::Note(text) => self.say(&text),
            Event::Warning(text) => {
                self.n_warnings += 1;
                if self.n_warnings <= N_WARNINGS_SHOWN_MAX {
                    self.say(&format!("warning: {text}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
