//! Tables as Python's `datasets` and pyarrow write them: Parquet and Arrow, labels of every type, orientations, saved datasets,
//! image folders with metadata. `make_tables.py` wrote them, with what those libraries read.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use emt::dataset::{Catalog, DataRoots, Dataset, Exif, OpenRequest, decode, open};
use serde_json::Value;

use super::support::{root, run};

fn tables() -> PathBuf {
    root().join("tests/golden/tables")
}

fn try_open(path: &Path, request: &OpenRequest) -> Result<Dataset, String> {
    let request = OpenRequest { text: path.to_str().unwrap(), ..*request };
    open(&Catalog::embedded(), &DataRoots::default(), &request).map_err(|error| format!("{error:#}"))
}

fn opened(path: &str, request: &OpenRequest) -> Dataset {
    try_open(&tables().join(path), request).unwrap()
}

type Found = Vec<(String, Option<String>)>;

/// Label and content of every sample in order; no content where the image is unreadable.
fn found_in(dataset: &Dataset) -> Found {
    let names: Vec<&str> = dataset.labels.names().collect();
    let row = |(position, sample): (usize, &emt::domain::Sample)| {
        (names[sample.label].to_owned(), dataset.read(position).ok().map(|image| image.content()))
    };
    dataset.samples.iter().enumerate().map(row).collect()
}

fn expected(name: &str) -> Found {
    let text = fs::read_to_string(tables().join("expected.json")).unwrap();
    let mut all: BTreeMap<String, Found> = serde_json::from_str(&text).unwrap();
    all.remove(name).unwrap()
}

fn column<'a>(image: Option<&'a str>, label: Option<&'a str>) -> OpenRequest<'a> {
    OpenRequest { image_column: image, label_column: label, ..OpenRequest::default() }
}

// ---- what `datasets` saved ----

#[test]
fn a_saved_dataset_is_read_as_datasets_reads_it() {
    for (path, split, name) in [
        ("saved", Some("test"), "saved/test"),
        ("saved", Some("train"), "saved/train"),
        ("saved/test", None, "saved/test"),
        ("indexed", None, "indexed"),
    ] {
        let dataset = opened(path, &OpenRequest { split, ..OpenRequest::default() });
        assert_eq!(found_in(&dataset), expected(name), "{path}");
        assert_eq!(dataset.samples[0].id, format!("{}/00000", dataset.name), "{path}");
        assert_eq!(dataset.is_training_split, name.ends_with("train"), "{path}");
        let last = name.rsplit('/').next().unwrap();
        assert!(dataset.name.ends_with(last), "{} {path}", dataset.name);
    }
    let held_out = opened("saved", &OpenRequest::default());
    assert_eq!((found_in(&held_out), held_out.chosen_of.len()), (expected("saved/test"), 2));
    let error = try_open(&tables().join("saved"), &OpenRequest { split: Some("val"), ..OpenRequest::default() });
    assert!(error.unwrap_err().contains("it has no split val; hint: it has test, train"));
}

#[test]
fn a_saved_dataset_that_lacks_a_file_says_which() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["state.json", "dataset_info.json"] {
        fs::copy(tables().join("saved/train").join(file), folder.path().join(file)).unwrap();
    }
    let error = try_open(folder.path(), &OpenRequest::default()).unwrap_err();
    assert!(error.contains("data-00000-of-00001.arrow") && error.contains("state.json"), "{error}");
    fs::write(folder.path().join("state.json"), r#"{"_data_files": [{"filename": "../x.arrow"}]}"#).unwrap();
    assert!(try_open(folder.path(), &OpenRequest::default()).unwrap_err().contains("that is not a file name"));
}

// ---- orientation ----

#[test]
fn orientations_are_those_of_datasets_of_pillow_or_as_stored() {
    for (exif, name, recorded) in [
        (Exif::Auto, "oriented/datasets", Some("apply")),
        (Exif::Apply, "oriented/datasets", Some("apply")),
        (Exif::Ignore, "oriented/stored", Some("ignore")),
    ] {
        let dataset = opened("oriented.parquet", &OpenRequest { exif, ..OpenRequest::default() });
        assert_eq!(found_in(&dataset), expected(name), "{exif:?}");
        assert_eq!(dataset.exif.as_deref(), recorded, "{exif:?}");
    }
    let text = |path: &str| fs::read(tables().join(path)).unwrap();
    let shown = ["png", "jpg", "webp", "tif"].into_iter().flat_map(|end| {
        (1..=8).map(move |orientation| {
            let class = if orientation % 2 == 0 { "cat" } else { "dog" };
            (class.to_owned(), format!("oriented/{class}/{orientation}.{end}"))
        })
    });
    let shown: Found = shown.map(|(class, path)| (class, Some(decode(&text(&path)).unwrap().content()))).collect();
    assert_eq!(shown, expected("oriented/pillow"));
}

