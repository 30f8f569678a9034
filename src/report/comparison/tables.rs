//! The tables of a comparison, shared by Markdown and HTML.

use std::collections::BTreeMap;

use super::super::notes;
use super::super::tables::{Table, rate, table};
use super::csv::FUNNEL_CELLS;
use super::summary_of;
use super::verdict::LostAt;
use crate::chart::words;
use crate::compare::{
    CandidateComparison, ClassComparison, Comparison, DatasetComparison, Errors, Funnel, Interval, Summary,
    TowerForgetting,
};
use crate::domain::{ErrorCode, ErrorKind};
use crate::finetune::Curve;

/// The most classes of a dataset that are shown.
const N_CLASSES: usize = 10;

/// The most changed confusions of a dataset that are shown.
const N_SHIFTS: usize = 10;

/// The most characters of a field's value or an answer in a table.
const N_TEXT_MAX: usize = 160;

/// All datasets of a candidate, one row each. The datasets' own tables show what does not fit on a screen.
///
/// `after` is the candidate's summary, which has its encoder's accuracy.
pub fn overview(candidate: &CandidateComparison, after: &Summary) -> Table {
    let row = |dataset: &DatasetComparison| {
        let retention = [dataset.retention_before, dataset.retention_after].map(words::percent);
        vec![
            named(dataset),
            rate((dataset.baseline_accuracy, dataset.baseline_accuracy_interval)),
            rate((dataset.candidate_accuracy, dataset.candidate_accuracy_interval)),
            words::percent(summary_of(after, &dataset.dataset).and_then(|one| one.encoder.as_ref()?.accuracy)),
            words::points(dataset.forgetting, dataset.forgetting_interval),
            dataset.n_lost.to_string(),
            dataset.n_gained.to_string(),
            retention.join(" → "),
            n_scored(dataset),
        ]
    };
    let encoder = words::capital(&words::encoder_column(&after.encoder));
    let columns = ["Dataset", "Before", "After", &encoder, "Fall, points", "Lost", "Gained", "Retention", "Images"];
    let caption = "Before and after on the same images, as many as are scored in both runs, with 95% intervals; the fall's is Tango's for paired answers";
    table(caption, &columns, 1..columns.len(), candidate.datasets.iter().map(row).collect())
}

/// The columns for a pull request.
pub fn short(candidate: &CandidateComparison, after: &Summary) -> Table {
    let row = |dataset: &DatasetComparison| {
        vec![
            named(dataset),
            words::percent(dataset.baseline_accuracy),
            words::percent(dataset.candidate_accuracy),
            words::points(dataset.forgetting, dataset.forgetting_interval),
            dataset.n_lost.to_string(),
            dataset.n_gained.to_string(),
            notes::count(dataset.encoder_knows),
            n_scored(dataset),
        ]
    };
    let knows = format!("{} knows", words::capital(words::encoder_noun(&after.encoder)));
    let columns = ["Dataset", "Before", "After", "Fall, points", "Lost", "Gained", &knows, "Images"];
    let caption = "Before and after on the same images, as many as are scored in both runs; the fall with its 95% interval (Tango)";
    table(caption, &columns, 1..columns.len(), candidate.datasets.iter().map(row).collect())
}

/// The falls of all candidates, as the forest plot and the small roses show them.
pub fn falls(comparison: &Comparison) -> Table {
    let is_single = comparison.candidates.len() == 1;
    let row = |candidate: &CandidateComparison, dataset: &DatasetComparison| {
        let mut cells = if is_single { Vec::new() } else { vec![candidate.run.clone()] };
        cells.extend([
            named(dataset),
            words::percent(dataset.baseline_accuracy),
            words::percent(dataset.candidate_accuracy),
            words::points(dataset.forgetting, dataset.forgetting_interval),
            n_scored(dataset),
        ]);
        cells
    };
    let of = |candidate| move |dataset| row(candidate, dataset);
    let rows = comparison.candidates.iter().flat_map(|candidate| candidate.datasets.iter().map(of(candidate)));
    let all = ["Run", "Dataset", "Before", "After", "Fall, points", "Images"];
    let columns = if is_single { &all[1..] } else { &all[..] };
    let numbers = columns.len() - 4..columns.len();
    let caption =
        "The fall of accuracy in percentage points, with 95% intervals, over the images that are scored in both runs";
    table(caption, columns, numbers, rows.collect())
}

