//! InternVL (Chen et al. 2023) in transformers' layout: its own tower reads tiles, neighbouring patches are joined and
//! projected to the width of a language model of any text family.

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use serde::Serialize;
use serde_json::{Value, json};

use super::idefics3::join_patches;
use super::llava::{config_of, refuse_scaled};
use super::{DecoderOnly, ImageEmbedding, ImageReader, InMemoryNames, Mllm, MllmFamily, MllmPlan, Seen, Verified};
use crate::model::checkpoint::config::Config;
use crate::model::checkpoint::weights::{Checkpoint, Weights, canonical_llava};
use crate::model::language::{Decoder, DecoderConfig, LanguageModel};
use crate::model::layers::{Activation, LayerNorm, Linear, Loader, Watched};
use crate::model::text::tokenizer::TextTokenizer;
use crate::model::vision::internvl_tower::{InternVlTower, InternVlTowerConfig};
use crate::model::vision::preprocess::{ImageInput, InternVlProcessor};

/// The family's entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: MllmFamily = MllmFamily {
    name: "internvl",
    about: "InternVL 2.5, 3 and 3.5 in transformers' layout (`-hf`)",
    verified: Verified {
        local: "transformers 5.23 and 5.24 on a tiny checkpoint: tiles, hidden states, features, logits and generated ids; \
                names of transformers 4.52 to 5.23",
        adapter: Some("PEFT 0.21: updates of language model, tower and projector, beside the base and merged"),
        comparator: "probe: its tower has no text side",
    },
    recognises: |checkpoint| checkpoint.config().get("model_type").is_some_and(|kind| kind == "internvl"),
    in_memory: InMemoryNames::LLAVA,
    canonical: canonical_llava,
    weights: |checkpoint, _| Weights::new(checkpoint, canonical_llava),
    plan: |checkpoint, _| Ok(Box::new(Plan::of(checkpoint)?)),
    tower_reference: |_| None,
    image_marker: IMAGE_MARKER,
    preprocessor: |checkpoint, _, _| Ok(Box::new(InternVlProcessor::from_checkpoint(checkpoint)?)),
};

/// The image marker of InternVL's chat templates.
const IMAGE_MARKER: &str = "<IMG_CONTEXT>";

/// Everything that the checkpoint's configuration decides.
#[derive(Serialize)]
struct Plan {
    #[serde(rename = "vision_config")]
    vision: InternVlTowerConfig,
    #[serde(rename = "text_config")]
    text: DecoderConfig,
    #[serde(rename = "vision_feature_layer")]
    tower_state: usize,
    /// Patches along each side of a square that becomes one position: the inverse of `downsample_ratio`.
    n_joined: usize,
    #[serde(rename = "projector_hidden_act")]
    activation: Activation,
    /// The tokens before and after an image's features.
    #[serde(skip)]
    markers: [u32; 2],
    #[serde(skip)]
    n_tiles_max: usize,
}

/// The epsilon of the projector's norm, which is torch's default.
const PROJECTOR_EPSILON: f64 = 1e-5;

impl Plan {
    fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let config = config_of(checkpoint);
        let place = config.place();
        let vision = config.section("vision_config").with_context(|| format!("{place} has no vision_config"))?;
        let kind = vision.str_or("model_type", "internvl_vision")?;
        ensure!(
            kind == "internvl_vision",
            "{}: the vision tower `{kind}` is not supported in this family",
            vision.place()
        );
        let vision = InternVlTowerConfig::from_config(&vision)?;
        let text = config.section("text_config").with_context(|| format!("{place} has no text_config"))?;
        let text = DecoderConfig::from_config(&text, config.bool_or("tie_word_embeddings", true)?)?;
        refuse_scaled(&text, place)?;
        let strategy = config.str_or("vision_feature_select_strategy", "default")?;
        ensure!(
            strategy == "default",
            "{place}: vision_feature_select_strategy `{strategy}` is not supported: it keeps the class token, which has no \
             place among rows of patches; hint: `default`"
        );
        ensure!(
            !matches!(config.get("vision_feature_layer"), Some(Value::Array(_))),
            "{place}: several vision_feature_layer are not supported; hint: InternVL has one"
        );
        let n_joined = n_joined(&config, vision.n_patches_per_side())?;
        let processor = InternVlProcessor::from_checkpoint(checkpoint)?;
        let (tile, side) = (processor.parameters().side as usize, vision.image_size());
        ensure!(
            tile == side,
            "the image processor of `{}` makes tiles of {tile} pixels, but its tower takes {side}; hint: config.json and \
             the image processor's file belong to different checkpoints",
            checkpoint.dir.display()
        );
        Ok(Self {
            tower_state: vision.hidden_state_index(config.i64_or("vision_feature_layer", -1)?)?,
            vision,
            text,
            n_joined,
            activation: Activation::from_name(config.str_or("projector_hidden_act", "gelu")?)?,
            markers: markers(checkpoint)?,
            n_tiles_max: processor.n_tiles_max(),
        })
    }

    fn read(&self, loader: &mut Loader) -> Result<DecoderOnly<InternVl, Decoder>> {
        let (n_in, n_out) = (self.vision.size() * self.n_joined.pow(2), self.text.size());
        let tower = InternVlTower::load(&mut loader.at("vision_tower"), self.vision.clone())?;
        let mut here = loader.at("multi_modal_projector");
        let reader = InternVl {
            tower,
            tower_state: self.tower_state,
            n_joined: self.n_joined,
            norm: LayerNorm::load(&mut here, "layer_norm", n_in, PROJECTOR_EPSILON)?,
            first: Linear::load(&mut here, "linear_1", n_in, n_out, true)?,
            activation: self.activation,
            second: Linear::load(&mut here, "linear_2", n_out, n_out, true)?,
            markers: self.markers,
        };
        DecoderOnly::load(reader, self.text.clone(), loader)
    }

    /// Returns the number of language-model positions per tile.
    fn n_positions_per_tile(&self) -> usize {
        (self.vision.n_patches_per_side() / self.n_joined).pow(2)
    }
}

