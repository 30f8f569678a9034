//! Gain and forgetting with simultaneous intervals: a resample takes the same images for all arms.

use std::collections::BTreeSet;

use super::{RowDataset, SweepOptions, SweptRun};
use crate::compare::summary::Interval;
use crate::stats::{ResampledStatistic, SplitMix64, simultaneous_intervals};

/// The runs of one task over the images that all of them answered.
pub(super) struct Table<'a> {
    pub runs: Vec<&'a SweptRun>,
    pub datasets: Vec<TableDataset>,
}

/// One dataset of a task.
pub(super) struct TableDataset {
    pub name: String,
    pub is_new: bool,
    /// Images that every run has.
    pub n_images: usize,
    /// By run.
    changes: Vec<Changes>,
}

/// One run on one dataset.
struct Changes {
    /// Images whose answer became right (1) or wrong (-1).
    changed: Vec<(usize, f64)>,
    /// Images unscored before or after.
    unscored: Vec<usize>,
    n_scored: usize,
    /// Right answers to scored images, before and after.
    n_correct: [usize; 2],
}

/// A run, or an arm's mean over seeds after one epoch.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Measured {
    /// Places of its runs in the table, one per seed.
    pub runs: Vec<usize>,
    pub gain: Option<f64>,
    pub gain_interval: Option<Interval>,
    pub forgetting: Option<f64>,
    pub forgetting_interval: Option<Interval>,
}

/// Gain and forgetting of all runs on all resamples.
pub(super) struct Resampled<'a, 'b> {
    table: &'b Table<'a>,
    gain: Vec<Option<ResampledStatistic>>,
    forgetting: Vec<Option<ResampledStatistic>>,
    seed: u64,
}

/// The two numbers of an arm's last epoch, with their resamples.
pub(super) struct LastEpoch {
    pub runs: Vec<usize>,
    pub gain: Option<ResampledStatistic>,
    pub forgetting: Option<ResampledStatistic>,
}

