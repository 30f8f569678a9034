//! Tests of `mllama`.

use candle_core::{Device, Tensor};

use super::*;
use crate::model::Placement;
use crate::model::checkpoint::weights::Adapter;
use crate::model::checkpoint::weights::testing::{
    copy_of, golden, read_json, rename_tensors, rgb_image, shared, write,
};
use crate::model::families::tests::{QUESTION as FIRST_QUESTION, forward_image, tile_input};
use crate::model::families::{ImagePrompt, Model, OpenedModel, RenderedPrompt};
use crate::model::run::generate::Decoding;
use crate::model::testing::{References, assert_close, ids};
use crate::model::text::tokenizer::PromptPiece;
use crate::model::vision::preprocess::ImageProcessor;

/// What transformers' processor makes of a text without a template: the begin token comes once more, after the image.
const TEMPLATE: &str = "<|image|><s>{{ messages[0].content[1].text }}";

const QUESTION: &str = "What is the object in the image? Please only answer a single object in airplane, automobile, \
    bird, cat, deer, dog, frog, horse, ship, truck.";

/// Rows and columns of tiles of the five images.
const GRIDS: [(usize, usize); 5] = [(1, 2), (2, 1), (1, 3), (2, 2), (2, 1)];

/// The images' files below the fixture, in the order of the references.
const IMAGES: [&str; 5] = [
    "images/img0_75x50.png",
    "images/img1_40x66.png",
    "images2/img0_150x60.png",
    "images2/img1_70x70.png",
    "images2/img2_33x91.png",
];

fn fixture() -> Option<std::path::PathBuf> {
    shared().map(|shared| shared.join("fixtures/mllama"))
}

/// Opens the fixture as if `version` of transformers had saved it.
fn open(dir: &std::path::Path, version: &str) -> (tempfile::TempDir, OpenedModel) {
    let copy = copy_of(dir);
    let mut config = read_json(&copy.path().join("config.json"));
    config["transformers_version"] = version.into();
    write(&copy.path().join("config.json"), config.to_string());
    let template = copy.path().join("template.jinja");
    write(&template, TEMPLATE);
    let opened = OpenedModel::open(&Checkpoint::open(copy.path()).unwrap(), None, template.to_str()).unwrap();
    (copy, opened)
}

fn pixels(all: &Tensor, grid: (usize, usize)) -> ImageInput {
    let tiles = all.squeeze(0).unwrap().squeeze(0).unwrap();
    tile_input(&tiles.narrow(0, 0, grid.0 * grid.1).unwrap(), grid, (1, 1))
}

/// The prompt of these ids. The references of transformers 5.24 have another tokenizer than the fixture's file.
fn prompt_of(model: &Model, input_ids: &Tensor) -> RenderedPrompt {
    let rendered = model.dialogue.render(QUESTION).unwrap();
    let all = ids(input_ids).remove(0);
    let (image_id, mut pieces) = (rendered.image_id.unwrap(), Vec::new());
    for (index, text) in all.split(|&id| id == image_id).enumerate() {
        pieces.extend((index > 0).then_some(PromptPiece::Image));
        pieces.push(PromptPiece::Text(text.to_vec()));
    }
    let ids = all.iter().map(|&id| Some(id).filter(|&id| id != image_id)).collect();
    RenderedPrompt { pieces, ids, ..rendered }
}

fn generate(model: &Model, prompt: &RenderedPrompt, seen: &[Seen], n_new: usize) -> Vec<Vec<u32>> {
    let prompts: Vec<ImagePrompt> =
        seen.iter().map(|image| ImagePrompt { prompt, images: std::slice::from_ref(image) }).collect();
    let rows = model.mllm.embed(&prompts).unwrap();
    let opening = model.opening(prompt).unwrap();
    let prefix = model.mllm.read(Some(&opening), &rows, n_new, Watched::by_none()).unwrap();
    let decoding = Decoding {
        max_new_tokens: n_new,
        eos_ids: vec![u32::MAX],
        stop_strings: Vec::new(),
        processors: Default::default(),
    };
    model.generate(prefix, &decoding).unwrap().into_iter().map(|row| row.unwrap().ids).collect()
}

fn first_logits(model: &Model, prompt: &RenderedPrompt, image: &ImageEmbedding) -> Tensor {
    Tensor::new(model.first_logits_about(prompt, image).unwrap(), &Device::Cpu).unwrap().unsqueeze(0).unwrap()
}

