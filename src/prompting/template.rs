//! A template: text with `{noun}`, `{labels}` and `{n_labels}`.
#![expect(clippy::disallowed_methods, reason = "reads the user's own prompt file")]

use anyhow::{Context, bail, ensure};

use crate::assets::prompts::PROMPTS;
use crate::domain::{LabelSet, Prompt, text};

const PLACEHOLDERS: &str = "{noun}, {labels}, {n_labels} (a literal brace is written twice)";

/// A question for a dataset that is not chosen yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptTemplate {
    name: String,
    about: String,
    text: String,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Noun,
    Labels,
    NLabels,
}

/// The form of a prompt file.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct PromptFile {
    #[serde(default)]
    about: String,
    text: String,
}

/// Returns the names of the built-in prompts, in the order of the help.
pub fn names() -> impl Iterator<Item = &'static str> {
    PROMPTS.iter().map(|(name, _)| *name)
}

/// Loads the built-in prompt of that name, or otherwise the file at that path. A file that ends in `.toml` is TOML with
/// `text` (and `about`); of any other file the whole text is used.
///
/// # Errors
/// Neither exists, the file cannot be read, or a placeholder is unknown.
pub fn load(name_or_path: &str) -> anyhow::Result<PromptTemplate> {
    if let Some((name, toml)) = PROMPTS.iter().find(|(name, _)| *name == name_or_path) {
        return PromptTemplate::from_toml(name, toml).with_context(|| format!("in the built-in prompt `{name}`"));
    }
    let path = std::path::Path::new(name_or_path);
    let known = names().collect::<Vec<_>>().join(", ");
    let bytes = std::fs::read(path).with_context(|| {
        format!("failed to read the prompt `{name_or_path}`; hint: give a built-in one ({known}) or a file that exists")
    })?;
    let text = text::decode(&bytes).with_context(|| format!("failed to read the prompt `{name_or_path}`"))?;
    let name = path.file_stem().map_or_else(|| name_or_path.to_owned(), |stem| stem.to_string_lossy().into_owned());
    let is_toml = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml"));
    let template = if is_toml { PromptTemplate::from_toml(&name, text) } else { PromptTemplate::new(&name, "", text) };
    template.with_context(|| format!("in the prompt file `{name_or_path}`"))
}

impl PromptTemplate {
    fn from_toml(name: &str, toml: &str) -> anyhow::Result<Self> {
        let file: PromptFile =
            toml::from_str(toml).context("failed to read it as TOML; hint: it needs `text = \"…\"`")?;
        Self::new(name, &file.about, &file.text)
    }

    fn new(name: &str, about: &str, text: &str) -> anyhow::Result<Self> {
        let text = text.trim();
        ensure!(!text.is_empty(), "the prompt is empty");
        let pieces = parse(text)?;
        Ok(Self { name: name.to_owned(), about: about.to_owned(), text: text.to_owned(), pieces })
    }

    /// Returns the name for trials: the built-in name, or the file's name without its extension.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns a line for help; empty for a user's own file without one.
    pub fn about(&self) -> &str {
        &self.about
    }

    /// Returns `blake3:` and the hex hash of the template's text (without its name).
    pub fn hash(&self) -> String {
        format!("blake3:{}", blake3::hash(self.text.as_bytes()).to_hex())
    }

    /// Returns the question for a dataset whose answers are called `noun`; labels are joined by comma and space.
    ///
    /// # Errors
    /// `noun` is blank, which would break the question.
    pub fn render(&self, noun: &str, labels: &LabelSet) -> anyhow::Result<Prompt> {
        ensure!(!noun.trim().is_empty(), "prompt `{}`: the dataset's noun is empty; hint: `object`", self.name);
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(literal) => text.push_str(literal),
                Piece::Noun => text.push_str(noun),
                Piece::Labels => text.push_str(&labels.names().collect::<Vec<_>>().join(", ")),
                Piece::NLabels => text.push_str(&labels.len().to_string()),
            }
        }
        Ok(Prompt { name: self.name.clone(), text })
    }
}

