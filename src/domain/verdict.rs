//! Judges and their verdicts.

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

/// Whether the answer means the label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// The answer means the label.
    Correct,
    /// The answer does not mean the label.
    Incorrect,
    /// The judge cannot decide.
    Undecided,
}

/// The judges, one per line. The name in snake case is used in runs, verdicts and `--judge`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum JudgeKind {
    /// The deterministic taxonomy.
    Rules,
    /// A language model behind a server.
    Llm,
}

impl JudgeKind {
    /// The name in schemas.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// One judge's verdict on one answer, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgeVerdict {
    /// The name of a [`JudgeKind`].
    pub judge: String,
    /// The verdict, or the error as displayed.
    pub result: Result<Judgement, String>,
    /// A language model's reply, verbatim.
    pub reply: Option<String>,
}
