use super::*;

#[test]
fn a_share_stands_after_the_last_colon() {
    assert_eq!(share_of("mnist:0.25").unwrap(), ("mnist", 0.25));
    assert_eq!(share_of("C:/data/mnist:0.5").unwrap(), ("C:/data/mnist", 0.5));
    for wrong in ["mnist", "mnist:", ":0.5", "mnist:1", "mnist:-0.5", "mnist:NaN"] {
        assert!(share_of(wrong).is_err(), "{wrong}");
    }
}
