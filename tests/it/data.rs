//! Datasets as they lie on disk, and `emt data`.
#![expect(clippy::disallowed_methods, reason = "tests make data sets on disk")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use clap::Parser;
use emt::cli::data::DataArgs;
use emt::dataset::{Catalog, DataRoots, Dataset, OpenRequest, open};

use crate::http_server::{HttpServer, Reply};
use crate::support::{any_shared, shared};

fn roots(folder: &Path) -> DataRoots {
    DataRoots { data: Some(folder.to_owned()), ..DataRoots::default() }
}

fn try_open(folder: &Path, text: &str, split: Option<&str>) -> Result<Dataset, String> {
    let request = OpenRequest { text, split, labels_file: None, ..OpenRequest::default() };
    open(&Catalog::embedded(), &roots(folder), &request).map_err(|error| format!("{error:#}"))
}

fn opened(folder: &Path, text: &str) -> Dataset {
    try_open(folder, text, None).unwrap()
}

/// A small PNG of one colour.
fn png(level: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(3, 2, image::Rgb([level, 1, 2])).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

// ---- real data ----

#[test]
fn samples_labels_and_class_order_are_those_of_the_reference_answers() {
    let Some(shared) = shared() else { return };
    let data = shared.join("data");
    let imagenet20 = data.join("imagenet20/val").display().to_string();
    for (name, file) in
        [("mnist", "mnist"), ("cifar10", "cifar10"), ("cifar100", "cifar100"), (&imagenet20, "imagenet20")]
    {
        let dataset = opened(&data, name);
        assert!(dataset.warnings.is_empty(), "{name}: {:?}", dataset.warnings);
        assert!(!dataset.is_training_split);
        let answers = fs::read_to_string(shared.join(format!("models/answers/{file}.jsonl"))).unwrap();
        let mut lines = answers.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let prompt = lines.next().unwrap()["prompt"].as_str().unwrap().to_owned();
        let list = dataset.labels.names().collect::<Vec<_>>().join(", ");
        let noun = &dataset.noun;
        let question = format!("What is the {noun} in the image? Please only answer a single {noun} in {list}.");
        assert!(prompt.contains(&question), "{question}\n{prompt}");
        let expected: BTreeMap<String, String> = lines
            .map(|line| (line["sample"].as_str().unwrap().to_owned(), line["label"].as_str().unwrap().to_owned()))
            .collect();
        let names: Vec<&str> = dataset.labels.names().collect();
        let found: BTreeMap<String, String> =
            dataset.samples.iter().map(|sample| (sample.id.clone(), names[sample.label].to_owned())).collect();
        assert_eq!(found.len(), dataset.samples.len());
        assert!(found == expected, "{name}: {:?} against {:?}", found.iter().next(), expected.iter().next());
    }
}

#[test]
fn every_real_dataset_reads_its_images_from_many_threads() {
    let shared = any_shared();
    let data = shared.join("data");
    let sides = [("mnist", (28, 28)), ("cifar10", (32, 32)), ("cifar100", (32, 32))];
    for (name, side) in sides {
        let dataset = opened(&data, name);
        let contents = |start: usize| -> Vec<String> {
            (start..start + 50)
                .map(|position| {
                    let image = dataset.read(position).unwrap();
                    assert_eq!((image.width(), image.height()), side);
                    image.content()
                })
                .collect()
        };
        let alone = contents(100);
        let beside: Vec<Vec<String>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| contents(100))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(beside.iter().all(|contents| *contents == alone));
        assert!(dataset.read(dataset.samples.len()).is_err());
    }
}

