//! Conversations of any number of turns and images, rendered with a chat template.

use anyhow::{Result, bail, ensure};

use super::template::{ChatTemplate, IMAGE_MARKER, QUESTION, Source, one_map, user_turn, variables};
use super::template_environment::{TEMPLATE_NAME, explain};
use super::trainer_template::image_text;
use crate::domain::{Conversation, Turn};

impl ChatTemplate {
    /// Renders the prompt of a conversation, up to the start of the answer to its last turn. One marker for each image
    /// comes before the text of its turn.
    ///
    /// # Errors
    /// The template fails, refuses such turns, takes only one turn, or shows more or fewer images.
    pub fn render_conversation(&self, conversation: &Conversation) -> Result<String> {
        let marker = self.image_marker;
        ensure!(
            conversation.turns.iter().all(|turn| !turn.text.contains(marker)),
            "the question contains `{marker}`, which stands for the image; hint: leave it out, the template places it"
        );
        let rendered = match &self.source {
            Source::Plain(text) => self.in_plain_text(text, conversation)?,
            Source::Jinja { environment, special_tokens, .. } => {
                // Some templates take an answer as a list of parts, like a question; others take a text.
                let render = |is_of_parts| {
                    let messages = conversation.turns.iter().flat_map(|turn| messages(turn, is_of_parts)).collect();
                    let variables = variables(messages, true, special_tokens);
                    environment.get_template(TEMPLATE_NAME).and_then(|template| template.render(variables))
                };
                let has_answers = |text: &String| {
                    conversation.turns.iter().flat_map(|turn| &turn.answer).all(|answer| text.contains(answer.as_str()))
                };
                let rendered = match render(true) {
                    Ok(text) if has_answers(&text) => Ok(text),
                    Err(error) if conversation.turns.iter().all(|turn| turn.answer.is_none()) => Err(error),
                    _ => render(false),
                };
                rendered
                    .map_err(|error| anyhow::anyhow!("the chat template `{}` failed: {}", self.name, explain(&error)))?
            }
        };
        let (n_shown, n_images) = (rendered.matches(marker).count(), conversation.n_images());
        ensure!(
            n_shown == n_images,
            "the chat template `{}` shows {n_shown} images as `{marker}` for a question with {}; hint: choose another with \
             `--template`",
            self.name,
            if n_images == 1 { "one".to_owned() } else { n_images.to_string() }
        );
        Ok(rendered)
    }

    /// Renders the one turn that a plain template takes. Several images are put on separate lines, as in the original
    /// LLaVA.
    fn in_plain_text(&self, text: &str, conversation: &Conversation) -> Result<String> {
        let [Turn { n_images, text: question, answer: None }] = conversation.turns.as_slice() else {
            bail!(
                "the template `{}` has one question and no answers; hint: give a jinja template with --template",
                self.name
            );
        };
        let images = vec![image_text(self.image_marker); *n_images].join("\n");
        Ok(text.replace(IMAGE_MARKER, &images).replace(QUESTION, question))
    }
}

/// Returns the messages of a turn: the user's, and the answer if there is one.
fn messages(turn: &Turn, is_of_parts: bool) -> Vec<minijinja::Value> {
    let text = |text: &str| one_map(vec![("type", "text".into()), ("text", text.into())]);
    let mut parts = vec![one_map(vec![("type", "image".into())]); turn.n_images];
    // A turn may be images alone.
    if !turn.text.is_empty() || turn.n_images == 0 {
        parts.push(text(&turn.text));
    }
    let mut messages = vec![user_turn(parts.into())];
    if let Some(answer) = &turn.answer {
        let content = if is_of_parts { vec![text(answer)].into() } else { minijinja::Value::from(answer.as_str()) };
        messages.push(one_map(vec![("role", "assistant".into()), ("content", content)]));
    }
    messages
}

#[cfg(test)]
mod tests;
