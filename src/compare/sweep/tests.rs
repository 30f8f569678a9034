use super::*;
use crate::stats::SplitMix64;

const TUNED: &str = "new";
const OTHER: &str = "old";

/// The run of an arm on `n` images of each dataset. The base is wrong on all new images and right on all old ones; the arm gains those
/// new images and loses those old ones for which the functions say so.
fn run(
    arm: &str,
    seed: u64,
    epoch: usize,
    n: usize,
    gains: impl Fn(usize) -> bool,
    loses: impl Fn(usize) -> bool,
) -> SweptRun {
    let images = |outcome: &dyn Fn(usize) -> [bool; 2]| {
        (0..n).map(|image| (format!("{image:05}"), outcome(image).map(Some))).collect::<BTreeMap<_, _>>()
    };
    SweptRun {
        arm: arm.to_owned(),
        seed,
        epoch,
        details: ArmDetails {
            method: "lora".to_owned(),
            new: vec![TUNED.to_owned()],
            learning_rate: 1e-3,
            n_trainable: Some(10),
        },
        datasets: vec![
            SweptDataset { dataset: TUNED.to_owned(), images: images(&|image| [false, gains(image)]) },
            SweptDataset { dataset: OTHER.to_owned(), images: images(&|image| [true, !loses(image)]) },
        ],
    }
}

fn swept(runs: &[SweptRun]) -> Sweep {
    sweep("base", runs, Vec::new(), SweepOptions { n_resamples: 1000, ..SweepOptions::default() })
}

fn ranks(sweep: &Sweep) -> Vec<(&str, Option<usize>, Option<bool>)> {
    sweep.arms.iter().map(|row| (row.arm.as_str(), row.rank, row.has_equal_gain)).collect()
}

#[test]
fn the_arm_that_forgets_less_at_equal_gain_is_first() {
    let half = |image: usize| image.is_multiple_of(2);
    let found = swept(&[
        run("hasty", 0, 1, 100, half, |image| image < 60),
        run("gentle", 0, 1, 100, half, |image| image < 5),
        run("middle", 0, 1, 100, half, |image| image < 30),
    ]);
    assert_eq!(
        ranks(&found),
        [("hasty", Some(3), Some(true)), ("gentle", Some(1), Some(true)), ("middle", Some(2), Some(true))]
    );
    let hasty = &found.arms[0];
    assert_eq!((hasty.gain, hasty.forgetting), (Some(0.5), Some(0.6)));
    let [low, high] = hasty.forgetting_interval.unwrap();
    // Three arms with two numbers each: wider than 1.96 standard errors of 0.049.
    assert!(low < 0.6 - 0.098 && low > 0.4 && high > 0.698 && high < 0.8, "{low} {high}");
}

#[test]
fn arms_that_cannot_be_told_apart_share_a_rank() {
    let half = |image: usize| image.is_multiple_of(2);
    let found = swept(&[
        run("a", 0, 1, 100, half, |image| image < 50),
        run("b", 0, 1, 100, half, |image| (4..50).contains(&image) || image == 90),
        run("c", 0, 1, 100, half, |_| false),
    ]);
    assert_eq!(ranks(&found), [("a", Some(2), Some(true)), ("b", Some(2), Some(true)), ("c", Some(1), Some(true))]);
}

#[test]
fn an_arm_that_gains_less_has_no_rank_and_a_tolerance_forgives() {
    let runs = [
        run("learns", 0, 1, 200, |image| image < 160, |image| image < 100),
        run("idles", 0, 1, 200, |image| image < 4, |_| false),
    ];
    let found = swept(&runs);
    assert_eq!(ranks(&found), [("learns", Some(1), Some(true)), ("idles", None, Some(false))]);
    assert!(found.tasks[0].notes.iter().any(|note| note.contains("No gain beyond doubt: idles.")), "{:?}", found.tasks);
    let options = SweepOptions { gain_tolerance: 0.95, n_resamples: 1000, ..SweepOptions::default() };
    let found = sweep("base", &runs, Vec::new(), options);
    assert_eq!(ranks(&found), [("learns", Some(2), Some(true)), ("idles", Some(1), Some(true))]);
}

#[test]
fn images_that_all_agree_are_told_apart_and_have_an_interval() {
    let all = |_: usize| true;
    let found = swept(&[run("loses all", 0, 1, 50, all, all), run("loses none", 0, 1, 50, all, |_| false)]);
    assert_eq!(ranks(&found), [("loses all", Some(2), Some(true)), ("loses none", Some(1), Some(true))]);
    let [low, high] = found.arms[1].forgetting_interval.unwrap();
    // As if one image of 50 had changed.
    assert!((-0.06..-0.035).contains(&low) && (0.035..0.06).contains(&high), "{low} {high}");
    assert_eq!(found.arms[1].forgetting, Some(0.0));
    assert!(found.arms[1].forgetting.unwrap().is_sign_positive());
}

