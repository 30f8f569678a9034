//! Two towers compared with features that were spliced into transformers' LLaVA (`tests/golden/make_mof.py`).

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};

use super::super::tests::Loaded;
use super::super::*;
use crate::model::checkpoint::weights::testing::{copy_of, golden, read_json, write};
use crate::model::checkpoint::weights::{Adapter, SECOND_PROJECTOR};
use crate::model::testing::{References, assert_close, ids};

/// The small LLaVA under the folder `adapter`, whose configuration names a second tower. `change` may change its tensors.
fn under(adapter: &Path, change: impl FnOnce(Overlay) -> Overlay) -> Loaded {
    let checkpoint = Checkpoint::open(golden("fixtures/llava")).unwrap();
    let opened = OpenedModel::open(&checkpoint, None, None).unwrap();
    let adapter = Adapter::open(adapter, family_of(&checkpoint).unwrap().canonical, &opened.weights).unwrap();
    assert!(!adapter.changes_nothing(&opened.weights).unwrap());
    let limits = PixelLimits::default();
    let overrides = Overrides { template: None, limits: &limits, generation: GenerationChoice::Checkpoint };
    let own = opened.own_settings("mixed", &adapter, &checkpoint, None, overrides).unwrap();
    let overlay = change(adapter.overlay(&Placement::cpu(), false).unwrap());
    Loaded::new(opened.load_each(vec![(overlay, own)], &Placement::cpu()).unwrap().remove(0))
}

/// Compares features, logits and greedy tokens with those of the reference `name`.
fn check(loaded: &Loaded, pixels: &Tensor, name: &str) {
    let expected = References::open(&golden("mof"));
    let features = &loaded.images(pixels)[0].embeddings;
    assert_close(features, &expected[&format!("{name}.features")].squeeze(0).unwrap(), &format!("{name} features"));
    let prompt = loaded.model.dialogue.render(&loaded.question).unwrap();
    let first = loaded.first_logits(&prompt, pixels);
    // The original layout lacks rows that the port has.
    let wanted = expected[&format!("{name}.first_logits")].narrow(1, 0, first.dim(1).unwrap()).unwrap();
    assert_close(&first, &wanted, &format!("{name} logits"));
    assert_eq!(loaded.generate(&[&prompt], pixels), ids(&expected[&format!("{name}.generated_ids")]), "{name}");
}

#[test]
fn interleaved_and_added_features_meet_their_references() {
    let pixels = References::open(&golden("fixtures/llava"))["pixel_values"].clone();
    for name in ["interleaved", "additive"] {
        let loaded = under(&golden("mof").join(name), |overlay| overlay);
        check(&loaded, &pixels, name);
        let seen = loaded.model.mllm.see(&[&super::super::tests::input(&pixels.get(0).unwrap())]).unwrap();
        let n_features = loaded.model.mllm.probe_features(&seen[0]).unwrap().len();
        assert_eq!(n_features, if name == "interleaved" { 16 } else { 8 });
    }
}

/// The original layout with what its authors' code adds, as two shards more.
fn of_authors() -> tempfile::TempDir {
    let folder = copy_of(&golden("fixtures/llava_original/full_safetensors_sharded"));
    let added = golden("mof/authors.safetensors");
    let index = folder.path().join("model.safetensors.index.json");
    let mut map = read_json(&index);
    let tensors = candle_core::safetensors::load(&added, &Device::Cpu).unwrap();
    let names: BTreeMap<&str, &Tensor> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    names.keys().for_each(|name| map["weight_map"][*name] = "added.safetensors".into());
    write(&index, map.to_string());
    candle_core::safetensors::save(&tensors, folder.path().join("added.safetensors")).unwrap();
    folder
}

