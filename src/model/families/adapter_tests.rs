//! Adapters compared with reference tensors from PEFT and the original repository.

use candle_core::{DType, Device, Tensor};

use super::tests::Loaded;
use super::*;
use crate::model::checkpoint::weights::Adapter;
use crate::model::checkpoint::weights::testing::{copy_of, fixture_roots, fixtures, shared};
use crate::model::testing::{References, assert_close, ids};

/// Loads the base in `dir` with the adapter `adapter`.
fn load(dir: &std::path::Path, tower: Option<&std::path::Path>, adapter: &std::path::Path, is_merged: bool) -> Loaded {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let tower = tower.map(|tower| Checkpoint::open(tower).unwrap());
    let opened = OpenedModel::open(&checkpoint, tower.as_ref(), Some("llava_v1")).unwrap();
    let adapter = Adapter::open(adapter, family_of(&checkpoint).unwrap().canonical, &opened.weights).unwrap();
    assert!(!adapter.changes_nothing(&opened.weights).unwrap());
    let overlay = adapter.overlay(&Placement::cpu(), is_merged).unwrap();
    let mut models = opened.load_all(vec![Overlay::default(), overlay], &Placement::cpu()).unwrap();
    Loaded::new(models.pop().unwrap())
}

#[test]
fn every_variant_of_peft_meets_its_reference_beside_the_base_and_merged() {
    for fixtures in fixture_roots() {
        let base = fixtures.join("llava");
        let pixels = &References::open(&base)["pixel_values"];
        for variant in
            ["list", "regex_projector", "rslora_patterns", "dora", "all_linear_exclude", "bias_lora_only", "embeddings"]
        {
            let dir = fixtures.join("llava_peft").join(variant);
            let expected = References::open(&dir);
            for (is_merged, name) in [(false, "adapter.first_logits"), (true, "merged_float32.first_logits")] {
                let loaded = load(&base, None, &dir, is_merged);
                let prompt = loaded.model.dialogue.render(&loaded.question).unwrap();
                let first = loaded.first_logits(&prompt, pixels);
                assert_close(&first, &expected[name], &format!("{variant} {name}"));
                let generated = loaded.generate(&[&prompt], pixels);
                assert_eq!(generated, ids(&expected["adapter.generated_ids"]), "{variant}");
            }
        }
    }
}

/// A copy of the merged model, rounded.
fn rounded(merged: &std::path::Path, dtype: DType) -> tempfile::TempDir {
    let folder = copy_of(merged);
    let path = folder.path().join("model.safetensors");
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let tensors = tensors.into_iter().map(|(name, tensor)| (name, tensor.to_dtype(dtype).unwrap()));
    candle_core::safetensors::save(&tensors.collect(), &path).unwrap();
    folder
}

#[test]
fn a_merged_checkpoint_is_an_adapter_of_what_differs() {
    for fixtures in fixture_roots() {
        let base = fixtures.join("llava");
        let pixels = &References::open(&base)["pixel_values"];
        let expected = References::open(&fixtures.join("llava_peft/regex_projector"));
        let expected = &expected["merged_float32.first_logits"];
        let merged = fixtures.join("llava_peft/merged_float32_regex_projector");
        let first_logits = |dir: &std::path::Path| {
            let loaded = load(&base, None, dir, false);
            let prompt = loaded.model.dialogue.render(&loaded.question).unwrap();
            loaded.first_logits(&prompt, pixels)
        };
        assert_close(&first_logits(&merged), expected, "float32");
        for dtype in [DType::BF16, DType::F16] {
            let of_rounded = first_logits(rounded(&merged, dtype).path());
            let norm = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
            let error = norm(&(of_rounded - expected).unwrap()) / norm(expected);
            assert!(error > 0.0 && error < 0.1, "{dtype:?}: {error}");
        }
    }
}

