//! How often the gate is wrong: simulated releases of known fall.
//!
//! In CI a small grid runs with fixed seeds; `tests/bench/gate_simulation.sh` runs the whole one with 10,000 releases a cell.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use emt::compare::{CandidateComparison, DatasetComparison, PairTable};
use emt::gate::{Policy, Schedule, Sequence, Verdict, decide, no_corrections};
use emt::stats::{SplitMix64, binomial_sample, normal_cdf, normal_quantile, obrien_fleming_boundaries};

const MARGIN: f64 = 0.02;
const ALPHA: f64 = 0.025;
const Z_ALPHA: f64 = 1.959_964;
/// Of the baseline; far from chance.
const ACCURACY: f64 = 0.7;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Design {
    Fixed,
    Sequential,
}

/// One setting of a simulation.
#[derive(Clone, Copy, Debug)]
struct Cell {
    design: Design,
    n_datasets: usize,
    /// Pairs, or the most of a sequence.
    n: usize,
    discordance: f64,
    fall: f64,
    unscored: f64,
}

/// What became of the releases of a cell.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    /// Of the first dataset.
    pass: f64,
    /// Of any dataset.
    any_fail: f64,
    inconclusive: f64,
    /// Samples of the first dataset to its decision.
    mean_n: f64,
}

fn grid(is_whole: bool) -> Vec<Cell> {
    let (ns, discordances, shares, families): (&[usize], &[f64], &[f64], &[usize]) = if is_whole {
        (&[200, 1_000, 2_000, 10_000], &[0.05, 0.1, 0.3], &[0.0, 0.01, 0.1], &[1, 4])
    } else {
        (&[200, 2_000], &[0.05, 0.2], &[0.0, 0.02], &[1, 4])
    };
    let mut cells = Vec::new();
    for design in [Design::Fixed, Design::Sequential] {
        for &n_datasets in families {
            for &n in ns {
                for &discordance in discordances {
                    for fall in [0.0, MARGIN / 2.0, MARGIN, 2.0 * MARGIN] {
                        for &unscored in shares {
                            // More cannot fall than changes.
                            if fall <= discordance {
                                cells.push(Cell { design, n_datasets, n, discordance, fall, unscored });
                            }
                        }
                    }
                }
            }
        }
    }
    cells
}

/// Adds `n` pairs to `table`.
fn grow(table: &mut PairTable, cell: &Cell, n: usize, random: &mut SplitMix64) {
    let mut left = n;
    let mut taken = 0.0;
    let mut draw = |p: f64| {
        let share = (p / (1.0 - taken)).clamp(0.0, 1.0);
        let n_drawn = binomial_sample(random, left, share).expect("a share is a probability");
        taken += p;
        left -= n_drawn;
        n_drawn
    };
    let lost = (cell.discordance + cell.fall) / 2.0;
    let gained = (cell.discordance - cell.fall) / 2.0;
    let scored = 1.0 - cell.unscored;
    table.lost += draw(lost * scored);
    table.gained += draw(gained * scored);
    table.both_correct += draw((ACCURACY - lost) * scored);
    // The candidate's answer could not be judged, whatever it was.
    table.correct_unscored += draw(ACCURACY * cell.unscored);
    table.wrong_unscored += draw((1.0 - ACCURACY) * cell.unscored);
    table.both_wrong += left;
}

fn candidate(tables: &[(String, PairTable)]) -> CandidateComparison {
    CandidateComparison {
        run: String::new(),
        identity: String::new(),
        datasets: tables.iter().map(|(name, table)| DatasetComparison::of_table(name, 10, *table)).collect(),
        only_candidate: Vec::new(),
        differences: Vec::new(),
        settings: Vec::new(),
        tuned_on: Vec::new(),
    }
}

/// The names of a cell's datasets, each with its number of samples.
fn datasets(cell: &Cell) -> Vec<(String, usize)> {
    (0..cell.n_datasets).map(|index| (index.to_string(), cell.n)).collect()
}

/// One release through the gate; `fresh` is a sequence over the cell's datasets that has seen nothing.
fn release(cell: &Cell, policy: &Policy, fresh: &Sequence, random: &mut SplitMix64) -> emt::gate::Decision {
    let mut tables: Vec<(String, PairTable)> =
        datasets(cell).into_iter().map(|(name, _)| (name, PairTable::default())).collect();
    if cell.design == Design::Fixed {
        tables.iter_mut().for_each(|(_, table)| grow(table, cell, cell.n, random));
        return decide(policy, &candidate(&tables), &no_corrections);
    }
    let mut sequence = fresh.clone();
    loop {
        let open: Vec<(String, usize)> = sequence.open().into_iter().map(|(name, n)| (name.to_owned(), n)).collect();
        if open.is_empty() {
            return sequence.decision();
        }
        let mut seen = Vec::new();
        for (name, n) in open {
            let (_, table) = tables.iter_mut().find(|(known, _)| *known == name).expect("a known dataset");
            grow(table, cell, n - table.n_pairs(), random);
            seen.push((name, *table));
        }
        sequence.observe(&candidate(&seen), &no_corrections);
    }
}

