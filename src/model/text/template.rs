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
    /// `tokenizer_config.json`. An original LLaVA has none and gets `vicuna_v1`, the format of its training scripts.
    ///
    /// # Errors
    /// The template is missing, unreadable or not valid jinja.
    pub fn open(checkpoint: &Checkpoint, choice: Option<&str>) -> anyhow::Result<Self> {
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
        if checkpoint.is_llava_original() {
            return Self::built_in("vicuna_v1").context("vicuna_v1 is built in");
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
        Ok(Self { name: name.to_owned(), source, stop_strings: Vec::new(), image_marker: IMAGE_MARKER })
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
            let before = if prompt.ends_with(char::is_whitespace) { "" } else { " " };
            return Some(AroundAnswer { before: before.to_owned(), after });
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::checkpoint::weights::testing::{fixtures, miniature_prompts, read_json, write};
    use crate::model::checkpoint::weights::{Miniature, open_checkpoint};

    /// A checkpoint folder with `config`, these files, and weights that are never read.
    fn checkpoint(config: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, Checkpoint) {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("config.json"), config);
        write(&folder.path().join("model.safetensors"), "not read here");
        for (name, text) in files {
            write(&folder.path().join(name), text);
        }
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        (folder, checkpoint)
    }

    #[test]
    fn the_checkpoints_own_template_gives_the_prompt_of_transformers() {
        for dir in fixtures("llava") {
            let reference = read_json(&dir.join("reference.json"));
            let question = reference["question"].as_str().unwrap();
            let llava = Checkpoint::open(&dir).unwrap();
            let own = ChatTemplate::open(&llava, None).unwrap();
            assert_eq!(own.name(), "chat_template.jinja");
            assert_eq!(own.render(question).unwrap(), reference["prompts"]["hf_chat_template"]);
            let llava_v1 = ChatTemplate::open(&llava, Some("llava_v1")).unwrap();
            assert_eq!(llava_v1.render(question).unwrap(), reference["prompts"]["vicuna_v1_original"]);
        }
    }

    #[test]
    fn the_small_pairs_prompts_are_those_of_its_answers() {
        let checkpoint = open_checkpoint(std::path::Path::new("embedded"), Miniature::Model).unwrap();
        let template = ChatTemplate::open(&checkpoint, None).unwrap();
        let prompts = miniature_prompts();
        assert_eq!(prompts.len(), 4);
        for (name, known) in prompts {
            let question = known["question"].as_str().unwrap();
            assert_eq!(template.render(question).unwrap(), known["prompt"].as_str().unwrap(), "{name}");
        }
    }

    #[test]
    fn an_original_llava_defaults_to_the_template_of_its_training() {
        let (_folder, original) = checkpoint(r#"{"mm_vision_tower": "openai/clip-vit-large-patch14-336"}"#, &[]);
        let template = ChatTemplate::open(&original, None).unwrap();
        assert_eq!(template.name(), "vicuna_v1");
        assert!(template.render("What?").unwrap().ends_with("user's questions. USER: <image>\nWhat? ASSISTANT:"));
        assert_eq!(ChatTemplate::open(&original, Some("llava_v0")).unwrap().stop_strings(), ["###"]);
    }

    #[test]
    fn files_are_asked_in_the_order_of_transformers() {
        // `AutoProcessor` of transformers 5.24 chooses in this order.
        let processor = ("processor_config.json", r#"{"chat_template": "one <image>"}"#);
        let json = ("chat_template.json", r#"{"chat_template": "two <image>"}"#);
        let jinja = ("chat_template.jinja", "three <image>");
        let tokenizer = (
            "tokenizer_config.json",
            r#"{"chat_template": [{"name": "tool", "template": "no"}, {"name": "default", "template": "four <image>"}]}"#,
        );
        let all = [processor, json, jinja, tokenizer];
        for (index, expected) in ["one", "two", "three", "four"].into_iter().enumerate() {
            let (_folder, checkpoint) = checkpoint("{}", &all[index..]);
            let rendered = ChatTemplate::open(&checkpoint, None).unwrap().render("q").unwrap();
            assert_eq!(rendered, format!("{expected} <image>"));
        }
        let (_folder, none) = checkpoint("{}", &[]);
        let error = ChatTemplate::open(&none, None).unwrap_err().to_string();
        assert!(error.contains("no chat template") && error.contains("--template"), "{error}");
    }

    #[test]
    fn special_tokens_and_the_generation_tag_are_known_to_templates() {
        let text = "{{ bos_token }}{% for m in messages %}{{ m.role.upper() }}: {% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %}{% endfor %}{%- generation -%} A: {% endgeneration %}\n";
        let (_folder, checkpoint) = checkpoint(
            "{}",
            &[("chat_template.jinja", text), ("tokenizer_config.json", r#"{"bos_token": {"content": "<s>"}}"#)],
        );
        assert_eq!(ChatTemplate::open(&checkpoint, None).unwrap().render("q").unwrap(), "<s>USER: <image>qA: ");
    }

    #[test]
    fn of_special_tokens_the_file_of_transformers_order_counts() {
        let map = ("special_tokens_map.json", r#"{"bos_token": "<map>"}"#);
        let plain = ("tokenizer_config.json", r#"{"bos_token": "<config>"}"#);
        let whole = ("tokenizer_config.json", r#"{"bos_token": "<config>", "added_tokens_decoder": {}}"#);
        let template = ("chat_template.jinja", "{{ bos_token }}{{ tools }}{{ sep_token is defined }} <image>");
        for (config, expected) in [(plain, "<map>None"), (whole, "<config>None")] {
            let (_folder, checkpoint) = checkpoint("{}", &[template, map, config]);
            let rendered = ChatTemplate::open(&checkpoint, None).unwrap().render("q").unwrap();
            assert_eq!(rendered, format!("{expected}False <image>"));
        }
    }

    #[test]
    fn a_template_that_asks_for_the_day_is_told_one_and_says_so() {
        let text = "{{ strftime_now('%d %b %Y') }} <image>{{ messages[0].content[1].text }}";
        let (_folder, checkpoint) = checkpoint("{}", &[("chat_template.jinja", text)]);
        let template = ChatTemplate::open(&checkpoint, None).unwrap();
        assert_eq!(template.render("q").unwrap(), "26 Jul 2024 <image>q");
        assert!(template.clock_warning().unwrap().contains("26 Jul 2024"));
        assert_eq!(ChatTemplate::built_in("vicuna_v1").unwrap().clock_warning(), None);
    }

    #[test]
    fn what_stands_around_an_answer_is_the_templates_own() {
        let around = |template: &ChatTemplate| {
            let prompt = template.render("What?").unwrap();
            template.around_answer("What?", &prompt).map(|around| (around.before, around.after))
        };
        let pair = |before: &str, after: &str| Some((before.to_owned(), after.to_owned()));
        assert_eq!(around(&ChatTemplate::built_in("vicuna_v1").unwrap()), pair(" ", "</s>"));
        assert_eq!(around(&ChatTemplate::built_in("llava_v0").unwrap()), pair(" ", "###"));
        let list = "{% for m in messages %}<|{{ m.role }}|>\n{% for c in m.content %}{{ '<image>' if c.type == 'image' else c.text }}{% endfor %}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}";
        let text = "{% for m in messages %}{% if m.role == 'user' %}Q: <image>{{ m.content[1].text }}{% else %} A: {{ m.content.strip() }}</s>{% endif %}{% endfor %}{% if add_generation_prompt %} A:{% endif %}";
        let blind = "<image>{{ messages[0].content[1].text }}:";
        for (source, expected) in [(list, pair("", "<|end|>\n")), (text, pair(" ", "</s>")), (blind, None)] {
            let (_folder, checkpoint) = checkpoint("{}", &[("chat_template.jinja", source)]);
            assert_eq!(around(&ChatTemplate::open(&checkpoint, None).unwrap()), expected, "{source}");
        }
    }

    #[test]
    fn a_template_that_fails_or_refuses_says_why() {
        let (_folder, refusing) =
            checkpoint("{}", &[("chat_template.jinja", "{{ raise_exception('only text turns') }}")]);
        let error = ChatTemplate::open(&refusing, None).unwrap().render("q").unwrap_err().to_string();
        assert!(error.contains("only text turns"), "{error}");
        let (_folder, blind) = checkpoint("{}", &[("chat_template.jinja", "{{ messages[0].content[1].text }}")]);
        let error = ChatTemplate::open(&blind, None).unwrap().render("q").unwrap_err().to_string();
        assert!(error.contains("shows 0 images"), "{error}");
        let error = ChatTemplate::built_in("llava_v1").unwrap().render("an <image>?").unwrap_err().to_string();
        assert!(error.contains("stands for the image"), "{error}");
        let (_folder, broken) = checkpoint("{}", &[("chat_template.jinja", "{% for %}")]);
        assert!(ChatTemplate::open(&broken, None).unwrap_err().to_string().contains("chat_template.jinja"));
        let error = format!("{:#}", ChatTemplate::open(&broken, Some("vicuna_v7")).unwrap_err());
        assert!(error.contains("vicuna_v1") && error.contains("vicuna_v7"), "{error}");
    }
    proptest! {
        #[test]
        fn any_text_is_a_template_or_an_error(
            noise in ".{0,60}",
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "{%", "%}", "{{", "}}", "{#", "#}", "-", " generation ", " endgeneration ", "if ", "endif", "for m in ",
                    "endfor", "messages", "m['content']", "[0]", "|", "join", "'", "\n", "<image>", "raise_exception('é')", "é",
                ]),
                0..14,
            ),
            question in ".{0,20}",
        ) {
            let (_spoilt_folder, spoilt) = checkpoint("{}", &[("tokenizer_config.json", &noise)]);
            let _ = ChatTemplate::open(&spoilt, None);
            let (_folder, plain) = checkpoint("{}", &[]);
            for text in [noise, parts.concat()] {
                if let Ok(template) = ChatTemplate::jinja("mine", text, &plain)
                    && let Ok(rendered) = template.render(&question)
                {
                    prop_assert_eq!(rendered.matches(IMAGE_MARKER).count(), 1);
                }
            }
        }
    }
}
