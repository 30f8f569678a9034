use super::*;

#[test]
fn a_file_is_replaced_as_a_whole_and_leaves_nothing_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("a/run");
    write_file(&run, "report.md", b"a long first version").unwrap();
    write_file(&run, "report.md", b"second").unwrap();
    assert_eq!(fs::read(run.join("report.md")).unwrap(), b"second");
    assert_eq!(fs::read_dir(&run).unwrap().count(), 1);
}

#[test]
fn what_is_no_calibration_is_refused_with_what_writes_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.json");
    let cases = [
        ("[]", "no field `schema`"),
        ("{", "EOF"),
        (r#"{"schema":"emt.summary/1"}"#, "`emt.summary/1`, not `emt.calibration/1`"),
        (r#"{"schema":"emt.calibration/1","n":3}"#, "judge"),
        (r#"{"schema":"emt.calibration/2"}"#, "has the schema `emt.calibration/2`"),
    ];
    for (text, part) in cases {
        fs::write(&path, text).unwrap();
        let message = read_calibration(&path).unwrap_err().to_string();
        assert!(message.contains(part) && message.contains("c.json") && message.contains("hint: "), "{message}");
    }
}

#[test]
fn a_failed_write_keeps_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    write_file(dir.path(), "report.md", b"old").unwrap();
    let failed = write_with(dir.path(), "report.md", |file| {
        file.write_all(b"new")?;
        Err(io::ErrorKind::StorageFull.into())
    });
    assert!(matches!(failed, Err(RecordError::DiskFull { .. })));
    assert_eq!(fs::read(dir.path().join("report.md")).unwrap(), b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), b"").unwrap();
    let error = write_file(&dir.path().join("file/run"), "report.md", b"").unwrap_err().to_string();
    assert!(error.contains("file/run") || error.contains("file\\run"), "{error}");
}
