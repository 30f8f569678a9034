//! Conversations without images, one JSON object per line, as instruction data are published.
//!
//! Read are `messages` with `role` and `content` (OpenAI, TRL), `conversations` with `from` and `value` (LLaVA, ShareGPT),
//! `instruction`, `input` and `output` (Alpaca), `prompt` and `completion`, and `question` and `answer`.
#![expect(clippy::disallowed_methods, reason = "dataset owns the files of datasets")]

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use crate::domain::{Conversation, Turn, text};

/// A conversation, and the answer to its last turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextSample {
    /// The line of its file, from 1.
    pub line: usize,
    /// The turns; the last one has no answer.
    pub conversation: Conversation,
    /// The answer to the last turn.
    pub answer: String,
}

/// Reads the conversations of the file `path`.
///
/// # Errors
/// The file cannot be read, a line is not understood, or a conversation is about an image.
pub fn read_texts(path: &Path) -> Result<Vec<TextSample>> {
    let bytes = std::fs::read(path).with_context(|| format!("failed to read `{}`", path.display()))?;
    let content = text::decode(&bytes).with_context(|| format!("`{}` is no text", path.display()))?;
    let mut samples = Vec::new();
    for (index, line) in content.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = || format!("`{}`, line {}", path.display(), index + 1);
        let value: Value = serde_json::from_str(line).with_context(place)?;
        let fields = value.as_object().with_context(|| format!("{}: it is not an object", place()))?;
        let (conversation, answer) = conversation(fields).with_context(place)?;
        samples.push(TextSample { line: index + 1, conversation, answer });
    }
    ensure!(!samples.is_empty(), "`{}` holds no conversation", path.display());
    Ok(samples)
}

fn conversation(fields: &Map<String, Value>) -> Result<(Conversation, String)> {
    ensure!(
        !["image", "images", "video"].iter().any(|key| fields.get(*key).is_some_and(|value| !value.is_null())),
        "it is about an image, and only texts are read; hint: leave such lines out"
    );
    if let Some(messages) = fields.get("messages") {
        return from_messages(messages, ["role", "content"]);
    }
    if let Some(messages) = fields.get("conversations") {
        return from_messages(messages, ["from", "value"]);
    }
    let field = |key: &str| fields.get(key).and_then(Value::as_str).map(str::to_owned);
    let pairs = [("instruction", "output"), ("prompt", "completion"), ("question", "answer")];
    let found = pairs.iter().find_map(|(asked, answered)| Some((field(asked)?, field(answered)?)));
    let (question, answer) = found.context(
        "it has none of messages, conversations, instruction and output, prompt and completion, question and answer",
    )?;
    let question = match field("input").filter(|input| !input.is_empty()) {
        Some(input) => format!("{question}\n{input}"),
        None => question,
    };
    let conversation = Conversation { turns: vec![Turn { n_images: 0, text: question, answer: None }] };
    checked(conversation, answer)
}

fn from_messages(messages: &Value, [who, what]: [&str; 2]) -> Result<(Conversation, String)> {
    let messages = messages.as_array().context("its messages are no list")?;
    let mut turns: Vec<Turn> = Vec::new();
    for message in messages {
        let field = |key: &str| message.get(key).and_then(Value::as_str);
        let (role, content) = (field(who).unwrap_or_default(), field(what).context("a message has no text")?);
        match role {
            // The chat template has its own.
            "system" => {}
            "user" | "human" => {
                turns.push(Turn { n_images: 0, text: content.to_owned(), answer: None });
            }
            "assistant" | "gpt" => {
                let turn = turns.last_mut().context("it begins with an answer")?;
                turn.answer = Some(content.to_owned());
            }
            other => bail!("`{other}` is no {who} that is known; hint: user and assistant, or human and gpt"),
        }
    }
    // A question at the end is not answered.
    while turns.last().is_some_and(|turn| turn.answer.is_none()) {
        turns.pop();
    }
    let answer = turns.last_mut().and_then(|turn| turn.answer.take()).context("it has no question with an answer")?;
    ensure!(turns.iter().rev().skip(1).all(|turn| turn.answer.is_some()), "a question before the last has no answer");
    checked(Conversation { turns }, answer)
}

fn checked(conversation: Conversation, answer: String) -> Result<(Conversation, String)> {
    ensure!(!answer.trim().is_empty(), "its answer is empty");
    ensure!(
        conversation.turns.iter().all(|turn| !turn.text.contains("<image>")),
        "it is about an image (`<image>`), and only texts are read; hint: leave such lines out"
    );
    Ok((conversation, answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> Result<Vec<TextSample>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("texts.jsonl");
        std::fs::write(&path, content).unwrap();
        read_texts(&path)
    }

    #[test]
    fn every_published_form_is_one_conversation() {
        let forms = [
            r#"{"question":"What is 2+2?","answer":"4"}"#,
            r#"{"prompt":"What is 2+2?","completion":"4"}"#,
            r#"{"instruction":"What is 2+2?","input":"","output":"4"}"#,
            r#"{"messages":[{"role":"system","content":"Be kind."},{"role":"user","content":"What is 2+2?"},{"role":"assistant","content":"4"}]}"#,
            r#"{"id":"1","conversations":[{"from":"human","value":"What is 2+2?"},{"from":"gpt","value":"4"},{"from":"human","value":"Why?"}]}"#,
        ];
        let samples = read(&forms.join("\n")).unwrap();
        assert_eq!(samples.len(), 5);
        for (index, sample) in samples.iter().enumerate() {
            assert_eq!((sample.line, sample.answer.as_str()), (index + 1, "4"));
            assert_eq!(sample.conversation.turns.len(), 1);
            assert_eq!(sample.conversation.turns[0].text, "What is 2+2?");
        }
    }

    #[test]
    fn earlier_turns_keep_their_answers() {
        let line = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"},{"role":"assistant","content":"d"}]}"#;
        let sample = read(line).unwrap().remove(0);
        assert_eq!(sample.conversation.turns[0].answer.as_deref(), Some("b"));
        assert_eq!((sample.conversation.turns[1].answer.as_deref(), sample.answer.as_str()), (None, "d"));
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        for (content, reason) in [
            ("{\"question\":\"a\",\"answer\":\"b\"}\n{", "line 2"),
            (r#"{"text":"a"}"#, "it has none of messages"),
            (r#"{"question":"a","answer":" "}"#, "its answer is empty"),
            (r#"{"image":"a.png","question":"a","answer":"b"}"#, "about an image"),
            (r#"{"question":"<image> a","answer":"b"}"#, "about an image"),
            (r#"{"messages":[{"role":"assistant","content":"b"}]}"#, "begins with an answer"),
            (r#"{"messages":[{"role":"tool","content":"b"}]}"#, "`tool` is no role"),
            ("\n", "holds no conversation"),
        ] {
            let error = format!("{:#}", read(content).unwrap_err());
            assert!(error.contains(reason), "{content}: {error}");
        }
    }
}
