//! How much of each module changed. No image is needed.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};

use super::diagnosis::{ComponentChange, ModuleChange, WeightChanges};
use crate::domain::{Component, layer_of};
use crate::model::Placement;
use crate::model::checkpoint::overlay::LowRankUpdate;
use crate::model::checkpoint::weights::{Adapter, Weights};
use crate::stats::{effective_rank, singular_values_of_product, symmetric_eigen};

/// A replaced matrix with a shorter side than this has its effective rank computed.
const N_SIDE_MAX: usize = 512;

/// Returns the change of every module that `adapter` touches, relative to `base`.
///
/// The relative change is ‖dW‖ / ‖W‖ in the Frobenius norm, where dW is `alpha / r · B A` for a low-rank update and the
/// difference for a replaced tensor. The effective rank is exp of the entropy of the singular values of dW; it is absent for
/// vectors, for DoRA, and for replaced matrices whose shorter side has 512 or more entries. DoRA's rescaling of rows is not
/// part of dW.
///
/// # Errors
/// A file cannot be read, or shapes do not fit.
pub fn changes(adapter: &Adapter, base: &Weights) -> Result<WeightChanges> {
    let overlay = adapter.overlay(&Placement::cpu(), false)?;
    let mut modules = Vec::new();
    let mut sums: BTreeMap<Component, [f64; 2]> = BTreeMap::new();
    let updates = overlay.updates().map(|(module, update)| {
        let (changed, rank) = of_update(update)?;
        Ok((module.to_owned(), changed, squares(&base.values(&format!("{module}.weight"))?), rank))
    });
    let replaced = overlay.replacements().map(|(name, tensor)| {
        let (changed, before, rank) = of_replacement(name, tensor, base)?;
        Ok((name.to_owned(), changed, before, rank))
    });
    let all: Vec<(String, f64, f64, Option<f64>)> = updates.chain(replaced).collect::<Result<_>>()?;
    for (module, changed, before, rank) in all {
        let Some(component) = Component::of(&module) else { continue };
        let sum = sums.entry(component).or_default();
        *sum = [sum[0] + changed, sum[1] + before];
        modules.push(ModuleChange {
            layer: layer_of(&module),
            component: component.name().to_owned(),
            relative_change: ratio(changed, before),
            effective_rank: rank,
            module,
        });
    }
    let component = |(component, [changed, before]): (Component, [f64; 2])| ComponentChange {
        component: component.name().to_owned(),
        relative_change: ratio(changed, before),
    };
    Ok(WeightChanges { modules, components: sums.into_iter().map(component).collect() })
}

/// The square root of `changed / before`, two sums of squares.
fn ratio(changed: f64, before: f64) -> Option<f64> {
    (before > 0.0).then(|| (changed / before).sqrt())
}

fn squares(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value) * f64::from(value)).sum()
}

/// The squared norm of a low-rank update, and its effective rank.
fn of_update(update: &LowRankUpdate) -> Result<(f64, Option<f64>)> {
    let a = update.a.to_dtype(DType::F64)?; // (rank, in)
    let b = update.b.to_dtype(DType::F64)?; // (out, rank)
    let rank = a.dim(0)?;
    ensure!(b.dim(1)? == rank, "the factors of an update have the ranks {rank} and {}", b.dim(1)?);
    let entries = |matrix: Tensor| matrix.flatten_all()?.to_vec1::<f64>();
    let aat = entries(a.matmul(&a.t()?)?)?;
    let btb = entries(b.t()?.matmul(&b)?)?;
    // The trace of (B A)^T (B A) is that of (B^T B) (A A^T), which is symmetric in both.
    let squared: f64 = btb.iter().zip(&aat).map(|(b, a)| b * a).sum();
    let singular = singular_values_of_product(&btb, &aat, rank).unwrap_or_default();
    let is_plain = update.magnitude.is_none();
    let rank = if is_plain { effective_rank(&singular) } else { None };
    Ok((squared.max(0.0) * update.scale * update.scale, rank))
}

/// The squared norms of a replacement's change and of the base's tensor, and the effective rank of the change.
fn of_replacement(name: &str, tensor: &Tensor, base: &Weights) -> Result<(f64, f64, Option<f64>)> {
    let before = base.values(name)?;
    let after = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    ensure!(before.len() == after.len(), "`{name}` has another shape than the base's");
    let difference: Vec<f32> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
    let rank = match *tensor.dims() {
        [n_rows, n_columns] if n_rows.min(n_columns) < N_SIDE_MAX => rank_of(&difference, n_rows, n_columns)?,
        _ => None,
    };
    Ok((squares(&difference), squares(&before), rank))
}

/// The effective rank of a matrix with these entries.
fn rank_of(entries: &[f32], n_rows: usize, n_columns: usize) -> Result<Option<f64>> {
    let matrix = Tensor::from_slice(entries, (n_rows, n_columns), &candle_core::Device::Cpu)?.to_dtype(DType::F64)?;
    let gram = if n_rows <= n_columns { matrix.matmul(&matrix.t()?)? } else { matrix.t()?.matmul(&matrix)? };
    let gram = gram.flatten_all()?.to_vec1::<f64>()?;
    let Some((squares, _)) = symmetric_eigen(&gram, n_rows.min(n_columns)) else { return Ok(None) };
    let singular: Vec<f64> = squares.into_iter().map(|square| square.max(0.0).sqrt()).collect();
    Ok(effective_rank(&singular))
}
