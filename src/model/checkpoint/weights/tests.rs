use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;

use super::testing::{fixture_roots, fixtures, golden, read, write};
use super::*;

type Rule = fn(&str) -> Canonical;

fn load(dir: impl AsRef<Path>, rule: Rule) -> Weights {
    Weights::new(&Checkpoint::open(dir).unwrap(), rule).unwrap()
}

fn names(weights: &Weights) -> Vec<String> {
    weights.names().map(str::to_owned).collect()
}

/// Takes every tensor as f32 and asserts that nothing is left.
fn take_all(mut weights: Weights) -> BTreeMap<String, Vec<f32>> {
    let mut all = BTreeMap::new();
    for name in names(&weights) {
        let shape = weights.shape(&name).unwrap();
        let tensor = weights.take(&name, &shape, DType::F32, &Device::Cpu).unwrap();
        all.insert(name, tensor.flatten_all().unwrap().to_vec1().unwrap());
    }
    weights.finish().unwrap();
    all
}

/// A folder that has only a configuration.
fn folder_with_config(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("config.json"), config);
    folder
}

/// Saves tensors as safetensors under renamed keys.
fn save(path: &Path, tensors: &[(String, Tensor)]) {
    let tensors: std::collections::HashMap<String, Tensor> = tensors.iter().cloned().collect();
    candle_core::safetensors::save(&tensors, path).unwrap();
}

/// The tensors of a LLaVA by canonical name.
fn llava_tensors(dir: &Path) -> Vec<(String, Tensor)> {
    let mut weights = load(dir, canonical_llava);
    let mut tensors = Vec::new();
    for name in names(&weights) {
        let shape = weights.shape(&name).unwrap();
        tensors.push((name.clone(), weights.take(&name, &shape, DType::F32, &Device::Cpu).unwrap()));
    }
    tensors
}

#[test]
fn every_fixture_loads_one_to_one() {
    // The small fixtures have fewer layers, and a tower without text beside the original layouts.
    let cases: [(&str, Rule, [usize; 2]); 8] = [
        ("llava", canonical_llava, [64, 105]),
        ("llava_original/full_safetensors_sharded", canonical_llava, [25, 34]),
        ("llava_original/full_bin_sharded", canonical_llava, [25, 34]),
        ("llava_original/full_with_tower", canonical_llava, [64, 105]),
        ("clip", canonical_dual_encoder, [78, 126]),
        ("clip_legacy_eos", canonical_dual_encoder, [78, 126]),
        ("open_clip", canonical_open_clip, [78, 126]),
        ("siglip", canonical_dual_encoder, [88, 136]),
    ];
    for (name, rule, n_tensors) in cases {
        for (dir, n_tensors) in fixtures(name).into_iter().zip(n_tensors) {
            let tensors = take_all(load(&dir, rule));
            assert_eq!(tensors.len(), n_tensors, "{}", dir.display());
            assert!(tensors.values().flatten().all(|value| value.is_finite()), "{}", dir.display());
        }
    }
    for (miniature, rule, n_tensors) in
        [(Miniature::Model, canonical_llava as Rule, 146), (Miniature::Encoder, canonical_dual_encoder, 142)]
    {
        let checkpoint = open_checkpoint(Path::new("embedded"), miniature).unwrap();
        let tensors = take_all(Weights::new(&checkpoint, rule).unwrap());
        assert_eq!(tensors.len(), n_tensors, "{miniature:?}");
        assert!(tensors.values().flatten().all(|value| value.is_finite()), "{miniature:?}");
    }
}

#[test]
fn the_original_layouts_hold_the_numbers_of_the_port() {
    for fixtures in fixture_roots() {
        let port = take_all(load(fixtures.join("llava"), canonical_llava));
        let original = fixtures.join("llava_original");
        let tower = Checkpoint::open(original.join("clip-tower")).unwrap();
        for (layout, is_half) in
            [("full_with_tower", false), ("full_safetensors_sharded", false), ("full_bin_sharded", true)]
        {
            let mut weights = load(original.join(layout), canonical_llava);
            if layout != "full_with_tower" {
                weights.extend(&tower, canonical_clip_tower).unwrap();
            }
            let found = take_all(weights);
            assert_eq!(found.keys().collect::<Vec<_>>(), port.keys().collect::<Vec<_>>(), "{layout}");
            for (name, values) in &found {
                // The port padded the vocabulary with more rows.
                let round = |value: f32| half::f16::from_f32(value).to_f32();
                let is_rounded = is_half && !name.starts_with("vision_tower");
                for (value, expected) in values.iter().zip(&port[name]) {
                    let expected = if is_rounded { round(*expected) } else { *expected };
                    assert_eq!(*value, expected, "{layout}: {name}");
                }
            }
        }
    }
}

