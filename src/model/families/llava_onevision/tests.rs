//! Tests of `llava_onevision`.

use candle_core::{DType, Tensor};

use super::*;
use crate::model::Placement;
use crate::model::checkpoint::weights::testing::{
    copy_of, fixtures, golden, read_json, reference, rename_tensors, write,
};
use crate::model::checkpoint::weights::{Adapter, Checkpoint};
use crate::model::families::anyres::Packing;
use crate::model::families::tests::{QUESTION, forward_image, generate_about, last_rows, tile_input};
use crate::model::families::{ImageEmbedding, Mllm, Model, OpenedModel, Seen};
use crate::model::language::Pass;
use crate::model::layers::Loader;
use crate::model::testing::{References, assert_close, ids};
use crate::model::vision::preprocess::{ImageInput, best_pinpoint};

/// The images of a fixture: prefix of its tensors, and grid of tiles.
const IMAGES: [(&str, (usize, usize)); 3] = [("prompt.", (2, 3)), ("image1.", (2, 2)), ("image2.", (3, 1))];

fn open(dir: &std::path::Path) -> OpenedModel {
    OpenedModel::open(&Checkpoint::open(dir).unwrap(), None, None).unwrap()
}

fn inputs(expected: &References) -> Vec<ImageInput> {
    let input = |(prefix, grid)| {
        let size = &ids(&expected[&format!("{prefix}image_sizes")])[0];
        tile_input(&expected[&format!("{prefix}pixel_values")].get(0).unwrap(), grid, (size[0], size[1]))
    };
    IMAGES.map(input).into()
}

fn embed(model: &Model, input: &ImageInput) -> ImageEmbedding {
    model.mllm.embed_images(&model.mllm.see(&[input]).unwrap()).unwrap().remove(0)
}

/// Logits of the first token of an answer, `(1, vocabulary)`.
fn first_logits(model: &Model, image: &ImageEmbedding) -> Tensor {
    let prompt = model.dialogue.render(QUESTION).unwrap();
    let logits = model.first_logits_about(&prompt, image).unwrap();
    Tensor::new(logits, &candle_core::Device::Cpu).unwrap().unsqueeze(0).unwrap()
}

#[test]
fn every_reference_tensor_of_transformers_is_met() {
    for dir in fixtures("llava_onevision") {
        check_fixture(&dir);
    }
}

fn check_fixture(dir: &std::path::Path) {
    let expected = References::open(dir);
    let checkpoint = Checkpoint::open(dir).unwrap();
    let mut weights = Weights::new(&checkpoint, canonical_llava).unwrap();
    let parts =
        Plan::of(&checkpoint, &VARIANT).unwrap().read(&mut Loader::new(&mut weights, &Placement::cpu())).unwrap();
    let model = open(dir).load(&Placement::cpu()).unwrap();
    let prompt = model.dialogue.render(QUESTION).unwrap();
    let image_id = prompt.image_id.unwrap();
    for ((prefix, grid), input) in IMAGES.into_iter().zip(inputs(&expected)) {
        let tensor = |name: &str| &expected[&format!("{prefix}{name}")];
        let seen = parts.see(&[&input]).unwrap();
        let features = parts.reader.projector.forward(&seen[0].states[0]).unwrap();
        assert_close(&features, tensor("tile_features_projected"), prefix);

        let image = embed(&model, &input);
        let text = prompt.pieces.iter().flat_map(|piece| match piece {
            crate::model::text::tokenizer::PromptPiece::Text(ids) => ids.clone(),
            crate::model::text::tokenizer::PromptPiece::Image => vec![image_id; image.embeddings.dim(0).unwrap()],
        });
        assert_eq!(vec![text.collect::<Vec<u32>>()], ids(tensor("input_ids")), "{prefix}");
        assert_eq!(parts.reader.packing.n_positions(grid, input.original_size), image.embeddings.dim(0).unwrap());
        let (hidden, logits) = forward_image(&model, &prompt, &image);
        let wanted = tensor("last_hidden_state");
        assert_close(&last_rows(&hidden, wanted), wanted, prefix);
        let last = logits.narrow(1, logits.dim(1).unwrap() - 1, 1).unwrap().squeeze(1).unwrap();
        assert_close(&last, tensor("first_logits"), prefix);
        let generated = ids(tensor("generated_ids"));
        assert_eq!(generate_about(&model, &[&prompt], std::slice::from_ref(&image)), generated, "{prefix}");
        // The logits of each step follow from the prompt and the preceding tokens.
        let said = model.mllm.decoder().embed(&generated[0][..7]).unwrap();
        let whole = ImageEmbedding::plain(image.embeddings.clone());
        let row = model.place(&prompt, std::slice::from_ref(&whole)).unwrap().followed_by(&said).unwrap();
        let steps = crate::model::run::prefix::batch(
            &[row],
            hidden.dim(1).unwrap() + 7,
            crate::model::run::prefix::Padding::Left,
        );
        let n = hidden.dim(1).unwrap() + 7;
        let mask = crate::model::layers::left_padded_mask(&[0], n, n, DType::F32, &candle_core::Device::Cpu).unwrap();
        let language = model.mllm.decoder();
        let steps = steps.unwrap();
        let mut state = language.new_state(n);
        let hidden = language.forward(Pass::new(&steps).masked(&mask).after(&mut state)).unwrap();
        let steps = language.logits(&hidden.narrow(1, n - 8, 8).unwrap().contiguous().unwrap()).unwrap();
        assert_close(&steps, tensor("step_logits"), prefix);
    }
}

