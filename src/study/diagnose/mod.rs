//! A diagnosis: parts of a candidate are evaluated over its base, and what they show is put together.

mod answers;
mod inside;
mod restricted;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

use super::{BASE_NAME, EvaluatedRun, Evaluation};
use crate::diagnose::causes::{self, Indicators};
use crate::diagnose::swap::{self, Rights, rights_with};
use crate::diagnose::taps::{self, Inside};
use crate::diagnose::{
    Accuracy, Candidate, DIAGNOSIS_SCHEMA, DatasetDiagnosis, Diagnosed, Diagnosis, ImageDiagnosis, MergedAnswers,
    Probe, Reliance, Role, SetupDifference, Variant, WeightChanges, plan_variants, weights,
};
use crate::domain::{Cause, Component, layer_of};
use crate::eval::{AdapterRequest, OpenedSubjects, SubjectsRequest};
use crate::record;
use crate::stats::{PairedCounts, mcnemar_exact_one_sided};
use answers::Answers;
pub use inside::{LookInside, LookedInside, MirPairs};

/// Models that are evaluated in lock-step, at most. The rest are evaluated after them.
const N_IN_LOCK_STEP: usize = 48;
/// The seed of the bootstrap.
const SEED: u64 = 0;
/// A fall with a larger p-value is within noise.
const ALPHA: f64 = 0.05;

/// What a diagnosis evaluates, and what it knows before any image is seen.
#[derive(Clone, Debug)]
pub struct DiagnosisPlan {
    /// The adapters to evaluate over the base, the candidate first: each is a part of the candidate.
    pub adapters: Vec<AdapterRequest>,
    variants: Vec<Variant>,
    changed: BTreeSet<Component>,
    weights: Option<WeightChanges>,
    /// Whether there is no candidate: the base stands for both.
    is_alone: bool,
    setup: Vec<SetupDifference>,
    probes: BTreeSet<Probe>,
    n_layers: usize,
    n_image_positions: usize,
}

impl DiagnosisPlan {
    /// Opens the base and its one adapter, and plans which parts of it are evaluated for `probes`. No weights are loaded.
    ///
    /// # Errors
    /// There is not exactly one adapter, a file cannot be read, or the adapter changes nothing.
    pub fn new(request: &SubjectsRequest<'_>, probes: BTreeSet<Probe>) -> Result<Self> {
        let adapter = match request.adapters {
            [] => return Self::of_one(request, probes),
            [adapter] => adapter,
            more => bail!("a diagnosis compares a base with one adapter, but {} are given", more.len()),
        };
        let opened = OpenedSubjects::open(request)?;
        let (changes, base, differences) = opened.candidate().context("the adapter was opened")?;
        let changed: BTreeSet<Component> = changes.touched().filter_map(Component::of).collect();
        let layers: BTreeSet<usize> = changes.touched().filter_map(layer_of).collect();
        let name = adapter.name.clone().unwrap_or_else(|| changes.name());
        let setup = differences.into_iter().map(|one| SetupDifference {
            field: if one.place.is_empty() { one.field } else { format!("{}.{}", one.field, one.place) },
            baseline: one.baseline,
            candidate: one.candidate,
        });
        let setup: Vec<SetupDifference> = setup.collect();
        let (n_layers, n_image_positions) = opened.n_layers_and_image_positions();
        let candidate = Candidate {
            name: &name,
            changed: &changed,
            layers: &layers,
            has_own_settings: !setup.is_empty(),
            has_update: changes.has_updates(),
            n_layers,
            n_image_positions,
            is_alone: false,
        };
        let variants = plan_variants(&candidate, &probes);
        let part_of = |variant: &Variant| AdapterRequest {
            name: Some(variant.name.clone()),
            path: adapter.path.clone(),
            part: variant.part.clone(),
        };
        Ok(Self {
            adapters: variants.iter().map(part_of).collect(),
            weights: Some(weights::changes(changes, base)?),
            is_alone: false,
            variants,
            changed,
            setup,
            probes,
            n_layers,
            n_image_positions,
        })
    }