/// The number of images of `dataset` that are scored in both runs, which its accuracies are over.
fn n_scored(dataset: &DatasetComparison) -> String {
    dataset.n_pairs.saturating_sub(dataset.n_unscored).to_string()
}

fn named(dataset: &DatasetComparison) -> String {
    let mut remarks = Vec::new();
    if dataset.is_tuned_on {
        remarks.push("tuned on");
    }
    if dataset.is_training_split {
        remarks.push("training split!");
    }
    match remarks.is_empty() {
        true => dataset.dataset.clone(),
        false => format!("{} ({})", dataset.dataset, remarks.join(", ")),
    }
}

/// The rates before and after.
pub fn rates(dataset: &DatasetComparison, encoder: &str) -> Table {
    let leak = dataset.share_of_code(ErrorCode::Leak);
    let constant = [&dataset.constant_answer_before, &dataset.constant_answer_after];
    let [before, after] = constant.map(|constant| match constant {
        Some(constant) => words::percent(Some(constant.share)),
        None => "none".to_owned(),
    });
    let row = |name: &str, before: String, after: String| vec![name.to_owned(), before, after];
    let rows = vec![
        row(
            "Accuracy",
            rate((dataset.baseline_accuracy, dataset.baseline_accuracy_interval)),
            rate((dataset.candidate_accuracy, dataset.candidate_accuracy_interval)),
        ),
        row(
            &format!("Retention (model over {encoder})"),
            rate((dataset.retention_before, dataset.retention_before_interval)),
            rate((dataset.retention_after, dataset.retention_after_interval)),
        ),
        row("Leak of the fine-tuned labels", words::percent(leak[0]), words::percent(leak[1])),
        row("The same answer to most images", before, after),
    ];
    let caption = format!(
        "Accuracy over the {} images that are scored in both runs, retention and signs of collapse, with 95% intervals",
        n_scored(dataset)
    );
    table(&caption, &["What", "Before", "After"], 1..3, rows)
}

/// The measures of what was lost, each with its meaning.
pub fn forgetting(dataset: &DatasetComparison, encoder: &str) -> Table {
    let row = |name: &str, value: String, says: &str| vec![name.to_owned(), value, says.to_owned()];
    let bounds = dataset.forgetting_bounds.map_or_else(
        || words::MISSING.to_owned(),
        |[low, high]| {
            let [low, high] = [low, high].map(|end| words::points(Some(end), None));
            format!("{low} to {high}")
        },
    );
    let rows = vec![
        row(
            "Forgetting",
            words::points(dataset.forgetting, dataset.forgetting_interval),
            "accuracy before minus accuracy after, in points; interval by Tango for paired answers",
        ),
        row("Within bounds", bounds, "the fall with every unscored pair against and for the model, in points"),
        row("Lost", dataset.n_lost.to_string(), "images right before and wrong after"),
        row("Gained", dataset.n_gained.to_string(), "images wrong before and right after"),
        row(
            &format!("{} knows", words::capital(encoder)),
            notes::count(dataset.encoder_knows),
            &format!("of the lost, those that the candidate's {encoder} gets right"),
        ),
        row(
            "Negative flip rate",
            words::percent(dataset.negative_flip_rate),
            "lost over all scored pairs: what a user of the old model sees break",
        ),
        row(
            "Forgetting beyond chance",
            words::percent(dataset.chance_corrected_forgetting),
            "lost minus those that two guessers would lose; for free answers the correction is an upper bound",
        ),
        row("Gain beyond chance", words::percent(dataset.chance_corrected_gain), "the same for gained images"),
        row(
            "p (McNemar)",
            words::p_value(dataset.p_value_mcnemar),
            "exact, two-sided: how likely losses and gains this unequal are if nothing changed",
        ),
        row(
            "Detectable fall",
            words::points(dataset.minimum_detectable_fall, None),
            "the smallest fall, in points, that this many pairs show in 4 of 5 cases",
        ),
        row("Pairs", dataset.n_pairs.to_string(), "images answered in both runs"),
        row(
            "Unscored",
            dataset.n_unscored.to_string(),
            "pairs that count neither way, because one side has no verdict",
        ),
        row("Unreadable", dataset.n_unreadable.to_string(), "left out: the image is unreadable in both runs"),
        row("Without partner", dataset.n_unpaired.to_string(), "left out: trials of one run alone"),
    ];
    table("What was lost", &["What", "Value", "What it says"], 1..2, rows)
}

