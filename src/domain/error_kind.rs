//! The kinds of error (Zhai et al. 2023, section 4.2), and the codes that decide them.

use serde::{Deserialize, Serialize};
use strum::{EnumCount, IntoStaticStr, VariantArray};

/// The three kinds of error of the EMT paper.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    EnumCount,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ErrorKind {
    /// One label of the set, but not the right one.
    IncorrectPrediction,
    /// The answer contradicts the task or itself: several labels, or labels of clashing types.
    IntrinsicHallucination,
    /// The answer is outside the label set.
    ExtrinsicHallucination,
}

/// The code of an incorrect answer; each has exactly one.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    EnumCount,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ErrorCode {
    /// Exactly one label of the set, but not the right one.
    Wrong,
    /// The deciding judge says incorrect, but the taxonomy finds only the right label.
    Disputed,
    /// Two or more labels of the set.
    Multi,
    /// Labels repeated in the prompt's order.
    Echo,
    /// A number and an object in one answer.
    TypeClash,
    /// A label of the fine-tuning set, and none of this set.
    Leak,
    /// A hypernym of the label.
    TooGeneric,
    /// A hyponym of the label.
    TooSpecific,
    /// Anything else.
    Out,
    /// No content.
    Empty,
    /// The model declined.
    Refusal,
}

impl ErrorCode {
    /// All codes, in report order.
    pub const ALL: [Self; Self::COUNT] = *Self::VARIANTS.first_chunk().unwrap();

    /// The kind that this code belongs to.
    pub fn kind(self) -> ErrorKind {
        match self {
            ErrorCode::Wrong | ErrorCode::Disputed => ErrorKind::IncorrectPrediction,
            ErrorCode::Multi | ErrorCode::Echo | ErrorCode::TypeClash => ErrorKind::IntrinsicHallucination,
            ErrorCode::Leak
            | ErrorCode::TooGeneric
            | ErrorCode::TooSpecific
            | ErrorCode::Out
            | ErrorCode::Empty
            | ErrorCode::Refusal => ErrorKind::ExtrinsicHallucination,
        }
    }

    /// The name in the schema, such as `too_generic`.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

impl ErrorKind {
    /// All kinds, in report order.
    pub const ALL: [Self; Self::COUNT] = *Self::VARIANTS.first_chunk().unwrap();

    /// The name in the schema, such as `incorrect_prediction`.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

#[cfg(test)]
mod tests;
