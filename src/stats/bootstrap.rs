//! The paired bootstrap over images.

/// Counts of the images that two subjects both answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairCells {
    /// Both right.
    pub both: usize,
    /// Only the first (the model).
    pub only_first: usize,
    /// Only the second (the encoder).
    pub only_second: usize,
    /// Neither.
    pub neither: usize,
}

/// A counter-based generator.
#[derive(Clone, Debug)]
pub struct SplitMix64(pub u64);

/// The percentile interval of (accuracy of the first) / (accuracy of the second).
pub fn ratio_interval(cells: PairCells, confidence: f64, n_resamples: usize, seed: u64) -> Option<[f64; 2]> {
    let _ = (cells, confidence, n_resamples, seed);
    None
}
