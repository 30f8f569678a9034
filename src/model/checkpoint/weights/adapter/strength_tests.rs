//! Adapters at a part of their strength: over a base, written, and read back.
#![expect(clippy::disallowed_methods, reason = "tests make adapter folders on disk")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::json;

use super::super::canonical_llava;
use super::*;
use crate::domain::{Component, ModelPart, Share, Strength};

const Q: &str = "language_model.layers.0.self_attn.q_proj";
const UP: &str = "language_model.layers.1.mlp.up_proj";
const PROJECTOR: &str = "multi_modal_projector.linear_1.weight";

fn matrix(values: [[f32; 2]; 2]) -> Tensor {
    Tensor::new(&values, &Device::Cpu).unwrap()
}

fn save(path: &Path, tensors: &[(&str, Tensor)]) {
    let tensors = tensors.iter().map(|(name, tensor)| (name.to_string(), tensor.clone())).collect();
    candle_core::safetensors::save(&tensors, path).unwrap();
}

/// The tensors of a base of two layers.
fn tensors() -> Vec<(&'static str, Tensor)> {
    vec![
        ("language_model.model.layers.0.self_attn.q_proj.weight", matrix([[1.0, 2.0], [3.0, 4.0]])),
        ("language_model.model.layers.1.mlp.up_proj.weight", matrix([[0.5, -0.5], [0.25, 1.0]])),
        ("multi_modal_projector.linear_1.weight", matrix([[1.0, 0.0], [0.0, 1.0]])),
    ]
}

fn base(dir: &Path) -> Weights {
    fs::create_dir_all(dir).unwrap();
    save(&dir.join("model.safetensors"), &tensors());
    fs::write(dir.join("config.json"), "{}").unwrap();
    Weights::new(&Checkpoint::open(dir).unwrap(), canonical_llava).unwrap()
}

/// Low-rank updates of both layers, and a projector that is stored whole.
fn lora(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let config = json!({
        "peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q_proj", "up_proj"], "bias": "none",
        "modules_to_save": ["multi_modal_projector"],
    });
    fs::write(dir.join(PEFT_CONFIG), config.to_string()).unwrap();
    fs::write(dir.join("emt.json"), r#"{"tuned_on": ["cifar10"]}"#).unwrap();
    let stem = "base_model.model.model.language_model.layers";
    let (a, b) =
        (Tensor::new(&[[1f32, 0.5]], &Device::Cpu).unwrap(), Tensor::new(&[[0.5f32], [2.0]], &Device::Cpu).unwrap());
    save(
        &dir.join("adapter_model.safetensors"),
        &[
            (&format!("{stem}.0.self_attn.q_proj.lora_A.weight"), a.clone()),
            (&format!("{stem}.0.self_attn.q_proj.lora_B.weight"), b.clone()),
            (&format!("{stem}.1.mlp.up_proj.lora_A.weight"), a),
            (&format!("{stem}.1.mlp.up_proj.lora_B.weight"), b),
            ("base_model.model.model.multi_modal_projector.linear_1.weight", matrix([[3.0, 1.0], [0.0, 1.0]])),
        ],
    );
}

fn part(strength: Strength) -> ModelPart {
    ModelPart { strength: Some(strength), ..ModelPart::default() }
}

fn share(value: f64) -> Share {
    Share::new(value).unwrap()
}

/// The weights that an overlay makes of the base's, by tensor.
fn effective(adapter: &Adapter, by: Option<Weakening<'_>>, base: &Weights) -> BTreeMap<String, Vec<f32>> {
    let overlay = adapter.overlay_at(by, &Placement::cpu(), false).unwrap();
    let mut found = BTreeMap::new();
    for (module, update) in overlay.updates() {
        let product = (update.b.matmul(&update.a).unwrap() * update.scale).unwrap();
        let product: Vec<f32> = product.flatten_all().unwrap().to_vec1().unwrap();
        let name = format!("{module}.weight");
        let sum = base.values(&name).unwrap().into_iter().zip(product).map(|(weight, update)| weight + update);
        found.insert(name, sum.collect());
    }
    for (name, tensor) in overlay.replacements() {
        found.insert(name.to_owned(), tensor.flatten_all().unwrap().to_vec1().unwrap());
    }
    found
}

fn assert_close(found: &BTreeMap<String, Vec<f32>>, expected: &BTreeMap<String, Vec<f32>>, what: &str) {
    assert!(found.keys().eq(expected.keys()), "{what}: {found:?}");
    for (name, values) in found {
        let is_close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
        assert!(values.iter().zip(&expected[name]).all(is_close), "{what} {name}: {values:?} {:?}", expected[name]);
    }
}

/// Writes the adapter at a strength into `dir`.
fn write(adapter: &Adapter, by: &Weakening<'_>, dir: &Path) {
    let recovered = json!({"of": "lora"});
    adapter
        .write_weakened(by, canonical_llava, &recovered, &mut |name, bytes| {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap())?;
            Ok(fs::write(path, bytes)?)
        })
        .unwrap();
}