    /// Plans the diagnosis of one checkpoint: those of `probes` that say something without a candidate.
    fn of_one(request: &SubjectsRequest<'_>, probes: BTreeSet<Probe>) -> Result<Self> {
        let probes: BTreeSet<Probe> = probes.into_iter().filter(|probe| Probe::OF_ONE.contains(probe)).collect();
        if probes.is_empty() {
            let names: Vec<&str> = Probe::OF_ONE.iter().map(|probe| probe.name()).collect();
            bail!("these probes compare two models; hint: give --adapter, or some of {}", names.join(", "));
        }
        let opened = OpenedSubjects::open(request)?;
        let (n_layers, n_image_positions) = opened.n_layers_and_image_positions();
        let (changed, layers) = (BTreeSet::new(), BTreeSet::new());
        let candidate = Candidate {
            name: BASE_NAME,
            changed: &changed,
            layers: &layers,
            has_own_settings: false,
            has_update: false,
            n_layers,
            n_image_positions,
            is_alone: true,
        };
        let variants = plan_variants(&candidate, &probes);
        let part_of = |variant: &Variant| AdapterRequest {
            name: Some(variant.name.clone()),
            path: None,
            part: variant.part.clone(),
        };
        Ok(Self {
            // The first is the base itself.
            adapters: variants.iter().skip(1).map(part_of).collect(),
            weights: None,
            is_alone: true,
            variants,
            changed,
            setup: Vec::new(),
            probes,
            n_layers,
            n_image_positions,
        })
    }

    /// The evaluation in which the base also stands for the candidate, if there is none.
    pub fn completed(&self, mut evaluation: Evaluation) -> Evaluation {
        if let Some(base) = evaluation.runs.first().filter(|_| self.is_alone).cloned() {
            evaluation.runs.insert(1, base);
        }
        evaluation
    }

    /// [`Self::adapters`] in groups that are evaluated one after the other, each in lock-step. The base goes with the first.
    pub fn groups(&self) -> impl Iterator<Item = &[AdapterRequest]> {
        let n_groups = self.adapters.len().div_ceil(N_IN_LOCK_STEP).max(1);
        self.adapters.chunks(self.adapters.len().div_ceil(n_groups).max(1))
    }

    /// What the diagnosis costs, in one sentence: forward passes per image, by probe.
    pub fn cost(&self) -> String {
        let mut costs = vec![match self.is_alone {
            true => ("the checkpoint", 1),
            false => ("base and candidate", 2),
        }];
        for probe in Probe::ALL {
            let is_of = |variant: &&Variant| variant.role.probe(&self.changed) == Some(*probe);
            let n = self.variants.iter().filter(is_of).count();
            costs.extend((n > 0).then_some((probe.name(), n)));
        }
        costs.extend(taps::costs(&self.probes, self.n_layers));
        let total: usize = costs.iter().map(|(_, n)| n).sum();
        let costs: Vec<String> = costs.into_iter().map(|(name, n)| format!("{name} {n}")).collect();
        let changed: Vec<&str> = self.changed.iter().map(|component| component.name()).collect();
        let changed = match changed.is_empty() {
            true => String::new(),
            false => format!("the candidate changes {}; ", changed.join(", ")),
        };
        format!("{changed}{total} forward passes per image: {}", costs.join(", "))
    }

