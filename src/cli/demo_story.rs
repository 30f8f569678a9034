//! What `emt demo` says at its end: who gained what, who lost what, and whom the gate lets pass.

use std::fmt::Write as _;
use std::path::Path;

use crate::chart::words::printable;
use crate::compare::{DatasetSummary, Summary};
use crate::report;

/// What became of one fine-tune.
pub(super) struct Outcome {
    /// The name of its run.
    pub name: &'static str,
    /// Its evaluation.
    pub after: Summary,
    /// The exit code of `emt gate` on it.
    pub gate: u8,
}

/// The accuracies as a table, and a sentence or two on each fine-tune.
pub(super) fn tell(base: &Summary, outcomes: &[Outcome], tuned_on: &str) -> String {
    let all: Vec<Summary> =
        std::iter::once(base).chain(outcomes.iter().map(|outcome| &outcome.after)).cloned().collect();
    let mut text = report::side_by_side(&all, true);
    let _ = writeln!(text, "All three learnt {tuned_on} and nothing else.\n");
    for outcome in outcomes {
        let verdict = match outcome.gate {
            0 => "The gate lets it pass (exit code 0)".to_owned(),
            1 => "The gate stops it (exit code 1)".to_owned(),
            code => format!("The gate cannot decide; it needs more images (exit code {code})"),
        };
        let _ = writeln!(text, "`{}` {}. {verdict}.", outcome.name, gains_and_losses(base, &outcome.after));
    }
    text
}

/// The dataset on which accuracy fell most; `None` if it fell on none.
pub(super) fn most_lost(base: &Summary, after: &Summary) -> Option<String> {
    let fall = |before: &DatasetSummary| {
        let now = after.datasets.iter().find(|dataset| dataset.dataset == before.dataset)?;
        let fall = before.model.as_ref()?.accuracy? - now.model.as_ref()?.accuracy?;
        (fall > 0.0).then_some((fall, before.dataset.clone()))
    };
    let falls = base.datasets.iter().filter_map(fall);
    falls.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, dataset)| dataset)
}

/// Where the results are, and what to type next; `passed` is the run of the example.
pub(super) fn what_next(dir: &Path, policy_file: &str, passed: &str) -> String {
    let at = |name: &str| printable(&dir.join(name).display().to_string());
    format!(
        "\n\
         The page: {page} (every lost image, class by class)\n\
         The rose: {rose}, {svg}\n\
         Why it forgot: {why}\n\
         \n\
         Next, the decision on `{passed}` in full:\n    \
         emt gate --baseline {base} --candidate {candidate} --policy {policy}\n\
         Your own model before and after its fine-tune:\n    \
         emt eval --model MODEL --adapter tuned=ADAPTER --out runs\n    \
         emt gate --baseline runs/base --candidate runs/tuned\n",
        page = at("report.html"),
        rose = at("rose.png"),
        svg = at("rose.svg"),
        why = at("diagnosis/diagnosis.html"),
        base = at("base"),
        candidate = at(passed),
        policy = at(policy_file),
    )
}

/// `gained 10.7 points on A, and lost 3.0 points on B and 0.3 points on C`.
fn gains_and_losses(base: &Summary, after: &Summary) -> String {
    let (mut gains, mut losses) = (Vec::new(), Vec::new());
    for before in &base.datasets {
        let now = after.datasets.iter().find(|dataset| dataset.dataset == before.dataset);
        let accuracies =
            (before.model.as_ref().and_then(|it| it.accuracy), now.and_then(|it| it.model.as_ref()?.accuracy));
        let (Some(before_it), Some(now)) = accuracies else { continue };
        let tenths = ((now - before_it) * 1000.0).round();
        let change = format!("{:.1} points on {}", tenths.abs() / 10.0, printable(&before.dataset));
        if tenths > 0.0 {
            gains.push(change);
        } else if tenths < 0.0 {
            losses.push(change);
        }
    }
    match (gains.is_empty(), losses.is_empty()) {
        (true, true) => "gained and lost nothing".to_owned(),
        (false, true) => format!("gained {}, and lost nothing", and(&gains)),
        (true, false) => format!("gained nothing, and lost {}", and(&losses)),
        (false, false) => format!("gained {}, and lost {}", and(&gains), and(&losses)),
    }
}

/// `a`, `a and b`, `a, b and c`.
fn and(parts: &[String]) -> String {
    match parts.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => parts.concat(),
    }
}

#[cfg(test)]
mod tests;
