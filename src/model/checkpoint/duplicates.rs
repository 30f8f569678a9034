//! Warnings about two files of a folder, or two keys of a file, that contradict each other.
//!
//! Trainers save into folders that already hold files. Files and keys are used here in the order of transformers
//! (5.24). If two contradict each other, the user is warned with both names, because training may have used the other
//! one.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::Value;

use super::weights::Checkpoint;
use crate::model::text::tokenizer::{TextTokenizer, pieces_elsewhere};

/// Returns warnings about `checkpoint`, whose text is read by `tokenizer`.
///
/// # Errors
/// A file exists and cannot be read.
pub(in crate::model) fn warnings(checkpoint: &Checkpoint, tokenizer: &TextTokenizer) -> Result<Vec<String>> {
    let mut found = Vec::new();
    found.extend(of_image_processor(checkpoint)?);
    found.extend(of_special_tokens(checkpoint)?);
    found.extend(of_tokenizer(checkpoint, tokenizer)?);
    let text = checkpoint.config().get("text_config").unwrap_or(&Value::Null);
    for (place, section) in [("", checkpoint.config()), (" (`text_config`)", text)] {
        found.extend(
            of_keys(section)
                .into_iter()
                .map(|told| format!("`{}`{place} {told}", checkpoint.dir.join(checkpoint.config_file()).display())),
        );
    }
    Ok(found)
}

/// Formats a warning that `first` is used and `second` contradicts it about `what`.
fn told(checkpoint: &Checkpoint, first: &str, second: &str, what: &str) -> String {
    format!(
        "`{first}` and `{second}` of `{}` disagree about {what}: `{first}` counts, as in transformers; hint: remove \
         the one that is wrong",
        checkpoint.dir.display()
    )
}

/// Keys of an image processor that do not affect its output.
const KEYS_OF_CLASSES: [&str; 8] = [
    "image_processor_type",
    "feature_extractor_type",
    "processor_class",
    "_valid_processor_keys",
    "default_to_square",
    "return_tensors",
    "data_format",
    "auto_map",
];

fn of_image_processor(checkpoint: &Checkpoint) -> Result<Option<String>> {
    let nested = checkpoint.read_json("processor_config.json")?;
    let nested = nested.as_ref().and_then(|config| config.get("image_processor")).and_then(Value::as_object);
    let (Some(nested), Some(flat)) = (nested, checkpoint.read_json("preprocessor_config.json")?) else {
        return Ok(None);
    };
    let differs = |key: &String, value: &Value| {
        let other = flat.get(key).filter(|other| !other.is_null() && !value.is_null());
        !KEYS_OF_CLASSES.contains(&key.as_str()) && other.is_some_and(|other| !means_the_same(value, other))
    };
    let keys: Vec<&str> =
        nested.iter().filter(|(key, value)| differs(key, value)).map(|(key, _)| key.as_str()).collect();
    let what = keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    Ok((!keys.is_empty()).then(|| told(checkpoint, "processor_config.json", "preprocessor_config.json", &what)))
}

/// Returns whether two values of a key mean the same: numbers by value, and a side as a number or by its names.
fn means_the_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| means_the_same(a, b)),
        (Value::Object(sides), side @ Value::Number(_)) | (side @ Value::Number(_), Value::Object(sides)) => {
            let mut given = sides.values().filter(|value| !value.is_null()).peekable();
            given.peek().is_some() && given.all(|value| means_the_same(value, side))
        }
        (Value::Object(a), Value::Object(b)) => {
            let set = |sides: &serde_json::Map<String, Value>| -> BTreeMap<String, Value> {
                sides
                    .iter()
                    .filter(|(_, value)| !value.is_null())
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect()
            };
            let (a, b) = (set(a), set(b));
            a.len() == b.len()
                && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| means_the_same(value, other)))
        }
        _ => a == b,
    }
}

fn of_special_tokens(checkpoint: &Checkpoint) -> Result<Option<String>> {
    const MAP: &str = "special_tokens_map.json";
    const CONFIG: &str = "tokenizer_config.json";
    let (Some(map), Some(config)) = (checkpoint.read_json(MAP)?, checkpoint.read_json(CONFIG)?) else {
        return Ok(None);
    };
    let text = |value: &Value| value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned);
    let keys = ["bos_token", "eos_token", "pad_token", "unk_token"].into_iter().filter(|key| {
        let [a, b] = [&map, &config].map(|file| file.get(*key).and_then(text));
        a.is_some() && b.is_some() && a != b
    });
    let what = keys.map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    let (first, second) = if config.get("added_tokens_decoder").is_some() { (CONFIG, MAP) } else { (MAP, CONFIG) };
    Ok((!what.is_empty()).then(|| told(checkpoint, first, second, &what)))
}

/// If `tokenizer.json` is used, returns warnings about other tokenizer files with different token ids.
fn of_tokenizer(checkpoint: &Checkpoint, tokenizer: &TextTokenizer) -> Result<Vec<String>> {
    const FIRST: &str = "tokenizer.json";
    if checkpoint.read_file(FIRST)?.is_none() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for file in ["tokenizer.model", "vocab.json", "added_tokens.json"] {
        let Some(bytes) = checkpoint.read_file(file)? else { continue };
        // A file that is not used need not be readable.
        let Some(tokens) = pieces_elsewhere(file, &bytes) else { continue };
        let n_other = tokens.iter().filter(|(token, id)| tokenizer.token_id(token) != Some(*id)).count();
        if n_other > 0 {
            let what = format!("the numbers of {n_other} of {} tokens", tokens.len());
            found.push(told(checkpoint, FIRST, file, &what));
        }
    }
    Ok(found)
}

