//! Recorded runs, checked and compared: what `emt report` and `emt gate` share.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::comparability;
use super::data::Places;
use super::results;
use super::tuned_on;
use crate::compare::{self, Candidate, Comparison, FieldDifference, RunView, SAMPLES};
use crate::domain::{LabelSet, RunSpec, Trial};
use crate::record::{self, Manifest, TrialsDigest};

/// What decides which runs may be compared, and how.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Comparison")]
pub(super) struct ComparisonOptions {
    /// Compare runs that differ in this field; can be repeated
    ///
    /// A field of `comparable` in run.json, or `samples`. The report names what was allowed.
    #[arg(long, value_name = "FIELD", value_delimiter = ',')]
    pub(super) allow_different: Vec<String>,
}

/// A run as it was recorded. Its trials are read a dataset at a time: of a long run all of them would fill the memory.
pub(super) struct RecordedRun {
    pub name: String,
    pub manifest: Manifest,
    dir: PathBuf,
    /// By dataset, the only samples that are looked at, where not all are.
    samples: Option<BTreeMap<String, BTreeSet<String>>>,
}

impl RecordedRun {
    /// Opens the run in `dir`.
    pub fn open(dir: &Path) -> Result<Self> {
        let manifest =
            record::read_manifest(dir).with_context(|| format!("failed to open the run `{}`", dir.display()))?;
        Ok(Self { name: results::name_of(dir), manifest, dir: dir.to_owned(), samples: None })
    }

    /// The same run, of which only `samples` (by dataset) are looked at.
    pub fn only(self, samples: BTreeMap<String, BTreeSet<String>>) -> Self {
        Self { samples: Some(samples), ..self }
    }

    /// Where it lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its datasets, in their order.
    pub fn datasets(&self) -> impl Iterator<Item = &str> {
        self.manifest.spec.datasets.iter().map(|dataset| dataset.dataset.as_str())
    }

    /// Leaves out all datasets but those of `names`, from what is compared and from what decides whether it may be.
    pub fn keep_only(&mut self, names: &BTreeSet<String>) {
        self.manifest.spec.datasets.retain(|dataset| names.contains(&dataset.dataset));
        record::keep_datasets(&mut self.manifest.comparable, names);
    }

    /// What its journal holds now. A finished run that lost trials since is refused; one that holds others than it ended
    /// with is the second value.
    pub fn digest(&self) -> Result<(TrialsDigest, Option<String>)> {
        let now = record::trials_digest(&self.dir)?;
        let Some(then) = TrialsDigest::recorded(&self.manifest).filter(|then| *then != now) else {
            return Ok((now, None));
        };
        if now.n_trials < then.n_trials {
            bail!(
                "the run `{}` ended with {} trials, and `{}` holds {}; hint: the command that made it asks for those \
                 that are missing, or restore the file",
                self.name,
                then.n_trials,
                self.dir.join("trials.jsonl").display(),
                now.n_trials
            );
        }
        let warning = format!("the trials of the run `{}` were changed after it ended", self.name);
        Ok((now, Some(warning)))
    }

    /// Its trials of one dataset.
    pub fn trials_of(&self, dataset: &str) -> Result<Vec<Trial>> {
        let mut trials = record::read_outcomes(&self.dir, dataset)
            .with_context(|| format!("failed to read the run `{}`", self.dir.display()))?;
        if let Some(samples) = &self.samples {
            let of_dataset = samples.get(dataset);
            trials.retain(|trial| of_dataset.is_some_and(|samples| samples.contains(&trial.sample)));
        }
        Ok(trials)
    }

    /// The specification of one of its datasets alone.
    pub fn spec_of(&self, dataset: &str) -> RunSpec {
        let mut spec = self.manifest.spec.clone();
        spec.datasets.retain(|known| known.dataset == dataset);
        spec
    }

    fn has(&self, dataset: &str) -> bool {
        self.manifest.spec.datasets.iter().any(|known| known.dataset == dataset)
    }

    /// The datasets that it was fine-tuned on, as far as the run knows.
    pub fn tuned_on(&self) -> BTreeSet<String> {
        tuned_on::recorded(&self.manifest.spec, &self.manifest.environment)
    }
}

/// By candidate, the datasets that it was fine-tuned on: those of `--tuned-on`, whose parts `RUN:DATASET` are for one candidate
/// alone, and those that a person named when it was evaluated; where there are none, those that its adapter names.
pub(super) fn tuned_on(list: Option<&str>, candidates: &[RecordedRun]) -> Result<Vec<BTreeSet<String>>> {
    let names: Vec<&str> = candidates.iter().map(|run| run.name.as_str()).collect();
    let parts = tuned_on::parts(list, &names)?;
    let of_candidate = |(index, run): (usize, &RecordedRun)| {
        let own = parts.iter().filter(|part| part.run.is_none_or(|of| of == index));
        let said: BTreeSet<String> = own.map(|part| part.dataset.to_owned()).collect();
        match said.is_empty() {
            true => run.tuned_on(),
            false => said.into_iter().chain(tuned_on::said_of(&run.manifest.spec, &run.manifest.environment)).collect(),
        }
    };
    Ok(candidates.iter().enumerate().map(of_candidate).collect())
}

