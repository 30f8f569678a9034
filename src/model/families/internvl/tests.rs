//! Tests of `internvl`.

use candle_core::Device;

use super::*;
use crate::model::Placement;
use crate::model::checkpoint::weights::testing::{
    copy_of, fixture_roots, fixtures, golden, pictures, read_json, rename_tensors, rgb_image, write,
};
use crate::model::checkpoint::weights::{Adapter, Canonical};
use crate::model::families::tests::{QUESTION, generate_about};
use crate::model::families::{Model, OpenedModel, second_references};
use crate::model::testing::{References, assert_close, ids};
use crate::model::vision::preprocess::{ImageProcessor, InternVlParameters, Scale};

/// The template of the references: that of the fixtures writes a backslash where this one has a line end.
const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}\
    {% if c['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n\
    {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn open(dir: &std::path::Path) -> OpenedModel {
    let folder = tempfile::tempdir().unwrap();
    let template = folder.path().join("internvl.jinja");
    write(&template, TEMPLATE);
    OpenedModel::open(&Checkpoint::open(dir).unwrap(), None, template.to_str()).unwrap()
}

fn model(dir: &std::path::Path) -> Model {
    open(dir).load(&Placement::cpu()).unwrap()
}

/// Logits of the first token of an answer about the fixture's first image, `(1, vocabulary)`.
fn first_logits(model: &Model, dir: &std::path::Path) -> Tensor {
    let input = model.preprocessor.prepare(&rgb_image(&pictures(dir)[0]));
    let image = model.mllm.embed_images(&model.mllm.see(&[&input]).unwrap()).unwrap().remove(0);
    let prompt = model.dialogue.render(QUESTION).unwrap();
    let logits = model.first_logits_about(&prompt, &image).unwrap();
    Tensor::new(logits, &Device::Cpu).unwrap().unsqueeze(0).unwrap()
}

fn parts(dir: &std::path::Path) -> DecoderOnly<InternVl, Decoder> {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let mut weights = Weights::new(&checkpoint, canonical_llava).unwrap();
    Plan::of(&checkpoint).unwrap().read(&mut Loader::new(&mut weights, &Placement::cpu())).unwrap()
}

/// The tower's last state of an image, class token first.
fn last_state(parts: &DecoderOnly<InternVl, Decoder>, input: &ImageInput) -> Tensor {
    parts.reader.tower.tile_states(input, parts.reader.tower_state, Watched::by_none()).unwrap()
}

#[test]
fn the_first_reference_of_transformers_is_met() {
    for dir in fixtures("internvl") {
        let expected = References::open(&dir);
        let (model, parts) = (model(&dir), parts(&dir));
        let input = model.preprocessor.prepare(&rgb_image(&pictures(&dir)[0]));
        let wanted = &expected["prompt.pixel_values"];
        let pixels = Tensor::from_vec(input.values.clone(), wanted.dims(), &Device::Cpu).unwrap();
        assert_close(&pixels, wanted, "pixel_values");
        assert_close(&last_state(&parts, &input), &expected["hook_vision"], "hook_vision");
        let seen = model.mllm.see(&[&input]).unwrap();
        assert_close(
            &parts.reader.features(&seen[0].states[0]).unwrap(),
            &expected["hook_connector"],
            "hook_connector",
        );
        let image = model.mllm.embed_images(&seen).unwrap().remove(0);
        let prompt = model.dialogue.render(QUESTION).unwrap();
        let row = model.place(&prompt, std::slice::from_ref(&image)).unwrap();
        assert_eq!(vec![row.ids], ids(&expected["prompt.input_ids"]));
        assert_eq!(prompt.ids.len(), 97, "the fixture's image is as large as images become");
        assert_close(&first_logits(&model, &dir), &expected["prompt.first_logits"], "first_logits");
        assert_eq!(generate_about(&model, &[&prompt], &[image]), ids(&expected["prompt.generated_ids"]));
    }
}

#[test]
fn the_second_reference_of_transformers_is_met() {
    for dir in fixtures("internvl") {
        let parts = parts(&dir);
        let project = |state: &Tensor| parts.reader.features(state).unwrap();
        second_references::check(&dir, &model(&dir), |input| last_state(&parts, input), project, 3);
    }
}

#[test]
fn every_layout_of_transformers_is_the_same_model() {
    for dir in fixtures("internvl") {
        let expected = References::open(&dir);
        for [language, head, rest] in [
            ["language_model.model.", "language_model.", ""],
            ["model.language_model.", "", "model."],
            ["model.language_model.model.", "language_model.", "model."],
        ] {
            let renamed = copy_of(&dir);
            rename_tensors(renamed.path(), |key| {
                let Canonical::Keep(name) = canonical_llava(key) else { return None };
                let stem = |part: &str, new: &str| Some(format!("{new}{}", name.strip_prefix(part)?));
                stem("language_model.", language)
                    .or_else(|| name.starts_with("lm_head.").then(|| format!("{head}{name}")))
                    .or_else(|| Some(format!("{rest}{name}")))
            });
            assert_close(&first_logits(&model(renamed.path()), &dir), &expected["prompt.first_logits"], language);
        }
    }
}

#[test]
fn positions_of_real_images_are_counted_as_the_processor_does() {
    let scale = Scale { rescale: 1.0 / 255.0, mean: [0.5; 3], std: [0.5; 3] };
    let parameters = InternVlParameters {
        side: 448,
        n_tiles_min: 1,
        n_tiles_max: 12,
        filter: crate::model::vision::preprocess::Filter::Bicubic,
        scale,
    };
    let processor = InternVlProcessor::new(parameters);
    for root in fixture_roots() {
        let counts = read_json(&root.join("image_tokens.json"));
        // The small fixtures have no such counts.
        let counts = counts["internvl (448/14, pixel shuffle 0.5, 1..12 tiles)"].as_object().into_iter().flatten();
        for (size, count) in counts {
            let (width, height) = size.split_once('x').unwrap();
            let (rows, columns) = processor.grid((height.parse().unwrap(), width.parse().unwrap()));
            let n_tiles = rows * columns + u32::from((rows, columns) != (1, 1));
            let text = count.as_str().unwrap();
            assert_eq!(text.split_once(' ').unwrap().0, (256 * n_tiles).to_string(), "{size}: {text}");
        }
    }
    // Counted by the processor, too.
    for ((height, width), grid) in [((375, 500), (3, 4)), ((500, 333), (3, 2)), ((224, 224), (1, 1))] {
        assert_eq!(processor.grid((height, width)), grid);
    }
    assert_eq!(
        (processor.n_tiles_max(), processor.grid((1, 60_000)), processor.grid((60_000, 1))),
        (13, (1, 12), (12, 1))
    );
    assert_eq!(ImageProcessor::parameters(&processor)["scheme"], "internvl");
}

#[test]
fn unknown_variants_are_refused_by_their_field() {
    for dir in fixtures("internvl") {
        let folder = copy_of(&dir);
        let original = read_json(&folder.path().join("config.json"));
        for (section, key, value, words) in [
            (None, "vision_feature_select_strategy", json!("full"), "vision_feature_select_strategy `full`"),
            (None, "vision_feature_layer", json!([-1, -2]), "several vision_feature_layer"),
            (None, "vision_feature_layer", json!(9), "vision_feature_layer 9"),
            (None, "downsample_ratio", json!(0.3), "downsample_ratio 0.3"),
            (None, "downsample_ratio", json!(0), "downsample_ratio 0"),
            (Some("vision_config"), "norm_type", json!("batch_norm"), "norm_type `batch_norm`"),
            (Some("vision_config"), "image_size", json!([56, 28]), "image_size"),
            (Some("vision_config"), "image_size", json!(28), "tiles of 56 pixels"),
            (Some("vision_config"), "use_absolute_position_embeddings", json!(false), "use_absolute_position"),
            (Some("vision_config"), "model_type", json!("vit"), "`vit`"),
        ] {
            let mut config = original.clone();
            match section {
                Some(section) => config[section][key] = value,
                None => config[key] = value,
            }
            write(&folder.path().join("config.json"), config.to_string());
            let error = Plan::of(&Checkpoint::open(folder.path()).unwrap()).map(|_| ()).unwrap_err();
            assert!(format!("{error:#}").contains(words), "{error:#}");
        }
    }
}

#[test]
fn the_variants_of_the_tower_meet_what_transformers_computes() {
    let expected = golden("tiled/internvl_towers.safetensors");
    let tensors = candle_core::safetensors::load(&expected, &Device::Cpu).unwrap();
    let pixels = &tensors["pixels"]; // (tiles, 3, side, side)
    let input = crate::model::families::tests::tile_input(pixels, (1, 1), (28, 28));
    for (name, fields) in [
        ("qk", json!({"use_qk_norm": true, "norm_type": "rms_norm", "attention_bias": false})),
        ("last", json!({"use_mean_pooling": false, "use_mask_token": true, "attention_bias": true})),
    ] {
        let mut config = json!({"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2,
            "num_hidden_layers": 2, "image_size": [28, 28], "patch_size": [14, 14]});
        for (key, value) in fields.as_object().unwrap() {
            config[key.as_str()] = value.clone();
        }
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("config.json"), "{}");
        let own = tensors.iter().filter_map(|(key, tensor)| {
            Some((format!("vision_tower.{}", key.strip_prefix(name)?.strip_prefix(".weights.")?), tensor.clone()))
        });
        candle_core::safetensors::save(&own.collect(), folder.path().join("model.safetensors")).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let mut weights = Weights::new(&checkpoint, canonical_llava).unwrap();
        let placement = Placement::cpu();
        let mut loader = Loader::new(&mut weights, &placement);
        let config = InternVlTowerConfig::from_config(&Config::new(&config, "config.json")).unwrap();
        let tower = InternVlTower::load(&mut loader.at("vision_tower"), config).unwrap();
        weights.finish().unwrap();
        for state in 0..=2 {
            let found = tower.tile_states(&input, state, Watched::by_none()).unwrap();
            assert_close(&found, &tensors[&format!("{name}.state{state}")], name);
        }
    }
}

