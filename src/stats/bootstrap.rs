//! The paired bootstrap over images: a resample takes an image with all its outcomes.

use super::{SplitMix64, binomial_sample, normal_cdf, normal_quantile};

/// Counts of the images that both subjects answered.
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

impl PairCells {
    /// All images.
    pub fn n(self) -> usize {
        self.both + self.only_first + self.only_second + self.neither
    }
}

/// Returns the interval of (accuracy of the first) / (accuracy of the second), `[low, high]`, two-sided at
/// `confidence`.
///
/// By [`bca_interval`]. A resample in which the second is never right has an infinite ratio. There is no interval if
/// that reaches the upper endpoint, if leaving one image out makes the ratio infinite, if the second is never right at
/// all, or with fewer than two images. With few errors the interval is too short, and with none it is a point, because
/// the bootstrap uses only the observed images.
pub fn ratio_interval(cells: PairCells, confidence: f64, n_resamples: usize, seed: u64) -> Option<[f64; 2]> {
    let ratio = |cells: &[usize]| {
        let (first, second) = (cells[0] + cells[1], cells[0] + cells[2]);
        Some(if second == 0 { f64::INFINITY } else { first as f64 / second as f64 })
    };
    let cells = [cells.both, cells.only_first, cells.only_second, cells.neither];
    bca_interval(&cells, ratio, confidence, n_resamples, seed)
}

/// Returns the bootstrap interval `[low, high]` of a statistic of images in cells, two-sided at `confidence`, corrected
/// for bias and acceleration.
///
/// Efron (1987), "Better bootstrap confidence intervals", JASA 82, 171-185 (BCa). `cells` counts the images of each
/// kind. The acceleration comes from leaving out one image of each kind in turn. The bias comes from the resamples
/// below the observed value, with ties counted as half. Endpoints interpolate linearly between order statistics
/// (Hyndman and Fan 1996, type 7).
///
/// A resample without a value could have any value, so it counts against both endpoints. `None` if an endpoint falls on
/// such a resample or on an infinite one, if the statistic has no finite value of all images or of all but one, with
/// fewer than two images, without resamples, or for a confidence outside (0, 1).
pub fn bca_interval(
    cells: &[usize],
    statistic: impl Fn(&[usize]) -> Option<f64>,
    confidence: f64,
    n_resamples: usize,
    seed: u64,
) -> Option<[f64; 2]> {
    let is_level = confidence > 0.0 && confidence < 1.0;
    if cells.iter().sum::<usize>() < 2 || !is_level {
        return None;
    }
    let observed = statistic(cells).filter(|value| value.is_finite())?;
    let acceleration = acceleration(cells, &statistic)?;
    let mut generator = SplitMix64::new(seed);
    let values = (0..n_resamples).filter_map(|_| statistic(&resample_cells(&mut generator, cells)));
    let mut values: Vec<f64> = values.filter(|value| !value.is_nan()).collect();
    values.sort_by(f64::total_cmp);
    let bias = bias(&values, observed)?;
    let z = normal_quantile(0.5 + confidence / 2.0)?;
    let n_missing = n_resamples - values.len();
    let low = endpoint(&values, n_missing, n_resamples, corrected(-z, bias, acceleration));
    let high = endpoint(&values, 0, n_resamples, corrected(z, bias, acceleration));
    (low.is_finite() && high.is_finite()).then_some([low, high])
}

/// Draws as many images as `cells` counts, with replacement, and returns the counts by cell.
///
/// A multinomial draw as binomial draws, each from what the earlier cells left (Davis 1993, "The computer generation of
/// multinomial random variates", Computational Statistics and Data Analysis 16, 205-217). Its time does not grow with
/// the number of images.
pub fn resample_cells(generator: &mut SplitMix64, cells: &[usize]) -> Vec<usize> {
    let n: usize = cells.iter().sum();
    let (mut n_left, mut to_draw) = (n, n);
    let draw = |&cell: &usize| {
        // The last cell with images takes all remaining draws.
        let share = if n_left > 0 { cell as f64 / n_left as f64 } else { 0.0 };
        let drawn = binomial_sample(generator, to_draw, share).unwrap_or(0);
        n_left -= cell;
        to_draw -= drawn;
        drawn
    };
    cells.iter().map(draw).collect()
}

/// Returns Efron's acceleration: a sixth of the skewness of the jackknife influences; 0 if no image matters.
fn acceleration(cells: &[usize], statistic: impl Fn(&[usize]) -> Option<f64>) -> Option<f64> {
    let mut left = cells.to_vec();
    let mut without = Vec::new();
    for index in (0..cells.len()).filter(|index| cells[*index] > 0) {
        left[index] -= 1;
        without.push((cells[index] as f64, statistic(&left).filter(|value| value.is_finite())?));
        left[index] += 1;
    }
    let n: f64 = without.iter().map(|(count, _)| count).sum();
    let mean = without.iter().map(|(count, value)| count * value).sum::<f64>() / n;
    let moment = |power: i32| without.iter().map(|(count, value)| count * (mean - value).powi(power)).sum::<f64>();
    let spread = moment(2).powf(1.5);
    Some(if spread > 0.0 { moment(3) / (6.0 * spread) } else { 0.0 })
}

/// Returns the normal quantile of the share of resamples below the observed value, never infinite. `None` without
/// resamples.
fn bias(sorted: &[f64], observed: f64) -> Option<f64> {
    if sorted.is_empty() {
        return None;
    }
    let below = sorted.partition_point(|value| *value < observed);
    let until = sorted.partition_point(|value| *value <= observed);
    let n = sorted.len() as f64;
    let share = 0.5 * (below + until) as f64 / n;
    normal_quantile(share.clamp(0.5 / n, 1.0 - 0.5 / n))
}

/// Returns the share of resamples below the endpoint that would be at `z` without correction.
fn corrected(z: f64, bias: f64, acceleration: f64) -> f64 {
    let moved = bias + z;
    let stretch = 1.0 - acceleration * moved;
    // Beyond the pole the endpoint is outside the resamples, on its own side.
    if stretch > 0.0 { normal_cdf(bias + moved / stretch) } else { f64::from(u8::from(moved > 0.0)) }
}

/// Returns the quantile of `n` values, `n_missing` of which are below `sorted` and the other missing ones above.
fn endpoint(sorted: &[f64], n_missing: usize, n: usize, p: f64) -> f64 {
    let at = |place: usize| match place.checked_sub(n_missing) {
        Some(place) => sorted.get(place).copied().unwrap_or(f64::INFINITY),
        None => f64::NEG_INFINITY,
    };
    let place = p * (n - 1) as f64;
    let (below, above) = (at(place.floor() as usize), at(place.ceil() as usize));
    // Equal ends are handled first, because infinity minus infinity is NaN.
    if below == above { below } else { below + (above - below) * place.fract() }
}

#[cfg(test)]
mod tests;
