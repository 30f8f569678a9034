//! What the tokens of a prompt are of.

use std::ops::Range;

/// Where the parts of a sequence lie, by position after images took their places.
///
/// `bos`, `system`, `images`, `between`, `user` and `answer` cover every position once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenSpans {
    /// The begin token, where the tokenizer has one and the prompt begins with it.
    pub bos: Range<usize>,
    /// From there to the first position of an image: a system prompt, and what opens the user's turn.
    pub system: Range<usize>,
    /// By image, the runs of positions that hold its features; an image of tiles has one run a tile.
    pub images: Vec<Vec<Range<usize>>>,
    /// From the last position of an image to the prompt's end. Where there is no image, all that is not `bos`.
    pub user: Range<usize>,
    /// What follows the prompt.
    pub answer: Range<usize>,
}

impl TokenSpans {
    /// Of a prompt of `n_tokens` tokens with `images` in it; `has_bos` says whether its first token is the begin token.
    pub fn of_prompt(n_tokens: usize, has_bos: bool, images: Vec<Vec<Range<usize>>>) -> Self {
        let n_bos = usize::from(has_bos).min(n_tokens);
        let runs = || images.iter().flatten();
        let first = runs().map(|run| run.start).min().unwrap_or(n_bos);
        let end = runs().map(|run| run.end).max().unwrap_or(n_bos);
        Self { bos: 0..n_bos, system: n_bos..first, user: end..n_tokens, answer: n_tokens..n_tokens, images }
    }

    /// The same with `n_tokens` more tokens of an answer.
    pub fn answered(self, n_tokens: usize) -> Self {
        Self { answer: self.answer.start..self.answer.end + n_tokens, ..self }
    }

    /// Positions of images, in order.
    pub fn image_positions(&self) -> Vec<usize> {
        let mut positions: Vec<usize> = self.images.iter().flatten().cloned().flatten().collect();
        positions.sort_unstable();
        positions
    }

    /// The runs of positions among the images that hold none of their features: text between images, markers between tiles.
    pub fn between(&self) -> Vec<Range<usize>> {
        let mut runs: Vec<&Range<usize>> = self.images.iter().flatten().collect();
        runs.sort_unstable_by_key(|run| run.start);
        let gaps = runs.windows(2).map(|pair| pair[0].end..pair[1].start);
        gaps.filter(|gap| !gap.is_empty()).collect()
    }

    /// Positions of the whole sequence.
    pub fn n_tokens(&self) -> usize {
        self.answer.end
    }
}
