//! Group-sequential boundaries: several looks at growing data that together keep one level.

use super::{normal_cdf, normal_quantile};

/// Nodes and weights of Gauss and Legendre's rule of eight points, on the positive half of [-1, 1].
const GAUSS_LEGENDRE: [(f64, f64); 4] = [
    (0.183_434_642_495_649_8, 0.362_683_783_378_362),
    (0.525_532_409_916_329, 0.313_706_645_877_887_3),
    (0.796_666_477_413_626_7, 0.222_381_034_453_374_5),
    (0.960_289_856_497_536_3, 0.101_228_536_290_376_3),
];

/// The width of the rule's panels, in standard deviations of the narrowest multiplied function.
const PANEL: f64 = 2.0;

/// Standard deviations below 0 beyond which a path no longer matters for an upper boundary.
const FLOOR: f64 = 6.5;

/// Standard deviations beyond which an increment is treated as impossible.
const REACH: f64 = 8.5;

/// A look that has spent less than this share of alpha does not affect later ones.
const NEGLIGIBLE: f64 = 1e-12;

/// The smallest step of information between two looks.
const LEAST_STEP: f64 = 1e-6;

/// Returns the part of a one-sided `alpha` that is spent up to `information` (a share from 0 to 1): 2 (1 - cdf(z_{1 -
/// alpha/2} / sqrt(information))).
///
/// Lan and DeMets (1983), "Discrete sequential boundaries for clinical trials", Biometrika 70, 659-663: their first
/// function, near O'Brien and Fleming's boundary. `None` unless 0 < alpha < 0.5 and 0 <= information <= 1.
pub fn obrien_fleming_spent(alpha: f64, information: f64) -> Option<f64> {
    let is_valid = alpha > 0.0 && alpha < 0.5 && (0.0..=1.0).contains(&information);
    let z = normal_quantile(alpha / 2.0).filter(|_| is_valid)?;
    Some(if information > 0.0 { 2.0 * normal_cdf(z / information.sqrt()) } else { 0.0 })
}

/// Returns the boundaries of z, one per look, that are together crossed with probability `alpha` if the true effect is
/// 0. Each look spends by [`obrien_fleming_spent`].
///
/// `information` has each look's share of the whole, rising and at most 1. One-sided: there is no lower boundary.
/// Computed by recursive integration over the independent increments (Armitage, McPherson and Rowe 1969, JRSS A 132,
/// 235-244; Jennison and Turnbull 2000, "Group sequential methods", chapter 19), with an error of about 1e-8. A look
/// that may spend almost nothing has a boundary of at most 38, which is never crossed. `None` unless 0 < alpha < 0.5
/// and the looks are in (0, 1] and rise by at least 1e-6.
pub fn obrien_fleming_boundaries(alpha: f64, information: &[f64]) -> Option<Vec<f64>> {
    let rise = information.windows(2).all(|pair| pair[1] - pair[0] >= LEAST_STEP);
    if !rise || information.first().is_some_and(|first| *first < LEAST_STEP) {
        return None;
    }
    let mut boundaries = Vec::with_capacity(information.len());
    let mut paths: Option<Paths> = None;
    let mut spent_before = 0.0;
    for (look, &share) in information.iter().enumerate() {
        let spent = obrien_fleming_spent(alpha, share)?;
        // The smallest normal number, if the spent part rounds to nothing.
        let spend = (spent - spent_before).max(f64::MIN_POSITIVE);
        spent_before = spent;
        let free = -normal_quantile(spend)?;
        let boundary = paths.as_ref().map_or(free, |paths| paths.boundary(spend, share, free));
        boundaries.push(boundary);
        if let Some(&next) = information.get(look + 1)
            && spent > NEGLIGIBLE * alpha
        {
            let density = |place: f64| match &paths {
                Some(paths) => paths.density(place, share),
                None => normal_density(place / share.sqrt()) / share.sqrt(),
            };
            let step_in = paths.as_ref().map_or(share, |paths| share - paths.information);
            let narrowest = step_in.min(next - share).min(share).sqrt();
            paths = Some(Paths::below(boundary * share.sqrt(), share, narrowest, density));
        }
    }
    Some(boundaries)
}

/// The paths of a Brownian motion that have not yet crossed: its density at the last look's time, as weighted points.
struct Paths {
    information: f64,
    /// Rising.
    places: Vec<f64>,
    masses: Vec<f64>,
}

impl Paths {
    /// Returns the paths below `boundary` at time `information`. The places suit functions as narrow as `narrowest`.
    fn below(boundary: f64, information: f64, narrowest: f64, density: impl Fn(f64) -> f64) -> Self {
        let low = (-FLOOR * information.sqrt()).min(boundary);
        let n_panels = ((boundary - low) / (PANEL * narrowest)).ceil().max(1.0) as usize;
        let half = (boundary - low) / (2.0 * n_panels as f64);
        let negative = GAUSS_LEGENDRE.iter().rev().map(|(node, weight)| (-node, *weight));
        let rule: Vec<(f64, f64)> = negative.chain(GAUSS_LEGENDRE).collect();
        let (mut places, mut masses) = (Vec::new(), Vec::new());
        for panel in 0..n_panels {
            let centre = low + half * (2 * panel + 1) as f64;
            for (node, weight) in &rule {
                let place = centre + half * node;
                places.push(place);
                masses.push(weight * half * density(place));
            }
        }
        Self { information, places, masses }
    }

    /// Returns the density at `place`, at a later time, of the remaining paths.
    fn density(&self, place: f64, information: f64) -> f64 {
        let step = (information - self.information).sqrt();
        let first = self.places.partition_point(|from| *from < place - REACH * step);
        let end = self.places.partition_point(|from| *from <= place + REACH * step);
        let near = self.places[first..end].iter().zip(&self.masses[first..end]);
        near.map(|(from, mass)| mass * normal_density((place - from) / step) / step).sum()
    }

    /// Returns the z at time `information` above which paths have probability `spend`. `free` is this z if no paths had
    /// been removed.
    fn boundary(&self, spend: f64, information: f64, free: f64) -> f64 {
        let scale = information.sqrt();
        let (mut low, mut high) = (-40.0 * scale, free * scale);
        let mut place = high;
        for _ in 0..200 {
            let (above, density) = (self.above(place, information), self.density(place, information));
            if above > spend {
                low = place;
            } else {
                high = place;
            }
            // Newton's step for the logarithm, which is concave: from above it never passes the root.
            let newton = place + (above / spend).ln() * above / density;
            let next = if newton > low && newton < high { newton } else { 0.5 * (low + high) };
            if (next - place).abs() <= 1e-13 * scale.max(place.abs()) {
                break;
            }
            place = next;
        }
        place / scale
    }

    fn above(&self, place: f64, information: f64) -> f64 {
        let step = (information - self.information).sqrt();
        let paths = self.places.iter().zip(&self.masses);
        paths.map(|(from, mass)| mass * normal_cdf((from - place) / step)).sum()
    }
}

fn normal_density(z: f64) -> f64 {
    (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt()
}

#[cfg(test)]
mod tests;
