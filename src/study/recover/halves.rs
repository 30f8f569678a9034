//! Two halves of the images: on one a point is chosen, on the other it is confirmed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use rayon::prelude::*;

use crate::dataset::Dataset;
use crate::domain::{SampleNames, SampleSet};
use crate::eval::Selection;

/// One half of the images of all datasets.
#[derive(Clone, Debug)]
pub struct Half {
    /// Its samples, as a table that `--samples` takes.
    pub table: String,
    /// The same for an evaluation.
    pub names: SampleNames,
    /// The same, to look up.
    pub samples: SampleSet,
}

impl Half {
    fn of(name: &str, ids: &[(String, Vec<String>)]) -> Result<Self> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(["dataset", "sample"])?;
        for (dataset, ids) in ids {
            for id in ids {
                writer.write_record([dataset, id])?;
            }
        }
        let table = String::from_utf8(writer.into_inner()?)?;
        let names = SampleNames::parse(name, &table)?;
        let sets = ids.iter().map(|(dataset, ids)| (dataset.clone(), ids.iter().cloned().collect::<BTreeSet<_>>()));
        Ok(Self { samples: sets.collect(), names, table })
    }
}

/// The file of the half on which a point is chosen.
pub const SELECTION_FILE: &str = "selection.csv";
/// The file of the half on which it is confirmed.
pub const CONFIRMATION_FILE: &str = "confirmation.csv";

/// Splits the images of every dataset into the selection half and the confirmation half: at most `limit` of each dataset, balanced
/// over its classes. Within a class, images go to the halves in turn, in the order of the hashes of their pixels. Equal images are
/// in one half, whatever their dataset.
///
/// # Errors
/// A dataset has fewer than two different images.
pub fn halves(datasets: &[Dataset], sample_seed: u64, limit: Option<usize>) -> Result<[Half; 2]> {
    let mut sides = BTreeMap::new();
    let mut ids: [Vec<(String, Vec<String>)>; 2] = Default::default();
    for dataset in datasets {
        let selected = Selection { sample_seed, limit, samples: None }.of(dataset);
        let content = |&position: &usize| match dataset.read(position) {
            Ok(image) => image.content(),
            Err(unreadable) => unreadable.content,
        };
        let contents: Vec<String> = selected.par_iter().map(content).collect();
        let labelled: Vec<(usize, &str)> = selected
            .iter()
            .zip(&contents)
            .map(|(&at, content)| (dataset.samples[at].label, content.as_str()))
            .collect();
        let is_confirmed = split(&labelled, &mut sides);
        for (half, ids) in ids.iter_mut().enumerate() {
            let own =
                selected.iter().zip(&is_confirmed).filter(|(_, is_confirmed)| usize::from(**is_confirmed) == half);
            let own: Vec<String> = own.map(|(&at, _)| dataset.samples[at].id.clone()).collect();
            ensure!(
                !own.is_empty(),
                "`{}` has too few images for two halves ({}); hint: a larger --limit, or another dataset",
                dataset.name,
                selected.len()
            );
            ids.push((dataset.name.clone(), own));
        }
    }
    let [selection, confirmation] = ids;
    Ok([Half::of(SELECTION_FILE, &selection)?, Half::of(CONFIRMATION_FILE, &confirmation)?])
}

/// Which images, given with their labels and hashes, are in the confirmation half. `sides` are the images that are in one already.
fn split(images: &[(usize, &str)], sides: &mut BTreeMap<String, bool>) -> Vec<bool> {
    let mut order: Vec<usize> = (0..images.len()).collect();
    order.sort_by_key(|&at| images[at]);
    let mut n_in = [0_usize; 2];
    let mut n_of_class: BTreeMap<usize, [usize; 2]> = BTreeMap::new();
    let mut is_confirmed = vec![false; images.len()];
    for at in order {
        let (label, content) = images[at];
        let n_of_class = n_of_class.entry(label).or_default();
        // The half that has fewer of the class, else the one that has fewer at all, else the one that confirms.
        let is_due = (n_of_class[1], n_in[1]) <= (n_of_class[0], n_in[0]);
        let side = *sides.entry(content.to_owned()).or_insert(is_due);
        n_of_class[usize::from(side)] += 1;
        n_in[usize::from(side)] += 1;
        is_confirmed[at] = side;
    }
    is_confirmed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{Catalog, DataRoots, OpenRequest, open};

    fn embedded(name: &str) -> Dataset {
        open(&Catalog::embedded(), &DataRoots::default(), &OpenRequest { text: name, ..OpenRequest::default() })
            .unwrap()
    }

    #[test]
    fn halves_are_balanced_over_classes_and_depend_on_pixels_alone() {
        let images: Vec<(usize, String)> =
            (0..61).map(|at| (at % 6, blake3::hash(&[at as u8]).to_hex().to_string())).collect();
        let labelled: Vec<(usize, &str)> = images.iter().map(|(label, content)| (*label, content.as_str())).collect();
        let first = split(&labelled, &mut BTreeMap::new());
        for class in 0..6 {
            let n = |side: bool| {
                let of_class = labelled.iter().zip(&first).filter(|((label, _), is)| *label == class && **is == side);
                of_class.count()
            };
            assert!(n(true).abs_diff(n(false)) <= 1, "{class}");
        }
        let n_confirmed = first.iter().filter(|is| **is).count();
        assert!(n_confirmed.abs_diff(61 - n_confirmed) <= 1, "{n_confirmed}");
        let reversed: Vec<(usize, &str)> = labelled.iter().rev().copied().collect();
        let again = split(&reversed, &mut BTreeMap::new());
        assert!(first.iter().eq(again.iter().rev()), "the order of the images does not matter");
    }

    #[test]
    fn equal_images_are_never_in_both_halves() {
        let mut images: Vec<(usize, &str)> = vec![(0, "a"), (0, "a"), (1, "a"), (0, "b"), (1, "c"), (1, "d")];
        images.extend([(0, "b"), (0, "b")]);
        let is_confirmed = split(&images, &mut BTreeMap::new());
        for content in ["a", "b", "c", "d"] {
            let sides: BTreeSet<bool> =
                images.iter().zip(&is_confirmed).filter(|((_, own), _)| *own == content).map(|(_, is)| *is).collect();
            assert_eq!(sides.len(), 1, "{content}");
        }
        let mut sides = BTreeMap::from([("c".to_owned(), false), ("d".to_owned(), false)]);
        assert_eq!(split(&[(0, "c"), (0, "d")], &mut sides), [false, false], "as in the dataset before");
    }

    #[test]
    fn the_halves_of_a_dataset_are_all_of_its_images_and_a_smaller_limit_takes_fewer() {
        if crate::assets::embedded::MINIATURE.is_none() {
            return;
        }
        let datasets = [embedded("embedded/mnist"), embedded("embedded/cifar10")];
        let [selection, confirmation] = halves(&datasets, 0, None).unwrap();
        for dataset in &datasets {
            let n = selection.samples.n_of(&dataset.name) + confirmation.samples.n_of(&dataset.name);
            assert_eq!(n, dataset.samples.len());
            let both = |id: &str| {
                selection.samples.contains(&dataset.name, id) && confirmation.samples.contains(&dataset.name, id)
            };
            assert!(dataset.samples.iter().all(|sample| !both(&sample.id)));
        }
        let [selection, confirmation] = halves(&datasets, 0, Some(20)).unwrap();
        assert_eq!((selection.samples.n_samples(), confirmation.samples.n_samples()), (20, 20));
        assert!(halves(&datasets, 0, Some(1)).unwrap_err().to_string().contains("too few images"));
    }
}
