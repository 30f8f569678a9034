use super::*;

#[test]
fn four_slots_stand_on_the_diagonals_as_in_the_paper() {
    let degrees: Vec<f64> = Slots::new(4).angles.iter().map(|angle| angle.to_degrees().round()).collect();
    assert_eq!(degrees, [45.0, 135.0, 225.0, 315.0]);
}

#[test]
fn petals_never_overlap_and_leave_room_for_the_ring_labels() {
    for n in 1..=30 {
        let slots = Slots::new(n);
        for pair in slots.angles.windows(2) {
            assert!(pair[1] - pair[0] > 2.0 * slots.half_encoder, "{n}");
        }
        if n > 1 {
            let gap = slots.angles[0] + 2.0 * PI - slots.angles[n - 1] - 2.0 * slots.half_encoder;
            assert!(gap >= LABEL_GAP - 1e-9, "{n}: {}", gap.to_degrees());
        }
    }
}

#[test]
fn the_top_is_up_and_angles_run_clockwise() {
    let (x, y) = point(10.0, 0.0);
    assert!(x.abs() < 1e-12 && (y + 10.0).abs() < 1e-12);
    let (x, _) = point(10.0, 0.1);
    assert!(x > 0.0);
}

#[test]
fn a_petal_of_no_accuracy_is_a_point_without_nan() {
    assert!(!petal(0.0, 1.0, 0.3).contains("NaN"));
}