#[test]
fn images_of_other_shapes_answer_in_a_batch_as_alone() {
    let dir = golden("fixtures/llava_onevision");
    let expected = References::open(&dir);
    let model = open(&dir).load(&Placement::cpu()).unwrap();
    let prompt = model.dialogue.render(QUESTION).unwrap();
    let inputs = inputs(&expected);
    let seen = model.mllm.see(&inputs.iter().collect::<Vec<_>>()).unwrap();
    let together = generate_about(&model, &[&prompt; 3], &model.mllm.embed_images(&seen).unwrap());
    for ((prefix, _), row) in IMAGES.iter().zip(together) {
        assert_eq!(vec![row], ids(&expected[&format!("{prefix}generated_ids")]));
    }
}

#[test]
fn maps_of_too_many_features_are_made_smaller_as_transformers_does() {
    let dir = copy_of(&golden("fixtures/llava_onevision"));
    let mut config = read_json(&dir.path().join("config.json"));
    config["vision_aspect_ratio"] = "anyres_max_2".into();
    write(&dir.path().join("config.json"), config.to_string());
    let model = open(dir.path()).load(&Placement::cpu()).unwrap();
    let prompt = model.dialogue.render(QUESTION).unwrap();
    let path = golden("tiled/anyres.safetensors");
    for ((prefix, _), input) in IMAGES.into_iter().zip(inputs(&References::open(dir.path()))) {
        let image = embed(&model, &input);
        assert_close(&image.embeddings, &reference(&path, &format!("{prefix}features")), prefix);
        assert_close(&first_logits(&model, &image), &reference(&path, &format!("{prefix}first_logits")), prefix);
        let generated = ids(&reference(&path, &format!("{prefix}generated_ids")));
        assert_eq!(generate_about(&model, &[&prompt], &[image]), generated, "{prefix}");
    }
}

#[test]
fn positions_of_real_images_are_counted_as_the_processor_does() {
    let counts = read_json(&golden("fixtures/image_tokens.json"));
    let counts = counts["llava-onevision (384/14, anyres_max_9)"].as_object().unwrap();
    let packing = Packing { n_side: 27, n_tiles_kept: Some(9) };
    let pinpoints: Vec<(u32, u32)> =
        (1..=6).flat_map(|rows| (1..=6).map(move |columns| (rows * 384, columns * 384))).collect();
    let grid = |(height, width): (u32, u32)| ((height / 384) as usize, (width / 384) as usize);
    let most = pinpoints.iter().map(|&pinpoint| packing.n_positions_max(grid(pinpoint))).max().unwrap();
    assert_eq!(counts.len(), 7);
    for (size, count) in counts {
        let (width, height) = size.split_once('x').unwrap();
        let original = (height.parse().unwrap(), width.parse().unwrap());
        let n = packing.n_positions(grid(best_pinpoint(original, &pinpoints)), original);
        assert_eq!(n as u64, count.as_u64().unwrap(), "{size}");
        assert!(n <= most);
    }
    for (height, width) in [(1, 65_535), (65_535, 1), (2304, 2304), (2304, 2000), (7, 3000)] {
        let n = packing.n_positions(grid(best_pinpoint((height, width), &pinpoints)), (height, width));
        assert!((729..=most).contains(&n), "{height} x {width}: {n} of at most {most}");
    }
}

