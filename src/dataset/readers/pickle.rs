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
mod tests;