/// Gives runs whose folders have one name the name of the folder above, too: `lora/epoch-1`, not twice `epoch-1`.
pub(super) fn make_names_differ(runs: &mut [RecordedRun], dirs: &[PathBuf]) {
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for ((run, dir), name) in runs.iter_mut().zip(dirs).zip(&names) {
        let is_alone = names.iter().filter(|other| *other == name).count() == 1;
        let above = dir.canonicalize().ok().and_then(|path| Some(results::name_of(path.parent()?)));
        if let (false, Some(above)) = (is_alone, above) {
            run.name = format!("{above}-{name}");
        }
    }
}

/// How runs are compared.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    /// By candidate, the datasets that it was fine-tuned on.
    pub tuned_on: &'a [BTreeSet<String>],
    /// The datasets that a candidate may lack.
    pub ignored: &'a dyn Fn(&str) -> bool,
    /// What may differ.
    pub options: &'a ComparisonOptions,
    /// Where labels of datasets that no run has are looked up.
    pub places: &'a Places,
}

/// The trials of one run and dataset on their way into the comparison.
#[derive(Clone, Copy)]
pub(super) struct Passing<'a> {
    /// 0 is the baseline, then the candidates.
    pub run: usize,
    /// Of this dataset alone.
    pub spec: &'a RunSpec,
    pub trials: &'a [Trial],
    /// Whether codes were made again already.
    pub is_recoded: bool,
}

