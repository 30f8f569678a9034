use super::*;

#[test]
fn a_token_of_a_block_sees_to_its_end_and_others_to_themselves() {
    let blocks = Blocks::within_windows([6..8, 2..5]);
    assert_eq!((0..9).map(|token| blocks.end_of(token)).collect::<Vec<_>>(), [1, 2, 5, 5, 5, 6, 8, 8, 9]);
    assert_eq!((blocks.kept_from(3), blocks.yield_to_windows()), (3, true));
    let whole = Blocks::whole(4);
    assert_eq!((whole.kept_from(3), whole.kept_from(4), whole.yield_to_windows()), (0, 4, false));
}

#[test]
fn blocks_move_with_their_tokens() {
    let blocks = Blocks::within_windows([2..5, 6..8]);
    assert_eq!(blocks.clone().preceded_by(3).runs(), [5..8, 9..11]);
    assert_eq!(blocks.after(3).runs(), [0..2, 3..5]);
    assert_eq!(blocks.after(5).runs(), std::slice::from_ref(&(1..3)));
    assert_eq!(blocks.kept(|at| !(2..5).contains(&at)).runs(), std::slice::from_ref(&(3..5)));
}
