//! Compares training with twenty steps by transformers and PEFT.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::dataset::{self, Catalog, DataRoots, Dataset, OpenRequest};
use crate::domain::RgbImage;
use crate::model::Placement;
use crate::model::checkpoint::overlay::Overlay;
use crate::model::checkpoint::weights::testing::{read_json, shared, unpacked};
use crate::model::checkpoint::weights::{Adapter, Checkpoint, Miniature, open_checkpoint};
use crate::model::families::{FAMILIES, OpenedModel, Seen};
use crate::model::run::scoring::score;

const LORA: LoraShape = LoraShape { rank: 4, alpha: 8.0, dropout: 0.0 };

fn hyperparameters(learning_rate: f64) -> Hyperparameters {
    let decay = Decay::Constant;
    Hyperparameters { learning_rate, warmup_ratio: 0.0, decay, lora: LORA, ..Hyperparameters::of(Method::Lora) }
}

fn config(method: Method) -> TrainableConfig {
    TrainableConfig { method, lora: LORA, trains_projector: true, seed: 1 }
}

/// The miniature, which most tests train.
fn miniature() -> Checkpoint {
    open_checkpoint(Path::new("embedded"), Miniature::Model).unwrap()
}

/// The miniature in 32 bits, as a trained checkpoint is stored.
fn in_32_bits() -> tempfile::TempDir {
    let folder = unpacked(Miniature::Model);
    let path = folder.path().join("model.safetensors");
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let widened = tensors.into_iter().map(|(name, tensor)| (name, tensor.to_dtype(DType::F32).unwrap()));
    candle_core::safetensors::save(&widened.collect(), &path).unwrap();
    folder
}

/// Test images of CIFAR-10: the embedded ones, or those in `data`.
fn cifar10(data: Option<&Path>) -> Dataset {
    let catalog = Catalog::embedded();
    let roots = DataRoots { data: data.map(Path::to_path_buf), ..DataRoots::default() };
    let text = if data.is_some() { "cifar10" } else { "embedded/cifar10" };
    let request = OpenRequest { text, split: Some("test"), labels_file: None, ..OpenRequest::default() };
    dataset::open(&catalog, &roots, &request).unwrap()
}

fn trainer(base: &Checkpoint, method: Method, start: Option<&Path>, micro_batch_size: usize) -> Trainer {
    let opened = OpenedModel::open(base, None, None).unwrap();
    let start = match start {
        Some(path) => {
            let adapter = Adapter::open(path, FAMILIES[0].canonical, &opened.weights).unwrap();
            adapter.overlay(&Placement::cpu(), false).unwrap()
        }
        None => Overlay::default(),
    };
    let trainable = Trainable::new(config(method), &opened.weights, start, &Device::Cpu).unwrap();
    Trainer::new(opened, trainable, &hyperparameters(1e-3), micro_batch_size, &Placement::cpu()).unwrap()
}

fn training_set(trainer: &Trainer, dataset: Dataset, n_samples: usize) -> TrainingSet {
    let labels: Vec<&str> = dataset.labels.names().collect();
    let question =
        format!("What is the object in the image? Please only answer a single object in {}.", labels.join(", "));
    let answer = AnswerTemplate::new(AnswerTemplate::DEFAULT).unwrap();
    let selected = (0..n_samples).collect();
    TrainingSet::new(dataset, selected, &question, &answer, &trainer.model().dialogue).unwrap()
}

fn examples(trainer: &Trainer, set: &[TrainingSet], features: &mut Features, items: &[Item]) -> Vec<Example> {
    let states = features.of(items, set, trainer.model()).unwrap();
    let example = |(item, features): (&Item, Seen)| {
        let set = &set[item.set];
        let label = set.dataset.samples[set.selected[item.index]].label;
        Example { prompt: Arc::clone(&set.prompt), answer: set.answers[label].clone(), features }
    };
    items.iter().zip(states).map(example).collect()
}

