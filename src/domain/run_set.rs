//! Which runs of a lock-step.

/// Some of the runs that go on in lock-step, by their number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunSet(u64);

impl RunSet {
    /// So many runs can go on at once.
    pub const N_RUNS_MAX: usize = 64;

    /// The runs of `0..n_runs` that `is_in` names.
    pub fn of(n_runs: usize, is_in: impl Fn(usize) -> bool) -> Self {
        Self((0..n_runs).filter(|&run| is_in(run)).fold(0, |bits, run| bits | 1 << run))
    }

    /// Whether `run` is one of them.
    pub fn contains(self, run: usize) -> bool {
        self.0 >> run & 1 == 1
    }

    /// The runs of either.
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The runs of both.
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Their numbers, rising.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..Self::N_RUNS_MAX).filter(move |&run| self.contains(run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_it_was_made_of() {
        let set = RunSet::of(RunSet::N_RUNS_MAX, |run| run % 9 == 0);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 9, 18, 27, 36, 45, 54, 63]);
        assert!(set.contains(63) && !set.contains(62) && !set.is_empty());
        assert!(RunSet::of(5, |_| false).is_empty());
        let either = RunSet::of(4, |run| run == 1).union(RunSet::of(4, |run| run == 3));
        assert_eq!(either.iter().collect::<Vec<_>>(), [1, 3]);
        assert_eq!(either.intersection(RunSet::of(4, |run| run > 1)).iter().collect::<Vec<_>>(), [3]);
    }
}
