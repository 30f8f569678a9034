//! Compares training with twenty steps by transformers and PEFT.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::trainer::Gradients;
use super::*;
use crate::dataset::{self, Catalog, DataRoots, Dataset, OpenRequest};
use crate::domain::{ArmSettings, Decay, LoraShape, Method, RgbImage};
use crate::model::Placement;
use crate::model::checkpoint::weights::testing::{read_json, shared, unpacked};
use crate::model::checkpoint::weights::{Adapter, Checkpoint, Miniature, open_checkpoint};
use crate::model::families::{FAMILIES, OpenedModel};
use crate::model::layers::Watched;
use crate::model::run::scoring::score;

const LORA: LoraShape = LoraShape { rank: 4, alpha: 8.0, dropout: 0.0 };

pub(super) fn hyperparameters(learning_rate: f64) -> Hyperparameters {
    let decay = Decay::Constant;
    Hyperparameters { learning_rate, warmup_ratio: 0.0, decay, lora: LORA, ..Hyperparameters::of(Method::LORA) }
}

pub(super) fn config(method: Method) -> TrainableConfig {
    let settings = ArmSettings::default();
    TrainableConfig { method, lora: LORA, trains_projector: method.trains_projector(), settings, seed: 1 }
}

/// What `opened` is to arms.
pub(super) fn base_of<'a>(opened: &'a OpenedModel, tokenize: &'a dyn Fn(&str) -> anyhow::Result<Vec<u32>>) -> Base<'a> {
    Base {
        weights: &opened.weights,
        n_heads: opened.plan.n_heads(),
        n_layers: opened.plan.n_layers(),
        tokenize,
        device: &Device::Cpu,
    }
}

/// The variables of a training of `opened`, begun at the adapter in `start`.
pub(super) fn trainable(opened: &OpenedModel, config: TrainableConfig, start: Option<&Path>) -> Trainable {
    let family = FAMILIES.iter().find(|family| family.name == opened.family).unwrap();
    let mut begun = Start::default();
    if let Some(path) = start {
        let adapter = Adapter::open(path, family.canonical, &opened.weights).unwrap();
        begun.overlay = adapter.overlay(&Placement::cpu(), false).unwrap();
        if let Ok(encoder) = candle_core::safetensors::load(path.join(ENCODER_FILE), &Device::Cpu) {
            begun.encoder = encoder.into_iter().collect();
        }
    }
    let dialogue = opened.dialogue.clone();
    let tokenize = move |text: &str| dialogue.tokenizer.encode(text, true);
    Trainable::new(config, &base_of(opened, &tokenize), begun).unwrap()
}

/// The miniature, which most tests train.
pub(super) fn miniature() -> Checkpoint {
    open_checkpoint(Path::new("embedded"), Miniature::Model).unwrap()
}

/// The miniature in 32 bits, as a trained checkpoint is stored.
pub(super) fn in_32_bits() -> tempfile::TempDir {
    let folder = unpacked(Miniature::Model);
    let path = folder.path().join("model.safetensors");
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let widened = tensors.into_iter().map(|(name, tensor)| (name, tensor.to_dtype(DType::F32).unwrap()));
    candle_core::safetensors::save(&widened.collect(), &path).unwrap();
    folder
}

/// Test images of CIFAR-10: the embedded ones, or those in `data`.
pub(super) fn cifar10(data: Option<&Path>) -> Dataset {
    let catalog = Catalog::embedded();
    let roots = DataRoots { data: data.map(Path::to_path_buf), ..DataRoots::default() };
    let text = if data.is_some() { "cifar10" } else { "embedded/cifar10" };
    let request = OpenRequest { text, split: Some("test"), labels_file: None, ..OpenRequest::default() };
    dataset::open(&catalog, &roots, &request).unwrap()
}

fn trainer(base: &Checkpoint, method: Method, start: Option<&Path>, micro_batch_size: usize) -> Trainer {
    let opened = OpenedModel::open(base, None, None).unwrap();
    let trainable = trainable(&opened, config(method), start);
    let objective = Objective::default();
    Trainer::new(opened, trainable, &hyperparameters(1e-3), objective, micro_batch_size, &Placement::cpu()).unwrap()
}

pub(super) fn training_set(trainer: &Trainer, dataset: Dataset, n_samples: usize) -> TrainingSet {
    let labels: Vec<&str> = dataset.labels.names().collect();
    let question =
        format!("What is the object in the image? Please only answer a single object in {}.", labels.join(", "));
    let answer = AnswerTemplate::new(AnswerTemplate::DEFAULT).unwrap();
    let selected = (0..n_samples).collect();
    TrainingSet::of_images(dataset, selected, &question, &answer, &trainer.model().dialogue).unwrap()
}

