use super::*;

fn places(set: RunSet) -> Vec<usize> {
    set.iter().map(RunId::place).collect()
}

#[test]
fn a_set_holds_what_it_was_made_of() {
    let set = RunSet::of(RunSet::N_RUNS_MAX, |run| run.place() % 9 == 0);
    assert_eq!(places(set), [0, 9, 18, 27, 36, 45, 54, 63]);
    assert!(set.contains(RunId::new(63)) && !set.contains(RunId::new(62)) && !set.is_empty());
    assert!(RunSet::of(5, |_| false).is_empty());
    let either = RunSet::of(4, |run| run.place() == 1).union(RunSet::of(4, |run| run.place() == 3));
    assert_eq!(places(either), [1, 3]);
    assert_eq!(places(either.intersection(RunSet::of(4, |run| run.place() > 1))), [3]);
}
