//! A recovery from its request to its files.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Map;

use crate::chart::{self, Drawn, Frontier};
use crate::cli::environment;
use crate::cli::eval::{self, Origin, sitting};
use crate::cli::gallery::Gallery;
use crate::cli::judge_options::JudgeOptions;
use crate::cli::results::{self, ChartOptions, Format, Results};
use crate::cli::unscored::{self, Finished};
use crate::dataset::Dataset;
use crate::domain::Mode;
use crate::eval::{AdapterRequest, EncoderChoice, SubjectsRequest};
use crate::gate::{Decision, Verdict};
use crate::model::Placement;
use crate::model::vision::preprocess::PixelLimits;
use crate::prompting::PromptTemplate;
use crate::study::recover::{
    ADAPTER_DIR, CONFIRMATION_FILE, Half, MODEL_DIR, Recovery, RecoveryPlan, SELECTION_FILE, Trials, halves,
};
use crate::study::{ComparatorChoice, ComparatorRequest, DecisionRules, Evaluate, Evaluation, RespondentRequest};
use crate::{record, report};

/// Trials of one dataset that may be unscored.
const MAX_UNSCORED: f64 = 0.02;

/// What is recovered, and how.
pub(super) struct Request<'a> {
    pub model: &'a Path,
    pub adapter: AdapterRequest,
    pub trials: Trials,
    pub new: Vec<String>,
    pub old: Vec<String>,
    pub datasets: Vec<Dataset>,
    pub origin: Origin<'a>,
    pub limit: usize,
    pub template: PromptTemplate,
    pub max_new_tokens: usize,
    pub pixels: PixelLimits,
    pub batch_size: Option<usize>,
    pub placement: Placement,
    pub judging: &'a JudgeOptions,
    pub rules: DecisionRules,
    pub is_fresh: bool,
    /// The folder of the recovery.
    pub out: &'a Path,
}

/// A finished recovery.
pub(super) struct Recovered {
    pub recovery: Recovery,
    /// The gate's, if a point was chosen.
    pub decision: Option<Decision>,
    /// The names of its files.
    pub written: Vec<&'static str>,
}

/// Recovers; `None` if the user stopped it.
pub(super) fn recover(mut wanted: Request<'_>, quiet: bool, err: &mut dyn Write) -> Result<Option<Recovered>> {
    let adapter = [wanted.adapter.clone()];
    let whole = subjects(&wanted, &adapter, false);
    let tasks = [wanted.new.clone(), wanted.old.clone()];
    let plan = RecoveryPlan::new(&whole, &wanted.trials, tasks, &wanted.placement)?;
    let datasets = std::mem::take(&mut wanted.datasets);
    let seed = datasets.first().context("a recovery needs datasets")?.sample_seed;
    let split = halves(&datasets, seed, Some(wanted.limit))?;
    if !quiet {
        writeln!(err, "{}", plan.cost(&split))?;
    }
    let [selection, confirmation] = &split;
    for told in plan.hopeless(&wanted.rules, confirmation).iter().filter(|_| !quiet) {
        writeln!(err, "warning: {told}")?;
    }
    for (name, half) in [(SELECTION_FILE, selection), (CONFIRMATION_FILE, confirmation)] {
        record::write_file(wanted.out, name, half.table.as_bytes())?;
    }
    let Some(evaluation) = evaluate_points(&wanted, &plan, datasets, selection, (quiet, err))? else {
        return Ok(None);
    };
    let found = plan.find(&evaluation, &wanted.rules, selection)?;
    let datasets = evaluation.datasets;
    let chosen = plan.chosen(&found).cloned();
    let mut confirmed = None;
    if let Some(chosen) = &chosen {
        let place = Place { runs: "confirmation", half: confirmation, adapters: std::slice::from_ref(chosen) };
        let Some(evaluation) = evaluate(&wanted, &place, datasets, (quiet, err))? else { return Ok(None) };
        confirmed = Some(evaluation);
    }
    let (recovery, decision) = plan.conclude(found, confirmed.as_ref(), &wanted.rules, &split)?;
    let written = write(&wanted, &recovery, decision.as_ref(), confirmed.as_ref())?;
    let mut recovered = Recovered { recovery, decision, written };
    remove_weights(wanted.out)?;
    if let (Verdict::Pass, Some(chosen)) = (recovered.recovery.decision, &chosen) {
        write_weights(wanted.out, plan.written_dir(), |write| plan.write(&whole, chosen, write))?;
        recovered.written.insert(0, if plan.written_dir() == ADAPTER_DIR { "adapter/" } else { "model/" });
    }
    Ok(Some(recovered))
}

/// What is evaluated together, and where.
struct Place<'a> {
    /// The folder below `runs`.
    runs: &'a str,
    half: &'a Half,
    adapters: &'a [AdapterRequest],
}

/// Evaluates all points on the selection half; `None` if the user stopped it.
fn evaluate_points(
    wanted: &Request<'_>,
    plan: &RecoveryPlan,
    mut datasets: Vec<Dataset>,
    half: &Half,
    (quiet, err): (bool, &mut dyn Write),
) -> Result<Option<Evaluation>> {
    let mut whole: Option<Evaluation> = None;
    for adapters in plan.groups() {
        if let Some(evaluation) = &mut whole {
            datasets = std::mem::take(&mut evaluation.datasets);
        }
        let place = Place { runs: "selection", half, adapters };
        let Some(next) = evaluate(wanted, &place, std::mem::take(&mut datasets), (quiet, &mut *err))? else {
            return Ok(None);
        };
        whole = Some(match whole {
            Some(mut evaluation) => {
                // The base was answered with the first group, and is not asked again.
                evaluation.runs.extend(next.runs.into_iter().skip(1));
                Evaluation { datasets: next.datasets, ..evaluation }
            }
            None => next,
        });
    }
    whole.context("a recovery evaluates the base").map(Some)
}

