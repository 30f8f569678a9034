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

impl PairCells {
    /// All images.
    pub fn n(self) -> usize {
        self.both + self.only_first + self.only_second + self.neither
    }
}

/// A counter-based generator: value i (from 1) mixes `seed + i * 0x9e3779b97f4a7c15` (modulo 2^64).
///
/// Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators", OOPSLA; the mixing constants are
/// Stafford's variant 13. Equal on every platform.
#[derive(Clone, Debug)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// The generator whose first value is that of counter 1.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next of 2^64 equally likely values.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A value in `0..n`, by multiplication (Lemire 2019); the bias is below n / 2^64. 0 where `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }
}

/// The interval of (accuracy of the first) / (accuracy of the second), `[low, high]`, two-sided at `confidence`.
///
/// Percentile bootstrap (Efron and Tibshirani 1993, section 13.3): each resample draws as many images as there are,
/// each with both of its outcomes; endpoints interpolate linearly between order statistics (Hyndman and Fan, type 7).
/// A resample in which the second is never right has an infinite ratio; where that reaches the upper endpoint, or
/// without images or resamples, or where the second is never right at all, there is no interval. With few errors the
/// interval is too short, and with none it is a point: the bootstrap knows only what it has seen.
pub fn ratio_interval(cells: PairCells, confidence: f64, n_resamples: usize, seed: u64) -> Option<[f64; 2]> {
    let is_level = confidence > 0.0 && confidence < 1.0;
    if cells.both + cells.only_second == 0 || n_resamples == 0 || !is_level {
        return None;
    }
    let n = cells.n();
    let end_first = cells.both + cells.only_first;
    let end_second = end_first + cells.only_second;
    let mut generator = SplitMix64::new(seed);
    let mut ratios: Vec<f64> = (0..n_resamples)
        .map(|_| {
            // Images lie in the order both, only first, only second, neither.
            let (mut both, mut first, mut any) = (0_usize, 0_usize, 0_usize);
            for _ in 0..n {
                let image = generator.below(n);
                both += usize::from(image < cells.both);
                first += usize::from(image < end_first);
                any += usize::from(image < end_second);
            }
            let second = both + any - first;
            if second == 0 { f64::INFINITY } else { first as f64 / second as f64 }
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let tail = (1.0 - confidence) / 2.0;
    let interval = [quantile_of_sorted(&ratios, tail), quantile_of_sorted(&ratios, 1.0 - tail)];
    interval.iter().all(|end| end.is_finite()).then_some(interval)
}

fn quantile_of_sorted(sorted: &[f64], p: f64) -> f64 {
    let place = p * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    // Equal ends first: infinity minus infinity is no number.
    if below == above { below } else { below + (above - below) * place.fract() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::golden::{close, golden, numbers};

    fn cells([both, only_first, only_second, neither]: [usize; 4]) -> PairCells {
        PairCells { both, only_first, only_second, neither }
    }

    #[test]
    fn the_generator_gives_the_published_stream() {
        let golden = golden();
        let mut generator = SplitMix64::new(golden["splitmix64"]["seed"].as_u64().unwrap());
        for expected in golden["splitmix64"]["first"].as_array().unwrap() {
            assert_eq!(generator.next_u64().to_string(), expected.as_str().unwrap());
        }
        // The stream of seed 1234567 that implementations of splitmix64 are commonly checked against.
        let mut known = SplitMix64::new(1_234_567);
        assert_eq!(known.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(known.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn intervals_equal_numpys_and_come_near_to_scipys() {
        for case in golden()["ratio_interval"].as_array().unwrap() {
            let counts: Vec<usize> = numbers(&case["cells"]).into_iter().map(|n| n as usize).collect();
            let seed = case["seed"].as_u64().unwrap();
            let interval = ratio_interval(cells(counts.try_into().unwrap()), 0.95, 2_000, seed).unwrap();
            let (own, scipy) = (numbers(&case["own"]), numbers(&case["scipy"]));
            let width = scipy[1] - scipy[0];
            for end in 0..2 {
                assert!(close(interval[end], own[end], 1e-13), "{case}");
                assert!((interval[end] - scipy[end]).abs() < 0.1 * width, "{interval:?} {case}");
            }
        }
    }

    #[test]
    fn without_an_encoder_that_is_ever_right_there_is_no_interval() {
        assert_eq!(ratio_interval(cells([0, 5, 0, 5]), 0.95, 100, 1), None);
        assert_eq!(ratio_interval(cells([0, 0, 0, 0]), 0.95, 100, 1), None);
        // Right once in ten: a third of the resamples has an infinite ratio.
        assert_eq!(ratio_interval(cells([1, 3, 0, 6]), 0.95, 2_000, 1), None);
        assert_eq!(ratio_interval(cells([10, 0, 0, 0]), 0.95, 100, 1), Some([1.0, 1.0]));
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
}
