use super::*;

#[test]
fn a_stretched_bowl_is_walked_down_to_its_middle() {
    let scales = [1.0, 1e-2, 1e3, 7.0];
    let middle = [3.0, -4.0, 0.5, 1e3];
    let found = minimise(vec![0.0; 4], |place, gradient| {
        let parts = place.iter().zip(&middle).zip(&scales);
        gradient.iter_mut().zip(parts.clone()).for_each(|(slope, ((at, to), scale))| *slope = scale * (at - to));
        parts.map(|((at, to), scale)| 0.5 * scale * (at - to).powi(2)).sum()
    });
    for (found, middle) in found.iter().zip(&middle) {
        assert!((found - middle).abs() < 1e-5, "{found} {middle}");
    }
}
