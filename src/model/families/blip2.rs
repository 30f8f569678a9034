//! BLIP-2 (Li et al. 2023) and InstructBLIP (Dai et al. 2023): an EVA-CLIP tower, a Q-Former that turns its states into
//! a few embeddings, and a language model that reads them before its text. InstructBLIP's Q-Former also reads the
//! question.

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;
use serde::Serialize;
use serde_json::{Value, json};

use super::encoder_decoder::EncoderDecoder;
use super::llava::{config_of, refuse_scaled};
use super::prompt_form::{PromptForm, QuestionReader, TextReader};
use super::{
    DecoderOnly, ImageEmbedding, ImagePrompt, ImageReader, InMemoryNames, Mllm, MllmFamily, MllmPlan, Seen, Verified,
};
use crate::model::checkpoint::config::Config;
use crate::model::checkpoint::weights::{Canonical, Checkpoint, Weights, canonical_llava, is_computed_buffer};
use crate::model::language::{DecoderConfig, LanguageModel, T5Config};
use crate::model::layers::{LayerNorm, Linear, Loader, Site, Watched};
use crate::model::text::template::IMAGE_MARKER;
use crate::model::text::tokenizer::TextTokenizer;
use crate::model::vision::preprocess::{ImageInput, ImageProcessor, PixelLimits, Preprocessor};
use crate::model::vision::qformer::{QFormer, QFormerConfig};
use crate::model::vision::square_tower::{TowerKind, VisionConfig, VisionTower};

const IN_MEMORY: InMemoryNames = InMemoryNames {
    language_model: "language_model",
    projector: "language_projection",
    saved_projector: "language_projection",
};

/// InstructBLIP's entry in [`FAMILIES`](super::FAMILIES).
pub const INSTRUCTBLIP: MllmFamily = MllmFamily {
    name: "instructblip",
    about: "InstructBLIP with Vicuna or Flan-T5",
    verified: Verified {
        local: "transformers 5.23 and 5.24 on tiny checkpoints: tower, Q-Former, projection, prompts, logits and generated ids",
        adapter: None,
        comparator: "probe; open_clip's EVA01-g-14 has its tower and one more block",
    },
    recognises: |checkpoint| is_of(checkpoint, "instructblip"),
    in_memory: IN_MEMORY,
    canonical,
    weights,
    plan: |checkpoint, _| Ok(Box::new(Plan::of(checkpoint, true)?)),
    tower_reference: |_| None,
    image_marker: IMAGE_MARKER,
    preprocessor,
};

/// BLIP-2's entry in [`FAMILIES`](super::FAMILIES).
pub const BLIP2: MllmFamily = MllmFamily {
    name: "blip-2",
    about: "BLIP-2 with Flan-T5",
    verified: Verified {
        local: "transformers 5.23 and 5.24 on a tiny checkpoint with Flan-T5: tower, Q-Former, projection, prompts, logits and \
                generated ids",
        adapter: None,
        comparator: "probe; open_clip's EVA01-g-14 has its tower and one more block",
    },
    recognises: |checkpoint| is_of(checkpoint, "blip-2"),
    plan: |checkpoint, _| Ok(Box::new(Plan::of(checkpoint, false)?)),
    ..INSTRUCTBLIP
};

fn is_of(checkpoint: &Checkpoint, model_type: &str) -> bool {
    checkpoint.config().get("model_type").is_some_and(|kind| kind == model_type)
}

fn weights(checkpoint: &Checkpoint, _: Option<&Checkpoint>) -> Result<Weights> {
    Weights::new(checkpoint, canonical)
}

fn preprocessor(checkpoint: &Checkpoint, _: Option<&Checkpoint>, _: &PixelLimits) -> Result<Box<dyn ImageProcessor>> {
    let preprocessor = Preprocessor::from_checkpoint(checkpoint)?;
    preprocessor.check_side(vision_config(&config_of(checkpoint))?.image_size(), "model")?;
    Ok(Box::new(preprocessor))
}

