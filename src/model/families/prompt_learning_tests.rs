//! Prompt learning and the calibration of images, compared with PEFT and transformers.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::dataset::{self, Catalog, DataRoots, OpenRequest};
use crate::model::checkpoint::weights::testing::shared;
use crate::model::checkpoint::weights::{Adapter, read_tensors};
use crate::model::language::Pass;
use crate::model::layers::{Site, Watch, causal_mask};
use crate::model::run::prefix::{Padding, batch};
use crate::model::testing::{assert_close, ids};
use crate::prompting;

/// Three images of CIFAR-10 and the paper's question about them.
fn inputs(model: &Model, data: &Path) -> (RenderedPrompt, Vec<Seen>) {
    let roots = DataRoots { data: Some(data.to_path_buf()), ..DataRoots::default() };
    let request = OpenRequest { text: "cifar10", split: Some("test"), ..OpenRequest::default() };
    let dataset = dataset::open(&Catalog::embedded(), &roots, &request).unwrap();
    let question = prompting::load("emt").unwrap().render(&dataset.noun, &dataset.labels).unwrap().text;
    let images: Vec<ImageInput> =
        (0..3).map(|position| model.preprocessor.prepare(&dataset.read(position).unwrap())).collect();
    (model.dialogue.render(&question).unwrap(), model.mllm.see(&images.iter().collect::<Vec<_>>()).unwrap())
}

fn load(base: &Path, adapter: Option<&Path>) -> Model {
    let opened = OpenedModel::open(&Checkpoint::open(base).unwrap(), None, None).unwrap();
    let overlay = adapter.map(|path| {
        Adapter::open(path, FAMILIES[0].canonical, &opened.weights).unwrap().overlay(&Placement::cpu(), false).unwrap()
    });
    opened.load_all(vec![overlay.unwrap_or_default()], &Placement::cpu()).unwrap().remove(0)
}

/// Logits `(tokens, vocabulary)` of a whole sequence.
fn logits(model: &Model, row: &PromptRow, watch: Watched<'_>) -> Tensor {
    let n_tokens = row.n_tokens();
    let mask = causal_mask(n_tokens, DType::F32, &Device::Cpu).unwrap();
    let input = batch(std::slice::from_ref(row), n_tokens, Padding::Left).unwrap();
    let mut watch = watch;
    let hidden = model.mllm.decoder().forward(Pass::new(&input).masked(&mask).watched(&mut watch)).unwrap();
    model.mllm.decoder().logits(&hidden.squeeze(0).unwrap()).unwrap()
}

/// Compares logits of the last two positions of the prompt and of two steps, and greedy ids, with those of `reference`.
fn assert_model(model: &Model, data: &Path, reference: &dyn Fn(&str) -> Tensor, what: &str) {
    let (prompt, seen) = inputs(model, data);
    let rows = model.rows(&prompt, &seen).unwrap();
    let generated = ids(&reference("generated_ids"));
    let decoder = model.mllm.decoder();
    for (index, row) in rows.iter().enumerate() {
        let found = logits(model, row, Watched::by_none());
        let last = found.narrow(0, found.dim(0).unwrap() - 2, 2).unwrap();
        assert_close(&last, &reference("last2_logits").get(index).unwrap(), &format!("{what} {index}"));
        for step in 0..2 {
            let answer = decoder.embed(&generated[index][..=step]).unwrap();
            let found = logits(model, &row.clone().followed_by(&answer).unwrap(), Watched::by_none());
            let found = found.get(found.dim(0).unwrap() - 1).unwrap();
            let expected = reference("step1_2_logits").get(index).unwrap().get(step).unwrap();
            assert_close(&found, &expected, &format!("{what} {index} step {step}"));
        }
    }
    // The references never chose the end token.
    let by_hand: Vec<Vec<u32>> = rows.iter().map(|row| greedy(model, row, Some(EOS))).collect();
    assert_eq!(by_hand, generated, "{what}");
    let decoding = Decoding {
        max_new_tokens: 8,
        eos_ids: vec![u32::MAX],
        stop_strings: Vec::new(),
        processors: Default::default(),
    };
    let prefix = model.mllm.read(None, &rows, 8, Watched::by_none()).unwrap();
    let answers = model.generate(prefix, &decoding).unwrap();
    let found: Vec<Vec<u32>> = answers.into_iter().map(|answer| answer.unwrap().ids).collect();
    let by_hand: Vec<Vec<u32>> = rows.iter().map(|row| greedy(model, row, None)).collect();
    assert_eq!(found, by_hand, "{what}: with caches");
}

