use super::*;

#[test]
fn braces_expand_in_their_order() {
    assert_eq!(expand("a{b,c}{,d}"), ["ab", "abd", "ac", "acd"]);
    assert_eq!(expand("plain"), ["plain"]);
    assert_eq!(expand("{broken"), ["{broken"]);
}

#[test]
fn a_path_names_itself_by_its_last_two_parts() {
    assert_eq!(last_two_parts(Path::new("/data/imagenet20/val")), "imagenet20/val");
    assert_eq!(last_two_parts(Path::new("/data/x/../imagenet20/./val/")), "imagenet20/val");
    assert_eq!(last_two_parts(Path::new("/data/photos/val.zip")), "photos/val");
    assert_eq!(last_two_parts(Path::new("/photos")), "photos");
    assert_eq!(last_split(Path::new("/data/photos/val.zip")).as_deref(), Some("val"));
    assert_eq!(last_split(Path::new("/data/photos")), None);
}
