//! The parts of a prompt to which its tokens belong.

use std::ops::Range;

/// Positions of the parts of a sequence, after images are expanded.
///
/// `bos`, `system`, `images`, `between`, `user` and `answer` cover every position once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenSpans {
    /// The begin token, if the prompt begins with it, and an adapter's virtual tokens before it.
    pub bos: Range<usize>,
    /// From there to the first position of an image: the system prompt and the start of the user's turn.
    pub system: Range<usize>,
    /// By image, the runs of positions that hold its features. A tiled image has one run per tile.
    pub images: Vec<Vec<Range<usize>>>,
    /// From the last position of an image to the end of the prompt. Without an image, everything except `bos`.
    pub user: Range<usize>,
    /// The tokens after the prompt.
    pub answer: Range<usize>,
}

impl TokenSpans {
    /// The spans of a prompt of `n_tokens` tokens that contains `images`. `has_bos` is whether its first token is the
    /// begin token.
    pub fn of_prompt(n_tokens: usize, has_bos: bool, images: Vec<Vec<Range<usize>>>) -> Self {
        let n_bos = usize::from(has_bos).min(n_tokens);
        let runs = || images.iter().flatten();
        let first = runs().map(|run| run.start).min().unwrap_or(n_bos);
        let end = runs().map(|run| run.end).max().unwrap_or(n_bos);
        Self { bos: 0..n_bos, system: n_bos..first, user: end..n_tokens, answer: n_tokens..n_tokens, images }
    }

    /// Adds `n_tokens` virtual tokens before everything.
    pub fn preceded_by(self, n_tokens: usize) -> Self {
        let moved = |range: Range<usize>| range.start + n_tokens..range.end + n_tokens;
        let images = self.images.into_iter().map(|runs| runs.into_iter().map(moved).collect()).collect();
        let [system, user, answer] = [self.system, self.user, self.answer].map(moved);
        Self { bos: 0..self.bos.end + n_tokens, system, images, user, answer }
    }

    /// The spans of what comes after the first `n_tokens` tokens.
    pub fn after(&self, n_tokens: usize) -> Self {
        let moved = |range: &Range<usize>| range.start.saturating_sub(n_tokens)..range.end.saturating_sub(n_tokens);
        Self {
            bos: moved(&self.bos),
            system: moved(&self.system),
            images: self.images.iter().map(|runs| runs.iter().map(moved).collect()).collect(),
            user: moved(&self.user),
            answer: moved(&self.answer),
        }
    }

    /// Adds `n_tokens` tokens to the answer.
    pub fn answered(self, n_tokens: usize) -> Self {
        Self { answer: self.answer.start..self.answer.end + n_tokens, ..self }
    }

    /// The positions of images, in order.
    pub fn image_positions(&self) -> Vec<usize> {
        let mut positions: Vec<usize> = self.images.iter().flatten().cloned().flatten().collect();
        positions.sort_unstable();
        positions
    }

    /// The runs of positions among the images that hold no features: text between images, and markers between tiles.
    pub fn between(&self) -> Vec<Range<usize>> {
        let mut runs: Vec<&Range<usize>> = self.images.iter().flatten().collect();
        runs.sort_unstable_by_key(|run| run.start);
        let gaps = runs.windows(2).map(|pair| pair[0].end..pair[1].start);
        gaps.filter(|gap| !gap.is_empty()).collect()
    }

    /// The number of positions of the whole sequence.
    pub fn n_tokens(&self) -> usize {
        self.answer.end
    }
}