/// Returns one sentence per old and new spelling in one section of `config.json` that differ.
fn of_keys(section: &Value) -> Vec<String> {
    let get = |path: &[&str]| {
        let value = path.iter().try_fold(section, |value, key| value.get(key))?;
        (!value.is_null()).then_some(value)
    };
    // The first is used.
    let pairs: [(&[&str], &[&str]); 5] = [
        (&["rope_scaling"], &["rope_parameters"]),
        (&["rope_scaling", "rope_theta"], &["rope_theta"]),
        (&["rope_parameters", "rope_theta"], &["rope_theta"]),
        (&["rope_scaling", "rope_type"], &["rope_scaling", "type"]),
        (&["image_token_id"], &["image_token_index"]),
    ];
    let differing = pairs.into_iter().filter_map(|(first, second)| {
        let (a, b) = (get(first)?, get(second)?);
        let name = |path: &[&str]| path.join(".");
        // The old key distinguishes Qwen's sections, and the new one has the default type instead.
        let is_known_pair = [a, b].iter().any(|value| value.as_str() == Some("mrope"));
        (!means_the_same(a, b) && !is_known_pair).then(|| {
            format!(
                "has `{}` {a} and `{}` {b}: the first counts, as in transformers; hint: remove the one that is wrong",
                name(first),
                name(second)
            )
        })
    });
    differing.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::checkpoint::weights::Miniature;
    use crate::model::checkpoint::weights::testing::{unpacked, write};

    #[test]
    fn sides_are_one_whatever_their_spelling() {
        for (a, b) in [
            (json!(336), json!({"shortest_edge": 336})),
            (json!({"height": 336, "width": 336}), json!(336)),
            (json!({"height": 336, "width": 336, "shortest_edge": null}), json!({"height": 336.0, "width": 336})),
            (json!([0.5, 1]), json!([0.5, 1.0])),
        ] {
            assert!(means_the_same(&a, &b), "{a} {b}");
        }
        for (a, b) in [
            (json!(336), json!({"shortest_edge": 224})),
            (json!({"height": 3}), json!({"width": 3})),
            (json!([1]), json!([2])),
        ] {
            assert!(!means_the_same(&a, &b), "{a} {b}");
        }
    }

    #[test]
    fn two_spellings_of_a_key_are_told_where_they_differ() {
        let told = |section: Value| of_keys(&section).join("\n");
        assert_eq!(
            told(json!({"rope_theta": 5e5, "rope_parameters": {"rope_theta": 500000, "rope_type": "default"}})),
            ""
        );
        assert!(
            told(json!({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}))
                .contains("`rope_parameters.rope_theta` 500000.0")
        );
        assert!(
            told(json!({"rope_scaling": {"type": "linear", "rope_type": "llama3"}}))
                .contains("`rope_scaling.rope_type`")
        );
        assert!(
            told(json!({"rope_scaling": {"factor": 2}, "rope_parameters": {"factor": 4}})).contains("`rope_scaling`")
        );
        assert_eq!(told(json!({"rope_scaling": null, "rope_parameters": {"factor": 4}, "image_token_index": 5})), "");
        assert!(
            told(json!({"image_token_id": 7, "image_token_index": 5}))
                .contains("`image_token_id` 7 and `image_token_index` 5")
        );
    }

    #[test]
    fn files_that_say_one_thing_twice_are_told_by_both_names_where_they_differ() {
        let folder = unpacked(Miniature::Model);
        let dir = folder.path();
        let told = || {
            let checkpoint = Checkpoint::open(dir).unwrap();
            let mut told = checkpoint.differing_weights().unwrap();
            told.extend(warnings(&checkpoint, &TextTokenizer::open(&checkpoint).unwrap()).unwrap());
            told
        };
        assert_eq!(told(), Vec::<String>::new(), "the folder as it was saved says everything once");
        let processor: Value =
            serde_json::from_slice(&std::fs::read(dir.join("processor_config.json")).unwrap()).unwrap();
        let mut flat = processor["image_processor"].clone();
        write(&dir.join("preprocessor_config.json"), flat.to_string());
        assert_eq!(told().len(), 0, "the same twice is no difference");
        flat["image_mean"] = json!([0.1, 0.2, 0.3]);
        write(&dir.join("preprocessor_config.json"), flat.to_string());
        write(&dir.join("special_tokens_map.json"), json!({"bos_token": {"content": "</s>"}}).to_string());
        write(&dir.join("added_tokens.json"), json!({"<image>": 7}).to_string());
        let tensors = candle_core::safetensors::load(dir.join("model.safetensors"), &candle_core::Device::Cpu).unwrap();
        let doubled: std::collections::HashMap<String, candle_core::Tensor> =
            tensors.into_iter().map(|(name, tensor)| (name, (tensor * 2.0).unwrap())).collect();
        candle_core::safetensors::save(&doubled, dir.join("model-00001-of-00001.safetensors")).unwrap();
        let names = doubled.keys().map(|name| (name.clone(), json!("model-00001-of-00001.safetensors")));
        let map: serde_json::Map<String, Value> = names.collect();
        write(&dir.join("model.safetensors.index.json"), json!({ "weight_map": map }).to_string());
        let told = told();
        for parts in [
            ["model.safetensors", "model.safetensors.index.json", "weights"],
            ["processor_config.json", "preprocessor_config.json", "`image_mean`"],
            ["special_tokens_map.json", "tokenizer_config.json", "`bos_token`"],
            ["tokenizer.json", "added_tokens.json", "1 of 1 tokens"],
        ] {
            let hits = told.iter().filter(|warning| parts.iter().all(|part| warning.contains(part))).count();
            assert_eq!(hits, 1, "{parts:?} in {told:#?}");
        }
        assert_eq!(told.len(), 4, "{told:#?}");
    }
}
