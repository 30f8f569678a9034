//! The first LLaVA compared with its own code.

use candle_core::Tensor;

use super::tests::{forward_image, generate_n, last_rows, load};
use super::*;
use crate::domain::Stop;
use crate::model::checkpoint::weights::testing::{copy_of, fixtures, read_json, rgb_image, write};
use crate::model::testing::{References, assert_close, ids};

const IMAGES: [&str; 3] = ["img0_75x50.png", "img1_40x66.png", "img2_32x32.png"];

#[test]
fn the_first_llava_meets_every_reference_tensor_of_its_own_code() {
    for dir in fixtures("llava_v0") {
        let expected = References::open(&dir);
        let known = read_json(&dir.join("reference.json"));
        let question = known["question"].as_str().unwrap();
        for (template, name) in [(None, "simple"), (Some("llava_v0_multimodal"), "multimodal")] {
            let model = load(&dir, Some(&dir.join("clip-tower")), template).model;
            let prompt = model.dialogue.render(question).unwrap();
            let patch = model.dialogue.tokenizer.token_id("<im_patch>").unwrap();
            for (index, image) in IMAGES.into_iter().enumerate() {
                let input = model.preprocessor.prepare(&rgb_image(&dir.join("images").join(image)));
                let wanted = &expected[&format!("{index}.pixel_values")];
                let pixels = Tensor::from_vec(input.values.clone(), wanted.dims(), wanted.device()).unwrap();
                assert_close(&pixels, wanted, "pixel_values");
                let seen = model.mllm.see(&[&input]).unwrap();
                let state = &seen[0].states[0]; // (tokens, hidden), class token first
                let selected = state.narrow(0, 1, state.dim(0).unwrap() - 1).unwrap().unsqueeze(0).unwrap();
                assert_close(&selected, &expected[&format!("{index}.image_features_selected")], "selected");
                let image = model.mllm.embed_images(&seen).unwrap().remove(0);
                let n = image.embeddings.dim(0).unwrap();
                let features = image.embeddings.narrow(0, 1, n - 2).unwrap().unsqueeze(0).unwrap();
                assert_close(&features, &expected[&format!("{index}.image_features_projected")], "projected");
                let around: Vec<u32> = image.ids.iter().map(|id| id.unwrap_or(patch)).collect();
                let whole = prompt.pieces.iter().flat_map(|piece| match piece {
                    crate::model::text::tokenizer::PromptPiece::Text(ids) => ids.clone(),
                    crate::model::text::tokenizer::PromptPiece::Image => around.clone(),
                });
                assert_eq!(vec![whole.collect::<Vec<u32>>()], ids(&expected[&format!("{name}.input_ids")]), "{name}");
                assert_eq!(prompt.ids.len(), expected[&format!("{name}.input_ids")].dim(1).unwrap());

                let (hidden, logits) = forward_image(&model, &prompt, &image);
                let tensor = |what: &str| &expected[&format!("{name}.{index}.{what}")];
                let last = logits.narrow(1, logits.dim(1).unwrap() - 1, 1).unwrap().squeeze(1).unwrap();
                assert_close(&last, tensor("last_logits"), name);
                if index == 0 {
                    assert_close(&hidden, tensor("last_hidden_state"), name);
                }
                if (name, index) == ("simple", 0) {
                    assert_close(&last_rows(&logits, tensor("all_logits")), tensor("all_logits"), name);
                }
                let generated = ids(tensor("generated_ids"));
                assert_eq!(generate_n(&model, &[&prompt], std::slice::from_ref(&image), 12), generated, "{name}");
                // The logits of each step follow from the prompt and the tokens before it.
                let said =
                    ForcedAnswer { prompt: ImagePrompt { prompt: &prompt, images: &seen }, answer: &generated[0] };
                let steps = model.mllm.teacher_forced(&[said], Watched::by_none()).unwrap().unsqueeze(0).unwrap();
                assert_close(&steps, tensor("step_logits"), name);
            }
        }
    }
}

#[test]
fn delta_weights_are_refused_with_the_command_that_mends_them() {
    for dir in fixtures("llava_v0") {
        let tower = Checkpoint::open(dir.join("clip-tower")).unwrap();
        for (key, value) in [("model_type", "llama"), ("model_type", "llava"), ("mm_vision_tower", "")] {
            let folder = copy_of(&dir.join("delta"));
            let path = folder.path().join("config.json");
            let mut config = read_json(&path);
            match value {
                "" => _ = config.as_object_mut().unwrap().remove(key),
                value => config[key] = value.into(),
            }
            write(&path, config.to_string());
            for tower in [None, Some(&tower)] {
                let delta = Checkpoint::open(folder.path()).unwrap();
                let error = OpenedModel::open(&delta, tower, None).map(|_| ()).unwrap_err().to_string();
                assert!(error.contains("delta weights") && error.contains("apply_delta"), "{error}");
            }
        }
    }
}

#[test]
fn what_the_first_llava_writes_before_an_answer_is_no_part_of_it() {
    for dir in fixtures("llava_v0") {
        let model = load(&dir, Some(&dir.join("clip-tower")), None).model;
        let template = &model.dialogue.template;
        assert_eq!(template.name(), "llava_v0_simple");
        assert_eq!(template.without_lead("Assistant: Response:\n a cat. Assistant: no"), "a cat. Assistant: no");
        assert_eq!(template.without_lead("###Assistant:dog"), "dog");
        let prompt = model.dialogue.render("What is it?").unwrap();
        let label = model.dialogue.answer_ids(&prompt, "cat").unwrap();
        let text = model.dialogue.tokenizer.decode(&label).unwrap();
        assert_eq!(text.trim(), "Assistant: cat###");
        let decoding = model.dialogue.decoding(label.len());
        let said = crate::model::run::generate::Generation {
            ids: label,
            stop: Stop::StopString,
            n_prompt_tokens: 1,
            logit_gap: 1.0,
        };
        assert_eq!(model.dialogue.answer(&said, &decoding).unwrap().text, "cat");
    }
}

#[test]
fn settings_of_the_first_llava_that_change_its_prompts_are_refused_by_name() {
    for dir in fixtures("llava_v0") {
        let tower = Checkpoint::open(dir.join("clip-tower")).unwrap();
        let folder = copy_of(&dir);
        let original = read_json(&folder.path().join("config.json"));
        for (key, value) in [("sep_image_conv_front", true), ("use_mm_proj", false)] {
            let mut config = original.clone();
            config[key] = value.into();
            write(&folder.path().join("config.json"), config.to_string());
            let checkpoint = Checkpoint::open(folder.path()).unwrap();
            let error = OpenedModel::open(&checkpoint, Some(&tower), None).map(|_| ()).unwrap_err();
            assert!(format!("{error:#}").contains(key), "{error:#}");
        }
        write(&folder.path().join("config.json"), original.to_string());
        write(&folder.path().join("added_tokens.json"), "{}");
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let error = OpenedModel::open(&checkpoint, Some(&tower), None).map(|_| ()).unwrap_err();
        assert!(format!("{error:#}").contains("<im_start>"), "{error:#}");
    }
}
