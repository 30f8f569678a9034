//! Compares every arm with ten steps by transformers and PEFT, and what is written with what is read.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde_json::Value;

use super::tests::{base_of, cifar10, config, examples, flat, hyperparameters, in_32_bits, relative, trainable};
use super::trainer::Gradients;
use super::*;
use crate::dataset::{self, Catalog, DataRoots, Dataset, OpenRequest};
use crate::domain::{ArmSettings, EncoderKind, Method, RgbImage, Targets, VirtualTokenSettings, VirtualTokenStart};
use crate::model::Placement;
use crate::model::checkpoint::weights::Checkpoint;
use crate::model::checkpoint::weights::testing::{fixtures, pictures, read_json, rgb_image, shared, write};
use crate::model::families::{FAMILIES, OpenedModel, Seen};
use crate::model::vision::preprocess::PixelLimits;
use crate::prompting;

/// What holds a trace back from forgetting.
#[derive(Clone, Copy)]
enum Held {
    Not,
    KeepBase,
    L2Sp(f64),
    Ewc(f64),
    ReplayMixed,
    ReplayWeighted(f64),
}

/// A trace, its method, where it starts, whether the projector trains, what the arms train, and what holds it back.
type Trace = (&'static str, &'static str, &'static str, bool, ArmSettings, Held);

fn plain() -> ArmSettings {
    ArmSettings::default()
}

fn targets(targets: &str) -> ArmSettings {
    let targets = Targets::from(targets.to_owned());
    ArmSettings { lora_targets: targets.clone(), full_targets: targets, ..plain() }
}

fn above(n_frozen_layers: usize) -> ArmSettings {
    ArmSettings { n_frozen_layers, ..plain() }
}

fn virtual_tokens(encoder: EncoderKind, size: usize) -> ArmSettings {
    let start = VirtualTokenStart::Random;
    let settings = VirtualTokenSettings { start, encoder, encoder_size: Some(size), ..VirtualTokenSettings::default() };
    ArmSettings { virtual_tokens: Some(settings), ..plain() }
}

/// All traces of `fixtures/arms/traces`. An empty start is the base.
fn traces() -> Vec<Trace> {
    let tokens = || virtual_tokens(EncoderKind::Mlp, 64);
    let of_training = "../../../../models/train_ref/start";
    vec![
        ("linear", "linear", "", true, plain(), Held::Not),
        ("l2sp_linear", "linear", "", true, plain(), Held::L2Sp(0.5)),
        ("ewc_linear", "linear", "", true, plain(), Held::Ewc(1e4)),
        ("full_lm", "full", "", false, plain(), Held::Not),
        ("full_attn_only", "full", "", false, targets("attention"), Held::Not),
        ("full_gate_up_only", "full", "", false, targets("gate-up"), Held::Not),
        ("freeze_bottom_3", "full", "", false, above(3), Held::Not),
        ("lora_attn_only", "lora", "start", false, targets("attention"), Held::Not),
        ("lora_gate_up_only", "lora", "start", false, targets("gate-up"), Held::Not),
        ("lora_last_2_layers", "lora", "start", false, above(2), Held::Not),
        ("ewc_lora_qv", "lora", "start", false, targets(r"self_attn\.[qv]_proj"), Held::Ewc(1e5)),
        ("lwf_lora", "lora", of_training, true, plain(), Held::KeepBase),
        ("replay_mix_lora", "lora", of_training, true, plain(), Held::ReplayMixed),
        ("replay_weighted_lora", "lora", of_training, true, plain(), Held::ReplayWeighted(0.5)),
        ("prompt_tuning20", "prompt", "start", false, tokens(), Held::Not),
        ("prompt_tuning20_text", "prompt", "start", false, tokens(), Held::Not),
        ("projector_prompt20", "linear+prompt", "start", true, tokens(), Held::Not),
        ("ptuning_mlp20", "p-tuning", "start", false, tokens(), Held::Not),
        ("ptuning_lstm20", "p-tuning", "start", false, virtual_tokens(EncoderKind::Lstm, 16), Held::Not),
        ("prefix20", "prefix", "start", false, tokens(), Held::Not),
        ("moca_only", "moca", "", false, plain(), Held::Not),
        ("projector_moca", "linear+moca", "", true, plain(), Held::Not),
    ]
}

fn open(dir: &Path) -> OpenedModel {
    OpenedModel::open(&Checkpoint::open(dir).unwrap(), None, None).unwrap()
}

fn mnist(data: &Path) -> Dataset {
    let roots = DataRoots { data: Some(data.to_path_buf()), ..DataRoots::default() };
    let request = OpenRequest { text: "mnist", split: Some("test"), ..OpenRequest::default() };
    dataset::open(&Catalog::embedded(), &roots, &request).unwrap()
}

fn set(opened: &OpenedModel, dataset: Dataset, selected: Vec<usize>, answer: &str) -> TrainingSet {
    let question = prompting::load("emt").unwrap().render(&dataset.noun, &dataset.labels).unwrap().text;
    let answer = AnswerTemplate::new(answer).unwrap();
    TrainingSet::of_images(dataset, selected, &question, &answer, &opened.dialogue).unwrap()
}

/// The importance of weights for the first answers about 50 images of MNIST, as the fixtures' own.
fn importance_of(base: &Path, data: &Path, trainable: &Trainable) -> BTreeMap<String, Tensor> {
    let opened = open(base);
    let tokenize = |_: &str| anyhow::bail!("nothing is tokenised");
    let anchored = Anchored::new(trainable, &base_of(&opened, &tokenize)).unwrap();
    let dataset = mnist(data);
    let position = |n: usize| dataset.samples.iter().position(|one| one.id == format!("mnist/test/{n:05}")).unwrap();
    let selected: Vec<usize> = (1000..1050).map(position).collect();
    let sets = [set(&opened, dataset.clone(), selected, "{label}")];
    let mut features = Features::new(None, &Placement::cpu());
    importance(open(base), &anchored, &sets, &mut features, &Placement::cpu()).unwrap()
}

fn objective(held: Held, base: &Path, data: &Path, trainable: &Trainable) -> Objective {
    let opened = open(base);
    let tokenize = |_: &str| anyhow::bail!("nothing is tokenised");
    let weights = base_of(&opened, &tokenize);
    let anchor = |strength, importance: Option<&BTreeMap<String, Tensor>>| {
        vec![Anchor::new(trainable, &weights, strength, importance).unwrap()]
    };
    match held {
        Held::Not | Held::ReplayMixed => Objective::default(),
        Held::KeepBase => Objective { keep_base: Some(1.0), ..Objective::default() },
        Held::ReplayWeighted(weight) => Objective { replay_weight: Some(weight), ..Objective::default() },
        Held::L2Sp(strength) => Objective { anchors: anchor(strength, None), ..Objective::default() },
        Held::Ewc(strength) => {
            let importance = importance_of(base, data, trainable);
            Objective { anchors: anchor(strength, Some(&importance)), ..Objective::default() }
        }
    }
}

/// The batch of step `index`, as in the fixtures.
fn batch(trainer: &Trainer, sets: &[TrainingSet], features: &mut Features, held: Held, index: usize) -> Vec<Example> {
    let (n_new, n_old) = match held {
        Held::ReplayMixed => (6, 2),
        Held::ReplayWeighted(_) => (8, 4),
        _ => (8, 0),
    };
    let of = |set: usize, first: usize, n: usize| (first..first + n).map(move |index| Item { set, index });
    let items: Vec<Item> = of(0, 8 * index, n_new).chain(of(1, n_old * index, n_old)).collect();
    let examples = examples(trainer, sets, features, &items);
    items.iter().zip(examples).map(|(item, one)| Example { is_replayed: item.set == 1, ..one }).collect()
}

/// The possible names of a parameter in a trace.
fn names_in_trace(name: &str) -> [String; 7] {
    let leaf = name.trim_start_matches("multi_modal_projector.");
    [
        name.to_owned(),
        format!("model.{name}"),
        format!("base_model.model.model.{name}.default.weight"),
        format!("base_model.model.model.multi_modal_projector.modules_to_save.default.{leaf}"),
        format!("base_model.model.multi_modal_projector.modules_to_save.default.{leaf}"),
        format!("prompt_encoder.default.{}", name.trim_start_matches("prompt_encoder.")),
        "prompt_encoder.default.embedding.weight".to_owned(),
    ]
}

/// The possible names of a parameter in the file of a trace's end.
fn names_at_end(name: &str) -> [String; 6] {
    [
        format!("model.{name}"),
        format!("base_model.model.model.{name}.weight"),
        format!("base_model.model.model.{name}"),
        format!("base_model.model.{name}"),
        name.trim_start_matches("prompt_encoder.").to_owned(),
        "prompt_embeddings".to_owned(),
    ]
}

fn found<'a, T>(names: &[String], of: impl Fn(&str) -> Option<&'a T>) -> Option<&'a T> {
    names.iter().find_map(|name| of(name))
}

