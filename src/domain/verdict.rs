//! What a judge thinks of an answer.

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

/// Does the answer mean the label?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// It does.
    Correct,
    /// It does not.
    Incorrect,
    /// This judge cannot tell.
    Undecided,
}

/// The judges, one a line. Its name in snake case is what runs, verdicts and `--judge` call a judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum JudgeKind {
    /// The deterministic taxonomy.
    Rules,
    /// A language model behind a server.
    Llm,
}

impl JudgeKind {
    /// The name in the schemas.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// One judge's verdict on one answer, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgeVerdict {
    /// The name of a [`JudgeKind`].
    pub judge: String,
    /// The verdict, or the error as shown to people.
    pub result: Result<Judgement, String>,
    /// A language model's reply, verbatim.
    pub reply: Option<String>,
}