pub(super) fn examples(
    trainer: &Trainer,
    set: &[TrainingSet],
    features: &mut Features,
    items: &[Item],
) -> Vec<Example> {
    let features = features.of(items, set, trainer.model()).unwrap();
    items.iter().zip(features).map(|(item, features)| Example::of(item, set, features)).collect()
}

pub(super) fn relative(actual: &[f32], expected: &[f32]) -> f64 {
    let pairs = || actual.iter().zip(expected).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    let difference: f64 = pairs().map(|(a, b)| (a - b).powi(2)).sum();
    let norm: f64 = pairs().map(|(_, b)| b.powi(2)).sum();
    (difference / norm).sqrt()
}

pub(super) fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Returns PEFT's names of a parameter, in `training.json` and in a saved adapter.
pub(super) fn peft_names(name: &str) -> (String, String) {
    let stem = format!("base_model.model.model.{name}");
    match (name.strip_prefix("multi_modal_projector."), name.ends_with(".lora_A") || name.ends_with(".lora_B")) {
        (Some(leaf), _) => {
            let projector = "base_model.model.model.multi_modal_projector";
            (format!("{projector}.modules_to_save.default.{leaf}"), stem)
        }
        (None, true) => (format!("{stem}.default.weight"), format!("{stem}.weight")),
        (None, false) => (stem.clone(), stem),
    }
}

#[test]
fn twenty_steps_equal_those_of_transformers_and_peft() {
    let Some(shared) = shared() else { return };
    let folder = shared.join("models/train_ref");
    let expected = read_json(&folder.join("training.json"));
    let batches = candle_core::safetensors::load(folder.join("batches.safetensors"), &Device::Cpu).unwrap();
    let base = Checkpoint::open(shared.join("models/tiny-llava")).unwrap();
    let mut trainer = trainer(&base, Method::LORA, Some(&folder.join("start")), 3);
    let sets = [training_set(&trainer, cifar10(Some(&shared.join("data"))), 160)];
    let mut features = Features::new(None, &Placement::cpu());
    for (index, step) in expected["steps"].as_array().unwrap().iter().enumerate() {
        let items: Vec<Item> = (8 * index..8 * index + 8).map(|index| Item { set: 0, index }).collect();
        let batch = examples(&trainer, &sets, &mut features, &items);
        assert_tokens(&batch, &batches, index);
        if index == 0 {
            let gradients = trainer.gradients(&batch).unwrap().by_parameter;
            for (parameter, gradient) in trainer.trainable().parameters().iter().zip(&gradients) {
                let norm = flat(gradient).iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
                let reference = step["grad_norms"][peft_names(&parameter.name).0].as_f64().unwrap();
                assert!((norm - reference).abs() <= 1e-4 * reference, "{}: {norm} {reference}", parameter.name);
            }
        }
        let report = trainer.step(&batch, 1e-3).unwrap();
        let (loss, norm) = (step["loss"].as_f64().unwrap(), step["grad_norm"].as_f64().unwrap());
        assert!((report.loss - loss).abs() < 1e-4 * loss, "step {index}: {} {loss}", report.loss);
        assert!((report.grad_norm - norm).abs() < 1e-3 * norm, "step {index}: {} {norm}", report.grad_norm);
    }
    let end = candle_core::safetensors::load(folder.join("end/adapter_model.safetensors"), &Device::Cpu).unwrap();
    assert_eq!(end.len(), trainer.trainable().parameters().len());
    for parameter in trainer.trainable().parameters() {
        let reference = flat(&end[&peft_names(&parameter.name).1]);
        let error = relative(&flat(parameter.variable.as_tensor()), &reference);
        assert!(error < 1e-3, "{}: {error:e}", parameter.name);
    }
}

#[test]
fn features_of_an_image_are_the_same_to_the_bit_whatever_passes_the_tower_beside_it() {
    let trainer = trainer(&miniature(), Method::LINEAR, None, 1);
    let sets = [training_set(&trainer, cifar10(None), 40)];
    let items: Vec<Item> = (0..40).map(|index| Item { set: 0, index }).collect();
    let of = |items: &[Item]| {
        let seen = Features::new(None, &Placement::cpu()).of(items, &sets, trainer.model()).unwrap();
        seen.iter().map(|seen| flat(&seen[0].states[0])).collect::<Vec<_>>()
    };
    let together = of(&items);
    for n_together in [1, 3, 7] {
        let parts: Vec<Vec<f32>> = items.chunks(n_together).flat_map(of).collect();
        assert!(parts == together, "{n_together} at a time");
    }
}

