//! Label scores compared with transformers and with passes without a tree, and their cost.

use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};

use super::*;
use crate::dataset::{Catalog, DataRoots, Dataset, OpenRequest, open};
use crate::domain::RgbImage;
use crate::model::Placement;
use crate::model::checkpoint::weights::testing::{read_json, shared};
use crate::model::checkpoint::weights::{Checkpoint, Miniature, open_checkpoint};
use crate::model::families::{ImageEmbedding, Model, OpenedModel, RenderedPrompt};
use crate::model::language::{DecoderState, Pass};
use crate::model::layers::causal_mask;
use crate::model::run::prefix::{Padding, PromptRow, batch};
use crate::model::vision::preprocess::ImageInput;

fn embedded_model() -> Model {
    let checkpoint = open_checkpoint(Path::new("embedded"), Miniature::Model).unwrap();
    OpenedModel::open(&checkpoint, None, None).unwrap().load(&Placement::cpu()).unwrap()
}

fn dataset(text: &str, roots: &DataRoots) -> Dataset {
    open(&Catalog::embedded(), roots, &OpenRequest { text, split: None, labels_file: None, ..OpenRequest::default() })
        .unwrap()
}

fn embedded(model: &Model, images: &[ImageInput]) -> Vec<ImageEmbedding> {
    model.mllm.embed_images(&model.mllm.see(&images.iter().collect::<Vec<_>>()).unwrap()).unwrap()
}

fn embedded_images(model: &Model, dataset: &Dataset, n_images: usize) -> Vec<ImageEmbedding> {
    let step = dataset.samples.len() / n_images;
    let prepare = |image: usize| model.preprocessor.prepare(&dataset.read(image * step).unwrap());
    embedded(model, &(0..n_images).map(prepare).collect::<Vec<_>>())
}

fn scores(model: &Model, prompts: &[&RenderedPrompt], images: &[ImageEmbedding], labels: &[&str]) -> Vec<Vec<f32>> {
    let trie = model.dialogue.label_trie(prompts[0], labels).unwrap();
    let opening = model.opening(prompts[0]).unwrap();
    let mut prefix = model.read_about(Some(&opening), prompts, images, trie.n_nodes()).unwrap();
    let rows = score(model.mllm.decoder(), &mut prefix, &trie).unwrap();
    rows.into_iter().map(Result::unwrap).collect()
}

#[track_caller]
fn assert_near(actual: &[f32], expected: &[f32], what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (label, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        assert!((actual - expected).abs() < 1e-4, "{what}, label {label}: {actual} and {expected}");
    }
}

#[test]
fn scores_are_those_of_transformers_one_label_at_a_time() {
    let Some(shared) = shared() else { return };
    let golden = read_json(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/label_scores.json"));
    let checkpoint = Checkpoint::open(shared.join("models/tiny-llava")).unwrap();
    let roots = DataRoots { data: Some(shared.join("data")), ..DataRoots::default() };
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 4);
    for case in cases {
        let opened = OpenedModel::open(&checkpoint, None, case["template"].as_str()).unwrap();
        let model = opened.load(&Placement::cpu()).unwrap();
        let images = dataset(case["dataset"].as_str().unwrap(), &roots);
        let labels: Vec<&str> =
            case["labels"].as_array().unwrap().iter().map(|label| label.as_str().unwrap()).collect();
        let prompt = model.dialogue.render(case["question"].as_str().unwrap()).unwrap();
        let expected = case["scores"].as_object().unwrap();
        let pictures: Vec<ImageInput> = expected
            .keys()
            .map(|sample| match images.samples.iter().position(|other| other.id == *sample) {
                Some(position) => model.preprocessor.prepare(&images.read(position).unwrap()),
                None => model.preprocessor.prepare(&RgbImage::blank(32, 32)).blank(),
            })
            .collect();
        let rows = scores(&model, &vec![&prompt; pictures.len()], &embedded(&model, &pictures), &labels);
        for (row, (sample, expected)) in rows.iter().zip(expected) {
            let expected: Vec<f32> = serde_json::from_value(expected.clone()).unwrap();
            assert_near(row, &expected, sample);
        }
    }
}

