//! Runs of a prompt's tokens that see each other in both directions.

use std::ops::Range;

/// The runs of a prompt's tokens that see each other in both directions, in order and apart. A token outside of them sees
/// the tokens up to its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    runs: Vec<Range<usize>>,
    /// Whether a layer that sees only a window sees whole blocks nevertheless.
    ignore_windows: bool,
}

impl Blocks {
    /// Blocks of which a layer with a window sees only what is in its window (the images of Gemma 3).
    pub fn within_windows(runs: impl IntoIterator<Item = Range<usize>>) -> Self {
        let mut runs: Vec<Range<usize>> = runs.into_iter().collect();
        runs.sort_unstable_by_key(|run| run.start);
        Self { runs, ignore_windows: false }
    }

    /// A prompt of `n_tokens` tokens that all see each other, whatever the windows of layers (PaliGemma's prefix).
    pub fn whole(n_tokens: usize) -> Self {
        Self { runs: std::iter::once(0..n_tokens).collect(), ignore_windows: true }
    }

    /// The runs, in order.
    pub fn runs(&self) -> &[Range<usize>] {
        &self.runs
    }

    /// Returns the position after the last one that `token` sees.
    pub fn end_of(&self, token: usize) -> usize {
        self.run_of(token).map_or(token + 1, |run| run.end)
    }

    /// Returns the first position that windows do not hide from `token`.
    pub fn kept_from(&self, token: usize) -> usize {
        self.run_of(token).filter(|_| self.ignore_windows).map_or(token, |run| run.start)
    }

    /// Whether windows hide parts of blocks as they hide other tokens.
    pub fn yield_to_windows(&self) -> bool {
        !self.ignore_windows || self.runs.is_empty()
    }

    fn run_of(&self, token: usize) -> Option<&Range<usize>> {
        let at = self.runs.partition_point(|run| run.end <= token);
        self.runs.get(at).filter(|run| run.contains(&token))
    }

    /// The same after `n_tokens` more tokens before the prompt.
    pub fn preceded_by(self, n_tokens: usize) -> Self {
        let moved = |run: Range<usize>| run.start + n_tokens..run.end + n_tokens;
        Self { runs: self.runs.into_iter().map(moved).collect(), ..self }
    }

    /// The blocks of what comes after the first `n_tokens` tokens.
    pub fn after(&self, n_tokens: usize) -> Self {
        let moved = |run: &Range<usize>| run.start.saturating_sub(n_tokens)..run.end.saturating_sub(n_tokens);
        let runs = self.runs.iter().map(moved).filter(|run| !run.is_empty()).collect();
        Self { runs, ..*self }
    }

    /// The blocks of a prompt of which only the tokens that `is_kept` names are left.
    pub fn kept(&self, is_kept: impl Fn(usize) -> bool) -> Self {
        let n_kept = |range: Range<usize>| range.filter(|at| is_kept(*at)).count();
        let moved = |run: &Range<usize>| {
            let start = n_kept(0..run.start);
            start..start + n_kept(run.clone())
        };
        Self { runs: self.runs.iter().map(moved).filter(|run| !run.is_empty()).collect(), ..*self }
    }
}

#[cfg(test)]
mod tests;
