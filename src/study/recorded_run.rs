//! A finished or unfinished run, as it was recorded.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::tuned_on;
use crate::compare::ServerFlips;
use crate::domain::{RunSpec, SampleSet, Trial};
use crate::eval;
use crate::record::{self, Manifest, TrialsDigest, run_name};

/// A run as it was recorded. Its trials are read a dataset at a time: of a long run all of them would fill the memory.
#[derive(Clone, Debug)]
pub struct RecordedRun {
    /// The name of its folder, or another one that tells it from its neighbours.
    pub name: String,
    /// What its `run.json` holds.
    pub manifest: Manifest,
    dir: PathBuf,
    /// The only samples that are looked at, where not all are.
    samples: Option<SampleSet>,
}

impl RecordedRun {
    /// Opens the run in `dir`.
    ///
    /// # Errors
    /// There is no `run.json`, or it cannot be read.
    pub fn open(dir: &Path) -> Result<Self> {
        let manifest =
            record::read_manifest(dir).with_context(|| format!("failed to open the run `{}`", dir.display()))?;
        Ok(Self { name: run_name(dir), manifest, dir: dir.to_owned(), samples: None })
    }

    /// The same run, of which only `samples` are looked at.
    pub fn only(self, samples: SampleSet) -> Self {
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
    ///
    /// # Errors
    /// The journal cannot be read, or lost trials.
    pub fn digest(&self) -> Result<(TrialsDigest, Option<String>)> {
        let now = record::trials_digest(&self.dir)?;
        let Some(then) = TrialsDigest::recorded(&self.manifest).filter(|then| *then != now) else {
            return Ok((now, None));
        };
        if now.n_trials < then.n_trials {
            bail!(
                "the run `{}` ended with {} trials, and `{}` holds {}; hint: run the command that made it again to \
                 fill in the missing ones, or restore the file",
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
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn trials_of(&self, dataset: &str) -> Result<Vec<Trial>> {
        let mut trials = record::read_outcomes(&self.dir, dataset)
            .with_context(|| format!("failed to read the run `{}`", self.dir.display()))?;
        if let Some(samples) = &self.samples {
            trials.retain(|trial| samples.contains(dataset, &trial.sample));
        }
        Ok(trials)
    }

    /// The specification of one of its datasets alone.
    pub fn spec_of(&self, dataset: &str) -> RunSpec {
        let mut spec = self.manifest.spec.clone();
        spec.datasets.retain(|known| known.dataset == dataset);
        spec
    }

    /// Whether it was evaluated on `dataset`.
    pub fn has(&self, dataset: &str) -> bool {
        self.manifest.spec.datasets.iter().any(|known| known.dataset == dataset)
    }

    /// The datasets that it was fine-tuned on, as far as the run knows.
    pub fn tuned_on(&self) -> BTreeSet<String> {
        tuned_on::recorded(&self.manifest.spec, &self.manifest.environment)
    }
}

/// What became of samples that the run's server was asked about again.
pub fn server_flips(manifest: &Manifest) -> Option<ServerFlips> {
    serde_json::from_value(manifest.environment.get(eval::SERVER_FLIPS)?.clone()).ok()
}

/// Gives runs whose folders have one name the name of the folder above, too: `lora/epoch-1`, not twice `epoch-1`.
pub fn make_names_differ(runs: &mut [RecordedRun], dirs: &[PathBuf]) {
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for ((run, dir), name) in runs.iter_mut().zip(dirs).zip(&names) {
        let is_alone = names.iter().filter(|other| *other == name).count() == 1;
        let above = dir.canonicalize().ok().and_then(|path| Some(run_name(path.parent()?)));
        if let (false, Some(above)) = (is_alone, above) {
            run.name = format!("{above}-{name}");
        }
    }
}
