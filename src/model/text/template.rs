//! Chat templates, which turn a question about an image into the text that a model was trained to continue.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use minijinja::Environment;
use serde_json::Value;

pub use super::built_in_templates::{BUILT_IN, BuiltIn};
use super::template_environment::{CLOCK, TEMPLATE_NAME, TODAY, environment_of, explain};
use super::tokenizer::{TextTokenizer, special_names};
use super::trainer_template::{self, TrainerPrompt};
use crate::domain::{Conversation, text};
use crate::model::checkpoint::weights::{Checkpoint, MODELFILE, SWIFT_ARGUMENTS, SwiftArguments, read_text_file};

/// The image marker in built-in templates, and in those of LLaVA.
pub const IMAGE_MARKER: &str = "<image>";

/// The place of the question in a template that is not jinja.
pub(in crate::model) const QUESTION: &str = "{question}";

/// A compiled template.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    pub(in crate::model) name: String,
    pub(in crate::model) source: Source,
    stop_strings: Vec<String>,
    /// What a model may write before its answer, and is not part of it.
    lead: &'static [&'static str],
    pub(in crate::model) image_marker: &'static str,
}

#[derive(Clone, Debug)]
pub(in crate::model) enum Source {
    Plain(String),
    Jinja { text: String, environment: Box<Environment<'static>>, special_tokens: SpecialTokens },
}

/// The tokenizer's special tokens by name, such as `bos_token`. Templates see each as a variable.
pub(in crate::model) type SpecialTokens = BTreeMap<String, String>;

impl ChatTemplate {
    /// The names of the built-in templates.
    pub fn built_in_names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|template| template.name)
    }

    /// Opens the template `choice`: a built-in name, or a file. The file is jinja or a trainer's record of its own
    /// template (ms-swift's `args.json`, LLaMA-Factory's `Modelfile`). Without a choice, the checkpoint's own is used,
    /// from the first of `processor_config.json`, `chat_template.json`, `chat_template.jinja` and
    /// `tokenizer_config.json`. An original LLaVA has none and gets `vicuna_v1`, the format of its training scripts, or
    /// `llava_v0_simple` if it is of the first version; Otter gets `otter`, and OpenFlamingo `open_flamingo`.
    ///
    /// # Errors
    /// The template is missing, unreadable or not valid jinja.
    pub fn open(checkpoint: &Checkpoint, choice: Option<&str>) -> anyhow::Result<Self> {
        Self::open_or(checkpoint, choice, None)
    }

    /// Like [`open`](Self::open), with the built-in template for a checkpoint that has none.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_or(
        checkpoint: &Checkpoint,
        choice: Option<&str>,
        by_default: Option<&'static str>,
    ) -> anyhow::Result<Self> {
        if let Some(choice) = choice {
            if let Some(template) = Self::built_in(choice) {
                return Ok(template);
            }
            let text = read_text_file(Path::new(choice)).with_context(|| {
                let names: Vec<&str> = Self::built_in_names().collect();
                format!("the template `{choice}` is neither one of {} nor a file", names.join(", "))
            })?;
            return match Path::new(choice).file_name().and_then(|name| name.to_str()) {
                Some(SWIFT_ARGUMENTS) => Self::of_arguments(choice, &text),
                Some(MODELFILE) => {
                    Self::of_modelfile(choice, &text, &TextTokenizer::open(checkpoint)?).with_context(|| {
                        format!("the prompt of `{choice}` has a form that is not read; hint: write it as jinja")
                    })
                }
                _ => Self::jinja(choice, text, checkpoint),
            };
        }
        if let Some((name, text)) = own_template(checkpoint)? {
            return Self::jinja(&name, text, checkpoint);
        }
        let of_llava = if checkpoint.is_llava_v0() { "llava_v0_simple" } else { "vicuna_v1" };
        let by_default = if checkpoint.is_llava_original() { Some(of_llava) } else { by_default };
        if let Some(name) = by_default {
            return Self::built_in(name).with_context(|| format!("{name} is built in"));
        }
        // These families have no templates of their own. Their prompts are those of their authors' code.
        let of_authors = match checkpoint.config().get("model_type").and_then(Value::as_str) {
            Some(name @ ("otter" | "open_flamingo" | "instructblip")) => Some(name),
            Some("blip-2") => Some("blip2"),
            _ => None,
        };
        if let Some(name) = of_authors {
            return Self::built_in(name).with_context(|| format!("{name} is built in"));
        }
        let names: Vec<&str> = Self::built_in_names().collect();
        bail!(
            "failed to open `{}`: it has no chat template; hint: choose with `--template` the one it was trained with, {} \
             or a file",
            checkpoint.dir.display(),
            names.join(", ")
        )
    }

    fn built_in(name: &str) -> Option<Self> {
        let found = BUILT_IN.iter().find(|template| template.name == name)?;
        Some(Self {
            name: found.name.to_owned(),
            source: Source::Plain(found.text.to_owned()),
            stop_strings: found.stop.iter().map(|&stop| stop.to_owned()).collect(),
            lead: found.lead,
            image_marker: IMAGE_MARKER,
        })
    }

    fn of_arguments(name: &str, text: &str) -> anyhow::Result<Self> {
        let json = serde_json::from_str(text).with_context(|| format!("failed to read `{name}`"))?;
        let arguments = SwiftArguments::from_json(&json)
            .with_context(|| format!("`{name}` names no template of ms-swift; hint: give a jinja file"))?;
        Self::of_swift(name, &arguments).with_context(|| {
            format!(
                "ms-swift's template `{}`, which `{name}` names, is not known here; hint: write it as jinja",
                arguments.template
            )
        })
    }

    /// Returns the template that ms-swift trained with, under the name `name`, or `None` if it is not known.
    pub fn of_swift(name: &str, arguments: &SwiftArguments) -> Option<Self> {
        Some(Self::of_trainer(name, trainer_template::of_swift(arguments)?))
    }

    /// Returns the template that LLaMA-Factory wrote to a `Modelfile`, or `None` if that has another form.
    pub fn of_modelfile(name: &str, modelfile: &str, tokenizer: &TextTokenizer) -> Option<Self> {
        Some(Self::of_trainer(name, trainer_template::of_modelfile(modelfile, tokenizer)?))
    }

    fn of_trainer(name: &str, prompt: TrainerPrompt) -> Self {
        Self {
            name: name.to_owned(),
            source: Source::Plain(prompt.text),
            stop_strings: prompt.stop,
            lead: &[],
            image_marker: IMAGE_MARKER,
        }
    }

    /// Sets the image marker of the checkpoint's own template.
    pub fn with_image_marker(self, image_marker: &'static str) -> Self {
        Self { image_marker, ..self }
    }

    fn jinja(name: &str, text: String, checkpoint: &Checkpoint) -> anyhow::Result<Self> {
        let environment = environment_of(&text)
            .map_err(|error| anyhow::anyhow!("the chat template `{name}` is not valid: {}", explain(&error)))?;
        let special_tokens = special_names(checkpoint)?;
        let source = Source::Jinja { text, environment: Box::new(environment), special_tokens };
        Ok(Self { name: name.to_owned(), source, stop_strings: Vec::new(), lead: &[], image_marker: IMAGE_MARKER })
    }

    /// Renders the prompt of one user turn, an image and then `question`, up to the start of the answer. The image
    /// marker takes the place of the image.
    ///
    /// # Errors
    /// As [`render_conversation`](Self::render_conversation).
    pub fn render(&self, question: &str) -> anyhow::Result<String> {
        self.render_conversation(&Conversation::about_one_image(question))
    }

    /// Returns warnings about the checkpoint's other chat templates, if this is its own and they give another prompt.
    /// For example, a trainer may have written its own template into the tokenizer's files.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn other_templates(&self, checkpoint: &Checkpoint, tokenizer: &TextTokenizer) -> anyhow::Result<Vec<String>> {
        let others = stored_templates(|name| checkpoint.read_file(name))?;
        let others = others.into_iter().filter(|(name, _)| *name != self.name);
        let differing = others.filter(|(_, text)| !text.as_ref().is_ok_and(|text| self.agrees(text, tokenizer)));
        let told = differing.map(|(name, _)| {
            format!(
                "`{name}` of `{}` has another chat template than `{}`, which is used; hint: choose with `--template` \
                 the one that it was trained with",
                checkpoint.dir.display(),
                self.name
            )
        });
        Ok(told.collect())
    }

    /// Returns a warning if the chat template in the folder of the adapter `name` gives another prompt. `read` gives
    /// the folder's files.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn adapter_template(
        &self,
        name: &str,
        read: impl Fn(&str) -> anyhow::Result<Option<(PathBuf, Vec<u8>)>>,
        tokenizer: &TextTokenizer,
    ) -> anyhow::Result<Option<String>> {
        let stored = stored_templates(|file| Ok(read(file)?.map(|(_, bytes)| bytes)))?;
        let Some((file, text)) = stored.into_iter().next() else { return Ok(None) };
        if text.is_ok_and(|text| self.agrees(&text, tokenizer)) {
            return Ok(None);
        }
        let mend = match (file, read(file)?) {
            ("chat_template.jinja", Some((path, _))) => format!("use it with `--template {}`", path.display()),
            _ => "choose with `--template` the one that it was trained with".to_owned(),
        };
        Ok(Some(format!(
            "{name} has another chat template (`{file}`) than `{}`, which is used; hint: {mend}",
            self.name
        )))
    }

    /// Returns whether the jinja template `text` gives the same prompt as this one. Templates of text-only models take
    /// a question as one text that contains the image marker.
    fn agrees(&self, text: &str, tokenizer: &TextTokenizer) -> bool {
        const ANY_QUESTION: &str = "What is this?";
        let bos_token = tokenizer.bos_token().unwrap_or("");
        let named = [("bos_token", tokenizer.bos_token()), ("eos_token", tokenizer.eos_token())];
        let special_tokens: SpecialTokens =
            named.into_iter().filter_map(|(name, token)| Some((name.to_owned(), token?.to_owned()))).collect();
        let (Ok(own), Ok(environment)) = (self.render(ANY_QUESTION), environment_of(text)) else { return false };
        let rendered = |messages: Vec<minijinja::Value>| {
            let variables = variables(messages, true, &special_tokens);
            environment.get_template(TEMPLATE_NAME).and_then(|template| template.render(variables)).ok()
        };
        // A missing begin token is added by the tokenizer.
        let plain = |text: &str| text.strip_prefix(bos_token).unwrap_or(text).to_owned();
        if rendered(one_turn(ANY_QUESTION)).is_some_and(|text| plain(&text) == plain(&own)) {
            return true;
        }
        // If a question is one text, a trainer wrote the template and tokenises its texts one by one. The tokenizer
        // then adds spaces between them.
        let bare = |text: &str| plain(text).replace(' ', "");
        let image = trainer_template::image_text(self.image_marker);
        ["\n", ""].into_iter().any(|between| {
            let turn = user_turn(format!("{image}{between}{ANY_QUESTION}").into());
            rendered(vec![turn]).is_some_and(|text| bare(&text) == bare(&own))
        })
    }

    /// Returns what the template writes around the answer to `question`, whose prompt is `prompt`. `None` if it takes
    /// no answers, or does not show them after the prompt.
    pub fn around_answer(&self, question: &str, prompt: &str) -> Option<AroundAnswer> {
        let Source::Jinja { environment, special_tokens, .. } = &self.source else {
            let after = self.stop_strings.first().cloned().unwrap_or_default();
            // Trainers tokenise the answer on its own; sentencepiece then puts a space before it.
            let before = match self.lead.get(1) {
                // The prompt ends before the model's turn is announced.
                Some(turn) if !prompt.ends_with(turn) => format!("{turn} "),
                _ if prompt.ends_with(char::is_whitespace) => String::new(),
                _ => " ".to_owned(),
            };
            return Some(AroundAnswer { before, after });
        };
        let text = one_map(vec![("type", "text".into()), ("text", PROBE.into())]);
        // Some templates take an answer as a list of parts, like a question; others take a text.
        [vec![text].into(), minijinja::Value::from(PROBE)].into_iter().find_map(|content| {
            let mut messages = one_turn(question);
            messages.push(one_map(vec![("role", "assistant".into()), ("content", content)]));
            let variables = variables(messages, false, special_tokens);
            let rendered = environment.get_template(TEMPLATE_NAME).and_then(|t| t.render(variables)).ok()?;
            let (before, after) = rendered.strip_prefix(prompt)?.split_once(PROBE)?;
            Some(AroundAnswer { before: before.to_owned(), after: after.to_owned() })
        })
    }

    /// The built-in name, or the template's file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns a warning if the template uses today's date.
    pub fn clock_warning(&self) -> Option<String> {
        let is_asked = matches!(&self.source, Source::Jinja { text, .. } if text.contains(CLOCK));
        is_asked.then(|| {
            format!(
                "the chat template `{}` contains today's date, which is always {TODAY} here, so that runs on different \
                 days have the same prompt",
                self.name
            )
        })
    }

    /// The template's text.
    pub fn text(&self) -> &str {
        match &self.source {
            Source::Plain(text) => text,
            Source::Jinja { text, .. } => text,
        }
    }

    /// The identity, `blake3:…` over the template's text.
    pub fn hash(&self) -> String {
        format!("blake3:{}", blake3::hash(self.text().as_bytes()).to_hex())
    }

    /// Returns an answer without what the model wrote before it.
    pub fn without_lead<'a>(&self, answer: &'a str) -> &'a str {
        let Some(mut rest) = (!self.lead.is_empty()).then(|| answer.trim_start()) else { return answer };
        while let Some(next) = self.lead.iter().find_map(|lead| rest.strip_prefix(lead)) {
            rest = next.trim_start();
        }
        rest
    }

    /// Strings that end an answer, in addition to the model's end token.
    pub fn stop_strings(&self) -> &[String] {
        &self.stop_strings
    }
}

