//! Data as the Hugging Face hub and webdataset have it: Parquet, tars of keys, JSON lines.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use emt::dataset::{Catalog, DataRoots, Dataset, OpenRequest, open};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use serde_json::Value;

use super::support::{root, run};

/// What `make_hub_data.py` wrote.
fn hub() -> PathBuf {
    root().join("tests/golden/hub")
}

fn try_open_with(path: &Path, split: Option<&str>, sheet: Option<&Path>) -> Result<Dataset, String> {
    let text = path.to_str().unwrap();
    let request = OpenRequest { text, split, labels_file: sheet, ..OpenRequest::default() };
    open(&Catalog::embedded(), &DataRoots::default(), &request).map_err(|error| format!("{error:#}"))
}

fn try_open(path: &Path, split: Option<&str>) -> Result<Dataset, String> {
    try_open_with(path, split, None)
}

fn opened(path: &Path) -> Dataset {
    try_open(path, None).unwrap()
}

fn png(level: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(3, 2, image::Rgb([level, 1, 2])).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

// ---- what Python wrote ----

/// Label and content of every sample in order; no content where the image is absent.
fn found_in(dataset: &Dataset) -> Vec<(String, Option<String>)> {
    let names: Vec<&str> = dataset.labels.names().collect();
    let row = |(position, sample): (usize, &emt::domain::Sample)| {
        (names[sample.label].to_owned(), dataset.read(position).ok().map(|image| image.content()))
    };
    dataset.samples.iter().enumerate().map(row).collect()
}

fn expected(name: &str) -> Vec<(String, Option<String>)> {
    let text = fs::read_to_string(hub().join("expected.json")).unwrap();
    let mut all: BTreeMap<String, Vec<(String, Option<String>)>> = serde_json::from_str(&text).unwrap();
    all.remove(name).unwrap()
}

#[test]
fn files_of_pythons_datasets_read_equal_to_their_source() {
    for (path, split, name, first_id) in [
        ("pets", Some("test"), "pets/test", "pets/test/00000"),
        ("pets", Some("train"), "pets/train", "pets/train/00000"),
        ("pets/data", Some("test"), "pets/test", "pets/test/00000"),
        // The split as if it were a folder.
        ("pets/test", None, "pets/test", "pets/test/00000"),
        ("pets/data/train-00000-of-00001.parquet", None, "pets/train", "pets/train/00000"),
        ("carded", None, "carded/test", "carded/test/00000"),
        ("texts.parquet", None, "texts", "texts/00000"),
        ("coded.parquet", None, "coded", "coded/00000"),
        ("shapes", Some("test"), "shapes/test", "shapes/test/s0000000"),
        ("shapes/test", None, "shapes/test", "shapes/test/s0000000"),
        ("shapes/test/{0..1}.tar", None, "shapes/test", "shapes/test/s0000000"),
        ("described-val-000000.tar", None, "described/val", "described/val/a/000"),
    ] {
        let dataset = try_open(&hub().join(path), split).unwrap();
        assert_eq!(found_in(&dataset), expected(name), "{path}");
        assert_eq!(dataset.samples[0].id, first_id, "{path}");
        assert_eq!(dataset.labels.names().collect::<Vec<_>>(), ["cat", "dog", "sports car"], "{path}");
        assert!(dataset.warnings.is_empty(), "{path}: {:?}", dataset.warnings);
        let said = name.split_once('/').map_or("all", |(_, split)| split);
        assert_eq!((dataset.split.as_str(), dataset.is_training_split), (said, said == "train"), "{path}");
        assert!(dataset.read(dataset.samples.len()).is_err());
    }
}

#[test]
fn images_are_read_in_any_order_from_many_threads() {
    for path in ["pets/test", "coded.parquet", "shapes/test"] {
        let dataset = opened(&hub().join(path));
        let n_samples = dataset.samples.len();
        let in_order: Vec<_> = (0..n_samples).map(|position| dataset.read(position)).collect();
        let dataset = opened(&hub().join(path));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (dataset, in_order) = (&dataset, &in_order);
                scope.spawn(move || {
                    for index in 0..n_samples {
                        // A permutation of the positions, another one in each thread.
                        let position = n_samples - 1 - (index + thread * 5) % n_samples;
                        assert_eq!(dataset.read(position), in_order[position], "{path} {position}");
                    }
                });
            }
        });
    }
}

