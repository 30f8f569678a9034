//! LLaVA compared with reference tensors from transformers and the original repository.

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::dataset::{self, Catalog, DataRoots, OpenRequest};
use crate::domain::ProbeClassifier;
use crate::model::checkpoint::weights::testing::{fixtures, golden, shared};
use crate::model::language::Pass;
use crate::model::layers::left_padded_mask;
use crate::model::run::prefix::{Padding, batch};
use crate::model::testing::{References, assert_close, ids};
use crate::stats::Probe;

pub(super) const QUESTION: &str = "What is the object in the image? Please choose from: airplane, automobile, bird, \
    cat, deer, dog, frog, horse, ship, truck. Answer with a single word.";

pub(super) struct Loaded {
    pub(super) model: Model,
    pub(super) question: String,
}

/// A picture `(3, side, side)` in the form that a processor gives.
pub(super) fn input(pixels: &Tensor) -> ImageInput {
    let values = pixels.flatten_all().unwrap().to_vec1().unwrap();
    ImageInput { values, shape: pixels.dims().to_vec(), grid: (1, 1), original_size: (1, 1) }
}

pub(super) fn load(dir: &std::path::Path, tower: Option<&std::path::Path>, template: Option<&str>) -> Loaded {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let tower = tower.map(|tower| Checkpoint::open(tower).unwrap());
    let opened = OpenedModel::open(&checkpoint, tower.as_ref(), template).unwrap();
    Loaded::new(opened.load(&Placement::cpu()).unwrap())
}

impl Loaded {
    pub(super) fn new(model: Model) -> Self {
        Self { model, question: QUESTION.to_owned() }
    }

    /// The embeddings of each picture of `pixels` `(images, 3, side, side)`.
    pub(super) fn images(&self, pixels: &Tensor) -> Vec<ImageEmbedding> {
        let inputs: Vec<ImageInput> = (0..pixels.dim(0).unwrap()).map(|row| input(&pixels.get(row).unwrap())).collect();
        self.model.mllm.embed_images(&self.model.mllm.see(&inputs.iter().collect::<Vec<_>>()).unwrap()).unwrap()
    }

    /// Last hidden states and logits of the whole prompt.
    pub(super) fn forward(&self, prompt: &RenderedPrompt, pixels: &Tensor) -> (Tensor, Tensor) {
        forward_image(&self.model, prompt, &self.images(pixels)[0])
    }

    /// Logits of the prompt's last position, `(1, vocabulary)`.
    pub(super) fn first_logits(&self, prompt: &RenderedPrompt, pixels: &Tensor) -> Tensor {
        let (_, logits) = self.forward(prompt, pixels);
        let n_tokens = logits.dim(1).unwrap();
        logits.narrow(1, n_tokens - 1, 1).unwrap().squeeze(1).unwrap()
    }

    pub(super) fn generate(&self, prompts: &[&RenderedPrompt], pixels: &Tensor) -> Vec<Vec<u32>> {
        generate_about(&self.model, prompts, &self.images(pixels))
    }
}

/// Last hidden states and logits of the whole prompt.
pub(super) fn forward_image(model: &Model, prompt: &RenderedPrompt, image: &ImageEmbedding) -> (Tensor, Tensor) {
    let row = model.place(prompt, std::slice::from_ref(image)).unwrap();
    let n_tokens = row.n_tokens();
    let language = model.mllm.decoder();
    let mask = left_padded_mask(&[0], n_tokens, n_tokens, DType::F32, &Device::Cpu).unwrap();
    let mut state = language.new_state(n_tokens);
    let input = batch(&[row], n_tokens, Padding::Left).unwrap();
    let hidden = language.forward(Pass::new(&input).masked(&mask).after(&mut state)).unwrap();
    let logits = language.logits(&hidden).unwrap();
    (hidden, logits)
}

/// The last rows of `(1, tokens, values)`, as many as `wanted` has: the small references keep no others.
pub(super) fn last_rows(all: &Tensor, wanted: &Tensor) -> Tensor {
    let (n, n_wanted) = (all.dim(1).unwrap(), wanted.dim(1).unwrap());
    all.narrow(1, n - n_wanted, n_wanted).unwrap()
}

/// Generates eight tokens after each prompt.
pub(super) fn generate_about(model: &Model, prompts: &[&RenderedPrompt], images: &[ImageEmbedding]) -> Vec<Vec<u32>> {
    generate_n(model, prompts, images, 8)
}

/// Generates `max_new_tokens` tokens after each prompt.
pub(super) fn generate_n(
    model: &Model,
    prompts: &[&RenderedPrompt],
    images: &[ImageEmbedding],
    max_new_tokens: usize,
) -> Vec<Vec<u32>> {
    let decoding =
        Decoding { max_new_tokens, eos_ids: vec![u32::MAX], stop_strings: Vec::new(), processors: Default::default() };
    let opening = model.opening(prompts[0]).unwrap();
    let prefix = model.read_about(Some(&opening), prompts, images, decoding.max_new_tokens).unwrap();
    let rows = model.generate(prefix, &decoding).unwrap();
    rows.into_iter().map(|row| row.unwrap().ids).collect()
}

