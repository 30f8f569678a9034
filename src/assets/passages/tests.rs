#[test]
fn there_are_a_hundred_passages() {
    assert_eq!(super::passages().len(), 100);
}