#[test]
fn every_version_of_transformers_gives_one_canonical_set_and_hash() {
    let dir = golden("fixtures/llava");
    let expected = load(&dir, canonical_llava);
    let tensors = llava_tensors(&dir);
    // Stems of language model, head, vision tower, projector (formats by version of the library that saved).
    let layouts = [
        ["language_model.model.", "language_model.lm_head.", "vision_tower.vision_model.", ""],
        ["model.language_model.", "lm_head.", "model.vision_tower.vision_model.", "model."],
        ["model.language_model.model.", "language_model.lm_head.", "model.vision_tower.vision_model.", "model."],
        ["language_model.model.", "language_model.lm_head.", "vision_tower.", ""],
        ["model.language_model.", "lm_head.", "model.vision_tower.", "model."],
        ["model.", "lm_head.", "model.vision_tower.vision_tower.vision_model.", "original"],
    ];
    for layout in layouts {
        let rename = |name: &str| {
            let [language, head, vision, projector] = layout;
            if let Some(rest) = name.strip_prefix("language_model.") {
                format!("{language}{rest}")
            } else if let Some(rest) = name.strip_prefix("lm_head.") {
                format!("{head}{rest}")
            } else if let Some(rest) = name.strip_prefix("vision_tower.") {
                format!("{vision}{rest}")
            } else if projector == "original" {
                name.replace("multi_modal_projector.linear_1", "model.mm_projector.0")
                    .replace("multi_modal_projector.linear_2", "model.mm_projector.2")
            } else {
                format!("{projector}{name}")
            }
        };
        let renamed: Vec<(String, Tensor)> = tensors.iter().map(|(name, t)| (rename(name), t.clone())).collect();
        let folder = folder_with_config("{}");
        save_in_two_shards(folder.path(), &renamed);
        let found = load(folder.path(), canonical_llava);
        assert_eq!(names(&found), names(&expected), "{layout:?}");
        assert_eq!(found.hash().unwrap(), expected.hash().unwrap(), "{layout:?}");
    }
}

fn save_in_two_shards(dir: &Path, tensors: &[(String, Tensor)]) {
    let halves = tensors.split_at(tensors.len() / 2);
    let files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let mut map = serde_json::Map::new();
    for (file, half) in files.into_iter().zip([halves.0, halves.1]) {
        save(&dir.join(file), half);
        map.extend(half.iter().map(|(name, _)| (name.clone(), file.into())));
    }
    write(&dir.join("model.safetensors.index.json"), serde_json::json!({ "weight_map": map }).to_string());
}

#[test]
fn open_clip_holds_the_numbers_of_transformers_under_its_names() {
    for fixtures in fixture_roots() {
        let clip = load(fixtures.join("clip"), canonical_dual_encoder);
        let open_clip = load(fixtures.join("open_clip"), canonical_open_clip);
        assert_eq!(names(&open_clip), names(&clip));
        for name in clip.names() {
            assert_eq!(open_clip.shape(name), clip.shape(name), "{name}");
            assert_eq!(open_clip.value_hash(name).unwrap(), clip.value_hash(name).unwrap(), "{name}");
        }
        assert_eq!(open_clip.hash().unwrap(), clip.hash().unwrap());
    }
}

#[test]
fn the_small_pair_shares_its_tower() {
    let of = |miniature| open_checkpoint(Path::new("embedded"), miniature).unwrap();
    let tower = Weights::new(&of(Miniature::Encoder), canonical_clip_tower).unwrap();
    let llava = Weights::new(&of(Miniature::Model), canonical_llava).unwrap();
    assert!(tower.names().count() > 50);
    for name in tower.names() {
        assert_eq!(tower.tensor_hash(name).unwrap(), llava.tensor_hash(name).unwrap(), "{name}");
    }
    assert_ne!(
        llava.tensor_hash("language_model.norm.weight").unwrap(),
        llava.tensor_hash("language_model.layers.0.input_layernorm.weight").unwrap()
    );
    assert_eq!(llava.tensor_hash("absent").unwrap(), None);
}

