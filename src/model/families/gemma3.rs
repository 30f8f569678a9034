//! Gemma 3 (Gemma Team 2025): a SigLIP tower whose patches are averaged to a few positions, normalised and projected, and
//! a language model in which the positions of an image see each other. Long images may be read again in crops.

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use serde::Serialize;
use serde_json::{Value, json};

use super::llava::config_of;
use super::saved_by::with_head;
use super::{
    Ahead, DecoderOnly, ImageEmbedding, ImageReader, InMemoryNames, Mllm, MllmFamily, MllmPlan, PromptWriting, Seen,
    Verified, WrittenImage,
};
use crate::model::checkpoint::config::Config;
use crate::model::checkpoint::weights::{Checkpoint, Weights, canonical_llava};
use crate::model::language::{Decoder, DecoderConfig, LanguageModel};
use crate::model::layers::{LayerNorm, Loader, RmsNorm, Site, Watched};
use crate::model::text::tokenizer::TextTokenizer;
use crate::model::vision::preprocess::{ImageInput, PanAndScanProcessor};
use crate::model::vision::square_tower::{TowerKind, VisionConfig, VisionTower};

/// The marker of an image in chat templates, which stays before the image.
const BEGIN: &str = "<start_of_image>";
/// The token that stands for an image.
const IMAGE: &str = "<image_soft_token>";
const END: &str = "<end_of_image>";

/// The family's entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: MllmFamily = MllmFamily {
    name: "gemma3",
    about: "Gemma 3 (4B and larger, which read images)",
    verified: Verified {
        local: "transformers 5.23 and 5.24 on a tiny checkpoint: pixels, crops of pan-and-scan, features, prompts, states of all \
                layers, logits and generated ids",
        adapter: Some(
            "PEFT 0.21: updates of language model and tower, and the whole projector, beside the base and merged",
        ),
        comparator: "zero_shot by a SigLIP (a relative of its tower), or probe",
    },
    recognises: |checkpoint| checkpoint.config().get("model_type").is_some_and(|kind| kind == "gemma3"),
    in_memory: InMemoryNames::LLAVA,
    canonical: canonical_llava,
    weights: |checkpoint, _| Weights::new(checkpoint, canonical_llava),
    plan: |checkpoint, _| Ok(Box::new(Plan::of(checkpoint)?)),
    tower_reference: |_| None,
    image_marker: BEGIN,
    preprocessor: |checkpoint, _, _| Ok(Box::new(PanAndScanProcessor::from_checkpoint(checkpoint)?)),
};

/// Everything that the checkpoint's configuration decides.
#[derive(Serialize)]
struct Plan {
    #[serde(rename = "vision_config")]
    vision: VisionConfig,
    #[serde(rename = "text_config")]
    text: DecoderConfig,
    /// Positions along a side of an image.
    #[serde(rename = "mm_tokens_per_side")]
    n_side: usize,
    #[serde(skip)]
    n_tiles_max: usize,
    #[serde(skip)]
    between: BetweenTiles,
    #[serde(skip)]
    notes: Vec<String>,
}

impl Plan {
    fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let config = config_of(checkpoint);
        let place = config.place();
        let vision = config.section("vision_config").with_context(|| format!("{place} has no vision_config"))?;
        let kind = vision.str_or("model_type", "siglip_vision_model")?;
        ensure!(kind == "siglip_vision_model", "{place}: the vision tower `{kind}` is not supported in this family");
        let vision = VisionConfig::from_config(TowerKind::Siglip, &vision)?;
        let text = text_config(&config)?;
        let n_tokens = config.positive_or("mm_tokens_per_image", 256)?;
        let (n_side, n_patches) = (n_tokens.isqrt(), vision.n_patches_per_side());
        ensure!(
            n_side.pow(2) == n_tokens && n_patches.is_multiple_of(n_side),
            "{place}: mm_tokens_per_image {n_tokens} must be a square whose side divides the {n_patches} patches along a side"
        );
        let processor = PanAndScanProcessor::from_checkpoint(checkpoint)?;
        processor.check_side(vision.image_size())?;
        let (text, notes) = with_head(text, &config, &checkpoint.name())?;
        let n_tiles_max = processor.n_tiles_max();
        Ok(Self { vision, text, n_side, n_tiles_max, between: BetweenTiles::open(checkpoint)?, notes })
    }

    fn read(&self, loader: &mut Loader) -> Result<DecoderOnly<Gemma3, Decoder>> {
        let (size, epsilon) = (self.vision.size(), self.vision.block().epsilon);
        let mut projector = loader.at("multi_modal_projector");
        let (norm, projection) = (
            RmsNorm::load_offset(&mut projector, "mm_soft_emb_norm", size, epsilon)?,
            projector.tensor("mm_input_projection_weight", &[size, self.text.size()])?,
        );
        let mut here = loader.at("vision_tower");
        let reader = Gemma3 {
            tower: VisionTower::load(&mut here, self.vision.clone())?,
            tower_norm: LayerNorm::load(&mut here, "post_layernorm", size, epsilon)?,
            n_side: self.n_side,
            norm,
            projection,
            between: self.between.clone(),
        };
        DecoderOnly::load(reader, self.text.clone(), loader)
    }
}

fn text_config(config: &Config) -> Result<DecoderConfig> {
    let place = format!("{}: text_config", config.place());
    let mut values =
        config.get("text_config").cloned().with_context(|| format!("{} has no text_config", config.place()))?;
    if let Some(fields) = values.as_object_mut() {
        fields.entry("model_type").or_insert_with(|| "gemma3_text".into());
    }
    let text = Config::new(&values, &place);
    let kind = text.str_or("model_type", "gemma3_text")?;
    ensure!(kind == "gemma3_text", "the language model `{kind}` in {place} is not supported; hint: gemma3_text is");
    DecoderConfig::from_config(&text, config.bool_or("tie_word_embeddings", true)?)
}

