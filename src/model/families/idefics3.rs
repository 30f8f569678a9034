//! Idefics3 (Laurençon et al. 2024) and SmolVLM (Marafioti et al. 2025): a SigLIP tower reads tiles, neighbouring
//! patches are joined and projected to a LLaMA's width, and tokens between the tiles give the position of each.

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;
use serde::Serialize;
use serde_json::{Value, json};

use super::llava::refuse_scaled;
use super::{
    DecoderOnly, ImageEmbedding, ImageReader, InMemoryNames, Mllm, MllmFamily, MllmPlan, Seen, Verified, side_by_side,
};
use crate::model::checkpoint::config::Config;
use crate::model::checkpoint::weights::{Canonical, Checkpoint, Weights, is_computed_buffer};
use crate::model::language::{Decoder, DecoderConfig, LanguageModel};
use crate::model::layers::{LayerNorm, Linear, Loader, Site, Watched};
use crate::model::text::template::IMAGE_MARKER;
use crate::model::text::tokenizer::TextTokenizer;
use crate::model::vision::preprocess::{Idefics3Processor, ImageInput};
use crate::model::vision::square_tower::{TowerKind, VisionConfig, VisionTower};

/// The family's entry in [`FAMILIES`](super::FAMILIES).
pub const FAMILY: MllmFamily = MllmFamily {
    name: "idefics3",
    about: "SmolVLM, SmolVLM2 and Idefics3",
    verified: Verified {
        local: "transformers 5.23 on tiny checkpoints: tiles, features, prompts, logits and generated ids",
        adapter: Some("PEFT 0.21: updates of language model and tower, beside the base and merged"),
        comparator: "zero_shot by the SigLIP that its tower comes from (an ancestor), or probe",
    },
    recognises: |checkpoint| {
        checkpoint.config().get("model_type").is_some_and(|kind| kind == "smolvlm" || kind == "idefics3")
    },
    in_memory: InMemoryNames {
        language_model: "text_model",
        projector: "connector.modality_projection",
        saved_projector: "connector",
    },
    canonical,
    weights: |checkpoint, _| Weights::new(checkpoint, canonical),
    plan: |checkpoint, _| Ok(Box::new(Plan::of(checkpoint)?)),
    tower_reference: |_| None,
    image_marker: IMAGE_MARKER,
    preprocessor: |checkpoint, _, _| Ok(Box::new(Idefics3Processor::from_checkpoint(checkpoint)?)),
};

/// No version wrote other stems than `model.text_model`, `model.vision_model` and `model.connector`.
fn canonical(key: &str) -> Canonical {
    if is_computed_buffer(key) {
        return Canonical::Ignore;
    }
    let parts: Vec<&str> = key.split('.').filter(|part| *part != "model").collect();
    let (stem, rest) = match parts.as_slice() {
        ["text_model", rest @ ..] => ("language_model", rest),
        ["vision_model", rest @ ..] => ("vision_tower", rest),
        ["connector", "modality_projection", rest @ ..] => ("multi_modal_projector", rest),
        ["lm_head", rest @ ..] => ("lm_head", rest),
        _ => return Canonical::Keep(key.to_owned()),
    };
    Canonical::Keep(format!("{stem}.{}", rest.join(".")))
}

/// Everything that the checkpoint's configuration decides.
#[derive(Serialize)]
struct Plan {
    #[serde(rename = "vision_config")]
    vision: VisionConfig,
    #[serde(rename = "text_config")]
    text: DecoderConfig,
    /// Patches along each side of a square that becomes one position.
    #[serde(rename = "scale_factor")]
    n_joined: usize,
    #[serde(skip)]
    markers: Markers,
    #[serde(skip)]
    n_tiles_per_side_max: usize,
}

