use super::*;

#[test]
fn a_catalog_cannot_write_outside_the_data_root() {
    let file = |url: &str, folder: &str| WireFile {
        url: url.to_owned(),
        folder: folder.into(),
        md5: None,
        sha256: None,
        unpack: false,
        splits: Vec::new(),
    };
    assert!(check_file(&file("https://host/a.gz", "mnist")).is_ok());
    for (url, folder) in [
        ("https://host/a.gz", "../mnist"),
        ("https://host/a.gz", "/mnist"),
        ("https://host/..", "mnist"),
        ("https://host/a/", "mnist"),
    ] {
        assert!(check_file(&file(url, folder)).is_err(), "{url} {folder}");
    }
}
