//! What components and layers give back and take away: parts of the candidate over the base, on the same images.
//!
//! Restoring a component and keeping it alone are two questions: parts interact, and neither share adds up over the
//! components. The Shapley value does.

use std::collections::BTreeSet;

use super::diagnosis::{Keep, Restore, SwapShare};
use super::variants::{Role, Variant, name_of_layers};
use crate::domain::Component;
use crate::stats::{bca_interval, shapley};

const N_RESAMPLES: usize = 2000;
const CONFIDENCE: f64 = 0.95;

/// Which images the base and every variant answered right. All lists have one entry per image, in the same order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Of the base.
    pub base: Vec<bool>,
    /// Of each variant, the candidate first.
    pub variants: Vec<Vec<bool>>,
}

impl Rights {
    /// The number of images.
    pub fn n(&self) -> usize {
        self.base.len()
    }

    /// Of the candidate.
    pub fn candidate(&self) -> &[bool] {
        &self.variants[0]
    }

    /// The accuracy over `rights`; 0 without images.
    pub fn accuracy(rights: &[bool]) -> f64 {
        rights.iter().filter(|&&is_right| is_right).count() as f64 / rights.len().max(1) as f64
    }

    /// The share of the fall that is missing at `rights`, and its interval over images. 0 is the base, 1 the candidate.
    fn share_of_fall(&self, rights: &[bool], seed: u64) -> (Option<f64>, Option<[f64; 2]>) {
        let mut cells = [0_usize; 8];
        for ((&base, &candidate), &variant) in self.base.iter().zip(self.candidate()).zip(rights) {
            cells[usize::from(base) << 2 | usize::from(candidate) << 1 | usize::from(variant)] += 1;
        }
        let share = |cells: &[usize]| {
            let right =
                |bit: usize| -> f64 { (0..8).filter(|cell| cell & bit != 0).map(|cell| cells[cell] as f64).sum() };
            let fall = right(4) - right(2);
            (fall > 0.0).then(|| (right(4) - right(1)) / fall)
        };
        (share(&cells), bca_interval(&cells, share, CONFIDENCE, N_RESAMPLES, seed))
    }

    fn restore(&self, rights: &[bool], seed: u64) -> Restore {
        let (missing, interval) = self.share_of_fall(rights, seed);
        Restore {
            accuracy: Self::accuracy(rights),
            recovered: missing.map(|missing| 1.0 - missing),
            recovered_interval: interval.map(|[low, high]| [1.0 - high, 1.0 - low]),
        }
    }

    fn keep(&self, rights: &[bool], seed: u64) -> Keep {
        let (caused, caused_interval) = self.share_of_fall(rights, seed);
        Keep { accuracy: Self::accuracy(rights), caused, caused_interval }
    }
}

/// The place of the variant that uses exactly `components`.
fn place_of(variants: &[Variant], components: &BTreeSet<Component>) -> Option<usize> {
    variants.iter().position(|variant| variant.role == Role::Components(components.clone()))
}

/// Which images are right with exactly `components` of the candidate; `None` if that was not evaluated.
pub fn rights_with<'a>(
    variants: &[Variant],
    rights: &'a Rights,
    components: &BTreeSet<Component>,
) -> Option<&'a [bool]> {
    match place_of(variants, components) {
        Some(place) => Some(&rights.variants[place]),
        // Without settings of its own, the candidate without its components is the base.
        None => components.is_empty().then_some(rights.base.as_slice()),
    }
}

/// Returns the shares of all changed components, and of the layers. `seed` is that of the bootstrap.
pub fn shares(changed: &BTreeSet<Component>, variants: &[Variant], rights: &Rights, seed: u64) -> Vec<SwapShare> {
    let with = |components: &BTreeSet<Component>| rights_with(variants, rights, components);
    let values = shapley_shares(changed, Rights::accuracy(&rights.base), &with);
    let of_component = |(place, &component): (usize, &Component)| {
        let without: BTreeSet<Component> = changed.iter().copied().filter(|&other| other != component).collect();
        Some(SwapShare {
            component: component.name().to_owned(),
            restore: rights.restore(with(&without)?, seed),
            keep: with(&[component].into()).map(|alone| rights.keep(alone, seed)),
            shapley: values.as_ref().map(|values| values[place]),
        })
    };
    let of_layer = |(place, variant): (usize, &Variant)| {
        let Role::WithoutLayers(block) = &variant.role else { return None };
        Some(SwapShare {
            component: name_of_layers(block),
            restore: rights.restore(&rights.variants[place], seed),
            keep: None,
            shapley: None,
        })
    };
    let components = changed.iter().enumerate().filter_map(of_component);
    components.chain(variants.iter().enumerate().filter_map(of_layer)).collect()
}

/// The Shapley values of the components as shares of the fall; `None` if nothing fell or a subset was not evaluated. With
/// settings of its own, the rest of the fall is that of the settings.
fn shapley_shares<'a>(
    changed: &BTreeSet<Component>,
    before: f64,
    with: &dyn Fn(&BTreeSet<Component>) -> Option<&'a [bool]>,
) -> Option<Vec<f64>> {
    let all: Vec<Component> = changed.iter().copied().collect();
    let lost = |mask: usize| {
        let subset = (0..all.len()).filter(|at| mask & (1 << at) != 0).map(|at| all[at]).collect();
        Some(before - Rights::accuracy(with(&subset)?))
    };
    let worth: Vec<f64> = (0..1_usize << all.len()).map(lost).collect::<Option<_>>()?;
    let fall = *worth.last()?;
    let values = shapley(&worth).filter(|_| fall > 0.0)?;
    Some(values.into_iter().map(|value| value / fall).collect())
}

#[cfg(test)]
mod tests;
