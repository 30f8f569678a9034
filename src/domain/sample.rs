//! Samples, and the selection by `--limit`.

use std::collections::BTreeMap;

/// One image of a dataset with its label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// `dataset/split/00042` or `dataset/split/<path with />`.
    pub id: String,
    /// The index of its label in the dataset's label set.
    pub label: usize,
}

/// Returns the positions in `samples` that `--limit` keeps, in evaluation order; all of them without a limit.
///
/// Within each class samples are ordered by blake3(seed as 8 bytes little-endian, id as UTF-8). Round r visits the
/// classes in the order of blake3(seed, r as 8 bytes, label name). A smaller limit is therefore a prefix of a larger
/// one, classes stay balanced, and no image is decoded for the selection.
pub fn select(samples: &[Sample], label_names: &[&str], seed: u64, limit: Option<usize>) -> Vec<usize> {
    let limit = limit.unwrap_or(samples.len()).min(samples.len());
    let mut classes: BTreeMap<usize, Vec<(blake3::Hash, usize)>> = BTreeMap::new();
    for (position, sample) in samples.iter().enumerate() {
        let key = seeded_hash(seed, &[sample.id.as_bytes()]);
        classes.entry(sample.label).or_default().push((key, position));
    }
    for members in classes.values_mut() {
        members.sort_by(|a, b| (a.0.as_bytes(), a.1).cmp(&(b.0.as_bytes(), b.1)));
    }
    let n_rounds = classes.values().map(Vec::len).max().unwrap_or(0);
    let mut chosen = Vec::with_capacity(limit);
    for round in 0..n_rounds {
        let mut order: Vec<(blake3::Hash, usize)> = classes
            .iter()
            .filter_map(|(&label, members)| {
                let &(_, position) = members.get(round)?;
                let key = seeded_hash(seed, &[&(round as u64).to_le_bytes(), label_names[label].as_bytes()]);
                Some((key, position))
            })
            .collect();
        order.sort_by(|a, b| (a.0.as_bytes(), a.1).cmp(&(b.0.as_bytes(), b.1)));
        for (_, position) in order {
            if chosen.len() == limit {
                return chosen;
            }
            chosen.push(position);
        }
    }
    chosen
}

fn seeded_hash(seed: u64, parts: &[&[u8]]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests;
