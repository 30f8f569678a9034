use super::*;
use crate::dataset::decode;

#[test]
fn a_png_holds_the_pixels_that_went_in() {
    for (width, height) in [(1, 1), (3, 2), (32, 32), (75, 50)] {
        let pixels = (0..width * height * 3).map(|i| (i * 37 % 256) as u8).collect();
        let image = RgbImage::new(width, height, pixels).unwrap();
        assert_eq!(decode(&png(&image).unwrap()).unwrap(), image);
    }
}
