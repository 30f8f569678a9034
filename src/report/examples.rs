//! What the errors look like: a few answers of each code, and what is most often said instead of the label.

use std::collections::BTreeMap;

use crate::compare::bare_answer;
use crate::domain::{DatasetSpec, ErrorCode, Mode, Outcome, Subject, Trial};

/// So many examples of one code and dataset are shown.
pub const N_EXAMPLES: usize = 4;

/// So many confusions of one dataset are shown.
pub const N_CONFUSIONS: usize = 8;

/// The model's errors of one code on one dataset.
#[derive(Clone, Debug)]
pub struct CodeExamples<'a> {
    /// The code.
    pub code: ErrorCode,
    /// How many trials have it.
    pub n_trials: usize,
    /// A few of them, with answers that differ where there are such.
    pub trials: Vec<&'a Trial>,
}

/// What is said instead of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    /// The label.
    pub label: String,
    /// The label or the text that was said.
    pub said: String,
    /// Whether `said` is a label of the dataset.
    pub is_label: bool,
    /// How often.
    pub n_trials: usize,
}

/// The examples of `dataset` by code, in the order of [`ErrorCode::ALL`].
pub fn by_code<'a>(trials: &'a [Trial], dataset: &str) -> Vec<CodeExamples<'a>> {
    let of_code = |code: ErrorCode| {
        let all: Vec<&Trial> = generated(trials, dataset).filter(|t| t.outcome == Outcome::Incorrect(code)).collect();
        let mut chosen: Vec<&Trial> = Vec::new();
        for &trial in &all {
            if chosen.len() < N_EXAMPLES && chosen.iter().all(|other| said(other) != said(trial)) {
                chosen.push(trial);
            }
        }
        CodeExamples { code, n_trials: all.len(), trials: chosen }
    };
    ErrorCode::ALL.into_iter().map(of_code).filter(|examples| examples.n_trials > 0).collect()
}

/// What the model most often says instead of a label of `dataset`, most often first.
pub fn confusions(trials: &[Trial], dataset: &DatasetSpec) -> Vec<Confusion> {
    let labels: BTreeMap<String, &str> = dataset.label_names().map(|label| (bare_answer(label), label)).collect();
    let mut counts: BTreeMap<(&str, String, bool), usize> = BTreeMap::new();
    for trial in generated(trials, &dataset.dataset) {
        if !matches!(trial.outcome, Outcome::Incorrect(_)) {
            continue;
        }
        let bare = bare_answer(said(trial).unwrap_or_default());
        let (said, is_label) = match labels.get(&bare) {
            Some(label) => ((*label).to_owned(), true),
            None => (bare, false),
        };
        *counts.entry((&trial.label, said, is_label)).or_default() += 1;
    }
    let mut confusions: Vec<Confusion> = counts
        .into_iter()
        .filter(|(_, n_trials)| *n_trials > 1)
        .map(|((label, said, is_label), n_trials)| Confusion { label: label.to_owned(), said, is_label, n_trials })
        .collect();
    confusions.sort_by(|a, b| b.n_trials.cmp(&a.n_trials).then_with(|| (&a.label, &a.said).cmp(&(&b.label, &b.said))));
    confusions.truncate(N_CONFUSIONS);
    confusions
}

fn generated<'a>(trials: &'a [Trial], dataset: &str) -> impl Iterator<Item = &'a Trial> {
    trials.iter().filter(move |trial| {
        trial.subject == Subject::Model && trial.mode == Mode::Generate && trial.dataset == dataset
    })
}

/// The verbatim answer.
pub fn said(trial: &Trial) -> Option<&str> {
    trial.text()
}
