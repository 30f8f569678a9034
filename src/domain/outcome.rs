//! Outcomes: correct, incorrect and unscored are distinct.

use serde::{Deserialize, Serialize};

use super::ErrorCode;

/// Why a trial is unscored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnscoredReason {
    /// Answered but not judged yet.
    Pending,
    /// The image file could not be decoded.
    ImageUnreadable,
    /// The model failed on the image.
    ModelError,
    /// The model's server could not be reached, or failed; asking again may bring an answer.
    ModelUnreachable,
    /// The reply is a thought that was cut off or never closed, without an answer after it.
    ThoughtCutOff,
    /// The judge could not be reached or answered with an error.
    JudgeFailed,
    /// The judge's reply was not a verdict.
    JudgeUnparsable,
    /// The budget of judge calls or tokens is used up.
    JudgeBudget,
}

impl UnscoredReason {
    /// Whether running the same command again may resolve it.
    pub fn is_retried_on_resume(self) -> bool {
        matches!(self, Self::Pending | Self::ModelUnreachable | Self::JudgeFailed | Self::JudgeBudget)
    }
}

/// The outcome of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The answer means the label.
    Correct,
    /// The answer does not mean the label; the code says how.
    Incorrect(ErrorCode),
    /// Unknown; it counts neither as right nor as wrong.
    Unscored(UnscoredReason),
}