#[test]
fn every_reference_tensor_of_transformers_and_of_metas_way_is_met() {
    let Some(dir) = fixture() else { return };
    let inputs = References::open_file(&dir.join("reference2.safetensors"));
    for (version, file) in [("5.23.0", "reference2.safetensors"), ("4.45.0.dev0", "reference2_meta.safetensors")] {
        let expected = References::open_file(&dir.join(file));
        let (_copy, opened) = open(&dir, version);
        let model = opened.load(&Placement::cpu()).unwrap();
        let prompt = prompt_of(&model, &inputs["0.input_ids"]);
        let mut all_seen = Vec::new();
        for (index, grid) in GRIDS.into_iter().enumerate() {
            let tensor = |name: &str| &expected[&format!("{index}.{name}")];
            let input = pixels(&inputs[&format!("{index}.pixel_values")], grid);
            let seen = model.mllm.see(&[&input]).unwrap();
            let whole = |x: &Tensor| x.unsqueeze(0).unwrap().unsqueeze(0).unwrap();
            let place = format!("{file} {index}");
            assert_close(&whole(&seen[0].states[0]), tensor("vision_last_hidden_state"), &place);
            let image = model.mllm.embed_images(&seen).unwrap().remove(0);
            let features = &image.beside.as_ref().unwrap().features;
            let shape = tensor("image_features_projected").dims().to_vec();
            assert_close(&features.reshape(shape).unwrap(), tensor("image_features_projected"), &place);
            assert_close(&first_logits(&model, &prompt, &image), tensor("last_logits"), &place);
            if (index, version) == (0, "5.23.0") {
                let (_, logits) = forward_image(&model, &prompt, &image);
                assert_close(&logits, tensor("all_logits"), &place);
            }
            assert_eq!(generate(&model, &prompt, &seen, 12), ids(tensor("generated_ids")), "{place}");
            all_seen.extend(seen);
        }
        // Images of other numbers of tiles answer in a batch as alone.
        let together = generate(&model, &prompt, &all_seen, 12);
        for (index, row) in together.into_iter().enumerate() {
            assert_eq!(vec![row], ids(&expected[&format!("{index}.generated_ids")]), "{file} {index}");
        }
    }
}

#[test]
fn tiles_are_those_of_transformers_processor() {
    let Some(dir) = fixture() else { return };
    let expected = References::open_file(&dir.join("reference2.safetensors"));
    let processor = MllamaProcessor::from_checkpoint(&Checkpoint::open(&dir).unwrap()).unwrap();
    for (index, (file, grid)) in IMAGES.into_iter().zip(GRIDS).enumerate() {
        let image = rgb_image(&dir.join(file));
        let prepared = processor.prepare(&image);
        assert_eq!(prepared.grid, grid, "{file}");
        let wanted = pixels(&expected[&format!("{index}.pixel_values")], grid);
        assert_eq!(prepared.shape, wanted.shape, "{file}");
        let differences = prepared.values.iter().zip(&wanted.values).map(|(a, b)| (a - b).abs());
        assert!(differences.fold(0.0, f32::max) < 1e-6, "{file}");
    }
}

#[test]
fn the_version_that_saved_a_checkpoint_decides_which_states_it_reads_and_is_recorded() {
    let Some(dir) = fixture() else { return };
    for (version, rule, is_told) in
        [("4.54.1", "before_layer", false), ("", "before_layer", true), ("4.57.6", "after_layer", true)]
    {
        let (_copy, opened) = open(&dir, version);
        assert_eq!(opened.settings_json()["intermediate_layers"], rule, "{version}");
        let told = opened.warnings.iter().any(|warning| warning.contains("inner states"));
        assert_eq!(told, is_told, "{version}: {:?}", opened.warnings);
    }
    let copy = copy_of(&dir);
    let mut config = read_json(&copy.path().join("config.json"));
    for (key, value, words) in [
        ("/transformers_version", json!("4.55.2"), "4.55.2"),
        ("/vision_config/intermediate_layers_indices", json!([3]), "intermediate_layers_indices"),
        ("/vision_config/vision_output_dim", json!(96), "vision_output_dim"),
        ("/vision_config/supported_aspect_ratios", json!([[1, 1]]), "supported_aspect_ratios"),
        ("/vision_config/model_type", json!("siglip_vision_model"), "siglip_vision_model"),
        ("/text_config/cross_attention_layers", json!([4]), "cross_attention_layers"),
        ("/text_config/tie_word_embeddings", json!(true), "tie_word_embeddings"),
        ("/vision_config/image_size", json!(70), "70"),
    ] {
        let before = config.pointer(key).cloned().unwrap();
        *config.pointer_mut(key).unwrap() = value;
        write(&copy.path().join("config.json"), config.to_string());
        let error = Plan::of(&Checkpoint::open(copy.path()).unwrap()).map(|_| ()).unwrap_err();
        assert!(format!("{error:#}").contains(words), "{key}: {error:#}");
        *config.pointer_mut(key).unwrap() = before;
    }
}

