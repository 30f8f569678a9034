use std::io::{Cursor, Write};

use proptest::prelude::*;

use super::*;

fn tar_of(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, name, bytes).unwrap();
    builder.into_inner().unwrap()
}

fn zip_of(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    writer.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap().into_inner()
}

fn open_bytes(name: &str, bytes: &[u8]) -> anyhow::Result<Archive> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    // Indexed and read while the folder exists.
    let archive = Archive::open(&path)?;
    for name in archive.names() {
        let _ = archive.read(&name);
    }
    Ok(archive)
}

#[test]
fn zip_and_tar_give_back_what_was_put_in() {
    for (file, bytes) in [("a.zip", zip_of("cat/1.png", b"meow")), ("a.tar", tar_of("./cat/1.png", b"meow"))] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(file);
        std::fs::write(&path, bytes).unwrap();
        let archive = Archive::open(&path).unwrap();
        assert_eq!(archive.names(), ["cat/1.png"]);
        assert_eq!(archive.read("cat/1.png").unwrap(), b"meow");
        assert!(archive.read("dog/1.png").is_err());
    }
}

#[test]
fn a_tar_whose_entry_reaches_beyond_its_end_is_refused() {
    let bytes = tar_of("cat/1.png", &[7; 600]);
    assert!(index_tar(Cursor::new(&bytes[..700]), 700).is_err());
}

#[test]
fn an_entry_that_leads_out_of_the_archive_is_refused() {
    for name in ["../cat/1.png", "cat/../../1.png", "/cat/1.png", "..\\cat\\1.png"] {
        let error = format!("{:#}", open_bytes("a.zip", &zip_of(name, b"meow")).err().expect(name));
        assert!(error.contains("a.zip") && error.contains("points outside of it"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn broken_archives_never_panic(
        cut in 0usize..1200, place in 0usize..1200, value: u8, noise in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        for (name, whole) in [("a.zip", zip_of("cat/1.png", &noise)), ("a.tar", tar_of("cat/1.png", &noise))] {
            let mut bytes = whole;
            bytes.truncate(cut.max(1));
            let place = place % bytes.len();
            bytes[place] = value;
            let _ = open_bytes(name, &bytes);
            let _ = open_bytes(name, &noise);
        }
    }
}