/// The stems never changed, but transformers 5.0 to 5.5 named the leaves of the Q-Former's norms `gamma` and `beta`.
fn canonical(key: &str) -> Canonical {
    if is_computed_buffer(key) {
        return Canonical::Ignore;
    }
    let mut parts: Vec<&str> = key.split('.').collect();
    // PEFT's wrapper and transformers' class may each add one.
    while parts.first() == Some(&"model") {
        parts.remove(0);
    }
    if let Some(last) = parts.last_mut() {
        *last = match *last {
            "gamma" => "weight",
            "beta" => "bias",
            other => other,
        };
    }
    match parts.as_slice() {
        // Older files also store the shared embedding under the names of its users.
        ["language_model", "encoder" | "decoder", "embed_tokens", ..] => Canonical::Ignore,
        ["language_model", "shared", leaf] => Canonical::Keep(format!("language_model.embed_tokens.{leaf}")),
        ["language_model", "encoder" | "decoder", ..] => Canonical::Keep(parts.join(".")),
        ["language_model", rest @ ..] => canonical_llava(&rest.join(".")),
        ["language_projection", rest @ ..] => Canonical::Keep(format!("multi_modal_projector.{}", rest.join("."))),
        ["vision_model", "embeddings", "position_embedding"] => {
            Canonical::Keep("vision_tower.embeddings.position_embedding.weight".to_owned())
        }
        ["vision_model", "encoder", "layers", index, "self_attn", "qkv", leaf] => {
            let name = |map: &str| format!("vision_tower.encoder.layers.{index}.self_attn.{map}_proj.{leaf}");
            Canonical::Rows(["q", "k", "v"].map(name).into())
        }
        ["vision_model", "encoder", "layers", index, "self_attn", "projection", leaf] => {
            Canonical::Keep(format!("vision_tower.encoder.layers.{index}.self_attn.out_proj.{leaf}"))
        }
        ["vision_model", rest @ ..] => Canonical::Keep(format!("vision_tower.{}", rest.join("."))),
        _ => Canonical::Keep(parts.join(".")),
    }
}

/// The maximum number of tokens of a question in the Q-Former, in the authors' code (LAVIS).
const N_QUESTION_TOKENS: usize = 128;

/// The number of positions that a prompt may have for T5. It attends by distance and has no table of positions, and the
/// memory of its scores grows with the square.
const N_T5_POSITIONS: usize = 4096;

/// The begin token of the tokenizer with which the authors trained Vicuna (LAVIS).
const FIRST_TOKEN_OF_AUTHORS: &str = "</s>";

/// Everything that the checkpoint's configuration decides.
#[derive(Serialize)]
struct Plan {
    #[serde(rename = "vision_config")]
    vision: VisionConfig,
    #[serde(rename = "qformer_config")]
    qformer: QFormerConfig,
    #[serde(rename = "text_config")]
    text: TextConfig,
    /// The token between the image's embeddings and the text of a decoder.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_text_token: Option<String>,
    /// The maximum number of tokens of a question in the Q-Former, if it reads it. The first ones are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    n_question_tokens_max: Option<usize>,
    #[serde(skip)]
    form: PromptForm,
    #[serde(skip)]
    notes: Vec<String>,
}

/// The configuration of the language model.
#[derive(Serialize)]
#[serde(untagged)]
enum TextConfig {
    Decoder(Box<DecoderConfig>),
    T5(T5Config),
}

impl TextConfig {
    /// Reads `text_config`. Language models that are not known are refused by name.
    fn from_config(config: &Config) -> Result<Self> {
        let text = config.section("text_config").with_context(|| format!("{} has no text_config", config.place()))?;
        match text.str_or("model_type", "opt")? {
            "t5" => Ok(Self::T5(T5Config::from_config(&text)?)),
            // The default of transformers, where the key is left out.
            "opt" => bail!(
                "the language model `opt` in {} is not supported; hint: emt reads BLIP-2 and InstructBLIP with t5 or llama",
                text.place()
            ),
            _ => {
                let decoder = DecoderConfig::from_config(&text, config.bool_or("tie_word_embeddings", false)?)?;
                refuse_scaled(&decoder, config.place())?;
                Ok(Self::Decoder(Box::new(decoder)))
            }
        }
    }
}