fn parse(text: &str) -> anyhow::Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        literal.push_str(&rest[..at]);
        rest = &rest[at..];
        if rest.starts_with("{{") || rest.starts_with("}}") {
            literal.push_str(&rest[..1]);
            rest = &rest[2..];
            continue;
        }
        let end = rest.find('}').filter(|_| rest.starts_with('{'));
        let Some(end) = end else { bail!("a lone brace before `{}`; hint: {PLACEHOLDERS}", excerpt(rest)) };
        let piece = match rest[1..end].trim() {
            "noun" => Piece::Noun,
            "labels" => Piece::Labels,
            "n_labels" => Piece::NLabels,
            other => bail!("unknown placeholder `{{{other}}}`; hint: known are {PLACEHOLDERS}"),
        };
        if !literal.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut literal)));
        }
        pieces.push(piece);
        rest = &rest[end + 1..];
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Text(literal));
    }
    Ok(pieces)
}

fn excerpt(text: &str) -> String {
    text.chars().take(20).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::{AnswerType, Label};

    fn pair() -> LabelSet {
        LabelSet::new(vec![Label::named("cat"), Label::named("sea lion")], AnswerType::Object).unwrap()
    }

    #[test]
    fn built_in_prompts_are_unique_documented_and_renderable() {
        let unique: BTreeSet<_> = names().collect();
        assert_eq!(unique.len(), PROMPTS.len());
        for name in names() {
            let template = load(name).unwrap();
            assert!(!template.about().is_empty(), "{name} is not documented");
            assert_eq!(template.name(), name);
            assert!(template.render("object", &pair()).unwrap().text.contains("object"));
        }
    }

    #[test]
    fn emt_lists_the_labels_and_emt_open_does_not() {
        let text = |name| load(name).unwrap().render("object", &pair()).unwrap().text;
        let question = "What is the object in the image? Please only answer a single object";
        assert_eq!(text("emt"), format!("{question} in cat, sea lion."));
        assert_eq!(text("emt-open"), format!("{question}."));
        assert_ne!(load("emt").unwrap().hash(), load("emt-open").unwrap().hash());
    }

    #[test]
    fn emt_equals_the_prompts_that_the_reference_answers_were_made_with() {
        let known: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/miniature/prompts.json")).unwrap();
        for (dataset, known) in known.as_object().unwrap() {
            let labels: BTreeSet<String> = serde_json::from_value(known["labels"].clone()).unwrap();
            let labels = LabelSet::new(labels.into_iter().map(Label::named).collect(), AnswerType::Object).unwrap();
            let prompt = load("emt").unwrap().render(known["noun"].as_str().unwrap(), &labels).unwrap().text;
            let expected = format!("USER: <image>\n{prompt} ASSISTANT:");
            assert_eq!(known["prompt"].as_str().unwrap(), expected, "{dataset}");
        }
    }

    #[test]
    fn a_users_own_file_is_text_or_toml() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("mine.txt");
        std::fs::write(&text, "Which of {n_labels}: {labels}? {{json}}\n").unwrap();
        let template = load(text.to_str().unwrap()).unwrap();
        assert_eq!(template.name(), "mine");
        assert_eq!(template.render("object", &pair()).unwrap().text, "Which of 2: cat, sea lion? {json}");
        let toml = folder.path().join("mine.toml");
        std::fs::write(&toml, "text = 'Name the {noun}.'").unwrap();
        assert_eq!(load(toml.to_str().unwrap()).unwrap().render("digit", &pair()).unwrap().text, "Name the digit.");
    }

    #[test]
    fn an_unknown_placeholder_is_an_error_that_names_it() {
        let error = PromptTemplate::new("mine", "", "What {colour} is it?").unwrap_err().to_string();
        assert!(error.contains("{colour}") && error.contains("{labels}"), "{error}");
    }

    #[test]
    fn a_lone_brace_an_empty_prompt_and_a_missing_file_are_errors() {
        assert!(PromptTemplate::new("mine", "", "What {noun is it?").is_err());
        assert!(PromptTemplate::new("mine", "", "What noun} is it?").is_err());
        assert!(PromptTemplate::new("mine", "", " \n").is_err());
        let error = format!("{:#}", load("emt-close").unwrap_err());
        assert!(error.contains("emt-close") && error.contains("emt-open"), "{error}");
    }
    proptest! {
        #[test]
        fn any_text_is_a_prompt_or_an_error(text in "[a-c{} ]{0,30}|.{0,30}") {
            let _ = PromptTemplate::from_toml("mine", &text);
            if let Ok(template) = PromptTemplate::new("mine", "", &text) {
                let shown = template.render("object", &pair()).unwrap().text;
                // Without a placeholder a prompt is its text, except for doubled braces.
                prop_assert_eq!(shown, text.trim().replace("{{", "{").replace("}}", "}"));
            }
        }
    }
}
