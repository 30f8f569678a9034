//! Idefics3 (Laurençon et al. 2024) and SmolVLM (Marafioti et al. 2025): a SigLIP tower reads tiles, neighbouring
//! patches are joined and projected to a LLaMA's width, and tokens between the tiles give the position of each.

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;
use serde::Serialize;
use serde_json::{Value, json};

use super::llava::refuse_scaled;
use super::{DecoderOnly, ImageEmbedding, ImageReader, InMemoryNames, Mllm, MllmFamily, MllmPlan, Seen, Verified};
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
fn join_patches(x: &Tensor, n: usize) -> candle_core::Result<Tensor> {
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
            let state = self.norm.forward(&self.tower.tile_states(image, last, watch.again())?)?;
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
mod tests {
    use super::*;
    use crate::model::Placement;
    use crate::model::checkpoint::weights::Adapter;
    use crate::model::checkpoint::weights::testing::{
        copy_of, fixture_roots, golden, rename_tensors, rgb_image, write,
    };
    use crate::model::families::tests::{QUESTION, forward_image, generate_about, tile_input};
    use crate::model::families::{Model, OpenedModel};
    use crate::model::testing::{References, assert_close, ids};

    /// SmolVLM's own template. The fixtures have another.
    const TEMPLATE: &str = "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}\
        {% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}\
        {% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}\
        {% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}\
        {% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";

    fn open(dir: &std::path::Path) -> OpenedModel {
        let folder = tempfile::tempdir().unwrap();
        let template = folder.path().join("smolvlm.jinja");
        write(&template, TEMPLATE);
        OpenedModel::open(&Checkpoint::open(dir).unwrap(), None, template.to_str()).unwrap()
    }

    #[track_caller]
    fn check_logits(model: &Model, expected: &References, logits: &str, generated: &str, pixels: &Tensor) {
        let prompt = model.dialogue.render(QUESTION).unwrap();
        let seen = model.mllm.see(&[&tile_input(pixels, (2, 2), (50, 75))]).unwrap();
        let image = model.mllm.embed_images(&seen).unwrap().remove(0);
        let (_, all) = forward_image(model, &prompt, &image);
        let n_tokens = all.dim(1).unwrap();
        let first = all.narrow(1, n_tokens - 1, 1).unwrap().squeeze(1).unwrap();
        assert_close(&first, &expected[logits], logits);
        assert_eq!(generate_about(model, &[&prompt], &[image]), ids(&expected[generated]));
    }

    #[test]
    fn both_families_meet_every_reference_tensor_of_transformers() {
        // The small fixtures have no Idefics 3, whose numbers are SmolVLM's.
        let dirs = fixture_roots().into_iter().flat_map(|root| ["smolvlm", "idefics3"].map(|family| root.join(family)));
        for dir in dirs.filter(|dir| dir.exists()) {
            let family = dir.display();
            let expected = References::open(&dir);
            let pixels = expected["prompt.pixel_values"].get(0).unwrap();
            let checkpoint = Checkpoint::open(&dir).unwrap();
            let mut weights = Weights::new(&checkpoint, canonical).unwrap();
            let parts = Plan::of(&checkpoint).unwrap().read(&mut Loader::new(&mut weights, &Placement::cpu())).unwrap();
            let seen = parts.see(&[&tile_input(&pixels, (2, 2), (50, 75))]).unwrap();
            assert_close(&seen[0].states[0], &expected["hook_vision"], "hook_vision");
            assert_close(
                &parts.reader.features(&seen[0].states[0]).unwrap(),
                &expected["hook_connector"],
                "hook_connector",
            );

            let opened = open(&dir);
            let prompt = opened.dialogue.render(QUESTION).unwrap();
            let runs = parts.reader.markers.around_tiles((2, 2)).unwrap();
            let image = runs.join(&[parts.reader.markers.image_id; 4][..]);
            let text = prompt.pieces.iter().flat_map(|piece| match piece {
                crate::model::text::tokenizer::PromptPiece::Text(ids) => ids.clone(),
                crate::model::text::tokenizer::PromptPiece::Image => image.clone(),
            });
            assert_eq!(vec![text.collect::<Vec<u32>>()], ids(&expected["prompt.input_ids"]), "{family}");
            let n_ids = expected["prompt.input_ids"].dim(1).unwrap();
            assert_eq!(prompt.ids.len(), n_ids, "the fixture's image is as large as images become");
            let model = opened.load(&Placement::cpu()).unwrap();
            check_logits(&model, &expected, "prompt.first_logits", "prompt.generated_ids", &pixels);
        }
    }

    #[test]
    fn images_of_other_shapes_answer_in_a_batch_as_alone() {
        let dir = golden("fixtures/smolvlm");
        let model = open(&dir).load(&Placement::cpu()).unwrap();
        let prompt = model.dialogue.render(QUESTION).unwrap();
        let strip = crate::domain::RgbImage::from_grey(40, 4, &[90; 160]).unwrap();
        let names = ["images/img0_75x50.png", "images/img1_40x66.png"];
        let inputs: Vec<ImageInput> = std::iter::once(model.preprocessor.prepare(&strip))
            .chain(names.map(|name| model.preprocessor.prepare(&rgb_image(&dir.join(name)))))
            .collect();
        assert_eq!(inputs.iter().map(|input| input.grid).collect::<Vec<_>>(), [(1, 2), (2, 2), (2, 2)]);
        let images = |inputs: &[&ImageInput]| model.mllm.embed_images(&model.mllm.see(inputs).unwrap()).unwrap();
        let together = generate_about(&model, &[&prompt; 3], &images(&inputs.iter().collect::<Vec<_>>()));
        for (input, expected) in inputs.iter().zip(&together) {
            assert_eq!(&generate_about(&model, &[&prompt], &images(&[input]))[0], expected);
        }
    }

    #[test]
    fn adapters_of_peft_on_all_parts_meet_their_reference_beside_the_base_and_merged() {
        let dir = golden("fixtures/smolvlm");
        let pixels = References::open(&dir)["prompt.pixel_values"].get(0).unwrap();
        let folder = golden("tiled/smolvlm_lora");
        let expected = References::open(&folder);
        for (is_merged, logits) in [(false, "adapter.first_logits"), (true, "merged.first_logits")] {
            let opened = open(&dir);
            let adapter = Adapter::open(&folder, canonical, &opened.weights).unwrap();
            for (part, n_modules) in [("language_model.", 4), ("vision_tower.", 6), ("multi_modal_projector.", 1)] {
                assert_eq!(adapter.n_touched(part), n_modules, "{part}");
            }
            let overlay = adapter.overlay(&Placement::cpu(), is_merged).unwrap();
            let model = opened.load_all(vec![overlay], &Placement::cpu()).unwrap().remove(0);
            check_logits(&model, &expected, logits, "adapter.generated_ids", &pixels);
        }
    }

    #[test]
    fn dumps_without_the_outer_module_and_tied_heads_are_read() {
        let dir = golden("fixtures/smolvlm");
        let expected = References::open(&dir);
        let pixels = expected["prompt.pixel_values"].get(0).unwrap();
        for stem in ["", "model.model."] {
            let renamed = copy_of(&dir);
            rename_tensors(renamed.path(), |key| {
                let inside = key.strip_prefix("model.");
                Some(inside.map_or_else(|| key.to_owned(), |inside| format!("{stem}{inside}")))
            });
            let model = open(renamed.path()).load(&Placement::cpu()).unwrap();
            check_logits(&model, &expected, "prompt.first_logits", "prompt.generated_ids", &pixels);
        }
        let headless = copy_of(&dir);
        rename_tensors(headless.path(), |key| (key != "lm_head.weight").then(|| key.to_owned()));
        let error = open(headless.path()).load(&Placement::cpu()).map(|_| ()).unwrap_err();
        assert!(format!("{error:#}").contains("lm_head.weight"), "{error:#}");
        let mut config = crate::model::checkpoint::weights::testing::read_json(&headless.path().join("config.json"));
        config["text_config"]["tie_word_embeddings"] = true.into();
        write(&headless.path().join("config.json"), config.to_string());
        assert!(open(headless.path()).load(&Placement::cpu()).is_ok());
    }

    #[test]
    fn a_processor_of_another_checkpoint_is_refused() {
        let folder = copy_of(&golden("fixtures/smolvlm"));
        std::fs::remove_file(folder.path().join("processor_config.json")).unwrap();
        write(&folder.path().join("preprocessor_config.json"), r#"{"max_image_size": {"longest_edge": 64}}"#);
        let error = Plan::of(&Checkpoint::open(folder.path()).unwrap()).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("tiles of 64") && error.to_string().contains("hint"), "{error}");
    }

    #[test]
    fn the_towers_defaults_are_those_of_idefics3() {
        let config = json!({"vision_config": {"image_size": 384, "patch_size": 14}});
        let vision = vision_config(&Config::new(&config, "config.json")).unwrap();
        assert_eq!((vision.size(), vision.block().n_heads, vision.n_patches()), (1152, 16, 27 * 27));
    }
}
