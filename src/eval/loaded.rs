//! The subjects of a run: found, understood, checked, and only then loaded.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::domain::{EncoderSpec, ModelSpec};
use crate::model::Placement;
use crate::model::encoders::{Encoder, OpenedEncoder};
use crate::model::memory::{self, MemoryNeed};
use crate::model::mllm::{self, Model, OpenedModel};
use crate::model::tower::{self, TowerComparison};
use crate::model::weights::{Checkpoint, Miniature, find_checkpoint, is_embedded, open_checkpoint};

/// Which encoder stands beside the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EncoderChoice {
    /// The one that the checkpoint names; the miniature's for the miniature.
    Auto,
    /// None; what needs one is null.
    None,
    /// A folder, or `embedded`.
    Folder(PathBuf),
}

/// What a person asked for.
#[derive(Clone, Debug)]
pub struct SubjectsRequest<'a> {
    /// The model's folder, or `embedded`.
    pub model: &'a Path,
    /// The encoder.
    pub encoder: EncoderChoice,
    /// A chat template over the checkpoint's own.
    pub template: Option<&'a str>,
    /// The hub's local cache (`…/hub`), where towers that are only named may lie.
    pub hub_cache: Option<PathBuf>,
}

/// Model and encoder, opened and compared; no weight is read yet.
pub struct OpenedSubjects {
    model: OpenedModel,
    encoder: Option<(OpenedEncoder, TowerComparison)>,
}

/// Model and encoder, loaded.
pub struct EvalSubjects {
    pub(super) model: Model,
    pub(super) encoder: Option<Encoder>,
    /// Whether one pass of the tower serves both, where their pixels agree.
    pub(super) shares_tower: bool,
    pub(super) placement: Placement,
}

impl OpenedSubjects {
    /// Opens what was asked for.
    pub fn open(request: &SubjectsRequest) -> Result<Self> {
        let checkpoint = open_checkpoint(request.model, Miniature::Model)?;
        let family = mllm::family_of(&checkpoint)?;
        let named = (family.tower_reference)(&checkpoint);
        let found =
            named.as_deref().and_then(|name| find_checkpoint(name, &checkpoint.dir, request.hub_cache.as_deref()));
        let encoder_dir = match &request.encoder {
            EncoderChoice::Folder(dir) => Some(dir.clone()),
            EncoderChoice::None => None,
            EncoderChoice::Auto if is_embedded(request.model) => Some(request.model.to_owned()),
            EncoderChoice::Auto => Some(found.clone().with_context(|| no_encoder(&checkpoint, named.as_deref()))?),
        };
        // A tower that the checkpoint only names may be the given encoder's.
        let tower_dir = found.or_else(|| encoder_dir.clone());
        let tower = match (&named, &tower_dir) {
            (Some(_), Some(dir)) => Some(open_checkpoint(dir, Miniature::Encoder)?),
            _ => None,
        };
        let model = OpenedModel::open(&checkpoint, tower.as_ref(), request.template)?;
        let encoder = match encoder_dir {
            Some(dir) => {
                let encoder = OpenedEncoder::open(open_checkpoint(&dir, Miniature::Encoder)?)?;
                let comparison = tower::compare(&model.weights, &encoder.weights)?;
                Some((encoder, comparison))
            }
            None => None,
        };
        Ok(Self { model, encoder })
    }

    /// Whether an encoder stands beside the model.
    pub fn has_encoder(&self) -> bool {
        self.encoder.is_some()
    }

    /// The rendered prompt of a question, before anything is loaded.
    pub fn render(&self, question: &str) -> Result<mllm::RenderedPrompt> {
        self.model.dialogue.render(question)
    }

    /// Refuses prompts that do not fit in the model's positions.
    pub fn check_length(&self, dataset: &str, n_prompt_tokens: usize, max_new_tokens: usize) -> Result<()> {
        let n_positions = self.model.plan.n_positions();
        if n_prompt_tokens + max_new_tokens > n_positions {
            bail!(
                "the prompt of `{dataset}` takes {n_prompt_tokens} positions ({} of them the image) and its answer up to \
                 {max_new_tokens}, together {}, but the model has {n_positions}; hint: `--prompt emt-open` leaves the \
                 class list out, `--max-new-tokens` shortens the answer",
                self.model.plan.n_image_positions(),
                n_prompt_tokens + max_new_tokens,
            );
        }
        Ok(())
    }

