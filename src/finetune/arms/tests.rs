use super::*;

#[test]
fn every_arm_of_the_domain_is_built_once_in_its_order() {
    assert!(ARMS.iter().map(|arm| arm.arm()).eq(domain::Arm::ALL.iter().copied()));
}

#[test]
fn normal_numbers_have_mean_0_and_variance_1() {
    let numbers = normal(3, b"x", 20_001);
    let mean = numbers.iter().map(|&x| f64::from(x)).sum::<f64>() / numbers.len() as f64;
    let variance = numbers.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / numbers.len() as f64;
    assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    assert_eq!(numbers.len(), 20_001);
    assert_ne!(normal(4, b"x", 4), normal(3, b"x", 4));
}
