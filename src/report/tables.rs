//! The tables shared by Markdown and HTML.

use std::ops::Range;

use super::examples::Confusion;
use super::notes;
use crate::assets::paper;
use crate::chart::words;
use crate::compare::{DatasetSummary, SubjectSummary, Summary};
use crate::domain::{ErrorCode, ErrorKind, Mode, ProbeSpec, RunSpec, Subject};

/// A table of texts whose first column names the row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its content in a few words.
    pub caption: String,
    /// The column heads.
    pub columns: Vec<String>,
    /// The rows, with one cell per column.
    pub rows: Vec<Vec<String>>,
    /// The columns that hold numbers, flushed right.
    pub numbers: Range<usize>,
}

/// A table from its parts.
pub fn table(caption: &str, columns: &[&str], numbers: Range<usize>, rows: Vec<Vec<String>>) -> Table {
    let columns = columns.iter().map(|&column| column.to_owned()).collect();
    Table { caption: caption.to_owned(), columns, rows, numbers }
}

/// Accuracies with intervals, retention and unscored trials, one row per dataset.
pub fn accuracies(summary: &Summary) -> Table {
    let scoring = notes::scoring(summary);
    // The columns that a narrow screen shows first are first.
    let mut columns = vec!["Dataset", "Model"];
    if scoring.is_run {
        columns.push("Label scoring");
    }
    if scoring.has_prior {
        columns.push("Prior-corrected");
    }
    let encoder = words::capital(&words::encoder_column(&summary.encoder));
    columns.extend([encoder.as_str(), "Retention", "Chance", "Unscored", "Images", "Split"]);
    let row = |dataset: &DatasetSummary| {
        let split = if dataset.is_training_split {
            format!("{} (training split!)", dataset.split)
        } else {
            dataset.split.clone()
        };
        let chance = (dataset.n_classes > 0).then(|| words::chance(1.0 / dataset.n_classes as f64));
        let mut cells = vec![dataset.dataset.clone(), rate(notes::accuracy(dataset.model.as_ref()))];
        if scoring.is_run {
            cells.push(rate(notes::accuracy(dataset.model_score.as_ref())));
        }
        if scoring.has_prior {
            cells.push(rate(notes::prior_corrected(dataset.model_score.as_ref())));
        }
        cells.push(rate(notes::accuracy(dataset.encoder.as_ref())));
        cells.push(rate((dataset.retention, dataset.retention_interval)));
        cells.push(chance.unwrap_or_else(|| words::MISSING.to_owned()));
        cells.push(notes::count(dataset.model.as_ref().map(|model| model.n_unscored)));
        cells.push(dataset.n_samples.to_string());
        cells.push(split);
        cells
    };
    let rows = summary.datasets.iter().map(row).collect();
    let noun = words::encoder_noun(&summary.encoder);
    let caption = format!("Accuracy over scored images and retention (over the {noun}'s), with 95% intervals");
    table(&caption, &columns, 1..columns.len() - 1, rows)
}

/// Formats `73.3% (70.4–75.9)`, the number alone, or a dash.
pub fn rate((value, interval): (Option<f64>, Option<[f64; 2]>)) -> String {
    let number = words::percent(value);
    match interval {
        Some(_) if number != words::MISSING => format!("{number} ({})", words::interval(interval)),
        _ => number,
    }
}

/// The model's errors by kind and code: one row per code that occurs, one column per dataset.
pub fn errors(summary: &Summary) -> Table {
    let mut columns = vec!["Kind", "Code"];
    columns.extend(summary.datasets.iter().map(|dataset| dataset.dataset.as_str()));
    let cell = |model: Option<&SubjectSummary>, n: Option<usize>| match (model, n) {
        (Some(model), Some(n)) if n > 0 => {
            let share = n as f64 / (model.n_correct + model.n_incorrect).max(1) as f64;
            format!("{n} ({})", words::percent(Some(share)))
        }
        (_, n) => notes::count(n),
    };
    let occurs = |code: &ErrorCode| {
        summary.datasets.iter().filter_map(|dataset| dataset.model.as_ref()).any(|m| m.codes.contains_key(code.name()))
    };
    let mut rows = Vec::new();
    for kind in ErrorKind::ALL {
        let mut row = vec![notes::kind_name(kind).to_owned(), "all".to_owned()];
        row.extend(summary.datasets.iter().map(|dataset| {
            let model = dataset.model.as_ref();
            cell(model, notes::n_of_kind(model, kind))
        }));
        rows.push(row);
        for code in ErrorCode::ALL.into_iter().filter(|code| code.kind() == kind).filter(occurs) {
            let mut row = vec![notes::kind_name(kind).to_owned(), notes::spaced(code.name())];
            row.extend(summary.datasets.iter().map(|dataset| {
                let model = dataset.model.as_ref();
                cell(model, model.map(|model| model.codes.get(code.name()).copied().unwrap_or(0)))
            }));
            rows.push(row);
        }
    }
    table(
        "The model's errors by kind and code, with their share of the scored images",
        &columns,
        2..columns.len(),
        rows,
    )
}

