//! How a family's prompts become tokens, where that differs from the usual way.

use anyhow::Result;

use crate::model::text::tokenizer::{PromptPiece, TextTokenizer};

/// How a prompt becomes tokens. By default, the text is tokenised as a whole around its images.
#[derive(Clone, Default)]
pub struct PromptForm {
    /// The reader of the question beside the language model, if the family has one.
    pub question: Option<QuestionReader>,
    /// Who reads the text if images come before it, with its begin token after them. `None` means that images are
    /// where the template puts them.
    pub after_images: Option<TextReader>,
}

/// What reads the text of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextReader {
    /// A decoder: the text begins with the begin token of the tokenizer's settings, and the answer continues it.
    Decoder,
    /// An encoder: the text ends as the tokenizer's template says, and the answer is a text of its own.
    Encoder,
}

/// A second tokenizer for the question.
#[derive(Clone)]
pub struct QuestionReader {
    /// The tokenizer.
    pub tokenizer: TextTokenizer,
    /// The maximum number of tokens with the marks of begin and end. The text's first tokens are left out.
    pub n_tokens_max: usize,
}

impl QuestionReader {
    /// Returns the tokens of a question, cut on the left.
    fn ids(&self, question: &str) -> Result<Vec<u32>> {
        let mut whole = self.tokenizer.encode(question, true)?;
        let n_marks = whole.len() - self.tokenizer.encode(question, false)?.len();
        if whole.len() > self.n_tokens_max {
            // The first mark stays, as the last one does.
            let n_first = n_marks.div_ceil(2);
            whole.drain(n_first..n_first + whole.len() - self.n_tokens_max);
        }
        Ok(whole)
    }
}

impl PromptForm {
    /// Returns the pieces of `text`, in which `marker` marks each image.
    ///
    /// # Errors
    /// The vocabulary cannot express the text.
    pub fn pieces(&self, tokenizer: &TextTokenizer, text: &str, marker: &str) -> Result<Vec<PromptPiece>> {
        let Some(reader) = self.after_images else { return tokenizer.encode_with_image(text, marker) };
        let mut pieces = vec![PromptPiece::Image; text.matches(marker).count()];
        let text = text.replace(marker, "");
        pieces.push(PromptPiece::Text(match reader {
            TextReader::Encoder => tokenizer.encode(&text, true)?,
            // A tokenizer's template may name another begin token than its settings, which transformers follows.
            TextReader::Decoder => tokenizer.bos_id().into_iter().chain(tokenizer.encode(&text, false)?).collect(),
        }));
        Ok(pieces)
    }

    /// Returns the tokens of the question in `text` for the reader beside the language model, if there is one.
    ///
    /// # Errors
    /// The vocabulary cannot express the text.
    pub fn question_ids(&self, text: &str, marker: &str) -> Result<Vec<u32>> {
        match &self.question {
            Some(reader) => reader.ids(&text.replace(marker, "")),
            None => Ok(Vec::new()),
        }
    }
}
