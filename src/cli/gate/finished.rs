//! `emt gate` on finished runs.

use std::io::Write;
use std::path::Path;

use anyhow::{Result, ensure};

use super::next::{self, Given};
use crate::cli::recorded_command::RecordedCommand;
use crate::gate::Decision;
use crate::study::{self, Decide, Decided, RecordedRun};
use crate::{record, report};

/// Decides on two finished runs; says first where nothing could pass. `decision_file` is where the decision will be written.
pub(in crate::cli) fn decide(
    request: Decide<'_>,
    given: &Given<'_>,
    decision_file: Option<&Path>,
    quiet: bool,
    err: &mut dyn Write,
) -> Result<Decision> {
    refuse_unfinished(&request.runs)?;
    let Decided { mut decision, policy, runs, hopeless, history } = request.run()?;
    for dataset in hopeless.iter().filter(|_| !quiet) {
        writeln!(err, "warning: {dataset}")?;
    }
    decision.warnings.extend(runs.iter().filter_map(|run| {
        let flips = study::server_flips(&run.manifest)?;
        Some(report::server_flips_note(&run.name, &flips))
    }));
    let decision_file = decision_file.map(Path::to_owned).or_else(|| history.path());
    decision.next = next::of_recorded(given, &policy, [&runs[0], &runs[1]], decision_file, &decision)?;
    history.add(&report::decision_json(&decision))?;
    Ok(decision)
}

fn refuse_unfinished(runs: &[RecordedRun; 2]) -> Result<()> {
    for run in runs {
        let command = RecordedCommand::of(&run.manifest).and_then(|command| command.for_run(run.dir()));
        ensure!(
            run.manifest.state == record::RunState::Complete,
            "the run `{}` is not complete; hint: finish it with {}",
            run.name,
            command.map_or_else(|| "the command that started it".to_owned(), |command| format!("`{}`", command.text()))
        );
    }
    Ok(())
}