/// The meanings of the codes that occur.
pub fn meanings(summary: &Summary) -> Table {
    let occurs = |code: &ErrorCode| {
        let mut models = summary.datasets.iter().filter_map(|dataset| dataset.model.as_ref());
        models.any(|model| model.codes.contains_key(code.name()))
    };
    meanings_of(occurs)
}

/// The meanings of the codes for which `occurs` is true.
pub fn meanings_of(occurs: impl Fn(&ErrorCode) -> bool) -> Table {
    let codes = ErrorCode::ALL.into_iter().filter(occurs);
    let rows = codes.map(|code| vec![notes::spaced(code.name()), notes::meaning(code).to_owned()]);
    table("What the codes mean", &["Code", "Meaning"], 0..0, rows.collect())
}

/// A probe's accuracy by its number of shots; `None` without a probe.
pub fn shots(summary: &Summary) -> Option<Table> {
    let probe = summary.encoder.probe.as_ref()?;
    let rows = summary.datasets.iter().flat_map(|dataset| {
        let encoder = dataset.encoder.as_ref();
        let fewer = encoder.into_iter().flat_map(|encoder| &encoder.fewer_shots);
        let fewer = fewer.map(|fewer| (Some(fewer.shots), (fewer.accuracy, fewer.accuracy_interval)));
        let all = encoder.map(|encoder| (encoder.shots, notes::accuracy(Some(encoder))));
        fewer.chain(all).map(|(shots, accuracy)| vec![dataset.dataset.clone(), notes::count(shots), rate(accuracy)])
    });
    let caption = format!("The probe ({}) by training images per class", probe.classifier.name());
    Some(table(&caption, &["Dataset", "Shots", "Accuracy"], 1..3, rows.collect()))
}

/// Model against encoder, image by image; `None` if no dataset has pairs.
pub fn pairs(summary: &Summary) -> Option<Table> {
    let noun = words::encoder_noun(&summary.encoder);
    let row = |dataset: &DatasetSummary| {
        let pairs = dataset.pairs.as_ref();
        let counts = [
            pairs.map(|pairs| pairs.both_correct),
            pairs.map(|pairs| pairs.only_encoder),
            pairs.map(|pairs| pairs.only_model),
            pairs.map(|pairs| pairs.both_wrong),
            pairs.map(|pairs| pairs.unscored),
        ];
        let mut cells = vec![dataset.dataset.clone()];
        cells.extend(counts.map(notes::count));
        cells
    };
    let only = format!("Only {noun} right");
    let columns = ["Dataset", "Both right", &only, "Only model right", "Both wrong", "Unscored"];
    let caption = format!(
        "Model and {noun} on the same images; where only the {noun} is right, it knows what the model does not say"
    );
    summary.datasets.iter().any(|dataset| dataset.pairs.is_some()).then(|| {
        let rows = summary.datasets.iter().map(row).collect();
        table(&caption, &columns, 1..columns.len(), rows)
    })
}

/// The run and the paper's rows; `None` if they share no dataset.
pub fn beside_the_paper(summary: &Summary) -> Option<Table> {
    let shared: Vec<&DatasetSummary> =
        summary.datasets.iter().filter(|one| paper::DATASETS.contains(&one.dataset.as_str())).collect();
    if shared.is_empty() {
        return None;
    }
    let mut columns = vec!["Row"];
    columns.extend(shared.iter().map(|dataset| dataset.dataset.as_str()));
    let of_run = |name: String, accuracy: fn(&DatasetSummary) -> Option<f64>| {
        let mut row = vec![name];
        row.extend(shared.iter().map(|dataset| words::percent(accuracy(dataset))));
        row
    };
    let column = words::encoder_column(&summary.encoder);
    let encoder = summary.encoder.name.as_deref().unwrap_or(&column);
    let mut rows = vec![
        of_run(format!("this run: {}", words::model(&summary.model)), |one| one.model.as_ref()?.accuracy),
        of_run(format!("this run: {encoder}"), |one| one.encoder.as_ref()?.accuracy),
    ];
    if summary.datasets.iter().all(|dataset| dataset.encoder.is_none()) {
        rows.pop();
    }
    for row in &paper::TABLE_2 {
        let what = if row.encoder.is_none() { " (encoder)" } else { "" };
        let mut cells = vec![format!("paper: {}{what}", row.name)];
        cells.extend(shared.iter().map(|dataset| published(row.accuracy(&dataset.dataset))));
        rows.push(cells);
    }
    let caption =
        "Beside Table 2 of Zhai et al. 2023: zero-shot, images of the training splits, graded by GPT-3.5, no intervals";
    Some(table(caption, &columns, 1..columns.len(), rows))
}

