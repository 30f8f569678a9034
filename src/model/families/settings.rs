//! The settings of a model over a checkpoint's weights: from the checkpoint, or from a candidate over it that has its
//! own.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Dialogue, FAMILIES, MllmFamily, MllmPlan, OpenedModel};
use crate::model::checkpoint::duplicates;
use crate::model::checkpoint::weights::{Adapter, Checkpoint, OwnFiles, OwnSettings, config_hash};
use crate::model::run::generation_config::{GenerationChoice, GenerationConfig};
use crate::model::text::template::ChatTemplate;
use crate::model::text::tokenizer::{END_OF_CHUNK, TextTokenizer};
use crate::model::vision::preprocess::{ImageProcessor, PixelLimits};

/// Everything except the weights that decides a model's answers.
pub struct ModelSettings {
    /// The model's plan, read from its configuration.
    pub plan: Box<dyn MllmPlan>,
    /// Text input and output.
    pub dialogue: Arc<Dialogue>,
    /// Image preparation.
    pub preprocessor: Arc<dyn ImageProcessor>,
    /// Hash of the configuration, including the tower's. With the tower's weights, it decides the tower's output for
    /// pixels.
    pub config_hash: String,
    /// Warnings about the files that were read.
    pub warnings: Vec<String>,
}

/// The user's choices that override a checkpoint's files.
#[derive(Clone, Copy)]
pub struct Overrides<'a> {
    /// A chat template to use instead of the checkpoint's own.
    pub template: Option<&'a str>,
    /// Limits to the pixels of an image.
    pub limits: &'a PixelLimits,
    /// The choice of settings for greedy answers.
    pub generation: GenerationChoice,
}

impl ModelSettings {
    /// Reads the settings of `checkpoint`. The `tower` may be separate. The chat template is read from `template_of`.
    pub(super) fn read(
        family: &MllmFamily,
        checkpoint: &Checkpoint,
        template_of: &Checkpoint,
        tower: Option<&Checkpoint>,
        overrides: Overrides<'_>,
    ) -> Result<Self> {
        let Overrides { template, limits, generation } = overrides;
        let plan = (family.plan)(checkpoint, tower)?;
        let tokenizer = TextTokenizer::open(checkpoint)?;
        let preprocessor: Arc<dyn ImageProcessor> = (family.preprocessor)(checkpoint, tower, limits)?.into();
        if *limits != PixelLimits::default() && preprocessor.n_positions_max().is_none() {
            bail!(
                "--min-pixels and --max-pixels are for families that keep an image's proportions, but `{}` belongs to \
                 {}; hint: leave them out",
                checkpoint.dir.display(),
                family.about
            );
        }
        let eos_ids = eos_ids(checkpoint, &tokenizer)?;
        let (generation, mut warnings) = match generation {
            GenerationChoice::Checkpoint => GenerationConfig::open(checkpoint, &tokenizer, &eos_ids)?,
            GenerationChoice::Ignored => (GenerationConfig::default(), Vec::new()),
        };
        let dialogue = Dialogue {
            eos_ids,
            generation,
            template: ChatTemplate::open_or(template_of, template, plan.built_in_template())?
                .with_image_marker(family.image_marker),
            n_image_positions: preprocessor.n_positions_max().unwrap_or_else(|| plan.n_image_positions_max()),
            image_marker: family.image_marker,
            writing: plan.prompt_writing(),
            form: plan.prompt_form(),
            tokenizer,
        };
        warnings.extend(dialogue.template.clock_warning());
        warnings.extend(duplicates::warnings(checkpoint, &dialogue.tokenizer)?);
        let config_hash = config_hash(std::iter::once(checkpoint).chain(tower));
        Ok(Self { plan, dialogue: Arc::new(dialogue), preprocessor, config_hash, warnings })
    }