/// Compares the last weights, and returns the largest relative error of a tensor.
fn assert_end(folder: &Path, expected: &Value, trainer: &Trainer) -> f64 {
    let mut worst: f64 = 0.0;
    let mut end: HashMap<String, Tensor> = HashMap::new();
    for file in ["end.safetensors", "end.encoder.safetensors", "end/adapter_model.safetensors"] {
        if let Ok(tensors) = candle_core::safetensors::load(folder.join(file), &Device::Cpu) {
            end.extend(tensors);
        }
    }
    for Parameter { name, variable } in trainer.trainable().parameters() {
        let values = flat(variable.as_tensor());
        if let Some(reference) = found(&names_at_end(name), |name| end.get(name)) {
            let error = relative(&values, &flat(reference));
            worst = worst.max(error);
            continue;
        }
        let sums = found(&names_in_trace(name), |name| expected["end_checksums"].get(name));
        let sums = sums.unwrap_or_else(|| panic!("{}: no end of {name}", folder.display()));
        let norm = values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
        let reference = sums["norm"].as_f64().unwrap();
        assert!((norm - reference).abs() < 1e-4 * reference, "{} {name}: {norm} {reference}", folder.display());
        for (value, expected) in values.iter().zip(sums["first4"].as_array().unwrap()) {
            let difference = (f64::from(*value) - expected.as_f64().unwrap()).abs();
            assert!(difference < 1e-3, "{} {name}: {difference}", folder.display());
        }
    }
    worst
}

