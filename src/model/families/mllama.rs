//! Llama-3.2-Vision (Grattafiori et al. 2024, "The Llama 3 Herd of Models", section 7): a tower reads all tiles of an
//! image together, and some layers of a Llama 3 attend to its output. The image takes one position of the prompt.

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Beside, DecoderOnly, ImageEmbedding, ImageReader, InMemoryNames, Mllm, MllmFamily, MllmPlan, Seen, Verified,
};
use crate::model::checkpoint::config::Config;
use crate::model::checkpoint::weights::{Canonical, Checkpoint, Weights, is_computed_buffer};
use crate::model::language::{CrossKind, Decoder, DecoderConfig, LanguageModel, read_mllama};
use crate::model::layers::{Linear, Loader, Watched};
use crate::model::text::tokenizer::TextTokenizer;
use crate::model::vision::preprocess::{ImageInput, MllamaProcessor};
use crate::model::vision::tiled_tower::{StateRule, TiledConfig, TiledTower};

/// The image marker of its templates and the token of its vocabulary.
const MARKER: &str = "<|image|>";

/// The family's entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: MllmFamily = MllmFamily {
    name: "mllama",
    about: "Llama-3.2-Vision",
    verified: Verified {
        local: "transformers 5.24 on a tiny checkpoint, in its way and in Meta's: tiles, features, prompts, logits and \
                generated ids",
        adapter: Some("PEFT 0.21: updates of language model, tower and projector, beside the base and merged"),
        comparator: "probe, on the tower's own output; no text side is published for it",
    },
    recognises: |checkpoint| checkpoint.config().get("model_type").is_some_and(|kind| kind == "mllama"),
    in_memory: InMemoryNames::LLAVA,
    canonical,
    weights: |checkpoint, _| Weights::new(checkpoint, canonical),
    plan: |checkpoint, _| Ok(Box::new(Plan::of(checkpoint)?)),
    tower_reference: |_| None,
    image_marker: MARKER,
    preprocessor: |checkpoint, _, _| Ok(Box::new(MllamaProcessor::from_checkpoint(checkpoint)?)),
};

/// Names the tensors in every layout of transformers.
fn canonical(key: &str) -> Canonical {
    if is_computed_buffer(key) {
        return Canonical::Ignore;
    }
    let parts: Vec<&str> = key.split('.').filter(|part| !matches!(*part, "model" | "language_model")).collect();
    match parts.as_slice() {
        ["vision_model" | "vision_tower", leaves @ ..] => Canonical::Keep(format!("vision_tower.{}", leaves.join("."))),
        ["layers" | "embed_tokens" | "norm", ..] => Canonical::Keep(format!("language_model.{}", parts.join("."))),
        ["lm_head" | "multi_modal_projector", ..] => Canonical::Keep(parts.join(".")),
        _ => Canonical::Keep(key.to_owned()),
    }
}

/// Everything that the checkpoint's configuration decides.
#[derive(Serialize)]
struct Plan {
    #[serde(rename = "vision_config")]
    vision: TiledConfig,
    #[serde(rename = "text_config")]
    text: DecoderConfig,
    /// What the indices of the tower's inner states mean.
    intermediate_layers: StateRule,
    #[serde(skip)]
    image_id: u32,
    #[serde(skip)]
    notes: Vec<String>,
}

impl Plan {
    fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let place = checkpoint.dir.join("config.json").display().to_string();
        let config = Config::new(checkpoint.config(), &place);
        let (intermediate_layers, notes) = state_rule(&config, &checkpoint.name())?;
        let vision = config.section("vision_config").with_context(|| format!("{place} has no vision_config"))?;
        let vision = TiledConfig::from_config(&vision, intermediate_layers)?;
        let text = config.section("text_config").with_context(|| format!("{place} has no text_config"))?;
        let text = read_mllama(&text)?;
        let processor = MllamaProcessor::from_checkpoint(checkpoint)?;
        let (tile, n_tiles) = (processor.parameters().side as usize, processor.parameters().n_tiles_max as usize);
        ensure!(
            (tile, n_tiles) == (vision.image_size(), vision.n_tiles()),
            "the image processor of `{}` makes up to {n_tiles} tiles of {tile} pixels, but its tower takes {} of {}; \
             hint: config.json and preprocessor_config.json belong to different checkpoints",
            checkpoint.dir.display(),
            vision.n_tiles(),
            vision.image_size()
        );
        let image_id = TextTokenizer::open(checkpoint)?.token_id(MARKER).with_context(|| {
            format!(
                "the tokenizer of `{}` has no token `{MARKER}`; hint: copy `tokenizer.json` of the base model",
                checkpoint.dir.display()
            )
        })?;
        Ok(Self { vision, text, intermediate_layers, image_id, notes })
    }

    fn read(&self, loader: &mut Loader) -> Result<DecoderOnly<Mllama, Decoder>> {
        let reader = Mllama {
            tower: TiledTower::load(&mut loader.at("vision_tower"), self.vision.clone())?,
            projector: Linear::load(loader, "multi_modal_projector", self.vision.width(), self.text.size(), true)?,
            image_id: self.image_id,
            n_tokens: self.vision.n_tokens(),
        };
        DecoderOnly::load(reader, self.text.clone(), loader)
    }

    /// The number of positions of features of an image with all its tiles.
    fn n_features(&self) -> usize {
        self.vision.n_tiles() * self.vision.n_tokens()
    }
}