#[test]
fn a_cifar10_image_is_the_same_picture_in_every_format_that_holds_it() {
    let Some(shared) = shared() else { return };
    // The first test image (a cat) as CIFAR's binary record, built from the pickle's planes.
    let dataset = opened(&shared.join("data"), "cifar10");
    let image = dataset.read(0).unwrap();
    assert_eq!(dataset.labels.labels()[dataset.samples[0].label].name, "cat");
    let mut record = vec![3u8];
    for channel in 0..3 {
        record.extend(image.pixels().iter().skip(channel).step_by(3));
    }
    let folder = tempfile::tempdir().unwrap();
    write(folder.path().join("cifar-10-batches-bin/test_batch.bin"), &record);
    let binary = opened(folder.path(), "cifar10");
    assert_eq!(binary.samples[0].id, "cifar10/test/00000");
    assert_eq!(binary.read(0).unwrap(), image);
    assert!(binary.warnings[0].contains("1 of the 10000"), "{:?}", binary.warnings);
}

#[test]
fn training_splits_open_only_when_asked_for_and_say_so() {
    let shared = any_shared();
    for name in ["cifar10", "cifar100"] {
        let dataset = try_open(&shared.join("data"), name, Some("train")).unwrap();
        assert!(dataset.is_training_split);
        assert_eq!(
            (dataset.samples.len(), dataset.samples[42].id.as_str()),
            (10_000, format!("{name}/train/00042").as_str())
        );
    }
    let train = shared.join("data/imagenet20/train").display().to_string();
    assert!(opened(&shared, &train).is_training_split);
}

#[test]
fn miniimagenet_reads_a_sheet_with_clips_names() {
    let Some(shared) = shared() else { return };
    let dataset = opened(&shared.join("data"), "miniimagenet");
    assert_eq!((dataset.labels.len(), dataset.samples.len()), (100, 100));
    let first = &dataset.samples[0];
    assert_eq!(first.id, "miniimagenet/test/images/n01532829_house_finch.JPEG");
    assert_eq!(dataset.labels.labels()[first.label].name, "house finch");
    assert!((0..100).all(|position| dataset.read(position).is_ok()));
}

#[test]
fn published_layouts_are_found_directly_below_the_root() {
    let Some(shared) = shared() else { return };
    let data = shared.join("data");
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    // torchvision unpacks MNIST, and Keras' and the original archives unpack CIFAR beside one another.
    for (name, published) in [
        ("images-idx3-ubyte", "MNIST/raw/t10k-images-idx3-ubyte"),
        ("labels-idx1-ubyte", "MNIST/raw/t10k-labels-idx1-ubyte"),
    ] {
        let packed = fs::File::open(data.join(format!("mnist/t10k-{name}.gz"))).unwrap();
        let mut plain = Vec::new();
        std::io::copy(&mut flate2::read::GzDecoder::new(packed), &mut plain).unwrap();
        write(root.join(published), plain);
    }
    fs::create_dir(root.join("cifar-10-batches-py")).unwrap();
    fs::copy(data.join("cifar10/cifar-10-batches-py/test_batch"), root.join("cifar-10-batches-py/test_batch")).unwrap();
    assert_eq!(opened(root, "mnist").read(7).unwrap(), opened(&data, "mnist").read(7).unwrap());
    assert_eq!(opened(root, "cifar10").read(7).unwrap(), opened(&data, "cifar10").read(7).unwrap());
}

// ---- layouts made here ----

#[test]
fn imagenet_subsets_take_their_classes_out_of_all_of_imagenet() {
    let folder = tempfile::tempdir().unwrap();
    for (index, id) in ["n01440764", "n02979186", "n02086240"].into_iter().enumerate() {
        write(folder.path().join(format!("imagenet/val/{id}/ILSVRC2012_val_1.JPEG")), png(index as u8));
    }
    let dataset = opened(folder.path(), "imagenette");
    assert_eq!(
        dataset.labels.names().take(3).collect::<Vec<_>>(),
        ["tench", "English Springer Spaniel", "cassette player"]
    );
    let ids: Vec<&str> = dataset.samples.iter().map(|sample| sample.id.as_str()).collect();
    assert_eq!(
        ids,
        ["imagenette/val/n01440764/ILSVRC2012_val_1.JPEG", "imagenette/val/n02979186/ILSVRC2012_val_1.JPEG"]
    );
    assert_eq!(dataset.samples[1].label, 2);
    assert!(dataset.warnings[0].contains("no image of 8 classes"), "{:?}", dataset.warnings);
    // miniImageNet needs all of its classes, so these three do not pass for it.
    let error = try_open(folder.path(), "miniimagenet", None).unwrap_err();
    assert!(error.contains("has no folder for each class"), "{error}");
}