#[test]
fn ten_steps_of_every_arm_equal_those_of_transformers_and_peft() {
    let Some(shared) = shared() else { return };
    let (base, data) = (shared.join("models/tiny-llava"), shared.join("data"));
    let mut seen: HashMap<String, Features> = HashMap::new();
    let mut worst: Vec<(&str, f64)> = Vec::new();
    for (name, method, start, trains_projector, settings, held) in traces() {
        let folder = shared.join("fixtures/arms/traces").join(name);
        let expected = read_json(&folder.join("training.json"));
        let opened = open(&base);
        let config = TrainableConfig { trains_projector, settings, ..config(method.parse().unwrap()) };
        let start: Option<PathBuf> = (!start.is_empty()).then(|| folder.join(start));
        let trainable = begun(&opened, config, start.as_deref());
        let objective = objective(held, &base, &data, &trainable);
        let sets = [
            set(&opened, cifar10(Some(&data)), (0..80).collect(), AnswerTemplate::DEFAULT),
            set(&opened, mnist(&data), (0..40).collect(), "The {noun} is {label}."),
        ];
        let rate = expected["lr"].as_f64().unwrap();
        let mut trainer =
            Trainer::new(opened, trainable, &hyperparameters(rate), objective, 4, &Placement::cpu()).unwrap();
        let features = seen.entry(String::new()).or_insert_with(|| Features::new(None, &Placement::cpu()));
        for (index, step) in expected["steps"].as_array().unwrap().iter().enumerate() {
            let batch = batch(&trainer, &sets, features, held, index);
            if index == 0 {
                assert_gradients(name, &mut trainer, &batch, &step["grad_norms"]);
            }
            let report = trainer.step(&batch, rate).unwrap();
            let (loss, norm) = (step["loss"].as_f64().unwrap(), step["grad_norm"].as_f64().unwrap());
            assert!((report.loss - loss).abs() < 1e-4 * loss, "{name} step {index}: {} {loss}", report.loss);
            assert!((report.grad_norm - norm).abs() < 1e-3 * norm, "{name} step {index}: {} {norm}", report.grad_norm);
            if let (Some(penalty), Some(expected)) = (report.penalty, step["penalty"].as_f64()) {
                assert!(
                    (penalty - expected).abs() <= 1e-3 * expected + 1e-9,
                    "{name} step {index}: {penalty} {expected}"
                );
            }
        }
        worst.push((name, assert_end(&folder, &expected, &trainer)));
    }
    // Importance times 1e5 leaves gradients of A near 0, and Adam turns each into a step of the whole rate.
    let limit = |name: &str| if name == "ewc_lora_qv" { 5e-3 } else { 1e-3 };
    assert!(worst.iter().all(|(name, error)| *error < limit(name)), "{worst:?}");
}