/// The end token of the checkpoint.
const EOS: u32 = 2;

/// Eight tokens by whole passes, without the token `banned`.
fn greedy(model: &Model, row: &PromptRow, banned: Option<u32>) -> Vec<u32> {
    let mut chosen: Vec<u32> = Vec::new();
    for _ in 0..8 {
        let row = match chosen.is_empty() {
            true => row.clone(),
            false => row.clone().followed_by(&model.mllm.decoder().embed(&chosen).unwrap()).unwrap(),
        };
        let found = logits(model, &row, Watched::by_none());
        let last = found.get(found.dim(0).unwrap() - 1).unwrap().to_vec1::<f32>().unwrap();
        let allowed = last.iter().enumerate().filter(|(id, _)| Some(*id as u32) != banned);
        chosen.push(allowed.max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0 as u32);
    }
    chosen
}

#[test]
fn prompt_learning_gives_the_logits_and_ids_of_peft() {
    let Some(shared) = shared() else { return };
    let folder = shared.join("fixtures/arms/prompt");
    let references = candle_core::safetensors::load(folder.join("reference.safetensors"), &Device::Cpu).unwrap();
    let names = [
        "random8",
        "text8",
        "sample_vocab8",
        "random8_projector",
        "ptuning_mlp8",
        "ptuning_lstm8",
        "prefix8",
        "prefix_mlp8",
    ];
    for name in names {
        let model = load(&shared.join("models/tiny-llava"), Some(&folder.join(name)));
        let reference = |key: &str| references[&format!("{name}.{key}")].clone();
        assert_model(&model, &shared.join("data"), &reference, name);
    }
}

#[test]
fn the_network_of_p_tuning_computes_the_virtual_tokens_that_peft_saves() {
    let Some(shared) = shared() else { return };
    let folder = shared.join("fixtures/arms/prompt");
    for name in ["ptuning_mlp8", "ptuning_lstm8"] {
        let path = folder.join(format!("{name}.encoder.safetensors"));
        let encoder = candle_core::safetensors::load(path, &Device::Cpu).unwrap().into_iter().collect();
        let rows = crate::model::layers::PromptEncoder::new(encoder).unwrap().rows().unwrap();
        let saved = folder.join(name).join("adapter_model.safetensors");
        let saved = read_tensors(&saved, DType::F32, &Device::Cpu).unwrap();
        assert_close(&rows, &saved["prompt_embeddings"], name);
    }
}

/// Keeps rows of the residual stream after each layer.
struct Kept {
    rows: [u32; 6],
    states: Vec<Tensor>,
}

impl Watch for Kept {
    fn visits(&self, site: Site, _: usize) -> bool {
        site == Site::Residual
    }

    fn at(&mut self, _: Site, _: usize, x: Tensor) -> candle_core::Result<Tensor> {
        self.states.push(x.squeeze(0)?.index_select(&Tensor::new(&self.rows, &Device::Cpu)?, 0)?);
        Ok(x)
    }
}

#[test]
fn the_calibration_of_images_is_that_of_its_authors() {
    let Some(shared) = shared() else { return };
    let (base, folder) = (shared.join("models/tiny-llava"), shared.join("fixtures/arms/moca"));
    let references = candle_core::safetensors::load(folder.join("reference.safetensors"), &Device::Cpu).unwrap();
    let model = load(&base, Some(&folder.join("moca.safetensors")));
    let reference = |key: &str| references[key].clone();
    assert_model(&model, &shared.join("data"), &reference, "moca");

    let (prompt, seen) = inputs(&model, &shared.join("data"));
    let row = model.rows(&prompt, &seen[..1]).unwrap().remove(0);
    let last = row.n_tokens() as u32 - 1;
    let mut kept = Kept { rows: [3, 4, 67, 68, last, last], states: Vec::new() };
    logits(&model, &row, Watched::by(&mut kept));
    for (layer, state) in kept.states.iter().enumerate() {
        let expected = reference(&format!("hidden_after_layer{layer}.image0_rows_3_4_67_68_last"));
        assert_close(&state.narrow(0, 0, 5).unwrap(), &expected, &format!("layer {layer}"));
    }

    let text = ids(&reference("text_only_ids")).remove(0);
    let row = PromptRow::plain(model.mllm.decoder().embed(&text).unwrap()).unwrap();
    let found = logits(&model, &row, Watched::by_none());
    let found = found.narrow(0, text.len() - 1, 1).unwrap();
    assert_close(&found, &reference("text_only_last_logits"), "text alone");
}
