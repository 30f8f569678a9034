//! What is read inside the passes of base and candidate, dataset by dataset. Each dataset is read once and then recorded.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use super::answers::Answers;
use super::{DiagnosisPlan, Evaluation};
use crate::dataset::Dataset;
use crate::diagnose::taps::{
    self, FlowRule, Inside, MirMethod, N_PAIRS_MAX, Pair, TappedDataset, TappedImage, own_wording,
};
use crate::diagnose::{ModalityIntegration, Probe};
use crate::eval::{self, OpenedSubjects, SubjectsRequest};
use crate::judging::JudgedDataset;
use crate::model::Placement;
use crate::prompting::PromptTemplate;
use crate::record;
use crate::taxonomy::Finding;

/// What was read inside the passes.
#[derive(Clone, Debug, Default)]
pub struct LookedInside {
    /// By dataset.
    pub datasets: BTreeMap<String, Inside>,
    /// The Modality Integration Rate, if it was asked for.
    pub mir: Option<ModalityIntegration>,
}

/// What the Modality Integration Rate is computed from.
pub struct MirPairs<'a> {
    /// How it is computed.
    pub method: MirMethod,
    /// Texts without a relation to the images.
    pub texts: Vec<String>,
    /// The images; `None` is those of the diagnosis, the datasets by turns.
    pub images: Option<&'a Dataset>,
}

/// The version of what is recorded. It is raised when a probe computes something else.
const VERSION: u32 = 3;
/// Images per pass, at most: their residual streams are kept.
const N_IMAGES_PER_PASS: usize = 8;

/// A request to read inside the passes of both models.
pub struct LookInside<'a> {
    /// The base with the candidate as its one adapter.
    pub subjects: SubjectsRequest<'a>,
    /// The question.
    pub template: &'a PromptTemplate,
    /// Tokens per answer, at most.
    pub max_new_tokens: usize,
    /// Images per pass; `None` is 8.
    pub batch_size: Option<usize>,
    /// Where, and in which numbers, models compute.
    pub placement: &'a Placement,
    /// How attention is summed up.
    pub flow: FlowRule,
    /// What the Modality Integration Rate is computed from.
    pub mir: MirPairs<'a>,
    /// The folder of the diagnosis.
    pub dir: &'a Path,
}

/// Images of one dataset that were read, and how many there are.
#[derive(Clone, Copy, Debug)]
pub struct InsideProgress<'a> {
    /// The dataset.
    pub dataset: &'a str,
    /// Images that were read.
    pub n_done: usize,
    /// All images.
    pub n_total: usize,
}

/// The images of one dataset that are read, and where the result is recorded.
struct Planned<'a> {
    dataset: &'a Dataset,
    judged: &'a JudgedDataset,
    images: Vec<TappedImage>,
    wording: String,
    key: String,
}