/// The variables of a trace, begun at the fixture's start with the network of P-tuning beside it.
fn begun(opened: &OpenedModel, config: TrainableConfig, start: Option<&Path>) -> Trainable {
    let encoder = start.map(|start| start.with_file_name("start.encoder.safetensors"));
    let Some(encoder) = encoder.filter(|path| path.is_file()) else { return trainable(opened, config, start) };
    let encoder = candle_core::safetensors::load(encoder, &Device::Cpu).unwrap().into_iter().collect();
    let tokenize = |_: &str| anyhow::bail!("nothing is tokenised");
    Trainable::new(config, &base_of(opened, &tokenize), Start { encoder, ..Start::default() }).unwrap()
}

fn assert_gradients(name: &str, trainer: &mut Trainer, batch: &[Example], expected: &Value) {
    let Gradients { by_parameter, .. } = trainer.gradients(batch).unwrap();
    for (parameter, gradient) in trainer.trainable().parameters().iter().zip(&by_parameter) {
        let norm = flat(gradient).iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
        let reference = found(&names_in_trace(&parameter.name), |name| expected.get(name));
        let reference =
            reference.unwrap_or_else(|| panic!("{name}: no gradient of {}", parameter.name)).as_f64().unwrap();
        let limit = 1e-3 * reference + 1e-7;
        assert!((norm - reference).abs() <= limit, "{name} {}: {norm} {reference}", parameter.name);
    }
}

#[test]
fn the_importance_of_weights_is_that_of_the_reference() {
    let Some(shared) = shared() else { return };
    let base = shared.join("models/tiny-llava");
    let trainable = trainable(&open(&base), config(Method::LINEAR), None);
    let found = importance_of(&base, &shared.join("data"), &trainable);
    let path = shared.join("fixtures/arms/traces/ewc_linear/fisher.safetensors");
    let expected = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    assert_eq!(found.len(), expected.len());
    for (name, found) in &found {
        let error = relative(&flat(found), &flat(&expected[name]));
        assert!(error < 1e-4, "{name}: {error:e}");
    }

    let folder = shared.join("fixtures/arms/traces/ewc_lora_qv");
    let targets = targets(r"self_attn\.[qv]_proj");
    let config = TrainableConfig { settings: targets, trains_projector: false, ..config(Method::LORA) };
    let trainable = self::trainable(&open(&base), config, Some(&folder.join("start")));
    let found = importance_of(&base, &shared.join("data"), &trainable);
    let expected = read_json(&folder.join("training.json"))["fisher"].clone();
    assert_eq!(found.len(), expected.as_object().unwrap().len());
    for (name, importance) in &found {
        let values = flat(importance);
        let module = format!("base_model.model.model.{}", name.trim_end_matches(".weight"));
        let sum: f64 = values.iter().map(|&value| f64::from(value)).sum();
        let reference = expected[&module]["sum"].as_f64().unwrap();
        assert!((sum - reference).abs() < 1e-4 * reference, "{name}: {sum} {reference}");
        for (value, expected) in values.iter().zip(expected[&module]["first4"].as_array().unwrap()) {
            let expected = expected.as_f64().unwrap();
            assert!((f64::from(*value) - expected).abs() < 1e-3 * expected, "{name}: {value} {expected}");
        }
    }
}