impl Plan {
    fn of(checkpoint: &Checkpoint, reads_question: bool) -> Result<Self> {
        let config = config_of(checkpoint);
        let vision = vision_config(&config)?;
        let text = TextConfig::from_config(&config)?;
        let qformer = qformer_config(&config, reads_question)?;
        ensure!(
            qformer.context_size() == vision.size(),
            "{}: the Q-Former reads states of {} numbers (encoder_hidden_size), and the tower gives {} (hidden_size)",
            config.place(),
            qformer.context_size(),
            vision.size()
        );
        let n_question_tokens_max = reads_question.then(|| qformer.n_positions().min(N_QUESTION_TOKENS));
        let question = match n_question_tokens_max {
            Some(n_tokens_max) => Some(QuestionReader { tokenizer: question_tokenizer(checkpoint)?, n_tokens_max }),
            None => None,
        };
        let (reader, first_text_token) = match text {
            TextConfig::T5(_) => (TextReader::Encoder, None),
            TextConfig::Decoder(_) => {
                (TextReader::Decoder, TextTokenizer::open(checkpoint)?.bos_token().map(str::to_owned))
            }
        };
        let form = PromptForm { question, after_images: Some(reader) };
        let name = checkpoint.name();
        let mut notes: Vec<String> = n_question_tokens_max.map(|n| note_of_cut(&name, n)).into_iter().collect();
        if reads_question && reader == TextReader::Decoder {
            notes.extend(note_of_first_token(&name, first_text_token.as_deref()));
        }
        Ok(Self { vision, qformer, text, first_text_token, n_question_tokens_max, form, notes })
    }

    /// Loads the parts before a language model of width `n_out`.
    fn read(&self, loader: &mut Loader, n_out: usize) -> Result<Blip2> {
        Blip2::load(loader, &self.vision, &self.qformer, n_out)
    }
}

/// Says that long questions are cut, which codes do differently.
fn note_of_cut(name: &str, n_question_tokens_max: usize) -> String {
    format!(
        "{name}: the Q-Former reads the last {n_question_tokens_max} tokens of a question, as in the authors' code; \
         transformers does not cut"
    )
}

/// Says that the text begins with another token than the authors', if it does.
fn note_of_first_token(name: &str, first_token: Option<&str>) -> Option<String> {
    let found = first_token.map_or_else(|| "no token".to_owned(), |token| format!("`{token}`"));
    (first_token != Some(FIRST_TOKEN_OF_AUTHORS)).then(|| {
        format!(
            "{name} begins its text with {found}, as its tokenizer says, and the authors' Vicuna was trained with \
             `{FIRST_TOKEN_OF_AUTHORS}`; hint: if it was trained so, too, set `bos_token` in tokenizer_config.json and \
             special_tokens_map.json"
        )
    })
}

/// Reads `vision_config`, with the defaults of InstructBlipVisionConfig.
fn vision_config(config: &Config) -> Result<VisionConfig> {
    let mut values = config.get("vision_config").cloned().unwrap_or_else(|| json!({}));
    if let Some(fields) = values.as_object_mut() {
        let defaults = [
            ("hidden_size", 1408),
            ("intermediate_size", 6144),
            ("num_hidden_layers", 39),
            ("num_attention_heads", 16),
        ];
        for (key, default) in defaults {
            fields.entry(key).or_insert_with(|| default.into());
        }
    }
    let vision = Config::new(&values, format!("{}: vision_config", config.place()));
    ensure!(
        vision.bool_or("qkv_bias", true)?,
        "{}: qkv_bias false is not supported; hint: BLIP-2 and InstructBLIP have it true",
        vision.place()
    );
    VisionConfig::from_config(TowerKind::Eva, &vision)
}

/// Reads `qformer_config`.
fn qformer_config(config: &Config, reads_text: bool) -> Result<QFormerConfig> {
    let values = config.get("qformer_config").cloned().unwrap_or_else(|| json!({}));
    let qformer = Config::new(&values, format!("{}: qformer_config", config.place()));
    QFormerConfig::from_config(&qformer, config.positive_or("num_query_tokens", 32)?, reads_text)
}

/// Opens the tokenizer of the Q-Former.
fn question_tokenizer(checkpoint: &Checkpoint) -> Result<TextTokenizer> {
    const FILE: &str = "qformer_tokenizer/tokenizer.json";
    match TextTokenizer::open_file(checkpoint, FILE)? {
        Some(tokenizer) => Ok(tokenizer),
        None => bail!(
            "`{}` has no `{FILE}`, with which the Q-Former reads questions; hint: copy the folder `qformer_tokenizer` of \
             the base model, or save BERT's tokenizer there with transformers",
            checkpoint.dir.display()
        ),
    }
}

impl MllmPlan for Plan {
    fn n_image_positions_max(&self) -> usize {
        self.qformer.n_queries()
    }

    /// T5 attends by distance, so it has no limit of its own.
    fn n_positions(&self) -> usize {
        match &self.text {
            TextConfig::Decoder(text) => text.n_positions,
            TextConfig::T5(_) => N_T5_POSITIONS,
        }
    }

    fn n_layers(&self) -> usize {
        match &self.text {
            TextConfig::Decoder(text) => text.n_layers(),
            TextConfig::T5(text) => text.n_layers(),
        }
    }

