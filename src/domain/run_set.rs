//! Sets of runs in lock-step.

/// The index of a run in lock-step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunId(usize);

impl RunId {
    /// The run at `place`, from 0.
    pub const fn new(place: usize) -> Self {
        Self(place)
    }

    /// Its place, from 0.
    pub const fn place(self) -> usize {
        self.0
    }

    /// The runs `0..n_runs`.
    pub fn all(n_runs: usize) -> impl Iterator<Item = Self> {
        (0..n_runs).map(Self)
    }
}

/// A set of runs in lock-step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunSet(u64);

impl RunSet {
    /// The most runs in one lock-step.
    pub const N_RUNS_MAX: usize = 64;

    /// The runs out of `n_runs` for which `is_in` holds.
    pub fn of(n_runs: usize, is_in: impl Fn(RunId) -> bool) -> Self {
        Self(RunId::all(n_runs).filter(|&run| is_in(run)).fold(0, |bits, RunId(place)| bits | 1 << place))
    }

    /// Whether `run` is in the set.
    pub fn contains(self, RunId(place): RunId) -> bool {
        self.0 >> place & 1 == 1
    }

    /// The runs in either set.
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The runs in both sets.
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The runs, ascending.
    pub fn iter(self) -> impl Iterator<Item = RunId> {
        RunId::all(Self::N_RUNS_MAX).filter(move |&run| self.contains(run))
    }
}

#[cfg(test)]
mod tests;