#[test]
fn an_absent_image_is_unreadable_and_names_file_and_row() {
    let error = opened(&hub().join("texts.parquet")).read(4).unwrap_err();
    // Its path is another one's, as `datasets` leaves it.
    assert!(error.path.ends_with("texts.parquet (row 4): 4.png") && error.message.contains("No such file"), "{error}");
}

#[test]
fn the_held_out_split_is_taken_of_several_and_missing_shards_are_told() {
    let held_out = opened(&hub().join("pets"));
    assert_eq!((held_out.name.as_str(), held_out.split.as_str()), ("pets/test", "test"));
    assert_eq!(held_out.chosen_of, ["test", "train"]);
    assert!(held_out.split_note().unwrap().contains("using the split `test` of test, train"));
    let error = try_open(&hub().join("pets"), Some("val")).unwrap_err();
    assert!(error.contains("no split val") && error.contains("test, train"), "{error}");
    let only = opened(&hub().join("shapes"));
    assert_eq!((only.name.as_str(), only.chosen_of.len()), ("shapes/test", 0));
    let error = try_open(&hub().join("shapes/test/{0..3}.tar"), None).unwrap_err();
    assert!(error.contains("no file") && error.contains("2.tar"), "{error}");
    let one = opened(&hub().join("pets/data/test-00001-of-00002.parquet"));
    assert_eq!((one.samples.len(), one.warnings.len()), (7, 1));
    assert!(one.warnings[0].contains("1 of the 2 shards of `test`"), "{:?}", one.warnings);
    let named = format!("mine={}", hub().join("pets/test").display());
    let named = opened(Path::new(&named));
    assert_eq!((named.name.as_str(), named.samples[13].id.as_str()), ("mine", "mine/test/00013"));
}

#[test]
fn numbers_are_named_by_dataset_infos_or_by_a_sheet_and_else_by_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("test-00000-of-00001.parquet");
    fs::copy(hub().join("carded/test-00000-of-00001.parquet"), &file).unwrap();
    let unnamed = opened(&file);
    assert_eq!(unnamed.labels.names().collect::<Vec<_>>(), ["0", "1", "2"]);
    for part in ["numbers without names", "--labels FILE", "README.md", "dataset_infos.json", "0, 1, 2"] {
        assert!(unnamed.notes[0].contains(part), "{part} in {:?}", unnamed.notes);
    }
    let names = |sheet: &str, text: &str| {
        let sheet = folder.path().join(sheet);
        fs::write(&sheet, text).unwrap();
        let dataset = try_open_with(&file, None, Some(&sheet))?;
        Ok::<Vec<String>, String>(dataset.labels.names().map(str::to_owned).collect())
    };
    assert_eq!(names("names.txt", "a\nb;bee\nc\n").unwrap(), ["a", "b", "c"]);
    assert_eq!(names("names.csv", "class,name\n2,c\n0,a\n1,b\n").unwrap(), ["a", "b", "c"]);
    let error = names("few.txt", "a\nb\n").unwrap_err();
    assert!(error.contains("(row 2) has the label 2, and there are 2 classes"), "{error}");
    let infos = r#"{"default": {"features": {"fine_label": {"names": ["x", "y", "z"], "_type": "ClassLabel"}}}}"#;
    fs::write(folder.path().join("dataset_infos.json"), infos).unwrap();
    assert_eq!(opened(&file).labels.names().collect::<Vec<_>>(), ["x", "y", "z"]);
}

