//! What a subject said.

use serde::{Deserialize, Serialize};

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// The model wrote its end-of-sequence token.
    Eos,
    /// The token limit was reached.
    Length,
    /// A stop string of the chat template appeared.
    StopString,
    /// The model failed.
    Error,
}

/// A verbatim answer, with what generation knows about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The text, verbatim, without special tokens.
    pub text: String,
    /// Why it ended there.
    pub stop: Stop,
    /// Tokens of the rendered prompt, image positions included.
    pub n_prompt_tokens: Option<u32>,
    /// Generated tokens, the terminator not counted.
    pub n_answer_tokens: Option<u32>,
    /// The least top-1 minus top-2 logit over the answer's steps: it tells near-ties.
    pub logit_gap: Option<f32>,
}

/// What a subject said: free text, or one of the labels.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// Text that a model wrote.
    Generated(Answer),
    /// The label that ranked best, or the one that a server was held to.
    Chosen {
        /// The label's name.
        label: String,
        /// Tokens of the rendered prompt, image positions included, where one was read.
        n_prompt_tokens: Option<u32>,
    },
}

impl Response {
    /// The text, or the label's name.
    pub fn text(&self) -> &str {
        match self {
            Self::Generated(answer) => &answer.text,
            Self::Chosen { label, .. } => label,
        }
    }

    /// The text that a model wrote, with what is known of it.
    pub fn generated(&self) -> Option<&Answer> {
        match self {
            Self::Generated(answer) => Some(answer),
            Self::Chosen { .. } => None,
        }
    }
}
