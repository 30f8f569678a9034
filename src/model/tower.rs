//! Is the encoder the model's own tower? Decided by the tensors' content, never by names.

use anyhow::Result;

use super::weights::Weights;
use crate::domain::EncoderRelation;

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TowerComparison {
    /// How the encoder relates to the tower.
    pub relation: EncoderRelation,
    /// Whether all tensors that both have are equal.
    pub tower_equal: bool,
    /// The largest relative change of a tensor, ‖a − b‖ / ‖b‖; `None` where shapes differ.
    pub largest_change: Option<f64>,
}

/// A fine-tuned tower stays near its origin; another training run shares nothing but the shapes, and differs by
/// about √2 of the norm.
const ANCESTOR_CHANGE_MAX: f64 = 0.7;

/// Compares the tensors of `model` below `vision_tower.` with those of `encoder` below `vision_model.`.
pub fn compare(model: &Weights, encoder: &Weights) -> Result<TowerComparison> {
    let other = TowerComparison { relation: EncoderRelation::Other, tower_equal: false, largest_change: None };
    let mut largest_change = 0f64;
    let mut n_compared = 0;
    for name in encoder.names() {
        let Some(rest) = name.strip_prefix("vision_model.") else { continue };
        let own = format!("vision_tower.{rest}");
        let Some(shape) = model.shape(&own) else { continue };
        if Some(shape) != encoder.shape(name) {
            return Ok(other);
        }
        n_compared += 1;
        if model.tensor_hash(&own)? == encoder.tensor_hash(name)? {
            continue;
        }
        largest_change = largest_change.max(change(model, &own, encoder, name)?);
    }
    let has_all = model
        .names()
        .filter_map(|name| name.strip_prefix("vision_tower."))
        .all(|rest| encoder.contains(&format!("vision_model.{rest}")));
    if n_compared == 0 || !has_all {
        return Ok(other);
    }
    let tower_equal = largest_change == 0.0;
    let relation = match largest_change {
        0.0 => EncoderRelation::Own,
        change if change < ANCESTOR_CHANGE_MAX => EncoderRelation::Ancestor,
        _ => EncoderRelation::Other,
    };
    Ok(TowerComparison { relation, tower_equal, largest_change: Some(largest_change) })
}

/// ‖a − b‖ / ‖b‖, with both rounded to the narrower stored type: a half-precision copy is the same tower.
fn change(model: &Weights, own: &str, encoder: &Weights, theirs: &str) -> Result<f64> {
    let (a, b) = (model.values(own)?, encoder.values(theirs)?);
    let round = narrower(model.stored_dtype(own), encoder.stored_dtype(theirs));
    let (mut difference, mut norm) = (0f64, 0f64);
    for (a, b) in a.iter().zip(&b) {
        let (a, b) = (f64::from(round(*a)), f64::from(round(*b)));
        difference += (a - b).powi(2);
        norm += b.powi(2);
    }
    Ok(if difference == 0.0 { 0.0 } else { (difference / norm.max(f64::MIN_POSITIVE)).sqrt() })
}

fn narrower(a: Option<&str>, b: Option<&str>) -> fn(f32) -> f32 {
    match (a, b) {
        (Some("F16"), _) | (_, Some("F16")) => |x| half::f16::from_f32(x).to_f32(),
        (Some("BF16"), _) | (_, Some("BF16")) => |x| half::bf16::from_f32(x).to_f32(),
        _ => |x| x,
    }
}
