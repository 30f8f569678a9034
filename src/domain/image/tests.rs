use super::*;

#[test]
fn a_wrong_number_of_bytes_is_no_image() {
    assert!(RgbImage::new(2, 2, vec![0; 11]).is_none());
    assert!(RgbImage::new(0, 2, vec![]).is_none());
    assert!(RgbImage::new(2, 2, vec![0; 12]).is_some());
}

#[test]
fn the_content_tells_a_transposed_image_apart() {
    let wide = RgbImage::new(2, 1, vec![7; 6]).unwrap();
    let tall = RgbImage::new(1, 2, vec![7; 6]).unwrap();
    assert_ne!(wide.content(), tall.content());
    assert!(wide.content().starts_with("blake3:"));
}
