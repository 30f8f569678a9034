//! Conversion between text and a model's tokens.

use anyhow::{Result, bail};

use super::prompt_form::TextReader;
use super::{PromptForm, RenderedPrompt};
use crate::domain::{Answer, Conversation};
use crate::model::run::generate::{Decoding, Generation};
use crate::model::run::generation_config::GenerationConfig;
use crate::model::run::scoring::LabelTrie;
use crate::model::text::template::{AroundAnswer, ChatTemplate};
use crate::model::text::tokenizer::{PromptPiece, TextTokenizer};

/// Converts between text and a model's tokens.
pub struct Dialogue {
    /// Tokenises prompts and decodes answers.
    pub tokenizer: TextTokenizer,
    /// Renders prompts.
    pub template: ChatTemplate,
    pub(super) eos_ids: Vec<u32>,
    pub(super) generation: GenerationConfig,
    pub(super) n_image_positions: usize,
    pub(super) image_marker: &'static str,
    pub(super) writing: PromptWriting,
    pub(super) form: PromptForm,
}

/// What a family's processor writes into a rendered prompt before it is tokenised.
#[derive(Clone, Debug, Default)]
pub struct PromptWriting {
    /// What takes the place of the template's marker of an image. `None` leaves the marker, which is then the image's
    /// token.
    pub image: Option<WrittenImage>,
    /// Whether the begin token follows the last image and a line end ends the prompt, and the tokenizer adds nothing.
    pub begins_after_images: bool,
}

/// The text of an image in a prompt.
#[derive(Clone, Copy, Debug)]
pub struct WrittenImage {
    /// The token that stands for the image.
    pub token: &'static str,
    /// The texts before and after the token.
    pub around: [&'static str; 2],
    /// What precedes the text of an image of several tiles, if images may have them.
    pub before_tiles: Option<&'static str>,
}

impl PromptWriting {
    /// Returns the prompt to tokenise, given a rendered one. `bos` is the begin token.
    fn written(&self, text: &str, marker: &str, bos: Option<&str>, is_tiled: bool) -> String {
        let mut text = text.to_owned();
        if let (true, Some(bos)) = (self.begins_after_images, bos) {
            let end = text.rfind(marker).map_or(0, |start| start + marker.len());
            // A template of the user's own may already write both.
            if !text[end..].starts_with(bos) {
                text.insert_str(end, bos);
            }
            if !text.ends_with('\n') {
                text.push('\n');
            }
        }
        match self.image {
            None => text,
            Some(WrittenImage { token, around: [before, after], before_tiles }) => {
                let lead = before_tiles.filter(|_| is_tiled).unwrap_or_default();
                text.replace(marker, &format!("{lead}{before}{token}{after}"))
            }
        }
    }
}

impl Dialogue {
    /// The maximum number of positions of an image in a prompt.
    pub fn n_image_positions_max(&self) -> usize {
        self.n_image_positions
    }

    /// Renders the prompt for one question about one image.
    pub fn render(&self, question: &str) -> Result<RenderedPrompt> {
        let text = self.template.render(question)?;
        let around_answer = self.template.around_answer(question, &text).filter(|_| !self.writing.begins_after_images);
        self.with_images(text, around_answer, 1)
    }

    /// Renders the prompt of a conversation with any number of turns and images, up to the start of the answer to its
    /// last turn.
    ///
    /// # Errors
    /// As [`ChatTemplate::render_conversation`], or the vocabulary cannot express the text.
    pub fn render_conversation(&self, conversation: &Conversation) -> Result<RenderedPrompt> {
        let text = self.template.render_conversation(conversation)?;
        self.with_images(text, None, conversation.n_images())
    }

    fn with_images(
        &self,
        text: String,
        around_answer: Option<AroundAnswer>,
        n_images: usize,
    ) -> Result<RenderedPrompt> {
        let prompt = self.prompt_of(text, around_answer)?;
        if prompt.n_images() != n_images {
            bail!(
                "the chat template `{}` puts {} images into the prompt instead of {}: {:?}; hint: choose another with --template",
                self.template.name(),
                prompt.n_images(),
                if n_images == 1 { "one".to_owned() } else { n_images.to_string() },
                prompt.text
            );
        }
        Ok(prompt)
    }

    /// Builds a prompt from its `text`, which has an image marker for each image. If `around_answer` is `None`, it is
    /// derived from the end of the text.
    ///
    /// # Errors
    /// The vocabulary cannot express the text.
    pub fn prompt_of(&self, text: String, around_answer: Option<AroundAnswer>) -> Result<RenderedPrompt> {
        let bos = self.tokenizer.bos_token();
        let written = |is_tiled| self.writing.written(&text, self.image_marker, bos, is_tiled);
        let may_be_tiled = self.writing.image.is_some_and(|image| image.before_tiles.is_some());
        let tiled_pieces = may_be_tiled.then(|| self.encode(&written(true))).transpose()?;
        let text = written(false);
        let pieces = self.encode(&text)?;
        let question_ids = self.form.question_ids(&text, self.image_marker)?;
        let ids: Vec<Option<u32>> = pieces
            .iter()
            .flat_map(|piece| match piece {
                PromptPiece::Text(ids) => ids.iter().copied().map(Some).collect(),
                PromptPiece::Image => vec![None; self.n_image_positions],
            })
            .collect();
        let around_answer = around_answer.unwrap_or_else(|| AroundAnswer {
            before: if text.ends_with(char::is_whitespace) { "" } else { " " }.to_owned(),
            after: String::new(),
        });
        let image_id = self.tokenizer.token_id(self.image_token());
        let first = ids.first().copied().flatten();
        let has_bos = first.is_some() && first == self.tokenizer.bos_id();
        Ok(RenderedPrompt { text, pieces, tiled_pieces, ids, around_answer, image_id, question_ids, has_bos })
    }

