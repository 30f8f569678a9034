use proptest::prelude::*;

use super::*;

#[test]
fn the_fine_label_of_a_cifar100_record_is_its_second_byte() {
    let mut record = vec![4, 0];
    record.extend([9; IMAGE_BYTES]);
    assert_eq!(parse_binary(record.clone(), 2, 100).unwrap().labels, [0]);
    record[1] = 100;
    assert!(parse_binary(record, 2, 100).is_err());
}

#[test]
fn planes_become_pixels() {
    let mut bytes = vec![3];
    for level in [1u8, 2, 3] {
        bytes.extend([level; 1024]);
    }
    let batch = parse_binary(bytes, 1, 10).unwrap();
    let image = raw_images(Path::new("x"), batch.bytes, batch.stride).read(0).unwrap();
    assert_eq!(image.pixels()[..6], [1, 2, 3, 1, 2, 3]);
    assert!(raw_images(Path::new("x"), vec![], batch.stride).read(0).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_a_batch_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..8000), n in 0usize..4) {
        let _ = parse_python(bytes.clone(), 10);
        if let Ok(batch) = parse_binary(bytes.clone(), n, 10) {
            prop_assert_eq!(batch.labels.len() * batch.stride, bytes.len());
        }
    }
}