#[test]
fn a_folder_shows_pillows_pictures_unless_a_flag_says_otherwise() {
    let in_folder = |exif| {
        let dataset = opened("oriented", &OpenRequest { exif, ..OpenRequest::default() });
        let mut contents: Vec<String> = found_in(&dataset).into_iter().map(|(_, content)| content.unwrap()).collect();
        contents.sort_unstable();
        (contents, dataset.exif)
    };
    let sorted = |name: &str| {
        let mut contents: Vec<String> = expected(name).into_iter().map(|(_, content)| content.unwrap()).collect();
        contents.sort_unstable();
        contents
    };
    assert_eq!(in_folder(Exif::Auto), (sorted("oriented/pillow"), None));
    assert_eq!(in_folder(Exif::Apply), (sorted("oriented/datasets"), Some("apply".to_owned())));
    assert_eq!(in_folder(Exif::Ignore), (sorted("oriented/stored"), Some("ignore".to_owned())));
}

#[test]
fn the_flag_for_orientations_is_part_of_a_runs_identity_only_where_it_changes_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let spec = |exif: &str, data: &str| -> Value {
        let out = folder.path().join(format!("{exif}-{}", data.replace('/', "-")));
        let data = tables().join(data).display().to_string();
        let finished = run([
            "eval",
            "--model",
            "embedded",
            "--datasets",
            &data,
            "--exif",
            exif,
            "--limit",
            "2",
            "--max-unscored",
            "1",
            "--out",
            out.to_str().unwrap(),
        ]);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        let text = fs::read_to_string(out.join("run.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["spec"]["datasets"][0].clone()
    };
    assert!(spec("auto", "oriented").get("exif").is_none());
    assert_eq!(spec("apply", "oriented")["exif"], "apply");
}

// ---- types ----

#[test]
fn labels_of_every_type_are_read_from_parquet_and_arrow() {
    let folder = tempfile::tempdir().unwrap();
    let sheet = folder.path().join("names.txt");
    fs::write(&sheet, "cat\ndog\n").unwrap();
    for file in ["types.parquet", "types.arrow", "types_with_footer.arrow"] {
        for label in ["text", "spaced", "large", "view", "dictionary", "list"] {
            let dataset = opened(file, &column(None, Some(label)));
            assert_eq!(found_in(&dataset), expected("types"), "{file} {label}");
        }
        for label in ["numbers", "bytes", "small", "bools", "floats", "number_list"] {
            let request = OpenRequest { labels_file: Some(&sheet), ..column(None, Some(label)) };
            assert_eq!(found_in(&opened(file, &request)), expected("types"), "{file} {label}");
            let unnamed = opened(file, &column(None, Some(label)));
            assert_eq!(unnamed.labels.names().collect::<Vec<_>>(), ["0", "1"], "{file} {label}");
            assert!(unnamed.notes[0].contains("numbers without names"), "{:?}", unnamed.notes);
        }
        let long = opened(file, &column(None, Some("long_view")));
        let names: Vec<&str> = long.labels.names().collect();
        assert_eq!(names, ["a cat of more than twelve letters", "a dog of more than twelve letters"], "{file}");
    }
}

#[test]
fn rows_without_a_label_are_left_out_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let sheet = folder.path().join("names.txt");
    fs::write(&sheet, "cat\ndog\n").unwrap();
    for file in ["types.parquet", "types.arrow"] {
        for (label, rows) in [("some", vec![0, 2, 3]), ("empty_list", vec![0, 3]), ("doubles", vec![0, 1, 3])] {
            let labels_file = (label == "doubles").then_some(sheet.as_path());
            let dataset = opened(file, &OpenRequest { labels_file, ..column(None, Some(label)) });
            let all = expected("types");
            let wanted: Found = rows.iter().map(|&row| all[row].clone()).collect();
            assert_eq!(found_in(&dataset), wanted, "{file} {label}");
            // The others keep their numbers.
            let stem = file.split('.').next().unwrap();
            let ids: Vec<String> = rows.iter().map(|row| format!("{stem}/{row:05}")).collect();
            assert_eq!(dataset.samples.iter().map(|sample| sample.id.clone()).collect::<Vec<_>>(), ids);
            let n_left_out = 4 - rows.len();
            assert!(
                dataset.warnings[0].starts_with(&format!("{n_left_out} of 4 rows have no label")),
                "{:?}",
                dataset.warnings
            );
        }
    }
}

