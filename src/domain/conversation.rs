//! Conversations about images.

/// One message of the user, with its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Images before the text.
    pub n_images: usize,
    /// The text.
    pub text: String,
    /// The answer, if there is one: the turn is an example, or an earlier one.
    pub answer: Option<String>,
}

/// Turns about the images of one item, in order. A model answers the last one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// The turns.
    pub turns: Vec<Turn>,
}

impl Conversation {
    /// A single question about one image, as in classification.
    pub fn about_one_image(question: &str) -> Self {
        Self { turns: vec![Turn { n_images: 1, text: question.to_owned(), answer: None }] }
    }

    /// The number of images in all turns.
    pub fn n_images(&self) -> usize {
        self.turns.iter().map(|turn| turn.n_images).sum()
    }
}