#[test]
fn an_image_that_covers_no_patch_is_its_whole_and_line_ends() {
    let device = &candle_core::Device::Cpu;
    let packing = Packing { n_side: 2, n_tiles_kept: Some(9) };
    let features = Tensor::zeros((3, 4, 5), DType::F32, device).unwrap();
    let line_end = Tensor::ones(5, DType::F32, device).unwrap();
    for (grid, original_size, n_line_ends) in [((1, 2), (1, 9000), 0), ((2, 1), (9000, 1), 4), ((1, 2), (20, 30), 2)] {
        let seen = Seen { states: Vec::new(), grid, original_size };
        let packed = packing.pack(&features, &seen, &line_end).unwrap();
        assert_eq!(packed.dim(0).unwrap(), packing.n_positions(grid, original_size), "{grid:?}");
        assert_eq!(packed.sum_all().unwrap().to_scalar::<f32>().unwrap(), 5.0 * n_line_ends as f32, "{grid:?}");
    }
}

#[test]
fn adapters_of_peft_on_all_parts_meet_their_reference_beside_the_base_and_merged() {
    let dir = golden("fixtures/llava_onevision");
    let input = inputs(&References::open(&dir)).remove(0);
    let folder = golden("tiled/llava_onevision_lora");
    let expected = References::open(&folder);
    for (is_merged, logits) in [(false, "adapter.first_logits"), (true, "merged.first_logits")] {
        let opened = open(&dir);
        let adapter = Adapter::open(&folder, canonical_llava, &opened.weights).unwrap();
        for (part, n_modules) in [("language_model.", 6), ("vision_tower.", 9), ("multi_modal_projector.", 1)] {
            assert_eq!(adapter.n_touched(part), n_modules, "{part}");
        }
        let overlay = adapter.overlay(&Placement::cpu(), is_merged).unwrap();
        let model = opened.load_all(vec![overlay], &Placement::cpu()).unwrap().remove(0);
        let image = embed(&model, &input);
        assert_close(&first_logits(&model, &image), &expected[logits], logits);
        let prompt = model.dialogue.render(QUESTION).unwrap();
        assert_eq!(generate_about(&model, &[&prompt], &[image]), ids(&expected["adapter.generated_ids"]));
    }
}

#[test]
fn every_layout_of_transformers_is_the_same_model() {
    let dir = golden("fixtures/llava_onevision");
    let expected = References::open(&dir);
    let input = inputs(&expected).remove(0);
    // Language model, head, tower, the rest.
    for [language, head, tower, rest] in [
        ["language_model.model.", "language_model.", "vision_tower.vision_model.", ""],
        ["model.language_model.", "", "model.vision_tower.vision_model.", "model."],
        ["model.language_model.model.", "language_model.", "model.vision_tower.vision_model.", "model."],
        ["model.language_model.", "", "model.vision_tower.", "model."],
    ] {
        let renamed = copy_of(&dir);
        rename_tensors(renamed.path(), |key| {
            let crate::model::checkpoint::weights::Canonical::Keep(name) = canonical_llava(key) else {
                return None;
            };
            let stem = |part: &str, new: &str| Some(format!("{new}{}", name.strip_prefix(part)?));
            stem("language_model.", language)
                .or_else(|| stem("vision_tower.", tower))
                .or_else(|| name.starts_with("lm_head.").then(|| format!("{head}{name}")))
                .or_else(|| Some(format!("{rest}{name}")))
        });
        let model = open(renamed.path()).load(&Placement::cpu()).unwrap();
        assert_close(&first_logits(&model, &embed(&model, &input)), &expected["prompt.first_logits"], language);
    }
}

#[test]
fn a_configuration_that_contradicts_its_processor_is_refused() {
    let folder = copy_of(&golden("fixtures/llava_onevision"));
    let original = read_json(&folder.path().join("config.json"));
    for (key, value, words) in [
        ("image_grid_pinpoints", serde_json::json!([[12, 24]]), "image_grid_pinpoints"),
        ("image_grid_pinpoints", serde_json::json!([[12, 13]]), "multiples of 12"),
        ("vision_aspect_ratio", "square".into(), "anyres_max_9"),
        ("vision_feature_select_strategy", "default".into(), "select_strategy"),
    ] {
        let mut config = original.clone();
        config[key] = value;
        write(&folder.path().join("config.json"), config.to_string());
        let error = Plan::of(&Checkpoint::open(folder.path()).unwrap(), &VARIANT).map(|_| ()).unwrap_err();
        assert!(format!("{error:#}").contains(words), "{error:#}");
    }
}
