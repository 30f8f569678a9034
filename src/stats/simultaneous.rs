//! Intervals for many statistics of the same images that hold together.

use super::normal_quantile;

/// A statistic with its values on resamples. All statistics of one call are of the same resamples, in the same order.
#[derive(Clone, Debug, PartialEq)]
pub struct ResampledStatistic {
    /// The value on the observed images.
    pub value: f64,
    /// The values on the resamples.
    pub resampled: Vec<f64>,
    /// The standard error is taken to be at least this. The bootstrap shows no error if all images agree.
    pub least_error: f64,
}

/// Intervals that all hold at once with the asked confidence.
#[derive(Clone, Debug, PartialEq)]
pub struct SimultaneousIntervals {
    /// The number of standard errors to each side.
    pub quantile: f64,
    /// The standard errors.
    pub errors: Vec<f64>,
    /// The intervals, in the order of the statistics.
    pub intervals: Vec<[f64; 2]>,
}

/// Returns the intervals of all `statistics` that hold at once with `confidence`, by the bootstrap of the largest
/// deviation.
///
/// Westfall and Young (1993), *Resampling-Based Multiple Testing*; Efron and Tibshirani (1993), chapter 12: each
/// resample's deviation from the observed value is divided by the standard error of its statistic. The quantile is that
/// of the largest of these over the statistics (Hyndman and Fan 1996, type 7), and an interval is the value plus and
/// minus that many standard errors. Correlated statistics so get narrower intervals than a Bonferroni correction gives.
/// The quantile is never below that of one normal statistic.
///
/// `None` without statistics, with fewer than two resamples, if the statistics have different numbers of resamples, if a
/// value is not finite, or for a confidence outside (0, 1).
pub fn simultaneous_intervals(statistics: &[ResampledStatistic], confidence: f64) -> Option<SimultaneousIntervals> {
    let n_resamples = statistics.first()?.resampled.len();
    let is_sound = |statistic: &ResampledStatistic| {
        statistic.resampled.len() == n_resamples
            && statistic.value.is_finite()
            && statistic.least_error >= 0.0
            && statistic.resampled.iter().all(|value| value.is_finite())
    };
    if n_resamples < 2 || !(confidence > 0.0 && confidence < 1.0) || !statistics.iter().all(is_sound) {
        return None;
    }
    let one = normal_quantile(0.5 + confidence / 2.0)?;
    let errors: Vec<f64> = statistics
        .iter()
        .map(|statistic| standard_deviation(&statistic.resampled).max(statistic.least_error))
        .collect();
    let mut largest = vec![0.0_f64; n_resamples];
    for (statistic, &error) in statistics.iter().zip(&errors) {
        // Without any error nothing deviates.
        if error > 0.0 {
            for (largest, value) in largest.iter_mut().zip(&statistic.resampled) {
                *largest = largest.max((value - statistic.value).abs() / error);
            }
        }
    }
    largest.sort_by(f64::total_cmp);
    let place = confidence * (n_resamples - 1) as f64;
    let (below, above) = (largest[place.floor() as usize], largest[place.ceil() as usize]);
    let quantile = (below + (above - below) * place.fract()).max(one);
    let intervals = statistics
        .iter()
        .zip(&errors)
        .map(|(statistic, error)| [statistic.value - quantile * error, statistic.value + quantile * error])
        .collect();
    Some(SimultaneousIntervals { quantile, errors, intervals })
}