#[test]
fn several_seeds_have_a_row_each_and_a_mean_that_alone_is_ranked() {
    let half = |image: usize| image.is_multiple_of(2);
    let mut runs = Vec::new();
    for (seed, n_lost) in [(0, 20), (1, 40), (7, 30)] {
        for epoch in [1, 2] {
            runs.push(run("a", seed, epoch, 100, half, move |image| image < n_lost * epoch));
            runs.push(run("b", seed, epoch, 100, half, |image| image == 3));
        }
    }
    let found = swept(&runs);
    let key = |row: &SweepRow| (row.arm.clone(), row.epoch, row.seed);
    let of_a: Vec<_> = found.arms.iter().map(key).filter(|(arm, ..)| arm == "a").collect();
    let expected =
        [(1, Some(0)), (1, Some(1)), (1, Some(7)), (1, None), (2, Some(0)), (2, Some(1)), (2, Some(7)), (2, None)];
    assert_eq!(of_a, expected.map(|(epoch, seed)| ("a".to_owned(), epoch, seed)));
    let ranked: Vec<_> = found.arms.iter().filter(|row| row.rank.is_some()).map(key).collect();
    assert_eq!(ranked, [("a".to_owned(), 2, None), ("b".to_owned(), 2, None)]);
    let mean = found.arms.iter().find(|row| key(row) == ("a".to_owned(), 2, None)).unwrap();
    assert_eq!((mean.n_seeds, mean.rank), (3, Some(2)));
    assert!((mean.forgetting.unwrap() - 0.6).abs() < 1e-12);
    // The seeds alone have a standard error of 0.2 / sqrt(3), the images of one of them 0.05.
    let [low, high] = mean.forgetting_interval.unwrap();
    assert!(high - low > 2.0 * 2.2 * 0.115, "{low} {high}");
    assert!((mean.datasets[1].accuracy.unwrap() - 0.4).abs() < 1e-12);
}

#[test]
fn only_images_that_every_run_answered_and_that_are_scored_count() {
    let mut first = run("a", 0, 1, 10, |_| true, |_| true);
    let second = run("b", 0, 1, 8, |_| true, |_| false);
    first.datasets[1].images.insert("00000".to_owned(), [Some(true), None]);
    let found = swept(&[first, second]);
    let counts: Vec<usize> = found.tasks[0].datasets.iter().map(|dataset| dataset.n_images).collect();
    assert_eq!(counts, [8, 8]);
    assert_eq!(found.arms[0].datasets[1].n_images, 7);
    assert_eq!((found.arms[0].forgetting, found.arms[1].forgetting), (Some(1.0), Some(0.0)));
}

#[test]
fn arms_are_ranked_among_those_that_learn_the_same() {
    let half = |image: usize| image.is_multiple_of(2);
    let mut other = run("other", 0, 1, 60, half, |image| image < 50);
    other.details.new = vec![OTHER.to_owned()];
    let mut alone = run("alone", 0, 1, 60, half, |_| false);
    alone.datasets.truncate(1);
    let found = swept(&[run("a", 0, 1, 60, half, |_| false), other, alone]);
    assert_eq!(found.tasks.len(), 3);
    assert_eq!(ranks(&found), [("a", Some(1), Some(true)), ("other", Some(1), Some(true)), ("alone", None, None)]);
    assert_eq!(found.arms[2].forgetting, None);
}

#[test]
fn the_frontier_holds_what_nothing_is_better_than() {
    let found = swept(&[
        run("a", 0, 1, 100, |image| image < 30, |image| image < 10),
        run("a", 0, 2, 100, |image| image < 50, |image| image < 30),
        run("b", 0, 1, 100, |image| image < 40, |image| image < 40),
        run("b", 0, 2, 100, |image| image < 50, |image| image < 30),
    ]);
    let on: Vec<(&str, usize)> =
        found.arms.iter().filter(|row| row.is_on_frontier).map(|row| (row.arm.as_str(), row.epoch)).collect();
    assert_eq!(on, [("a", 1), ("a", 2), ("b", 2)]);
}

/// Three arms that forget alike: how often any is ranked behind another.
#[test]
fn arms_alike_are_rarely_told_apart() {
    let mut generator = SplitMix64::new(3);
    let n_sweeps = 200;
    let n_told = (0..n_sweeps)
        .filter(|_| {
            let mut arm = |name: &str| {
                let lost: Vec<bool> = (0..80).map(|_| generator.uniform() < 0.3).collect();
                let gained: Vec<bool> = (0..80).map(|_| generator.uniform() < 0.5).collect();
                run(name, 0, 1, 80, move |image| gained[image], move |image| lost[image])
            };
            let runs = [arm("a"), arm("b"), arm("c")];
            let options = SweepOptions { n_resamples: 300, ..SweepOptions::default() };
            let found = sweep("base", &runs, Vec::new(), options);
            found.arms.iter().any(|row| row.rank != Some(1))
        })
        .count();
    assert!(n_told <= 20, "{n_told} of {n_sweeps}");
}

#[test]
fn a_sweep_is_read_as_it_is_written() {
    let failed = vec![FailedArm { arm: "c".to_owned(), seed: 3, message: "the loss is not finite".to_owned() }];
    let runs = [run("a", 0, 1, 20, |_| true, |_| false)];
    let found = sweep("base", &runs, failed, SweepOptions { n_resamples: 50, ..SweepOptions::default() });
    let text = serde_json::to_string(&found).unwrap();
    assert_eq!(serde_json::from_str::<Sweep>(&text).unwrap(), found);
    let row = &serde_json::from_str::<serde_json::Value>(&text).unwrap()["arms"][0];
    assert_eq!((&row["method"], &row["seed"], &row["n_trainable"]), (&"lora".into(), &0.into(), &10.into()));
}