    /// Puts together what `evaluation` shows, whose runs are the base and then [`Self::adapters`] in order, and what was read
    /// `inside` passes.
    ///
    /// # Errors
    /// A run is missing, or no image of a dataset was answered by all models.
    pub fn conclude(&self, evaluation: &Evaluation, inside: &LookedInside) -> Result<(Diagnosis, Vec<ImageDiagnosis>)> {
        let runs = &evaluation.runs;
        let n_planned = 1 + self.variants.len();
        ensure!(runs.len() == n_planned, "{n_planned} models were planned, and {} answered", runs.len());
        let (mut datasets, mut images) = (Vec::new(), Vec::new());
        for dataset in &runs[0].spec.datasets {
            let answers = Answers::of(&dataset.dataset, runs)?;
            let nothing = Inside::default();
            let (found, of_images) =
                self.of_dataset(&answers, inside.datasets.get(&dataset.dataset).unwrap_or(&nothing));
            datasets.push(if self.is_alone { found.without_candidate() } else { found });
            images.extend(of_images);
        }
        let diagnosis = Diagnosis {
            schema: DIAGNOSIS_SCHEMA.to_owned(),
            baseline: diagnosed(&runs[0]),
            candidate: (!self.is_alone).then(|| diagnosed(&runs[1])),
            probes: self.probes.iter().map(|probe| probe.name().to_owned()).collect(),
            setup: self.setup.clone(),
            weights: self.weights.clone().filter(|_| self.probes.contains(&Probe::Weights)),
            mir: inside.mir.clone(),
            datasets,
        };
        Ok((diagnosis, images))
    }

    fn of_dataset(&self, answers: &Answers<'_>, inside: &Inside) -> (DatasetDiagnosis, Vec<ImageDiagnosis>) {
        let rights = answers.rights();
        let accuracies = [Rights::accuracy(&rights.base), Rights::accuracy(rights.candidate())];
        let choices = inside.choice_accuracies();
        let is_wording = choices.is_some_and(|choices| causes::is_fall_of_wording(accuracies, choices));
        let images: Vec<ImageDiagnosis> =
            (0..rights.n()).map(|at| self.of_image(answers, &rights, (inside, is_wording), at)).collect();
        let causes: Vec<Cause> = images.iter().filter_map(|image| image.cause).collect();
        let n_gained = (0..rights.n()).filter(|&at| !rights.base[at] && rights.candidate()[at]).count();
        let shares = causes::shares(&causes);
        let swap = swap::shares(&self.changed, &self.variants, &rights, SEED);
        let p = mcnemar_exact_one_sided(PairedCounts { n_lost: causes.len(), n_gained, n: rights.n() });
        let named = if p <= ALPHA { causes::named(&shares, &swap, &self.changed) } else { Vec::new() };
        let blind = |is_candidate: bool| {
            let at = self.variants.iter().position(|variant| variant.role == Role::Blind { is_candidate })?;
            Some(Rights::accuracy(&rights.variants[at]))
        };
        let reliance = blind(false).zip(blind(!self.is_alone)).map(|(of_base, of_candidate)| Reliance {
            baseline: Accuracy { accuracy: accuracies[0], blind_accuracy: of_base },
            candidate: Some(Accuracy { accuracy: accuracies[1], blind_accuracy: of_candidate }),
        });
        let mut found = DatasetDiagnosis {
            dataset: answers.dataset.to_owned(),
            n_images: rights.n(),
            n_lost: causes.len(),
            n_gained,
            baseline_accuracy: accuracies[0],
            candidate_accuracy: Some(accuracies[1]),
            swap,
            reliance,
            causes: shares,
            named,
            ..DatasetDiagnosis::default()
        };
        if self.probes.contains(&Probe::Truncation) {
            found.truncation = Some(restricted::truncation(self, &rights));
        }
        found.composite = restricted::composite(self, &rights, inside.operations);
        found.merge = self.merged(answers);
        inside.complete(&mut found);
        (found, images)
    }

    /// Equal answers of the candidate with merged weights, by type.
    fn merged(&self, answers: &Answers<'_>) -> Vec<MergedAnswers> {
        let n = answers.n();
        let of = |(place, variant): (usize, &Variant)| {
            let Role::Merged(merged_as) = variant.role else { return None };
            let n_equal = (0..n).filter(|&at| answers.text(1 + place, at) == answers.text(1, at)).count();
            Some(MergedAnswers { dtype: merged_as.name().to_owned(), n_equal, n })
        };
        self.variants.iter().enumerate().filter_map(of).collect()
    }

