use super::*;

fn point(gain: f64, fall: f64, verdict: Verdict) -> Evidence {
    Evidence { gain: Some(gain), fall: Some(fall), verdict, is_within_margin: fall <= 0.02 }
}

#[test]
fn the_largest_gain_wins_among_the_points_that_the_gate_passes() {
    let points = [
        point(0.1, 0.0, Verdict::Pass),
        point(0.3, 0.01, Verdict::Pass),
        point(0.5, 0.02, Verdict::Inconclusive),
        point(0.6, 0.2, Verdict::Fail),
    ];
    assert_eq!(choose(&points), Some((1, ChosenBy::Gate)));
    assert_eq!(choose(&points[2..]), Some((0, ChosenBy::Margin)), "few images: by the estimates");
    assert_eq!(choose(&points[3..]), None);
}

#[test]
fn a_point_that_falls_too_far_or_has_no_answers_is_not_chosen() {
    assert_eq!(choose(&[point(0.4, 0.05, Verdict::Inconclusive)]), None);
    let unscored = Evidence { gain: None, ..point(0.4, 0.0, Verdict::Pass) };
    assert_eq!(choose(&[unscored]), None);
    assert_eq!(choose(&[]), None);
}

#[test]
fn of_equal_gains_the_smaller_fall_wins_and_then_the_later_point() {
    let points = [point(0.3, 0.01, Verdict::Pass), point(0.3, 0.0, Verdict::Pass), point(0.3, 0.0, Verdict::Pass)];
    assert_eq!(choose(&points), Some((2, ChosenBy::Gate)));
}
