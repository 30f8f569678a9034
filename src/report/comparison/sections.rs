//! One dataset of a candidate as tables under headings, for HTML and Markdown.

use super::super::tables::Table;
use super::{CandidateReport, ComparisonReport, notes, summary_of, tables};
use crate::chart::words;
use crate::compare::{DatasetComparison, TowerForgetting};

/// A heading and its content.
#[derive(Clone, Debug)]
pub struct Block {
    /// The id within the dataset.
    pub id: &'static str,
    /// The heading.
    pub heading: &'static str,
    /// An explanatory paragraph.
    pub lead: Option<String>,
    /// The tables, each open or folded.
    pub tables: Vec<(Table, Fold)>,
}

/// Whether a table is folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// Visible.
    Open,
    /// Folded.
    Folded,
}

/// Returns everything about a dataset except its gallery.
pub fn blocks(report: &ComparisonReport<'_>, with: CandidateReport<'_>, dataset: &DatasetComparison) -> Vec<Block> {
    let noun = words::encoder_noun(&with.after.encoder);
    let mut blocks = vec![
        Block {
            id: "rates",
            heading: "Before and after",
            lead: about_rates(report, with, dataset),
            tables: vec![(tables::rates(dataset, noun), Fold::Open)],
        },
        Block {
            id: "forgetting",
            heading: "Forgetting",
            lead: None,
            tables: vec![(tables::forgetting(dataset, noun), Fold::Open)],
        },
        funnel(report, with, dataset),
        Block {
            id: "errors",
            heading: "Kinds of error",
            lead: None,
            tables: vec![(tables::errors(dataset), Fold::Open)],
        },
        Block {
            id: "transitions",
            heading: "What became of the images",
            lead: None,
            tables: vec![(tables::transitions(dataset), Fold::Open)],
        },
    ];
    blocks.extend(dataset.tower.as_ref().map(tower));
    let classes = tables::classes(dataset);
    blocks.push(Block {
        id: "classes",
        heading: "Classes",
        lead: classes.rows.is_empty().then(|| "No class fell.".to_owned()),
        tables: none_if_empty(classes),
    });
    blocks.push(Block {
        id: "confusions",
        heading: "Confusions",
        lead: dataset
            .confusion_shifts
            .is_empty()
            .then(|| "No confusion is more or less frequent than before.".to_owned()),
        tables: none_if_empty(tables::shifts(dataset)),
    });
    blocks.push(judges(dataset));
    blocks
}

fn none_if_empty(table: Table) -> Vec<(Table, Fold)> {
    if table.rows.is_empty() { Vec::new() } else { vec![(table, Fold::Open)] }
}

/// Adds what the rates do not show: the answer that most images get, and why retention is undefined.
fn about_rates(
    report: &ComparisonReport<'_>,
    with: CandidateReport<'_>,
    dataset: &DatasetComparison,
) -> Option<String> {
    let constants = [("before", &dataset.constant_answer_before), ("after", &dataset.constant_answer_after)];
    let mut sentences: Vec<String> = constants
        .into_iter()
        .filter_map(|(when, constant)| Some(notes::same_answer(when, constant.as_ref()?)))
        .collect();
    sentences.extend(missing_retention(report, with, dataset));
    (!sentences.is_empty()).then(|| sentences.join(" "))
}

fn missing_retention(
    report: &ComparisonReport<'_>,
    with: CandidateReport<'_>,
    dataset: &DatasetComparison,
) -> Option<String> {
    if dataset.retention_before.is_some() && dataset.retention_after.is_some() {
        return None;
    }
    let without: Vec<&str> = [("the baseline", report.before), ("the candidate", with.after)]
        .into_iter()
        .filter(|(_, summary)| summary_of(summary, &dataset.dataset).is_none_or(|one| one.encoder.is_none()))
        .map(|(who, _)| who)
        .collect();
    Some(match without[..] {
        [] => "Retention is not defined if the encoder or the model has no scored answer, or if the encoder has no correct one.".to_owned(),
        _ => format!("Retention is not defined for {}: no encoder was run.", without.join(" and ")),
    })
}

fn funnel(report: &ComparisonReport<'_>, with: CandidateReport<'_>, dataset: &DatasetComparison) -> Block {
    let mut block = Block { id: "funnel", heading: "Where it was lost", lead: None, tables: Vec::new() };
    match &dataset.funnel {
        Some(funnel) => {
            block.lead = Some(
                "Each image is followed from the encoder (does it know?) over label scoring (does the language model choose it?) to the answer (does it say it?)."
                    .to_owned(),
            );
            block.tables.push((tables::losses(funnel), Fold::Open));
            block.tables.push((tables::funnel(funnel), Fold::Open));
        }
        None => {
            let mut lacking = Vec::new();
            for (who, summary) in [("the baseline", report.before), ("the candidate", with.after)] {
                let one = summary_of(summary, &dataset.dataset);
                if one.is_none_or(|one| one.model_score.is_none()) {
                    lacking.push(format!("label scoring of {who}"));
                }
                if one.is_none_or(|one| one.encoder.is_none()) {
                    lacking.push(format!("the encoder of {who}"));
                }
            }
            let lacking = if lacking.is_empty() { String::new() } else { format!(" ({})", lacking.join(", ")) };
            block.lead = Some(format!(
                "Not known: label scoring or the encoder did not run{lacking}; hint: `emt eval --modes generate,score` with an encoder distinguishes lost wording from lost choice."
            ));
        }
    }
    if let (Some(lead), true) = (&mut block.lead, with.after.encoder.probe.is_some()) {
        lead.push_str(" The encoder here is a probe on the model's own tower, which learnt from training images.");
    }
    if let Some(cells) = dataset.encoder_cells_after {
        let noun = words::encoder_noun(&with.after.encoder);
        block.tables.push((tables::encoder_cells(cells, noun), Fold::Folded));
    }
    block
}

/// Whether the tower itself forgot.
fn tower(tower: &TowerForgetting) -> Block {
    let mut block = Block { id: "tower", heading: "The tower itself", lead: None, tables: Vec::new() };
    if tower.is_same_tower {
        block.lead = Some(
            "Both runs have the same tower, so nothing was lost in it: the probe gives the same result for both."
                .to_owned(),
        );
    } else {
        block.lead = Some(
            "Fine-tuning changed the tower. The same probe, with the same training images, is trained on the tower before and after: what it loses, the tower itself has forgotten."
                .to_owned(),
        );
        block.tables.push((tables::tower(tower), Fold::Open));
    }
    block
}

fn judges(dataset: &DatasetComparison) -> Block {
    let mut all = none_if_empty(tables::judges(dataset));
    all.extend(none_if_empty(tables::agreement(dataset)));
    let lead = match (dataset.judges.len(), dataset.judge_agreement.is_empty()) {
        (0, true) => Some("No verdicts of single judges were recorded.".to_owned()),
        (_, true) => Some("Only one judge graded these runs, so agreement is not defined.".to_owned()),
        _ => None,
    };
    Block { id: "judges", heading: "Judges", lead, tables: all }
}
