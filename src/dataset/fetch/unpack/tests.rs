//! Tests of `unpack`.

use std::io::{Cursor, Write};

use proptest::prelude::*;

use super::*;

/// A tar with hand-written headers, because the crate would refuse to write them.
fn tar_entry(name: &str, kind: u8, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    header[156] = kind;
    header[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut bytes = header.to_vec();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn zip_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// Unpacks into `root/data`; returns the result and every path below `root` afterwards.
fn check(name: &str, bytes: &[u8]) -> (anyhow::Result<()>, Vec<String>) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("data");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join(name), bytes).unwrap();
    let outcome = unpack(&folder.join(name), &folder);
    let mut paths = Vec::new();
    let mut queue = vec![root.path().to_owned()];
    while let Some(next) = queue.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                queue.push(path.clone());
            }
            paths.push(path.strip_prefix(root.path()).unwrap().display().to_string());
        }
    }
    paths.sort();
    (outcome, paths)
}

#[test]
fn files_and_folders_come_out() {
    let bytes = [tar_entry("a/", b'5', "", b""), tar_entry("./a/b.txt", b'0', "", b"hello"), vec![0; 1024]].concat();
    let (outcome, paths) = check("x.tar", &bytes);
    outcome.unwrap();
    assert_eq!(paths, ["data", "data/a", "data/a/b.txt", "data/x.tar"]);
    let (outcome, paths) = check("x.zip", &zip_of(&[("a/b.txt", b"hello")]));
    outcome.unwrap();
    assert_eq!(paths, ["data", "data/a", "data/a/b.txt", "data/x.zip"]);
}

#[test]
fn an_entry_that_would_leave_the_folder_is_refused_and_nothing_stays() {
    for name in ["../evil", "/tmp/evil", "a/../../evil", "C:\\evil", "..\\evil"] {
        let good = tar_entry("good", b'0', "", b"x");
        let tar = [good, tar_entry(name, b'0', "", b"x"), vec![0; 1024]].concat();
        for (archive, bytes) in [("x.tar", tar), ("x.zip", zip_of(&[("good", b"x"), (name, b"x")]))] {
            let (outcome, paths) = check(archive, &bytes);
            let error = format!("{:#}", outcome.unwrap_err());
            assert!(error.contains("outside of the folder") && error.contains(archive), "{error}");
            assert_eq!(paths, ["data".to_owned(), format!("data/{archive}")]);
        }
    }
}

#[test]
fn links_are_refused() {
    for kind in [b'1', b'2'] {
        let bytes = [tar_entry("a", kind, "/etc", b""), tar_entry("a/b", b'0', "", b"x"), vec![0; 1024]].concat();
        let (outcome, paths) = check("x.tar", &bytes);
        assert!(format!("{:#}", outcome.unwrap_err()).contains("is a link"));
        assert_eq!(paths, ["data", "data/x.tar"]);
    }
}

#[test]
fn a_bomb_is_stopped_while_it_grows() {
    let zeros = vec![0u8; 80 << 20];
    let (outcome, paths) = check("x.zip", &zip_of(&[("zeros", &zeros)]));
    assert!(format!("{:#}", outcome.unwrap_err()).contains("bomb"));
    assert_eq!(paths, ["data", "data/x.zip"]);
}

#[test]
fn what_was_there_stays_and_what_comes_anew_replaces_it() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("a")).unwrap();
    fs::write(root.path().join("a/old"), "old").unwrap();
    fs::write(root.path().join("a/b"), "before").unwrap();
    let archive = root.path().join("x.zip");
    fs::write(&archive, zip_of(&[("a/b", b"after")])).unwrap();
    unpack(&archive, root.path()).unwrap();
    assert_eq!(fs::read_to_string(root.path().join("a/old")).unwrap(), "old");
    assert_eq!(fs::read_to_string(root.path().join("a/b")).unwrap(), "after");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn broken_archives_never_panic_and_stay_inside(
        cut in 1usize..2000, places in proptest::collection::vec((0usize..2000, any::<u8>()), 0..5),
    ) {
        let tar = [tar_entry("a/b", b'0', "", &[7; 300]), tar_entry("c", b'0', "", b"x"), vec![0; 1024]].concat();
        for (name, mut bytes) in [("x.tar", tar.clone()), ("x.tgz", tar), ("x.zip", zip_of(&[("a/b", &[7; 300])]))] {
            bytes.truncate(cut);
            for &(place, value) in &places {
                let place = place % bytes.len();
                bytes[place] = value;
            }
            let (_, paths) = check(name, &bytes);
            prop_assert!(paths.iter().all(|path| path.starts_with("data")));
        }
    }
}
