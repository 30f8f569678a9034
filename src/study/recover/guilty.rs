//! Which components a diagnosis finds guilty.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::diagnose::{DIAGNOSIS_SCHEMA, DatasetDiagnosis, Diagnosis};
use crate::domain::Component;

/// The components that carry the fall of a dataset: of those whose restoration gives a part of it back, beyond noise, the one that
/// gives most. Only the datasets `old` count, if the diagnosis has one of them.
///
/// # Errors
/// The diagnosis is of a newer version, compared no parts, or finds none guilty.
pub fn guilty_components(diagnosis: &Diagnosis, old: &[String]) -> Result<Vec<Component>> {
    ensure!(
        diagnosis.schema == DIAGNOSIS_SCHEMA,
        "the diagnosis has the schema `{}`, and `{DIAGNOSIS_SCHEMA}` is read; hint: make it again with this version",
        diagnosis.schema
    );
    let is_old = |dataset: &&DatasetDiagnosis| old.contains(&dataset.dataset);
    let any_old = diagnosis.datasets.iter().any(|dataset| is_old(&dataset));
    let datasets: Vec<&DatasetDiagnosis> =
        diagnosis.datasets.iter().filter(|dataset| !any_old || is_old(dataset)).collect();
    ensure!(
        datasets.iter().any(|dataset| !dataset.swap.is_empty()),
        "the diagnosis compared no parts of the candidate; hint: `emt diagnose` with --probes quick, or with `swap` among them"
    );
    let found: BTreeSet<Component> = datasets.iter().filter_map(|dataset| guiltiest(dataset)).collect();
    ensure!(
        !found.is_empty(),
        "the diagnosis finds no component whose restoration gives the loss back; hint: leave --diagnosis out"
    );
    Ok(found.into_iter().collect())
}

fn guiltiest(dataset: &DatasetDiagnosis) -> Option<Component> {
    let of = |share: &crate::diagnose::SwapShare| {
        let component = Component::ALL.iter().find(|component| component.name() == share.component)?;
        let is_beyond_noise = share.restore.recovered_interval.is_some_and(|[low, _]| low > 0.0);
        Some((*component, share.restore.recovered.filter(|_| is_beyond_noise)?))
    };
    let found = dataset.swap.iter().filter_map(of).max_by(|a, b| a.1.total_cmp(&b.1));
    found.map(|(component, _)| component)
}

#[cfg(test)]
mod tests;
