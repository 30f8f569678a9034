use super::*;

#[test]
fn lists_name_probes_and_an_unknown_name_is_refused_with_the_nearest() {
    assert_eq!(Probe::parse_list("quick").unwrap(), Probe::QUICK.iter().copied().collect());
    assert_eq!(Probe::parse_list("all").unwrap().len(), Probe::ALL.len());
    assert_eq!(Probe::parse_list("lens, cam").unwrap(), [Probe::Lens, Probe::Cam].into());
    let error = Probe::parse_list("swop").unwrap_err().to_string();
    assert!(error.contains("`swop` is no probe") && error.contains("swap"), "{error}");
    assert!(Probe::parse_list(" ,").is_err());
}
