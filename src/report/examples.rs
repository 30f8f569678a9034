//! Examples of errors: a few answers of each code, and the most frequent answers instead of the label.

use std::collections::BTreeMap;

use crate::compare::bare_answer;
use crate::domain::{DatasetSpec, ErrorCode, Mode, Outcome, Subject, Trial};

/// The number of examples shown per code and dataset.
pub const N_EXAMPLES: usize = 4;

/// The number of confusions shown per dataset.
pub const N_CONFUSIONS: usize = 8;

/// The model's errors of one code on one dataset.
#[derive(Clone, Debug)]
pub struct CodeExamples<'a> {
    /// The code.
    pub code: ErrorCode,
    /// The number of trials with the code.
    pub n_trials: usize,
    /// A few of them, with distinct answers if possible.
    pub trials: Vec<&'a Trial>,
}

/// An answer given instead of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    /// The label.
    pub label: String,
    /// The label or text of the answer.
    pub said: String,
    /// Whether `said` is a label of the dataset.
    pub is_label: bool,
    /// The number of trials.
    pub n_trials: usize,
}

/// Returns the examples of `dataset` by code, in the order of [`ErrorCode::ALL`].
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

/// Returns the answers given instead of a label of `dataset`, most frequent first.
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

/// Returns the verbatim answer.
pub fn said(trial: &Trial) -> Option<&str> {
    trial.text()
}