    fn n_heads(&self) -> [usize; 2] {
        match &self.text {
            TextConfig::Decoder(text) => text.n_heads(),
            TextConfig::T5(text) => [text.n_heads(); 2],
        }
    }

    fn limit(&self) -> Option<&str> {
        match &self.text {
            TextConfig::Decoder(text) => text.limit(),
            TextConfig::T5(_) => None,
        }
    }

    fn settings(&self) -> Value {
        json!(self)
    }

    fn tower_settings(&self) -> Value {
        json!({"vision_config": self.vision})
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn n_numbers_per_row(&self, n_tokens: usize) -> usize {
        let of_text = match &self.text {
            TextConfig::Decoder(text) => text.n_numbers_per_row(n_tokens),
            TextConfig::T5(text) => text.n_numbers_per_row(n_tokens),
        };
        of_text.max(self.vision.n_activations())
    }

    fn prompt_form(&self) -> PromptForm {
        self.form.clone()
    }

    fn load(&self, loader: &mut Loader) -> Result<Box<dyn Mllm>> {
        Ok(match &self.text {
            TextConfig::Decoder(text) => {
                let reader = self.read(loader, text.size())?;
                Box::new(DecoderOnly::load(reader, text.as_ref().clone(), loader)?)
            }
            TextConfig::T5(text) => {
                let reader = self.read(loader, text.size())?;
                Box::new(EncoderDecoder::load(reader, text, loader)?)
            }
        })
    }
}

/// Tower, Q-Former and projection.
pub(super) struct Blip2 {
    tower: VisionTower,
    norm: LayerNorm,
    qformer: QFormer,
    projection: Linear,
}

impl Blip2 {
    /// Loads the parts before a language model of width `n_out`.
    pub(super) fn load(
        loader: &mut Loader,
        vision: &VisionConfig,
        qformer: &QFormerConfig,
        n_out: usize,
    ) -> Result<Self> {
        let projection = Linear::load(loader, "multi_modal_projector", qformer.size(), n_out, true)?;
        let qformer = QFormer::load(loader, qformer)?;
        let mut here = loader.at("vision_tower");
        Ok(Self {
            tower: VisionTower::load(&mut here, vision.clone())?,
            norm: LayerNorm::load(&mut here, "post_layernorm", vision.size(), vision.block().epsilon)?,
            qformer,
            projection,
        })
    }

    /// Returns the embeddings of images that are asked about with the tokens `question`.
    fn embed_about(&self, seen: &[&Seen], question: &[u32]) -> Result<Vec<ImageEmbedding>> {
        let states: Vec<&Tensor> = seen.iter().flat_map(|seen| seen.states.first()).collect();
        let states = Tensor::stack(&states, 0)?; // (images, tokens, width)
        let features = self.projection.forward(&self.qformer.forward(&states, question)?)?;
        (0..seen.len()).map(|row| Ok(ImageEmbedding::plain(features.get(row)?))).collect()
    }
}

impl ImageReader for Blip2 {
    fn see_watched(&self, images: &[&ImageInput], mut watch: Watched<'_>) -> Result<Vec<Seen>> {
        let last = self.tower.last_state();
        let states = self.tower.hidden_states_watched(&self.tower.pixels(images)?, &[last], watch.again())?;
        let state = self.norm.forward(states.first().context("a tower gives a state")?)?;
        let state = watch.layer(last).at(Site::FinalNorm, state)?; // (images, tokens, width)
        images.iter().enumerate().map(|(row, image)| Ok(Seen::plain(state.get(row)?, image))).collect()
    }

    /// Without a question, the queries attend to the image alone.
    fn embed_images(&self, seen: &[Seen], _: &dyn LanguageModel) -> Result<Vec<ImageEmbedding>> {
        self.embed_about(&seen.iter().collect::<Vec<_>>(), &[])
    }

    fn embed_in_prompts(&self, prompts: &[ImagePrompt<'_>], _: &dyn LanguageModel) -> Result<Vec<ImageEmbedding>> {
        let mut embedded = Vec::new();
        // Prompts with one question pass the Q-Former together.
        for run in prompts.chunk_by(|a, b| a.prompt.question_ids == b.prompt.question_ids) {
            let seen: Vec<&Seen> = run.iter().flat_map(|prompt| prompt.images).collect();
            if !seen.is_empty() {
                embedded.extend(self.embed_about(&seen, &run[0].prompt.question_ids)?);
            }
        }
        Ok(embedded)
    }
}

#[cfg(test)]
mod tests;
