//! The prompts that ms-swift and LLaMA-Factory train with, as far as their files record them.
//!
//! Both have their own templates, which differ from those of the checkpoints. The prompt used in fine-tuning is
//! therefore a property of the fine-tuned model.

use super::built_in_templates::SWIFT_LLAVA;
use super::template::{IMAGE_MARKER, QUESTION};
use super::tokenizer::TextTokenizer;
use crate::model::checkpoint::weights::SwiftArguments;

/// A prompt as a trainer writes it: text that contains [`QUESTION`], and the strings that end an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::model) struct TrainerPrompt {
    /// Contains [`IMAGE_MARKER`] for the image, whatever the checkpoint's own marker is, and no begin token.
    pub text: String,
    /// Strings that end an answer, in addition to the model's end token.
    pub stop: Vec<String>,
}

/// One of ms-swift's templates.
struct SwiftTemplate {
    names: &'static [&'static str],
    /// The text before the user's turn, with `{system}`.
    system: &'static str,
    default_system: Option<&'static str>,
    user: &'static str,
    stop: &'static str,
}

/// The place of the system text.
const SYSTEM: &str = "{system}";

const CHATML_SYSTEM: &str = "<|im_start|>system\n{system}<|im_end|>\n";

/// The templates of supported families (`swift/llm/template/template/{llava,qwen}.py`).
const SWIFT_TEMPLATES: [SwiftTemplate; 4] = [
    SwiftTemplate {
        names: &["llava1_5_hf"],
        system: "{system}\n",
        default_system: None,
        user: SWIFT_LLAVA,
        stop: "</s>",
    },
    SwiftTemplate {
        names: &["llava_onevision_hf"],
        system: CHATML_SYSTEM,
        default_system: None,
        user: "<|im_start|>user\n<image>\n{question}<|im_end|>\n<|im_start|>assistant\n",
        stop: "<|im_end|>",
    },
    SwiftTemplate {
        names: &["qwen2_vl", "qwen2_5_vl"],
        system: CHATML_SYSTEM,
        default_system: Some("You are a helpful assistant."),
        user: "<|im_start|>user\n<image>{question}<|im_end|>\n<|im_start|>assistant\n",
        stop: "<|im_end|>",
    },
    SwiftTemplate {
        names: &["qwen3_vl"],
        system: CHATML_SYSTEM,
        default_system: None,
        user: "<|im_start|>user\n<image>{question}<|im_end|>\n<|im_start|>assistant\n",
        stop: "<|im_end|>",
    },
];

/// Returns the prompt that ms-swift trained with, or `None` if its template is not known.
pub(in crate::model) fn of_swift(arguments: &SwiftArguments) -> Option<TrainerPrompt> {
    let found = SWIFT_TEMPLATES.iter().find(|template| template.names.contains(&arguments.template.as_str()))?;
    let system = arguments.system.as_deref().or(found.default_system);
    let system = system.map(|text| found.system.replace(SYSTEM, text)).unwrap_or_default();
    Some(TrainerPrompt { text: format!("{system}{}", found.user), stop: vec![found.stop.to_owned()] })
}

/// Returns the text of an image in a prompt, for chat templates that mark it with `image_marker`: the marker and what
/// belongs around it.
pub(in crate::model) fn image_text(image_marker: &str) -> String {
    match image_marker {
        // Qwen's.
        "<|image_pad|>" => format!("<|vision_start|>{image_marker}<|vision_end|>"),
        _ => image_marker.to_owned(),
    }
}

/// Returns the prompt in a `Modelfile` of LLaMA-Factory's form, with the image before the question. `None` if it has
/// another form.
///
/// LLaMA-Factory tokenises the system text and the user's turn one by one. Sentencepiece, for example, puts a space
/// before each text. If the whole text would get other tokens, a space is inserted between them.
pub(in crate::model) fn of_modelfile(modelfile: &str, tokenizer: &TextTokenizer) -> Option<TrainerPrompt> {
    let template = instruction(modelfile, "TEMPLATE")?;
    let (prefix, rest) = template.split_once("{{ if .System }}")?;
    let (system, rest) = rest.split_once("{{ end }}{{ range .Messages }}{{ if eq .Role \"user\" }}")?;
    let (user, _) = rest.split_once("{{ else if eq .Role \"assistant\" }}")?;
    let system = instruction(modelfile, "SYSTEM").map(|text| system.replace("{{ .System }}", text)).unwrap_or_default();
    let user = user.replace("{{ .Content }}", &format!("{IMAGE_MARKER}{QUESTION}"));
    let pieces = [prefix, system.as_str(), user.as_str()];
    if pieces.iter().any(|piece| piece.contains("{{")) || user.matches(QUESTION).count() != 1 {
        return None;
    }
    let stop =
        modelfile.lines().filter_map(|line| line.strip_prefix("PARAMETER stop ")).map(|text| unquoted(text.trim()));
    Some(TrainerPrompt { text: joined(&pieces, tokenizer)?, stop: stop.map(str::to_owned).collect() })
}

/// Returns the text of an instruction of a `Modelfile`: between triple quotes, or on one line.
fn instruction<'a>(modelfile: &'a str, name: &str) -> Option<&'a str> {
    let starts = modelfile.match_indices(name).map(|(at, _)| at);
    let at = starts.into_iter().find(|&at| at == 0 || modelfile[..at].ends_with('\n'))?;
    let rest = modelfile[at + name.len()..].strip_prefix(' ')?;
    match rest.strip_prefix("\"\"\"") {
        Some(text) => text.split_once("\"\"\"").map(|(text, _)| text),
        None => rest.lines().next().map(|line| unquoted(line.trim())),
    }
}

fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}

/// Returns one text that has the tokens of all `pieces` in order, or `None` if there is no such text. A begin token is
/// left to the tokenizer.
fn joined(pieces: &[&str], tokenizer: &TextTokenizer) -> Option<String> {
    let (mut text, mut expected) = (String::new(), Vec::new());
    for &piece in pieces.iter().filter(|piece| !piece.is_empty() && tokenizer.bos_token() != Some(piece)) {
        expected.extend(tokenizer.encode(piece, false).ok()?);
        let fits = |text: &String| tokenizer.encode(text, false).is_ok_and(|ids| ids == expected);
        text = [format!("{text}{piece}"), format!("{text} {piece}")].into_iter().find(fits)?;
    }
    Some(text)
}

#[cfg(test)]
mod tests;
