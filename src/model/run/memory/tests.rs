use super::*;

const NEED: MemoryNeed = MemoryNeed { n_weight_bytes: 4000, n_numbers_per_row: 100, bytes_per_number: 4 };

#[test]
fn the_batch_shrinks_to_what_fits() {
    assert_eq!(NEED.batch_size(None, Some(4 * 1500)).unwrap(), 5);
    assert_eq!(NEED.batch_size(None, Some(1 << 30)).unwrap(), MAX_BATCH_SIZE);
    assert_eq!(NEED.batch_size(None, None).unwrap(), MAX_BATCH_SIZE);
}

#[test]
fn too_little_memory_names_both_figures_and_the_mend() {
    let error = NEED.batch_size(None, Some(4 * 1000)).unwrap_err().to_string();
    assert!(error.contains("needed") && error.contains("free") && error.contains("16-bit"), "{error}");
    let error = NEED.batch_size(Some(6), Some(4 * 1500)).unwrap_err().to_string();
    assert!(error.contains("--batch-size"), "{error}");
}