#[test]
fn the_lora_folder_of_the_original_repository_meets_its_own_code() {
    for root in fixtures("llava_original") {
        let expected = References::open(&root);
        let base = root.join("full_safetensors_sharded");
        for is_merged in [false, true] {
            let loaded = load(&base, Some(&root.join("clip-tower")), &root.join("llava-tiny-lora"), is_merged);
            let prompt = loaded.model.dialogue.render(&loaded.question).unwrap();
            let pixels = &expected["pixel_values"];
            assert_close(&loaded.first_logits(&prompt, pixels), &expected["lora_merged.first_logits"], "lora_merged");
            assert_eq!(loaded.generate(&[&prompt], pixels), ids(&expected["lora_merged.generated_ids"]));
        }
    }
}

/// The number of images per adapter and dataset, 24 by default. `EMT_TEST_IMAGES=500` uses all that have a reference
/// answer.
fn n_images() -> usize {
    std::env::var("EMT_TEST_IMAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(24)
}

/// `(sample, answer)` pairs spread evenly over a file of reference answers.
#[expect(clippy::disallowed_methods, reason = "reads reference answers")]
fn reference_answers(path: &std::path::Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(path).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
    let field = |line: &serde_json::Value, name: &str| line[name].as_str().unwrap().to_owned();
    let step = (lines.len() / n_images()).max(1);
    lines.iter().step_by(step).map(|line| (field(line, "sample"), field(line, "answer"))).collect()
}

#[test]
fn answers_under_adapters_are_those_of_transformers_and_peft() {
    use crate::dataset::{Catalog, DataRoots, OpenRequest, open};
    let Some(shared) = shared() else { return };
    let (data, models) = (shared.join("data"), shared.join("models"));
    let names = ["lora-mnist", "linear-mnist", "lora-cifar10"];
    let checkpoint = Checkpoint::open(models.join("tiny-llava")).unwrap();
    let opened = OpenedModel::open(&checkpoint, None, None).unwrap();
    let overlays = names.map(|name| {
        let adapter =
            Adapter::open(&models.join("adapters").join(name), FAMILIES[0].canonical, &opened.weights).unwrap();
        adapter.overlay(&Placement::cpu(), false).unwrap()
    });
    let loaded = opened.load_all(overlays.into(), &Placement::cpu()).unwrap();
    let template = crate::prompting::load("emt").unwrap();
    let (mut n_asked, mut n_equal) = (0, 0);
    for dataset in ["mnist", "cifar10", "cifar100", "imagenet20"] {
        let text =
            if dataset == "imagenet20" { data.join("imagenet20/val").display().to_string() } else { dataset.into() };
        let roots = DataRoots { data: Some(data.clone()), ..DataRoots::default() };
        let request = OpenRequest { text: &text, split: None, labels_file: None, ..OpenRequest::default() };
        let images = open(&Catalog::embedded(), &roots, &request).unwrap();
        let question = template.render(&images.noun, &images.labels).unwrap().text;
        for (name, model) in names.iter().zip(&loaded) {
            let expected = reference_answers(&models.join(format!("adapters/{name}/answers/{dataset}.jsonl")));
            let position = |sample: &str| images.samples.iter().position(|other| other.id == sample).unwrap();
            let prompt = model.dialogue.render(&question).unwrap();
            let opening = model.opening(&prompt).unwrap();
            let decoding = model.dialogue.decoding(32);
            for expected in expected.chunks(50) {
                let pictures: Vec<_> = expected
                    .iter()
                    .map(|(sample, _)| model.preprocessor.prepare(&images.read(position(sample)).unwrap()))
                    .collect();
                let seen = model.mllm.see(&pictures.iter().collect::<Vec<_>>()).unwrap();
                let features = model.mllm.embed_images(&seen).unwrap();
                let prompts = vec![&prompt; expected.len()];
                let prefix = model.read_about(Some(&opening), &prompts, &features, decoding.max_new_tokens).unwrap();
                let rows = model.generate(prefix, &decoding).unwrap();
                for (row, (_, answer)) in rows.into_iter().zip(expected) {
                    n_asked += 1;
                    let said = model.dialogue.answer(&row.unwrap(), &decoding).unwrap().text;
                    n_equal += usize::from(said == *answer);
                }
            }
        }
    }
    eprintln!("{n_equal} of {n_asked} answers are those of transformers and peft");
    assert!(n_equal as f64 >= 0.995 * n_asked as f64, "{n_equal} of {n_asked}");
}
