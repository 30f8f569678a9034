//! Chat templates: how a question about an image becomes the text that a model was trained to continue.

use std::path::Path;

use anyhow::{Context, bail};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, context};
use serde_json::Value;

use super::weights::{Checkpoint, read_text_file};

/// What stands for the image in built-in templates, and in those of LLaVA.
pub const IMAGE_MARKER: &str = "<image>";

/// Templates that need no file: the original LLaVA repository's conversations (formats of its `conversation.py`).
const BUILT_IN: [BuiltIn; 3] = [
    BuiltIn {
        name: "vicuna_v1",
        text: "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, \
               detailed, and polite answers to the user's questions. USER: <image>\n{question} ASSISTANT:",
        stop: &["</s>"],
    },
    BuiltIn {
        name: "llava_v1",
        text: "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, \
               detailed, and polite answers to the human's questions. USER: <image>\n{question} ASSISTANT:",
        stop: &["</s>"],
    },
    BuiltIn {
        name: "llava_v0",
        text: "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, \
               detailed, and polite answers to the human's questions.###Human: <image>\n{question}###Assistant:",
        stop: &["###"],
    },
];

/// Where the question goes in a built-in template.
const QUESTION: &str = "{question}";

struct BuiltIn {
    name: &'static str,
    text: &'static str,
    stop: &'static [&'static str],
}

/// A template that has been compiled.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    name: String,
    source: Source,
    stop_strings: Vec<String>,
    image_marker: &'static str,
}

#[derive(Clone, Debug)]
enum Source {
    BuiltIn(&'static str),
    Jinja { text: String, environment: Box<Environment<'static>>, bos_token: String, eos_token: String },
}

impl ChatTemplate {
    /// The names of the built-in templates.
    pub fn built_in_names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|template| template.name)
    }

    /// Opens the template `choice`: a built-in name, or a file of jinja. Without a choice it is the checkpoint's own:
    /// `chat_template.jinja`, `chat_template.json`, `processor_config.json`, `tokenizer_config.json`, in this order.
    /// An original LLaVA, which carries none, gets `vicuna_v1`, with which its training scripts format.
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
            return Self::jinja(choice, text, checkpoint);
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
            source: Source::BuiltIn(found.text),
            stop_strings: found.stop.iter().map(|&stop| stop.to_owned()).collect(),
            image_marker: IMAGE_MARKER,
        })
    }

    /// The same, where `image_marker` stands for the image in the checkpoint's own template.
    pub fn with_image_marker(self, image_marker: &'static str) -> Self {
        Self { image_marker, ..self }
    }

    fn jinja(name: &str, text: String, checkpoint: &Checkpoint) -> anyhow::Result<Self> {
        let environment = environment_of(&text)
            .map_err(|error| anyhow::anyhow!("the chat template `{name}` is not valid: {}", explain(&error)))?;
        let special = |key: &str| special_token(checkpoint, key);
        let (bos_token, eos_token) = (special("bos_token")?, special("eos_token")?);
        let source = Source::Jinja { text, environment: Box::new(environment), bos_token, eos_token };
        Ok(Self { name: name.to_owned(), source, stop_strings: Vec::new(), image_marker: IMAGE_MARKER })
    }

    /// The prompt of one user turn, an image and then `question`, up to where the answer begins. The image marker stands
    /// for the image.
    ///
    /// # Errors
    /// The template fails, refuses such a turn, or shows no image or more than one.
    pub fn render(&self, question: &str) -> anyhow::Result<String> {
        let marker = self.image_marker;
        anyhow::ensure!(
            !question.contains(marker),
            "the question contains `{marker}`, which stands for the image; hint: leave it out, the template places it"
        );
        let rendered = match &self.source {
            Source::BuiltIn(text) => text.replace(IMAGE_MARKER, marker).replace(QUESTION, question),
            Source::Jinja { environment, bos_token, eos_token, .. } => {
                let messages = one_turn(question);
                let variables = context! { messages, add_generation_prompt => true, bos_token, eos_token };
                let template = environment.get_template(TEMPLATE_NAME);
                template
                    .and_then(|template| template.render(variables))
                    .map_err(|error| anyhow::anyhow!("the chat template `{}` failed: {}", self.name, explain(&error)))?
            }
        };
        let n_images = rendered.matches(marker).count();
        anyhow::ensure!(
            n_images == 1,
            "the chat template `{}` shows {n_images} images as `{marker}` for a question with one; hint: choose \
             another with `--template`",
            self.name
        );
        Ok(rendered)
    }

    /// What the template writes around the answer to `question`, whose prompt is `prompt`. `None` where it takes no
    /// answers, or shows them otherwise than after the prompt.
    pub fn around_answer(&self, question: &str, prompt: &str) -> Option<AroundAnswer> {
        let Source::Jinja { environment, bos_token, eos_token, .. } = &self.source else {
            let after = self.stop_strings.first().cloned().unwrap_or_default();
            return Some(AroundAnswer { before: " ".to_owned(), after });
        };
        let text = one_map(vec![("type", "text".into()), ("text", PROBE.into())]);
        // Some templates take an answer as a list of parts, as they take questions, others as a text.
        [vec![text].into(), minijinja::Value::from(PROBE)].into_iter().find_map(|content| {
            let mut messages = one_turn(question);
            messages.push(one_map(vec![("role", "assistant".into()), ("content", content)]));
            let variables = context! { messages, add_generation_prompt => false, bos_token, eos_token };
            let rendered = environment.get_template(TEMPLATE_NAME).and_then(|t| t.render(variables)).ok()?;
            let (before, after) = rendered.strip_prefix(prompt)?.split_once(PROBE)?;
            Some(AroundAnswer { before: before.to_owned(), after: after.to_owned() })
        })
    }

    /// The built-in name, or the file that the template came from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The template itself.
    pub fn text(&self) -> &str {
        match &self.source {
            Source::BuiltIn(text) => text,
            Source::Jinja { text, .. } => text,
        }
    }

    /// The identity, `blake3:…` over the template's text.
    pub fn hash(&self) -> String {
        format!("blake3:{}", blake3::hash(self.text().as_bytes()).to_hex())
    }

    /// Texts that end an answer beside the model's end token.
    pub fn stop_strings(&self) -> &[String] {
        &self.stop_strings
    }
}

