use super::*;
use crate::chart::comparison_samples::lost_image;

#[test]
fn a_small_image_keeps_its_pixels_and_a_large_one_its_proportions() {
    let small = RgbImage::new(28, 28, (0..28 * 28 * 3).map(|index| index as u8).collect()).unwrap();
    let thumbnail = Thumbnail::of(&small).unwrap();
    let back = image::load_from_memory(&thumbnail.png).unwrap().into_rgb8();
    assert_eq!((back.width(), back.height(), back.as_raw().as_slice()), (28, 28, small.pixels()));
    let large = RgbImage::new(640, 320, vec![9; 640 * 320 * 3]).unwrap();
    let thumbnail = Thumbnail::of(&large).unwrap();
    assert_eq!((thumbnail.width, thumbnail.height), (160, 80));
    let thin = RgbImage::new(5000, 1, vec![9; 15000]).unwrap();
    assert_eq!(Thumbnail::of(&thin).unwrap().height, 1);
}

#[test]
fn a_choice_takes_the_codes_in_turns_and_no_image_twice() {
    let mut lost: Vec<LostImage> = (0..9).map(|index| lost_image("d", index)).collect();
    lost.iter_mut().for_each(|image| image.code_after = ErrorCode::Wrong);
    lost[7].code_after = ErrorCode::Leak;
    let chosen = gallery_choice(&lost, 3);
    assert_eq!(chosen.iter().filter(|image| image.code_after == ErrorCode::Leak).count(), 1);
    assert_eq!((chosen.len(), gallery_choice(&lost, 200).len(), gallery_choice(&lost, 0).len()), (3, 9, 0));
}
