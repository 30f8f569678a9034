use super::*;

#[test]
fn curves_part_where_they_differ_to_the_end() {
    let same = vec![-1.0, -1.1, -0.9];
    let other = vec![-3.0, -3.2, -2.9];
    let base = vec![same.clone(); 4];
    let candidate = [&other, &same, &other, &other].map(Clone::clone).to_vec();
    assert_eq!(parting(&base, &candidate), Some(2));
    assert_eq!(parting(&base, &base), None);
}
