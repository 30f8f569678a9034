use proptest::prelude::*;

use super::*;

/// `{"w": tensor of shape (2, 3) in storage "0"}` as torch writes it.
fn honest() -> Vec<u8> {
    let mut pickle = b"\x80\x02}q\x00X\x01\x00\x00\x00wq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02((".to_vec();
    pickle.extend(b"X\x07\x00\x00\x00storagectorch\nHalfStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ");
    pickle.extend(b"K\x00K\x02K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n)RtRs.");
    pickle
}

#[test]
fn a_tensor_is_described_by_its_storage_shape_and_strides() {
    let tensors = read_state_dict(&honest()).unwrap();
    assert_eq!(
        tensors,
        [PickledTensor {
            key: "w".into(),
            storage: "0".into(),
            element: Element::F16,
            offset: 0,
            shape: vec![2, 3],
            strides: vec![3, 1],
        }]
    );
}

#[test]
fn a_pickle_with_code_is_refused_by_the_name_it_would_call() {
    for (pickle, name) in [
        (b"cposix\nsystem\n(X\x02\x00\x00\x00lstR.".as_slice(), "posix.system"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93(\x8c\x011tR.", "builtins.eval"),
    ] {
        let error = format!("{:#}", read_state_dict(pickle).unwrap_err());
        assert!(error.contains(name) && error.contains("hint:"), "{error}");
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = read_state_dict(&bytes);
    }

    #[test]
    fn a_damaged_pickle_never_panics(at in 0..1000usize, byte in any::<u8>(), keep in 0..1000usize) {
        let mut pickle = honest();
        let n_bytes = pickle.len();
        pickle[at % n_bytes] = byte;
        let _ = read_state_dict(&pickle);
        prop_assert!(read_state_dict(&honest()[..keep % n_bytes]).is_err());
    }
}