#[test]
fn a_checkpoint_of_the_authors_is_read_with_its_tower() {
    let folder = of_authors();
    let original = golden("fixtures/llava_original");
    let pixels = References::open(&original)["pixel_values"].clone();
    let open = |dir: &Path| {
        let tower = Checkpoint::open(original.join("clip-tower")).unwrap();
        OpenedModel::open(&Checkpoint::open(dir)?, Some(&tower), Some("llava_v1"))
    };
    let opened = open(folder.path()).unwrap();
    assert_eq!(opened.plan.n_image_positions_max(), 18);
    let tower = &opened.settings_json()["mixture_of_features"]["second_tower"];
    assert_eq!((&tower["hidden_size"], &tower["use_swiglu_ffn"]), (&64.into(), &true.into()));
    check(&Loaded::new(opened.load(&Placement::cpu()).unwrap()), &pixels, "authors");
    // Its projector alone says which tower is missing.
    let path = folder.path().join("added.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    tensors.retain(|name, _| name.contains("dino_mm_projector"));
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let index = folder.path().join("model.safetensors.index.json");
    let mut map = read_json(&index);
    map["weight_map"].as_object_mut().unwrap().retain(|name, _| !name.contains("dino_tower"));
    write(&index, map.to_string());
    let error = format!("{:#}", open(folder.path()).err().unwrap());
    assert!(error.contains("second tower") || error.contains("DINOv2"), "{error}");
}

#[test]
fn gradients_of_a_second_projector_are_those_of_torch() {
    let expected = References::open(&golden("mof"));
    let pixels = References::open(&golden("fixtures/llava"))["pixel_values"].clone();
    let mut variables: BTreeMap<String, Var> = BTreeMap::new();
    let loaded = under(&golden("mof/interleaved"), |overlay| {
        let replaced = overlay.replacements().map(|(name, tensor)| {
            let tensor = match name.starts_with(SECOND_PROJECTOR) {
                true => variables.entry(name.to_owned()).or_insert(Var::from_tensor(tensor).unwrap()).as_tensor(),
                false => tensor,
            };
            (name.to_owned(), tensor.clone())
        });
        Overlay::new(BTreeMap::new(), replaced.collect(), false)
    });
    let model = &loaded.model;
    let prompt = model.dialogue.render(&loaded.question).unwrap();
    let seen = model.mllm.see(&[&super::super::tests::input(&pixels.get(0).unwrap())]).unwrap();
    let answer = [7u32, 9, 2];
    let example = ForcedAnswer { prompt: ImagePrompt { prompt: &prompt, images: &seen }, answer: &answer };
    let logits = model.mllm.teacher_forced(&[example], Watched::by_none()).unwrap().to_dtype(DType::F32).unwrap();
    let targets = Tensor::new(&answer, &Device::Cpu).unwrap();
    let loss = candle_nn::loss::cross_entropy(&logits, &targets).unwrap();
    assert_close(&loss.reshape(1).unwrap(), &expected["loss"], "loss");
    let gradients = loss.backward().unwrap();
    assert_eq!(variables.len(), 4);
    for (name, variable) in &variables {
        let rest = name.trim_start_matches(SECOND_PROJECTOR);
        let name = rest.replace("linear_1", "gradient.0").replace("linear_2", "gradient.2");
        assert_close(gradients.get(variable.as_tensor()).unwrap(), &expected[&name], &name);
    }
}

#[test]
fn a_second_tower_that_does_not_fit_is_refused_with_the_reason() {
    let refused = |change: &dyn Fn(&mut Value, &mut Value)| {
        let (adapter, tower) = (copy_of(&golden("mof/additive")), copy_of(&golden("mof/dino")));
        let [of_adapter, of_tower] = [&adapter, &tower].map(|folder| folder.path().join("config.json"));
        let (mut config, mut sizes) = (read_json(&of_adapter), read_json(&of_tower));
        config["mixture_of_features"]["second_tower"] = tower.path().display().to_string().into();
        change(&mut config, &mut sizes);
        write(&of_adapter, config.to_string());
        write(&of_tower, sizes.to_string());
        let checkpoint = Checkpoint::open(golden("fixtures/llava")).unwrap();
        let opened = OpenedModel::open(&checkpoint, None, None).unwrap();
        let limits = PixelLimits::default();
        let overrides = Overrides { template: None, limits: &limits, generation: GenerationChoice::Checkpoint };
        let adapter = Adapter::open(adapter.path(), family_of(&checkpoint).unwrap().canonical, &opened.weights);
        let settings = adapter.and_then(|adapter| opened.own_settings("mixed", &adapter, &checkpoint, None, overrides));
        format!("{:#}", settings.err().unwrap())
    };
    let cases: [(&dyn Fn(&mut Value, &mut Value), &str); 6] = [
        (&|_, tower| tower["patch_size"] = 4.into(), "cannot be mixed"),
        (&|_, tower| tower["hidden_size"] = 16.into(), "widths 8 and 16"),
        (&|_, tower| tower["model_type"] = "dinov2_with_registers".into(), "dinov2_with_registers"),
        (&|config, _| config["mixture_of_features"]["mixing"] = "blended".into(), "unknown mixing `blended`"),
        (&|config, _| config["mixture_of_features"]["second_tower"] = "nowhere".into(), "nowhere"),
        (&|config, _| config["mixture_of_features"]["second_tower"] = 3.into(), "second_tower"),
    ];
    for (change, reason) in cases {
        let error = refused(change);
        assert!(error.contains(reason), "{reason}: {error}");
    }
}
