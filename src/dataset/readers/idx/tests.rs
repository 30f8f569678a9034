use proptest::prelude::*;

use super::*;

fn idx(sides: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, sides.len() as u8];
    bytes.extend(sides.iter().flat_map(|side| side.to_be_bytes()));
    bytes.extend(data);
    bytes
}

#[test]
fn a_header_that_promises_more_than_the_file_holds_is_refused() {
    for sides in [[2, 2, 2], [u32::MAX; 3], [1, 2, 0]] {
        assert!(parse(idx(&sides, &[7; 7]), 3).is_err(), "{sides:?}");
    }
    assert_eq!(parse(idx(&[2, 2, 2], &[7; 8]), 3).unwrap().sides, [2, 2, 2]);
}

proptest! {
    #[test]
    fn any_bytes_give_an_array_of_their_own_length_or_an_error(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..64), n_sides in 1usize..4, headed: bool,
    ) {
        if headed && bytes.len() > 4 {
            bytes[..4].copy_from_slice(&[0, 0, 8, n_sides as u8]);
        }
        if let Ok(array) = gunzip(bytes).and_then(|bytes| parse(bytes, n_sides)) {
            prop_assert_eq!(array.sides.iter().product::<usize>(), array.data.len());
        }
    }
}