    /// Returns the part that has no file of its own in a run's specification: the effective configuration, and the
    /// tokens that end an answer.
    pub fn to_json(&self) -> Value {
        settings_json(self.plan.as_ref(), &self.dialogue)
    }
}

/// As [`ModelSettings::to_json`].
pub(super) fn settings_json(plan: &dyn MllmPlan, dialogue: &Dialogue) -> Value {
    let mut settings = plan.settings();
    if let Some(fields) = settings.as_object_mut() {
        fields.insert("eos_token_id".to_owned(), json!(dialogue.eos_ids));
        let generation = dialogue.generation().recorded();
        if !generation.is_null() {
            fields.insert("generation_config".to_owned(), generation);
        }
    }
    settings
}

impl OpenedModel {
    /// As [`ModelSettings::to_json`], for the checkpoint itself.
    pub fn settings_json(&self) -> Value {
        settings_json(self.plan.as_ref(), &self.dialogue)
    }

    /// Reads the own settings of `adapter`, called `name`. `checkpoint` is the one that `self` was opened from, and
    /// `tower` its tower. `None` if the adapter has none.
    ///
    /// # Errors
    /// One of its files cannot be read, or belongs to another model.
    pub fn own_settings(
        &self,
        name: &str,
        adapter: &Adapter,
        checkpoint: &Checkpoint,
        tower: Option<&Checkpoint>,
        overrides: Overrides<'_>,
    ) -> Result<Option<ModelSettings>> {
        let family = FAMILIES.iter().find(|family| family.name == self.family).context("a family is in the list")?;
        // Different layouts have different keys.
        let may_configure =
            |own: &Checkpoint| (family.recognises)(own) && own.is_llava_original() == checkpoint.is_llava_original();
        let Some(OwnSettings { checkpoint: own, own: files }) = adapter.own_settings(checkpoint, &may_configure)?
        else {
            return Ok(None);
        };
        let template_of = if files.contains(&OwnFiles::Template) { &own } else { checkpoint };
        let read = ModelSettings::read(family, &own, template_of, tower, overrides);
        read.map(Some).with_context(|| format!("failed to read the settings of `{name}`"))
    }
}

/// Returns the tokens that end an answer: from `generation_config.json`, else from `config.json`, else the tokenizer's
/// own, else `</s>`. Ids that the tokenizer lacks are ignored.
fn eos_ids(checkpoint: &Checkpoint, tokenizer: &TextTokenizer) -> Result<Vec<u32>> {
    let config = checkpoint.config();
    let ends_with_chunk = match config.get("model_type").and_then(Value::as_str) {
        Some("otter") => true,
        Some("open_flamingo") => config.get("has_rows_of_added_tokens").and_then(Value::as_bool).unwrap_or(false),
        _ => false,
    };
    if let Some(id) = tokenizer.token_id(END_OF_CHUNK).filter(|_| ends_with_chunk) {
        return Ok(vec![id]);
    }
    let generation = checkpoint.read_json("generation_config.json")?;
    let candidates = [
        generation.as_ref().and_then(|g| g.get("eos_token_id")),
        config.get("text_config").and_then(|t| t.get("eos_token_id")),
        config.get("eos_token_id"),
    ];
    for value in candidates.into_iter().flatten() {
        let ids: Vec<u32> = match value {
            Value::Array(ids) => ids.iter().filter_map(|id| id.as_u64().map(|id| id as u32)).collect(),
            id => id.as_u64().map(|id| id as u32).into_iter().collect(),
        };
        let known: Vec<u32> = ids.into_iter().filter(|&id| tokenizer.token(id).is_some()).collect();
        if !known.is_empty() {
            return Ok(known);
        }
    }
    match tokenizer.eos_id().or_else(|| tokenizer.token_id("</s>")) {
        Some(id) => Ok(vec![id]),
        None => bail!(
            "no end-of-sequence token is known for `{}`; hint: add eos_token_id to generation_config.json",
            checkpoint.dir.display()
        ),
    }
}