/// The eight cells of the funnel, before and after.
pub fn funnel(funnel: &Funnel) -> Table {
    let reads = [
        "knows, chooses and says it",
        "knows and chooses it, does not say it: wording",
        "knows it and says it, though scoring chooses another",
        "knows it, neither chooses nor says it: choice",
        "the encoder errs, the model chooses and says it",
        "only scoring is right",
        "only the answer is right",
        "none is right",
    ];
    let right = |is_right: bool| if is_right { "right" } else { "wrong" }.to_owned();
    let rows = FUNNEL_CELLS.iter().zip(reads).map(|(cell, reads)| {
        let is_one = |place: usize| right(cell.as_bytes().get(place) == Some(&b'1'));
        let n = |counts: &BTreeMap<String, usize>| counts.get(*cell).copied().unwrap_or(0).to_string();
        vec![reads.to_owned(), is_one(1), is_one(3), is_one(5), n(&funnel.before), n(&funnel.after)]
    });
    table(
        "Images by who is right: encoder, label scoring, generated answer",
        &["What it says", "Encoder", "Scoring", "Generation", "Before", "After"],
        4..6,
        rows.collect(),
    )
}

/// Where the lost images were lost, and how to fix it.
pub fn losses(funnel: &Funnel) -> Table {
    let n_lost: usize = LostAt::ALL.iter().map(|stage| stage.n_lost(funnel)).sum();
    let rows = LostAt::ALL.map(|stage| {
        let n = stage.n_lost(funnel);
        vec![stage.name().to_owned(), share(n, n_lost), stage.meaning().to_owned(), stage.mend().to_owned()]
    });
    table("Where the lost images were lost", &["Lost", "Images", "What it means", "What mends it"], 1..2, rows.to_vec())
}

/// Formats `12 (34.0%)`; only the number if `whole` is 0.
fn share(n: usize, whole: usize) -> String {
    if n == 0 || whole == 0 {
        n.to_string()
    } else {
        format!("{n} ({})", words::percent(Some(n as f64 / whole as f64)))
    }
}

/// Errors by kind and code, before and after.
pub fn errors(dataset: &DatasetComparison) -> Table {
    let sides = [&dataset.errors_before, &dataset.errors_after];
    let row = |kind: ErrorKind, code: String, n: fn(&Errors, &str) -> usize, name: &str| {
        let [before, after] = sides.map(|errors| n(errors, name));
        let mut cells = vec![notes::kind_name(kind).to_owned(), code];
        cells.extend(sides.map(|errors| share(n(errors, name), errors.n_scored)));
        cells.push(signed(after as i64 - before as i64));
        cells
    };
    let of_kind: fn(&Errors, &str) -> usize = |errors, name| errors.kinds.get(name).copied().unwrap_or(0);
    let of_code: fn(&Errors, &str) -> usize = |errors, name| errors.codes.get(name).copied().unwrap_or(0);
    let mut rows = Vec::new();
    for kind in ErrorKind::ALL {
        rows.push(row(kind, "all".to_owned(), of_kind, kind.name()));
        let occurs = |code: &ErrorCode| sides.iter().any(|errors| errors.codes.contains_key(code.name()));
        for code in ErrorCode::ALL.into_iter().filter(|code| code.kind() == kind).filter(occurs) {
            rows.push(row(kind, notes::spaced(code.name()), of_code, code.name()));
        }
    }
    let caption = "Errors by kind and code, with their share of the scored answers of each run";
    table(caption, &["Kind", "Code", "Before", "After", "Change"], 2..5, rows)
}

/// Formats `+12`, `−3` or `0`.
fn signed(n: i64) -> String {
    match n {
        1.. => format!("+{n}"),
        0 => "0".to_owned(),
        _ => format!("−{}", n.unsigned_abs()),
    }
}

/// The meanings of the codes that occur.
pub fn meanings(candidate: &CandidateComparison) -> Table {
    super::super::tables::meanings_of(|code| {
        let mut sides = candidate.datasets.iter().flat_map(|dataset| [&dataset.errors_before, &dataset.errors_after]);
        sides.any(|errors| errors.codes.contains_key(code.name()))
    })
}