/// Reads `downsample_ratio`, and returns its inverse. It divides the patches along a side of a tile.
fn n_joined(config: &Config, n_patches: usize) -> Result<usize> {
    let ratio = config.f64_or("downsample_ratio", 0.5)?;
    let n_joined = (1.0 / ratio) as usize;
    ensure!(
        ratio > 0.0
            && n_joined > 0
            && (n_joined as f64 * ratio - 1.0).abs() < 1e-9
            && n_patches.is_multiple_of(n_joined),
        "{}: downsample_ratio {ratio} must be one over a whole number that divides the {n_patches} patches along a side of \
         a tile; hint: 0.5 is usual",
        config.place()
    );
    Ok(n_joined)
}

/// Returns the tokens before and after an image: `start_image_token` and `end_image_token` of the tokenizer.
fn markers(checkpoint: &Checkpoint) -> Result<[u32; 2]> {
    let tokenizer = TextTokenizer::open(checkpoint)?;
    let config = checkpoint.read_json("tokenizer_config.json")?.unwrap_or_default();
    let id_of = |key: &str, default: &str| {
        // Versions differ in whether the names of special tokens are at the top or in their own list.
        let named = [config.get(key), config.get("extra_special_tokens").and_then(|tokens| tokens.get(key))];
        let text = named.into_iter().flatten().find_map(Value::as_str).unwrap_or(default);
        tokenizer.token_id(text).with_context(|| {
            format!(
                "the tokenizer of `{}` has no token `{text}`; hint: copy `tokenizer.json` of the base model",
                checkpoint.dir.display()
            )
        })
    };
    Ok([id_of("start_image_token", "<img>")?, id_of("end_image_token", "</img>")?])
}

impl MllmPlan for Plan {
    fn n_image_positions_max(&self) -> usize {
        self.markers.len() + self.n_tiles_max * self.n_positions_per_tile()
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
        json!({"vision_config": self.vision, "vision_feature_layer": self.tower_state})
    }

    fn n_numbers_per_row(&self, n_tokens: usize) -> usize {
        self.vision.n_numbers_of_tiles(self.n_tiles_max).saturating_add(self.text.n_numbers_per_row(n_tokens))
    }

    fn load(&self, loader: &mut Loader) -> Result<Box<dyn Mllm>> {
        Ok(Box::new(self.read(loader)?))
    }
}

struct InternVl {
    tower: InternVlTower,
    tower_state: usize,
    n_joined: usize,
    norm: LayerNorm,
    first: Linear,
    activation: Activation,
    second: Linear,
    markers: [u32; 2],
}

impl InternVl {
    /// Computes features `(tiles, positions, hidden)` from the tower's states `(tiles, patches, hidden)`.
    fn features(&self, state: &Tensor) -> candle_core::Result<Tensor> {
        let normed = self.norm.forward(&join_patches(state, self.n_joined)?)?;
        self.second.forward(&self.activation.forward(&self.first.forward(&normed)?)?)
    }
}

impl ImageReader for InternVl {
    fn see_watched(&self, images: &[&ImageInput], mut watch: Watched<'_>) -> Result<Vec<Seen>> {
        let mut see = |image: &&ImageInput| -> Result<Seen> {
            let (rows, columns) = image.grid;
            let expected = rows * columns + usize::from((rows, columns) != (1, 1));
            ensure!(
                image.shape.first() == Some(&expected),
                "tiles of {:?} numbers do not fill the rows and columns {:?}",
                image.shape,
                image.grid
            );
            let state = self.tower.tile_states(image, self.tower_state, watch.again())?; // (tiles, tokens, hidden)
            Ok(Seen::plain(state.narrow(1, 1, state.dim(1)? - 1)?.contiguous()?, image))
        };
        images.iter().map(&mut see).collect()
    }

    fn embed_images(&self, seen: &[Seen], decoder: &dyn LanguageModel) -> Result<Vec<ImageEmbedding>> {
        let embed = |seen: &Seen| -> Result<ImageEmbedding> {
            let features = self.features(seen.states.first().context("a tower gives a state")?)?.flatten_to(1)?;
            ImageEmbedding::between(self.markers, &features, decoder)
        };
        seen.iter().map(embed).collect()
    }
}

#[cfg(test)]
mod tests;
