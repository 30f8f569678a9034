//! The pickles of datasets: numbers, text, and numpy arrays of unsigned bytes.

use std::borrow::Cow;

use anyhow::{Context, bail, ensure};

use crate::pickle::{Call, Global, Id, Pickle, Value};

/// The names that numpy's arrays are built from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dataset) enum Numpy {
    Reconstruct,
    NdArray,
    Dtype,
    /// `_codecs.encode`, with which Python 3 writes bytes as latin-1 text.
    Encode,
}

impl Global for Numpy {
    const HAS_OUTSIDE: bool = false;

    fn named(module: &str, name: &str) -> anyhow::Result<Self> {
        match (module, name) {
            ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => Ok(Self::Reconstruct),
            ("numpy", "ndarray") => Ok(Self::NdArray),
            ("numpy", "dtype") => Ok(Self::Dtype),
            ("_codecs", "encode") => Ok(Self::Encode),
            _ => bail!(
                "it wants to call `{}.{}`, which a data file does not need; nothing was executed; hint: get the file \
                 again from its publisher",
                module.escape_debug(),
                name.escape_debug()
            ),
        }
    }
}

/// Reads a pickle of a dataset.
pub(in crate::dataset) fn parse(bytes: &[u8]) -> anyhow::Result<Pickle<'_, Numpy>> {
    Pickle::parse(bytes).context("it is not the pickle of a dataset")
}

/// Returns shape and bytes of a numpy array of unsigned bytes.
pub(in crate::dataset) fn array<'p>(
    pickle: &'p Pickle<'_, Numpy>,
    id: Id,
) -> anyhow::Result<(Vec<usize>, Cow<'p, [u8]>)> {
    let arguments = arguments(pickle, id, Numpy::Reconstruct).context("the pickle holds no array where one belongs")?;
    let is_array = arguments.first().is_some_and(|&class| matches!(pickle.value(class), Value::Global(Numpy::NdArray)));
    ensure!(is_array, "the pickle rebuilds something other than an array");
    let Value::Call(Call { state: Some(state), .. }) = pickle.value(id) else { bail!("an array of it has no data") };
    // The version, the shape, the dtype, whether the order is Fortran's, and the numbers.
    let &[_, shape, dtype, is_fortran, data] = pickle.items(*state)? else {
        bail!("the state of an array is not five values");
    };
    let shape = pickle.sizes(shape).context("an array of it has no shape")?;
    check_dtype(pickle, dtype)?;
    let is_row_major = matches!(pickle.value(is_fortran), Value::Bool(false) | Value::Int(0));
    ensure!(is_row_major || shape.len() < 2, "an array is in Fortran order, which is not read");
    let data = bytes(pickle, data)?;
    let n_values = shape.iter().try_fold(1usize, |product, &side| product.checked_mul(side));
    ensure!(
        n_values == Some(data.len()),
        "an array of it has the shape {shape:?} and {} bytes; hint: fetch it again",
        data.len()
    );
    Ok((shape, data))
}

/// Returns the arguments of a call of `function`; `None` if the value is not such a call.
fn arguments<'p>(pickle: &'p Pickle<'_, Numpy>, id: Id, function: Numpy) -> Option<&'p [Id]> {
    let Value::Call(call) = pickle.value(id) else { return None };
    if call.function == function { pickle.items(call.arguments).ok() } else { None }
}

/// A dtype's state (byte order) is irrelevant for single bytes.
fn check_dtype(pickle: &Pickle<'_, Numpy>, id: Id) -> anyhow::Result<()> {
    let name = arguments(pickle, id, Numpy::Dtype).and_then(|arguments| pickle.raw(*arguments.first()?));
    let name = String::from_utf8_lossy(name.context("an array has no type")?);
    ensure!(
        matches!(&*name, "u1" | "|u1" | "uint8"),
        "an array has the type `{}`, but u1 is expected",
        name.escape_debug()
    );
    Ok(())
}

/// Returns bytes as stored, or decoded from latin-1 text.
fn bytes<'p>(pickle: &'p Pickle<'_, Numpy>, id: Id) -> anyhow::Result<Cow<'p, [u8]>> {
    if let Some(raw) = pickle.raw(id) {
        return Ok(Cow::Borrowed(raw));
    }
    let arguments = arguments(pickle, id, Numpy::Encode).context("an array of it has no data")?;
    let text = pickle.text(*arguments.first().context("an array of it has no data")?)?;
    let latin1 = text.chars().map(|letter| u8::try_from(u32::from(letter)));
    Ok(Cow::Owned(latin1.collect::<Result<_, _>>().context("it has bytes that are not latin-1")?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `numpy.array([[1, 2, 255]], dtype)` in protocol 2 of Python 3, whose data is latin-1 text.
    fn pickled(dtype: &str, sides: [u8; 2]) -> Vec<u8> {
        let mut bytes = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R".to_vec();
        bytes.extend([b'(', b'K', 1, b'K', sides[0], b'K', sides[1], 0x86]);
        bytes.extend(b"cnumpy\ndtype\nX");
        bytes.extend(u32::try_from(dtype.len()).unwrap().to_le_bytes());
        bytes.extend(dtype.as_bytes());
        bytes.extend(b"\x88\x89\x87R(K\x03X\x01\0\0\0|NNNtb\x89c_codecs\nencode\nX\x04\0\0\0\x01\x02\xc3\xbf");
        bytes.extend(b"X\x06\0\0\0latin1\x86Rtb.");
        bytes
    }

    #[test]
    fn an_array_has_its_shape_and_bytes() {
        let bytes = pickled("u1", [1, 3]);
        let pickle = parse(&bytes).unwrap();
        let (shape, data) = array(&pickle, pickle.root()).unwrap();
        assert_eq!((shape, data.as_ref()), (vec![1, 3], [1, 2, 255].as_slice()));
    }

    #[test]
    fn an_array_that_is_not_what_it_says_is_refused() {
        for (bytes, said) in [(pickled("u1", [2, 3]), "3 bytes"), (pickled("<f4", [1, 3]), "`<f4`, but u1")] {
            let pickle = parse(&bytes).unwrap();
            let error = format!("{:#}", array(&pickle, pickle.root()).unwrap_err());
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_pickle_that_wants_to_call_something_is_refused_by_name() {
        let error = format!("{:#}", parse(b"cos\nsystem\n(S'true'\ntR.").err().unwrap());
        assert!(error.contains("`os.system`") && error.contains("nothing was executed"), "{error}");
    }

    proptest! {
        #[test]
        fn a_damaged_array_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = pickled("u1", [1, 3]);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(pickle) = parse(&bytes) {
                let _ = array(&pickle, pickle.root());
            }
        }
    }
}
