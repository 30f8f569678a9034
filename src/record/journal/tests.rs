use super::super::testing::trial;
use super::*;

/// A disk with this capacity in bytes.
struct SmallDisk {
    bytes: Vec<u8>,
    capacity: usize,
}

impl Sink for SmallDisk {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let n_fitting = bytes.len().min(self.capacity - self.bytes.len());
        self.bytes.extend(&bytes[..n_fitting]);
        if n_fitting < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn truncate(&mut self, n_bytes: u64) -> io::Result<()> {
        self.bytes.truncate(n_bytes as usize);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_leaves_whole_batches() {
    let (first, second) = (lines(&[trial(0), trial(1)]).unwrap(), lines(&[trial(2), trial(3)]).unwrap());
    for capacity in first.len()..first.len() + second.len() {
        let disk = SmallDisk { bytes: Vec::new(), capacity };
        let mut journal = Journal::resume(disk, "run/trials.jsonl".into(), 0).unwrap();
        journal.append(&first).unwrap();
        let error = journal.append(&second).unwrap_err();
        assert!(matches!(error, RecordError::DiskFull { .. }));
        assert_eq!(journal.sink.bytes, first);
        // The journal continues once there is room.
        journal.sink.capacity = usize::MAX;
        journal.append(&second).unwrap();
        assert_eq!(journal.sink.bytes, [&first[..], &second[..]].concat());
    }
}

#[test]
fn a_broken_line_in_the_middle_is_named() {
    let mut bytes = lines(&[trial(0)]).unwrap();
    bytes.extend(b"{\"dataset\":\n");
    bytes.extend(lines(&[trial(1)]).unwrap());
    let message = replay(&bytes[..], Path::new("run/trials.jsonl")).unwrap_err().to_string();
    assert!(message.contains("`run/trials.jsonl`, line 2") && message.contains("hint: "), "{message}");
}

#[test]
fn a_whole_last_line_that_is_no_trial_is_an_error_and_not_torn() {
    let mut bytes = lines(&[trial(0)]).unwrap();
    bytes.extend(b"{\"dataset\":\"mnist\"}\n");
    assert!(matches!(replay(&bytes[..], Path::new("t")), Err(RecordError::BrokenLine { line: 2, .. })));
}

#[test]
fn zeros_that_a_crash_left_at_the_end_are_torn_off() {
    let whole = lines(&[trial(0)]).unwrap();
    let bytes = [&whole[..], &[0; 4096]].concat();
    let replayed = replay(&bytes[..], Path::new("t")).unwrap();
    assert_eq!(replayed.trials, [trial(0)]);
    assert_eq!((replayed.n_bytes_whole, replayed.n_bytes_torn), (whole.len() as u64, 4096));
}

#[test]
fn compaction_follows_the_order_and_keeps_what_it_does_not_name() {
    let mut of_other_dataset = trial(0);
    of_other_dataset.dataset = "cifar10".into();
    let journal = vec![trial(3), of_other_dataset.clone(), trial(1), trial(2)];
    let order = [trial(1).key(), trial(2).key(), of_other_dataset.key()];
    assert_eq!(compacted(journal, &order), [trial(1), trial(2), trial(3), of_other_dataset]);
}