impl Plan {
    fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let place = checkpoint.dir.join("config.json").display().to_string();
        let config = Config::new(checkpoint.config(), &place);
        let vision = vision_config(&config)?;
        let text = config.section("text_config").with_context(|| format!("{place} has no text_config"))?;
        let text = DecoderConfig::from_config(&text, config.bool_or("tie_word_embeddings", false)?)?;
        refuse_scaled(&text, &place)?;
        let n_joined = config.positive_or("scale_factor", 2)?;
        let (n_patches, side) = (vision.n_patches_per_side(), vision.image_size());
        ensure!(
            n_patches.is_multiple_of(n_joined),
            "{place}: scale_factor {n_joined} must divide the {n_patches} patches along a side of the tower's image"
        );
        let processor = Idefics3Processor::from_checkpoint(checkpoint)?;
        let tile = processor.parameters().side as usize;
        if tile != side {
            bail!(
                "the image processor of `{}` makes tiles of {tile} pixels, but its tower takes {side}; hint: \
                 config.json and preprocessor_config.json belong to different checkpoints",
                checkpoint.dir.display()
            );
        }
        let markers = Markers::open(checkpoint)?;
        Ok(Self { vision, text, n_joined, markers, n_tiles_per_side_max: processor.n_tiles_per_side_max() })
    }

    /// Returns the number of language-model positions per tile.
    fn n_positions_per_tile(&self) -> usize {
        (self.vision.n_patches_per_side() / self.n_joined).pow(2)
    }

    /// Returns the maximum number of tiles of an image.
    fn n_tiles_max(&self) -> usize {
        n_tiles((self.n_tiles_per_side_max, self.n_tiles_per_side_max))
    }

    fn read(&self, loader: &mut Loader) -> Result<DecoderOnly<Idefics3, Decoder>> {
        let (size, epsilon) = (self.vision.size(), self.vision.block().epsilon);
        let n_in = size * self.n_joined.pow(2);
        let projector = Linear::load(&mut loader.at("multi_modal_projector"), "proj", n_in, self.text.size(), false)?;
        let mut here = loader.at("vision_tower");
        let reader = Idefics3 {
            tower: VisionTower::load(&mut here, self.vision.clone())?,
            norm: LayerNorm::load(&mut here, "post_layernorm", size, epsilon)?,
            n_joined: self.n_joined,
            projector,
            markers: self.markers.clone(),
        };
        DecoderOnly::load(reader, self.text.clone(), loader)
    }
}

/// The tower's sizes, with the defaults of Idefics3VisionConfig, which differ from SigLIP's.
///
/// Positions are learned for a square of `image_size`. Transformers maps the patches of any image to them by their
/// fractions of its sides. The processor fills every tile, so each patch gets its own position. This holds for 26, 27
/// and 32 patches per side, as in published towers; for 25, 29 and some others, torch's rounding gives a few patches a
/// neighbour's position.
fn vision_config(config: &Config) -> Result<VisionConfig> {
    let mut values = config.get("vision_config").cloned().unwrap_or_else(|| json!({}));
    if let Some(fields) = values.as_object_mut() {
        for (key, default) in [("hidden_size", 1152), ("num_attention_heads", 16), ("patch_size", 32)] {
            fields.entry(key).or_insert_with(|| default.into());
        }
    }
    VisionConfig::from_config(TowerKind::Siglip, &Config::new(&values, format!("{}: vision_config", config.place())))
}

impl MllmPlan for Plan {
    fn n_image_positions_max(&self) -> usize {
        let n_sides = self.n_tiles_per_side_max;
        let n_markers: usize = self.markers.around_tiles((n_sides, n_sides)).map_or(0, |runs| runs.concat().len());
        n_markers + self.n_tiles_max() * self.n_positions_per_tile()
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

    fn n_numbers_per_row(&self, n_tokens: usize) -> usize {
        let activations = self.text.n_numbers_per_row(n_tokens).max(self.vision.n_activations_of_tiles());
        self.vision.n_numbers_of_tiles(self.n_tiles_max()).saturating_add(activations)
    }

    fn load(&self, loader: &mut Loader) -> Result<Box<dyn Mllm>> {
        Ok(Box::new(self.read(loader)?))
    }
}

/// Returns the number of tiles of an image cut into rows and columns, including the whole image.
fn n_tiles((rows, columns): (usize, usize)) -> usize {
    if (rows, columns) == (1, 1) { 1 } else { rows * columns + 1 }
}

/// The tokens around tiles.
#[derive(Clone)]
struct Markers {
    tokenizer: TextTokenizer,
    image_id: u32,
}

/// Written before each tile, and after the whole image.
const AROUND_IMAGE: &str = "<fake_token_around_image>";

impl Markers {
    fn open(checkpoint: &Checkpoint) -> Result<Self> {
        let tokenizer = TextTokenizer::open(checkpoint)?;
        let id_of = |token: &str| {
            tokenizer.token_id(token).with_context(|| {
                format!(
                    "the tokenizer of `{}` has no token `{token}`; hint: copy `tokenizer.json` of the base model",
                    checkpoint.dir.display()
                )
            })
        };
        id_of(AROUND_IMAGE)?;
        Ok(Self { image_id: id_of(IMAGE_MARKER)?, tokenizer })
    }