/// Tiles `(tiles, 3, side, side)` in the form that a processor gives.
pub(super) fn tile_input(tiles: &Tensor, grid: (usize, usize), original_size: (u32, u32)) -> ImageInput {
    ImageInput { grid, original_size, ..input(tiles) }
}

#[test]
fn llava_meets_every_reference_tensor_of_transformers() {
    for dir in fixtures("llava") {
        let expected = References::open(&dir);
        let loaded = load(&dir, None, None);
        let pixels = &expected["pixel_values"];
        let PlainTower { tower, states } = loaded.model.mllm.plain_tower().unwrap();
        let states = tower.hidden_states(pixels, states).unwrap();
        assert_close(&states[0], &expected["vision_hidden_state_m2"], "vision_hidden_state_m2");
        let features: Vec<Tensor> = loaded.images(pixels).into_iter().map(|image| image.embeddings).collect();
        let features = Tensor::stack(&features, 0).unwrap();
        assert_close(&features, &expected["image_features_projected"], "image_features_projected");

        for (template, name) in [(None, "hf_chat_template"), (Some("llava_v1"), "vicuna_v1_original")] {
            let loaded = load(&dir, None, template);
            let prompt = loaded.model.dialogue.render(&loaded.question).unwrap();
            let image_token = loaded.model.dialogue.tokenizer.token_id("<image>").unwrap();
            let rendered: Vec<u32> = prompt.ids.iter().map(|id| id.unwrap_or(image_token)).collect();
            assert_eq!(vec![rendered], ids(&expected[&format!("{name}.input_ids")]), "{name}");
            let (hidden, logits) = loaded.forward(&prompt, pixels);
            assert_close(&hidden, &expected[&format!("{name}.last_hidden_state")], name);
            let wanted = &expected[&format!("{name}.all_logits")];
            assert_close(&last_rows(&logits, wanted), wanted, name);
            let generated = loaded.generate(&[&prompt], pixels);
            assert_eq!(generated, ids(&expected[&format!("{name}.generated_ids")]), "{name}");
        }
    }
}

#[test]
fn a_towers_features_are_those_of_transformers_and_so_are_the_probes_on_them() {
    let Some(shared) = shared() else { return };
    let golden: serde_json::Value = serde_json::from_str(include_str!("../../../tests/golden/probe.json")).unwrap();
    let (numbers, _) = include_bytes!("../../../tests/golden/probe_features.bin").as_chunks::<4>();
    let expected: Vec<f32> = numbers.iter().copied().map(f32::from_le_bytes).collect();
    let model = load(&shared.join("models/tiny-llava"), None, None).model;
    let roots = DataRoots { data: Some(shared.join("data")), ..DataRoots::default() };
    let features = |split: &str, positions: &[usize]| -> Vec<Vec<f32>> {
        let request = OpenRequest { text: "cifar10", split: Some(split), labels_file: None, ..OpenRequest::default() };
        let dataset = dataset::open(&Catalog::embedded(), &roots, &request).unwrap();
        let images = positions.iter().map(|&at| model.preprocessor.prepare(&dataset.read(at).unwrap()));
        let images: Vec<ImageInput> = images.collect();
        let seen = model.mllm.see(&images.iter().collect::<Vec<_>>()).unwrap();
        seen.iter().map(|seen| model.mllm.probe_features(seen).unwrap()).collect()
    };
    let shots: Vec<Vec<usize>> = serde_json::from_value(golden["shots"].clone()).unwrap();
    let n_test = golden["n_test"].as_u64().unwrap() as usize;
    let (of_shots, of_tests) = (features("train", &shots.concat()), features("test", &Vec::from_iter(0..n_test)));
    let rows: Vec<&Vec<f32>> = of_shots.iter().chain(&of_tests).collect();
    assert_eq!(rows.len() * rows[0].len(), expected.len());
    for (row, expected) in rows.iter().zip(expected.chunks_exact(rows[0].len())) {
        let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        for (found, expected) in row.iter().zip(expected) {
            assert!((found - expected).abs() <= 1e-4 * largest, "{found} {expected}");
        }
    }
    let examples: Vec<Vec<&[f32]>> =
        of_shots.chunks_exact(shots[0].len()).map(|class| class.iter().map(Vec::as_slice).collect()).collect();
    for (classifier, name) in [
        (ProbeClassifier::NearestMean, "nearest_mean"),
        (ProbeClassifier::Knn, "knn"),
        (ProbeClassifier::Logistic, "logistic"),
    ] {
        let probe = Probe::fit(classifier, &examples).unwrap();
        let best = |features: &Vec<f32>| {
            let scores = probe.scores(features).unwrap();
            (0..scores.len()).rev().max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap()
        };
        let chosen: Vec<usize> = of_tests.iter().map(best).collect();
        let of_sklearn: Vec<usize> = serde_json::from_value(golden[name]["16"]["chosen"].clone()).unwrap();
        assert_eq!(chosen, of_sklearn, "{name}");
    }
}