fn relative(actual: &[f32], expected: &[f32]) -> f64 {
    let pairs = || actual.iter().zip(expected).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    let difference: f64 = pairs().map(|(a, b)| (a - b).powi(2)).sum();
    let norm: f64 = pairs().map(|(_, b)| b.powi(2)).sum();
    (difference / norm).sqrt()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Returns PEFT's names of a parameter, in `training.json` and in a saved adapter.
fn peft_names(name: &str) -> (String, String) {
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
    let mut trainer = trainer(&base, Method::Lora, Some(&folder.join("start")), 3);
    let sets = [training_set(&trainer, cifar10(Some(&shared.join("data"))), 160)];
    let mut features = Features::new(None, &Placement::cpu());
    for (index, step) in expected["steps"].as_array().unwrap().iter().enumerate() {
        let items: Vec<Item> = (8 * index..8 * index + 8).map(|index| Item { set: 0, index }).collect();
        let batch = examples(&trainer, &sets, &mut features, &items);
        assert_tokens(&batch, &batches, index);
        if index == 0 {
            let n_answer_tokens = batch.iter().map(|example| example.answer.len()).sum();
            let (_, gradients) = trainer.gradients(&batch, n_answer_tokens).unwrap();
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
    let trainer = trainer(&miniature(), Method::Linear, None, 1);
    let sets = [training_set(&trainer, cifar10(None), 40)];
    let items: Vec<Item> = (0..40).map(|index| Item { set: 0, index }).collect();
    let of = |items: &[Item]| {
        let seen = Features::new(None, &Placement::cpu()).of(items, &sets, trainer.model()).unwrap();
        seen.iter().map(|seen| flat(&seen.states[0])).collect::<Vec<_>>()
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
    let n_answer_tokens = batch.iter().map(|example| example.answer.len()).sum();
    trainer.gradients(&batch, n_answer_tokens).unwrap().0
}

#[test]
fn what_is_written_reads_back_to_equal_weights_and_losses() {
    let stored = in_32_bits();
    let base = || Checkpoint::open(stored.path()).unwrap();
    for method in Method::ALL {
        let mut trained = trainer(&base(), method, None, 2);
        let sets = [training_set(&trained, cifar10(None), 4)];
        let items: Vec<Item> = (0..4).map(|index| Item { set: 0, index }).collect();
        let before = loss(&mut trained, &sets);
        for _ in 0..2 {
            let batch = examples(&trained, &sets, &mut Features::new(None, &Placement::cpu()), &items);
            trained.step(&batch, 1e-3).unwrap();
        }
        let provenance = serde_json::json!({"schema": ADAPTER_SCHEMA});
        let output = Output { base: base(), canonical: FAMILIES[0].canonical, provenance };
        let folder = tempfile::tempdir().unwrap();
        for (path, bytes) in output.files(trained.trainable(), 2, 1).unwrap() {
            let (below, name) = path.rsplit_once('/').unwrap_or((".", &path));
            crate::record::write_file(&folder.path().join(below), name, &bytes).unwrap();
        }
        let mut read = trainer(&base(), method, Some(folder.path()), 2);
        for (a, b) in read.trainable().parameters().iter().zip(trained.trainable().parameters()) {
            assert_eq!(a.name, b.name);
            assert_eq!(flat(a.variable.as_tensor()), flat(b.variable.as_tensor()), "{}", a.name);
        }
        let after = loss(&mut read, &sets);
        assert!(after < 0.99 * before, "{} trains: {before} {after}", method.name());
        assert!((after - loss(&mut trained, &sets)).abs() < 1e-6 * after);
    }
}

#[test]
fn a_step_does_not_depend_on_how_its_batch_is_cut_into_passes() {
    let losses: Vec<f64> = [1, 3, 4]
        .into_iter()
        .map(|micro_batch_size| {
            let mut trainer = trainer(&miniature(), Method::Lora, None, micro_batch_size);
            let sets = [training_set(&trainer, cifar10(None), 4)];
            loss(&mut trainer, &sets)
        })
        .collect();
    assert!(losses.iter().all(|loss| (loss - losses[0]).abs() < 1e-5 * losses[0]), "{losses:?}");
}

#[test]
fn every_language_model_of_llava_is_trained_on_the_loss_of_what_it_scores() {
    let Some(shared) = shared() else { return };
    let image = RgbImage::new(8, 6, (0..144).map(|value| value as u8).collect()).unwrap();
    for name in ["llava_qwen2_siglip", "llava_mistral", "llava_layers_list", "llava_gemma"] {
        let open =
            || OpenedModel::open(&Checkpoint::open(shared.join("fixtures").join(name)).unwrap(), None, None).unwrap();
        let model = open().load(&Placement::cpu()).unwrap();
        let prompt = model.dialogue.render("What is it?").unwrap();
        let features = model.mllm.see(&[&model.preprocessor.prepare(&image)]).unwrap().remove(0);
        let embedded = model.mllm.embed_images(std::slice::from_ref(&features)).unwrap();
        let trie = model.dialogue.label_trie(&prompt, &["frog"]).unwrap();
        let mut prefix = model.read_about(None, &[&prompt], &embedded, trie.n_nodes()).unwrap();
        let score = score(model.mllm.decoder(), &mut prefix, &trie).unwrap().remove(0).unwrap()[0];
        let answer = model.dialogue.answer_ids(&prompt, "frog").unwrap();
        let batch = [Example { prompt: Arc::new(prompt), answer: answer.clone(), features }];
        // Updates that begin at zero do not change the model.
        for (method, trained) in [(Method::Lora, "lora_B"), (Method::Full, "norm.weight")] {
            let opened = open();
            let trainable = Trainable::new(config(method), &opened.weights, Overlay::default(), &Device::Cpu).unwrap();
            let mut trainer = Trainer::new(opened, trainable, &hyperparameters(1e-3), 1, &Placement::cpu()).unwrap();
            let (loss, gradients) = trainer.gradients(&batch, answer.len()).unwrap();
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