#[test]
fn the_catalog_finds_its_classes_by_name_in_the_hubs_file() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("mnist/mnist");
    fs::create_dir_all(&place).unwrap();
    let labels = Column::Numbers(vec![Some(1), Some(0)]);
    write_parquet(&place.join("test-00000-of-00001.parquet"), PLAIN, &[two_images(), labels]);
    let open_mnist = |names: &str| {
        let infos = format!(r#"{{"mnist": {{"features": {{"label": {{"names": {names}, "_type": "ClassLabel"}}}}}}}}"#);
        fs::write(place.join("dataset_infos.json"), infos).unwrap();
        let roots = DataRoots { data: Some(folder.path().to_owned()), ..DataRoots::default() };
        let request = OpenRequest { text: "mnist", split: None, labels_file: None, ..OpenRequest::default() };
        open(&Catalog::embedded(), &roots, &request).map_err(|error| format!("{error:#}"))
    };
    let dataset = open_mnist(r#"["7", "4"]"#).unwrap();
    let found: Vec<(&str, usize)> = dataset.samples.iter().map(|sample| (sample.id.as_str(), sample.label)).collect();
    assert_eq!(found, [("mnist/test/00000", 4), ("mnist/test/00001", 7)]);
    assert_eq!((dataset.noun.as_str(), dataset.read(1).unwrap().pixels()[0]), ("number", 2));
    assert!(open_mnist(r#"["7", "cat"]"#).unwrap_err().contains("class `cat`, which is unknown"));
}

// ---- commands ----

#[test]
fn the_miniature_is_evaluated_on_a_parquet_file() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let data = hub().join("texts.parquet").display().to_string();
    let finished = run([
        "eval",
        "--model",
        "embedded",
        "--datasets",
        &data,
        "--format",
        "json",
        "--max-unscored",
        "0.5",
        "--out",
        out.to_str().unwrap(),
    ]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let summary: Value = serde_json::from_str(&finished.stdout).unwrap();
    let dataset = &summary["datasets"][0];
    assert_eq!((&dataset["dataset"], &dataset["n_samples"]), (&Value::from("texts"), &Value::from(8)));
    assert_eq!(dataset["model"]["n_unscored"], 1);
    let trials = fs::read_to_string(out.join("trials.jsonl")).unwrap();
    let absent: Vec<Value> = trials
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|trial| trial["outcome"] == "unscored")
        .collect();
    assert!(absent.iter().all(|trial| trial["sample"] == "texts/00004" && trial["reason"] == "image_unreadable"));
    assert_eq!(absent.len(), 2);
}

#[test]
fn verify_reads_parquet_and_webdataset_and_finds_what_is_absent() {
    let path = |name: &str| hub().join(name).display().to_string();
    let good = run(["data", "verify", &path("pets"), &path("shapes"), "--split", "test", "--quiet"]);
    assert_eq!(good.code, Some(0), "{}{}", good.stdout, good.stderr);
    assert!(good.stdout.contains("pets/test (test): good; 14 of 14 images decode"), "{}", good.stdout);
    assert!(good.stdout.contains("shapes/test (test): good; 6 of 6 images decode"), "{}", good.stdout);
    let absent = run(["data", "verify", &path("coded.parquet"), "--quiet"]);
    assert_eq!(absent.code, Some(2));
    assert!(absent.stdout.contains("7 of 8 images decode") && absent.stdout.contains("(row 4)"), "{}", absent.stdout);
    let missing = run(["data", "verify", &path("pets/data/test-00001-of-00002.parquet"), "--quiet"]);
    assert!(missing.code == Some(2) && missing.stdout.contains("1 of the 2 shards"), "{}", missing.stdout);
}

#[test]
fn verify_takes_names_for_numbers_from_a_sheet() {
    let folder = tempfile::tempdir().unwrap();
    let (file, sheet) = (folder.path().join("mine.parquet"), folder.path().join("names.txt"));
    fs::copy(hub().join("carded/test-00000-of-00001.parquet"), &file).unwrap();
    fs::write(&sheet, "a\nb\nc\n").unwrap();
    let (file, sheet) = (file.to_str().unwrap(), sheet.to_str().unwrap());
    let unnamed = run(["data", "verify", file, "--quiet"]);
    assert!(unnamed.code == Some(0) && unnamed.stdout.contains("numbers without names"), "{}", unnamed.stdout);
    assert!(unnamed.stdout.contains("--labels"), "{}", unnamed.stdout);
    let named = run(["data", "verify", file, "--labels", sheet, "--quiet"]);
    assert!(named.code == Some(0) && named.stdout.contains("good; 8 of 8"), "{}", named.stdout);
}

// ---- hostile files ----

/// A column of a file that is made here.
enum Column {
    Bytes(Vec<Option<Vec<u8>>>),
    Numbers(Vec<Option<i64>>),
    Doubles(Vec<f64>),
}

/// Splits optional values into definition levels and what is present.
fn levels<T: Clone>(values: &[Option<T>]) -> (Vec<i16>, Vec<T>) {
    (values.iter().map(|value| i16::from(value.is_some())).collect(), values.iter().flatten().cloned().collect())
}

fn write_parquet(path: &Path, schema: &str, columns: &[Column]) {
    let schema = Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().build());
    let mut file = SerializedFileWriter::new(fs::File::create(path).unwrap(), schema, properties).unwrap();
    let mut group = file.next_row_group().unwrap();
    for column in columns {
        let mut writer = group.next_column().unwrap().unwrap();
        match column {
            Column::Bytes(values) => {
                let (levels, values) = levels(values);
                let values: Vec<ByteArray> = values.into_iter().map(ByteArray::from).collect();
                writer.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
            }
            Column::Numbers(values) => {
                let (levels, values) = levels(values);
                writer.typed::<Int64Type>().write_batch(&values, Some(&levels), None).unwrap();
            }
            Column::Doubles(values) => {
                writer.typed::<DoubleType>().write_batch(values, Some(&vec![1; values.len()]), None).unwrap();
            }
        }
        writer.close().unwrap();
    }
    group.close().unwrap();
    file.close().unwrap();
}

const PLAIN: &str = "message schema { optional binary image; optional int64 label; }";

fn two_images() -> Column {
    Column::Bytes(vec![Some(png(1)), Some(png(2))])
}

#[test]
fn a_wrong_schema_is_refused_with_the_columns_that_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.parquet");
    let refused = |schema: &str, columns: &[Column]| {
        write_parquet(&file, schema, columns);
        let error = try_open(&file, None).unwrap_err();
        assert!(error.contains("mine.parquet"), "{error}");
        error
    };
    let numbers = || Column::Numbers(vec![Some(0), Some(1)]);
    let error = refused("message schema { optional int64 image; optional int64 label; }", &[numbers(), numbers()]);
    assert!(error.contains("no column of images") && error.contains("it has image, label"), "{error}");
    let error = refused("message schema { optional binary image; optional int64 kind; }", &[two_images(), numbers()]);
    assert!(error.contains("no column of labels") && error.contains("it has image, kind"), "{error}");
    let halves = Column::Doubles(vec![0.5, 1.0]);
    let error = refused("message schema { optional binary image; optional double label; }", &[two_images(), halves]);
    assert!(error.contains("`label`") && error.contains("row 0") && error.contains("not a whole number"), "{error}");
    let error = refused(PLAIN, &[two_images(), Column::Numbers(vec![Some(0), Some(-1)])]);
    assert!(error.contains("(row 1) has the label -1") && error.contains("--split"), "{error}");
    write_parquet(&file, PLAIN, &[two_images(), Column::Numbers(vec![None, None])]);
    let error = try_open(&file, None).unwrap_err();
    assert!(error.contains("no row has a `label`"), "{error}");
    write_parquet(&file, PLAIN, &[Column::Bytes(Vec::new()), Column::Numbers(Vec::new())]);
    let error = try_open(&file, None).unwrap_err();
    assert!(error.contains("mine.parquet` has no row"), "{error}");
    // The exit code of all of these.
    let finished = run(["eval", "--model", "embedded", "--datasets", file.to_str().unwrap()]);
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
}