#[test]
fn tiny_imagenet_reads_its_own_validation_layout() {
    let folder = tempfile::tempdir().unwrap();
    let val = folder.path().join("tiny-imagenet-200/val");
    write(val.join("val_annotations.txt"), "val_0.JPEG\tn01443537\t0\t0\t62\t57\nval_1.JPEG\tn01629819\t0\t0\t1\t1\n");
    write(val.join("images/val_0.JPEG"), png(1));
    write(val.join("images/val_1.JPEG"), png(2));
    let dataset = opened(folder.path(), "tiny-imagenet");
    assert_eq!(dataset.samples[0].id, "tiny-imagenet/val/images/val_0.JPEG");
    assert_eq!(dataset.labels.labels()[dataset.samples[0].label].name, "goldfish");
    assert_eq!(dataset.read(1).unwrap().pixels()[0], 2);
}

#[test]
fn a_folder_is_a_dataset_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let val = folder.path().join("photos/val");
    for (path, level) in [("sports_car/b.png", 1), ("n01558993/x/a.png", 2), ("Zebra/c.PNG", 3)] {
        write(val.join(path), png(level));
    }
    write(val.join("sports_car/.hidden.png"), png(9));
    write(val.join("notes/readme.txt"), "no image");
    let text = val.display().to_string();
    let dataset = opened(folder.path(), &text);
    assert_eq!((dataset.name.as_str(), dataset.split.as_str(), dataset.noun.as_str()), ("photos/val", "val", "object"));
    assert_eq!(dataset.caption_template, "a photo of a {}.");
    assert_eq!(dataset.warnings, ["folders without images, which are not classes: notes"]);
    assert_eq!(dataset.labels.names().collect::<Vec<_>>(), ["Zebra", "American robin", "sports car"]);
    let ids: Vec<&str> = dataset.samples.iter().map(|sample| sample.id.as_str()).collect();
    assert_eq!(ids, ["photos/val/Zebra/c.PNG", "photos/val/n01558993/x/a.png", "photos/val/sports_car/b.png"]);
    assert_eq!(dataset.read(2).unwrap().pixels()[0], 1);
    let named = opened(folder.path(), &format!("mine={text}"));
    assert_eq!((named.name.as_str(), named.samples[0].id.as_str()), ("mine", "mine/Zebra/c.PNG"));
    // The folder above holds a split and no classes.
    let above = folder.path().join("photos").display().to_string();
    let only = opened(folder.path(), &above);
    assert_eq!((only.name.as_str(), only.samples[0].id.as_str()), ("photos/val", "photos/val/Zebra/c.PNG"));
    assert!(only.chosen_of.is_empty());
    assert_eq!(try_open(folder.path(), &above, Some("val")).unwrap().name, "photos/val");
    let error = try_open(folder.path(), &text, Some("train")).unwrap_err();
    assert!(error.contains("is the split val"), "{error}");
}