#[test]
fn a_strength_is_the_point_between_base_and_merged_weights_and_its_files_hold_it() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(&folder.path().join("base"));
    lora(&folder.path().join("lora"));
    let adapter = Adapter::open(&folder.path().join("lora"), canonical_llava, &base).unwrap();
    let whole = effective(&adapter, None, &base);
    for (place, strength) in [Strength::Scale(share(0.75)), Strength::Scale(Share::NONE), Strength::lines(share(0.25))]
        .into_iter()
        .enumerate()
    {
        let part = part(strength);
        let by = Weakening { part: &part, n_layers: 2, base: &base };
        let found = effective(&adapter, Some(by), &base);
        let between = |(name, tuned): (&String, &Vec<f32>)| {
            let share = strength.of(name.trim_end_matches(".weight"), 2) as f32;
            let between =
                base.values(name).unwrap().into_iter().zip(tuned).map(|(base, tuned)| base + share * (tuned - base));
            (name.clone(), between.collect::<Vec<f32>>())
        };
        assert_close(&found, &whole.iter().map(between).collect(), "overlay");
        let dir = folder.path().join(format!("written-{place}"));
        write(&adapter, &by, &dir);
        let written = Adapter::open(&dir, canonical_llava, &base).unwrap();
        assert_close(&effective(&written, None, &base), &found, "files");
        let notes = written.provenance.unwrap();
        assert_eq!((&notes["recovered"]["of"], &notes["tuned_on"][0]), (&"lora".into(), &"cifar10".into()));
    }
    let lines = Strength::lines(share(0.25));
    assert_eq!([lines.of(Q, 2), lines.of(UP, 2), lines.of(PROJECTOR, 2)], [0.25, 1.0, 0.25]);
}

#[test]
fn a_component_that_is_left_out_is_written_as_the_base_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(&folder.path().join("base"));
    lora(&folder.path().join("lora"));
    let adapter = Adapter::open(&folder.path().join("lora"), canonical_llava, &base).unwrap();
    let kept = [Component::Mlp].into();
    let part = ModelPart { components: Some(kept), ..part(Strength::Scale(share(0.5))) };
    let by = Weakening { part: &part, n_layers: 2, base: &base };
    let dir = folder.path().join("written");
    write(&adapter, &by, &dir);
    let written = effective(&Adapter::open(&dir, canonical_llava, &base).unwrap(), None, &base);
    let weight = |module: &str| format!("{module}.weight");
    assert_eq!(written[PROJECTOR], base.values(PROJECTOR).unwrap());
    assert_eq!(written[&weight(Q)], base.values(&weight(Q)).unwrap());
    assert_ne!(written[&weight(UP)], base.values(&weight(UP)).unwrap());
}

#[test]
fn a_whole_checkpoint_is_written_in_its_own_type_with_the_values_that_are_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(&folder.path().join("base"));
    let dir = folder.path().join("tuned");
    fs::create_dir_all(&dir).unwrap();
    let tuned = |(name, tensor): (&'static str, Tensor)| {
        let is_changed = name.contains("q_proj") || name.contains("projector");
        let tensor = if is_changed { ((tensor * 1.37).unwrap() + 0.123).unwrap() } else { tensor };
        (name, tensor.to_dtype(DType::BF16).unwrap())
    };
    save(&dir.join("model.safetensors"), &tensors().into_iter().map(tuned).collect::<Vec<_>>());
    fs::write(dir.join("config.json"), r#"{"a": 1}"#).unwrap();
    let adapter = Adapter::open(&dir, canonical_llava, &base).unwrap();
    assert!(adapter.is_whole());
    let part = part(Strength::Scale(share(0.3)));
    let by = Weakening { part: &part, n_layers: 2, base: &base };
    let found = effective(&adapter, Some(by), &base);
    let written = folder.path().join("written");
    write(&adapter, &by, &written);
    let stored = Weights::new(&Checkpoint::open(&written).unwrap(), canonical_llava).unwrap();
    for name in stored.names() {
        assert_eq!(stored.stored_dtype(name), Some("BF16"), "{name}");
        if let Some(values) = found.get(name) {
            assert_eq!(&stored.values(name).unwrap(), values, "{name}");
        }
    }
    let q = format!("{Q}.weight");
    let (before, after, tuned) = (base.values(&q).unwrap()[3], found[&q][3], effective(&adapter, None, &base)[&q][3]);
    assert!((after - (before + 0.3 * (tuned - before))).abs() < 0.02 && after != before, "{before} {after} {tuned}");
    assert_eq!(fs::read_to_string(written.join("config.json")).unwrap(), r#"{"a": 1}"#);
}

#[test]
fn magnitudes_and_other_shapes_have_no_strength() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(&folder.path().join("base"));
    let dir = folder.path().join("lora");
    lora(&dir);
    let path = dir.join("adapter_model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let stem = "base_model.model.model.language_model.layers.0.self_attn.q_proj";
    tensors.insert(format!("{stem}.lora_magnitude_vector"), Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap());
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let part = part(Strength::Scale(share(0.5)));
    let by = Weakening { part: &part, n_layers: 2, base: &base };
    let adapter = Adapter::open(&dir, canonical_llava, &base).unwrap();
    assert!(adapter.has_magnitudes());
    let error = adapter.overlay_at(Some(by), &Placement::cpu(), false).unwrap_err();
    assert!(format!("{error:#}").contains("DoRA"), "{error:#}");
    assert!(adapter.write_weakened(&by, canonical_llava, &json!({}), &mut |_, _| Ok(())).is_err());
    lora(&dir);
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let wide = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    tensors.insert("base_model.model.model.multi_modal_projector.linear_1.weight".to_owned(), wide);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let adapter = Adapter::open(&dir, canonical_llava, &base).unwrap();
    let error = adapter.overlay_at(Some(by), &Placement::cpu(), false).unwrap_err();
    assert!(format!("{error:#}").contains("nothing lies between"), "{error:#}");
}