/// What a template writes around an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AroundAnswer {
    /// Between the prompt and the answer.
    pub before: String,
    /// After the answer, where it ends the assistant's turn.
    pub after: String,
}

/// An answer that no template writes by itself.
const PROBE: &str = "emtprobeanswer";

/// The messages of one user turn: an image, then `question`.
fn one_turn(question: &str) -> Vec<minijinja::Value> {
    let image = one_map(vec![("type", "image".into())]);
    let text = one_map(vec![("type", "text".into()), ("text", question.into())]);
    vec![one_map(vec![("role", "user".into()), ("content", vec![image, text].into())])]
}

fn one_map(pairs: Vec<(&str, minijinja::Value)>) -> minijinja::Value {
    minijinja::Value::from(pairs.into_iter().collect::<std::collections::BTreeMap<_, _>>())
}

/// The name of the only template of an environment.
const TEMPLATE_NAME: &str = "chat";

fn environment_of(text: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    // As transformers sets jinja up.
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_template_owned(TEMPLATE_NAME, without_generation_tags(text))?;
    Ok(environment)
}

/// transformers' own tag `{% generation %}` marks the answer for training and renders its body: to jinja it is `if true`.
fn without_generation_tags(text: &str) -> String {
    let mut rest = text;
    let mut out = String::with_capacity(text.len());
    while let Some(start) = rest.find("{%") {
        // `{%}` is an opened tag and not a closed one.
        let Some(end) = rest[start + 2..].find("%}").map(|end| start + 2 + end) else { break };
        let tag = &rest[start + 2..end];
        let name = tag.trim_matches(['-', '+', ' ', '\t', '\n', '\r']);
        let replaced = match name {
            "generation" => tag.replacen(name, "if true", 1),
            "endgeneration" => tag.replacen(name, "endif", 1),
            _ => tag.to_owned(),
        };
        out.push_str(&rest[..start + 2]);
        out.push_str(&replaced);
        out.push_str("%}");
        rest = &rest[end + 2..];
    }
    out.push_str(rest);
    out
}

fn explain(error: &Error) -> String {
    match (error.detail(), error.line()) {
        (Some(detail), Some(line)) => format!("{} (line {line})", detail),
        (None, Some(line)) => format!("{} (line {line})", error.kind()),
        (detail, None) => detail.map_or_else(|| error.kind().to_string(), str::to_owned),
    }
}

