//! Fitted probes and their trials.

use std::cell::OnceCell;
use std::sync::Arc;

use anyhow::{Context, Result};
use rayon::prelude::*;

use super::Shots;
use crate::dataset::Dataset;
use crate::domain::{FewerShots, N_SCORES_KEPT, Outcome, RunSet, ScoredLabel, Trial, UnscoredReason};
use crate::eval::trials::chosen;
use crate::model::run::subjects::Subjects;
use crate::model::vision::preprocess::ImageInput;
use crate::stats::Probe;

/// The probes of one dataset: one per tower, since each run is probed on its own tower.
pub(in crate::eval) struct TowerProbes {
    shots: Arc<Shots>,
    /// The runs of a tower, and its probe once it was needed.
    towers: Vec<(RunSet, OnceCell<FittedProbe>)>,
}

/// Training images per pass of the tower.
const N_IMAGES_PER_PASS: usize = 32;

impl TowerProbes {
    /// Starts without any fitted probe.
    pub fn new(shots: Arc<Shots>, subjects: &Subjects) -> Self {
        Self { shots, towers: subjects.towers().into_iter().map(|tower| (tower, OnceCell::new())).collect() }
    }

    /// Returns the probes' choices for one image, by the tower that gave `features`; `None` if they are zero or not
    /// finite.
    ///
    /// # Errors
    /// A training image cannot be read, or its features are zero or not finite.
    pub fn choose(
        &self,
        subjects: &Subjects,
        features: &[(RunSet, Vec<f32>)],
    ) -> Result<Vec<(RunSet, Option<ProbeChoice>)>> {
        let choice = |(runs, features): &(RunSet, Vec<f32>)| {
            let (tower, fitted) = self
                .towers
                .iter()
                .find(|(tower, _)| !tower.intersection(*runs).is_empty())
                .context("every run has a tower")?;
            let fitted = match fitted.get() {
                Some(fitted) => fitted,
                None => {
                    let learnt = self.learn(subjects, *tower)?;
                    fitted.get_or_init(|| learnt)
                }
            };
            Ok((*runs, fitted.choose(features)))
        };
        features.iter().map(choice).collect()
    }

    fn learn(&self, subjects: &Subjects, tower: RunSet) -> Result<FittedProbe> {
        let (shots, processor) = (&self.shots, subjects.tower_preprocessor(tower));
        let positions = shots.positions();
        let mut features = Vec::with_capacity(positions.len());
        for chunk in positions.chunks(N_IMAGES_PER_PASS) {
            let prepare = |&position: &usize| Ok(processor.prepare(&shots.read(position)?));
            let images: Vec<ImageInput> = chunk.par_iter().map(prepare).collect::<Result<_>>()?;
            features.extend(subjects.tower_features(tower, &images.iter().collect::<Vec<_>>())?);
        }
        FittedProbe::fit(shots, &features)
    }
}

/// The probes of one dataset on one tower, by their number of shots.
#[derive(Clone, Debug)]
struct FittedProbe {
    /// By number of shots, ascending; the last one makes the trials.
    by_shots: Vec<(usize, Probe)>,
}

/// The choices of the probes for one image.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::eval) struct ProbeChoice {
    /// With the most shots: the best classes with their scores, best first.
    best: Vec<(usize, f64)>,
    /// With fewer shots, ascending: the number of shots and the chosen class.
    fewer: Vec<(usize, usize)>,
}

impl FittedProbe {
    /// Fits from `features`, one row per image in the order of the shots' positions.
    fn fit(shots: &Shots, features: &[Vec<f32>]) -> Result<Self> {
        let n_all = shots.spec.n_shots();
        let fit = |&n_shots: &usize| {
            let of_class = |class: usize| features[class * n_all..][..n_shots].iter().map(Vec::as_slice).collect();
            let examples: Vec<Vec<&[f32]>> = (0..shots.n_classes()).map(of_class).collect();
            let probe = Probe::fit(shots.classifier, &examples).context(
                "the tower's features of a training image are zero or not finite; hint: weights out of range for this \
                 --dtype, try --dtype f32",
            )?;
            Ok((n_shots, probe))
        };
        Ok(Self { by_shots: shots.spec.shots.iter().map(fit).collect::<Result<_>>()? })
    }

    /// Returns the choice for an image; `None` if its features are zero or not finite.
    fn choose(&self, features: &[f32]) -> Option<ProbeChoice> {
        let ((_, last), fewer) = self.by_shots.split_last()?;
        let scores = last.scores(features)?;
        let fewer = fewer.iter().map(|(n_shots, probe)| Some((*n_shots, *ranked(&probe.scores(features)?).first()?)));
        let best = ranked(&scores).into_iter().take(N_SCORES_KEPT).map(|class| (class, scores[class])).collect();
        Some(ProbeChoice { best, fewer: fewer.collect::<Option<_>>()? })
    }
}

/// Returns the classes by descending score; ties keep their order.
fn ranked(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}

/// Returns the trial of a probe on a sample of `dataset`.
pub(in crate::eval) fn probe_trial(trial: Trial, dataset: &Dataset, choice: Option<ProbeChoice>) -> Trial {
    let Some(ProbeChoice { best, fewer }) = choice else {
        return Trial { outcome: Outcome::Unscored(UnscoredReason::ModelError), ..trial };
    };
    let name = |class: usize| dataset.labels.labels()[class].name.clone();
    let scores =
        best.into_iter().map(|(class, score)| ScoredLabel { label: name(class), score: score as f32, share: None });
    let fewer_shots = fewer.into_iter().map(|(shots, class)| {
        let answer = name(class);
        FewerShots { shots, is_correct: answer == trial.label, answer }
    });
    let trial = Trial { fewer_shots: fewer_shots.collect(), ..trial };
    chosen(trial, scores.collect(), None)
}
