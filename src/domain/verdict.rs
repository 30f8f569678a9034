//! What a judge thinks of an answer.

use serde::{Deserialize, Serialize};

/// Does the answer mean the label?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It does.
    Correct,
    /// It does not.
    Incorrect,
    /// This judge cannot tell.
    Undecided,
}

/// One judge's verdict on one answer, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgeVerdict {
    /// `rules` or `llm`.
    pub judge: String,
    /// The verdict, or the error as shown to people.
    pub result: Result<Verdict, String>,
    /// A language model's reply, verbatim.
    pub reply: Option<String>,
}
