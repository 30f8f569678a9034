//! Whether the encoder is the model's own tower, decided by the content of the tensors and never by names.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::domain::{EncoderRelation, TowerChange};
use crate::model::checkpoint::weights::{SECOND_TOWER, Weights};

/// The result of the comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct TowerComparison {
    /// How the encoder relates to the tower.
    pub relation: EncoderRelation,
    /// Whether all shared tensors are equal.
    pub tower_equal: bool,
    /// The largest relative change of a tensor, ‖a − b‖ / ‖b‖; `None` if shapes differ.
    pub largest_change: Option<f64>,
    /// The relative change of each layer over all its tensors, by the layer's name (`encoder.layers.5`); empty if
    /// shapes differ.
    pub layers: BTreeMap<String, f64>,
}

impl TowerComparison {
    /// Summarises the layers' changes; `None` if the towers are equal or were not compared.
    pub fn change(&self) -> Option<TowerChange> {
        let mut changes: Vec<(f64, &String)> = self.layers.iter().map(|(layer, &change)| (change, layer)).collect();
        changes.sort_by(|a, b| a.0.total_cmp(&b.0));
        let &(largest, layer) = changes.last().filter(|_| !self.tower_equal)?;
        let n = changes.len();
        let median = (changes[(n - 1) / 2].0 + changes[n / 2].0) / 2.0;
        Some(TowerChange { median, largest, largest_layer: layer.clone() })
    }
}

/// A fine-tuned tower stays near its origin. A separately trained one shares only the shapes, and differs by about √2
/// of the norm.
const ANCESTOR_CHANGE_MAX: f64 = 0.7;

/// The prefix of the tensors of a model's tower.
pub const TOWER: &str = "vision_tower.";

/// Compares the tensors of `model` below `vision_tower.` with those of `encoder` below `vision_model.`.
pub fn compare(model: &Weights, encoder: &Weights) -> Result<TowerComparison> {
    let other = TowerComparison {
        relation: EncoderRelation::Other,
        tower_equal: false,
        largest_change: None,
        layers: BTreeMap::new(),
    };
    // By layer, the shared tensors and whether they are equal.
    let mut shared: BTreeMap<String, Vec<(String, &str, bool)>> = BTreeMap::new();
    for name in encoder.names() {
        let Some(rest) = name.strip_prefix("vision_model.") else { continue };
        let own = format!("{TOWER}{rest}");
        let Some(shape) = model.shape(&own) else { continue };
        if Some(shape) != encoder.shape(name) {
            return Ok(other);
        }
        let is_equal = model.tensor_hash(&own)? == encoder.tensor_hash(name)?;
        shared.entry(layer_of(rest)).or_default().push((own, name, is_equal));
    }
    let has_all = model
        .names()
        .filter(|name| !name.starts_with(SECOND_TOWER))
        .filter_map(|name| name.strip_prefix(TOWER))
        .all(|rest| encoder.contains(&format!("vision_model.{rest}")));
    if shared.is_empty() || !has_all {
        return Ok(other);
    }
    let mut largest_change = 0f64;
    let mut layers = BTreeMap::new();
    for (layer, tensors) in shared {
        let mut of_layer = Squares::default();
        // Equal layers need not be read. In other layers, equal tensors count towards the norm.
        if tensors.iter().any(|(.., is_equal)| !is_equal) {
            for (own, theirs, _) in &tensors {
                let squares = squares(model, own, encoder, theirs)?;
                largest_change = largest_change.max(squares.change());
                of_layer.difference += squares.difference;
                of_layer.length += squares.length;
            }
        }
        layers.insert(layer, of_layer.change());
    }
    let relation = match largest_change {
        0.0 => EncoderRelation::Own,
        change if change < ANCESTOR_CHANGE_MAX => EncoderRelation::Ancestor,
        _ => EncoderRelation::Other,
    };
    Ok(TowerComparison { relation, tower_equal: largest_change == 0.0, largest_change: Some(largest_change), layers })
}

/// Returns a hash over the names and contents of the tower's tensors: equal for equal towers, whatever the rest of the
/// models.
pub fn hash(model: &Weights) -> Result<String> {
    let mut names: Vec<&str> = model.names().filter(|name| name.starts_with(TOWER)).collect();
    names.sort_unstable();
    let mut hasher = blake3::Hasher::new();
    for name in names {
        let content = model.value_hash(name)?.unwrap_or_default();
        hasher.update(name.as_bytes()).update(&[0]).update(content.as_bytes());
    }
    Ok(format!("blake3:{}", hasher.finalize().to_hex()))
}

/// Returns the layer of a tensor: `encoder.layers.5` for `encoder.layers.5.mlp.fc1.weight`, `embeddings` for
/// `embeddings.class_embedding`.
fn layer_of(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let numbered = parts.iter().position(|part| part.parse::<usize>().is_ok());
    parts[..=numbered.unwrap_or(0)].join(".")
}

/// Sums of squares over tensors.
#[derive(Clone, Copy, Debug, Default)]
struct Squares {
    /// The sum for a − b.
    difference: f64,
    /// The sum for b.
    length: f64,
}

impl Squares {
    /// Returns ‖a − b‖ / ‖b‖.
    fn change(self) -> f64 {
        if self.difference == 0.0 { 0.0 } else { (self.difference / self.length.max(f64::MIN_POSITIVE)).sqrt() }
    }
}

/// Rounds both to the narrower stored type, so that a half-precision copy is the same tower.
fn squares(model: &Weights, own: &str, encoder: &Weights, theirs: &str) -> Result<Squares> {
    let (a, b) = (model.values(own)?, encoder.values(theirs)?);
    let round = narrower(model.stored_dtype(own), encoder.stored_dtype(theirs));
    let mut squares = Squares::default();
    for (a, b) in a.iter().zip(&b) {
        let (a, b) = (f64::from(round(*a)), f64::from(round(*b)));
        squares.difference += (a - b).powi(2);
        squares.length += b.powi(2);
    }
    Ok(squares)
}

fn narrower(a: Option<&str>, b: Option<&str>) -> fn(f32) -> f32 {
    match (a, b) {
        (Some("F16"), _) | (_, Some("F16")) => |x| half::f16::from_f32(x).to_f32(),
        (Some("BF16"), _) | (_, Some("BF16")) => |x| half::bf16::from_f32(x).to_f32(),
        _ => |x| x,
    }
}

#[cfg(test)]
mod tests;
