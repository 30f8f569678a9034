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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stats::golden::{close, golden, numbers};

    fn cells([both, only_first, only_second, neither]: [usize; 4]) -> PairCells {
        PairCells { both, only_first, only_second, neither }
    }

    #[test]
    fn intervals_come_near_to_scipys() {
        for case in golden()["ratio_interval"].as_array().unwrap() {
            let counts: Vec<usize> = numbers(&case["cells"]).into_iter().map(|n| n as usize).collect();
            let interval = ratio_interval(cells(counts.try_into().unwrap()), 0.95, 20_000, 1).unwrap();
            let scipy = numbers(&case["scipy"]);
            let width = scipy[1] - scipy[0];
            for end in 0..2 {
                assert!((interval[end] - scipy[end]).abs() < 0.05 * width, "{interval:?} {case}");
            }
        }
    }

    #[test]
    fn the_acceleration_equals_scipys() {
        for case in golden()["ratio_interval"].as_array().unwrap() {
            let counts: Vec<usize> = numbers(&case["cells"]).into_iter().map(|n| n as usize).collect();
            let ratio = |cells: &[usize]| Some((cells[0] + cells[1]) as f64 / (cells[0] + cells[2]) as f64);
            let found = acceleration(&counts, ratio).unwrap();
            assert!(close(found, case["acceleration"].as_f64().unwrap(), 1e-9), "{found} {case}");
        }
    }

    #[test]
    fn without_an_encoder_that_is_ever_right_there_is_no_interval() {
        assert_eq!(ratio_interval(cells([0, 5, 0, 5]), 0.95, 100, 1), None);
        assert_eq!(ratio_interval(cells([0, 0, 0, 0]), 0.95, 100, 1), None);
        // One right answer in ten: a third of the resamples have an infinite ratio.
        assert_eq!(ratio_interval(cells([1, 3, 0, 6]), 0.95, 2_000, 1), None);
        // Two right answers: leaving one out is possible, but an eighth of the resamples have an infinite ratio.
        assert_eq!(ratio_interval(cells([2, 3, 0, 6]), 0.95, 2_000, 1), None);
        assert_eq!(ratio_interval(cells([10, 0, 0, 0]), 0.95, 100, 1), Some([1.0, 1.0]));
    }

    #[test]
    fn without_resamples_or_a_level_there_is_no_interval() {
        let found = cells([60, 3, 13, 24]);
        assert_eq!(ratio_interval(found, 0.95, 0, 1), None);
        assert_eq!((ratio_interval(found, 1.0, 100, 1), ratio_interval(found, f64::NAN, 100, 1)), (None, None));
        assert_eq!(ratio_interval(cells([1, 0, 0, 0]), 0.95, 100, 1), None);
    }

    #[test]
    fn another_seed_moves_the_ends_only_a_little() {
        let cells = cells([600, 30, 130, 240]);
        let (one, other) =
            (ratio_interval(cells, 0.95, 2_000, 1).unwrap(), ratio_interval(cells, 0.95, 2_000, 2).unwrap());
        assert_ne!(one, other);
        assert!(one.iter().zip(other).all(|(a, b)| (a - b).abs() < 0.01));
        assert_eq!(one, ratio_interval(cells, 0.95, 2_000, 1).unwrap());
    }

    /// The share of the first cell: a proportion, whose interval is known.
    #[test]
    fn a_proportions_interval_covers_it_as_often_as_it_should() {
        let mut generator = SplitMix64::new(5);
        let share = |cells: &[usize]| Some(cells[0] as f64 / (cells[0] + cells[1]) as f64);
        let n_runs = 1000;
        let covered = (0..n_runs)
            .filter(|seed| {
                let cells = resample_cells(&mut generator, &[60, 140]);
                let [low, high] = bca_interval(&cells, share, 0.9, 500, *seed).unwrap();
                low <= 0.3 && 0.3 <= high
            })
            .count();
        assert!((870..=930).contains(&covered), "{covered} of {n_runs}");
    }

    #[test]
    fn resamples_without_a_value_count_against_both_ends() {
        // The mean place of two kinds of images, unknown if one kind is missing from a resample.
        let known = |cells: &[usize]| (cells[0] > 0).then(|| cells[1] as f64 / (cells[0] + cells[1]) as f64);
        let interval = |few| bca_interval(&[few, 100], known, 0.95, 2_000, 1);
        // None of 8 in a resample: probability 3 in 10,000. None of 2: an eighth.
        assert!(interval(8).is_some());
        assert_eq!(interval(2), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_interval_holds_the_ratio(counts in proptest::array::uniform4(20_usize..3000)) {
            let [both, first, second, _] = counts;
            let [low, high] = ratio_interval(cells(counts), 0.95, 500, 9).unwrap();
            let ratio = (both + first) as f64 / (both + second) as f64;
            prop_assert!(0.0 < low && low < ratio && ratio < high, "{low} {ratio} {high}");
        }

        #[test]
        fn a_resample_has_as_many_images_and_no_new_kinds(counts in proptest::collection::vec(0_usize..500, 0..6), seed in 0_u64..1000) {
            let drawn = resample_cells(&mut SplitMix64::new(seed), &counts);
            prop_assert_eq!(drawn.iter().sum::<usize>(), counts.iter().sum::<usize>());
            prop_assert!(drawn.iter().zip(&counts).all(|(drawn, count)| *count > 0 || *drawn == 0));
        }
    }
}