impl<'a> Table<'a> {
    pub fn of(runs: &[&'a SweptRun]) -> Self {
        let first = runs.first();
        let names = first.into_iter().flat_map(|run| run.datasets.iter().map(|dataset| dataset.dataset.as_str()));
        let datasets = names.map(|name| TableDataset::of(name, runs)).collect();
        Self { runs: runs.to_vec(), datasets }
    }

    pub fn has_several_seeds(&self) -> bool {
        self.runs.iter().map(|run| run.seed).collect::<BTreeSet<u64>>().len() > 1
    }

    /// Each dataset alone, over the seeds of `runs`.
    pub fn datasets_of(&self, runs: &[usize]) -> Vec<RowDataset> {
        let of = |dataset: &TableDataset| {
            let changes: Vec<&Changes> = runs.iter().map(|&run| &dataset.changes[run]).collect();
            let accuracy = |side: usize| {
                let rate = |changes: &&Changes| changes.n_correct[side] as f64 / changes.n_scored as f64;
                let is_scored = changes.iter().all(|changes| changes.n_scored > 0);
                is_scored.then(|| changes.iter().map(rate).sum::<f64>() / changes.len() as f64)
            };
            RowDataset {
                dataset: dataset.name.clone(),
                is_new: dataset.is_new,
                n_images: changes.iter().map(|changes| changes.n_scored).min().unwrap_or(0),
                baseline_accuracy: accuracy(0),
                accuracy: accuracy(1),
            }
        };
        self.datasets.iter().map(of).collect()
    }

    /// Draws images of each dataset with replacement, the same for all runs, again and again.
    pub fn resample(&self, options: SweepOptions) -> Resampled<'a, '_> {
        let empty = |value: Option<f64>, least_error: f64| {
            value.map(|value| ResampledStatistic {
                value,
                resampled: Vec::with_capacity(options.n_resamples),
                least_error,
            })
        };
        let observed = |is_new: bool| {
            let least_error = self.least_error(is_new);
            let value = |run: usize| self.mean_change(run, is_new, None);
            (0..self.runs.len()).map(|run| empty(value(run), least_error)).collect::<Vec<_>>()
        };
        let (mut gain, mut fall) = (observed(true), observed(false));
        let mut generator = SplitMix64::new(options.seed);
        for _ in 0..options.n_resamples {
            let counts: Vec<Vec<u32>> =
                self.datasets.iter().map(|dataset| draw(&mut generator, dataset.n_images)).collect();
            for (statistics, is_new) in [(&mut gain, true), (&mut fall, false)] {
                for (run, statistic) in statistics.iter_mut().enumerate() {
                    let Some(statistic) = statistic else { continue };
                    // A resample without a scored image says nothing.
                    let value = self.mean_change(run, is_new, Some(&counts)).unwrap_or(statistic.value);
                    statistic.resampled.push(value);
                }
            }
        }
        let turned = |statistic: Option<ResampledStatistic>| {
            // An unchanged accuracy is no fall of minus zero.
            let turn = |value: f64| 0.0 - value;
            statistic.map(|ResampledStatistic { value, resampled, least_error }| ResampledStatistic {
                value: turn(value),
                resampled: resampled.into_iter().map(turn).collect(),
                least_error,
            })
        };
        Resampled { table: self, gain, forgetting: fall.into_iter().map(turned).collect(), seed: options.seed }
    }

    /// The change of accuracy of one run: the mean over its datasets of one kind. `counts` say how often each image counts.
    fn mean_change(&self, run: usize, is_new: bool, counts: Option<&[Vec<u32>]>) -> Option<f64> {
        let (mut sum, mut n) = (0.0, 0.0);
        for (place, dataset) in self.datasets.iter().enumerate().filter(|(_, dataset)| dataset.is_new == is_new) {
            sum += dataset.changes[run].mean(dataset.n_images, counts.map(|counts| counts[place].as_slice()))?;
            n += 1.0;
        }
        (n > 0.0).then(|| sum / n)
    }

    /// The standard error if one image of each dataset of one kind changed.
    fn least_error(&self, is_new: bool) -> f64 {
        let of_kind: Vec<f64> = self
            .datasets
            .iter()
            .filter(|dataset| dataset.is_new == is_new && dataset.n_images > 0)
            .map(|dataset| 1.0 / dataset.n_images as f64)
            .collect();
        of_kind.iter().map(|error| error * error).sum::<f64>().sqrt() / of_kind.len().max(1) as f64
    }
}

impl TableDataset {
    fn of(name: &str, runs: &[&SweptRun]) -> Self {
        let of_run = |run: &&SweptRun| run.datasets.iter().position(|dataset| dataset.dataset == name);
        let places: Vec<Option<usize>> = runs.iter().map(of_run).collect();
        let images = |index: usize| places[index].map(|place| &runs[index].datasets[place].images);
        let in_all = |sample: &&String| {
            (0..runs.len()).all(|index| images(index).is_some_and(|images| images.contains_key(*sample)))
        };
        let samples: Vec<&String> = images(0).into_iter().flat_map(|images| images.keys()).filter(in_all).collect();
        let changes = (0..runs.len()).map(|index| {
            let outcomes = samples.iter().map(|sample| {
                let found = images(index).and_then(|images| images.get(*sample));
                found.copied().unwrap_or([None, None])
            });
            Changes::of(outcomes)
        });
        let is_new = runs.first().is_some_and(|run| run.details.new.iter().any(|new| new == name));
        Self { name: name.to_owned(), is_new, n_images: samples.len(), changes: changes.collect() }
    }
}

impl Changes {
    fn of(outcomes: impl Iterator<Item = [Option<bool>; 2]>) -> Self {
        let mut found = Self { changed: Vec::new(), unscored: Vec::new(), n_scored: 0, n_correct: [0, 0] };
        for (image, outcome) in outcomes.enumerate() {
            let [Some(before), Some(after)] = outcome else {
                found.unscored.push(image);
                continue;
            };
            found.n_scored += 1;
            found.n_correct[0] += usize::from(before);
            found.n_correct[1] += usize::from(after);
            if before != after {
                found.changed.push((image, if after { 1.0 } else { -1.0 }));
            }
        }
        found
    }

    fn mean(&self, n_images: usize, counts: Option<&[u32]>) -> Option<f64> {
        let count = |image: usize| counts.map_or(1.0, |counts| f64::from(counts[image]));
        let n = n_images as f64 - self.unscored.iter().map(|&image| count(image)).sum::<f64>();
        let sum: f64 = self.changed.iter().map(|&(image, change)| change * count(image)).sum();
        (n > 0.0).then(|| sum / n)
    }
}

/// How often each of `n` images is drawn in `n` draws with replacement.
fn draw(generator: &mut SplitMix64, n: usize) -> Vec<u32> {
    let mut counts = vec![0; n];
    (0..n).for_each(|_| counts[generator.below(n)] += 1);
    counts
}

impl Resampled<'_, '_> {
    /// Every run alone, over images.
    pub fn runs(&self, options: SweepOptions) -> Vec<Measured> {
        let points =
            (0..self.table.runs.len()).map(|run| (vec![run], self.gain[run].clone(), self.forgetting[run].clone()));
        measured(points.collect(), options)
    }