#[test]
fn archives_and_sheets_hold_the_same_samples_as_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let files = [("cat/1.png", png(1)), ("cat/2.png", png(2)), ("dog/1.png", png(3))];
    let mut zip = zip::ZipWriter::new(fs::File::create(folder.path().join("pets.zip")).unwrap());
    let mut tar = tar::Builder::new(fs::File::create(folder.path().join("pets.tar")).unwrap());
    for (path, bytes) in &files {
        write(folder.path().join("pets").join(path), bytes);
        zip.start_file(format!("pets/test/{path}"), zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, path, bytes.as_slice()).unwrap();
    }
    zip.start_file("__MACOSX/pets/._1.png", zip::write::SimpleFileOptions::default()).unwrap();
    zip.finish().unwrap();
    tar.finish().unwrap();
    write(folder.path().join("sheet.csv"), "path,label\npets/cat/1.png,cat\npets/cat/2.png,cat\npets/dog/1.png,dog\n");
    let open_named = |file: &str| opened(folder.path(), &format!("pets={}", folder.path().join(file).display()));
    let plain = open_named("pets");
    for file in ["pets.zip", "pets.tar"] {
        let archive = open_named(file);
        assert_eq!(archive.samples, plain.samples, "{file}");
        assert_eq!(archive.labels, plain.labels);
        for position in 0..3 {
            assert_eq!(archive.read(position), plain.read(position));
        }
    }
    assert_eq!(open_named("pets.zip").split, "test");
    let sheet = open_named("sheet.csv");
    assert_eq!(sheet.samples[2].id, "pets/pets/dog/1.png");
    assert_eq!(sheet.read(2), plain.read(2));
}

#[test]
fn a_bad_image_among_good_ones_is_unreadable_and_hurts_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let good = png(1);
    for (path, bytes) in
        [("a/0_empty.png", &[][..]), ("a/1_cut.png", &good[..good.len() / 2]), ("a/2.png", &good), ("b/3.png", &good)]
    {
        write(folder.path().join(path), bytes);
    }
    let dataset = opened(folder.path(), &folder.path().display().to_string());
    let empty = dataset.read(0).unwrap_err();
    assert!(empty.path.ends_with("0_empty.png") && empty.message == "it is empty", "{empty}");
    assert_eq!(empty.content, format!("file:{}", blake3::hash(b"").to_hex()));
    let cut = dataset.read(1).unwrap_err();
    assert_eq!(cut.content, format!("file:{}", blake3::hash(&good[..good.len() / 2]).to_hex()));
    assert!(dataset.read(2).is_ok() && dataset.read(3).is_ok());
    fs::remove_file(folder.path().join("b/3.png")).unwrap();
    assert!(dataset.read(3).is_err());
}

#[test]
fn requests_that_cannot_be_met_say_what_was_tried_and_how_to_mend_it() {
    let folder = tempfile::tempdir().unwrap();
    let error = try_open(folder.path(), "cifar11", None).unwrap_err();
    assert!(error.contains("unknown dataset `cifar11`") && error.contains("mnist, cifar10, cifar100"), "{error}");
    let error = try_open(folder.path(), "cifar10", None).unwrap_err();
    for part in [
        "cifar10/cifar-10-batches-py/test_batch",
        "cifar-10-batches-bin/test_batch.bin",
        "emt data fetch cifar10 --data",
    ] {
        assert!(error.contains(part), "{part} in {error}");
    }
    let error = try_open(folder.path(), "cifar10", Some("val")).unwrap_err();
    assert!(error.contains("no split `val`") && error.contains("test, train"), "{error}");
    let error = try_open(folder.path(), "./nowhere/val", None).unwrap_err();
    assert!(error.contains("./nowhere/val") && error.contains("there is no such folder"), "{error}");
    write(folder.path().join("one/cat/1.png"), png(1));
    let error = try_open(folder.path(), &folder.path().join("one").display().to_string(), None).unwrap_err();
    assert!(error.contains("at least two classes") && error.contains("cat"), "{error}");
}

#[test]
fn a_label_sheet_renames_the_classes_and_keeps_the_samples() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path().join("set/c1/1.png"), png(1));
    write(folder.path().join("set/c2/1.png"), png(2));
    write(folder.path().join("names.txt"), "cat;kitty\ndog\n");
    let text = folder.path().join("set").display().to_string();
    let sheet = folder.path().join("names.txt");
    let request = OpenRequest { text: &text, split: None, labels_file: Some(&sheet), ..OpenRequest::default() };
    let dataset = open(&Catalog::embedded(), &roots(folder.path()), &request).unwrap();
    assert_eq!(dataset.labels.names().collect::<Vec<_>>(), ["cat", "dog"]);
    assert_eq!(dataset.labels.labels()[0].aliases, ["kitty"]);
    assert!(dataset.samples[0].id.ends_with("/c1/1.png"));
}

