use super::*;

#[test]
fn the_kth_duplicate_meets_the_kth_whatever_the_order() {
    let first = [("a", 2), ("b", 1), ("a", 1)];
    let second = [("a", 8), ("a", 9), ("c", 7), ("a", 7)];
    let pairing = pair(first, second, |item| item.0, |item| item.1);
    assert_eq!(pairing.pairs, [(("a", 1), ("a", 7)), (("a", 2), ("a", 8))]);
    assert_eq!(pairing.only_first, [("b", 1)]);
    assert_eq!(pairing.only_second, [("a", 9), ("c", 7)]);
    let mut turned = first;
    turned.reverse();
    assert_eq!(pair(turned, second, |item| item.0, |item| item.1), pairing);
}
