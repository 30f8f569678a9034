//! Folders and archives as they lie on people's disks: what in them is a sample.
#![cfg(unix)]

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use emt::dataset::{Catalog, DataRoots, Dataset, OpenRequest, open};

use super::support::run;

fn try_open(path: &Path) -> Result<Dataset, String> {
    let request = OpenRequest { text: path.to_str().unwrap(), ..OpenRequest::default() };
    open(&Catalog::embedded(), &DataRoots::default(), &request).map_err(|error| format!("{error:#}"))
}

fn opened(path: &Path) -> Dataset {
    try_open(path).unwrap()
}

fn png(level: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(3, 2, image::Rgb([level, 1, 2])).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// The ends of the samples' ids.
fn ends(dataset: &Dataset) -> Vec<String> {
    let start = format!("{}/", dataset.name);
    dataset.samples.iter().map(|sample| sample.id.strip_prefix(&start).unwrap().to_owned()).collect()
}

/// Files in which two classes have an image each, with all that systems leave beside them.
fn littered() -> Vec<(&'static str, Vec<u8>)> {
    let mut files = vec![("cat/0.png", png(0)), ("dog/1.PNG", png(1))];
    for left in [
        "cat/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg",
        "@eaDir/cat.jpg/SYNOPHOTO_THUMB_XL.jpg",
        "__MACOSX/cat/._0.png",
        "cat/._0.png",
        "cat/.DS_Store",
        "dog/Thumbs.db",
        "dog/desktop.ini",
        ".ipynb_checkpoints/0-checkpoint.png",
        "cat/.ipynb_checkpoints/0-checkpoint.png",
        "lost+found/x.png",
        "#recycle/old/x.png",
        "$RECYCLE.BIN/x.png",
        ".thumbnails/x.png",
        "dog/notes.txt",
    ] {
        files.push((left, png(9)));
    }
    files
}

#[test]
fn what_systems_leave_in_folders_and_archives_is_no_sample() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("pets/val");
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in littered() {
        write(root.join(path), &bytes);
        zip.start_file(path, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(&bytes).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, bytes.as_slice()).unwrap();
    }
    write(folder.path().join("pets/val.zip"), zip.finish().unwrap().into_inner());
    write(folder.path().join("pets/val.tar"), tar.into_inner().unwrap());
    for name in ["val", "val.zip", "val.tar"] {
        let dataset = opened(&folder.path().join("pets").join(name));
        assert_eq!(ends(&dataset), ["cat/0.png", "dog/1.PNG"], "{name}");
        assert_eq!(dataset.labels.names().collect::<Vec<_>>(), ["cat", "dog"], "{name}");
        assert!(dataset.warnings.is_empty() && dataset.notes.is_empty(), "{name} {:?}", dataset.warnings);
        assert!((0..2).all(|position| dataset.read(position).is_ok()), "{name}");
    }
}

#[test]
fn a_webdataset_leaves_them_out_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in [
        ("a/0.jpg", png(0)),
        ("a/0.cls", b"cat".to_vec()),
        ("a/._0.jpg", png(9)),
        ("__MACOSX/a/0.jpg", png(9)),
        ("a/@eaDir/0.jpg", png(9)),
        ("a/1.heic", b"\0\0\0\x18ftypheic".to_vec()),
        ("a/1.cls", b"dog".to_vec()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    let path = folder.path().join("pets.tar");
    write(&path, tar.into_inner().unwrap());
    let dataset = opened(&path);
    assert_eq!(dataset.samples.len(), 2);
    // A PNG under another format's name.
    assert!(dataset.read(0).is_ok());
    assert!(dataset.read(1).unwrap_err().message.contains("HEIC"));
    assert!(
        dataset.warnings[0].contains("1 of 2 images") && dataset.warnings[0].contains("1 heic"),
        "{:?}",
        dataset.warnings
    );
}

#[test]
fn images_of_formats_that_are_not_decoded_count_as_unreadable() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("pets/val");
    let others: [(&str, &[u8]); 6] = [
        ("a.avif", b"\0\0\0\x1cftypavif"),
        ("b.heic", b"\0\0\0\x18ftypmif1"),
        ("c.jp2", b"\0\0\0\x0cjP  \r\n"),
        ("d.svg", b"<svg/>"),
        ("e.psd", b"8BPS\0\x01"),
        ("f.nef", b"II*\0\x08\0\0\0"),
    ];
    for class in ["cat", "dog"] {
        write(root.join(class).join("0.png"), png(0));
        for (name, bytes) in others {
            write(root.join(class).join(name), bytes);
        }
        // A picture that can be read, whatever its name says.
        write(root.join(class).join("g.heic"), png(3));
    }
    let dataset = opened(&root);
    assert_eq!(dataset.samples.len(), 16);
    let readable: Vec<bool> = (0..8).map(|position| dataset.read(position).is_ok()).collect();
    assert_eq!(readable, [true, false, false, false, false, false, false, true]);
    let warning = &dataset.warnings[0];
    assert!(
        warning.starts_with("14 of 16 images") && warning.contains("2 avif, 4 heic, 2 jp2, 2 nef, 2 psd, 2 svg"),
        "{warning}"
    );
    let message = dataset.read(6).unwrap_err().message;
    assert!(message.contains("raw picture"), "{message}");

    let out = folder.path().join("run");
    let (root, out) = (root.to_str().unwrap(), out.to_str().unwrap());
    let finished = run(["eval", "--model", "embedded", "--datasets", root, "--out", out]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("warning: pets/val: 14 of 16 images"), "{}", finished.stderr);
    let trials = fs::read_to_string(Path::new(out).join("trials.jsonl")).unwrap();
    // Of model and encoder.
    assert_eq!(trials.matches("image_unreadable").count(), 2 * 12);
}

