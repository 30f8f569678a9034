//! The responses of subjects.

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
    /// Why generation ended.
    pub stop: Stop,
    /// Tokens of the rendered prompt, image positions included.
    pub n_prompt_tokens: Option<u32>,
    /// Generated tokens, without the terminator.
    pub n_answer_tokens: Option<u32>,
    /// The smallest difference of top-1 and top-2 logits over the answer's steps; it shows near-ties.
    pub logit_gap: Option<f32>,
}

/// A subject's response: free text, or one of the labels.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// Generated text.
    Generated(Answer),
    /// The label that ranked best, or the one that a server chose under a constraint.
    Chosen {
        /// The label's name.
        label: String,
        /// Tokens of the rendered prompt, image positions included; `None` if no prompt was read.
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

    /// Returns the generated answer, if it is one.
    pub fn generated(&self) -> Option<&Answer> {
        match self {
            Self::Generated(answer) => Some(answer),
            Self::Chosen { .. } => None,
        }
    }
}
