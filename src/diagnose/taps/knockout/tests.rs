use super::*;

#[test]
fn one_layer_of_few_is_cut_and_four_of_thirty_two() {
    assert_eq!([1, 4, 8, 9, 32].map(n_cut), [1, 1, 1, 2, 4]);
}
