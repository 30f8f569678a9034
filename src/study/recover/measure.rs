//! Accuracies of runs on the samples of a half.

use super::recovery::{Accuracies, DatasetAccuracy, MeanAccuracy};
use crate::domain::{Mode, Outcome, SampleSet, Subject};
use crate::stats::{mean_of_proportions, wilson};
use crate::study::EvaluatedRun;

const CONFIDENCE: f64 = 0.95;

/// Which datasets are of the new task, and which must not be forgotten.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tasks<'a> {
    pub new: &'a [String],
    pub old: &'a [String],
}

impl Tasks<'_> {
    /// The accuracies of the model's generated answers about `samples`.
    pub fn accuracies(&self, run: &EvaluatedRun, samples: &SampleSet) -> Accuracies {
        let [new, old] = [self.new, self.old].map(|names| counts(run, samples, names));
        let names = self.new.iter().chain(self.old);
        let of_dataset = |(name, &(n_correct, n_scored)): (&String, &(usize, usize))| DatasetAccuracy {
            dataset: name.clone(),
            accuracy: (n_scored > 0).then(|| n_correct as f64 / n_scored as f64),
            interval: wilson(n_correct, n_scored, CONFIDENCE),
            n_scored,
        };
        let datasets = names.zip(new.iter().chain(&old)).map(of_dataset).collect();
        Accuracies { new: mean(&new), old: mean(&old), datasets }
    }
}

/// Right answers and scored answers, by dataset.
fn counts(run: &EvaluatedRun, samples: &SampleSet, names: &[String]) -> Vec<(usize, usize)> {
    let of = |name: &String| {
        let asked = run
            .trials
            .iter()
            .filter(|trial| trial.dataset == *name && trial.subject == Subject::Model && trial.mode == Mode::Generate);
        let (mut n_correct, mut n_scored) = (0, 0);
        for trial in asked.filter(|trial| samples.contains(name, &trial.sample)) {
            n_correct += usize::from(trial.outcome == Outcome::Correct);
            n_scored += usize::from(!matches!(trial.outcome, Outcome::Unscored(_)));
        }
        (n_correct, n_scored)
    };
    names.iter().map(of).collect()
}

fn mean(counts: &[(usize, usize)]) -> MeanAccuracy {
    let rates: Option<Vec<f64>> =
        counts.iter().map(|&(n_correct, n)| (n > 0).then(|| n_correct as f64 / n as f64)).collect();
    MeanAccuracy {
        accuracy: rates.filter(|rates| !rates.is_empty()).map(|rates| rates.iter().sum::<f64>() / rates.len() as f64),
        interval: mean_of_proportions(counts, CONFIDENCE),
    }
}