/// Returns the sum of log-probabilities of `answer` after `prompt`, in one pass without a cache.
fn teacher_forced(model: &Model, prompt: &RenderedPrompt, image: &ImageEmbedding, answer: &[u32]) -> f32 {
    let language = model.mllm.decoder();
    let before = model.place(prompt, std::slice::from_ref(image)).unwrap();
    let n_before = before.n_tokens();
    let row = before.followed_by(&language.embed(answer).unwrap()).unwrap();
    let n_tokens = row.n_tokens();
    let mask = causal_mask(n_tokens, DType::F32, &Device::Cpu).unwrap();
    let input = batch(&[row], n_tokens, Padding::Left).unwrap();
    let hidden = language.forward(Pass::new(&input).masked(&mask)).unwrap();
    let logits = language.logits(&hidden).unwrap().squeeze(0).unwrap().to_vec2::<f32>().unwrap();
    let of_token = |(index, &token): (usize, &u32)| {
        let logits = &logits[n_before - 1 + index];
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        f64::from(logits[token as usize]) - sum.ln()
    };
    answer.iter().enumerate().map(of_token).sum::<f64>() as f32
}

#[test]
fn a_tree_over_a_padded_batch_scores_as_one_pass_a_label_and_leaves_generation_alone() {
    let model = embedded_model();
    let images = dataset("embedded/cifar100", &DataRoots::default());
    let labels: Vec<&str> = images.labels.names().collect();
    let long = model.dialogue.render("What is the object in the image? Answer with one or two words, please.").unwrap();
    let short = model.dialogue.render("What is this?").unwrap();
    let prompts = [&long, &short];
    let features = embedded_images(&model, &images, 2);
    let trie = model.dialogue.label_trie(&long, &labels).unwrap();
    assert!(trie.n_nodes() > long.ids.len(), "several passes: {} nodes", trie.n_nodes());
    let decoding = model.dialogue.decoding(8);

    let mut prefix = model.read_about(None, &prompts, &features, trie.n_nodes().max(8)).unwrap();
    let rows = score(model.mllm.decoder(), &mut prefix, &trie).unwrap();
    let again = score(model.mllm.decoder(), &mut prefix, &trie).unwrap();
    assert_eq!(rows, again, "the prefix is as it was before");
    let generated = model.generate(prefix, &decoding).unwrap();
    let alone = model.read_about(None, &prompts, &features, 8).unwrap();
    assert_eq!(generated, model.generate(alone, &decoding).unwrap());

    for (row, (prompt, scores)) in prompts.into_iter().zip(&rows).enumerate() {
        let features = &features[row];
        let expected: Vec<f32> = labels
            .iter()
            .map(|label| teacher_forced(&model, prompt, features, &model.dialogue.answer_ids(prompt, label).unwrap()))
            .collect();
        assert_near(scores.as_ref().unwrap(), &expected, &prompt.text);
    }
}

/// A language model that depends only on the last token: `table` holds the logits after each token.
struct Bigram {
    table: Tensor, // (vocabulary, vocabulary)
}

impl LanguageModel for Bigram {
    fn embed(&self, ids: &[u32]) -> candle_core::Result<Tensor> {
        let n_tokens = self.table.dim(0)?;
        let one_hot = |&id: &u32| (0..n_tokens).map(move |token| if token == id as usize { 1f32 } else { 0.0 });
        Tensor::from_vec(ids.iter().flat_map(one_hot).collect(), (ids.len(), n_tokens), &Device::Cpu)
    }

    fn forward(&self, pass: Pass<'_>) -> candle_core::Result<Tensor> {
        Ok(pass.input.embeddings.clone())
    }

    fn logits(&self, hidden: &Tensor) -> candle_core::Result<Tensor> {
        hidden.matmul(&self.table)
    }

    fn lens(&self, residual: &Tensor) -> candle_core::Result<Tensor> {
        self.logits(residual)
    }

    fn n_layers(&self) -> usize {
        0
    }

    fn n_operations(&self, _: usize, _: usize) -> [f64; 2] {
        [0.0; 2]
    }

    fn new_state(&self, _capacity: usize) -> DecoderState {
        DecoderState::default()
    }
}

const ASK: u32 = 0;
const CAT: u32 = 1;
const ERPILLAR: u32 = 2;
const DOG: u32 = 3;
const END: u32 = 4;

/// After the prompt, "cat" is most probable. After "cat", "erpillar" follows with `probability`.
fn caterpillars(probability: f32) -> Bigram {
    let rare = 1e-6f32.ln();
    let mut table = vec![vec![rare; 5]; 5];
    (table[ASK as usize][CAT as usize], table[ASK as usize][DOG as usize]) = (0.7f32.ln(), 0.3f32.ln());
    table[CAT as usize][ERPILLAR as usize] = probability.ln();
    table[CAT as usize][END as usize] = (1.0 - probability).ln();
    table[ERPILLAR as usize][END as usize] = 0.0;
    table[DOG as usize][END as usize] = 0.0;
    Bigram { table: Tensor::new(table, &Device::Cpu).unwrap() }
}