/// The text that a template writes around an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AroundAnswer {
    /// Between the prompt and the answer.
    pub before: String,
    /// After the answer, if it ends the assistant's turn.
    pub after: String,
}

/// An answer that no template writes by itself.
const PROBE: &str = "emtprobeanswer";

/// Returns the messages of one user turn: an image, then `question`.
fn one_turn(question: &str) -> Vec<minijinja::Value> {
    let image = one_map(vec![("type", "image".into())]);
    let text = one_map(vec![("type", "text".into()), ("text", question.into())]);
    vec![user_turn(vec![image, text].into())]
}

pub(in crate::model) fn user_turn(content: minijinja::Value) -> minijinja::Value {
    one_map(vec![("role", "user".into()), ("content", content)])
}

pub(in crate::model) fn one_map(pairs: Vec<(&str, minijinja::Value)>) -> minijinja::Value {
    minijinja::Value::from_pairs(pairs)
}

/// The variables of a template, as in transformers: no tools, no documents, and the tokenizer's special tokens.
pub(in crate::model) fn variables(
    messages: Vec<minijinja::Value>,
    adds_generation_prompt: bool,
    special_tokens: &SpecialTokens,
) -> minijinja::Value {
    let tokens = special_tokens.iter().map(|(name, token)| (name.as_str(), token.as_str().into()));
    let fixed = [
        ("messages", messages.into()),
        ("tools", ().into()),
        ("documents", ().into()),
        ("add_generation_prompt", adds_generation_prompt.into()),
    ];
    one_map(tokens.chain(fixed).collect())
}

