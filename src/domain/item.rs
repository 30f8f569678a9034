//! What a model is asked in one trial.

use super::{Conversation, RgbImage};

/// The images of one sample, and what is said about them. An item of a classification has one image and one turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// The images, in the order in which the turns mention them.
    pub images: Vec<RgbImage>,
    /// The conversation. A model answers its last turn.
    pub conversation: &'a Conversation,
}

impl Item<'_> {
    /// The identity of its pictures: of one image that image's [`content`](RgbImage::content), of several `blake3:` and the
    /// hex hash of theirs, one per line.
    pub fn content(&self) -> String {
        let contents: Vec<String> = self.images.iter().map(RgbImage::content).collect();
        match contents.as_slice() {
            [only] => only.clone(),
            several => format!("blake3:{}", blake3::hash(several.join("\n").as_bytes()).to_hex()),
        }
    }
}

#[cfg(test)]
mod tests;
