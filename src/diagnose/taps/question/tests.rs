use super::*;

#[test]
fn labels_share_their_common_beginning_and_keep_one_token_each() {
    assert_eq!(n_shared(&[vec![9, 1, 2], vec![9, 3, 2]]), 1);
    assert_eq!(n_shared(&[vec![4, 2], vec![5, 2]]), 0);
    assert_eq!(n_shared(&[vec![9, 1, 2]]), 2);
    assert_eq!(n_shared(&[]), 0);
}
