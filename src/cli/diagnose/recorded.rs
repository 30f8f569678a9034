//! What two recorded runs say of the models, datasets and questions that a diagnosis repeats.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

pub(in crate::cli) use super::engine::write;
use super::engine::{self, Diagnose, Diagnosed, Mir};
use crate::cli::data::Places;
use crate::cli::eval::Origin;
use crate::cli::gallery::{Gallery, Wanted};
use crate::cli::hub_options::HubOptions;
use crate::cli::reading::ColumnOptions;
use crate::cli::{adapter_options, recorded_command};
use crate::diagnose::Probe;
use crate::diagnose::taps::FlowRule;
use crate::domain::{Computing, Mode, RunSpec, SampleNames, Subject, Trial};
use crate::eval::AdapterRequest;
use crate::model::Placement;
use crate::model::vision::preprocess::PixelLimits;
use crate::prompting;
use crate::record::{self, Manifest};
use crate::study::RecordedRun;

/// A request to diagnose what two runs show.
pub(in crate::cli) struct OfRuns<'a> {
    pub baseline: &'a Path,
    pub candidate: &'a Path,
    pub probes: BTreeSet<Probe>,
    /// Only these datasets.
    pub datasets: Option<BTreeSet<String>>,
    /// Images of each dataset, at most.
    pub limit: Option<usize>,
    pub samples: Option<SampleNames>,
    pub batch_size: Option<usize>,
    /// Where to compute; `None` is as the candidate's run did.
    pub placement: Option<Placement>,
    pub is_fresh: bool,
    pub places: &'a Places,
    pub hub: &'a HubOptions,
    pub flow: FlowRule,
    pub mir: Mir<'a>,
    /// The folder of the diagnosis.
    pub out: &'a Path,
}

/// Diagnoses what the runs show; `None` if the user stopped it.
///
/// # Errors
/// A run does not say which model it is of, is of a served model, or its images are not found.
pub(in crate::cli) fn diagnose(wanted: OfRuns<'_>, quiet: bool, err: &mut dyn Write) -> Result<Option<Diagnosed>> {
    let mut runs = [RecordedRun::open(wanted.baseline)?, RecordedRun::open(wanted.candidate)?];
    if let Some(names) = &wanted.datasets {
        runs.iter_mut().for_each(|run| run.keep_only(names));
    }
    let (model, adapter) = models(&runs)?;
    let [_, candidate] = &runs;
    let spec = &candidate.manifest.spec;
    let Computing::Local { compute_type, device_kind } = &spec.computing else {
        bail!("the run `{}` is of a served model, and a diagnosis needs its weights", candidate.name)
    };
    let placement = match wanted.placement {
        Some(placement) => placement,
        None => Placement::new(device_kind, compute_type)?,
    };
    // Nothing is said: the runs found everything before.
    let (mut nowhere, mut neither) = (std::io::sink(), std::io::sink());
    let (hub, dataset_hub) = (wanted.hub.hub(true, &mut nowhere)?, wanted.hub.datasets(true, &mut neither)?);
    let columns = ColumnOptions::default();
    let search = Wanted {
        n_max: 1,
        shows_images: true,
        datasets: None,
        places: wanted.places,
        columns: &columns,
        hub: &dataset_hub,
    };
    let gallery = Gallery::open_recorded(search, &[&candidate.manifest])?;
    if let Some(warning) = gallery.warnings.first() {
        bail!("{warning}");
    }
    let datasets = gallery.into_datasets(&spec.datasets);
    let samples = match wanted.samples {
        Some(samples) => samples,
        None => in_both(&runs)?,
    };
    let request = Diagnose {
        model: &model,
        adapter: Some(adapter),
        probes: wanted.probes,
        datasets,
        origin: Origin {
            tuned_on: None,
            places: wanted.places,
            sources: sources(&candidate.manifest),
            hub_commits: Map::new(),
            hub: &hub,
        },
        limit: wanted.limit,
        samples: Some(samples),
        samples_file: None,
        template: prompting::load(&prompt(candidate)?)?,
        max_new_tokens: spec.max_new_tokens,
        pixels: pixels(&candidate.manifest),
        batch_size: wanted.batch_size,
        placement,
        is_fresh: wanted.is_fresh,
        flow: wanted.flow,
        mir: wanted.mir,
        out: wanted.out,
    };
    engine::diagnose(request, quiet, err)
}

