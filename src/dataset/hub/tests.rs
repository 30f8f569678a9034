use super::*;

fn chosen(files: &[&str], config: Option<&str>, split: Option<&str>) -> Result<(String, Vec<String>), String> {
    let files: Vec<String> = files.iter().map(|&file| file.to_owned()).collect();
    choose(&files, config, split).map(|choice| (choice.place, choice.files)).map_err(|error| error.to_string())
}

fn choice(place: &str, files: &[&str]) -> Result<(String, Vec<String>), String> {
    Ok((place.to_owned(), files.iter().map(|&file| file.to_owned()).collect()))
}

#[test]
fn only_the_files_of_the_split_are_wanted() {
    let files = [
        "README.md",
        "data/test-00000-of-00002.parquet",
        "data/test-00001-of-00002.parquet",
        "data/train-00000-of-00001.parquet",
        ".gitattributes",
    ];
    let test = choice("data", &["README.md", files[1], files[2]]);
    assert_eq!(chosen(&files, None, Some("test")), test);
    assert_eq!(chosen(&files, None, None), test);
    assert_eq!(choose(&files.map(str::to_owned), None, None).unwrap().chosen_of, ["test", "train"]);
    assert!(chosen(&files, None, Some("val")).unwrap_err().contains("it has test, train"));
    assert_eq!(chosen(&files[..3], None, None), test);
}

#[test]
fn of_several_configurations_one_is_named() {
    let files = ["a/test-00000-of-00001.parquet", "b/test/0000.parquet", "b/train/0000.parquet"];
    assert!(chosen(&files, None, Some("test")).unwrap_err().contains("the configurations a, b"));
    assert_eq!(chosen(&files, Some("a"), None), choice("a", &files[..1]));
    assert_eq!(chosen(&files, Some("b"), Some("test")), choice("b/test", &files[1..2]));
    assert!(chosen(&files, Some("c"), None).unwrap_err().contains("no configuration c"));
}

#[test]
fn a_split_may_stand_behind_the_name_where_no_configuration_is_called_so() {
    let files = ["data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"];
    assert_eq!(chosen(&files, Some("train"), None), choice("data", &files[1..]));
    assert_eq!(chosen(&files, Some("train"), Some("train")), choice("data", &files[1..]));
    assert!(chosen(&files, Some("train"), Some("test")).unwrap_err().contains("leave one of them out"));
    assert!(chosen(&files, Some("val"), None).unwrap_err().contains("no configuration val"));
    let folder = ["test/cat/0.png", "train/cat/1.png"];
    assert_eq!(chosen(&folder, Some("test"), None), choice("test", &folder[..1]));
}

#[test]
fn image_folders_archives_and_saved_datasets_are_chosen_too() {
    let folder = ["test/cat/0.png", "test/dog/1.jpg", "train/cat/2.png", "train/metadata.csv", "@eaDir/x.png", "a.txt"];
    assert_eq!(chosen(&folder, None, Some("test")), choice("test", &folder[..2]));
    assert_eq!(chosen(&folder, None, Some("train")), choice("train", &folder[2..4]));
    let sheet = ["data/metadata.jsonl", "data/test/0.png", "data/train/1.png"];
    assert_eq!(chosen(&sheet, None, Some("test")), choice("data", &sheet[..2]));
    assert_eq!(chosen(&["test.zip", "train.zip"], None, Some("test")), choice("test.zip", &["test.zip"]));
    let saved = ["dataset_dict.json", "test/state.json", "test/data-00000-of-00001.arrow", "train/state.json"];
    assert_eq!(chosen(&saved, None, Some("test")), choice("", &saved[..3]));
    assert!(chosen(&["a.txt"], None, None).unwrap_err().contains("neither Parquet"));
}

#[test]
fn names_may_have_a_configuration_and_a_revision() {
    let (id, config) = parse("me/photos/small@refs/convert/parquet").unwrap();
    assert_eq!(
        (id.repository(), id.revision(), config.as_deref()),
        ("me/photos", "refs/convert/parquet", Some("small"))
    );
    assert_eq!(id.folder_name(), "datasets--me--photos");
    for text in ["photos", "a/b/c/d", "./photos", "../photos", "a//b"] {
        assert!(parse(text).is_none(), "{text}");
    }
}