#[test]
fn names_without_an_extension_are_told_by_their_first_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store/val");
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (path, bytes) in [
        ("cat/0.png", png(0)),
        ("cat/5f3a9c", png(1)),
        ("dog/7b.d41", png(2)),
        ("dog/LICENSE", b"P5, a licence".to_vec()),
        ("dog/BMX", b"BMX is a sport".to_vec()),
    ] {
        write(root.join(path), &bytes);
        zip.start_file(path, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(&bytes).unwrap();
    }
    let archive = folder.path().join("store.zip");
    write(&archive, zip.finish().unwrap().into_inner());
    for path in [root, archive] {
        let dataset = opened(&path);
        assert_eq!(ends(&dataset), ["cat/0.png", "cat/5f3a9c", "dog/7b.d41"]);
        assert!((0..3).all(|position| dataset.read(position).is_ok()));
        assert!(dataset.notes[0].contains("2 files without an image's extension"), "{:?}", dataset.notes);
        assert!(dataset.notes[0].contains("cat/5f3a9c"), "{:?}", dataset.notes);
        let verified = run(["data", "verify", path.to_str().unwrap(), "--quiet"]);
        assert!(verified.code == Some(0) && verified.stdout.contains("5f3a9c"), "{}", verified.stdout);
    }
}

/// A path of bytes below `folder`.
fn of_bytes(folder: &Path, parts: &[&[u8]]) -> PathBuf {
    parts.iter().fold(folder.to_owned(), |path, part| path.join(OsStr::from_bytes(part)))
}

#[test]
fn names_that_are_no_utf8_are_read_and_have_ids_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("latin/val");
    write(of_bytes(&root, &[b"caf\xe9", b"f\xfcr0.png"]), png(0));
    write(of_bytes(&root, &["café".as_bytes(), "für0.png".as_bytes()]), png(1));
    write(of_bytes(&root, &[b"dog", b"0.png"]), png(2));
    let dataset = opened(&root);
    // The same word in two encodings is one class, and two files of it stay two samples.
    assert_eq!(dataset.labels.names().collect::<Vec<_>>(), ["café", "dog"]);
    assert_eq!(ends(&dataset), ["café/f\\xfcr0.png", "café/für0.png", "dog/0.png"]);
    let levels: Vec<u8> = (0..3).map(|position| dataset.read(position).unwrap().pixels()[0]).collect();
    let mut sorted = levels.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [0, 1, 2], "{levels:?}");
    assert!(dataset.notes[0].contains("read as Latin-1"), "{:?}", dataset.notes);
}

#[test]
fn links_in_a_circle_are_left_out_and_others_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("loop/val");
    for class in ["cat", "dog"] {
        write(root.join(class).join("0.png"), png(0));
    }
    write(folder.path().join("elsewhere/1.png"), png(1));
    std::os::unix::fs::symlink("..", root.join("cat/up")).unwrap();
    std::os::unix::fs::symlink(".", root.join("dog/itself")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("elsewhere"), root.join("dog/more")).unwrap();
    std::os::unix::fs::symlink("nowhere.png", root.join("dog/broken.png")).unwrap();
    let dataset = opened(&root);
    assert_eq!(ends(&dataset), ["cat/0.png", "dog/0.png", "dog/broken.png", "dog/more/1.png"]);
    assert!(dataset.read(2).is_err() && dataset.read(3).is_ok());
    assert!(dataset.notes[0].contains("cat/up, dog/itself"), "{:?}", dataset.notes);
}

/// A zip whose entries' names are replaced in its bytes, as other programs write them.
fn zip_with(names: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (level, (name, _)) in names.iter().enumerate() {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(&png(u8::try_from(level).unwrap())).unwrap();
    }
    let mut bytes = zip.finish().unwrap().into_inner();
    for (name, other) in names {
        assert_eq!(name.len(), other.len());
        for at in 0..bytes.len() - name.len() {
            if bytes[at..].starts_with(name.as_bytes()) {
                bytes[at..at + name.len()].copy_from_slice(other);
            }
        }
    }
    bytes
}

#[test]
fn zips_of_other_programs_have_readable_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fruit.zip");
    // .NET's backslashes, UTF-8 without the flag that says so, and a code page of DOS.
    write(
        &path,
        zip_with(&[
            ("val_cat_0.png", b"val\\cat\\0.png"),
            ("val/QQQQ/1.png", "val/éé/1.png".as_bytes()),
            ("val/RRRR/2.png", b"val/n\xa2\xa4o/2.png"),
        ]),
    );
    let dataset = opened(&path);
    assert_eq!(dataset.labels.names().collect::<Vec<_>>(), ["cat", "nóño", "éé"]);
    assert!((0..3).all(|position| dataset.read(position).is_ok()));
    assert!(dataset.notes[0].contains("1 name") && dataset.notes[0].contains("437"), "{:?}", dataset.notes);
}
