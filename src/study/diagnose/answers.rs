//! The answers of all models of a diagnosis, image by image.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use crate::diagnose::swap::Rights;
use crate::domain::{Mode, Outcome, Stop, Subject, Trial};
use crate::study::EvaluatedRun;

/// The answers of all models about the images of one dataset that all of them answered.
pub(super) struct Answers<'a> {
    pub dataset: &'a str,
    /// By model, the generated answers, one per image.
    trials: Vec<Vec<&'a Trial>>,
}

impl<'a> Answers<'a> {
    /// Gathers the answers about the images of `dataset`.
    pub fn of(dataset: &'a str, runs: &'a [EvaluatedRun]) -> Result<Self> {
        let generated = |run: &'a EvaluatedRun| {
            let of_dataset = run.trials.iter().filter(move |trial| trial.dataset == dataset);
            let of_model = of_dataset.filter(|trial| trial.subject == Subject::Model && trial.mode == Mode::Generate);
            of_model.filter(|trial| !matches!(trial.outcome, Outcome::Unscored(_)))
        };
        let by_sample = |run: &'a EvaluatedRun| -> BTreeMap<&'a str, &'a Trial> {
            generated(run).map(|trial| (trial.sample.as_str(), trial)).collect()
        };
        let found: Vec<BTreeMap<&str, &Trial>> = runs.iter().map(by_sample).collect();
        // In the order of the journal, which is that of the samples.
        let samples: Vec<&str> = generated(&runs[0])
            .map(|trial| trial.sample.as_str())
            .filter(|sample| found.iter().all(|of_run| of_run.contains_key(sample)))
            .collect();
        ensure!(!samples.is_empty(), "no image of `{dataset}` was answered by all models; hint: see the runs' reports");
        let trials = found.iter().map(|of_run| samples.iter().map(|sample| of_run[sample]).collect()).collect();
        Ok(Self { dataset, trials })
    }

    /// Which images each model answered right.
    pub fn rights(&self) -> Rights {
        let right = |trials: &Vec<&Trial>| trials.iter().map(|trial| trial.outcome == Outcome::Correct).collect();
        let mut all: Vec<Vec<bool>> = self.trials.iter().map(right).collect();
        let base = all.remove(0);
        Rights { base, variants: all }
    }

    /// The number of images.
    pub fn n(&self) -> usize {
        self.trials[0].len()
    }

    /// The trial of one model about one image.
    pub fn trial(&self, model: usize, at: usize) -> &'a Trial {
        self.trials[model][at]
    }

    /// Whether the model ended its answer itself.
    pub fn is_ended(&self, model: usize, at: usize) -> bool {
        self.trial(model, at).answer().is_none_or(|answer| answer.stop != Stop::Length)
    }

    /// The answer of one model about one image.
    pub fn text(&self, model: usize, at: usize) -> String {
        self.trial(model, at).text().unwrap_or_default().to_owned()
    }
}
