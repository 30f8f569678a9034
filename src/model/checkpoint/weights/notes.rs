//! Notes of trainers on how they trained. They are not needed to answer, but show how a model should be asked.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::Value;

use super::quantised;
use crate::domain::text;

/// ms-swift's arguments.
pub(in crate::model) const SWIFT_ARGUMENTS: &str = "args.json";

/// The file from which Ollama makes a model. LLaMA-Factory writes one with the template that it trained with.
pub(in crate::model) const MODELFILE: &str = "Modelfile";

/// The model card.
const MODEL_CARD: &str = "README.md";

/// The notes of a trainer in the folder of weights or of an adapter. Missing files, and files of another form, are
/// treated as absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrainerNotes {
    /// ms-swift's `args.json` and its contents.
    pub swift: Option<(PathBuf, SwiftArguments)>,
    /// LLaMA-Factory's `Modelfile`, or another one, and its text.
    pub modelfile: Option<(PathBuf, String)>,
    /// `model_type` of `config.json`.
    pub model_type: Option<String>,
    /// The version of transformers that saved it, from `config.json` or else the model card.
    pub transformers_version: Option<String>,
    /// How the base was quantised during training, such as `bitsandbytes, 4 bits`.
    pub quantised_base: Option<String>,
}

/// The settings of `args.json` for prompts and images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwiftArguments {
    /// ms-swift's name of the template, such as `llava1_5_hf`.
    pub template: String,
    /// The system text, if it is not the template's own.
    pub system: Option<String>,
    /// The number of pixels to which larger images were shrunk.
    pub max_pixels: Option<u64>,
    /// Which parts were trained, and how: `lora`, `full`, `lora_llm`.
    pub(super) tuner: Option<String>,
}

impl TrainerNotes {
    /// Finds the files with `read`, which returns a file's path and bytes.
    ///
    /// # Errors
    /// A file exists and cannot be read.
    pub(super) fn find(read: impl Fn(&str) -> Result<Option<(PathBuf, Vec<u8>)>>) -> Result<Self> {
        let text_of = |name: &str| -> Result<Option<(PathBuf, String)>> {
            Ok(read(name)?.and_then(|(path, bytes)| Some((path, text::decode(&bytes).ok()?.to_owned()))))
        };
        let json = |name: &str| -> Result<Option<(PathBuf, Value)>> {
            Ok(text_of(name)?.and_then(|(path, text)| Some((path, serde_json::from_str(&text).ok()?))))
        };
        let (arguments, config, card) = (json(SWIFT_ARGUMENTS)?, json("config.json")?, text_of(MODEL_CARD)?);
        let card = card.map(|(_, text)| text).unwrap_or_default();
        let of_config = |key: &str| Some(config.as_ref()?.1.get(key)?.as_str()?.to_owned());
        let quantised_base = arguments.as_ref().and_then(|(_, arguments)| quantisation_of_arguments(arguments));
        Ok(Self {
            swift: arguments.and_then(|(path, arguments)| Some((path, SwiftArguments::from_json(&arguments)?))),
            modelfile: text_of(MODELFILE)?,
            model_type: of_config("model_type"),
            transformers_version: of_config("transformers_version").or_else(|| version_of_card(&card)),
            quantised_base: quantised_base.or_else(|| quantisation_of_card(&card)),
        })
    }
}

impl SwiftArguments {
    /// Reads `args.json`. `None` if it names no template.
    pub(in crate::model) fn from_json(arguments: &Value) -> Option<Self> {
        let text =
            |key: &str| arguments.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
        Some(Self {
            template: text("template")?,
            system: text("system"),
            max_pixels: arguments.get("max_pixels").and_then(Value::as_u64),
            // Version 4 renamed the argument.
            tuner: text("tuner_type").or_else(|| text("train_type")),
        })
    }
}

/// Reads ms-swift's `quant_method` and `quant_bits`.
fn quantisation_of_arguments(arguments: &Value) -> Option<String> {
    let method = arguments.get("quant_method")?.as_str()?;
    let method = if method == "bnb" { "bitsandbytes" } else { method };
    Some(match arguments.get("quant_bits").and_then(Value::as_u64) {
        Some(n_bits) => format!("{method}, {n_bits} bits"),
        None => method.to_owned(),
    })
}

