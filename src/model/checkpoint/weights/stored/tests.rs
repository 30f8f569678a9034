use super::*;

fn stored(n_elements: usize, shape: &[usize]) -> (tempfile::TempDir, StoredTensor) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raw");
    let bytes: Vec<u8> = (0..n_elements).flat_map(|i| (i as f32).to_le_bytes()).collect();
    super::super::testing::write(&path, &bytes);
    let file = MappedFile::open(&path).unwrap();
    let strides = contiguous_strides(shape);
    let bytes = 0..bytes.len();
    let key = "t".to_owned();
    (folder, StoredTensor { key, file, bytes, element: Element::F32, offset: 0, shape: shape.to_vec(), strides })
}

#[test]
fn a_transposed_view_gathers_columns() {
    let (_folder, tensor) = stored(6, &[2, 3]);
    assert_eq!(tensor.clone().transposed().unwrap().to_f32().unwrap(), [0., 3., 1., 4., 2., 5.]);
    assert_eq!(tensor.to_f32().unwrap(), [0., 1., 2., 3., 4., 5.]);
}

#[test]
fn rows_split_the_first_axis() {
    let (_folder, tensor) = stored(6, &[3, 2]);
    assert_eq!(tensor.clone().rows(2, 3).unwrap().to_f32().unwrap(), [4., 5.]);
    assert!(tensor.rows(0, 2).is_none());
}

#[test]
fn a_view_beyond_its_storage_is_refused() {
    let (_folder, tensor) = stored(6, &[2, 3]);
    assert!(StoredTensor { offset: 1, ..tensor.clone() }.checked().is_err());
    assert!(StoredTensor { shape: vec![usize::MAX, 3], ..tensor.clone() }.checked().is_err());
    assert!(tensor.checked().is_ok());
}