    /// The token that stands for an image in a prompt's text.
    fn image_token(&self) -> &'static str {
        self.writing.image.map_or(self.image_marker, |image| image.token)
    }

    /// Splits the text of a prompt, as the processor writes it, into pieces.
    fn encode(&self, text: &str) -> Result<Vec<PromptPiece>> {
        match self.writing.begins_after_images {
            true => self.tokenizer.encode_as_written(text, self.image_token()),
            false => self.form.pieces(&self.tokenizer, text, self.image_token()),
        }
    }

    /// Returns the tokens of `answer` as a continuation of `prompt`, with the terminator. Models are trained on these
    /// tokens.
    ///
    /// They are the tokens of the whole conversation after those of the prompt. The terminator is what the chat
    /// template writes after an answer: one of the tokens that end generation, or a stop string. If it writes neither
    /// (transformers' LLaVA), the terminator is the first token that ends generation.
    ///
    /// # Errors
    /// The answer's first token would merge with the end of the prompt, or the answer is empty.
    pub fn answer_ids(&self, prompt: &RenderedPrompt, answer: &str) -> Result<Vec<u32>> {
        let AroundAnswer { before, after } = &prompt.around_answer;
        let terminator = self.terminator(after);
        let stop = if let Terminator::Text(stop) = terminator { stop } else { "" };
        let ids: Option<Vec<u32>> = match self.form.after_images {
            Some(TextReader::Encoder) => Some(self.tokenizer.encode(&format!("{answer}{stop}"), false)?),
            _ => {
                let alone = flat(&prompt.pieces);
                let whole = format!("{}{before}{answer}{stop}", prompt.text);
                let whole = flat(&self.encode(&whole)?);
                whole.strip_prefix(alone.as_slice()).and_then(|ids| ids.iter().copied().collect())
            }
        };
        let Some(mut ids) = ids.filter(|ids| !ids.is_empty() && !answer.is_empty()) else {
            bail!(
                "the answer `{answer}` cannot be separated from its prompt in tokens; hint: choose other words for it \
                 (--answer-template, --labels) or another --template"
            );
        };
        if let Terminator::Token(id) = terminator {
            ids.push(id);
        }
        Ok(ids)
    }

    fn terminator<'a>(&'a self, after: &str) -> Terminator<'a> {
        let after = after.trim_start();
        let ends =
            |id: &u32| self.tokenizer.token(*id).is_some_and(|text| !text.is_empty() && after.starts_with(&text));
        let stop = self.template.stop_strings().iter().find(|stop| after.starts_with(stop.as_str()));
        match (self.eos_ids.iter().copied().find(ends), stop) {
            (Some(id), _) => Terminator::Token(id),
            (None, Some(stop)) => Terminator::Text(stop),
            (None, None) => Terminator::Token(self.eos_ids[0]),
        }
    }

    /// Builds the trie of possible answers to `prompt`: each of `labels` with the terminator.
    ///
    /// # Errors
    /// As [`answer_ids`](Self::answer_ids), with the label's name.
    pub fn label_trie(&self, prompt: &RenderedPrompt, labels: &[&str]) -> Result<LabelTrie> {
        let sequences = labels.iter().map(|label| self.answer_ids(prompt, label)).collect::<Result<Vec<_>>>()?;
        Ok(LabelTrie::new(&sequences))
    }

    /// Returns how answers of at most `max_new_tokens` are decoded.
    pub fn decoding(&self, max_new_tokens: usize) -> Decoding {
        let stop_strings = self.template.stop_strings().iter().chain(self.generation.stop_strings());
        Decoding {
            max_new_tokens,
            eos_ids: self.eos_ids.clone(),
            stop_strings: stop_strings.cloned().collect(),
            processors: self.generation.processors().clone(),
        }
    }

    /// The checkpoint's settings for greedy decoding.
    pub fn generation(&self) -> &GenerationConfig {
        &self.generation
    }

    /// Returns the text of a generated row. The first stop string and everything after it are cut off.
    pub fn answer(&self, generation: &Generation, decoding: &Decoding) -> Result<Answer> {
        let mut text = self.tokenizer.decode(&generation.ids)?;
        if let Some(end) = decoding.stop_strings.iter().filter_map(|stop| text.find(stop.as_str())).min() {
            text.truncate(end);
        }
        let text = self.template.without_lead(&text).to_owned();
        Ok(Answer {
            text,
            stop: generation.stop,
            n_prompt_tokens: Some(generation.n_prompt_tokens as u32),
            n_answer_tokens: Some(generation.ids.len() as u32),
            // Infinite if every token was forced.
            logit_gap: Some(generation.logit_gap).filter(|gap| gap.is_finite()),
        })
    }
}

/// The terminator of an answer.
enum Terminator<'a> {
    Token(u32),
    Text(&'a str),
}

/// Returns all tokens of a prompt. `None` is an image.
fn flat(pieces: &[PromptPiece]) -> Vec<Option<u32>> {
    let of_piece = |piece: &PromptPiece| match piece {
        PromptPiece::Text(ids) => ids.iter().copied().map(Some).collect(),
        PromptPiece::Image => vec![None],
    };
    pieces.iter().flat_map(of_piece).collect()
}
