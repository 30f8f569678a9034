//! The common part of Qwen2-VL, Qwen2.5-VL and Qwen3-VL: a tower over patches, a merger of patches as projector, and a
//! language model that counts positions in three dimensions.

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use serde::Serialize;
use serde_json::{Value, json};

use super::{DecoderOnly, ImageEmbedding, ImageReader, Mllm, MllmPlan, Seen};
use crate::model::Placement;
use crate::model::checkpoint::config::Config;
use crate::model::checkpoint::weights::Checkpoint;
use crate::model::language::{DecoderConfig, LanguageModel, QwenText};
use crate::model::layers::{Loader, Watched};
use crate::model::vision::patch_tower::{MergerConfig, PatchMerger, PatchTower, PatchTowerConfig};
use crate::model::vision::preprocess::{ImageInput, ImageProcessor, PatchProcessor, PixelLimits};

/// The image marker in these families' chat templates.
pub(super) const IMAGE_MARKER: &str = "<|image_pad|>";

/// Reads tower and projector from a `vision_config`.
pub(super) type VisionFn = fn(&Config) -> Result<(PatchTowerConfig, MergerConfig)>;

/// Returns whether the checkpoint is of `model_type`. Some trainers write only `architectures`, and some versions of
/// transformers only `model_type`.
pub(super) fn is_of(checkpoint: &Checkpoint, model_type: &str, architecture: &str) -> bool {
    let config = checkpoint.config();
    match config.get("model_type").filter(|found| !found.is_null()) {
        Some(found) => found == model_type,
        None => config
            .get("architectures")
            .and_then(serde_json::Value::as_array)
            .is_some_and(|names| names.iter().any(|name| name == architecture)),
    }
}

/// Reads the image preparation. The processor must cut patches as the tower reads them.
pub(super) fn preprocessor(
    checkpoint: &Checkpoint,
    vision: VisionFn,
    limits: &PixelLimits,
) -> Result<Box<dyn ImageProcessor>> {
    let (tower, _) = vision(&vision_config(&config_of(checkpoint))?)?;
    let processor = PatchProcessor::open(checkpoint, limits)?;
    let parameters = processor.parameters();
    let of_processor = (parameters.patch_size, parameters.merge_size, parameters.n_frames);
    let of_tower = (tower.patch_size, tower.merge_size, tower.n_frames);
    ensure!(
        of_processor == of_tower,
        "`{}`: the image processor cuts patches of {of_processor:?} (side, merged side, frames), and the tower reads \
         {of_tower:?}; hint: config.json and preprocessor_config.json belong to different checkpoints",
        checkpoint.dir.display()
    );
    Ok(Box::new(processor))
}

/// Everything that `config.json` decides.
#[derive(Serialize)]
struct Plan {
    #[serde(rename = "vision_config")]
    tower: PatchTowerConfig,
    merger: MergerConfig,
    #[serde(rename = "text_config")]
    text: DecoderConfig,
    #[serde(skip)]
    n_image_positions_max: usize,
}

/// Reads the configuration. The text's keys are at the top level in older files. If both exist, the nested ones are
/// used.
pub(super) fn plan(checkpoint: &Checkpoint, vision: VisionFn, text: QwenText) -> Result<Box<dyn MllmPlan>> {
    let config = config_of(checkpoint);
    let (tower, merger) = vision(&vision_config(&config)?)?;
    let is_tied = config.bool_or("tie_word_embeddings", false)?;
    let text = match config.section("text_config") {
        Some(section) => DecoderConfig::of_qwen_vl(text, &section, is_tied)?,
        None => DecoderConfig::of_qwen_vl(text, &config, is_tied)?,
    };
    ensure!(
        merger.n_out == text.size() && tower.tapped.len() <= text.n_layers(),
        "{}: the vision_config makes features of width {} for {} layers, and the language model has width {} and {} \
         layers",
        config.place(),
        merger.n_out,
        tower.tapped.len(),
        text.size(),
        text.n_layers()
    );
    let processor = PatchProcessor::open(checkpoint, &PixelLimits::default())?;
    let n_image_positions_max = processor.parameters().n_merged_max();
    Ok(Box::new(Plan { tower, merger, text, n_image_positions_max }))
}

fn config_of(checkpoint: &Checkpoint) -> Config<'_> {
    Config::new(checkpoint.config(), checkpoint.dir.join(checkpoint.config_file()).display().to_string())
}

fn vision_config<'a>(config: &Config<'a>) -> Result<Config<'a>> {
    let section = config.section("vision_config");
    section.with_context(|| format!("{} has no vision_config; hint: copy the base model's file", config.place()))
}

impl MllmPlan for Plan {
    fn n_image_positions_max(&self) -> usize {
        self.n_image_positions_max
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

    fn settings(&self) -> Value {
        json!(self)
    }

    fn tower_settings(&self) -> Value {
        json!({"vision_config": self.tower})
    }

    fn n_numbers_per_row(&self, n_tokens: usize) -> usize {
        let n_patches = n_tokens.saturating_mul(self.tower.merge_size.pow(2));
        self.text.n_numbers_per_row(n_tokens).max(self.tower.n_activations(n_patches))
    }

    fn load(&self, loader: &mut Loader) -> Result<Box<dyn Mllm>> {
        let tower = PatchTower::load(&mut loader.at("vision_tower"), self.tower.clone())?;
        let mut projector = loader.at("multi_modal_projector");
        let merger = PatchMerger::load(&mut projector, &self.merger, false)?;
        let mut deepstack = Vec::new();
        for index in self.tower.tapped_in_order() {
            let mut here = projector.at(&format!("deepstack_merger_list.{index}"));
            deepstack.push(PatchMerger::load(&mut here, &self.merger, true)?);
        }
        let reader = QwenVl { tower, merger, deepstack, placement: loader.placement().clone() };
        Ok(Box::new(DecoderOnly::load(reader, self.text.clone(), loader)?))
    }
}

struct QwenVl {
    tower: PatchTower,
    merger: PatchMerger,
    /// One for each tapped block, in the order of blocks.
    deepstack: Vec<PatchMerger>,
    placement: Placement,
}

impl ImageReader for QwenVl {
    /// Processes images one by one: they differ in size, and none attends to another.
    fn see_watched(&self, images: &[&ImageInput], mut watch: Watched<'_>) -> Result<Vec<Seen>> {
        let mut see = |image: &&ImageInput| {
            let patches = Tensor::from_slice(&image.values, image.shape.as_slice(), &self.placement.device)?;
            let patches = patches.to_dtype(self.placement.dtype)?;
            let states = self.tower.forward(&patches, image.grid, watch.again())?;
            Ok(Seen { states, grid: image.grid, original_size: image.original_size })
        };
        images.iter().map(&mut see).collect()
    }

    fn embed_images(&self, seen: &[Seen], _: &dyn LanguageModel) -> Result<Vec<ImageEmbedding>> {
        let merge_size = self.tower.config().merge_size;
        let embed = |seen: &Seen| {
            let (last, tapped) = seen.states.split_first().context("a tower gives a state")?;
            let deepstack = self.deepstack.iter().zip(tapped).map(|(merger, state)| merger.forward(state));
            Ok(ImageEmbedding {
                beside: None,
                embeddings: self.merger.forward(last)?,
                grid: Some((seen.grid.0 / merge_size, seen.grid.1 / merge_size)),
                deepstack: deepstack.collect::<candle_core::Result<_>>()?,
                ids: Vec::new(),
            })
        };
        seen.iter().map(embed).collect()
    }
}