/// The folder of a family, its traces, and whether its prompt is the one of the fixtures.
const FAMILIES_TRAINED: [(&str, &[&str]); 4] = [
    ("qwen2_5_vl", &["lora", "lora_connector"]),
    ("qwen3_vl", &["lora"]),
    ("smolvlm", &["lora", "lora_connector"]),
    ("llava_onevision", &["lora", "lora_connector"]),
];

fn open_family(dir: &Path) -> OpenedModel {
    let own = &read_json(&dir.join("processor_config.json"))["image_processor"]["size"];
    let is_qwen = dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("qwen"));
    let pixels = |key: &str| own[key].as_u64().filter(|_| is_qwen);
    let limits = PixelLimits { min_pixels: pixels("shortest_edge"), max_pixels: pixels("longest_edge") };
    let checkpoint = Checkpoint::open(dir).unwrap();
    OpenedModel::open_within(&checkpoint, None, None, &limits, Default::default()).unwrap()
}

/// The one batch of a family: the fixtures' prompt, pictures and answers.
fn family_batch(trainer: &Trainer, dir: &Path, batch: &Value, tensors: &HashMap<String, Tensor>) -> Vec<Example> {
    let model = trainer.model();
    let question = "What is the object in the image? Please choose from: airplane, automobile, bird, cat, deer, dog, frog, \
                    horse, ship, truck. Answer with a single word.";
    // The fixture's template is not SmolVLM's own, so that its prompt is given as text.
    let is_smolvlm = dir.ends_with("smolvlm");
    let prompt = match is_smolvlm {
        true => model.dialogue.prompt_of(batch["prompt"].as_str().unwrap().to_owned(), None).unwrap(),
        false => model.dialogue.render(question).unwrap(),
    };
    let prompt = Arc::new(prompt);
    let labels: Vec<Vec<i64>> = tensors["labels"].to_vec2().unwrap();
    let names: Vec<&str> = batch["images"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let paths = pictures(dir);
    let example = |(row, name): (usize, &&str)| {
        let path = paths.iter().find(|path| path.ends_with(name)).unwrap();
        let features = model.mllm.see(&[&model.preprocessor.prepare(&rgb_image(path))]).unwrap();
        let answer: Vec<u32> = labels[row].iter().filter(|&&label| label >= 0).map(|&label| label as u32).collect();
        let text = batch["answers"][row].as_str().unwrap();
        if !is_smolvlm {
            assert_eq!(model.dialogue.answer_ids(&prompt, text).unwrap(), answer, "{}: {text}", dir.display());
        }
        Example { prompt: Arc::clone(&prompt), answer, features, is_replayed: false }
    };
    names.iter().enumerate().map(example).collect()
}

#[test]
fn five_steps_of_every_family_equal_those_of_transformers_and_peft() {
    let Some(shared) = shared() else { return };
    for (family, traces) in FAMILIES_TRAINED {
        let (dir, arms) = (shared.join("fixtures").join(family), shared.join("fixtures/arms/families").join(family));
        let described = read_json(&arms.join("batch.json"));
        let tensors = candle_core::safetensors::load(arms.join("batch.safetensors"), &Device::Cpu).unwrap();
        for trace in traces {
            let folder = arms.join(trace);
            let expected = read_json(&folder.join("training.json"));
            let opened = open_family(&dir);
            let names = FAMILIES.iter().find(|known| known.name == opened.family).unwrap().in_memory;
            let trains_projector = *trace == "lora_connector";
            let config = TrainableConfig { trains_projector, ..config(Method::LORA) };
            let trainable = trainable(&opened, config, Some(&folder.join("start")));
            let (numbers, objective) = (hyperparameters(1e-2), Objective::default());
            let mut trainer = Trainer::new(opened, trainable, &numbers, objective, 3, &Placement::cpu()).unwrap();
            let batch = family_batch(&trainer, &dir, &described, &tensors);
            for (index, step) in expected["steps"].as_array().unwrap().iter().enumerate() {
                let report = trainer.step(&batch, 1e-2).unwrap();
                let (loss, norm) = (step["loss"].as_f64().unwrap(), step["grad_norm"].as_f64().unwrap());
                assert!((report.loss - loss).abs() < 1e-4 * loss, "{family} {trace} {index}: {} {loss}", report.loss);
                let difference = (report.grad_norm - norm).abs();
                assert!(difference < 1e-3 * norm, "{family} {trace} {index}: {} {norm}", report.grad_norm);
            }
            let end =
                candle_core::safetensors::load(folder.join("end/adapter_model.safetensors"), &Device::Cpu).unwrap();
            assert_eq!(end.len(), trainer.trainable().parameters().len(), "{family} {trace}");
            for Parameter { name, variable } in trainer.trainable().parameters() {
                let stem = format!("base_model.model.{}", names.in_memory(name));
                let reference = end.get(&format!("{stem}.weight")).or_else(|| end.get(&stem)).unwrap();
                let error = relative(&flat(variable.as_tensor()), &flat(reference));
                assert!(error < 1e-3, "{family} {trace} {name}: {error:e}");
            }
        }
    }
}

/// Methods of one arm and of several.
const METHODS: [&str; 13] = [
    "linear",
    "lora",
    "full",
    "prompt",
    "p-tuning",
    "prefix",
    "moca",
    "linear+prompt",
    "lora+prompt",
    "lora+moca",
    "linear+moca",
    "full+moca",
    "full+prefix",
];

fn family_output(dir: &Path, opened: &OpenedModel) -> Output {
    let family = FAMILIES.iter().find(|family| family.name == opened.family).unwrap();
    Output {
        base: Checkpoint::open(dir).unwrap(),
        canonical: family.canonical,
        names: family.in_memory,
        n_heads: opened.plan.n_heads(),
        n_layers: opened.plan.n_layers(),
        provenance: serde_json::json!({"schema": ADAPTER_SCHEMA}),
    }
}

fn small(method: &str) -> TrainableConfig {
    let settings = VirtualTokenSettings { n_tokens: 3, encoder_size: Some(8), ..VirtualTokenSettings::default() };
    let settings = ArmSettings { virtual_tokens: Some(settings), ..plain() };
    TrainableConfig { settings, ..config(method.parse().unwrap()) }
}

/// Trains two steps of `method` on one image, checks that each tensor gets a gradient, and that what is written reads back to
/// equal values and an equal loss.
fn assert_trains(dir: &Path, method: &str) {
    let checkpoint = || Checkpoint::open(dir).unwrap();
    let open = || OpenedModel::open(&checkpoint(), None, None).unwrap();
    let trainer = |start: Option<&Path>| {
        let opened = open();
        let trainable = trainable(&opened, small(method), start);
        let (numbers, objective) = (hyperparameters(1e-3), Objective::default());
        Trainer::new(opened, trainable, &numbers, objective, 1, &Placement::cpu()).unwrap()
    };
    let mut trained = trainer(None);
    let image = RgbImage::new(40, 30, (0..3600).map(|value| (value % 251) as u8).collect()).unwrap();
    let batch = |trainer: &Trainer| {
        let model = trainer.model();
        let prompt = Arc::new(model.dialogue.render("What is it?").unwrap());
        let answer = model.dialogue.answer_ids(&prompt, "a frog").unwrap();
        let features: Vec<Seen> = model.mllm.see(&[&model.preprocessor.prepare(&image)]).unwrap();
        [Example { prompt, answer, features, is_replayed: false }]
    };
    let examples = batch(&trained);
    let before = trained.gradients(&examples).unwrap().loss;
    for _ in 0..2 {
        // A tensor without a gradient stops it.
        trained.step(&examples, 1e-3).unwrap_or_else(|error| panic!("{} {method}: {error}", dir.display()));
    }
    let output = family_output(dir, &open());
    let folder = tempfile::tempdir().unwrap();
    for (path, bytes) in output.files(trained.trainable(), 2, 1).unwrap() {
        let (below, name) = path.rsplit_once('/').unwrap_or((".", &path));
        crate::record::write_file(&folder.path().join(below), name, &bytes).unwrap();
    }
    let mut read = trainer(Some(folder.path()));
    for (a, b) in read.trainable().parameters().iter().zip(trained.trainable().parameters()) {
        assert_eq!(a.name, b.name);
        assert_eq!(flat(a.variable.as_tensor()), flat(b.variable.as_tensor()), "{} {method} {}", dir.display(), a.name);
    }
    let after = read.gradients(&batch(&read)).unwrap().loss;
    assert!(after < before, "{} {method} learns: {before} {after}", dir.display());
    assert!((after - trained.gradients(&examples).unwrap().loss).abs() < 1e-5 * after, "{} {method}", dir.display());
}

#[test]
fn every_method_trains_every_tensor_and_reads_back_what_it_writes() {
    let stored = in_32_bits();
    METHODS.into_iter().for_each(|method| assert_trains(stored.path(), method));
}

#[test]
fn every_family_is_trained_by_every_arm() {
    for family in ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm", "llava_onevision"] {
        for dir in fixtures(family) {
            for method in METHODS.into_iter().filter(|method| !method.contains("full")) {
                // These count positions in rows and columns, which PEFT's prefixes do not know.
                if !(family.starts_with("qwen") && method.contains("prefix")) {
                    assert_trains(&dir, method);
                }
            }
        }
    }
}