#[test]
fn a_prompt_without_its_image_is_read_as_text() {
    let Some(dir) = fixture() else { return };
    let (_copy, opened) = open(&dir, "5.23.0");
    let model = opened.load(&Placement::cpu()).unwrap();
    let expected = References::open_file(&dir.join("reference2.safetensors"));
    let seen = model.mllm.see(&[&pixels(&expected["0.pixel_values"], GRIDS[0])]).unwrap();
    let prompt = model.dialogue.render(QUESTION).unwrap();
    let rows = model.rows(&prompt, &seen).unwrap();
    let n_tokens = rows[0].n_tokens();
    let blind = rows.into_iter().next().unwrap().without_images().unwrap();
    assert_eq!((blind.n_tokens(), blind.media.is_none()), (n_tokens - 1, true));
    let logits = model.first_logits(blind).unwrap();
    assert!(logits.iter().all(|logit| logit.is_finite()));
}

#[test]
fn every_layout_of_transformers_is_the_same_model() {
    let Some(dir) = fixture() else { return };
    let expected = References::open_file(&dir.join("reference2.safetensors"));
    let input = pixels(&expected["0.pixel_values"], GRIDS[0]);
    // Language model, head, the rest.
    for [language, head, rest] in [
        ["language_model.model.", "language_model.lm_head.", ""],
        ["model.language_model.", "lm_head.", "model."],
        ["model.language_model.model.", "language_model.lm_head.", "model."],
    ] {
        let (copy, opened) = open(&dir, "5.23.0");
        drop(opened);
        rename_tensors(copy.path(), |key| {
            let Canonical::Keep(name) = canonical(key) else { return None };
            let stem = |part: &str, new: &str| Some(format!("{new}{}", name.strip_prefix(part)?));
            stem("language_model.", language)
                .or_else(|| stem("lm_head.", head))
                .or_else(|| stem("vision_tower.", &format!("{rest}vision_model.")))
                .or_else(|| Some(format!("{rest}{name}")))
        });
        let template = copy.path().join("template.jinja");
        let opened = OpenedModel::open(&Checkpoint::open(copy.path()).unwrap(), None, template.to_str()).unwrap();
        let model = opened.load(&Placement::cpu()).unwrap();
        let prompt = prompt_of(&model, &expected["0.input_ids"]);
        let image = model.mllm.embed_images(&model.mllm.see(&[&input]).unwrap()).unwrap().remove(0);
        assert_close(&first_logits(&model, &prompt, &image), &expected["0.last_logits"], language);
    }
}

#[test]
fn adapters_of_peft_on_all_parts_meet_their_reference_beside_the_base_and_merged() {
    let Some(dir) = fixture() else { return };
    let folder = golden("mllama_lora");
    let expected = References::open(&folder);
    let inputs = References::open_file(&dir.join("reference2.safetensors"));
    let input = pixels(&inputs["0.pixel_values"], GRIDS[0]);
    for (is_merged, logits) in [(false, "first_logits"), (true, "merged.first_logits")] {
        let (_copy, opened) = open(&dir, "5.24.0");
        let adapter = Adapter::open(&folder, canonical, &opened.weights).unwrap();
        for (part, n_modules) in [("language_model.", 10), ("vision_tower.", 13), ("multi_modal_projector", 1)] {
            assert_eq!(adapter.n_touched(part), n_modules, "{part}");
        }
        let overlay = adapter.overlay(&Placement::cpu(), is_merged).unwrap();
        let model = opened.load_all(vec![overlay], &Placement::cpu()).unwrap().remove(0);
        let seen = model.mllm.see(&[&input]).unwrap();
        let image = model.mllm.embed_images(&seen).unwrap().remove(0);
        let prompt = prompt_of(&model, &inputs["0.input_ids"]);
        assert_close(&first_logits(&model, &prompt, &image), &expected[logits], logits);
        assert_eq!(generate(&model, &prompt, &seen, 12), ids(&expected["generated_ids"]), "{logits}");
    }
}

#[test]
fn the_first_reference_of_transformers_is_met_with_the_tokens_of_the_file() {
    let Some(dir) = fixture() else { return };
    let expected = References::open(&dir);
    let (_copy, opened) = open(&dir, "5.23.0");
    let model = opened.load(&Placement::cpu()).unwrap();
    let prompt = model.dialogue.render(FIRST_QUESTION).unwrap();
    let image_id = prompt.image_id.unwrap();
    let rendered: Vec<u32> = prompt.ids.iter().map(|id| id.unwrap_or(image_id)).collect();
    assert_eq!(vec![rendered], ids(&expected["prompt.input_ids"]));
    let seen = model.mllm.see(&[&pixels(&expected["prompt.pixel_values"], GRIDS[0])]).unwrap();
    let image = model.mllm.embed_images(&seen).unwrap().remove(0);
    let features = &image.beside.as_ref().unwrap().features;
    let wanted = &expected["hook_connector"];
    assert_close(&features.reshape(wanted.dims()).unwrap(), wanted, "hook_connector");
    assert_close(&first_logits(&model, &prompt, &image), &expected["prompt.first_logits"], "prompt.first_logits");
    assert_eq!(generate(&model, &prompt, &seen, 8), ids(&expected["prompt.generated_ids"]));
}