/// Transitions: one row per state before, one column per state after.
pub fn transitions(dataset: &DatasetComparison) -> Table {
    let states = |side: fn(&crate::compare::Transition) -> &str| {
        let mut names: Vec<&str> = dataset.transitions.iter().map(side).collect();
        let rank = |name: &str| match ErrorCode::ALL.into_iter().position(|code| code.name() == name) {
            _ if name == "correct" => 0,
            Some(place) => 1 + place,
            None => usize::MAX,
        };
        names.sort_by_key(|name| (rank(name), *name));
        names.dedup();
        names
    };
    let (from, to) = (states(|transition| &transition.from), states(|transition| &transition.to));
    let n = |from: &str, to: &str| -> usize {
        let those = dataset.transitions.iter().filter(|one| one.from == from && one.to == to);
        those.map(|one| one.n).sum()
    };
    let row = |from: &&str| {
        let mut cells = vec![notes::spaced(from)];
        cells.extend(to.iter().map(|to| n(from, to).to_string()));
        cells.push(to.iter().map(|to| n(from, to)).sum::<usize>().to_string());
        cells
    };
    let heads: Vec<String> = to.iter().map(|state| notes::spaced(state)).collect();
    let mut columns = vec!["Before ↓ after →"];
    columns.extend(heads.iter().map(String::as_str));
    columns.push("All");
    let caption = "Images by what they were before (rows) and are after (columns)";
    table(caption, &columns, 1..columns.len(), from.iter().map(row).collect())
}

/// The most forgotten classes.
pub fn classes(dataset: &DatasetComparison) -> Table {
    let row = |class: &ClassComparison| {
        vec![
            class.label.clone(),
            words::percent(class.baseline_accuracy),
            words::percent(class.candidate_accuracy),
            words::points(class.forgetting, None),
            class.n_lost.to_string(),
            class.n_gained.to_string(),
            words::p_value(class.p_holm),
            class.n_scored.to_string(),
        ]
    };
    let columns = ["Label", "Before", "After", "Fall, points", "Lost", "Gained", "p (Holm)", "Pairs"];
    let forgotten: Vec<&ClassComparison> =
        dataset.classes.iter().filter(|class| class.forgetting.is_some_and(|fall| fall > 0.0)).collect();
    let more = match forgotten.len().saturating_sub(N_CLASSES) {
        0 => String::new(),
        n => format!("; {n} more in comparison.json"),
    };
    let caption =
        format!("The most forgotten classes; McNemar's p is adjusted by Holm over the dataset's classes{more}");
    table(&caption, &columns, 1..columns.len(), forgotten.into_iter().take(N_CLASSES).map(row).collect())
}

/// Changes in what is said instead of a label.
pub fn shifts(dataset: &DatasetComparison) -> Table {
    let rows = dataset.confusion_shifts.iter().take(N_SHIFTS).map(|shift| {
        let said =
            if shift.said.is_empty() { "nothing".to_owned() } else { format!("“{}”", shortened(&shift.said)) };
        let change = signed(shift.n_after as i64 - shift.n_before as i64);
        vec![shift.label.clone(), said, shift.n_before.to_string(), shift.n_after.to_string(), change]
    });
    let columns = ["Label", "Said instead", "Before", "After", "Change"];
    table("Confusions that changed most", &columns, 2..5, rows.collect())
}

/// The pairs as graded by each judge separately.
pub fn judges(dataset: &DatasetComparison) -> Table {
    let rows = dataset.judges.iter().map(|judge| {
        vec![
            judge.judge.clone(),
            words::percent(judge.baseline_accuracy),
            words::percent(judge.candidate_accuracy),
            words::points(judge.forgetting, None),
            judge.table.lost.to_string(),
            judge.table.gained.to_string(),
            judge.table.n_scored().to_string(),
            judge.table.n_unscored().to_string(),
        ]
    });
    let columns = ["Judge", "Before", "After", "Fall, points", "Lost", "Gained", "Scored", "Unscored"];
    table("The same pairs under each judge alone", &columns, 1..columns.len(), rows.collect())
}

/// How far two judges of one run agree.
pub fn agreement(dataset: &DatasetComparison) -> Table {
    let rows = dataset.judge_agreement.iter().map(|one| {
        let mut cells = vec![one.side.clone(), one.judges.join(" and ")];
        cells.extend(one.cells.map(|n| n.to_string()));
        cells.push(words::percent(one.agreement));
        cells.push(kappa(one.kappa, one.kappa_interval));
        cells
    });
    let columns = ["Run", "Judges", "Both correct", "Only the first", "Only the second", "Neither", "Agree", "Kappa"];
    table("How far the judges agree on the answers that both judged", &columns, 2..8, rows.collect())
}

