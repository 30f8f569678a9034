use super::*;

#[test]
fn probabilities_sum_to_one_and_the_rank_counts_what_is_above() {
    let logits = [1.0, 3.0, 2.0, 3.0];
    let sum: f64 = log_softmax(&logits).iter().map(|value| value.exp()).sum();
    assert!((sum - 1.0).abs() < 1e-12);
    assert_eq!(log_probability_and_rank(&logits, 2).1, 2);
    assert_eq!(log_probability_and_rank(&logits, 3).1, 0);
}

#[test]
fn a_distribution_does_not_diverge_from_itself_and_an_interval_needs_two_values() {
    let (p, q) = (log_softmax(&[0.0, 1.0]), log_softmax(&[1.0, 0.0]));
    assert_eq!(divergence(&p, &p), 0.0);
    assert!((divergence(&p, &q) - (1f64.exp() - 1.0) / (1f64.exp() + 1.0)).abs() < 1e-12);
    assert_eq!((mean(&[]), interval(&[1.0])), (None, None));
    let [low, high] = interval(&[0.0, 2.0]).unwrap();
    assert!((low + high - 2.0).abs() < 1e-12 && (high - 1.0 - 1.959_963_984_540_054).abs() < 1e-12);
}
