//! A sweep as JSON, Markdown, HTML and text.

#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use super::html::page::{Figures, page, section, write_folded_table, write_table};
use super::markdown;
use super::table::write_aligned;
use super::tables::{Table, table};
use crate::chart::{Drawn, escape, words};
use crate::compare::{Sweep, SweepRow, SweepTask};

/// The pictures of a sweep.
#[derive(Clone, Debug)]
pub struct SweepCharts {
    /// Gain against forgetting, one per task.
    pub frontiers: Vec<Drawn>,
    /// A rose per arm.
    pub roses: Option<Drawn>,
}

/// The explanation of ranks, below every table of them.
const RANKS: &str = "Arms are ranked at their last epoch. An arm has a rank if no other gains more than it by more than the \
                     tolerance; its rank is 1 + the number of ranked arms that forget less. Both are beyond doubt only outside \
                     simultaneous intervals, so arms that cannot be told apart share a rank.";

/// `sweep.json`.
pub fn sweep_json(sweep: &Sweep) -> String {
    let mut text = serde_json::to_string_pretty(sweep).expect("a sweep holds only strings as keys");
    text.push('\n');
    text
}

fn title(sweep: &Sweep) -> String {
    format!("Which arm forgets what: {}", sweep.model)
}

/// What the arms of a task learn.
fn heading(task: &SweepTask) -> String {
    format!("New: {}", task.new.join(", "))
}

/// The answer first: who forgets least.
fn headline(sweep: &Sweep, place: usize) -> String {
    let last: Vec<&SweepRow> = last_of(sweep, place).collect();
    let first: Vec<&str> = last.iter().filter(|row| row.rank == Some(1)).map(|row| row.arm.as_str()).collect();
    let n_ranked = last.iter().filter(|row| row.rank.is_some()).count();
    let ranking = match (first.as_slice(), n_ranked) {
        ([], _) => return "No arm can be ranked: new and other datasets must be evaluated.".to_owned(),
        ([only], 1) => format!("{only} alone has a rank: the others gain less."),
        ([only], _) => format!("{only} forgets least at equal gain."),
        (several, n) if several.len() == n => {
            format!("{} cannot be told apart by what they forget.", several.join(", "))
        }
        (several, _) => format!("{} forget least at equal gain, and cannot be told apart.", several.join(", ")),
    };
    match last.iter().any(|row| row.shows_gain()) {
        true => ranking,
        false => format!("No arm gains anything beyond doubt. {ranking}"),
    }
}

/// The rows of a task over all seeds, at the last epoch: ranked arms first.
fn last_of(sweep: &Sweep, task: usize) -> impl Iterator<Item = &SweepRow> {
    let mut rows: Vec<&SweepRow> = sweep.overall().filter(|row| row.task == task && sweep.is_last(row)).collect();
    rows.sort_by(|one, other| {
        let rank = |row: &SweepRow| row.rank.unwrap_or(usize::MAX);
        let forgetting = |row: &SweepRow| row.forgetting.unwrap_or(f64::INFINITY);
        rank(one).cmp(&rank(other)).then(forgetting(one).total_cmp(&forgetting(other)))
    });
    rows.into_iter()
}

/// A row per arm: its rank, what it gains and forgets, and the change on each dataset.
fn ranking(sweep: &Sweep, place: usize) -> Table {
    let datasets = sweep.tasks.get(place).map(|task| task.datasets.as_slice()).unwrap_or_default();
    let mut columns = vec!["Arm", "Rank", "Gain", "Forgetting"];
    columns.extend(datasets.iter().map(|dataset| dataset.dataset.as_str()));
    columns.extend(["Trained values", "Epochs", "Seeds"]);
    let row = |row: &SweepRow| {
        let mut cells = vec![
            row.arm.clone(),
            row.rank.map_or_else(|| words::MISSING.to_owned(), |rank| rank.to_string()),
            words::points(row.gain, row.gain_interval),
            words::points(row.forgetting, row.forgetting_interval),
        ];
        cells.extend(row.datasets.iter().map(change));
        cells.push(row.details.n_trainable.map_or_else(|| words::MISSING.to_owned(), thousands));
        cells.extend([row.epoch.to_string(), row.n_seeds.to_string()]);
        cells
    };
    let rows: Vec<Vec<String>> = last_of(sweep, place).map(row).collect();
    let n_columns = columns.len();
    let caption = format!(
        "Gain on the new datasets and forgetting on the others, in points of accuracy with simultaneous {:.0}% intervals; \
         then accuracy in percent before → after",
        sweep.confidence * 100.0
    );
    table(&caption, &columns, 1..n_columns, rows)
}

fn change(dataset: &crate::compare::RowDataset) -> String {
    let [before, after] = [dataset.baseline_accuracy, dataset.accuracy].map(words::percent_number);
    words::change(&before, &after)
}