#[test]
fn images_may_be_bytes_lists_of_one_or_absent() {
    for file in ["types.parquet", "types.arrow", "types_with_footer.arrow"] {
        for image in ["image", "images", "raw", "large_raw"] {
            let dataset = opened(file, &column(Some(image), Some("text")));
            assert_eq!(found_in(&dataset), expected("types"), "{file} {image}");
        }
        let mut absent = expected("types");
        (absent[1].1, absent[2].1) = (None, None);
        let dataset = opened(file, &column(Some("absent"), Some("text")));
        assert_eq!(found_in(&dataset), absent, "{file}");
        assert_eq!(dataset.read(2).unwrap_err().message, "it is empty", "{file}");
        // A sample is one image.
        let pair = opened(file, &column(Some("pair"), Some("text")));
        let message = pair.read(0).unwrap_err().message;
        assert!(message.contains("a sample has one"), "{file}: {message}");
    }
}

#[test]
fn columns_that_are_no_labels_or_no_images_are_refused_by_their_names() {
    for file in ["types.parquet", "types.arrow"] {
        for (image, label, parts) in [
            (None, Some("two"), ["two", "a sample has one"]),
            (None, Some("halves"), ["halves", "not a whole number"]),
            (None, Some("none"), ["no row has a `none`", "--label-column"]),
            (None, Some("kind"), ["no column `kind`", "spaced"]),
            (Some("photo"), Some("text"), ["no column `photo`", "raw"]),
            (Some("numbers"), Some("text"), ["no column `numbers`", "images"]),
        ] {
            let error = try_open(&tables().join(file), &column(image, label)).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{file} {label:?}: {error}");
        }
    }
}

// ---- paths ----

#[test]
fn parquet_may_name_images_by_their_paths() {
    let dataset = opened("meta/test/by_path.parquet", &OpenRequest::default());
    assert_eq!(found_in(&dataset), expected("meta/test"));
    assert_eq!(dataset.name, "by_path");
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("oriented.parquet");
    fs::copy(tables().join("oriented.parquet"), &copy).unwrap();
    let moved = try_open(&copy, &OpenRequest::default()).unwrap();
    let error = moved.read(0).unwrap_err();
    assert!(error.path.contains("(row 0)") && error.path.contains("oriented/dog/1.png"), "{error}");
}

// ---- image folders with metadata ----

#[test]
fn an_image_folder_with_metadata_is_read_as_datasets_reads_it() {
    for (path, split) in [("meta/test", None), ("meta", Some("test")), ("meta/test/metadata.csv", None)] {
        let dataset = opened(path, &OpenRequest { split, ..OpenRequest::default() });
        assert_eq!(found_in(&dataset), expected("meta/test"), "{path}");
        assert_eq!((dataset.name.as_str(), dataset.split.as_str()), ("meta/test", "test"), "{path}");
        assert_eq!(dataset.samples[1].id, "meta/test/a/1.png");
        assert_eq!(dataset.exif.as_deref(), Some("apply"));
    }
}

