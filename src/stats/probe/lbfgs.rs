//! Minimisation of a smooth convex function: L-BFGS (Nocedal and Wright 2006, "Numerical optimization", algorithm 7.4).

use std::collections::VecDeque;

use super::dot;

/// Pairs of steps and gradient changes that approximate the curvature.
const N_PAIRS: usize = 10;

/// Stops when no part of the gradient is larger.
const GRADIENT_MAX: f64 = 1e-8;

const N_STEPS_MAX: usize = 2_000;

/// The most halvings of a step; beyond that, rounding hides any descent.
const N_HALVINGS_MAX: usize = 40;

/// Armijo's condition.
const DESCENT: f64 = 1e-4;

/// A step, the change of gradient over it, and the inverse of their product.
struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    inverse: f64,
}

/// Returns the place of the minimum, starting from `start`. `function` returns the value at a place and fills in the
/// gradient.
pub(super) fn minimise(start: Vec<f64>, mut function: impl FnMut(&[f64], &mut [f64]) -> f64) -> Vec<f64> {
    let mut place = start;
    let mut gradient = vec![0.0; place.len()];
    let mut value = function(&place, &mut gradient);
    let mut pairs: VecDeque<Pair> = VecDeque::with_capacity(N_PAIRS);
    for _ in 0..N_STEPS_MAX {
        if gradient.iter().all(|part| part.abs() <= GRADIENT_MAX) {
            break;
        }
        let mut direction = direction(&gradient, &pairs);
        let mut slope = dot(&direction, &gradient);
        if slope >= 0.0 {
            // Rounding spoilt the curvature: restart from the gradient.
            pairs.clear();
            direction = gradient.iter().map(|part| -part).collect();
            slope = -dot(&gradient, &gradient);
        }
        let first = if pairs.is_empty() { (1.0 / (-slope).sqrt()).min(1.0) } else { 1.0 };
        let mut next_gradient = vec![0.0; place.len()];
        let mut found = None;
        for halving in 0..N_HALVINGS_MAX {
            let length = first * 0.5_f64.powi(halving as i32);
            let next: Vec<f64> = place.iter().zip(&direction).map(|(at, along)| at + length * along).collect();
            let next_value = function(&next, &mut next_gradient);
            // Near the minimum values differ by less than their rounding.
            if next_value <= value + DESCENT * length * slope + f64::EPSILON * value.abs() {
                found = Some((next, next_value));
                break;
            }
        }
        let Some((next, next_value)) = found else { break };
        remember(&mut pairs, &place, &next, &gradient, &next_gradient);
        (place, value, gradient) = (next, next_value, next_gradient);
    }
    place
}

fn remember(pairs: &mut VecDeque<Pair>, place: &[f64], next: &[f64], gradient: &[f64], next_gradient: &[f64]) {
    let difference = |a: &[f64], b: &[f64]| -> Vec<f64> { b.iter().zip(a).map(|(b, a)| b - a).collect() };
    let (step, change) = (difference(place, next), difference(gradient, next_gradient));
    let curvature = dot(&step, &change);
    if curvature > 0.0 {
        if pairs.len() == N_PAIRS {
            pairs.pop_front();
        }
        pairs.push_back(Pair { step, change, inverse: 1.0 / curvature });
    }
}

/// The two-loop recursion.
fn direction(gradient: &[f64], pairs: &VecDeque<Pair>) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|part| -part).collect();
    let add = |direction: &mut [f64], factor: f64, vector: &[f64]| {
        direction.iter_mut().zip(vector).for_each(|(part, along)| *part += factor * along);
    };
    let mut factors = Vec::with_capacity(pairs.len());
    for pair in pairs.iter().rev() {
        let factor = pair.inverse * dot(&pair.step, &direction);
        add(&mut direction, -factor, &pair.change);
        factors.push(factor);
    }
    if let Some(last) = pairs.back() {
        let scale = 1.0 / (last.inverse * dot(&last.change, &last.change));
        direction.iter_mut().for_each(|part| *part *= scale);
    }
    for (pair, factor) in pairs.iter().zip(factors.into_iter().rev()) {
        let back = pair.inverse * dot(&pair.change, &direction);
        add(&mut direction, factor - back, &pair.step);
    }
    direction
}

#[cfg(test)]
mod tests;