/// The base's model, and what the candidate puts over it: its adapter, or its own checkpoint.
pub(in crate::cli) fn models(runs: &[RecordedRun; 2]) -> Result<(PathBuf, AdapterRequest)> {
    let [baseline, candidate] = runs;
    let model = |run: &RecordedRun| -> Result<PathBuf> {
        let text = run.manifest.environment.get("paths").and_then(|paths| paths["model"].as_str());
        let text = text.with_context(|| {
            format!("the run `{}` does not say which model it is of; hint: --model DIR --adapter DIR", run.name)
        })?;
        Ok(found_from(&run.manifest, text))
    };
    let (base, tuned) = (model(baseline)?, model(candidate)?);
    let adapters = candidate.manifest.environment.get("paths").and_then(|paths| paths["adapters"].as_array());
    for text in adapters.into_iter().flatten().filter_map(Value::as_str) {
        let request = adapter_options::request(text)?;
        let Some(path) = &request.path else { continue };
        let last = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = request.name.clone().or(last).unwrap_or_default();
        if name == candidate.name || adapters.is_some_and(|all| all.len() == 1) {
            let path = found_from(&candidate.manifest, &path.to_string_lossy());
            return Ok((base, AdapterRequest::new(Some(name), path)));
        }
    }
    ensure!(
        base != tuned,
        "the run `{}` is of the same checkpoint as `{}`, and names no adapter of this name; hint: --model DIR --adapter DIR",
        candidate.name,
        baseline.name
    );
    Ok((base, AdapterRequest::new(Some(candidate.name.clone()), tuned)))
}

/// A path as the run's command meant it: from its own working directory, if it lies there.
fn found_from(manifest: &Manifest, text: &str) -> PathBuf {
    let directory = manifest.environment.get(recorded_command::DIRECTORY).and_then(Value::as_str);
    let there = directory.map(|directory| Path::new(directory).join(text));
    there.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from(text))
}

/// How the run opened its datasets.
fn sources(manifest: &Manifest) -> Map<String, Value> {
    let recorded = manifest.environment.get(crate::cli::sources::KEY).and_then(Value::as_object);
    recorded.cloned().unwrap_or_default()
}

/// The name of the question, or the file that holds it.
fn prompt(run: &RecordedRun) -> Result<String> {
    let of_model = |spec: &RunSpec| {
        let prompts = spec.datasets.iter().flat_map(|dataset| &dataset.prompts);
        prompts.filter(|prompt| prompt.subject == Subject::Model).map(|prompt| prompt.prompt.clone()).next()
    };
    let name =
        of_model(&run.manifest.spec).with_context(|| format!("the run `{}` asks its model nothing", run.name))?;
    if prompting::load(&name).is_ok() {
        return Ok(name);
    }
    let command = recorded_command::RecordedCommand::of(&run.manifest);
    let file = command.and_then(|command| command.values("--prompt").pop());
    let file = file.with_context(|| format!("the question `{name}` of the run `{}` is not found", run.name))?;
    Ok(found_from(&run.manifest, &file).display().to_string())
}

/// The limits of pixels that the run's command gave.
fn pixels(manifest: &Manifest) -> PixelLimits {
    let command = recorded_command::RecordedCommand::of(manifest);
    let of = |flag: &str| command.as_ref()?.values(flag).pop()?.parse().ok();
    PixelLimits { min_pixels: of("--min-pixels"), max_pixels: of("--max-pixels") }
}

/// The samples that both runs answered.
fn in_both(runs: &[RecordedRun; 2]) -> Result<SampleNames> {
    let mut ids = String::new();
    let names: Vec<&str> = runs[1].datasets().collect();
    for dataset in names {
        let answered = |run: &RecordedRun| -> Result<BTreeSet<String>> {
            let is_answer = |trial: &Trial| trial.subject == Subject::Model && trial.mode == Mode::Generate;
            Ok(run.trials_of(dataset)?.into_iter().filter(is_answer).map(|trial| trial.sample).collect())
        };
        let (before, after) = (answered(&runs[0])?, answered(&runs[1])?);
        before.intersection(&after).for_each(|id| {
            ids.push_str(id);
            ids.push('\n');
        });
    }
    SampleNames::parse("the runs", &ids).map_err(|_| {
        anyhow::anyhow!("the runs `{}` and `{}` have no answered image in common", runs[0].name, runs[1].name)
    })
}

/// Where the diagnosis of a candidate is kept if nobody says: in the folder of its run.
pub(in crate::cli) fn folder_of(candidate: &Path) -> PathBuf {
    candidate.join("diagnosis")
}

/// Whether a run of this folder was answered here, so that it can be diagnosed.
pub(in crate::cli) fn is_local(dir: &Path) -> bool {
    record::read_manifest(dir).is_ok_and(|manifest| matches!(manifest.spec.computing, Computing::Local { .. }))
}