fn bigram_scores(model: &Bigram) -> Vec<Result<Vec<f32>, ScoreNotFinite>> {
    let trie = LabelTrie::new(&[vec![CAT, END], vec![CAT, ERPILLAR, END], vec![DOG, END]]);
    let mut prefix =
        Prefix::read(model, None, &[PromptRow::plain(model.embed(&[ASK]).unwrap()).unwrap()], trie.n_nodes()).unwrap();
    score(model, &mut prefix, &trie).unwrap()
}

#[test]
fn a_cat_does_not_beat_a_caterpillar_by_being_its_beginning() {
    let often = bigram_scores(&caterpillars(0.9)).pop().unwrap().unwrap();
    assert_near(&often, &[0.07f32.ln(), 0.63f32.ln(), 0.3f32.ln()], "0.9");
    assert_eq!(ranking(&often), [1, 2, 0]);
    let seldom = bigram_scores(&caterpillars(0.1)).pop().unwrap().unwrap();
    assert_eq!(ranking(&seldom), [0, 2, 1]);
}

#[test]
fn a_row_whose_logits_are_no_numbers_has_no_scores() {
    let mut broken = caterpillars(0.5);
    let mut table = broken.table.to_vec2::<f32>().unwrap();
    table[ERPILLAR as usize][ASK as usize] = f32::NAN;
    broken.table = Tensor::new(table, &Device::Cpu).unwrap();
    let error = bigram_scores(&broken).pop().unwrap().unwrap_err();
    assert_eq!(error, ScoreNotFinite { label: 0 }, "a NaN spreads through the toy's matrix product");
}

#[test]
fn shares_add_up_to_one_and_of_equal_scores_the_first_wins() {
    let scores = [-900.0, -900.0 + 3f32.ln(), -900.0];
    assert_near(&shares(&scores), &[0.2, 0.6, 0.2], "shares");
    assert_eq!(ranking(&scores), [1, 0, 2]);
}

#[test]
fn scores_hardly_depend_on_the_neighbours_in_a_batch() {
    let model = embedded_model();
    let images = dataset("embedded/cifar10", &DataRoots::default());
    let labels: Vec<&str> = images.labels.names().collect();
    let prompt = model.dialogue.render("What is this?").unwrap();
    let features = embedded_images(&model, &images, 5);
    let together = scores(&model, &[&prompt; 5], &features, &labels);
    for (row, together) in together.iter().enumerate() {
        let alone = scores(&model, &[&prompt], &features[row..=row], &labels).remove(0);
        assert_near(together, &alone, "alone");
    }
}

#[test]
fn a_hundred_labels_cost_at_most_three_generations() {
    let model = embedded_model();
    let images = dataset("embedded/cifar100", &DataRoots::default());
    let labels: Vec<&str> = images.labels.names().collect();
    assert_eq!(labels.len(), 100);
    let template = crate::prompting::load("emt").unwrap();
    let prompt = model.dialogue.render(&template.render(&images.noun, &images.labels).unwrap().text).unwrap();
    let trie = model.dialogue.label_trie(&prompt, &labels).unwrap();
    let decoding = model.dialogue.decoding(32);
    const N_IMAGES: usize = 8;
    let features = embedded_images(&model, &images, N_IMAGES);
    let prompts = [&prompt; N_IMAGES];
    let read = || model.read_about(None, &prompts, &features, trie.n_nodes().max(32)).unwrap();
    // The minimum of several times: other load on the machine only increases a time.
    let least = |work: &dyn Fn()| -> Duration {
        let time = |_| {
            let start = Instant::now();
            work();
            start.elapsed()
        };
        (0..3).map(time).min().unwrap_or_default() / N_IMAGES as u32
    };
    let reading = least(&|| drop(read()));
    let generation = least(&|| drop(model.generate(read(), &decoding).unwrap()));
    let scoring = least(&|| drop(score(model.mllm.decoder(), &mut read(), &trie).unwrap()));
    eprintln!(
        "an image: prompt of {} positions {reading:.1?}; with an answer {generation:.1?}; with the scores of {} labels \
         ({} nodes) {scoring:.1?}",
        prompt.ids.len(),
        trie.n_labels(),
        trie.n_nodes()
    );
    assert!(scoring < generation * 3, "{scoring:?} and {generation:?}");
}