#[test]
fn a_label_beyond_the_classes_is_refused_by_its_row() {
    let folder = tempfile::tempdir().unwrap();
    let (file, sheet) = (folder.path().join("mine.parquet"), folder.path().join("names.txt"));
    fs::write(&sheet, "cat\ndog\n").unwrap();
    for label in [-1, 2, i64::MIN, i64::MAX] {
        write_parquet(&file, PLAIN, &[two_images(), Column::Numbers(vec![Some(1), Some(label)])]);
        let error = try_open_with(&file, None, Some(&sheet)).unwrap_err();
        assert!(error.contains("mine.parquet (row 1)") && error.contains(&format!("label {label},")), "{error}");
    }
}

/// A PNG whose header claims 100,000 x 100,000 pixels.
fn image_bomb() -> Vec<u8> {
    let mut bytes = png(1);
    bytes[16..20].copy_from_slice(&100_000u32.to_be_bytes());
    bytes[20..24].copy_from_slice(&100_000u32.to_be_bytes());
    let mut checksum = flate2::Crc::new();
    checksum.update(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.sum().to_be_bytes());
    bytes
}

#[test]
fn an_image_bomb_is_unreadable_and_hurts_no_other_and_alone_is_exit_2() {
    let folder = tempfile::tempdir().unwrap();
    let (file, sheet) = (folder.path().join("mine.parquet"), folder.path().join("names.txt"));
    fs::write(&sheet, "cat\ndog\n").unwrap();
    let labels = || Column::Numbers(vec![Some(0), Some(1)]);
    write_parquet(&file, PLAIN, &[Column::Bytes(vec![Some(image_bomb()), Some(png(2))]), labels()]);
    let dataset = try_open_with(&file, None, Some(&sheet)).unwrap();
    let error = dataset.read(0).unwrap_err();
    assert!(error.message.contains("decompression bomb"), "{error}");
    assert_eq!(error.content, format!("file:{}", blake3::hash(&image_bomb()).to_hex()));
    assert_eq!(dataset.read(1).unwrap().pixels()[0], 2);
    write_parquet(&file, PLAIN, &[Column::Bytes(vec![Some(image_bomb()), Some(vec![7; 9])]), labels()]);
    let (file, sheet) = (file.to_str().unwrap(), sheet.to_str().unwrap());
    let out = folder.path().join("run");
    let out = out.to_str().unwrap();
    let finished = run(["eval", "--model", "embedded", "--datasets", file, "--labels", sheet, "--out", out]);
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
}