#[test]
fn a_left_padded_batch_answers_as_each_row_alone() {
    for dir in fixtures("llava") {
        let expected = References::open(&dir);
        let loaded = load(&dir, None, None);
        let long = loaded.model.dialogue.render(&loaded.question).unwrap();
        let short = loaded.model.dialogue.render("What is this?").unwrap();
        let generated = loaded.generate(&[&long, &short], &expected["batch.pixel_values"]);
        assert_eq!(generated, ids(&expected["batch.generated_ids"]));
        assert_eq!(generated[0], ids(&expected["alone0.generated_ids"])[0]);
        assert_eq!(generated[1], ids(&expected["alone1.generated_ids"])[0]);
    }
}

#[test]
fn an_image_padded_to_a_square_meets_its_reference() {
    for dir in fixtures("llava") {
        let expected = References::open(&dir);
        let loaded = load(&dir, None, Some("llava_v1"));
        let prompt = loaded.model.dialogue.render(&loaded.question).unwrap();
        let pixels = &expected["pad_square.pixel_values"];
        let first = loaded.first_logits(&prompt, pixels);
        assert_close(&first, &expected["pad_square.first_logits"], "pad_square.first_logits");
        assert_eq!(loaded.generate(&[&prompt], pixels), ids(&expected["pad_square.generated_ids"]));
    }
}

#[test]
fn the_original_layouts_meet_the_original_code() {
    for root in fixtures("llava_original") {
        let expected = References::open(&root);
        let tower = root.join("clip-tower");
        for (layout, logits_name) in [
            ("full_safetensors_sharded", "full.first_logits"),
            ("full_with_tower", "full.first_logits"),
            ("full_bin_sharded", "full_bin_fp16.first_logits"),
        ] {
            let loaded = load(&root.join(layout), Some(&tower), Some("llava_v1"));
            let prompt = loaded.model.dialogue.render(&loaded.question).unwrap();
            let pixels = &expected["pixel_values"];
            assert_close(&loaded.first_logits(&prompt, pixels), &expected[logits_name], layout);
            if logits_name.starts_with("full.") {
                assert_eq!(loaded.generate(&[&prompt], pixels), ids(&expected["full.generated_ids"]), "{layout}");
            }
        }
    }
}

#[test]
fn an_answers_tokens_spell_it_and_end_as_its_template_does() {
    let original = golden("fixtures/llava_original");
    let tower = original.join("clip-tower");
    let llava = golden("fixtures/llava");
    for (dir, tower, template, end) in [
        (llava.clone(), None, None, None),
        (llava, None, Some("llava_v0"), Some("###")),
        (original.join("full_with_tower"), Some(&tower), Some("vicuna_v1"), None),
        (original.join("full_with_tower"), Some(&tower), Some("llava_v0"), Some("###")),
    ] {
        let tower = tower.map(|tower| Checkpoint::open(tower).unwrap());
        let opened = OpenedModel::open(&Checkpoint::open(dir).unwrap(), tower.as_ref(), template).unwrap();
        let prompt = opened.dialogue.render("What is it?").unwrap();
        for answer in ["cat", "caterpillar", "7", "African elephant"] {
            let ids = opened.dialogue.answer_ids(&prompt, answer).unwrap();
            let said = opened.dialogue.tokenizer.decode(&ids).unwrap();
            assert_eq!(said.trim(), format!("{answer}{}", end.unwrap_or_default()), "{template:?}");
            let is_ended_by_token = opened.dialogue.eos_ids.contains(ids.last().unwrap());
            assert_eq!(is_ended_by_token, end.is_none(), "{template:?} {ids:?}");
        }
    }
}

#[test]
fn a_label_that_runs_into_its_prompt_is_refused_by_name() {
    use crate::model::checkpoint::weights::testing::write;
    use crate::model::checkpoint::weights::{Miniature, open_checkpoint};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("glued.jinja");
    write(
        &path,
        "<image>{{ messages[0].content[1].text }} ca{% if messages|length > 1 %}{{ messages[1].content[0].text }}{% endif %}",
    );
    let checkpoint = open_checkpoint(std::path::Path::new("embedded"), Miniature::Model).unwrap();
    let opened = OpenedModel::open(&checkpoint, None, path.to_str()).unwrap();
    let prompt = opened.dialogue.render("A dog or a").unwrap();
    assert!(opened.dialogue.label_trie(&prompt, &[" dog"]).is_ok());
    let error = opened.dialogue.label_trie(&prompt, &[" dog", "t"]).unwrap_err().to_string();
    assert!(error.contains("`t`") && error.contains("--template"), "{error}");
}