/// The images of `meta/test` in another folder, with a sheet.
fn with_sheet(folder: &Path, name: &str, text: &str) {
    for path in ["0.png", "a/1.png", "2.png", "a/3.png"] {
        let to = folder.join(path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(tables().join("meta/test").join(path), to).unwrap();
    }
    fs::write(folder.join(name), text).unwrap();
}

#[test]
fn metadata_may_be_json_lines_hold_splits_or_have_no_labels() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("pets");
    let lines = "{\"file_name\":\"0.png\",\"label\":\"cat\"}\n{\"file_name\":\"a/1.png\",\"label\":\"dog\"}\n";
    with_sheet(&root.join("test"), "metadata.jsonl", lines);
    let dataset = try_open(&root.join("test"), &OpenRequest::default()).unwrap();
    assert_eq!(found_in(&dataset), expected("meta/test")[..2]);

    // One sheet above the splits.
    fs::remove_file(root.join("test/metadata.jsonl")).unwrap();
    with_sheet(&root.join("train"), "note.txt", "");
    let sheet = "file_name,label\ntest/0.png,cat\ntest/a/1.png,dog\ntrain/2.png,bird\n";
    fs::write(root.join("metadata.csv"), sheet).unwrap();
    let held_out = try_open(&root, &OpenRequest::default()).unwrap();
    assert_eq!((held_out.split.as_str(), held_out.chosen_of.join(", ")), ("test", "test, train".to_owned()));
    let test = try_open(&root, &OpenRequest { split: Some("test"), ..OpenRequest::default() }).unwrap();
    assert_eq!((test.name.as_str(), test.samples[0].id.as_str()), ("pets/test", "pets/test/0.png"));
    assert_eq!(found_in(&test), expected("meta/test")[..2]);

    // Two sheets contradict each other, and `datasets` refuses them.
    fs::write(root.join("metadata.jsonl"), lines).unwrap();
    let error = try_open(&root, &OpenRequest::default()).unwrap_err();
    assert!(error.contains("metadata.csv and metadata.jsonl"), "{error}");

    // Captions leave the classes to the folders.
    let classes = folder.path().join("classes");
    with_sheet(&classes.join("b"), "x.txt", "");
    with_sheet(&classes, "metadata.csv", "file_name,text\n0.png,a cat\nb/0.png,a dog\n");
    let dataset = try_open(&classes, &OpenRequest::default()).unwrap();
    assert_eq!(dataset.labels.names().collect::<Vec<_>>(), ["a", "b"]);
    let captions = try_open(&classes, &column(None, Some("text"))).unwrap();
    assert_eq!(captions.samples.len(), 2);
}

#[test]
fn a_table_is_called_by_its_own_name_unless_that_is_a_split() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("pets");
    for (file, name, id) in [("birds.csv", "birds", "birds/0.png"), ("test.csv", "pets/test", "pets/test/0.png")] {
        with_sheet(&root, file, "path,label\n0.png,cat\na/1.png,dog\n");
        let dataset = try_open(&root.join(file), &OpenRequest::default()).unwrap();
        assert_eq!((dataset.name.as_str(), dataset.samples[0].id.as_str()), (name, id));
    }
}

#[test]
fn a_sheet_may_name_images_anywhere_and_its_samples_are_called_alike_on_every_machine() {
    let folder = tempfile::tempdir().unwrap();
    with_sheet(&folder.path().join("images"), "note.txt", "");
    let images = folder.path().join("images").canonicalize().unwrap().display().to_string();
    let sheets = folder.path().join("sheets");
    fs::create_dir_all(&sheets).unwrap();
    let rows = ["0.png", "a/1.png", "2.png", "a/3.png"].into_iter().zip(expected("meta/test"));
    let rows: Vec<(&str, String)> = rows.map(|(path, (label, _))| (path, label)).collect();
    for (name, start) in [("up.csv", "../images".to_owned()), ("absolute.csv", images.clone())] {
        let text: String = rows.iter().map(|(path, label)| format!("{start}/{path};{label}\n")).collect();
        fs::write(sheets.join(name), format!("Path;Label\n{text}")).unwrap();
        let dataset =
            try_open(&sheets.join(name), &OpenRequest { exif: Exif::Apply, ..OpenRequest::default() }).unwrap();
        assert_eq!(found_in(&dataset), expected("meta/test"), "{name}");
        let stem = name.split('.').next().unwrap();
        assert_eq!(dataset.samples[1].id, format!("{stem}/a/1.png"));
        assert!(dataset.notes[0].contains("4 of its images are outside the table's folder"), "{:?}", dataset.notes);
        assert!(dataset.is_table);
    }
    // What `datasets` calls metadata stays in its folder, and so does what came from the hub.
    let hub = folder.path().join("datasets--me--pets/snapshots/0a1b");
    fs::create_dir_all(&hub).unwrap();
    for sheet in [sheets.join("metadata.csv"), hub.join("pets.csv")] {
        fs::write(&sheet, format!("file_name,label\n{images}/0.png,cat\n")).unwrap();
        let error = try_open(&sheet, &OpenRequest::default()).unwrap_err();
        assert!(
            error.contains("row 1") && error.contains("points outside of") && error.contains("may only name"),
            "{error}"
        );
    }
}

