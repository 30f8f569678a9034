use super::*;

#[test]
fn a_persons_table_may_name_any_file() {
    let reach = Reach::of_table(Path::new("/data/lists/test.csv"));
    for (path, name) in [
        ("a/1.png", "a/1.png"),
        ("./a/../1.png", "1.png"),
        ("/data/lists/a/1.png", "a/1.png"),
        ("../images/1.png", "/data/images/1.png"),
        ("/photos/1.png", "/photos/1.png"),
    ] {
        assert_eq!(reach.name(path).unwrap(), name, "{path}");
    }
    for (path, part) in [("", "no image"), ("https://host/1.png", "an address"), ("C:/1.png", "a drive of Windows")] {
        let error = reach.name(path).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_table_that_somebody_else_wrote_may_not() {
    for (table, inside) in [
        ("/cache/datasets--me--photos/snapshots/0a1b/data/test.parquet", "../images/1.png"),
        ("/data/pets/metadata.csv", "images/../1.png"),
        ("/data/pets/metadata.parquet", "1.png"),
    ] {
        let reach = Reach::of_table(Path::new(table));
        assert!(reach.resolve(inside).is_ok(), "{table}");
        for outside in ["/etc/1.png", "../../../../1.png", "a/../../../../1.png"] {
            let error = reach.resolve(outside).unwrap_err().to_string();
            assert!(error.contains("points outside of"), "{table} {error}");
        }
    }
    assert!(Reach::within(Path::new("/data")).resolve("../1.png").is_err());
    // A folder whose name only begins like the fence's.
    assert!(Reach::within(Path::new("/data/pets")).resolve("../pets2/1.png").is_err());
}

#[test]
fn names_of_files_outside_are_the_same_on_another_machine() {
    assert_eq!(portable_names(&["/a/b/x/1.png", "/a/b/y/2.png"], &[]).unwrap(), ["x/1.png", "y/2.png"]);
    assert_eq!(portable_names(&["/c/x/1.png", "/c/y/2.png"], &[]).unwrap(), ["x/1.png", "y/2.png"]);
    assert_eq!(portable_names(&["/a/bc/1.png", "/a/bd/1.png"], &[]).unwrap(), ["bc/1.png", "bd/1.png"]);
    assert_eq!(portable_names(&["/a/b/1.png"], &["1.png"]), None);
    assert_eq!(shared_folder(&["/a/b/x/1.png", "/a/b/y/2.png"]), Some("/a/b"));
}
