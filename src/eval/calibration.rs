//! Judges the pairs of a sheet of answers.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context, Result};

use super::judged_datasets;
use crate::assets;
use crate::compare::{JudgeIdentity, MarkedPair};
use crate::domain::{AnswerType, Label, LabelSet, Outcome, RunSpec, UnscoredReason};
use crate::judging::{JudgedDataset, Panel, Sheet, SheetRow, normalise};
use crate::taxonomy::{Grader, Lexicon};

/// The second label of an open question's label set, which needs two. No answer names it.
const ANYTHING_ELSE: &str = "…";

/// The datasets and labels of a sheet's rows, for judges.
#[derive(Clone, Debug)]
pub struct SheetPlaces {
    /// The datasets of the sheet, for a [`Panel`].
    pub datasets: Vec<JudgedDataset>,
    /// By row, the index of its dataset in `datasets` and of its label in that dataset.
    pub places: Vec<(usize, usize)>,
}

/// Gives each row of the sheet its label set. With `run`, the run that the sheet comes from, it is that run's label
/// set. Otherwise it is all labels that the sheet has of the row's dataset. A row without a dataset is an open question
/// and gets only its own label.
///
/// # Errors
/// A row's dataset or label is not in the run. The error names the line.
pub fn sheet_places(sheet: &Sheet, run: Option<&RunSpec>) -> Result<SheetPlaces> {
    let mut found = SheetPlaces { datasets: Vec::new(), places: Vec::new() };
    if let Some(run) = run {
        found.datasets = judged_datasets(run)?;
        for row in &sheet.rows {
            let dataset = run.datasets.iter().position(|known| Some(&known.dataset) == row.dataset.as_ref());
            let place = dataset.and_then(|at| Some((at, found.datasets[at].labels.index_of(&row.label)?)));
            found.places.push(place.with_context(|| {
                let dataset = row.dataset.as_deref().unwrap_or_default();
                format!("line {}: the run has no label `{}` in a dataset `{dataset}`", row.line, row.label)
            })?);
        }
        return Ok(found);
    }
    let lexicon = Lexicon::parse(assets::lexicon::LEXICON).context("the embedded lexicon is broken")?;
    let closed = closed_sets(sheet);
    let mut known: HashMap<_, usize> = HashMap::new();
    for row in &sheet.rows {
        let labels = row.dataset.as_ref().and_then(|dataset| closed.get(dataset));
        let open_key = labels.is_none().then_some((&row.label, &row.aliases, &row.question));
        let at = match known.get(&(&row.dataset, open_key)) {
            Some(&at) => at,
            None => {
                let labels = match labels {
                    Some(labels) => labels.clone(),
                    None => vec![Label { aliases: row.aliases.clone(), ..Label::named(&row.label) }],
                };
                let question = row.question.clone().unwrap_or_default();
                let judged = judged_dataset(labels, question, row.dataset.is_none(), &lexicon)
                    .with_context(|| format!("line {}: the labels are no label set", row.line))?;
                found.datasets.push(judged);
                known.insert((&row.dataset, open_key), found.datasets.len() - 1);
                found.datasets.len() - 1
            }
        };
        let label = found.datasets[at].labels.index_of(&row.label).context("each label is in the set made of it")?;
        found.places.push((at, label));
    }
    Ok(found)
}

/// Returns the labels that the sheet has of each dataset, in sheet order, with all their aliases.
fn closed_sets(sheet: &Sheet) -> BTreeMap<String, Vec<Label>> {
    let mut sets: BTreeMap<String, Vec<Label>> = BTreeMap::new();
    for row in &sheet.rows {
        let Some(dataset) = &row.dataset else { continue };
        let labels = sets.entry(dataset.clone()).or_default();
        let at = labels.iter().position(|label| label.name == row.label).unwrap_or_else(|| {
            labels.push(Label::named(&row.label));
            labels.len() - 1
        });
        for alias in &row.aliases {
            if !labels[at].aliases.contains(alias) {
                labels[at].aliases.push(alias.clone());
            }
        }
    }
    sets
}

fn judged_dataset(mut labels: Vec<Label>, question: String, is_open: bool, lexicon: &Lexicon) -> Result<JudgedDataset> {
    // It is unknown which digits an open question asks for; a year next to a name is no clash.
    let is_number = !is_open && labels.iter().all(|label| label.name.parse::<u64>().is_ok());
    if labels.len() == 1 {
        labels.push(Label::named(ANYTHING_ELSE));
    }
    let labels = LabelSet::new(labels, if is_number { AnswerType::Number } else { AnswerType::Object })?;
    let grader = Grader::new(&labels, &[], lexicon);
    Ok(JudgedDataset { question, labels, grader })
}

/// Returns the recorded outcomes if they are `judge`'s and every row has one.
pub fn recorded_outcomes(sheet: &Sheet, judge: &JudgeIdentity) -> Option<Vec<Outcome>> {
    let is_same = sheet.origin.as_ref().is_some_and(|origin| origin.judge == *judge);
    if is_same { sheet.rows.iter().map(|row| row.outcome).collect() } else { None }
}

/// Judges the marked rows again; the others stay unscored. `None` if `is_stopped` ended it early.
pub fn judge_sheet(
    sheet: &Sheet,
    panel: &mut Panel,
    places: &[(usize, usize)],
    is_stopped: &dyn Fn() -> bool,
) -> Result<Option<Vec<Outcome>>> {
    let mut outcomes = vec![Outcome::Unscored(UnscoredReason::Pending); sheet.rows.len()];
    for (index, (row, &(dataset, label))) in sheet.rows.iter().zip(places).enumerate() {
        if row.is_correct.is_some()
            && let Some(judged) = panel.submit(index as u64, dataset, label, &row.answer)?
        {
            outcomes[index] = judged.outcome;
        }
    }
    while panel.n_open() > 0 {
        if is_stopped() {
            return Ok(None);
        }
        for (token, judged) in panel.completed(Duration::from_millis(200)) {
            outcomes[token as usize] = judged.outcome;
        }
    }
    Ok(Some(outcomes))
}

/// Pairs the rows with the outcomes of the measured judge. `is_recorded` says that the run recorded these outcomes, so
/// the sheet's strata are strata of this judge.
pub fn marked_pairs(sheet: &Sheet, outcomes: &[Outcome], is_recorded: bool) -> Vec<MarkedPair> {
    let pair = |(row, &outcome): (&SheetRow, &Outcome)| MarkedPair {
        dataset: row.dataset.clone(),
        label: row.label.clone(),
        answer: normalise(&row.answer),
        group: row.group.clone(),
        stratum: row.stratum.clone(),
        n_stratum_trials: row.n_stratum_trials.filter(|_| is_recorded),
        n_stratum_drawn: row.n_stratum_drawn,
        n_trials: row.n_trials,
        weight: row.weight,
        is_correct: row.is_correct,
        outcome,
    };
    sheet.rows.iter().zip(outcomes).map(pair).collect()
}
