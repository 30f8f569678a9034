//! A diagnosis from its request to its files. `emt diagnose`, `emt gate --diagnose` and `emt demo` share it.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Map;

use crate::assets::passages::passages;
use crate::chart::DiagnosisCharts;
use crate::cli::eval::{self, Origin, sitting};
use crate::cli::gallery::{Gallery, N_ERRORS_SHOWN};
use crate::cli::progress::InsideBar;
use crate::cli::results::{self, ChartOptions, Format, Results};
use crate::cli::{environment, interrupt};
use crate::dataset::Dataset;
use crate::diagnose::taps::{FlowRule, MirMethod, N_PAIRS_RELIABLE};
use crate::diagnose::{Diagnosis, ImageDiagnosis, Probe};
use crate::domain::{Mode, SampleNames};
use crate::eval::{AdapterRequest, EncoderChoice, SubjectsRequest};
use crate::model::Placement;
use crate::model::vision::preprocess::PixelLimits;
use crate::prompting::PromptTemplate;
use crate::study::{
    ComparatorChoice, ComparatorRequest, DiagnosisPlan, Evaluate, Evaluation, LookInside, MirPairs, RespondentRequest,
};
use crate::{record, report};

/// What is diagnosed, and how.
pub(in crate::cli) struct Diagnose<'a> {
    pub model: &'a Path,
    /// `None` if one checkpoint is diagnosed.
    pub adapter: Option<AdapterRequest>,
    pub probes: BTreeSet<Probe>,
    pub datasets: Vec<Dataset>,
    pub origin: Origin<'a>,
    pub limit: Option<usize>,
    pub samples: Option<SampleNames>,
    pub samples_file: Option<&'a Path>,
    pub template: PromptTemplate,
    pub max_new_tokens: usize,
    pub pixels: PixelLimits,
    pub batch_size: Option<usize>,
    pub placement: Placement,
    pub is_fresh: bool,
    pub flow: FlowRule,
    pub mir: Mir<'a>,
    /// The folder of the diagnosis.
    pub out: &'a Path,
}

/// What the Modality Integration Rate is computed from. By default: exactly, from the passages of `prompts/mir` and the images
/// of the diagnosis.
#[derive(Clone)]
pub(in crate::cli) struct Mir<'a> {
    pub method: MirMethod,
    pub texts: Vec<String>,
    pub images: Option<&'a Dataset>,
}

impl Default for Mir<'_> {
    fn default() -> Self {
        Self { method: MirMethod::Exact, texts: passages(), images: None }
    }
}

/// A finished diagnosis.
pub(in crate::cli) struct Diagnosed {
    pub diagnosis: Diagnosis,
    pub images: Vec<ImageDiagnosis>,
    /// The runs of the base, the candidate, and its parts.
    evaluation: Evaluation,
}

/// Diagnoses; `None` if the user stopped it.
pub(in crate::cli) fn diagnose(
    mut wanted: Diagnose<'_>,
    quiet: bool,
    err: &mut dyn Write,
) -> Result<Option<Diagnosed>> {
    let adapter: Vec<AdapterRequest> = wanted.adapter.iter().cloned().collect();
    let plan = DiagnosisPlan::new(&subjects(&wanted, &adapter, true, false), wanted.probes.clone())?;
    if !quiet {
        writeln!(err, "{}", plan.cost())?;
    }
    let mut whole: Option<Evaluation> = None;
    for adapters in plan.groups() {
        let datasets = match &mut whole {
            Some(evaluation) => std::mem::take(&mut evaluation.datasets),
            None => std::mem::take(&mut wanted.datasets),
        };
        let has_base = whole.is_none();
        let Some(next) = evaluate(&wanted, adapters, has_base, datasets, (quiet, err))? else { return Ok(None) };
        whole = Some(match whole {
            Some(mut evaluation) => {
                evaluation.runs.extend(next.runs);
                Evaluation { datasets: next.datasets, ..evaluation }
            }
            None => next,
        });
    }
    let evaluation = plan.completed(whole.context("a diagnosis evaluates the base")?);
    let request = LookInside {
        subjects: subjects(&wanted, &adapter, true, false),
        template: &wanted.template,
        max_new_tokens: wanted.max_new_tokens,
        batch_size: wanted.batch_size,
        placement: &wanted.placement,
        flow: wanted.flow,
        mir: MirPairs { method: wanted.mir.method, texts: wanted.mir.texts.clone(), images: wanted.mir.images },
        dir: wanted.out,
    };
    let mut progress = InsideBar::new(quiet);
    let inside = plan.look_inside(request, &evaluation, &mut |at| {
        progress.show(at.dataset, at.n_done, at.n_total);
        !interrupt::is_stopped()
    })?;
    let Some(inside) = inside else { return Ok(None) };
    let (diagnosis, images) = plan.conclude(&evaluation, &inside)?;
    match &diagnosis.mir {
        _ if quiet || !wanted.probes.contains(&Probe::Mir) => {}
        None => writeln!(err, "warning: `mir` needs at least two images, and was left out")?,
        Some(mir) if mir.n_pairs < N_PAIRS_RELIABLE => {
            let n = mir.n_pairs;
            writeln!(err, "warning: `mir` has {n} pairs, and fewer than {N_PAIRS_RELIABLE} are not reliable")?;
        }
        Some(_) => {}
    }
    Ok(Some(Diagnosed { diagnosis, images, evaluation }))
}