/// `12,345`.
fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Every epoch and seed of a task.
fn epochs(sweep: &Sweep, place: usize) -> Table {
    let rows = sweep.arms.iter().filter(|row| row.task == place).map(|row| {
        vec![
            row.arm.clone(),
            row.epoch.to_string(),
            row.seed.map_or_else(|| "mean".to_owned(), |seed| seed.to_string()),
            words::points(row.gain, row.gain_interval),
            words::points(row.forgetting, row.forgetting_interval),
            if row.is_on_frontier { "yes".to_owned() } else { String::new() },
        ]
    });
    table(
        "Every epoch and seed; on the frontier is what no other arm or epoch beats in gain and forgetting",
        &["Arm", "Epoch", "Seed", "Gain", "Forgetting", "On the frontier"],
        1..5,
        rows.collect(),
    )
}

/// One line per training that ended with an error.
fn failures(sweep: &Sweep) -> impl Iterator<Item = String> + '_ {
    sweep.failed.iter().map(|failed| format!("{}, seed {}: {}", failed.arm, failed.seed, failed.message))
}

/// The ranking for a terminal.
pub fn sweep_table(sweep: &Sweep) -> String {
    let mut text = String::new();
    for (place, task) in sweep.tasks.iter().enumerate() {
        let _ = writeln!(text, "{}\n{}\n", words::printable(&heading(task)), words::printable(&headline(sweep, place)));
        let ranking = ranking(sweep, place);
        let mut rows = vec![ranking.columns.iter().map(|column| words::printable(column).to_lowercase()).collect()];
        rows.extend(ranking.rows);
        write_aligned(&mut text, &rows);
        text.push('\n');
        for note in &task.notes {
            let _ = writeln!(text, "note: {}", words::printable(note));
        }
    }
    text
}

/// `sweep.md`; it shows the pictures of the same folder.
pub fn sweep_markdown(sweep: &Sweep, command: &str) -> String {
    let mut text = format!("# {}\n\n", markdown::escape(&title(sweep)));
    for failure in failures(sweep) {
        let _ = writeln!(text, "> **Failed.** {}\n", markdown::escape(&failure));
    }
    for (place, task) in sweep.tasks.iter().enumerate() {
        let _ = writeln!(
            text,
            "## {}\n\n{}\n",
            markdown::escape(&heading(task)),
            markdown::escape(&headline(sweep, place))
        );
        markdown::write_table(&mut text, &ranking(sweep, place));
        for note in &task.notes {
            let _ = writeln!(text, "- {}", markdown::escape(note));
        }
        text.push_str(if task.notes.is_empty() { "" } else { "\n" });
        markdown::write_table(&mut text, &epochs(sweep, place));
    }
    let _ = writeln!(text, "{RANKS} Tolerance: {} points.\n", words::points(Some(sweep.gain_tolerance), None));
    text.push_str("![Gain against forgetting](frontier.svg)\n\n![A rose per arm](roses.svg)\n\n");
    let fence = markdown::fence(command, 3);
    let _ = writeln!(text, "{fence}\n{command}\n{fence}");
    text
}

/// `sweep.html`: one page that needs no network.
pub fn sweep_html(sweep: &Sweep, charts: &SweepCharts, command: &str) -> String {
    let title = escape(&title(sweep));
    let mut body = format!("<header>\n<h1>{title}</h1>\n</header>\n");
    let mut figures = Figures::default();
    if !sweep.failed.is_empty() {
        section(&mut body, "failed", "Trainings that failed");
        let lines: Vec<String> = failures(sweep).map(|line| format!("<li>{}</li>", escape(&line))).collect();
        let _ = writeln!(body, "<ul>\n{}\n</ul>\n</section>", lines.join("\n"));
    }
    for (place, task) in sweep.tasks.iter().enumerate() {
        section(&mut body, &format!("t{place}"), &escape(&heading(task)));
        let _ = writeln!(body, "<p><strong>{}</strong></p>", escape(&headline(sweep, place)));
        write_table(&mut body, &ranking(sweep, place));
        for note in &task.notes {
            let _ = writeln!(body, "<p>{}</p>", escape(note));
        }
        if let Some(frontier) = charts.frontiers.get(place) {
            let caption =
                "Gain and forgetting after each epoch; a ring marks arms of rank 1. Right and down is better.";
            figures.write(&mut body, frontier, caption);
        }
        write_folded_table(&mut body, &epochs(sweep, place));
        body.push_str("</section>\n");
    }
    if let Some(roses) = &charts.roses {
        section(&mut body, "roses", "Roses");
        figures.write(&mut body, roses, "Accuracy on each dataset before and after the last epoch.");
        body.push_str("</section>\n");
    }
    section(&mut body, "making", "How this was made");
    let _ = writeln!(body, "<p>{RANKS} Tolerance: {} points.</p>", words::points(Some(sweep.gain_tolerance), None));
    let _ = writeln!(body, "<pre tabindex=\"0\"><code>{}</code></pre>\n</section>", escape(command));
    let _ = writeln!(body, "<footer>emt {}</footer>", env!("CARGO_PKG_VERSION"));
    page(&title, &body)
}