/// The first version of transformers that no longer reads the tower's states as Meta's code does, and the first that
/// reads the states after the layers.
const FIRST_CHANGED: (u64, u64) = (4, 55);
const FIRST_AFTER: (u64, u64) = (4, 56);

/// Returns what the indices of the tower's inner states mean, and warnings. Meta's code means the input of a layer;
/// transformers means its output from 4.56 on, and checkpoints that it trained saw those states.
fn state_rule(config: &Config, name: &str) -> Result<(StateRule, Vec<String>)> {
    let version = config.str_or("transformers_version", "")?;
    let mut parts = version.split('.').map(|part| part.parse::<u64>().ok());
    let parsed = parts.next().flatten().zip(parts.next().flatten());
    let way_out = "set `transformers_version` in config.json to 4.54.0 if these are Meta's own weights";
    Ok(match parsed {
        Some(version) if version < FIRST_CHANGED => (StateRule::BeforeLayer, Vec::new()),
        Some(parsed) if parsed < FIRST_AFTER => bail!(
            "{}: transformers_version {version}: that version gave the language model the tower's last state in place \
             of all others, which is not supported; hint: {way_out} or were trained with an earlier version",
            config.place()
        ),
        Some(_) => {
            let note = format!(
                "{name} was saved by transformers {version}: the tower's inner states are those after their layers, as \
                 this version computes them, and not those before them, as Meta's code does; hint: {way_out}"
            );
            (StateRule::AfterLayer, vec![note])
        }
        None => {
            let note = format!(
                "{name} does not say which version of transformers saved it: the tower's inner states are those before \
                 their layers, as in Meta's code; hint: add `transformers_version` to config.json if it was trained \
                 with 4.56 or later"
            );
            (StateRule::BeforeLayer, vec![note])
        }
    })
}

impl MllmPlan for Plan {
    fn n_image_positions_max(&self) -> usize {
        1
    }

    fn n_positions(&self) -> usize {
        self.text.n_positions
    }

    fn n_layers(&self) -> usize {
        self.text.n_layers()
    }

    fn n_heads(&self) -> [usize; 2] {
        self.text.n_heads()
    }

    fn limit(&self) -> Option<&str> {
        self.text.limit()
    }

    fn settings(&self) -> Value {
        json!(self)
    }

    fn tower_settings(&self) -> Value {
        json!({"vision_config": self.vision, "intermediate_layers": self.intermediate_layers})
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn n_numbers_per_row(&self, n_tokens: usize) -> usize {
        let beside = self.text.n_numbers_beside(self.n_features(), n_tokens);
        self.text.n_numbers_per_row(n_tokens).saturating_add(beside).max(self.vision.n_numbers())
    }

    fn load(&self, loader: &mut Loader) -> Result<Box<dyn Mllm>> {
        Ok(Box::new(self.read(loader)?))
    }
}

struct Mllama {
    tower: TiledTower,
    projector: Linear,
    image_id: u32,
    /// Of a tile.
    n_tokens: usize,
}

impl ImageReader for Mllama {
    fn see_watched(&self, images: &[&ImageInput], mut watch: Watched<'_>) -> Result<Vec<Seen>> {
        let mut see = |image: &&ImageInput| Ok(Seen::plain(self.tower.forward(image, watch.again())?, image));
        images.iter().map(&mut see).collect()
    }

    fn embed_images(&self, seen: &[Seen], decoder: &dyn LanguageModel) -> Result<Vec<ImageEmbedding>> {
        let embed = |seen: &Seen| -> Result<ImageEmbedding> {
            let states = seen.states.first().context("a tower gives a state")?; // (tiles, tokens, width)
            let features = self.projector.forward(states)?.flatten_to(1)?; // (tiles * tokens, hidden)
            let n_seen = seen.grid.0 * seen.grid.1 * self.n_tokens;
            let beside = Some(Beside { features, n_seen, kind: CrossKind::Llama });
            Ok(ImageEmbedding { beside, ..ImageEmbedding::plain(decoder.embed(&[self.image_id])?) })
        };
        seen.iter().map(embed).collect()
    }

    /// The mean over the tokens of the image's own tiles.
    fn probe_features(&self, seen: &Seen) -> Result<Vec<f32>> {
        let states = seen.states.first().context("a tower gives a state")?;
        let own = states.narrow(0, 0, (seen.grid.0 * seen.grid.1).min(states.dim(0)?))?;
        Ok(own.to_dtype(candle_core::DType::F32)?.flatten_to(1)?.mean(0)?.to_vec1()?)
    }
}

#[cfg(test)]
mod tests;