// ---- emt data ----

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    data: DataArgs,
}

/// Runs `emt data …`: exit code, standard output, standard error; an error is code 2, as in `main`.
fn emt_data(arguments: &[&str]) -> (u8, String, String) {
    let line = Line::try_parse_from([&["data"], arguments].concat()).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = match emt::cli::data::run(&line.data, false, &mut out, &mut err) {
        Ok(code) => code,
        Err(error) => {
            writeln!(err, "{error:#}").unwrap();
            2
        }
    };
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn md5_hex(bytes: &[u8]) -> String {
    use md5::Digest;
    md5::Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A catalog of one dataset whose archive lies at `url`.
fn catalog_of(folder: &Path, url: &str, file: &str, md5: &str) -> String {
    let path = folder.join("mine.toml");
    let text = format!(
        r#"
[[dataset]]
name = "pets"
answer_type = "object"
noun = "object"
caption_template = "a photo of a {{}}."
licence = "CC0"
may_redistribute = true
source = "{url}"
default_split = "test"
labels = ["cat", "dog"]
[dataset.splits.test]
n_samples = 2
alternatives = [{{ reader = "image-folder", folder = "pets", files = ["test"] }}]
[[dataset.files]]
url = "{url}/{file}"
folder = "pets"
md5 = "{md5}"
unpack = true
"#
    );
    write(&path, text);
    path.display().to_string()
}

fn pets_tgz(names: &[&str]) -> Vec<u8> {
    let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (index, name) in names.iter().enumerate() {
        let bytes = png(index as u8);
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, bytes.as_slice()).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

#[test]
fn fetch_downloads_checks_and_unpacks_and_the_second_time_does_nothing() {
    let archive = pets_tgz(&["test/cat/1.png", "test/dog/1.png"]);
    let md5 = md5_hex(&archive);
    let half = archive.len() / 2;
    // The first connection breaks half-way; the server knows ranges.
    let server = HttpServer::start(move |request| match request.range_start() {
        Some(start) => Reply::new(206, &archive[start..])
            .with("content-range", format!("bytes {start}-{}/{}", archive.len() - 1, archive.len()))
            .with("etag", "\"1\""),
        None => Reply::new(200, archive.clone()).with("etag", "\"1\"").cut_after(half),
    });
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog_of(folder.path(), &server.url(), "pets.tgz", &md5);
    let data = folder.path().join("data").display().to_string();
    let arguments = ["fetch", "pets", "--data", &data, "--datasets-file", &catalog];
    let (code, out, err) = emt_data(&arguments);
    assert_eq!((code, out.contains("pets")), (0, true), "{out}{err}");
    assert!(server.requests().iter().any(|request| request.range_start().is_some()));
    let left: Vec<String> = fs::read_dir(folder.path().join("data/pets"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(left, ["test"]);
    let n_requests = server.n_requests();
    let (code, _, err) = emt_data(&arguments);
    assert_eq!((code, server.n_requests()), (0, n_requests));
    assert!(err.contains("already exists"), "{err}");
    let (code, out, _) = emt_data(&["verify", "pets", "--data", &data, "--datasets-file", &catalog]);
    assert!(code == 0 && out.contains("good; 2 of 2 images decode"), "{out}");
}

#[test]
fn fetch_refuses_the_wrong_bytes_and_an_archive_that_leaves_its_folder() {
    let evil = pets_tgz(&["test/cat/1.png", "../../evil.png"]);
    let md5 = md5_hex(&evil);
    let server = HttpServer::start(move |_| Reply::new(200, evil.clone()));
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data").display().to_string();
    let catalog = catalog_of(folder.path(), &server.url(), "pets.tgz", &md5);
    let (code, _, err) = emt_data(&["fetch", "pets", "--data", &data, "--datasets-file", &catalog]);
    assert!(code == 2 && err.contains("evil.png") && err.contains("outside of the folder"), "{err}");
    assert!(!folder.path().join("evil.png").exists() && !folder.path().join("data/pets/test").exists());
    fs::remove_dir_all(&data).unwrap();
    let catalog = catalog_of(folder.path(), &server.url(), "pets.tgz", &md5_hex(b"something else"));
    let (code, _, err) = emt_data(&["fetch", "pets", "--data", &data, "--datasets-file", &catalog]);
    assert!(code == 2 && err.contains(&md5) && err.contains("pets.tgz"), "{err}");
    assert!(!folder.path().join("data/pets/pets.tgz").exists());
}

#[test]
fn fetch_takes_the_embedded_catalogs_files_from_a_mirror() {
    // The published checksums are those of the whole files.
    let Some(shared) = shared() else { return };
    let mnist = shared.join("data/mnist");
    let server = HttpServer::start(move |request| {
        fs::read(mnist.join(request.path.trim_start_matches("/mirror/")))
            .map_or(Reply::new(404, ""), |bytes| Reply::new(200, bytes))
    });
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().display().to_string();
    let mirror = format!("{}/mirror", server.url());
    let (code, _, err) = emt_data(&["fetch", "mnist", "--split", "test", "--data", &data, "--base-url", &mirror]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(opened(folder.path(), "mnist").samples.len(), 10_000);
    let (code, _, err) = emt_data(&["fetch", "imagenet", "--data", &data]);
    assert!(code == 2 && err.contains("cannot be fetched") && err.contains("image-net.org"), "{err}");
}

#[test]
fn list_says_what_is_here_and_what_is_not() {
    let shared = any_shared();
    let data = shared.join("data").display().to_string();
    let (code, out, _) = emt_data(&["list", "--data", &data, "--format", "json"]);
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 0);
    let row = |name: &str, split: &str| {
        let rows = document["datasets"].as_array().unwrap();
        rows.iter().find(|row| row["dataset"] == name && row["split"] == split).unwrap().clone()
    };
    assert_eq!(row("mnist", "test")["n_samples"], 10_000);
    assert_eq!(row("cifar100", "test")["n_samples"], 10_000);
    assert_eq!(row("cifar10", "train")["is_training_split"], true);
    assert!(row("imagenet", "val")["n_samples"].is_null() && row("imagenet", "val")["path"].is_null());
    let (_, table, _) = emt_data(&["list", "--data", &data]);
    let line = table.lines().find(|line| line.starts_with("tiny-imagenet")).unwrap();
    assert!(line.contains("not found") && line.contains("200"), "{table}");
}

#[test]
fn verify_finds_a_damaged_file_and_an_unreadable_image() {
    let Some(shared) = shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    for name in ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"] {
        write(folder.path().join("mnist").join(name), fs::read(shared.join("data/mnist").join(name)).unwrap());
    }
    let data = folder.path().display().to_string();
    let (code, out, _) = emt_data(&["verify", "mnist", "--data", &data, "--limit", "100"]);
    assert!(
        code == 0 && out.contains("good; 100 of 100 images decode") && out.contains("2 files as published"),
        "{out}"
    );
    let labels = folder.path().join("mnist/t10k-labels-idx1-ubyte.gz");
    let mut bytes = fs::read(&labels).unwrap();
    bytes.truncate(bytes.len() - 20);
    fs::write(&labels, bytes).unwrap();
    let (code, out, _) = emt_data(&["verify", "mnist", "--data", &data]);
    assert!(code == 2 && out.contains("is not the published file"), "{out}");
    write(folder.path().join("set/a/1.png"), png(1));
    write(folder.path().join("set/b/1.png"), "no image at all");
    let set = folder.path().join("set").display().to_string();
    let (code, out, _) = emt_data(&["verify", &set]);
    assert!(code == 2 && out.contains("1 of 2 images decode") && out.contains("b/1.png"), "{out}");
}
