//! Tests of `blip2`: BLIP-2, InstructBLIP and T5 against what transformers computes.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device};

use super::*;
use crate::model::Placement;
use crate::model::checkpoint::weights::testing::{copy_of, read_json, rename_tensors, rgb_image, shared, write};
use crate::model::families::{ForcedAnswer, Model, OpenedModel, RenderedPrompt};
use crate::model::language::T5;
use crate::model::run::generate::Decoding;
use crate::model::run::scoring::{LabelTrie, score};
use crate::model::testing::{assert_close, ids};

type Tensors = HashMap<String, Tensor>;

fn load(dir: &Path) -> Model {
    OpenedModel::open(&Checkpoint::open(dir).unwrap(), None, None).unwrap().load(&Placement::cpu()).unwrap()
}

fn tensors(path: &Path) -> Tensors {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

/// The ids of a prompt with its image's positions.
fn ids_of(prompt: &RenderedPrompt) -> Vec<Vec<u32>> {
    vec![prompt.ids.iter().map(|id| id.unwrap_or(prompt.image_id.unwrap())).collect()]
}

fn generate(model: &Model, prompts: &[&RenderedPrompt], seen: &[Seen], n_tokens: usize) -> Vec<Vec<u32>> {
    let decoding = Decoding {
        max_new_tokens: n_tokens,
        eos_ids: vec![u32::MAX],
        stop_strings: Vec::new(),
        processors: Default::default(),
    };
    let prompts: Vec<ImagePrompt<'_>> = prompts
        .iter()
        .zip(seen)
        .map(|(prompt, seen)| ImagePrompt { prompt, images: std::slice::from_ref(seen) })
        .collect();
    let rows = model.mllm.embed(&prompts).unwrap();
    let prefix = model.mllm.read(None, &rows, n_tokens, Watched::by_none()).unwrap();
    model.generate(prefix, &decoding).unwrap().into_iter().map(|row| row.unwrap().ids).collect()
}

/// The prompt of a reference, whose text is what stands after the image.
fn prompt_of(model: &Model, reference: &Value, key: &str) -> RenderedPrompt {
    let text = reference["prompts"][key].as_str().unwrap();
    model.dialogue.prompt_of(format!("{IMAGE_MARKER}{text}"), None).unwrap()
}

fn only(tensor: &Tensor) -> Tensor {
    tensor.get(0).unwrap()
}

fn first_logits(model: &Model, row: &crate::model::run::prefix::PromptRow) -> Tensor {
    Tensor::new(model.first_logits(row.clone()).unwrap(), &Device::Cpu).unwrap().unsqueeze(0).unwrap()
}

/// Compares tower, Q-Former, embeddings, logits and ids about each of four images.
fn check_second_reference(name: &str, reads_question: bool) {
    let Some(shared) = shared() else { return };
    let dir = shared.join("fixtures").join(name);
    let (reference, expected) = (read_json(&dir.join("reference2.json")), tensors(&dir.join("reference2.safetensors")));
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let mut stored = Weights::new(&checkpoint, canonical).unwrap();
    let plan = Plan::of(&checkpoint, reads_question).unwrap();
    let parts = plan.read(&mut Loader::new(&mut stored, &Placement::cpu()), 40).unwrap();
    let model = load(&dir);
    let prompt = prompt_of(&model, &reference, "");
    for (at, image) in reference["images"].as_array().unwrap().iter().enumerate() {
        let tensor = |name: &str| &expected[&format!("{at}.{name}")];
        let input = model.preprocessor.prepare(&rgb_image(&dir.join(image.as_str().unwrap())));
        let pixels = Tensor::from_slice(&input.values, input.shape.clone(), &Device::Cpu).unwrap();
        assert_close(&pixels, &only(tensor("pixel_values")), "pixel_values");
        assert_eq!(ids_of(&prompt), ids(tensor("input_ids")));
        if reads_question {
            assert_eq!(vec![prompt.question_ids.clone()], ids(tensor("qformer_input_ids")));
        }
        let seen = model.mllm.see(&[&input]).unwrap();
        assert_close(&seen[0].states[0], &only(tensor("vision_last_hidden_state")), "vision_last_hidden_state");
        let states = seen[0].states[0].unsqueeze(0).unwrap();
        let states = parts.qformer.states(&states, &prompt.question_ids).unwrap();
        assert_close(states.last().unwrap(), tensor("qformer_last_hidden_state"), "qformer_last_hidden_state");
        if at == 0 {
            for (layer, state) in states.iter().enumerate() {
                assert_close(state, tensor(&format!("qformer_layer_{layer}")), "qformer_layer");
            }
        }
        let about = ImagePrompt { prompt: &prompt, images: &seen };
        let row = model.mllm.embed(&[about]).unwrap().remove(0);
        let projected = row.embeddings.narrow(0, 0, 4).unwrap();
        assert_close(&projected, &only(tensor("image_features_projected")), "image_features_projected");
        if at == 0 {
            assert_close(&row.embeddings, &only(tensor("lm_inputs_embeds")), "lm_inputs_embeds");
        }
        assert_close(&first_logits(&model, &row), tensor("last_logits"), "last_logits");
        assert_eq!(generate(&model, &[&prompt], &seen, 12), ids(tensor("generated_ids")), "image {at}");
    }
}

#[test]
fn instructblip_with_vicuna_meets_every_reference_tensor() {
    check_second_reference("instructblip_vicuna", true);
}

#[test]
fn instructblip_with_t5_meets_every_reference_tensor() {
    check_second_reference("instructblip_t5", true);
}

#[test]
fn blip2_with_t5_meets_every_reference_tensor() {
    check_second_reference("blip2", false);
}

#[test]
fn first_references_of_transformers_5_23_are_met() {
    let Some(shared) = shared() else { return };
    // The pixels' name, and how many of the generated ids come before the new ones.
    for (name, pixels, n_before) in [
        ("instructblip_vicuna", "pixel_values", 58),
        ("instructblip_t5", "pixel_values", 1),
        ("blip2", "prompt.pixel_values", 1),
    ] {
        let dir = shared.join("fixtures").join(name);
        let (reference, expected) =
            (read_json(&dir.join("reference.json")), tensors(&dir.join("reference.safetensors")));
        let model = load(&dir);
        let prompt = prompt_of(&model, &reference, "prompt.");
        assert_eq!(ids_of(&prompt), ids(&expected["prompt.input_ids"]), "{name}");
        let seen = model.mllm.see(&[&crate::model::families::tests::input(&only(&expected[pixels]))]).unwrap();
        let row = model.mllm.embed(&[ImagePrompt { prompt: &prompt, images: &seen }]).unwrap().remove(0);
        assert_close(&first_logits(&model, &row), &expected["prompt.first_logits"], name);
        let wanted = ids(&expected["prompt.generated_ids"]).remove(0);
        assert_eq!(generate(&model, &[&prompt], &seen, 8), vec![wanted[n_before..].to_vec()], "{name}");
    }
}

#[test]
fn t5_meets_every_reference_tensor() {
    let Some(shared) = shared() else { return };
    let dir = shared.join("fixtures/t5");
    let expected = tensors(&dir.join("reference.safetensors"));
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let below = |key: &str| canonical(&format!("language_model.{key}"));
    let mut stored = Weights::new(&checkpoint, below).unwrap();
    let config = T5Config::from_config(&config_of(&checkpoint)).unwrap();
    let model = T5::load(&mut Loader::new(&mut stored, &Placement::cpu()), &config).unwrap();
    stored.finish().unwrap();
    let prompt = model.embed(&ids(&expected["prompt.input_ids"])[0]).unwrap();
    let encoded = model.encode(&[&prompt]).unwrap();
    assert_close(&encoded.states, &expected["encoder_last_hidden_state"], "encoder_last_hidden_state");
    let wanted = ids(&expected["prompt.generated_ids"]);
    let hidden = model.decode(&encoded, &wanted, &mut Watched::by_none()).unwrap();
    let logits = model.logits(&hidden).unwrap();
    assert_close(
        &logits.narrow(1, 0, 1).unwrap().squeeze(1).unwrap(),
        &expected["prompt.first_logits"],
        "first_logits",
    );
    let chosen = logits.argmax(candle_core::D::Minus1).unwrap().to_vec2::<u32>().unwrap();
    // The first may be the end of the sequence, which the reference masks.
    assert_eq!(chosen[0][..8], wanted[0][1..]);
}

#[test]
fn a_batch_answers_as_each_row_alone_and_scores_labels_as_teacher_forcing_does() {
    let Some(shared) = shared() else { return };
    for name in ["instructblip_vicuna", "instructblip_t5", "blip2"] {
        let dir = shared.join("fixtures").join(name);
        let model = load(&dir);
        let long = model.dialogue.render("What is the object in the image?").unwrap();
        let short = model.dialogue.render("What?").unwrap();
        let pictures = ["images/img0_75x50.png", "images/img1_40x66.png"];
        let inputs = pictures.map(|picture| model.preprocessor.prepare(&rgb_image(&dir.join(picture))));
        let seen = model.mllm.see(&[&inputs[0], &inputs[1]]).unwrap();
        let together = generate(&model, &[&long, &short], &seen, 6);
        for (row, prompt) in [&long, &short].into_iter().enumerate() {
            assert_eq!(generate(&model, &[prompt], &seen[row..=row], 6)[0], together[row], "{name}");
        }
        let answers: Vec<Vec<u32>> =
            ["a cat", "a dog", "a", "truck"].map(|label| model.dialogue.answer_ids(&short, label).unwrap()).into();
        let trie = LabelTrie::new(&answers);
        let prompt = ImagePrompt { prompt: &short, images: &seen[..1] };
        let other = ImagePrompt { prompt: &long, images: &seen[1..] };
        let rows = model.mllm.embed(&[prompt, other]).unwrap();
        let mut prefix = model.mllm.read(None, &rows, trie.n_nodes(), Watched::by_none()).unwrap();
        let scores = score(model.mllm.decoder(), &mut prefix, &trie).unwrap().remove(0).unwrap();
        for (answer, found) in answers.iter().zip(scores) {
            let logits = model.mllm.teacher_forced(&[ForcedAnswer { prompt, answer }], Watched::by_none()).unwrap();
            let logits = candle_nn::ops::log_softmax(&logits.to_dtype(DType::F32).unwrap(), 1).unwrap();
            let logits = logits.to_vec2::<f32>().unwrap();
            let wanted: f32 = answer.iter().zip(&logits).map(|(&id, row)| row[id as usize]).sum();
            assert!((found - wanted).abs() < 1e-3 * wanted.abs().max(1.0), "{name}: {found} {wanted}");
        }
    }
}

#[test]
fn names_of_norms_in_transformers_5_0_are_the_same_model() {
    let Some(shared) = shared() else { return };
    let dir = shared.join("fixtures/blip2");
    let renamed = copy_of(&dir);
    rename_tensors(renamed.path(), |key| {
        let new = key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
        Some(new)
    });
    let input = rgb_image(&dir.join("images/img0_75x50.png"));
    let [one, other] = [dir.as_path(), renamed.path()].map(|dir| {
        let model = load(dir);
        let prompt = model.dialogue.render("What is it?").unwrap();
        let seen = model.mllm.see(&[&model.preprocessor.prepare(&input)]).unwrap();
        generate(&model, &[&prompt], &seen, 6)
    });
    assert_eq!(one, other);
}

#[test]
fn a_long_question_keeps_its_end_in_the_qformer() {
    let Some(shared) = shared() else { return };
    let checkpoint = Checkpoint::open(shared.join("fixtures/instructblip_vicuna")).unwrap();
    let tokenizer = question_tokenizer(&checkpoint).unwrap();
    let whole = tokenizer.encode("a cat, a dog, a frog", true).unwrap();
    let form = PromptForm {
        question: Some(QuestionReader { tokenizer, n_tokens_max: 5 }),
        after_images: Some(TextReader::Decoder),
    };
    let cut = form.question_ids("a cat, a dog, a frog", IMAGE_MARKER).unwrap();
    assert_eq!(cut[0], whole[0]);
    assert_eq!(cut[1..], whole[whole.len() - 4..]);
}

#[test]
fn what_is_not_supported_is_refused_by_the_name_of_its_field() {
    let Some(shared) = shared() else { return };
    let folder = copy_of(&shared.join("fixtures/instructblip_vicuna"));
    let original = read_json(&folder.path().join("config.json"));
    for (section, key, value, words) in [
        ("text_config", "model_type", Value::from("opt"), "`opt`"),
        ("text_config", "model_type", "mamba".into(), "`mamba`"),
        ("vision_config", "qkv_bias", false.into(), "qkv_bias"),
        ("qformer_config", "position_embedding_type", "relative_key".into(), "relative_key"),
        ("qformer_config", "encoder_hidden_size", 31.into(), "encoder_hidden_size"),
    ] {
        let mut config = original.clone();
        config[section][key] = value;
        write(&folder.path().join("config.json"), config.to_string());
        let error = Plan::of(&Checkpoint::open(folder.path()).unwrap(), true).map(|_| ()).unwrap_err();
        assert!(format!("{error:#}").contains(words), "{error:#}");
    }
}