/// Reads `- Transformers 4.46.1` of the trainer's card, or `- Transformers: 4.46.1` of TRL's.
fn version_of_card(card: &str) -> Option<String> {
    let found = card.lines().find_map(|line| line.trim().strip_prefix("- Transformers"))?;
    let version = found.trim_start_matches(':').trim();
    version.starts_with(|c: char| c.is_ascii_digit()).then(|| version.to_owned())
}

/// PEFT's card lists the settings of bitsandbytes, and Axolotl's contains its whole configuration.
fn quantisation_of_card(card: &str) -> Option<String> {
    let says = |key: &str, values: [&str; 2]| {
        let value =
            |line: &str| line.trim().trim_start_matches("- ").strip_prefix(key).map(|rest| rest.trim().to_owned());
        card.lines().filter_map(value).any(|value| values.contains(&value.as_str()))
    };
    let truths = ["true", "True"];
    if says("load_in_4bit:", truths) || says("adapter:", ["qlora", "\"qlora\""]) {
        Some("bitsandbytes, 4 bits".to_owned())
    } else if says("load_in_8bit:", truths) {
        Some("bitsandbytes, 8 bits".to_owned())
    } else {
        None
    }
}

/// Returns how the base called `name` is quantised: by its name, or by its configuration if `name` is a local folder.
pub(super) fn quantisation_of_base(name: &str, read: impl Fn(&str) -> Result<Option<Vec<u8>>>) -> Option<String> {
    let by_name = quantised::QuantisedName::parse(name).map(|found| found.method.to_owned());
    let config = || serde_json::from_slice(text::without_mark(&read("config.json").ok()??)).ok();
    by_name.or_else(|| quantised::method_of(&config()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(files: &[(&str, &str)]) -> TrainerNotes {
        let read = |name: &str| {
            let found = files.iter().find(|(file, _)| *file == name);
            Ok(found.map(|(file, text)| (PathBuf::from(file), text.as_bytes().to_vec())))
        };
        TrainerNotes::find(read).unwrap()
    }

    #[test]
    fn the_arguments_of_ms_swift_say_how_it_asked() {
        let arguments = r#"{"model": "x", "template": "llava1_5_hf", "system": "Be brief.", "max_pixels": 1003520,
            "quant_method": "bnb", "quant_bits": 4, "train_type": "lora_llm"}"#;
        let found = notes(&[(SWIFT_ARGUMENTS, arguments)]);
        let expected = SwiftArguments {
            template: "llava1_5_hf".to_owned(),
            system: Some("Be brief.".to_owned()),
            max_pixels: Some(1_003_520),
            tuner: Some("lora_llm".to_owned()),
        };
        assert_eq!(found.swift, Some((SWIFT_ARGUMENTS.into(), expected)));
        assert_eq!(found.quantised_base.as_deref(), Some("bitsandbytes, 4 bits"));
        // Another program's file of that name, and a damaged one, are ignored.
        for other in [r#"{"lr": 1}"#, "[1]", "{", r#"{"template": null}"#] {
            assert_eq!(notes(&[(SWIFT_ARGUMENTS, other)]), TrainerNotes::default(), "{other}");
        }
    }

    #[test]
    fn model_cards_tell_versions_and_quantised_bases() {
        let of_trainer = "### Framework versions\n\n- PEFT 0.12.0\n- Transformers 4.46.3\n- Pytorch 2.4.0\n";
        assert_eq!(notes(&[(MODEL_CARD, of_trainer)]).transformers_version.as_deref(), Some("4.46.3"));
        let of_trl = "- TRL: 0.25.0\n- Transformers: 5.4.0\n- load_in_4bit: True\n";
        let found = notes(&[(MODEL_CARD, of_trl), ("config.json", r#"{"model_type": "qwen2_5_vl"}"#)]);
        assert_eq!(found.transformers_version.as_deref(), Some("5.4.0"));
        assert_eq!(found.quantised_base.as_deref(), Some("bitsandbytes, 4 bits"));
        let of_axolotl = "```yaml\nbase_model: a/b\nload_in_8bit: true\nadapter: lora\n```\n";
        assert_eq!(notes(&[(MODEL_CARD, of_axolotl)]).quantised_base.as_deref(), Some("bitsandbytes, 8 bits"));
        let plain = "load_in_4bit: false\n- Transformers are nice\n";
        assert_eq!(notes(&[(MODEL_CARD, plain)]), TrainerNotes::default());
    }
}
