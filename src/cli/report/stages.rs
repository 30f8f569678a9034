//! Fine-tunes one after the other: `--stages BASE RUN:DATASET …`.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::super::comparison_options::ComparisonOptions;
use super::summaries::Summaries;
use crate::compare::Summary;
use crate::report::{Stage, StageReport};
use crate::stats::StageMatrix;
use crate::study::{RecordedRun, comparability};

/// Reads the runs of all stages and computes the matrix.
pub(super) fn read(texts: &[String], options: &ComparisonOptions) -> Result<StageReport> {
    let (base, stages) = texts.split_first().context("--stages names no base")?;
    let base = RecordedRun::open(Path::new(base))?;
    let mut trained: Vec<(String, RecordedRun)> = Vec::with_capacity(stages.len());
    for text in stages {
        let Some((dir, dataset)) = text.rsplit_once(':') else {
            bail!("--stages {text}: it names no dataset; hint: RUN:DATASET, the dataset that this stage was tuned on");
        };
        let run = RecordedRun::open(Path::new(dir))?;
        let differences = comparability::checked(&base, &run, &options.allow_different)?;
        let specs = [&base.manifest.spec, &run.manifest.spec];
        if let Some(message) = comparability::same_model([&base.name, &run.name], specs, &differences) {
            bail!("--stages {text}: {message}; hint: leave it out, or give the run of the fine-tuned model");
        }
        if trained.iter().any(|(known, _)| known == dataset) {
            bail!("--stages: two stages were tuned on `{dataset}`; hint: the matrix has one stage per dataset");
        }
        trained.push((dataset.to_owned(), run));
    }
    let datasets = ordered(&base, &trained)?;
    let accuracies = |run: &RecordedRun| -> Result<Vec<Option<f64>>> {
        let summary = summary_of(run)?;
        let of =
            |name: &String| summary.datasets.iter().find(|dataset| &dataset.dataset == name)?.model.as_ref()?.accuracy;
        Ok(datasets.iter().map(of).collect())
    };
    let of_base = accuracies(&base)?;
    let of_stages: Vec<Vec<Option<f64>>> = trained.iter().map(|(_, run)| accuracies(run)).collect::<Result<_>>()?;
    let matrix = StageMatrix::new(of_base.clone(), of_stages.clone()).context("the stages do not form a matrix")?;
    let mut rows = vec![Stage { run: base.name, tuned_on: None, accuracies: of_base }];
    for ((dataset, run), accuracies) in trained.into_iter().zip(of_stages) {
        rows.push(Stage { run: run.name, tuned_on: Some(dataset), accuracies });
    }
    Ok(StageReport {
        datasets,
        stages: rows,
        average_accuracy: matrix.average_accuracy(),
        average_incremental_accuracy: matrix.average_incremental_accuracy(),
        backward_transfer: matrix.backward_transfer(),
        forward_transfer: matrix.forward_transfer(),
    })
}

/// All numbers of a run.
fn summary_of(run: &RecordedRun) -> Result<Summary> {
    let mut parts = Summaries::new(1);
    for dataset in &run.manifest.spec.datasets {
        parts.add(0, &run.name, &run.spec_of(&dataset.dataset), &run.trials_of(&dataset.dataset)?)?;
    }
    parts.finish().pop().context("a run has a summary")
}

/// The datasets that stages were tuned on, in their order, and then the base's others.
fn ordered(base: &RecordedRun, trained: &[(String, RecordedRun)]) -> Result<Vec<String>> {
    let known: Vec<&str> = base.manifest.spec.datasets.iter().map(|dataset| dataset.dataset.as_str()).collect();
    if let Some((missing, _)) = trained.iter().find(|(name, _)| !known.contains(&name.as_str())) {
        bail!("--stages: the base was not evaluated on `{missing}`; hint: it was on {}", known.join(", "));
    }
    let tuned_on: BTreeSet<&str> = trained.iter().map(|(name, _)| name.as_str()).collect();
    let others = known.into_iter().filter(|name| !tuned_on.contains(name)).map(str::to_owned);
    Ok(trained.iter().map(|(name, _)| name.clone()).chain(others).collect())
}
