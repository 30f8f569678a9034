use super::*;

#[test]
fn a_full_disk_and_a_read_only_folder_are_named_as_such() {
    let path = Path::new("run/trials.jsonl");
    for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge] {
        let message = RecordError::writing(path, kind.into()).to_string();
        assert!(message.contains("run/trials.jsonl") && message.contains("disk is full"), "{message}");
    }
    for kind in [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem] {
        let message = RecordError::writing(path, kind.into()).to_string();
        assert!(message.contains("read-only") && message.contains("--out"), "{message}");
    }
    for kind in [ErrorKind::AlreadyExists, ErrorKind::NotADirectory] {
        let message = RecordError::writing(path, kind.into()).to_string();
        assert!(message.contains("in the way") && message.contains("another folder"), "{message}");
    }
}

#[test]
fn what_the_system_says_is_said_once() {
    for kind in [ErrorKind::StorageFull, ErrorKind::NotADirectory, ErrorKind::TimedOut] {
        let error = anyhow::Error::from(RecordError::writing(Path::new("run"), kind.into()));
        assert_eq!(format!("{error:#}").matches(&kind.to_string()).count(), 1, "{error:#}");
    }
}