#[test]
fn families_whose_layers_attend_to_images_train_all_that_they_should() {
    let Some(shared) = shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    let template = folder.path().join("template.jinja");
    write(&template, "<|image|>{{ messages[0].content[1].text }}");
    for (family, template) in [("otter_llama", None), ("otter_mpt", None), ("mllama", template.to_str())] {
        for method in ["lora", "full"] {
            let dir = shared.join("fixtures").join(family);
            let opened = OpenedModel::open(&Checkpoint::open(&dir).unwrap(), None, template).unwrap();
            let config = TrainableConfig { trains_projector: true, ..config(method.parse().unwrap()) };
            let trainable = trainable(&opened, config, None);
            let (numbers, objective) = (hyperparameters(1e-2), Objective::default());
            // The trainer refuses a tensor that gets no gradient.
            let mut trainer = Trainer::new(opened, trainable, &numbers, objective, 5, &Placement::cpu()).unwrap();
            let model = trainer.model();
            let prompt = Arc::new(model.dialogue.render("What is it?").unwrap());
            let example = |(path, answer): (&PathBuf, &str)| Example {
                prompt: Arc::clone(&prompt),
                answer: model.dialogue.answer_ids(&prompt, answer).unwrap(),
                features: model.mllm.see(&[&model.preprocessor.prepare(&rgb_image(path))]).unwrap(),
                is_replayed: false,
            };
            let batch: Vec<Example> = pictures(&dir).iter().zip(["cat", "dog"]).map(example).collect();
            let losses: Vec<f64> = (0..5).map(|_| trainer.step(&batch, 1e-2).unwrap().loss).collect();
            assert!(losses[4] < losses[0], "{family} {method}: {losses:?}");
        }
    }
}
