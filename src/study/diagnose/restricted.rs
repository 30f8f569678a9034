//! What models with restricted attention to the image show.

use super::DiagnosisPlan;
use crate::diagnose::swap::Rights;
use crate::diagnose::{Composite, Role, Truncation, kept_positions, truncated_layers};

/// A model needs no image from a layer on if its accuracy is at most this much below the full one.
const CLIFF: f64 = 0.02;

/// The accuracy of the variant whose role is `role`.
fn accuracy_of(plan: &DiagnosisPlan, rights: &Rights, role: &Role) -> Option<f64> {
    let place = plan.variants.iter().position(|variant| variant.role == *role)?;
    Some(Rights::accuracy(&rights.variants[place]))
}

/// The accuracies of both models by the layer from which they see fewer positions, and by the positions that are kept.
pub(super) fn truncation(plan: &DiagnosisPlan, rights: &Rights) -> Truncation {
    let (from_layer, n_kept) = (truncated_layers(plan.n_layers), kept_positions(plan.n_image_positions));
    let full = |is_candidate: bool| Rights::accuracy(if is_candidate { rights.candidate() } else { &rights.base });
    let cell = |is_candidate: bool, from_layer: usize, n_kept: usize| {
        let role = match (from_layer, n_kept) {
            (_, n) if n == plan.n_image_positions => return Some(full(is_candidate)),
            (0, 0) => Role::Blind { is_candidate },
            _ => Role::Truncated { is_candidate, from_layer, n_kept },
        };
        accuracy_of(plan, rights, &role)
    };
    let surface = |is_candidate: bool| -> Vec<Vec<Option<f64>>> {
        let row = |&layer: &usize| n_kept.iter().map(|&n| cell(is_candidate, layer, n)).collect();
        from_layer.iter().map(row).collect()
    };
    let cliff = |is_candidate: bool| {
        let needs_none = |&layer: &usize| {
            cell(is_candidate, layer, 0).is_some_and(|accuracy| accuracy >= full(is_candidate) - CLIFF)
        };
        from_layer.iter().copied().find(needs_none)
    };
    Truncation {
        accuracy_baseline: surface(false),
        accuracy_candidate: surface(true),
        cliff_layer_baseline: cliff(false),
        cliff_layer_candidate: cliff(true),
        from_layer: from_layer.clone(),
        n_kept: n_kept.clone(),
    }
}

/// Accuracy if positions of the image attend to themselves only. `operations` are those of reading one prompt, as trained and
/// so.
pub(super) fn composite(plan: &DiagnosisPlan, rights: &Rights, operations: Option<[f64; 2]>) -> Option<Composite> {
    let accuracy = |is_candidate: bool| accuracy_of(plan, rights, &Role::Composite { is_candidate });
    let [operations_full, operations_self] = operations?;
    Some(Composite {
        accuracy_baseline: accuracy(false)?,
        accuracy_candidate: accuracy(true),
        operations_full,
        operations_self,
    })
}
