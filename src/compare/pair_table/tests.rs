use proptest::prelude::*;

use super::*;

fn tables() -> impl Strategy<Value = PairTable> {
    proptest::collection::vec((0..3_usize, 0..3_usize), 0..60).prop_map(|pairs| {
        let state = |code: usize| [Some(true), Some(false), None][code];
        let mut table = PairTable::default();
        pairs.into_iter().for_each(|(before, after)| table.add(state(before), state(after)));
        table
    })
}

#[test]
fn each_pair_of_states_has_a_cell_of_its_own() {
    let states = [Some(true), Some(false), None];
    let mut table = PairTable::default();
    for before in states {
        for after in states {
            table.add(before, after);
        }
    }
    assert_eq!((table.n_pairs(), table.n_scored(), table.n_unscored()), (9, 4, 5));
    // Lost in the worst case are (right, wrong), (none, wrong), (right, none), (none, none).
    assert_eq!(table.against_a_pass(), PairedCounts { n_lost: 4, n_gained: 1, n: 9 });
    assert_eq!(table.against_a_fail(), PairedCounts { n_lost: 1, n_gained: 4, n: 9 });
    assert_eq!(table.baseline(), (3, 6));
    assert_eq!(table.accuracies(), Some([0.5, 0.5]));
}

proptest! {
    /// Whatever the unscored trials turn out to be, the fall lies within the bounds.
    #[test]
    fn bounds_hold_every_completion(table in tables(), choices in proptest::collection::vec(any::<bool>(), 120)) {
        let Some([low, high]) = table.bounds() else { return Ok(()) };
        let mut choice = choices.into_iter();
        let mut pick = || choice.next().unwrap_or(false);
        let (mut lost, mut gained) = (table.lost, table.gained);
        for (n, before, after) in [
            (table.unscored_correct, None, Some(true)),
            (table.unscored_wrong, None, Some(false)),
            (table.correct_unscored, Some(true), None),
            (table.wrong_unscored, Some(false), None),
            (table.both_unscored, None, None),
        ] {
            for _ in 0..n {
                match (before.unwrap_or_else(&mut pick), after.unwrap_or_else(&mut pick)) {
                    (true, false) => lost += 1,
                    (false, true) => gained += 1,
                    _ => {}
                }
            }
        }
        let fall = (lost as f64 - gained as f64) / table.n_pairs() as f64;
        prop_assert!(low <= fall + 1e-12 && fall <= high + 1e-12, "{low} {fall} {high}");
    }
}