impl MllmPlan for Plan {
    fn n_image_positions_max(&self) -> usize {
        let n_between = (1..self.n_tiles_max).map(|tile| self.between.before(tile).len()).sum::<usize>();
        self.n_tiles_max * self.n_side.pow(2) + n_between
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
        json!({"vision_config": self.vision})
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn prompt_writing(&self) -> PromptWriting {
        let before_tiles = (self.n_tiles_max > 1).then_some("Here is the original image ");
        let around = ["\n\n<start_of_image>", "<end_of_image>\n\n"];
        PromptWriting { image: Some(WrittenImage { token: IMAGE, around, before_tiles }), begins_after_images: false }
    }

    fn built_in_template(&self) -> Option<&'static str> {
        Some("gemma3")
    }

    fn n_numbers_per_row(&self, n_tokens: usize) -> usize {
        let activations = self.text.n_numbers_per_row(n_tokens).max(self.vision.n_activations_of_tiles());
        self.vision.n_numbers_of_tiles(self.n_tiles_max).saturating_add(activations)
    }

    fn load(&self, loader: &mut Loader) -> Result<Box<dyn Mllm>> {
        Ok(Box::new(self.read(loader)?))
    }
}

/// The tokens between an image and its crops.
#[derive(Clone)]
struct BetweenTiles {
    /// Before the first crop.
    first: Vec<u32>,
    /// Before each other crop.
    other: Vec<u32>,
}

impl BetweenTiles {
    /// Tokenises the text of transformers' processor. It is between special tokens, so it has the same ids alone as
    /// within a prompt.
    fn open(checkpoint: &Checkpoint) -> Result<Self> {
        let tokenizer = TextTokenizer::open(checkpoint)?;
        for token in [BEGIN, IMAGE, END] {
            tokenizer.token_id(token).with_context(|| {
                format!(
                    "the tokenizer of `{}` has no token `{token}`; hint: copy `tokenizer.json` of the base model",
                    checkpoint.dir.display()
                )
            })?;
        }
        let tokens = |text: &str| tokenizer.encode(&format!("{END}\n\n{text}\n\n{BEGIN}"), false);
        Ok(Self { first: tokens(" and here are some crops to help you see better ")?, other: tokens(" ")? })
    }

    /// The tokens before tile `tile`. Tile 0 is the whole image.
    fn before(&self, tile: usize) -> &[u32] {
        match tile {
            0 => &[],
            1 => &self.first,
            _ => &self.other,
        }
    }
}

struct Gemma3 {
    tower: VisionTower,
    tower_norm: LayerNorm,
    /// Positions along a side of an image.
    n_side: usize,
    norm: RmsNorm,
    projection: Tensor, // (tower width, hidden)
    between: BetweenTiles,
}

impl Gemma3 {
    /// Computes features `(tiles, positions, hidden)` from the tower's states `(tiles, patches, width)`.
    fn features(&self, state: &Tensor) -> candle_core::Result<Tensor> {
        let pooled = self.norm.forward(&pooled(state, self.n_side)?)?; // (tiles, positions, width)
        let (n_tiles, n_positions, width) = pooled.dims3()?;
        let features = pooled.reshape((n_tiles * n_positions, width))?.matmul(&self.projection)?;
        features.reshape((n_tiles, n_positions, ()))
    }
}

/// Averages squares of patches of `(tiles, patches, width)`, so that `n_side` are left along a side.
fn pooled(x: &Tensor, n_side: usize) -> candle_core::Result<Tensor> {
    let (n_tiles, n_patches, width) = x.dims3()?;
    let n = n_patches.isqrt() / n_side;
    let squares = x.reshape(&[n_tiles * n_side, n, n_side, n, width][..])?;
    squares.mean(3)?.mean(1)?.reshape((n_tiles, n_side * n_side, width))
}

impl ImageReader for Gemma3 {
    fn see_watched(&self, images: &[&ImageInput], mut watch: Watched<'_>) -> Result<Vec<Seen>> {
        let last = self.tower.last_state();
        let mut see = |image: &&ImageInput| -> Result<Seen> {
            let state =
                self.tower_norm.forward(&self.tower.tile_states(image, &[last], watch.again())?.swap_remove(0))?;
            Ok(Seen::plain(watch.layer(last).at(Site::FinalNorm, state)?, image))
        };
        images.iter().map(&mut see).collect()
    }

    fn embed_images(&self, seen: &[Seen], decoder: &dyn LanguageModel) -> Result<Vec<ImageEmbedding>> {
        let embed = |seen: &Seen| -> Result<ImageEmbedding> {
            let features = self.features(seen.states.first().context("a tower gives a state")?)?;
            let (n_tiles, n_positions, _) = features.dims3()?;
            if n_tiles == 1 {
                return Ok(ImageEmbedding::plain(features.get(0)?));
            }
            let (mut parts, mut ids) = (Vec::new(), Vec::new());
            for tile in 0..n_tiles {
                let run = self.between.before(tile);
                if !run.is_empty() {
                    parts.push(decoder.embed(run)?);
                    ids.extend(run.iter().copied().map(Some));
                }
                parts.push(features.get(tile)?);
                ids.extend(std::iter::repeat_n(None, n_positions));
            }
            Ok(ImageEmbedding { ids, ..ImageEmbedding::plain(Tensor::cat(&parts, 0)?) })
        };
        seen.iter().map(embed).collect()
    }

    fn sees_ahead(&self) -> Ahead {
        Ahead::Image
    }
}