    /// The mean over seeds of every arm and epoch, over images and seeds.
    pub fn means(&self, options: SweepOptions) -> Vec<Measured> {
        let points = self.points().into_iter().map(|runs| {
            let (gain, forgetting) = (self.mean(&self.gain, &runs), self.mean(&self.forgetting, &runs));
            (runs, gain, forgetting)
        });
        measured(points.collect(), options)
    }

    /// Of `means`, those of each arm's last epoch.
    pub fn last_epochs(&self, means: &[Measured]) -> Vec<LastEpoch> {
        let epoch = |measured: &Measured| self.table.runs[measured.runs[0]].epoch;
        let arm = |measured: &Measured| self.table.runs[measured.runs[0]].arm.as_str();
        let is_last = |one: &&Measured| means.iter().all(|other| arm(other) != arm(one) || epoch(other) <= epoch(one));
        let last = means.iter().filter(is_last).map(|measured| LastEpoch {
            runs: measured.runs.clone(),
            gain: self.mean(&self.gain, &measured.runs),
            forgetting: self.mean(&self.forgetting, &measured.runs),
        });
        last.collect()
    }

    /// The runs of each arm and epoch.
    fn points(&self) -> Vec<Vec<usize>> {
        let mut points: Vec<Vec<usize>> = Vec::new();
        for (place, run) in self.table.runs.iter().enumerate() {
            let is_same = |runs: &&mut Vec<usize>| {
                let first = self.table.runs[runs[0]];
                first.arm == run.arm && first.epoch == run.epoch
            };
            match points.iter_mut().find(is_same) {
                Some(runs) => runs.push(place),
                None => points.push(vec![place]),
            }
        }
        points
    }

    /// The mean over `runs`, one per seed. Of m seeds, a resample draws m - 1 with replacement: the variance of their mean then is the
    /// unbiased estimate (Rao and Wu 1988, JASA 83, 231-241). Images and seeds are drawn apart (Owen 2007, "The pigeonhole
    /// bootstrap", Annals of Applied Statistics 1, 386-411).
    fn mean(&self, statistics: &[Option<ResampledStatistic>], runs: &[usize]) -> Option<ResampledStatistic> {
        let of_seeds: Vec<&ResampledStatistic> =
            runs.iter().map(|&run| statistics[run].as_ref()).collect::<Option<_>>()?;
        let n = of_seeds.len();
        let [first, ..] = of_seeds[..] else { return None };
        if n == 1 {
            return Some(first.clone());
        }
        // The same draws for every epoch of an arm, and others for other arms.
        let arm = self.table.runs.iter().position(|run| run.arm == self.table.runs[runs[0]].arm).unwrap_or(0);
        let mut generator = SplitMix64::new(self.seed ^ ((0x5eed << 16) + arm as u64));
        let resampled = (0..first.resampled.len()).map(|resample| {
            let drawn = (1..n).map(|_| of_seeds[generator.below(n)].resampled[resample]);
            drawn.sum::<f64>() / (n - 1) as f64
        });
        Some(ResampledStatistic {
            value: of_seeds.iter().map(|seed| seed.value).sum::<f64>() / n as f64,
            resampled: resampled.collect(),
            least_error: first.least_error,
        })
    }
}

type Point = (Vec<usize>, Option<ResampledStatistic>, Option<ResampledStatistic>);

/// Gains and forgettings of all points, with intervals that hold together.
fn measured(points: Vec<Point>, options: SweepOptions) -> Vec<Measured> {
    let all: Vec<ResampledStatistic> =
        points.iter().flat_map(|(_, gain, forgetting)| [gain, forgetting]).flatten().cloned().collect();
    let found = simultaneous_intervals(&all, options.confidence);
    let mut intervals = found.map(|found| found.intervals).unwrap_or_default().into_iter();
    let mut interval = |statistic: &Option<ResampledStatistic>| {
        statistic.as_ref().and_then(|_| intervals.next()).map(|ends| ends.map(|end| end.clamp(-1.0, 1.0)))
    };
    points
        .into_iter()
        .map(|(runs, gain, forgetting)| Measured {
            runs,
            gain_interval: interval(&gain),
            forgetting_interval: interval(&forgetting),
            gain: gain.map(|gain| gain.value),
            forgetting: forgetting.map(|forgetting| forgetting.value),
        })
        .collect()
}