    fn of_image(
        &self,
        answers: &Answers<'_>,
        rights: &Rights,
        (inside, is_wording): (&Inside, bool),
        at: usize,
    ) -> ImageDiagnosis {
        let is_lost = rights.base[at] && !rights.candidate()[at];
        let restored: BTreeMap<String, bool> = self.restored(rights, at);
        let base = answers.trial(0, at);
        let blind = |is_candidate: bool| {
            let place = self.variants.iter().position(|variant| variant.role == Role::Blind { is_candidate })?;
            Some(answers.text(1 + place, at))
        };
        let (blind_baseline, blind_candidate) = (blind(false), blind(true));
        let wording = inside.wording.get(at).and_then(Option::as_ref);
        let candidate_answer = answers.text(1, at);
        let mut indicators = Indicators::default();
        let is_restored = |name: &str| restored.get(name).copied().unwrap_or(false);
        indicators.note(Cause::Setup, is_restored(SETUP));
        for &component in &self.changed {
            indicators.note(Cause::of(component), is_restored(component.name()));
        }
        indicators.note(Cause::Language, is_restored(LANGUAGE_MODEL));
        let is_chosen = is_wording && inside.is_chosen.get(at).is_some_and(|(_, after)| *after);
        let is_worded = wording.is_some_and(|of| of.is_choice_right || of.is_prefix_right);
        indicators.note(Cause::Wording, is_worded || is_chosen);
        let is_same = blind_candidate.as_deref() == Some(candidate_answer.as_str());
        indicators.note(Cause::Prior, is_same && blind_baseline.as_deref() != Some(answers.text(0, at).as_str()));
        ImageDiagnosis {
            dataset: answers.dataset.to_owned(),
            sample: base.sample.clone(),
            content: base.content.clone(),
            label: base.label.clone(),
            baseline_answer: answers.text(0, at),
            candidate_answer,
            lost: is_lost,
            cause: is_lost.then(|| indicators.cause(is_wording)),
            restored,
            score_choice: wording.and_then(|of| of.choice.clone()),
            maps: inside.maps.get(at).cloned().flatten(),
            prefix_answer: wording.and_then(|of| of.prefix_answer.clone()),
            blind_baseline,
            blind_candidate,
        }
    }

    /// By what was restored: whether the answer about one image is right then.
    fn restored(&self, rights: &Rights, at: usize) -> BTreeMap<String, bool> {
        let mut found = BTreeMap::new();
        let mut note = |name: &str, without: &dyn Fn(Component) -> bool| {
            let rest: BTreeSet<Component> = self.changed.iter().copied().filter(|&one| !without(one)).collect();
            if let Some(rights) = rights_with(&self.variants, rights, &rest) {
                found.insert(name.to_owned(), rights[at]);
            }
        };
        for &component in &self.changed {
            note(component.name(), &|other| other == component);
        }
        let is_language = |component: Component| Cause::of(component) == Cause::Language;
        if self.changed.iter().filter(|&&component| is_language(component)).count() > 1 {
            note(LANGUAGE_MODEL, &is_language);
        }
        for (variant, rights) in self.variants.iter().zip(&rights.variants) {
            match &variant.role {
                Role::BaseSettings => found.insert(SETUP.to_owned(), rights[at]),
                Role::WithoutLayers(_) => {
                    found.insert(variant.name.trim_start_matches("without-").to_owned(), rights[at])
                }
                Role::Components(_)
                | Role::Blind { .. }
                | Role::Truncated { .. }
                | Role::Composite { .. }
                | Role::Merged(_) => None,
            };
        }
        found
    }
}

/// The name in `restored` of the base's settings.
const SETUP: &str = "setup";
/// The name in `restored` of all changed components of the language model together.
const LANGUAGE_MODEL: &str = "language_model";

fn diagnosed(run: &EvaluatedRun) -> Diagnosed {
    let dir = run.dir.file_name().map(|name| format!("runs/{}", name.to_string_lossy())).unwrap_or_default();
    Diagnosed { run: record::run_name(&run.dir), identity: record::identity(&run.spec), dir }
}

#[cfg(test)]
mod tests;
