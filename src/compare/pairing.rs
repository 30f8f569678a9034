//! Matches the trials of two sides.

use std::collections::BTreeMap;

/// Trials of two sides, matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pairing<T> {
    /// The matched trials, in the order of their keys.
    pub pairs: Vec<(T, T)>,
    /// Trials of the first side without a partner.
    pub only_first: Vec<T>,
    /// Trials of the second side without a partner.
    pub only_second: Vec<T>,
}

/// Matches equal keys, the k-th duplicate with the k-th. `rank` orders duplicates, so the input order does not matter.
pub fn pair<T, K: Ord, R: Ord>(
    first: impl IntoIterator<Item = T>,
    second: impl IntoIterator<Item = T>,
    key: impl Fn(&T) -> K,
    rank: impl Fn(&T) -> R,
) -> Pairing<T> {
    let mut by_key: BTreeMap<K, (Vec<T>, Vec<T>)> = BTreeMap::new();
    for item in first {
        by_key.entry(key(&item)).or_default().0.push(item);
    }
    for item in second {
        by_key.entry(key(&item)).or_default().1.push(item);
    }
    let mut pairing = Pairing { pairs: Vec::new(), only_first: Vec::new(), only_second: Vec::new() };
    for (mut first, mut second) in by_key.into_values() {
        first.sort_by_key(&rank);
        second.sort_by_key(&rank);
        let mut second = second.into_iter();
        for item in first {
            match second.next() {
                Some(partner) => pairing.pairs.push((item, partner)),
                None => pairing.only_first.push(item),
            }
        }
        pairing.only_second.extend(second);
    }
    pairing
}

#[cfg(test)]
mod tests;