/// Returns the checkpoint's template and its file.
fn own_template(checkpoint: &Checkpoint) -> anyhow::Result<Option<(String, String)>> {
    let place = |name: &str| checkpoint.dir.join(name);
    match stored_templates(|name| checkpoint.read_file(name))?.into_iter().next() {
        None => Ok(None),
        Some((name, Ok(text))) => Ok(Some((name.to_owned(), text))),
        Some((name, Err(error))) => {
            Err(error.context(format!("failed to read the chat template of `{}`", place(name).display())))
        }
    }
}

/// All chat templates of a folder, by file, or why one cannot be read. They are in the order of transformers'
/// processors (5.24); the first one is used.
type StoredTemplates = Vec<(&'static str, anyhow::Result<String>)>;

fn stored_templates(read: impl Fn(&str) -> anyhow::Result<Option<Vec<u8>>>) -> anyhow::Result<StoredTemplates> {
    let mut found: StoredTemplates = Vec::new();
    for file in ["processor_config.json", "chat_template.json", "chat_template.jinja", "tokenizer_config.json"] {
        let Some(bytes) = read(file)? else { continue };
        let text = text::decode(&bytes).with_context(|| format!("`{file}`"));
        let text = match (file, text) {
            (_, Err(error)) => Some(Err(error)),
            ("chat_template.jinja", Ok(text)) => Some(Ok(text.to_owned())),
            (_, Ok(text)) => stored_in_json(text),
        };
        found.extend(text.map(|text| (file, text)));
    }
    Ok(found)
}

/// Returns the template in a configuration, or `None` if there is none.
fn stored_in_json(text: &str) -> Option<anyhow::Result<String>> {
    let json = match serde_json::from_str::<Value>(text) {
        Ok(json) => json,
        Err(error) => return Some(Err(error).context("hint: the file must be JSON, copy it again")),
    };
    let template = json.get("chat_template").filter(|template| !template.is_null())?;
    Some(
        template_text(template).context(
            "`chat_template` is neither text nor a list with one named `default`; hint: choose with `--template`",
        ),
    )
}

/// Reads a template that is a string, or a list of `{name, template}`.
fn template_text(template: &Value) -> Option<String> {
    if let Some(text) = template.as_str() {
        return Some(text.to_owned());
    }
    let named: Vec<&Value> = template.as_array()?.iter().collect();
    let default = named.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"));
    let only = (named.len() == 1).then(|| named.first()).flatten();
    default.or(only)?.get("template")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests;