#[test]
fn files_that_are_no_parquet_say_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.parquet");
    let whole = fs::read(hub().join("texts.parquet")).unwrap();
    for (bytes, part) in [
        (&b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n"[..], "git lfs pull"),
        (&b""[..], "does not begin like a Parquet file"),
        (&b"PK\x03\x04"[..], "does not begin like a Parquet file"),
        (&whole[..whole.len() / 2], "fetch it again"),
        (&whole[..whole.len() - 1], "fetch it again"),
    ] {
        fs::write(&file, bytes).unwrap();
        let error = try_open(&file, None).unwrap_err();
        assert!(error.contains(part) && error.contains("mine.parquet"), "{error}");
    }
}

#[test]
fn a_damaged_file_is_an_error_or_unreadable_images_and_never_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.parquet");
    for (name, stride) in [("texts.parquet", 31), ("coded.parquet", 29), ("pets/data/test-00000-of-00002.parquet", 23)]
    {
        let whole = fs::read(hub().join(name)).unwrap();
        let good = found_in(&opened(&hub().join(name)));
        let (mut n_refused, mut n_unreadable) = (0, 0);
        for place in (4..whole.len()).step_by(stride) {
            let mut bytes = whole.clone();
            bytes[place] ^= 0xff;
            fs::write(&file, bytes).unwrap();
            match try_open(&file, None) {
                Ok(dataset) => {
                    n_unreadable += usize::from(
                        (0..dataset.samples.len()).filter(|&position| dataset.read(position).is_err()).count()
                            > good.iter().filter(|(_, content)| content.is_none()).count(),
                    );
                }
                Err(error) => {
                    assert!(error.contains("mine.parquet"), "{error}");
                    n_refused += 1;
                }
            }
        }
        assert!(n_refused > 0 && n_unreadable > 0, "{name}: {n_refused} {n_unreadable}");
    }
}

#[test]
fn a_tar_that_leads_out_of_itself_or_lacks_labels_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.tar");
    let refused = |files: &[(&str, &[u8])]| {
        let mut builder = tar::Builder::new(fs::File::create(&file).unwrap());
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, *bytes).unwrap();
        }
        builder.finish().unwrap();
        let error = try_open(&file, None).unwrap_err();
        assert!(error.contains("mine.tar"), "{error}");
        error
    };
    let image = png(1);
    let error = refused(&[("a.cls", b"cat"), ("../a.png", &image)]);
    assert!(error.contains("points outside of it"), "{error}");
    let error = refused(&[("a.cls", b"cat"), ("a.png", &image), ("b.png", &image)]);
    assert!(error.contains("`b` has no label") && error.contains("b.cls"), "{error}");
    let error = refused(&[("a.cls", b"0"), ("a.png", &image), ("b.cls", b"-1"), ("b.png", &image)]);
    assert!(error.contains("has the label -1"), "{error}");
    fs::write(folder.path().join("classnames.txt"), "cat\ndog\n").unwrap();
    let error = refused(&[("a.cls", b"0"), ("a.png", &image), ("b.cls", b"-1"), ("b.png", &image)]);
    assert!(error.contains("`b` of") && error.contains("label -1"), "{error}");
}

// ---- sheets ----

#[test]
fn json_lines_hold_the_same_samples_as_a_csv() {
    let folder = tempfile::tempdir().unwrap();
    for (name, level) in [("a.png", 1), ("b.png", 2)] {
        fs::write(folder.path().join(name), png(level)).unwrap();
    }
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        opened(Path::new(&format!("mine={}", path.display())))
    };
    let csv = write("sheet.csv", "path,label\na.png,sports_car\nb.png,cat\n");
    for (name, key) in [("sheet.jsonl", "path"), ("sheet.ndjson", "file_name")] {
        let line = |path: &str, label: &str| format!("{{\"{key}\": \"{path}\", \"label\": \"{label}\"}}\n");
        let lines = write(name, &(line("a.png", "sports_car") + &line("b.png", "cat")));
        assert_eq!((&lines.samples, &lines.labels), (&csv.samples, &csv.labels));
        assert_eq!(lines.read(1), csv.read(1));
    }
}
