//! Tests of `idefics3`.

use super::*;
use crate::model::Placement;
use crate::model::checkpoint::weights::Adapter;
use crate::model::checkpoint::weights::testing::{copy_of, fixture_roots, golden, rename_tensors, rgb_image, write};
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