#[test]
fn adapters_of_peft_on_all_parts_meet_their_reference_beside_the_base_and_merged() {
    for dir in fixtures("internvl") {
        let folder = golden("tiled/internvl_lora");
        let expected = References::open(&folder);
        for (is_merged, logits) in [(false, "adapter.first_logits"), (true, "merged.first_logits")] {
            let opened = open(&dir);
            let adapter = Adapter::open(&folder, canonical_llava, &opened.weights).unwrap();
            for (part, n_modules) in [("language_model.", 4), ("vision_tower.", 9), ("multi_modal_projector.", 1)] {
                assert_eq!(adapter.n_touched(part), n_modules, "{part}");
            }
            let overlay = adapter.overlay(&Placement::cpu(), is_merged).unwrap();
            let model = opened.load_all(vec![overlay], &Placement::cpu()).unwrap().remove(0);
            let input = model.preprocessor.prepare(&rgb_image(&pictures(&dir)[0]));
            let image = model.mllm.embed_images(&model.mllm.see(&[&input]).unwrap()).unwrap().remove(0);
            let prompt = model.dialogue.render(QUESTION).unwrap();
            let found = first_logits(&model, &dir);
            assert_close(&found, &expected[logits], logits);
            assert_eq!(generate_about(&model, &[&prompt], &[image]), ids(&expected["adapter.generated_ids"]));
        }
    }
}
