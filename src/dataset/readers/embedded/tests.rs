use super::*;

/// A PNG of one row of images of 2 x 2 pixels; image `i` has the grey level `i`.
fn one_row() -> &'static [u8] {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let image = image::RgbImage::from_fn(50, 2, |x, _| image::Rgb([x as u8 / 2; 3]));
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    Vec::leak(bytes.into_inner())
}

#[test]
fn images_are_counted_along_the_rows_and_classes_take_turns() {
    let opened = open_sheet("x", one_row(), 25, 10).unwrap();
    assert_eq!(opened.samples[13], ("00013".to_owned(), 3));
    assert_eq!(opened.reader.read(13).unwrap(), RgbImage::new(2, 2, vec![13; 12]).unwrap());
    assert!(opened.reader.read(25).unwrap_err().message.contains("no image 25"));
}

#[test]
fn a_sheet_of_other_sides_than_promised_is_unreadable() {
    let opened = open_sheet("x", one_row(), 50, 10).unwrap();
    assert!(opened.reader.read(0).unwrap_err().message.contains("50 x 2"));
    assert!(open_sheet("x", one_row(), 26, 10).is_err());
}

#[test]
fn an_unknown_sheet_is_answered_with_the_known_ones() {
    let error = format!("{:#}", find("svhn-test").unwrap_err());
    assert!(error.contains("cifar100-train"), "{error}");
}
