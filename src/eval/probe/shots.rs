//! Chooses the training images of a probe: the first of each class in sample order that are not scored images.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result, bail};
use rayon::prelude::*;

use crate::dataset::Dataset;
use crate::domain::{Mode, ProbeClassifier, ProbeShots, RgbImage, Subject, SubjectPrompt, select};

/// A requested probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeRequest {
    /// How it classifies.
    pub classifier: ProbeClassifier,
    /// Training images per class, ascending.
    pub shots: Vec<usize>,
}

/// The chosen training images of one dataset.
#[derive(Clone, Debug)]
pub struct Shots {
    /// How the probe classifies.
    pub classifier: ProbeClassifier,
    training: Dataset,
    /// By label of the evaluated dataset, positions in `training`; every label has equally many.
    classes: Vec<Vec<usize>>,
    /// The part that decides answers, for the specification.
    pub spec: ProbeShots,
    /// Warnings about the choice.
    pub warnings: Vec<String>,
}

impl Shots {
    /// Chooses training images for the samples of `evaluated` that `limit` keeps: the first images of each class in
    /// sample order. Unreadable images, duplicates and scored images are left out; images are compared by content, not
    /// by name. Every class gets equally many. If training images are too few, all classes get fewer, so that `probe-k`
    /// always means k.
    ///
    /// # Errors
    /// The evaluated split is a training split, or a class has no training image.
    pub fn choose(
        request: &ProbeRequest,
        evaluated: &Dataset,
        training: Dataset,
        sample_seed: u64,
        limit: Option<usize>,
    ) -> Result<Self> {
        if evaluated.is_training_split {
            bail!(
                "the probe of `{}` would learn from the images that it is evaluated on: `{}` is a training split; \
                 hint: evaluate a held-out split",
                evaluated.name,
                evaluated.split
            );
        }
        let n_wanted = request.shots.last().copied().context("a probe needs a number of shots")?;
        let scored = contents(evaluated, sample_seed, limit);
        let candidates = candidates(evaluated, &training, sample_seed)?;
        let chosen: Vec<Vec<(usize, String)>> =
            candidates.par_iter().map(|positions| first_unseen(&training, positions, &scored, n_wanted)).collect();
        let labels: Vec<&str> = evaluated.labels.names().collect();
        let (fewest, n) = labels
            .iter()
            .zip(&chosen)
            .map(|(label, chosen)| (*label, chosen.len()))
            .min_by_key(|(_, n)| *n)
            .context("a label set has classes")?;
        if n == 0 {
            bail!(
                "the training split of `{}` has no usable image of `{fewest}`; hint: `emt data verify` names broken files",
                evaluated.name
            );
        }
        let mut shots: Vec<usize> = request.shots.iter().copied().filter(|&shots| shots <= n).collect();
        let mut warnings = Vec::new();
        if n < n_wanted {
            if shots.last() != Some(&n) {
                shots.push(n);
            }
            warnings.push(format!(
                "the training split has {n} usable images of `{fewest}`: the probe has {n} shots per class instead of \
                 {n_wanted}"
            ));
        }
        let chosen: Vec<Vec<(usize, String)>> =
            chosen.into_iter().map(|class| class.into_iter().take(n).collect()).collect();
        let spec = ProbeShots { split: training.split.clone(), shots, content: hash(&labels, &chosen) };
        let classes = chosen.into_iter().map(|class| class.into_iter().map(|(at, _)| at).collect()).collect();
        Ok(Self { classifier: request.classifier, training, classes, spec, warnings })
    }

    /// The probe's prompt in the run's specification.
    pub fn prompt(&self) -> SubjectPrompt {
        let n_shots = self.spec.n_shots();
        let text = format!("{} of {n_shots} images a class of the split {}", self.classifier.name(), self.spec.split);
        SubjectPrompt {
            subject: Subject::Encoder,
            mode: Mode::Probe,
            prompt: self.prompt_name(),
            hash: format!("blake3:{}", blake3::hash(format!("{text}\n{}", self.spec.content).as_bytes()).to_hex()),
            text,
            rendered: None,
            ids: None,
        }
    }

    /// The prompt's name in trials, such as `probe-16`.
    pub fn prompt_name(&self) -> String {
        format!("probe-{}", self.spec.n_shots())
    }

    /// The number of classes.
    pub(super) fn n_classes(&self) -> usize {
        self.classes.len()
    }

    /// All positions, class by class.
    pub(super) fn positions(&self) -> Vec<usize> {
        self.classes.concat()
    }

    /// Reads the training image at `position`.
    ///
    /// # Errors
    /// The image can no longer be read.
    pub(super) fn read(&self, position: usize) -> Result<RgbImage> {
        self.training.read(position).context("a training image of the probe changed while the run was made")
    }
}

/// Returns the contents of the scored samples.
fn contents(dataset: &Dataset, sample_seed: u64, limit: Option<usize>) -> HashSet<String> {
    let names: Vec<&str> = dataset.labels.names().collect();
    let selected = select(&dataset.samples, &names, sample_seed, limit);
    selected.par_iter().filter_map(|&position| Some(dataset.read(position).ok()?.content())).collect()
}

/// Returns, by label of `evaluated`, the positions of its images in `training`, in sample order.
fn candidates(evaluated: &Dataset, training: &Dataset, sample_seed: u64) -> Result<Vec<Vec<usize>>> {
    let names: Vec<&str> = training.labels.names().collect();
    let mut by_class: Vec<Vec<usize>> = vec![Vec::new(); names.len()];
    for position in select(&training.samples, &names, sample_seed, None) {
        by_class[training.samples[position].label].push(position);
    }
    let mut by_name: HashMap<&str, Vec<usize>> = names.into_iter().zip(by_class).collect();
    let of_label = |label: &str| {
        by_name.remove(label).with_context(|| {
            format!(
                "the training split of `{}` has no class `{label}`; hint: both splits need the same classes",
                evaluated.name
            )
        })
    };
    evaluated.labels.names().map(of_label).collect()
}

/// Returns the first `n` of `positions` with readable, distinct images outside `scored`, with their contents.
fn first_unseen(training: &Dataset, positions: &[usize], scored: &HashSet<String>, n: usize) -> Vec<(usize, String)> {
    let mut chosen: Vec<(usize, String)> = Vec::with_capacity(n);
    for &position in positions {
        if chosen.len() == n {
            break;
        }
        let Ok(image) = training.read(position) else { continue };
        let content = image.content();
        if !scored.contains(&content) && chosen.iter().all(|(_, other)| *other != content) {
            chosen.push((position, content));
        }
    }
    chosen
}

/// Hashes the labels, each with the contents of its images.
fn hash(labels: &[&str], chosen: &[Vec<(usize, String)>]) -> String {
    let mut hasher = blake3::Hasher::new();
    for (label, images) in labels.iter().zip(chosen) {
        for part in std::iter::once(*label).chain(images.iter().map(|(_, content)| content.as_str())) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        // An end mark, so that no content can pass for the next label.
        hasher.update(&u64::MAX.to_le_bytes());
    }
    format!("blake3:{}", hasher.finalize().to_hex())
}

#[cfg(test)]
mod tests;