fn simulate(cell: &Cell, seed: u64, n_releases: usize) -> Rates {
    let policy = Policy::default();
    // Its clones share the levels that they compute.
    let fresh = Sequence::new(policy.clone(), &datasets(cell));
    let mut random = SplitMix64::new(seed);
    let mut rates = Rates::default();
    let one = 1.0 / n_releases as f64;
    for _ in 0..n_releases {
        let decision = release(cell, &policy, &fresh, &mut random);
        let first = &decision.datasets[0];
        rates.pass += one * f64::from(u8::from(first.decision == Verdict::Pass));
        rates.inconclusive += one * f64::from(u8::from(first.decision == Verdict::Inconclusive));
        rates.any_fail += one * f64::from(u8::from(decision.decision == Verdict::Fail));
        rates.mean_n += one * first.n_pairs as f64;
    }
    rates
}

/// What theory says of a cell whose pairs are all scored: the power to pass one dataset and the mean number of samples to its
/// decision. A fixed design by the normal approximation; a sequential one as Brownian motion with drift against both
/// boundaries (Jennison and Turnbull 2000, chapter 3), over seeded paths.
fn theory(cell: &Cell) -> (f64, f64) {
    let deviation = (cell.discordance - cell.fall * cell.fall).sqrt();
    let drift = (MARGIN - cell.fall) * (cell.n as f64).sqrt() / deviation;
    if cell.design == Design::Fixed {
        return (normal_cdf(drift - Z_ALPHA), cell.n as f64);
    }
    let schedule = Schedule::sequential(cell.n);
    let information: Vec<f64> = schedule.looks().iter().map(|&n| n as f64 / cell.n as f64).collect();
    let boundaries = |alpha: f64| obrien_fleming_boundaries(alpha, &information).expect("a schedule rises to 1");
    let (pass, fail) = (boundaries(ALPHA), boundaries(ALPHA / cell.n_datasets as f64));
    let mut random = SplitMix64::new(0x7e07);
    let (mut n_passed, mut n_samples) = (0, 0);
    const N_PATHS: usize = 20_000;
    for _ in 0..N_PATHS {
        let (mut at, mut motion) = (0.0, 0.0);
        for (look, &time) in information.iter().enumerate() {
            let step = normal_quantile(random.uniform().clamp(1e-12, 1.0 - 1e-12)).expect("within (0, 1)");
            motion += drift * (time - at) + step * (time - at).sqrt();
            at = time;
            let z = motion / time.sqrt();
            if z >= pass[look] || -z >= fail[look] || look + 1 == information.len() {
                n_passed += usize::from(z >= pass[look]);
                n_samples += schedule.looks()[look];
                break;
            }
        }
    }
    (n_passed as f64 / N_PATHS as f64, n_samples as f64 / N_PATHS as f64)
}

/// Simulates all cells on as many threads as there are cores, and returns a line for each in which the gate is wrong too often.
fn run(cells: &[Cell], n_releases: usize) -> Vec<String> {
    let results: Mutex<Vec<(usize, Rates)>> = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(cell) = cells.get(index) else { return };
                    let rates = simulate(cell, 0x5eed_0000 + index as u64, n_releases);
                    results.lock().unwrap().push((index, rates));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(index, _)| *index);
    // Three Monte-Carlo standard errors at the nominal rate.
    let tolerance = 0.0025 + 3.0 * (ALPHA * (1.0 - ALPHA) / n_releases as f64).sqrt();
    let mut wrong = Vec::new();
    eprintln!(
        "design     datasets      n  discordance  fall  unscored   pass (theory)  any fail  undecided  mean n (theory)"
    );
    for (index, rates) in results {
        let cell = &cells[index];
        let (power, mean_n) = theory(cell);
        let line = format!(
            "{:<10} {:>8} {:>6} {:>12} {:>5} {:>9}  {:>5.3} ({:>5.3}) {:>10.3} {:>10.3} {:>7.0} ({:>5.0})",
            format!("{:?}", cell.design),
            cell.n_datasets,
            cell.n,
            cell.discordance,
            cell.fall,
            cell.unscored,
            rates.pass,
            power,
            rates.any_fail,
            rates.inconclusive,
            rates.mean_n,
            mean_n
        );
        eprintln!("{line}");
        let is_at_margin = (cell.fall - MARGIN).abs() < 1e-12;
        let passes_wrongly = cell.fall >= MARGIN && rates.pass > ALPHA + tolerance;
        let fails_wrongly = (cell.fall < MARGIN || is_at_margin) && rates.any_fail > ALPHA + tolerance;
        if passes_wrongly || fails_wrongly {
            wrong.push(line);
        }
    }
    wrong
}

#[test]
fn the_gate_is_wrong_no_more_often_than_its_level() {
    let wrong = run(&grid(false), 300);
    assert!(wrong.is_empty(), "too often wrong in:\n{}", wrong.join("\n"));
}

/// The whole grid; `EMT_SIMULATIONS` releases a cell.
#[test]
#[ignore = "takes long: tests/bench/gate_simulation.sh runs it"]
fn the_gate_is_wrong_no_more_often_than_its_level_anywhere() {
    let n_releases = std::env::var("EMT_SIMULATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let wrong = run(&grid(true), n_releases);
    assert!(wrong.is_empty(), "too often wrong in:\n{}", wrong.join("\n"));
}
