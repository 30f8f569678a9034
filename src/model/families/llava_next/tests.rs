//! Tests of `llava_next`.

use candle_core::Tensor;
use serde_json::json;

use super::*;
use crate::model::Placement;
use crate::model::checkpoint::weights::testing::{
    copy_of, fixture_roots, fixtures, golden, read_json, rename_tensors, rgb_image, write,
};
use crate::model::checkpoint::weights::{Adapter, Canonical, Checkpoint};
use crate::model::families::anyres::Packing;
use crate::model::families::tests::{QUESTION, forward_image, generate_about};
use crate::model::families::{ImageEmbedding, Mllm, Model, OpenedModel, second_references};
use crate::model::layers::Loader;
use crate::model::testing::{References, assert_close, ids};
use crate::model::vision::preprocess::{ImageInput, best_pinpoint};

/// The images of the first reference, with the prefix of their tensors.
const IMAGES: [(&str, &str); 3] =
    [("prompt.", "img0_150x60.png"), ("image1.", "img1_70x70.png"), ("image2.", "img2_33x91.png")];

fn model(dir: &std::path::Path) -> Model {
    OpenedModel::open(&Checkpoint::open(dir).unwrap(), None, None).unwrap().load(&Placement::cpu()).unwrap()
}

fn embed(model: &Model, input: &ImageInput) -> ImageEmbedding {
    model.mllm.embed_images(&model.mllm.see(&[input]).unwrap()).unwrap().remove(0)
}

#[test]
fn the_first_reference_of_transformers_is_met() {
    for dir in fixtures("llava_next") {
        let expected = References::open(&dir);
        let model = model(&dir);
        let prompt = model.dialogue.render(QUESTION).unwrap();
        for (prefix, image) in IMAGES {
            let tensor = |name: &str| &expected[&format!("{prefix}{name}")];
            let input = model.preprocessor.prepare(&rgb_image(&dir.join("images").join(image)));
            let wanted = tensor("pixel_values").squeeze(0).unwrap();
            let pixels = Tensor::from_vec(input.values.clone(), wanted.dims(), wanted.device()).unwrap();
            assert_close(&pixels, &wanted, "pixel_values");
            let image = embed(&model, &input);
            let row = model.place(&prompt, std::slice::from_ref(&image)).unwrap();
            assert_eq!(vec![row.ids], ids(tensor("input_ids")), "{prefix}");
            let (hidden, logits) = forward_image(&model, &prompt, &image);
            assert_close(&hidden, tensor("last_hidden_state"), prefix);
            let last = logits.narrow(1, logits.dim(1).unwrap() - 1, 1).unwrap().squeeze(1).unwrap();
            assert_close(&last, tensor("first_logits"), prefix);
            assert_eq!(generate_about(&model, &[&prompt], &[image]), ids(tensor("generated_ids")), "{prefix}");
        }
    }
}

#[test]
fn the_second_reference_of_transformers_is_met() {
    for dir in fixtures("llava_next") {
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let mut weights = Weights::new(&checkpoint, canonical_llava).unwrap();
        let plan = Plan::of(&checkpoint, &VARIANT).unwrap();
        let parts = plan.read(&mut Loader::new(&mut weights, &Placement::cpu())).unwrap();
        let last_state = |input: &ImageInput| parts.reader.last_state(input);
        let project = |state: &Tensor| parts.reader.projector.forward(state).unwrap();
        second_references::check(&dir, &model(&dir), last_state, project, 3);
        assert!(parts.plain_tower().is_none());
    }
}

#[test]
fn every_layout_of_transformers_is_the_same_model() {
    for dir in fixtures("llava_next") {
        let expected = References::open(&dir);
        // Language model, head, tower, the rest.
        for [language, head, tower, rest] in [
            ["language_model.model.", "language_model.", "vision_tower.vision_model.", ""],
            ["model.language_model.", "", "model.vision_tower.vision_model.", "model."],
            ["model.language_model.model.", "language_model.", "model.vision_tower.vision_model.", "model."],
            ["model.language_model.", "", "model.vision_tower.", "model."],
        ] {
            let renamed = copy_of(&dir);
            rename_tensors(renamed.path(), |key| {
                let Canonical::Keep(name) = canonical_llava(key) else { return None };
                let stem = |part: &str, new: &str| Some(format!("{new}{}", name.strip_prefix(part)?));
                stem("language_model.", language)
                    .or_else(|| stem("vision_tower.", tower))
                    .or_else(|| name.starts_with("lm_head.").then(|| format!("{head}{name}")))
                    .or_else(|| Some(format!("{rest}{name}")))
            });
            let model = model(renamed.path());
            let input = model.preprocessor.prepare(&rgb_image(&dir.join("images").join(IMAGES[0].1)));
            let prompt = model.dialogue.render(QUESTION).unwrap();
            let logits = model.first_logits_about(&prompt, &embed(&model, &input)).unwrap();
            let logits = Tensor::new(logits, &candle_core::Device::Cpu).unwrap().unsqueeze(0).unwrap();
            assert_close(&logits, &expected["prompt.first_logits"], language);
        }
    }
}

