//! Maps evidence to exactly one finding. `cases.rs` holds the edge cases.

use crate::domain::ErrorCode;

/// The result of the rules for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finding {
    /// The answer means the label.
    Correct {
        /// Other words are left over.
        verbose: bool,
        /// The answer also names a label of the fine-tuning set.
        with_leak: bool,
    },
    /// The answer does not mean the label.
    Error(ErrorCode),
}

/// Which labels of the set an answer names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Labels {
    /// None.
    None,
    /// Only the right label.
    Right,
    /// Only one label, and not the right one.
    Other,
    /// Two or more.
    Several {
        /// Many labels in prompt order: the list is echoed.
        is_echo: bool,
    },
}

/// The relation to the label of a thing that an answer names outside the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Relation {
    /// An ancestor: `dog` for a hound.
    Ancestor,
    /// A descendant: `golden retriever` for `dog`.
    Descendant,
}

/// The evidence in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Evidence {
    /// The answer has a word of content.
    pub has_content: bool,
    /// The answer declines.
    pub is_refusal: bool,
    /// The answer denies, or offers an alternative, so that the label that it means is unclear.
    pub is_unclear: bool,
    /// The named labels of the set.
    pub labels: Labels,
    /// The answer names a number among objects, or an object among numbers.
    pub has_type_clash: bool,
    /// The answer names a label of the fine-tuning sets that is not in this set.
    pub has_leak: bool,
    /// The relation of the first relative of the label that the answer names outside the set.
    pub relation: Option<Relation>,
    /// The answer has words other than labels.
    pub has_residue: bool,
}

/// Returns the finding for this evidence. `has_leak` changes codes, never whether the answer is correct.
pub fn weigh(evidence: &Evidence) -> Finding {
    let code = match evidence {
        Evidence { has_content: false, .. } => ErrorCode::Empty,
        Evidence { is_refusal: true, .. } => ErrorCode::Refusal,
        Evidence { is_unclear: true, .. } => ErrorCode::Out,
        Evidence { labels: Labels::Several { is_echo: true }, .. } => ErrorCode::Echo,
        Evidence { labels: Labels::Several { is_echo: false }, .. } => ErrorCode::Multi,
        Evidence { labels: Labels::Right | Labels::Other, has_type_clash: true, .. } => ErrorCode::TypeClash,
        Evidence { labels: Labels::Right, has_residue: verbose, has_leak: with_leak, .. } => {
            return Finding::Correct { verbose: *verbose, with_leak: *with_leak };
        }
        Evidence { labels: Labels::Other, .. } => ErrorCode::Wrong,
        Evidence { labels: Labels::None, has_leak: true, .. } => ErrorCode::Leak,
        Evidence { relation: Some(Relation::Ancestor), .. } => ErrorCode::TooGeneric,
        Evidence { relation: Some(Relation::Descendant), .. } => ErrorCode::TooSpecific,
        Evidence { relation: None, .. } => ErrorCode::Out,
    };
    Finding::Error(code)
}

#[cfg(test)]
mod tests;