/// Compares `candidates` with `baseline`, a dataset at a time, which `watch` sees pass: refuses what is not comparable, computes codes again, of a
/// candidate and of the baseline beside it with the labels that the candidate was fine-tuned on, and refuses trials without a partner.
pub(super) fn compare(
    baseline: &RecordedRun,
    candidates: &[RecordedRun],
    rules: &Rules<'_>,
    watch: &mut dyn FnMut(Passing<'_>) -> Result<()>,
) -> Result<Comparison> {
    let Rules { tuned_on, ignored, options, places } = *rules;
    check_fields(&options.allow_different, baseline)?;
    let mut differences = Vec::with_capacity(candidates.len());
    for candidate in candidates.iter() {
        differences.push(differing(baseline, candidate, ignored, &options.allow_different)?);
    }
    let mut labels = Vec::with_capacity(candidates.len());
    for (candidate, tuned_on) in candidates.iter().zip(tuned_on) {
        labels.push(tuned_labels(baseline, candidates, candidate, tuned_on, places)?);
    }
    let all_labels: BTreeMap<String, LabelSet> =
        labels.iter().flatten().map(|(name, set)| (name.clone(), set.clone())).collect();
    let runs: Vec<&RecordedRun> = std::iter::once(baseline).chain(candidates).collect();
    let mut comparison: Option<Comparison> = None;
    for dataset in &baseline.manifest.spec.datasets {
        let name = dataset.dataset.as_str();
        let mut parts: Vec<(RunSpec, Vec<Trial>)> = Vec::with_capacity(runs.len());
        let mut before = Vec::new();
        for (index, run) in runs.iter().enumerate() {
            let (spec, mut trials) = (run.spec_of(name), run.trials_of(name)?);
            watch(Passing { run: index, spec: &spec, trials: &trials, is_recoded: false })?;
            let of_run = if index == 0 { &all_labels } else { &labels[index - 1] };
            if index == 0 && labels.iter().any(|labels| *labels != all_labels) {
                before.clone_from(&trials);
            }
            tuned_on::recode(&spec, &mut trials, of_run)?;
            watch(Passing { run: index, spec: &spec, trials: &trials, is_recoded: true })?;
            parts.push((spec, trials));
        }
        for (index, differences) in differences.iter().enumerate() {
            let mut own = Vec::new();
            if labels[index] != all_labels {
                own.clone_from(&before);
                tuned_on::recode(&parts[0].0, &mut own, &labels[index])?;
            }
            let view = |at: usize| RunView {
                name: &runs[at].name,
                identity: &runs[at].manifest.identity,
                spec: &parts[at].0,
                trials: if at == 0 && labels[index] != all_labels { &own } else { &parts[at].1 },
            };
            let compared = Candidate { run: view(index + 1), differences };
            let mut part = compare::compare_runs(view(0), &[compared], &tuned_on[index], &options.allow_different);
            if tuned_on[index].iter().any(|name| !labels[index].contains_key(name)) {
                // The leaks of those whose labels are known are not all.
                let datasets = part.candidates.iter_mut().flat_map(|candidate| &mut candidate.datasets);
                datasets.for_each(|dataset| dataset.is_leak_known = false);
            }
            add(&mut comparison, index, part);
        }
    }
    let Some(mut comparison) = comparison else {
        bail!("the run `{}` has no dataset; hint: evaluate one with --datasets", baseline.name);
    };
    for (compared, candidate) in comparison.candidates.iter_mut().zip(candidates) {
        let only = candidate.manifest.spec.datasets.iter().filter(|dataset| !baseline.has(&dataset.dataset));
        compared.only_candidate = only.map(|dataset| dataset.dataset.clone()).collect();
    }
    if !options.allow_different.iter().any(|field| field == SAMPLES) {
        refuse_unpaired(&comparison)?;
    }
    Ok(comparison)
}

/// Adds what was found of one dataset and the candidate at `index`.
fn add(comparison: &mut Option<Comparison>, index: usize, part: Comparison) {
    let Some(whole) = comparison else {
        *comparison = Some(part);
        return;
    };
    let tuned_on: BTreeSet<String> = whole.tuned_on.drain(..).chain(part.tuned_on).collect();
    whole.tuned_on = tuned_on.into_iter().collect();
    for part in part.candidates {
        match whole.candidates.get_mut(index) {
            Some(known) => known.datasets.extend(part.datasets),
            None => whole.candidates.push(part),
        }
    }
}

/// A slip in a field's name would silently allow nothing.
fn check_fields(allowed: &[String], baseline: &RecordedRun) -> Result<()> {
    let mut known: Vec<&str> = baseline.manifest.comparable.keys().map(String::as_str).collect();
    // A run that decodes by no settings has no such field.
    known.extend(
        [compare::GENERATION_CONFIG, SAMPLES]
            .into_iter()
            .filter(|field| !baseline.manifest.comparable.contains_key(*field)),
    );
    match allowed.iter().find(|field| !known.contains(&field.as_str())) {
        Some(field) => {
            bail!("--allow-different {field}: there is no such field; hint: it is one of {}", known.join(", "))
        }
        None => Ok(()),
    }
}

fn differing(
    baseline: &RecordedRun,
    candidate: &RecordedRun,
    ignored: &dyn Fn(&str) -> bool,
    allowed: &[String],
) -> Result<Vec<FieldDifference>> {
    let differences = comparability::checked(baseline, candidate, allowed)?;
    let mut lacking = baseline
        .manifest
        .spec
        .datasets
        .iter()
        .map(|dataset| dataset.dataset.as_str())
        .filter(|&name| !candidate.has(name) && !ignored(name));
    if let Some(name) = lacking.next() {
        bail!(
            "`{}` lacks the dataset `{name}`, which `{}` has; hint: evaluate it, too, or ignore it in the policy of `emt gate`, \
             or choose with its --datasets",
            candidate.name,
            baseline.name
        );
    }
    Ok(differences)
}

/// In what the model of `candidate`, a run called `name`, is configured otherwise than the one of `baseline`; `None` where
/// nothing differs or a run does not tell.
pub(super) fn settings_note(baseline: &RunSpec, candidate: &RunSpec, name: &str) -> Option<String> {
    let (before, after) = baseline.model.settings.as_ref().zip(candidate.model.settings.as_ref())?;
    let differences = compare::shown_setting_differences(before, after);
    let told = (!differences.is_empty()).then(|| compare::settings_in_words(&differences))?;
    Some(format!("`{name}` runs with its own settings: {told}"))
}

/// The labels of every fine-tuned dataset: from the runs, else from the catalog. One that is not known adds no labels.
fn tuned_labels(
    baseline: &RecordedRun,
    candidates: &[RecordedRun],
    candidate: &RecordedRun,
    tuned_on: &BTreeSet<String>,
    places: &Places,
) -> Result<BTreeMap<String, LabelSet>> {
    let catalog = places.catalog()?;
    let mut labels = BTreeMap::new();
    for run in [baseline, candidate] {
        labels.extend(run.manifest.spec.tuned_on.clone());
    }
    for name in tuned_on {
        if labels.contains_key(name) {
            continue;
        }
        let runs = [candidate, baseline].into_iter().chain(candidates);
        let found = runs
            .map(|run| &run.manifest)
            .find_map(|manifest| tuned_on::labels_in(&manifest.spec, &manifest.environment, name))
            .or_else(|| catalog.labels_of(name).ok().cloned());
        labels.extend(found.map(|found| (name.clone(), found)));
    }
    Ok(labels)
}

fn refuse_unpaired(comparison: &Comparison) -> Result<()> {
    for candidate in &comparison.candidates {
        if let Some(dataset) = candidate.datasets.iter().find(|dataset| dataset.n_unpaired > 0) {
            bail!(
                "{} images of `{}` are in only one of `{}` and `{}`, and {} in both; hint: evaluate both on the same \
                 images (--limit, --data), or --allow-different samples",
                dataset.n_unpaired,
                dataset.dataset,
                comparison.baseline,
                candidate.run,
                dataset.n_pairs
            );
        }
    }
    Ok(())
}
