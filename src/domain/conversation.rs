//! What is said about images, turn by turn.

/// What a person says, and what was answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Images that come before the text.
    pub n_images: usize,
    /// The text.
    pub text: String,
    /// The answer, where there is one: a turn of an example, or one that came before.
    pub answer: Option<String>,
}

/// Turns about the images of one item, in order. A model answers the last one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// The turns.
    pub turns: Vec<Turn>,
}

impl Conversation {
    /// One question about one image: what classification asks.
    pub fn about_one_image(question: &str) -> Self {
        Self { turns: vec![Turn { n_images: 1, text: question.to_owned(), answer: None }] }
    }

    /// Images of all turns.
    pub fn n_images(&self) -> usize {
        self.turns.iter().map(|turn| turn.n_images).sum()
    }
}