#[test]
fn half_precision_is_read_as_it_is_stored() {
    for dir in fixtures("llava_original/full_bin_sharded") {
        let name = "multi_modal_projector.linear_1.weight";
        let take = |dtype| {
            let mut weights = load(&dir, canonical_llava);
            assert_eq!(weights.stored_dtype(name), Some("F16"));
            let shape = weights.shape(name).unwrap();
            let tensor = weights.take(name, &shape, dtype, &Device::Cpu).unwrap();
            assert_eq!(tensor.dtype(), dtype);
            tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let exact = take(DType::F32);
        assert_eq!(take(DType::F16), exact);
        let as_bf16: Vec<f32> = exact.iter().map(|&value| half::bf16::from_f32(value).to_f32()).collect();
        assert_eq!(take(DType::BF16), as_bf16);
        assert_ne!(as_bf16, exact);
    }
}

#[test]
fn a_projector_file_joins_the_weights_it_belongs_to() {
    for (original, n_hidden) in fixtures("llava_original").into_iter().zip([8, 48]) {
        let mut weights = load(original.join("clip-tower"), canonical_clip_tower);
        let folder = folder_with_config("{}");
        let file = "mm_projector.bin";
        write(&folder.path().join(file), read(&original.join("pretrain_projector").join(file)));
        write(&folder.path().join("model.safetensors"), read(&original.join("clip-tower/model.safetensors")));
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        weights.extend_from_file(&checkpoint, file, canonical_llava).unwrap();
        let tensor = weights.take("multi_modal_projector.linear_2.bias", &[n_hidden], DType::F32, &Device::Cpu);
        assert_eq!(tensor.unwrap().dims(), [n_hidden]);
    }
}

#[track_caller]
fn assert_says(error: &anyhow::Error, parts: &[&str]) {
    let text = format!("{error:#}");
    for part in parts.iter().chain(&["hint:"]) {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}

/// A checkpoint of the tensors `a.weight` (2, 3) and `b.weight` (4), in one file.
fn small() -> (tempfile::TempDir, PathBuf) {
    let folder = folder_with_config("{}");
    let path = folder.path().join("model.safetensors");
    let tensor = |n: usize, shape: &[usize]| {
        Tensor::from_vec((0..n).map(|i| i as f32).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
    };
    save(&path, &[("a.weight".into(), tensor(6, &[2, 3])), ("b.weight".into(), tensor(4, &[4]))]);
    (folder, path)
}

#[test]
fn a_missing_misshapen_or_superfluous_tensor_is_named() {
    let (folder, _) = small();
    let mut weights = load(folder.path(), canonical_dual_encoder);
    let take = |weights: &mut Weights, name: &str, shape: &[usize]| weights.take(name, shape, DType::F32, &Device::Cpu);
    assert_says(&take(&mut weights, "c.weight", &[1]).unwrap_err(), &["lacks the tensor `c.weight`"]);
    assert_says(&take(&mut weights, "a.weight", &[3, 2]).unwrap_err(), &["[2, 3]", "[3, 2]", "model.safetensors"]);
    assert!(take(&mut weights, "a.weight", &[2, 3]).is_ok());
    let twice = take(&mut weights, "a.weight", &[2, 3]).unwrap_err().to_string();
    assert!(twice.contains("twice"), "{twice}");
    assert!(weights.take_optional("c.weight", &[1], DType::F32, &Device::Cpu).unwrap().is_none());
    assert_says(&weights.finish().unwrap_err(), &["1 tensors", "`b.weight`", "model.safetensors"]);
}

#[test]
fn two_tensors_of_one_name_are_refused() {
    let (folder, _) = small();
    let both = |_: &str| Canonical::Keep("same".to_owned());
    let error = Weights::new(&Checkpoint::open(folder.path()).unwrap(), both).unwrap_err();
    assert_says(&error, &["`a.weight`", "`b.weight`", "`same`"]);
}

#[test]
fn a_damaged_weight_file_is_named() {
    let (folder, path) = small();
    let bytes = read(&path);
    let list = || Checkpoint::open(folder.path()).unwrap().tensor_names();
    assert_eq!(list().unwrap(), ["a.weight", "b.weight"]);
    write(&path, &bytes[..bytes.len() - 1]);
    assert_says(&list().unwrap_err(), &["model.safetensors", "truncated"]);
    write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
    assert_says(&list().unwrap_err(), &["model.safetensors", "Git LFS"]);
    write(&path, "");
    assert_says(&list().unwrap_err(), &["model.safetensors", "empty"]);
}

#[test]
fn a_pickle_with_code_is_refused_before_anything_runs() {
    use std::io::Write;
    let folder = folder_with_config("{}");
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    archive.start_file("evil/data.pkl", options).unwrap();
    archive.write_all(b"\x80\x02cos\nsystem\nq\x00X\x05\x00\x00\x00touchq\x01\x85q\x02Rq\x03.").unwrap();
    write(&folder.path().join("pytorch_model.bin"), archive.finish().unwrap().into_inner());
    let error = Checkpoint::open(folder.path()).unwrap().tensor_names().unwrap_err();
    assert_says(&error, &["pytorch_model.bin", "os.system", "at byte"]);
    write(&folder.path().join("pytorch_model.bin"), b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.");
    assert_says(&Checkpoint::open(folder.path()).unwrap().tensor_names().unwrap_err(), &["older than PyTorch 1.6"]);
}

#[test]
fn a_folder_that_is_no_checkpoint_says_what_it_is() {
    let open = |files: &[(&str, &str)]| {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            write(&folder.path().join(name), text);
        }
        Checkpoint::open(folder.path()).unwrap_err()
    };
    assert_says(&open(&[]), &["no `config.json`"]);
    assert_says(&open(&[("m.Q4_K_M.gguf", "GGUF")]), &["GGUF is not read"]);
    assert_says(&open(&[("config.json", "{}"), ("m.gguf", "GGUF")]), &["GGUF is not read"]);
    assert_says(&open(&[("adapter_config.json", "{}")]), &["--adapter"]);
    assert_says(&open(&[("config.json", "{")]), &["config.json", "EOF"]);
    assert_says(&open(&[("config.json", "{}")]), &["no weights", "model.safetensors"]);
    let quantised = r#"{"text_config": {"quantization_config": {"quant_method": "bitsandbytes"}}}"#;
    assert_says(
        &open(&[("config.json", quantised), ("model.safetensors", "")]),
        &["bitsandbytes", "hint: give the unquantised checkpoint"],
    );
    assert_says(&Checkpoint::open("there/is/no/such/folder").unwrap_err(), &["no such folder"]);
    assert_says(&Checkpoint::open("model.gguf").unwrap_err(), &["GGUF is not read"]);
}

#[test]
fn a_shard_that_is_missing_or_of_another_download_is_named() {
    let (folder, whole) = small();
    // A whole file would be read in place of the shards.
    let path = folder.path().join("model-00001-of-00002.safetensors");
    std::fs::rename(whole, &path).unwrap();
    let index = |map: &str| {
        write(&folder.path().join("model.safetensors.index.json"), format!("{{\"weight_map\": {map}}}"));
        Checkpoint::open(folder.path())
    };
    let missing = r#"{"a.weight": "model-00001-of-00002.safetensors", "x": "model-00002-of-00002.safetensors"}"#;
    assert_says(&index(missing).unwrap_err(), &["1 of 2 shards", "model-00002-of-00002.safetensors"]);
    let other = index(r#"{"z.weight": "model-00001-of-00002.safetensors"}"#).unwrap().tensor_names().unwrap_err();
    assert_says(&other, &["`z.weight`", &path.display().to_string()]);
    assert_says(&index(r#"{"a.weight": "../model.safetensors"}"#).unwrap_err(), &["weight_map", "`a.weight`"]);
    assert_says(&index("{}").unwrap_err(), &["`weight_map` is empty"]);
    assert_says(&index("7").unwrap_err(), &["no `weight_map`"]);
}

#[test]
fn a_folder_of_both_layouts_takes_configuration_and_weights_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str| write(&folder.path().join(name), "{}");
    ["config.json", "open_clip_config.json", "open_clip_model.safetensors"].into_iter().for_each(write);
    assert!(Checkpoint::open(folder.path()).unwrap().is_open_clip());
    write("pytorch_model.bin");
    assert!(!Checkpoint::open(folder.path()).unwrap().is_open_clip());
}

/// Reads everything in a file, whatever it contains.
fn read_everything(file: &str, bytes: &[u8]) {
    let folder = folder_with_config("{}");
    write(&folder.path().join(file), bytes);
    let Ok(weights) = Weights::new(&Checkpoint::open(folder.path()).unwrap(), canonical_llava) else { return };
    let _ = weights.hash();
    for name in names(&weights) {
        let _ = weights.value_hash(&name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn random_bytes_in_place_of_weights_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        read_everything("model.safetensors", &bytes);
        read_everything("pytorch_model.bin", &bytes);
        let headed = [&(bytes.len() as u64 / 2).to_le_bytes(), bytes.as_slice()].concat();
        read_everything("model.safetensors", &headed);
    }

    #[test]
    fn a_damaged_safetensors_file_never_panics(at in any::<usize>(), byte in any::<u8>(), keep in any::<usize>()) {
        let (_folder, path) = small();
        let mut bytes = read(&path);
        let n_bytes = bytes.len();
        read_everything("model.safetensors", &bytes[..keep % n_bytes]);
        bytes[at % n_bytes] = byte;
        read_everything("model.safetensors", &bytes);
    }
}

#[test]
fn a_damaged_pytorch_archive_never_panics() {
    let whole = read(&golden("fixtures/llava_original/pretrain_projector/mm_projector.bin"));
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..300 {
        let mut bytes = whole.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        read_everything("pytorch_model.bin", &bytes);
        read_everything("pytorch_model.bin", &whole[..random.usize(..whole.len())]);
    }
}