    /// Returns runs of tokens: one before each tile and one after the last.
    ///
    /// The text is that of transformers' processor. It begins and ends with a special token, so it has the same ids
    /// alone as within a prompt. Inside it, line ends may become one token or two.
    fn around_tiles(&self, (rows, columns): (usize, usize)) -> Result<Vec<Vec<u32>>> {
        let mut text = String::new();
        if (rows, columns) != (1, 1) {
            for row in 1..=rows {
                for column in 1..=columns {
                    text += &format!("{AROUND_IMAGE}<row_{row}_col_{column}>{IMAGE_MARKER}");
                }
                text += "\n";
            }
            text += "\n";
        }
        text += &format!("{AROUND_IMAGE}<global-img>{IMAGE_MARKER}{AROUND_IMAGE}");
        let ids = self.tokenizer.encode(&text, false)?;
        Ok(ids.split(|&id| id == self.image_id).map(<[u32]>::to_vec).collect())
    }
}

struct Idefics3 {
    tower: VisionTower,
    norm: LayerNorm,
    n_joined: usize,
    projector: Linear,
    markers: Markers,
}

impl Idefics3 {
    /// Computes features `(tiles, positions, hidden)` from the tower's states `(tiles, patches, hidden)`.
    fn features(&self, state: &Tensor) -> candle_core::Result<Tensor> {
        self.projector.forward(&join_patches(state, self.n_joined)?)
    }
}

/// Joins squares of `n` by `n` patches of `(tiles, patches, hidden)` to `(tiles, patches / n², hidden n²)`. Within a
/// square, patches are concatenated row by row.
pub(super) fn join_patches(x: &Tensor, n: usize) -> candle_core::Result<Tensor> {
    let (n_tiles, n_patches, size) = x.dims3()?;
    let side = n_patches.isqrt() / n;
    x.reshape(&[n_tiles, side, n, side, n, size][..])?.permute([0, 1, 3, 2, 4, 5])?.reshape((
        n_tiles,
        side * side,
        n * n * size,
    ))
}

impl ImageReader for Idefics3 {
    fn see_watched(&self, images: &[&ImageInput], mut watch: Watched<'_>) -> Result<Vec<Seen>> {
        let last = self.tower.last_state();
        let mut see = |image: &&ImageInput| -> Result<Seen> {
            let expected = n_tiles(image.grid);
            ensure!(
                image.shape.first() == Some(&expected),
                "tiles of {:?} numbers do not fill the rows and columns {:?}",
                image.shape,
                image.grid
            );
            let state = side_by_side(self.tower.tile_states(image, &[last], watch.again())?)?;
            let state = self.norm.forward(&state)?;
            Ok(Seen::plain(watch.layer(last).at(Site::FinalNorm, state)?, image))
        };
        images.iter().map(&mut see).collect()
    }

    fn embed_images(&self, seen: &[Seen], decoder: &dyn LanguageModel) -> Result<Vec<ImageEmbedding>> {
        let embed = |seen: &Seen| -> Result<ImageEmbedding> {
            let features = self.features(seen.states.first().context("a tower gives a state")?)?;
            let (mut parts, mut ids) = (Vec::new(), Vec::new());
            for (tile, run) in self.markers.around_tiles(seen.grid)?.iter().enumerate() {
                if !run.is_empty() {
                    parts.push(decoder.embed(run)?);
                    ids.extend(run.iter().copied().map(Some));
                }
                if tile < features.dim(0)? {
                    parts.push(features.get(tile)?);
                    ids.extend(std::iter::repeat_n(None, features.dim(1)?));
                }
            }
            Ok(ImageEmbedding { ids, ..ImageEmbedding::plain(Tensor::cat(&parts, 0)?) })
        };
        seen.iter().map(embed).collect()
    }
}

#[cfg(test)]
mod tests;