#[test]
fn positions_of_real_images_are_counted_as_the_processor_does() {
    let packing = Packing { n_side: 24, n_tiles_kept: None };
    let pinpoints = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)];
    let grid = |(height, width): (u32, u32)| ((height / 336) as usize, (width / 336) as usize);
    let most = pinpoints.iter().map(|&pinpoint| packing.n_positions_max(grid(pinpoint))).max().unwrap();
    let count = |(height, width): (u32, u32)| {
        packing.n_positions(grid(best_pinpoint((height, width), &pinpoints)), (height, width))
    };
    for root in fixture_roots() {
        let counts = read_json(&root.join("image_tokens.json"));
        // The small fixtures have no such counts.
        for (size, n) in counts["llava-1.6 (336/14, 5 pinpoints)"].as_object().into_iter().flatten() {
            let (width, height) = size.split_once('x').unwrap();
            let found = count((height.parse().unwrap(), width.parse().unwrap()));
            assert_eq!(found as u64, n.as_u64().unwrap(), "{size}");
        }
    }
    for (size, n) in [((32, 32), 1176), ((375, 500), 2340), ((500, 333), 1476)] {
        assert_eq!(count(size), n);
        assert!(n <= most);
    }
}

#[test]
fn a_strategy_that_leaves_no_grid_of_patches_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, value: serde_json::Value| write(&folder.path().join(name), value.to_string());
    write("model.safetensors", json!("not read here"));
    write(
        "preprocessor_config.json",
        json!({"size": {"shortest_edge": 28}, "crop_size": 28, "image_grid_pinpoints": [[28, 56]]}),
    );
    for (tower, key, value, words) in [
        ("clip_vision_model", "vision_feature_select_strategy", json!("full"), Some("class token")),
        ("siglip_vision_model", "vision_feature_select_strategy", json!("default"), Some("no class token")),
        ("clip_vision_model", "vision_feature_select_strategy", json!("mean"), Some("`mean`")),
        ("clip_vision_model", "vision_feature_layer", json!(7), Some("vision_feature_layer 7")),
        ("clip_vision_model", "image_grid_pinpoints", json!([[56, 28]]), Some("image_grid_pinpoints")),
        ("dinov2", "vision_feature_layer", json!(-2), Some("`dinov2`")),
        ("siglip_vision_model", "vision_feature_select_strategy", json!("full"), None),
        ("clip_vision_model", "vision_feature_layer", json!([0, -2]), None),
    ] {
        let vision = json!({"model_type": tower, "image_size": 28, "patch_size": 14, "num_hidden_layers": 3,
            "hidden_size": 8, "num_attention_heads": 2});
        let mut config =
            json!({"model_type": "llava_next", "vision_config": vision, "text_config": {"model_type": "llama"}});
        config[key] = value;
        write("config.json", config);
        let plan = Plan::of(&Checkpoint::open(folder.path()).unwrap(), &VARIANT);
        match (plan, words) {
            (Ok(_), None) => {}
            (Err(error), Some(words)) => assert!(format!("{error:#}").contains(words), "{error:#}"),
            (plan, _) => panic!("{tower} {key}: {:?}", plan.map(|_| ())),
        }
    }
}

#[test]
fn adapters_of_peft_on_all_parts_meet_their_reference_beside_the_base_and_merged() {
    for dir in fixtures("llava_next") {
        let folder = golden("tiled/llava_next_lora");
        let expected = References::open(&folder);
        for (is_merged, logits) in [(false, "adapter.first_logits"), (true, "merged.first_logits")] {
            let opened = OpenedModel::open(&Checkpoint::open(&dir).unwrap(), None, None).unwrap();
            let adapter = Adapter::open(&folder, canonical_llava, &opened.weights).unwrap();
            for (part, n_modules) in [("language_model.", 4), ("vision_tower.", 6), ("multi_modal_projector.", 1)] {
                assert_eq!(adapter.n_touched(part), n_modules, "{part}");
            }
            let overlay = adapter.overlay(&Placement::cpu(), is_merged).unwrap();
            let model = opened.load_all(vec![overlay], &Placement::cpu()).unwrap().remove(0);
            let input = model.preprocessor.prepare(&rgb_image(&dir.join("images").join(IMAGES[0].1)));
            let image = embed(&model, &input);
            let prompt = model.dialogue.render(QUESTION).unwrap();
            let found = model.first_logits_about(&prompt, &image).unwrap();
            let found = Tensor::new(found, &candle_core::Device::Cpu).unwrap().unsqueeze(0).unwrap();
            assert_close(&found, &expected[logits], logits);
            assert_eq!(generate_about(&model, &[&prompt], &[image]), ids(&expected["adapter.generated_ids"]));
        }
    }
}