fn standard_deviation(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::SplitMix64;
    use crate::stats::golden::numbers;

    /// The means of the rows of `data`, resampled over columns.
    fn means(data: &[Vec<f64>], n_resamples: usize, seed: u64) -> Vec<ResampledStatistic> {
        let n = data[0].len();
        let mean = |row: &[f64], counts: &[usize]| {
            row.iter().zip(counts).map(|(value, &count)| value * count as f64).sum::<f64>() / n as f64
        };
        let observed = vec![1; n];
        let mut statistics: Vec<ResampledStatistic> = data
            .iter()
            .map(|row| ResampledStatistic { value: mean(row, &observed), resampled: Vec::new(), least_error: 0.0 })
            .collect();
        let mut generator = SplitMix64::new(seed);
        for _ in 0..n_resamples {
            let mut counts = vec![0; n];
            (0..n).for_each(|_| counts[generator.below(n)] += 1);
            for (statistic, row) in statistics.iter_mut().zip(data) {
                statistic.resampled.push(mean(row, &counts));
            }
        }
        statistics
    }

    #[test]
    fn quantile_and_errors_come_near_to_numpys() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/simultaneous.json")).unwrap();
        for case in golden["cases"].as_array().unwrap() {
            let data: Vec<Vec<f64>> = case["data"].as_array().unwrap().iter().map(numbers).collect();
            let found = simultaneous_intervals(&means(&data, 20_000, 3), case["confidence"].as_f64().unwrap()).unwrap();
            let quantile = case["quantile"].as_f64().unwrap();
            assert!((found.quantile / quantile - 1.0).abs() < 0.02, "{} {quantile}", found.quantile);
            for (error, expected) in found.errors.iter().zip(numbers(&case["errors"])) {
                assert!((error / expected - 1.0).abs() < 0.02, "{error} {expected}");
            }
        }
    }

    /// Three means of correlated values, all of them 0.
    #[test]
    fn all_intervals_hold_at_once_as_often_as_they_should() {
        let mut generator = SplitMix64::new(11);
        let mut sign = |p: f64| if generator.uniform() < p { 1.0 } else { -1.0 };
        let n_runs = 400;
        let n_held = (0..n_runs)
            .filter(|&run| {
                let common: Vec<f64> = (0..80).map(|_| sign(0.5)).collect();
                let mut row = || common.iter().map(|value| value + 2.0 * sign(0.5)).collect::<Vec<f64>>();
                let data = [row(), row(), row()];
                let found = simultaneous_intervals(&means(&data, 400, run), 0.9).unwrap();
                found.intervals.iter().all(|[low, high]| *low <= 0.0 && 0.0 <= *high)
            })
            .count();
        assert!((340..=378).contains(&n_held), "{n_held} of {n_runs}");
    }

    #[test]
    fn more_statistics_widen_intervals_and_equal_ones_do_not() {
        let mut generator = SplitMix64::new(5);
        let rows: Vec<Vec<f64>> = (0..8).map(|_| (0..100).map(|_| generator.uniform()).collect()).collect();
        let all = means(&rows, 4000, 1);
        let quantile = |statistics: &[ResampledStatistic]| simultaneous_intervals(statistics, 0.95).unwrap().quantile;
        let one = quantile(&all[..1]);
        assert!((1.95..2.05).contains(&one), "{one}");
        assert!((2.6..2.9).contains(&quantile(&all)), "{}", quantile(&all));
        let same = vec![all[0].clone(); 8];
        assert_eq!(quantile(&same), one);
    }

    #[test]
    fn images_that_all_agree_leave_the_least_error() {
        let same = |least_error: f64| ResampledStatistic { value: 0.5, resampled: vec![0.5; 50], least_error };
        let found = simultaneous_intervals(&[same(0.01)], 0.95).unwrap();
        let [low, high] = found.intervals[0];
        assert!((low - 0.4804).abs() < 1e-4 && (high - 0.5196).abs() < 1e-4, "{low} {high}");
        assert_eq!(simultaneous_intervals(&[same(0.0)], 0.95).unwrap().intervals, [[0.5, 0.5]]);
    }

    #[test]
    fn what_is_undefined_has_no_intervals() {
        let statistic = |resampled: Vec<f64>| ResampledStatistic { value: 0.0, resampled, least_error: 0.0 };
        assert_eq!(simultaneous_intervals(&[], 0.95), None);
        assert_eq!(simultaneous_intervals(&[statistic(vec![0.1])], 0.95), None);
        assert_eq!(simultaneous_intervals(&[statistic(vec![0.1, f64::NAN])], 0.95), None);
        assert_eq!(simultaneous_intervals(&[statistic(vec![0.1, 0.2]), statistic(vec![0.1; 3])], 0.95), None);
        assert_eq!(simultaneous_intervals(&[statistic(vec![0.1, 0.2])], 1.0), None);
    }
}