/// Asserts that prompts and answers are the tokens on which transformers trained.
fn assert_tokens(batch: &[Example], batches: &HashMap<String, Tensor>, step: usize) {
    const IMAGE: i64 = 1000;
    let ids: Vec<Vec<i64>> = batches[&format!("step{step:02}.input_ids")].to_vec2().unwrap();
    let labels: Vec<Vec<i64>> = batches[&format!("step{step:02}.labels")].to_vec2().unwrap();
    for (example, (ids, labels)) in batch.iter().zip(ids.iter().zip(&labels)) {
        let answer: Vec<i64> = labels.iter().copied().filter(|&label| label >= 0).collect();
        assert_eq!(answer, example.answer.iter().map(|&id| i64::from(id)).collect::<Vec<_>>());
        let prompt: Vec<i64> = example.prompt.ids.iter().map(|id| id.map_or(IMAGE, i64::from)).collect();
        assert_eq!(prompt, ids[..prompt.len()]);
    }
}

/// Returns the loss of a batch at the trainer's current weights.
fn loss(trainer: &mut Trainer, sets: &[TrainingSet]) -> f64 {
    let items: Vec<Item> = (0..4).map(|index| Item { set: 0, index }).collect();
    let batch = examples(trainer, sets, &mut Features::new(None, &Placement::cpu()), &items);
    trainer.gradients(&batch).unwrap().loss
}

#[test]
fn a_step_does_not_depend_on_how_its_batch_is_cut_into_passes() {
    let losses: Vec<f64> = [1, 3, 4]
        .into_iter()
        .map(|micro_batch_size| {
            let mut trainer = trainer(&miniature(), Method::LORA, None, micro_batch_size);
            let sets = [training_set(&trainer, cifar10(None), 4)];
            loss(&mut trainer, &sets)
        })
        .collect();
    assert!(losses.iter().all(|loss| (loss - losses[0]).abs() < 1e-5 * losses[0]), "{losses:?}");
}

#[test]
fn every_language_model_is_trained_on_the_loss_of_what_it_scores() {
    let Some(shared) = shared() else { return };
    let image = RgbImage::new(8, 6, (0..144).map(|value| value as u8).collect()).unwrap();
    let names = ["llava_qwen2_siglip", "llava_mistral", "llava_layers_list", "llava_gemma", "gemma3", "paligemma"];
    for name in names {
        let open =
            || OpenedModel::open(&Checkpoint::open(shared.join("fixtures").join(name)).unwrap(), None, None).unwrap();
        let model = open().load(&Placement::cpu()).unwrap();
        let prompt = model.dialogue.render("What is it?").unwrap();
        let features = model.mllm.see(&[&model.preprocessor.prepare(&image)]).unwrap().remove(0);
        let rows = model.rows(&prompt, std::slice::from_ref(&features)).unwrap();
        let trie = model.dialogue.label_trie(&prompt, &["frog"]).unwrap();
        let mut prefix = model.mllm.read(None, &rows, trie.n_nodes(), Watched::by_none()).unwrap();
        let score = score(model.mllm.decoder(), &mut prefix, &trie).unwrap().remove(0).unwrap()[0];
        let answer = model.dialogue.answer_ids(&prompt, "frog").unwrap();
        let (prompt, features) = (Arc::new(prompt), vec![features]);
        let batch = [Example { prompt, answer: answer.clone(), features, is_replayed: false }];
        // Updates that begin at zero do not change the model.
        for (method, trained) in [(Method::LORA, "lora_B"), (Method::FULL, "norm.weight")] {
            let opened = open();
            let trainable = trainable(&opened, config(method), None);
            let objective = Objective::default();
            let numbers = hyperparameters(1e-3);
            let mut trainer = Trainer::new(opened, trainable, &numbers, objective, 1, &Placement::cpu()).unwrap();
            let Gradients { loss, by_parameter: gradients, .. } = trainer.gradients(&batch).unwrap();
            let of_answer = loss * answer.len() as f64;
            assert!((of_answer + f64::from(score)).abs() < 1e-3, "{name} {method:?}: {of_answer} and {score}");
            let mut n_trained = 0;
            for (parameter, gradient) in trainer.trainable().parameters().iter().zip(&gradients) {
                let largest = flat(gradient).into_iter().fold(0f32, |largest, value| largest.max(value.abs()));
                let must_move = parameter.name.contains(trained) && parameter.name.starts_with("language_model.");
                assert!(largest.is_finite() && (largest > 0.0 || !must_move), "{name} {}: {largest}", parameter.name);
                n_trained += usize::from(must_move);
            }
            assert!(n_trained > 3, "{name}");
        }
    }
}
