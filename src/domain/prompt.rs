//! The prompts of subjects.

/// A question about an image, before any chat template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The name in trials, such as `emt`.
    pub name: String,
    /// The question with the dataset's noun and labels filled in.
    pub text: String,
}
