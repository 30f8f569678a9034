use super::*;

#[test]
fn a_list_of_changes_reads_as_a_sentence() {
    let parts = |n: usize| ["a", "b", "c"][..n].iter().map(|part| (*part).to_owned()).collect::<Vec<_>>();
    assert_eq!([1, 2, 3].map(|n| and(&parts(n))), ["a", "a and b", "a, b and c"]);
}