    /// The batch size to run with: `wanted`, or what memory allows. An error with both figures where it cannot fit.
    pub fn batch_size(&self, wanted: Option<usize>, n_tokens_max: usize, placement: &Placement) -> Result<usize> {
        let n_encoder = self.encoder.as_ref().map_or(0, |(encoder, _)| encoder.weights.n_parameters());
        let need = MemoryNeed {
            n_weights: self.model.weights.n_parameters() + n_encoder,
            n_numbers_per_row: self.model.plan.n_numbers_per_row(n_tokens_max),
            bytes_per_number: placement.dtype.size_in_bytes(),
        };
        // Only the machine's own memory is known; a GPU reports its own shortage.
        let free = if placement.device.is_cpu() { memory::free_bytes() } else { None };
        need.batch_size(wanted, free)
    }

    /// The model, as the run's specification has it.
    pub fn model_spec(&self) -> Result<ModelSpec> {
        let model = &self.model;
        Ok(ModelSpec {
            name: model.name.clone(),
            family: model.family.to_owned(),
            weights: model.weights.hash()?,
            adapter: None,
            merged: false,
            tokenizer: model.dialogue.tokenizer.hash()?,
            chat_template: model.dialogue.template.hash(),
            preprocessing: preprocessing(model.preprocessor.parameters())?,
        })
    }

    /// The encoder, as the run's specification has it.
    pub fn encoder_spec(&self) -> Result<Option<EncoderSpec>> {
        let Some((encoder, comparison)) = &self.encoder else { return Ok(None) };
        Ok(Some(EncoderSpec {
            name: encoder.name(),
            family: encoder.family().to_owned(),
            weights: encoder.weights.hash()?,
            tokenizer: encoder.tokenizer.hash()?,
            preprocessing: preprocessing(encoder.preprocessor.parameters())?,
            relation: comparison.relation,
            tower_equal: comparison.tower_equal,
        }))
    }

    /// Reads the weights.
    pub fn load(self, placement: &Placement) -> Result<EvalSubjects> {
        let shares_tower = self.encoder.as_ref().is_some_and(|(_, comparison)| comparison.tower_equal);
        let model = self.model.load(placement)?;
        let encoder = self.encoder.map(|(encoder, _)| encoder.load(placement)).transpose()?;
        let image_size = model.mllm.tower().config().image_size();
        check_size(&model.preprocessor, image_size, "model")?;
        if let Some(encoder) = &encoder {
            check_size(&encoder.preprocessor, encoder.towers.tower().config().image_size(), "encoder")?;
        }
        Ok(EvalSubjects { model, encoder, shares_tower, placement: placement.clone() })
    }
}

fn check_size(preprocessor: &crate::model::preprocess::Preprocessor, image_size: usize, who: &str) -> Result<()> {
    match preprocessor.size() {
        Some((height, width)) if (height, width) == (image_size, image_size) => Ok(()),
        Some((height, width)) => bail!(
            "the {who}'s image processor makes images of {width}x{height} pixels, but its tower takes \
             {image_size}x{image_size}; hint: config.json and preprocessor_config.json are of different checkpoints"
        ),
        None => bail!(
            "the {who}'s image processor leaves images at any size, but its tower takes {image_size}x{image_size}"
        ),
    }
}

fn preprocessing(parameters: &crate::model::preprocess::Parameters) -> Result<Value> {
    serde_json::to_value(parameters).context("the preprocessing parameters cannot be recorded")
}

fn no_encoder(checkpoint: &Checkpoint, named: Option<&str>) -> String {
    let why = match named {
        Some(name) => format!(
            "`{}` names its tower `{name}`, which is neither beside it nor in the hub's cache",
            checkpoint.dir.display()
        ),
        None => format!("`{}` does not say which encoder its tower comes from", checkpoint.dir.display()),
    };
    format!("{why}; hint: give its CLIP as --encoder DIR, or --encoder none to go without the comparison")
}

/// What `run.json` shows of the tower beside the relation; `null` without an encoder.
impl OpenedSubjects {
    /// The largest relative change of a tower tensor against the encoder's, where they were compared.
    pub fn tower_change(&self) -> Value {
        json!(self.encoder.as_ref().and_then(|(_, comparison)| comparison.largest_change))
    }
}