/// Formats a value with two decimals, as the paper prints it.
fn published(fraction: Option<f64>) -> String {
    fraction.map_or_else(|| words::MISSING.to_owned(), |fraction| format!("{:.2}%", fraction * 100.0))
}

/// The most frequent answers instead of the label.
pub fn confusions(confusions: &[Confusion]) -> Table {
    let row = |confusion: &Confusion| {
        let said = match (confusion.is_label, confusion.said.is_empty()) {
            (true, _) => confusion.said.clone(),
            (false, true) => "nothing".to_owned(),
            (false, false) => format!("“{}”", confusion.said),
        };
        vec![confusion.label.clone(), said, confusion.n_trials.to_string()]
    };
    table("Most often confused", &["Label", "Said instead", "Times"], 2..3, confusions.iter().map(row).collect())
}

/// The prompts of each subject.
pub fn prompts(spec: &RunSpec) -> Table {
    let rows = spec.datasets.iter().flat_map(|dataset| {
        dataset.prompts.iter().map(|prompt| {
            let subject = match (prompt.subject, prompt.mode) {
                (Subject::Model, Mode::Score) => "model, labels scored",
                (Subject::Model, _) => "model",
                (Subject::Encoder, Mode::Probe) => "probe",
                (Subject::Encoder, _) => "encoder",
            };
            let subject = subject.to_owned();
            vec![dataset.dataset.clone(), subject, prompt.prompt.clone(), prompt.text.clone()]
        })
    });
    table("Prompts", &["Dataset", "Subject", "Name", "Text"], 0..0, rows.collect())
}

/// The conditions that the numbers depend on, followed by the environment, which they do not depend on.
pub fn conditions(spec: &RunSpec, environment: &[(String, String)]) -> Table {
    let modes: Vec<String> = spec.modes.iter().map(|mode| format!("{mode:?}").to_lowercase()).collect();
    let mut rows = vec![
        vec![
            "model weights".to_owned(),
            spec.model.weights.clone().unwrap_or_else(|| "not reported by the server".to_owned()),
        ],
        vec!["adapter".to_owned(), spec.model.adapter.clone().unwrap_or_else(|| "none".to_owned())],
        vec![
            "encoder weights".to_owned(),
            spec.encoder.as_ref().map_or_else(|| "none".to_owned(), |encoder| encoder.weights.clone()),
        ],
        vec!["probe".to_owned(), spec.probe.as_ref().map_or_else(|| "none".to_owned(), probe)],
        vec!["modes".to_owned(), modes.join(", ")],
        vec!["answers end after".to_owned(), format!("{} tokens", spec.max_new_tokens)],
        vec!["model run as".to_owned(), words::how_run(&spec.model.family, &spec.computing)],
        vec!["sample seed".to_owned(), spec.sample_seed.to_string()],
    ];
    if !spec.tuned_on.is_empty() {
        let names: Vec<&str> = spec.tuned_on.keys().map(String::as_str).collect();
        rows.push(vec!["tuned on".to_owned(), names.join(", ")]);
    }
    rows.extend(environment.iter().map(|(name, value)| vec![name.clone(), value.clone()]));
    table("Conditions", &["What", "Value"], 0..0, rows)
}

/// Describes a probe: `nearest class mean; cifar10: 1, 5, 16 shots of train (blake3:…)`.
fn probe(probe: &ProbeSpec) -> String {
    let shots = probe.datasets.iter().map(|(name, shots)| {
        let numbers: Vec<String> = shots.shots.iter().map(ToString::to_string).collect();
        format!("; {name}: {} shots of {} ({})", numbers.join(", "), shots.split, shots.content)
    });
    std::iter::once(probe.classifier.name().to_owned()).chain(shots).collect()
}
