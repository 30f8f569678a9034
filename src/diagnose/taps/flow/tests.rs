use super::*;

#[test]
fn a_rule_has_a_name_by_which_it_is_found() {
    for name in ["mean", "max", "mean,raw", "max,no-sink", "max,raw,no-sink"] {
        assert_eq!(FlowRule::parse(name).unwrap().name(), name);
    }
    assert_eq!(FlowRule::parse("mean"), Ok(FlowRule::PAPER));
    assert!(FlowRule::parse("median").is_err());
}
