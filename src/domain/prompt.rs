//! What a subject is asked.

/// A question about an image, before any chat template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The name that trials carry, such as `emt`.
    pub name: String,
    /// The question with the dataset's noun and labels filled in.
    pub text: String,
}
