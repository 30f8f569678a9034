//! The diagnoses that a report shows: only diagnoses of its own candidates.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::diagnose::{DIAGNOSIS_SCHEMA, Diagnosis};
use crate::record;
use crate::study::RecordedRun;

/// Reads the folders `dirs`, the k-th about the k-th of `candidates`.
///
/// # Errors
/// A folder holds no diagnosis, or one of another model.
pub(super) fn read(dirs: &[PathBuf], candidates: &[RecordedRun]) -> Result<Vec<Diagnosis>> {
    let of = |(dir, candidate): (&PathBuf, &RecordedRun)| {
        let diagnosis = parse(dir)?;
        let named = diagnosis.candidate.as_ref().with_context(|| {
            format!("the diagnosis `{}` is of one checkpoint, and says nothing of a fine-tune", dir.display())
        })?;
        let run = dir.join(&named.dir);
        let diagnosed = record::read_manifest(&run)
            .with_context(|| format!("the diagnosis `{}` has lost the run that it is about", dir.display()))?;
        let [theirs, ours] = [&diagnosed.spec.model, &candidate.manifest.spec.model];
        ensure!(
            (&theirs.weights, &theirs.adapter) == (&ours.weights, &ours.adapter),
            "the diagnosis `{}` is about `{}`, which is another model than that of the run `{}`; hint: give --diagnosis in \
             the order of the runs",
            dir.display(),
            named.run,
            candidate.name
        );
        Ok(diagnosis)
    };
    dirs.iter().zip(candidates).map(of).collect()
}

fn parse(dir: &Path) -> Result<Diagnosis> {
    let path = dir.join("diagnosis.json");
    let not_ours = || {
        format!(
            "`{}` is not a diagnosis of emt; hint: --diagnosis takes the folder that `emt diagnose --out` wrote",
            path.display()
        )
    };
    let value: serde_json::Value = serde_json::from_str(&record::read_text(&path)?).with_context(not_ours)?;
    match value.get("schema").and_then(serde_json::Value::as_str) {
        Some(DIAGNOSIS_SCHEMA) => serde_json::from_value(value).with_context(not_ours),
        _ => bail!("{}", not_ours()),
    }
}
