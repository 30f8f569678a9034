use super::*;

#[test]
fn one_image_is_known_by_itself_and_several_by_their_order() {
    let conversation = Conversation::about_one_image("What is it?");
    let (grey, black) = (RgbImage::from_grey(1, 1, &[7]).unwrap(), RgbImage::blank(1, 1));
    let item = |images: &[&RgbImage]| {
        let images = images.iter().map(|&image| image.clone()).collect();
        Item { images, conversation: &conversation }.content()
    };
    assert_eq!(item(&[&grey]), grey.content());
    assert_ne!(item(&[&grey, &black]), item(&[&black, &grey]));
    assert!(item(&[&grey, &black]).starts_with("blake3:"));
}