fn kappa(kappa: Option<f64>, interval: Option<Interval>) -> String {
    let Some(kappa) = kappa.filter(|kappa| kappa.is_finite()) else { return words::MISSING.to_owned() };
    let text = match interval {
        Some([low, high]) => format!("{kappa:.3} ({low:.3} to {high:.3})"),
        None => format!("{kappa:.3}"),
    };
    text.replace('-', "−")
}

/// The candidate's model against its encoder.
pub fn encoder_cells(cells: [usize; 4], encoder: &str) -> Table {
    let only = format!("Only the {encoder}");
    let names = ["Both right", "Only the model", &only, "Neither"];
    let rows = names.iter().zip(cells).map(|(name, n)| vec![(*name).to_owned(), share(n, cells.iter().sum())]);
    let caption = format!("The candidate and its {encoder}, image by image");
    table(&caption, &["Who is right", "Images"], 1..2, rows.collect())
}

/// The probe on the tower before and after.
pub fn tower(tower: &TowerForgetting) -> Table {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let rows = vec![
        row("Probe before", rate((tower.baseline_accuracy, tower.baseline_accuracy_interval))),
        row("Probe after", rate((tower.candidate_accuracy, tower.candidate_accuracy_interval))),
        row("Fall, points", words::points(tower.forgetting, tower.forgetting_interval)),
        row("Lost", tower.n_lost.to_string()),
        row("Gained", tower.n_gained.to_string()),
        row("p (McNemar)", words::p_value(tower.p_value_mcnemar)),
        row("Pairs", tower.n_pairs.to_string()),
    ];
    let caption = format!("The same probe ({} shots) on the tower before and after, on the same images", tower.shots);
    table(&caption, &["What", "Value"], 1..2, rows)
}

/// The fields in which the runs differ and were allowed to.
pub fn differences(candidate: &CandidateComparison) -> Table {
    let rows = candidate.differences.iter().map(|one| {
        let place = if one.place.is_empty() { words::MISSING.to_owned() } else { one.place.clone() };
        vec![one.field.clone(), place, value_text(&one.baseline), value_text(&one.candidate)]
    });
    table(
        "Fields in which the runs differ, as allowed",
        &["Field", "Where", "Baseline", "Candidate"],
        0..0,
        rows.collect(),
    )
}

/// The differences between the two models' settings.
pub fn settings(candidate: &CandidateComparison) -> Table {
    let rows = candidate.settings.iter().map(|one| {
        let value =
            |value: &serde_json::Value| if value.is_null() { words::MISSING.to_owned() } else { value_text(value) };
        vec![one.place.clone(), value(&one.baseline), value(&one.candidate)]
    });
    table("Settings in which the candidate differs", &["Setting", "Baseline", "Candidate"], 0..0, rows.collect())
}

fn value_text(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => shortened(text),
        other => shortened(&other.to_string()),
    }
}

/// Accuracy by epoch: one row per epoch, one column per dataset.
pub fn curve(curve: &Curve) -> Table {
    let mut epochs: Vec<usize> =
        curve.datasets.iter().flat_map(|dataset| &dataset.points).map(|point| point.epoch).collect();
    epochs.sort_unstable();
    epochs.dedup();
    let heads: Vec<String> = curve
        .datasets
        .iter()
        .map(|dataset| match dataset.points.first() {
            Some(point) => format!("{} ({} images)", dataset.dataset, point.n_trials),
            None => dataset.dataset.clone(),
        })
        .collect();
    let mut columns = vec!["Epoch"];
    columns.extend(heads.iter().map(String::as_str));
    let row = |epoch: &usize| {
        let mut cells = vec![epoch.to_string()];
        cells.extend(curve.datasets.iter().map(|dataset| {
            let point = dataset.points.iter().find(|point| point.epoch == *epoch);
            point.map_or_else(|| words::MISSING.to_owned(), |point| rate((point.accuracy, point.accuracy_interval)))
        }));
        cells
    };
    let rows = epochs.iter().map(row).collect();
    table("Accuracy after each epoch, with 95% intervals; epoch 0 is the base", &columns, 1..columns.len(), rows)
}

fn shortened(text: &str) -> String {
    words::shortened(&words::printable(text), N_TEXT_MAX)
}