/// Evaluates the base and points on one half; `None` if the user stopped it.
fn evaluate(
    wanted: &Request<'_>,
    place: &Place<'_>,
    datasets: Vec<Dataset>,
    (quiet, err): (bool, &mut dyn Write),
) -> Result<Option<Evaluation>> {
    let runs = wanted.out.join("runs").join(place.runs);
    let text = |path: &Path| path.display().to_string().into();
    let adapter = wanted.adapter.path.as_deref().map(|path| ("adapters".to_owned(), text(path)));
    let paths = std::iter::once(("model".to_owned(), text(wanted.model))).chain(adapter);
    let request = Evaluate {
        respondent: RespondentRequest::Checkpoint(subjects(wanted, place.adapters, true)),
        comparator: ComparatorRequest { choice: ComparatorChoice::Nothing, ..ComparatorRequest::default() },
        samples: Some(place.half.names.clone()),
        template: wanted.template.clone(),
        modes: vec![Mode::Generate],
        max_new_tokens: wanted.max_new_tokens,
        batch_size: wanted.batch_size,
        placement: wanted.placement.clone(),
        judges: wanted.judging.panel_config()?,
        is_fresh: wanted.is_fresh,
        environment: sitting(Map::from_iter(paths), None, None),
        ..Evaluate::new(wanted.model, wanted.origin.hub, datasets, &runs)?
    };
    let planned = eval::settle(request, wanted.origin.clone())?.planned;
    let Some(evaluation) = eval::evaluate(planned, quiet, err)? else { return Ok(None) };
    for run in &evaluation.runs {
        unscored::refuse_unscored(&Finished {
            dir: &run.dir,
            trials: &run.trials,
            judge_error: evaluation.judge_error.as_deref(),
            max_unscored: MAX_UNSCORED,
            judging: wanted.judging,
            is_rejudged: false,
        })?;
    }
    Ok(Some(evaluation))
}

/// The base with `adapters` over it, without an encoder. Weak points may change nothing.
fn subjects<'a>(wanted: &Request<'a>, adapters: &'a [AdapterRequest], allows_idle: bool) -> SubjectsRequest<'a> {
    SubjectsRequest {
        encoder: EncoderChoice::None,
        pixels: wanted.pixels,
        adapters,
        has_base: true,
        allows_idle,
        hashes: environment::hash_memory(),
        ..SubjectsRequest::new(wanted.model, wanted.origin.hub)
    }
}

/// Writes all files except the weights, and returns their names.
fn write(
    wanted: &Request<'_>,
    recovery: &Recovery,
    decision: Option<&Decision>,
    confirmed: Option<&Evaluation>,
) -> Result<Vec<&'static str>> {
    let (charts, gallery, dir) = (ChartOptions::plain(), Gallery::none(), wanted.out);
    // What was confirmed are runs like any others; the points keep their journals alone.
    let runs = confirmed.map(|evaluation| evaluation.runs.as_slice()).unwrap_or_default();
    let finished: Vec<Results> = runs.iter().map(|run| Results::of(run, &charts, &gallery)).collect();
    results::write_all(&finished, Format::Table, true, &mut std::io::sink())?;
    let drawn = Drawn::frontier(&Frontier::of_recovery(recovery));
    let html = report::recovery_html(recovery, &drawn, decision, &results::command_line());
    let mut files: Vec<(&'static str, Vec<u8>)> = vec![
        ("recovery.html", html.into_bytes()),
        ("recovery.md", report::recovery_markdown(recovery, decision).into_bytes()),
        ("recovery.json", report::recovery_json(recovery).into_bytes()),
        ("frontier.svg", drawn.wide.clone().into_bytes()),
        ("frontier.png", chart::png(&drawn.wide, chart::PNG_WIDTH_PX)?),
    ];
    let decision_file = "decision.json";
    match decision {
        Some(decision) => files.push((decision_file, report::decision_json(decision).into_bytes())),
        None => remove(&dir.join(decision_file), |path| std::fs::remove_file(path))?,
    }
    let mut written = Vec::with_capacity(files.len() + 1);
    for (name, bytes) in files {
        record::write_file(dir, name, &bytes)?;
        written.push(name);
    }
    Ok(written)
}

/// Writes weights into the folder `name`, which appears once all of it is there.
fn write_weights(
    dir: &Path,
    name: &str,
    write: impl FnOnce(&mut dyn FnMut(&str, &[u8]) -> Result<()>) -> Result<()>,
) -> Result<()> {
    let unfinished = dir.join(format!(".{name}.tmp"));
    remove(&unfinished, |path| std::fs::remove_dir_all(path))?;
    write(&mut |file, bytes| {
        let path = unfinished.join(file);
        let Some((below, file)) = path.parent().zip(path.file_name()) else { bail!("`{file}` names no file") };
        Ok(record::write_file(below, &file.to_string_lossy(), bytes)?)
    })?;
    let place = dir.join(name);
    std::fs::rename(&unfinished, &place).with_context(|| format!("failed to write `{}`", place.display()))
}

/// Removes the weights that an earlier recovery left: they may be of a point that no longer passes.
fn remove_weights(dir: &Path) -> Result<()> {
    for name in [ADAPTER_DIR, MODEL_DIR] {
        remove(&dir.join(name), |path| std::fs::remove_dir_all(path))?;
    }
    Ok(())
}

fn remove(path: &Path, by: impl Fn(&Path) -> std::io::Result<()>) -> Result<()> {
    match by(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove `{}`", path.display()))
        }
        _ => Ok(()),
    }
}
