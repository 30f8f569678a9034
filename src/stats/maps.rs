//! Heat maps over the positions of an image: how they are made, and how alike two of them are.

/// The part of a map's maximum from which on a cell counts as hot, as in the released code of LLaVA-CAM.
const HOT: f64 = 0.5;

/// How the gradients of a position's channels become a heat.
///
/// `A` are the activations, `G` the gradients of the score with respect to them, `i` a position and `c` a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CamWeights {
    /// `relu(sum_c mean_i(G_ic) A_ic)`, the formula of the paper.
    Paper,
    /// `relu(mean_c mean_i(relu(G_ic)) A_ic)`, what the released code computes.
    Code,
}

/// A heat map of LLaVA-CAM.
#[derive(Clone, Debug, PartialEq)]
pub struct CamHeat {
    /// One value for each position, in the order of the positions, divided by `max`. All are 0 where `max` is.
    pub map: Vec<f64>,
    /// The largest heat before the division, in units of the score. 0 if no position speaks for it.
    pub max: f64,
}

impl CamHeat {
    /// Returns the map with 0 for cells below half of the maximum, as the released code draws it.
    pub fn thresholded(&self) -> Vec<f64> {
        self.map.iter().map(|heat| if *heat < HOT { 0.0 } else { *heat }).collect()
    }
}

/// Returns the heat of each position for a score, given the activations of a layer and the score's gradients.
///
/// Zhang et al. (2024), "From redundancy to relevance: information flow in LVLMs across reasoning tasks", arXiv
/// 2406.06579. Both slices have the channels of one position after the other, `n_channels` each. `None` if they differ
/// in length, hold no whole positions, or have an entry that is not finite.
pub fn cam_heat(activations: &[f64], gradients: &[f64], n_channels: usize, weights: CamWeights) -> Option<CamHeat> {
    let is_map = n_channels > 0
        && !activations.is_empty()
        && activations.len() == gradients.len()
        && activations.len().is_multiple_of(n_channels)
        && activations.iter().chain(gradients).all(|value| value.is_finite());
    if !is_map {
        return None;
    }
    let n_positions = (activations.len() / n_channels) as f64;
    let (is_code, divisor) = match weights {
        CamWeights::Paper => (false, 1.0),
        CamWeights::Code => (true, n_channels as f64),
    };
    let mut by_channel = vec![0.0; n_channels];
    for gradients in gradients.chunks_exact(n_channels) {
        for (weight, gradient) in by_channel.iter_mut().zip(gradients) {
            *weight += if is_code { gradient.max(0.0) } else { *gradient } / n_positions;
        }
    }
    let heat = |channels: &[f64]| -> f64 {
        let sum: f64 = channels.iter().zip(&by_channel).map(|(activation, weight)| activation * weight).sum();
        (sum / divisor).max(0.0)
    };
    let mut map: Vec<f64> = activations.chunks_exact(n_channels).map(heat).collect();
    let max = map.iter().copied().fold(0.0, f64::max);
    if max > 0.0 {
        map.iter_mut().for_each(|heat| *heat /= max);
    }
    max.is_finite().then_some(CamHeat { map, max })
}

/// Returns Spearman's rank correlation of two maps, cell by cell; equal values share the mean of their ranks.
///
/// Spearman (1904), American Journal of Psychology 15, 72-101. `None` if the maps differ in length, have fewer than two
/// cells or an entry that is not finite, or if all cells of a map are equal.
pub fn rank_correlation(first: &[f64], second: &[f64]) -> Option<f64> {
    if first.len() != second.len() || first.iter().chain(second).any(|value| !value.is_finite()) {
        return None;
    }
    let (first, second) = (ranks(first), ranks(second));
    // The mean of the ranks 0 to n - 1, with or without ties.
    let mean = (first.len() as f64 - 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum() };
    let (of_first, of_second) = (product(&first, &first), product(&second, &second));
    (of_first > 0.0 && of_second > 0.0)
        .then(|| (product(&first, &second) / (of_first * of_second).sqrt()).clamp(-1.0, 1.0))
}

/// The rank of each value from 0 on; equal values share the mean of their ranks.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    let mut n_ranked = 0;
    for tied in order.chunk_by(|&i, &j| values[i] == values[j]) {
        let rank = n_ranked as f64 + (tied.len() - 1) as f64 / 2.0;
        tied.iter().for_each(|&at| ranks[at] = rank);
        n_ranked += tied.len();
    }
    ranks
}

/// Returns the overlap of the hot cells of two maps: those hot in both divided by those hot in either.
///
/// A cell is hot if it has at least half of its map's maximum. `None` if the maps differ in length, have an entry that
/// is not finite, or if a map has no cell above 0.
pub fn overlap(first: &[f64], second: &[f64]) -> Option<f64> {
    if first.len() != second.len() || first.iter().chain(second).any(|value| !value.is_finite()) {
        return None;
    }
    let max = |map: &[f64]| map.iter().copied().reduce(f64::max).filter(|max| *max > 0.0);
    let limits = [HOT * max(first)?, HOT * max(second)?];
    let hot = || first.iter().zip(second).map(|(first, second)| (*first >= limits[0], *second >= limits[1]));
    let n_both = hot().filter(|hot| *hot == (true, true)).count();
    let n_either = hot().filter(|hot| *hot != (false, false)).count();
    Some(n_both as f64 / n_either as f64)
}

#[cfg(test)]
mod tests;
