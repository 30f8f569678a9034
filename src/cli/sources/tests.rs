use super::*;

fn source_of(given: &str, text: &str) -> Source {
    let request = OpenRequest { text, ..OpenRequest::default() };
    let value = recorded(&Catalog::embedded(), &DataRoots::default(), given, &request).unwrap();
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_dataset_is_opened_again_under_the_name_that_it_had() {
    for (given, text, again) in [
        ("/a/photos/val", "/a/photos/val", Some("/a/photos/val")),
        ("mine=/a/photos", "mine=/a/photos", Some("mine=/a/photos")),
        ("me/photos", "me/photos=/cache/x/data", Some("me/photos=/cache/x/data")),
        ("mine=me/photos", "mine=/cache/x/data", Some("mine=/cache/x/data")),
        ("cifar10", "cifar10", None),
    ] {
        assert_eq!(source_of(given, text).text().as_deref(), again, "{given}");
    }
    assert!(source_of("./photos", "./photos").path.unwrap().is_absolute());
    let request = OpenRequest { text: "embedded/mnist", ..OpenRequest::default() };
    assert!(recorded(&Catalog::embedded(), &DataRoots::default(), "embedded/mnist", &request).is_none());
}