#[test]
fn numbers_in_a_sheet_are_named_in_the_order_of_the_numbers() {
    let folder = tempfile::tempdir().unwrap();
    with_sheet(folder.path(), "note.txt", "");
    fs::write(folder.path().join("pets.csv"), "path,label\n0.png,10\na/1.png,9\n2.png,0\na/3.png,2\n").unwrap();
    let names: Vec<String> = (0..12).map(|number| format!("class {number}")).collect();
    let sheet = folder.path().join("names.txt");
    fs::write(&sheet, names.join("\n")).unwrap();
    let request = OpenRequest { labels_file: Some(&sheet), ..OpenRequest::default() };
    let dataset = try_open(&folder.path().join("pets.csv"), &request).unwrap();
    let said: Vec<String> = found_in(&dataset).into_iter().map(|(label, _)| label).collect();
    assert_eq!(said, ["class 10", "class 9", "class 0", "class 2"]);
    let unnamed = try_open(&folder.path().join("pets.csv"), &OpenRequest::default()).unwrap();
    assert!(unnamed.notes[0].contains("numbers without names"), "{:?}", unnamed.notes);
}

#[test]
fn a_file_that_is_not_there_says_what_lies_there_instead() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("birds.csv"), "path,label\n").unwrap();
    for (name, part) in [
        ("birdz.csv", "did you mean `birds.csv`?"),
        ("photographs.parquet", "holds birds.csv"),
        ("nowhere/x.jsonl", "exists, but the rest of the path does not"),
    ] {
        for text in
            [folder.path().join(name).display().to_string(), format!("mine={}", folder.path().join(name).display())]
        {
            let error = try_open(Path::new(&text), &OpenRequest::default()).unwrap_err();
            assert!(error.contains("there is no such file") && error.contains(part), "{error}");
            assert!(!error.contains("hub") && !error.contains("mnist"), "{error}");
        }
    }
}

#[test]
fn columns_are_those_of_tables_and_of_the_dataset_that_is_named() {
    let folder = tempfile::tempdir().unwrap();
    with_sheet(folder.path(), "a.csv", "img,label\n0.png,cat\na/1.png,dog\n");
    with_sheet(folder.path(), "b.csv", "file,label\n2.png,cat\na/3.png,dog\n");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let eval = |datasets: &str, column: &str| {
        let out = tempfile::tempdir().unwrap();
        let out = out.path().join("run").display().to_string();
        run([
            "eval",
            "--model",
            "embedded",
            "--datasets",
            datasets,
            "--image-column",
            column,
            "--limit",
            "2",
            "--out",
            &out,
        ])
    };
    let mixed = eval(&format!("embedded/mnist,{}", path("a.csv")), "img");
    assert_eq!(mixed.code, Some(0), "{}", mixed.stderr);
    let both = format!("{},mine={}", path("a.csv"), path("b.csv"));
    let named = eval(&both, "a:img,mine:file");
    assert_eq!(named.code, Some(0), "{}", named.stderr);
    let for_all = eval(&both, "img");
    assert_eq!(for_all.code, Some(2));
    assert!(
        for_all.stderr.contains("lacks the column `img`") && for_all.stderr.contains("DATASET:img"),
        "{}",
        for_all.stderr
    );
    let unknown = eval(&both, "a:img,mime:file");
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.stderr.contains("column `path`") || unknown.stderr.contains("`mime`"), "{}", unknown.stderr);
}

#[test]
fn a_flag_for_columns_is_refused_where_there_are_none() {
    let path = tables().join("oriented").display().to_string();
    for (data, flag) in [(path.as_str(), "--image-column"), ("embedded/mnist", "--label-column")] {
        let finished = run(["data", "verify", data, flag, "x", "--quiet"]);
        assert_eq!(finished.code, Some(2));
        assert!(finished.stderr.contains(flag) && finished.stderr.contains("is for tables"), "{}", finished.stderr);
    }
}
