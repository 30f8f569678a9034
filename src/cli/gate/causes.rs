//! `emt gate --diagnose`: why images were lost on the datasets that did not pass.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use anyhow::{Result, ensure};

use super::GateArgs;
use crate::cli::diagnose::Mir;
use crate::cli::diagnose::recorded::{self, OfRuns};
use crate::diagnose::Probe;
use crate::diagnose::taps::FlowRule;
use crate::gate::{Decision, Verdict};

/// Adds the causes to the datasets of `decision` that failed or stayed inconclusive and lost images. `runs` are the folders of
/// the baseline and the candidate. Returns false if the user stopped it.
pub(super) fn find(
    decision: &mut Decision,
    args: &GateArgs,
    runs: [&Path; 2],
    quiet: bool,
    err: &mut dyn Write,
) -> Result<bool> {
    let is_open = |verdict: Verdict| matches!(verdict, Verdict::Fail | Verdict::Inconclusive);
    let lossy = decision.datasets.iter().filter(|dataset| is_open(dataset.decision) && dataset.n_lost > 0);
    let names: BTreeSet<String> = lossy.map(|dataset| dataset.dataset.clone()).collect();
    if names.is_empty() {
        return Ok(true);
    }
    let [baseline, candidate] = runs;
    ensure!(
        recorded::is_local(candidate),
        "--diagnose needs the candidate's weights, and `{}` is a run of a served model; hint: `emt diagnose --model DIR \
         --adapter DIR`",
        candidate.display()
    );
    let out = recorded::folder_of(candidate);
    let wanted = OfRuns {
        baseline,
        candidate,
        probes: Probe::QUICK.iter().copied().collect(),
        datasets: Some(names),
        limit: None,
        samples: args.options.samples.read()?,
        batch_size: args.options.batch_size,
        placement: None,
        is_fresh: false,
        places: &args.options.places,
        hub: &args.options.hub,
        flow: FlowRule::PAPER,
        mir: Mir::default(),
        out: &out,
    };
    let Some(diagnosed) = recorded::diagnose(wanted, quiet, err)? else { return Ok(false) };
    recorded::write(&out, &diagnosed)?;
    for dataset in &mut decision.datasets {
        let found = diagnosed.diagnosis.datasets.iter().find(|found| found.dataset == dataset.dataset);
        dataset.causes = found.map(|found| found.causes.clone()).unwrap_or_default();
    }
    Ok(true)
}