impl DiagnosisPlan {
    /// Reads inside the passes of base and candidate over the images of `evaluation`. After each batch, `goes_on` says whether
    /// to continue; `None` if it says no. What was recorded by an earlier call is not read again.
    ///
    /// # Errors
    /// A model cannot be loaded, an image cannot be read, or a pass fails.
    pub fn look_inside(
        &self,
        request: LookInside<'_>,
        evaluation: &Evaluation,
        goes_on: &mut dyn FnMut(InsideProgress<'_>) -> bool,
    ) -> Result<Option<LookedInside>> {
        let judged = eval::judged_datasets(&evaluation.runs[0].spec)?;
        let mut found = LookedInside::default();
        let mut pair = None;
        let mut images: Vec<Vec<(&Dataset, usize)>> = Vec::new();
        for (dataset, judged) in evaluation.datasets.iter().zip(&judged) {
            let planned = self.plan_inside(evaluation, dataset, judged, &request)?;
            images.push(planned.images.iter().map(|image| (dataset, image.position)).collect());
            if let Some(recorded) = record::read_part(request.dir, &planned.key)? {
                found.datasets.insert(dataset.name.clone(), recorded);
                continue;
            }
            let pair = loaded(&mut pair, &request)?;
            let Some(inside) = self.read_inside(pair, &planned, &request, goes_on)? else { return Ok(None) };
            record::write_part(request.dir, &planned.key, &inside)?;
            found.datasets.insert(dataset.name.clone(), inside);
        }
        if self.probes.contains(&Probe::Mir) {
            let images = match request.mir.images {
                Some(dataset) => (0..dataset.samples.len()).map(|position| (dataset, position)).collect(),
                None => by_turns(&images),
            };
            // One pair has no covariance.
            if images.len() > 1 {
                found.mir = Some(self.mir(&request, evaluation, &images, &mut pair)?);
            }
        }
        Ok(Some(found))
    }

    /// The Modality Integration Rate over pairs of `images` and texts, computed or recorded.
    fn mir(
        &self,
        request: &LookInside<'_>,
        evaluation: &Evaluation,
        images: &[(&Dataset, usize)],
        pair: &mut Option<Pair>,
    ) -> Result<ModalityIntegration> {
        let MirPairs { method, texts, .. } = &request.mir;
        let chosen: Vec<_> = images.iter().zip(texts).take(N_PAIRS_MAX).collect();
        let sample = |(dataset, position): &(&Dataset, usize)| dataset.samples[*position].id.clone();
        let identity = json!({
            "version": VERSION,
            "runs": evaluation.runs[..2].iter().map(|run| record::identity(&run.spec)).collect::<Vec<_>>(),
            "method": method.name(),
            "pairs": chosen.iter().map(|(image, text)| (sample(image), text)).collect::<Vec<_>>(),
        });
        let key = record::part_key(&identity);
        if let Some(recorded) = record::read_part(request.dir, &key)? {
            return Ok(recorded);
        }
        let read = |((dataset, position), text): &(&(&Dataset, usize), &String)| {
            Ok((dataset.read(*position)?, (*text).clone()))
        };
        let pairs = chosen.iter().map(read).collect::<Result<Vec<_>>>()?;
        let found = taps::mir(loaded(pair, request)?, &pairs, *method)?;
        record::write_part(request.dir, &key, &found)?;
        Ok(found)
    }

    fn plan_inside<'a>(
        &self,
        evaluation: &Evaluation,
        dataset: &'a Dataset,
        judged: &'a JudgedDataset,
        request: &LookInside<'_>,
    ) -> Result<Planned<'a>> {
        let runs = &evaluation.runs[..2];
        let answers = Answers::of(&dataset.name, &evaluation.runs)?;
        let rights = answers.rights();
        let positions: BTreeMap<&str, usize> =
            dataset.samples.iter().enumerate().map(|(position, sample)| (sample.id.as_str(), position)).collect();
        let image = |at: usize| -> Result<TappedImage> {
            let trial = answers.trial(0, at);
            let position = positions.get(trial.sample.as_str()).copied();
            let label = judged.labels.index_of(&trial.label);
            Ok(TappedImage {
                position: position.with_context(|| format!("`{}` has no sample `{}`", dataset.name, trial.sample))?,
                label: label.with_context(|| format!("`{}` has no label `{}`", dataset.name, trial.label))?,
                is_lost: rights.base[at] && !rights.candidate()[at],
                answer: answers.text(0, at),
                is_ended: answers.is_ended(0, at),
            })
        };
        let images = (0..rights.n()).map(image).collect::<Result<Vec<_>>>()?;
        let texts: Vec<String> = (0..rights.n()).map(|at| answers.text(1, at)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let labels: Vec<&str> = judged.labels.names().collect();
        let wording = own_wording(&texts, &labels);
        let samples: Vec<(&str, bool)> =
            images.iter().map(|image| (dataset.samples[image.position].id.as_str(), image.is_lost)).collect();
        let identity = json!({
            "version": VERSION,
            "runs": runs.iter().map(|run| record::identity(&run.spec)).collect::<Vec<_>>(),
            "dataset": dataset.name,
            "probes": self.probes.iter().map(|probe| probe.name()).collect::<Vec<_>>(),
            "samples": samples,
            "wording": wording,
            "max_new_tokens": request.max_new_tokens,
            "flow": request.flow.name(),
        });
        Ok(Planned { dataset, judged, images, wording, key: record::part_key(&identity) })
    }

    fn read_inside(
        &self,
        pair: &Pair,
        planned: &Planned<'_>,
        request: &LookInside<'_>,
        goes_on: &mut dyn FnMut(InsideProgress<'_>) -> bool,
    ) -> Result<Option<Inside>> {
        let Planned { dataset, judged, images, wording, .. } = planned;
        let prompt = request.template.render(&dataset.noun, &dataset.labels)?;
        let question = eval::Question::about_one_image(prompt, Vec::new());
        let n_total = images.len();
        let tapped = TappedDataset {
            conversation: &question.conversation,
            labels: judged.labels.names().map(str::to_owned).collect(),
            images: images.clone(),
            wording: wording.clone(),
            read: &|position| Ok(dataset.read(position)?),
            is_right: &|label, text| matches!(judged.grader.grade(label, text).finding, Finding::Correct { .. }),
            flow: request.flow,
            max_new_tokens: request.max_new_tokens,
            batch_size: request.batch_size.unwrap_or(N_IMAGES_PER_PASS),
        };
        let name = dataset.name.as_str();
        taps::look_inside(pair, &tapped, &self.probes, &mut |n_done| {
            goes_on(InsideProgress { dataset: name, n_done, n_total })
        })
    }
}

/// The models, which are loaded at the first call.
fn loaded<'p>(pair: &'p mut Option<Pair>, request: &LookInside<'_>) -> Result<&'p Pair> {
    if pair.is_none() {
        *pair = Some(load_pair(&request.subjects, request.placement)?);
    }
    pair.as_ref().context("the models are loaded")
}

/// The first of each list, then the second of each, and so on.
fn by_turns<T: Copy>(lists: &[Vec<T>]) -> Vec<T> {
    let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
    (0..longest).flat_map(|at| lists.iter().filter_map(move |list| list.get(at).copied())).collect()
}

/// Loads the base, and its one adapter's model if there is one.
fn load_pair(request: &SubjectsRequest<'_>, placement: &Placement) -> Result<Pair> {
    let (mut models, shares_tower) = OpenedSubjects::open(request)?.load_pair(placement)?;
    let candidate = if request.adapters.is_empty() { None } else { models.pop() };
    Ok(Pair { candidate, base: models.pop().context("the base is loaded")?, shares_tower })
}