/// The checkpoint's template and the file that it came from.
fn own_template(checkpoint: &Checkpoint) -> anyhow::Result<Option<(String, String)>> {
    if let Some(bytes) = checkpoint.read_file("chat_template.jinja")? {
        let text = String::from_utf8(bytes).with_context(|| {
            format!("failed to read `{}`: it is not UTF-8", checkpoint.dir.join("chat_template.jinja").display())
        })?;
        return Ok(Some(("chat_template.jinja".to_owned(), text)));
    }
    for file in ["chat_template.json", "processor_config.json", "tokenizer_config.json"] {
        let Some(json) = checkpoint.read_json(file)? else { continue };
        let template = json.get("chat_template").filter(|template| !template.is_null());
        if let Some(template) = template {
            let text = template_text(template).with_context(|| {
                format!(
                    "failed to read `{}`: `chat_template` is neither a text nor a list with one named `default`; hint: \
                     choose with `--template`",
                    checkpoint.dir.join(file).display()
                )
            })?;
            return Ok(Some((file.to_owned(), text)));
        }
    }
    Ok(None)
}

/// A template is a string, or a list of `{name, template}`.
fn template_text(template: &Value) -> Option<String> {
    if let Some(text) = template.as_str() {
        return Some(text.to_owned());
    }
    let named: Vec<&Value> = template.as_array()?.iter().collect();
    let default = named.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"));
    let only = (named.len() == 1).then(|| named.first()).flatten();
    default.or(only)?.get("template")?.as_str().map(str::to_owned)
}

/// `bos_token` or `eos_token` as text; empty where the tokenizer has none, as in transformers.
fn special_token(checkpoint: &Checkpoint, key: &str) -> anyhow::Result<String> {
    for file in ["tokenizer_config.json", "special_tokens_map.json"] {
        let Some(json) = checkpoint.read_json(file)? else { continue };
        let Some(value) = json.get(key) else { continue };
        if let Some(text) = value.as_str().or_else(|| value.get("content")?.as_str()) {
            return Ok(text.to_owned());
        }
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::weights::testing::{read, read_json, shared, write};

    /// A checkpoint folder with these files besides configuration and weights that are never read.
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
        let Some(shared) = shared() else { return };
        let dir = shared.join("fixtures/llava");
        let reference = read_json(&dir.join("reference.json"));
        let question = reference["question"].as_str().unwrap();
        let llava = Checkpoint::open(&dir).unwrap();
        let own = ChatTemplate::open(&llava, None).unwrap();
        assert_eq!(own.name(), "chat_template.jinja");
        assert_eq!(own.render(question).unwrap(), reference["prompts"]["hf_chat_template"]);
        let llava_v1 = ChatTemplate::open(&llava, Some("llava_v1")).unwrap();
        assert_eq!(llava_v1.render(question).unwrap(), reference["prompts"]["vicuna_v1_original"]);
    }

    #[test]
    fn the_small_pairs_prompts_are_those_of_its_answers() {
        let Some(shared) = shared() else { return };
        let template = ChatTemplate::open(&Checkpoint::open(shared.join("models/tiny-llava")).unwrap(), None).unwrap();
        for name in ["cifar10", "cifar100", "imagenet20", "mnist"] {
            let lines = read(&shared.join(format!("models/answers/{name}.jsonl")));
            let header: Value = serde_json::from_slice(lines.split(|&byte| byte == b'\n').next().unwrap()).unwrap();
            let prompt = header["prompt"].as_str().unwrap();
            let question = prompt.strip_prefix("USER: <image>\n").unwrap().strip_suffix(" ASSISTANT:").unwrap();
            assert_eq!(template.render(question).unwrap(), prompt);
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
        let jinja = ("chat_template.jinja", "one <image>");
        let json = ("chat_template.json", r#"{"chat_template": "two <image>"}"#);
        let processor = ("processor_config.json", r#"{"chat_template": "three <image>"}"#);
        let tokenizer = (
            "tokenizer_config.json",
            r#"{"chat_template": [{"name": "tool", "template": "no"}, {"name": "default", "template": "four <image>"}]}"#,
        );
        let all = [jinja, json, processor, tokenizer];
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
