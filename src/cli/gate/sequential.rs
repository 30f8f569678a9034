//! `emt gate --model`: evaluates until every dataset is decided.

use std::io::Write;
use std::path::Path;

use anyhow::{Error, Result, anyhow, ensure};

use super::{GateArgs, causes, next, output};
use crate::cli::eval::{self, EvalOptions, Prepared};
use crate::cli::gallery::Gallery;
use crate::cli::progress::Progress;
use crate::cli::results::{self, Format, Results};
use crate::cli::served_options::is_address;
use crate::cli::{exit_code, interrupt};
use crate::gate::Policy;
use crate::study::{DecideInSequence, DecidedInSequence, EvaluatedRun};
use crate::{record, report, study};

/// The place of the candidate among the runs.
const CANDIDATE: usize = 1;

/// Evaluates and decides; returns the exit code.
pub(super) fn run(
    args: &GateArgs,
    model: &Path,
    policy: Policy,
    quiet: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<u8> {
    let options = &args.options;
    check_models(args, model)?;
    let prepared = eval::prepare(model, options, args.runs.as_deref(), quiet, err)?;
    let (said_tuned_on, tuned_on) = match prepared.planned.runs.len() {
        // The request itself says what is wrong with it.
        0 | 1 => Default::default(),
        _ => (prepared.said_tuned_on(CANDIDATE), prepared.tuned_on(CANDIDATE)),
    };
    let Prepared { planned, .. } = prepared;
    let cache = planned.feature_cache.clone();
    let rules = args.decision_rules(policy)?;
    let checked = DecideInSequence { planned, rules, said_tuned_on, tuned_on, limit: options.limit }.check()?;
    let mut progress = Progress::new(err, quiet);
    eval::warn(&mut progress, checked.planned());
    let open_runs = checked.planned().open_folders().map_err(with_runs_flag)?;
    interrupt::listen();
    let decided = checked.run(open_runs, &interrupt::is_stopped, &mut progress);
    progress.finish();
    if let Some(cache) = cache {
        progress.say(&cache.summary());
    }
    let Some(DecidedInSequence { mut decision, policy, runs, at_hand, tuned_on, history }) = decided? else {
        progress.say("interrupted; run the same command again to continue");
        return Ok(exit_code::INTERRUPTED);
    };
    drop(progress);
    write_runs(&runs, options)?;
    for run in &runs {
        let flips = study::server_flips(&record::read_manifest(&run.dir)?);
        let note = flips.map(|flips| report::server_flips_note(&record::run_name(&run.dir), &flips));
        decision.warnings.extend(note);
    }
    let found = next::Found {
        runs: [&runs[0].dir, &runs[CANDIDATE].dir],
        decision: args.output.out.clone().or_else(|| history.path()),
        tuned_on: &tuned_on,
    };
    decision.next = next::of_sequence(&args.given(), &policy, &found, &at_hand, &decision);
    history.add(&report::decision_json(&decision))?;
    let dirs = [runs[0].dir.as_path(), runs[CANDIDATE].dir.as_path()];
    if args.output.diagnose && !causes::find(&mut decision, args, dirs, quiet, err)? {
        return Ok(exit_code::INTERRUPTED);
    }
    output::write(&args.output, &decision, out)?;
    for run in runs.iter().filter(|_| !quiet) {
        writeln!(err, "{}: report.html, trials.jsonl and the rest of the run", run.dir.display())?;
    }
    Ok(decision.exit_code)
}

/// Refuses what cannot be a baseline and a candidate, before anything is opened or asked.
fn check_models(args: &GateArgs, model: &Path) -> Result<()> {
    let options = &args.options;
    ensure!(
        is_address(model) || (options.adapters.adapters.len() == 1 && options.adapters.has_base()),
        "the gate compares a base with one adapter over it; hint: one --adapter, without --no-base; for more, `emt eval` \
         and `emt gate --baseline RUN --candidate RUN`"
    );
    let n_served = options.served.n_named();
    ensure!(
        !is_address(model) || n_served == 0 || n_served == 2,
        "the gate compares two served models, and --served-model names {n_served}; hint: --served-model BASE,CANDIDATE, the \
         one before fine-tuning first"
    );
    Ok(())
}

/// The folder of a gate's runs has a flag of its own: `--out` is for the decision.
fn with_runs_flag(error: Error) -> Error {
    match format!("{error:#}").rsplit_once("; hint: ") {
        Some((what, hint)) if hint.contains("--out") => anyhow!("{what}; hint: {}", hint.replace("--out", "--runs")),
        _ => error,
    }
}

/// Writes what a finished run leaves, for each of `runs`.
fn write_runs(runs: &[EvaluatedRun], options: &EvalOptions) -> Result<()> {
    let gallery = Gallery::none();
    let finished: Vec<Results> = runs.iter().map(|run| Results::of(run, &options.charts, &gallery)).collect();
    results::write_all(&finished, Format::Table, true, &mut std::io::sink())
}