/// Evaluates some parts of the candidate; `None` if the user stopped it.
fn evaluate(
    wanted: &Diagnose<'_>,
    adapters: &[AdapterRequest],
    has_base: bool,
    datasets: Vec<Dataset>,
    (quiet, err): (bool, &mut dyn Write),
) -> Result<Option<Evaluation>> {
    let runs = wanted.out.join("runs");
    let text = |path: &Path| path.display().to_string().into();
    let adapter = wanted.adapter.as_ref().and_then(|adapter| adapter.path.as_deref());
    let adapter = adapter.map(|path| ("adapters".to_owned(), text(path)));
    let paths = std::iter::once(("model".to_owned(), text(wanted.model))).chain(adapter);
    let request = Evaluate {
        respondent: RespondentRequest::Checkpoint(subjects(wanted, adapters, has_base, true)),
        comparator: ComparatorRequest { choice: ComparatorChoice::Nothing, ..ComparatorRequest::default() },
        limit: wanted.limit,
        samples: wanted.samples.clone(),
        template: wanted.template.clone(),
        modes: vec![Mode::Generate],
        max_new_tokens: wanted.max_new_tokens,
        batch_size: wanted.batch_size,
        placement: wanted.placement.clone(),
        is_fresh: wanted.is_fresh,
        environment: sitting(Map::from_iter(paths), wanted.limit, wanted.samples_file),
        ..Evaluate::new(wanted.model, wanted.origin.hub, datasets, &runs)?
    };
    let planned = eval::settle(request, wanted.origin.clone())?.planned;
    eval::evaluate(planned, quiet, err)
}

/// The base with `adapters` over it, without an encoder. Parts of a candidate may change nothing.
fn subjects<'a>(
    wanted: &Diagnose<'a>,
    adapters: &'a [AdapterRequest],
    has_base: bool,
    allows_idle: bool,
) -> SubjectsRequest<'a> {
    SubjectsRequest {
        encoder: EncoderChoice::None,
        pixels: wanted.pixels,
        adapters,
        has_base,
        allows_idle,
        hashes: environment::hash_memory(),
        ..SubjectsRequest::new(wanted.model, wanted.origin.hub)
    }
}

/// Writes all files of a diagnosis into `dir`, and returns their names.
pub(in crate::cli) fn write(dir: &Path, diagnosed: &Diagnosed) -> Result<Vec<&'static str>> {
    let Diagnosed { diagnosis, images, evaluation } = diagnosed;
    let (charts, gallery) = (ChartOptions::plain(), Gallery::of_datasets(evaluation.datasets.clone(), N_ERRORS_SHOWN));
    // The base and the candidate are runs like any others; the parts keep their journals alone.
    let finished: Vec<Results> =
        evaluation.runs.iter().take(2).map(|run| Results::of(run, &charts, &gallery)).collect();
    results::write_all(&finished, Format::Table, true, &mut std::io::sink())?;
    let (drawn, lost) = (DiagnosisCharts::draw(diagnosis), gallery.of_diagnosis(diagnosis, images)?);
    for (name, text) in [
        ("images.jsonl", report::diagnosed_images(images)),
        ("diagnosis.md", report::diagnosis_markdown(diagnosis)),
        ("diagnosis.html", report::diagnosis_html(diagnosis, &drawn, &lost, &results::command_line())),
        ("diagnosis.json", report::diagnosis_json(diagnosis)),
    ] {
        record::write_file(dir, name, text.as_bytes())?;
    }
    let mut written = vec!["diagnosis.html", "diagnosis.md", "diagnosis.json", "images.jsonl"];
    for (name, figure) in drawn.main() {
        record::write_file(dir, name, figure.drawn.wide.as_bytes())?;
        written.push(name);
    }
    Ok(written)
}
