use proptest::prelude::*;

use super::*;

#[test]
fn the_embedded_catalog_knows_the_papers_datasets_first() {
    let catalog = Catalog::embedded();
    let names: Vec<&str> = catalog.names().collect();
    assert_eq!(names[..4], ["mnist", "cifar10", "cifar100", "miniimagenet"]);
    let n_classes: Vec<usize> = catalog.entries.iter().map(|entry| entry.labels.len()).collect();
    assert_eq!(n_classes, [10, 10, 100, 100, 200, 1000, 10, 10, 100, 10, 10, 100]);
}

#[test]
fn every_default_split_is_held_out() {
    for entry in Catalog::embedded().entries {
        assert_ne!(entry.wire.default_split, "train", "{}", entry.name);
    }
}

#[test]
fn an_unknown_dataset_is_answered_with_the_known_names() {
    let error = Catalog::embedded().labels_of("cifar11").unwrap_err().to_string();
    assert!(error.contains("unknown dataset `cifar11`") && error.contains("cifar100"), "{error}");
    assert!(error.contains("did you mean `cifar10`?"), "{error}");
    let error = Catalog::embedded().labels_of("photos").unwrap_err().to_string();
    assert!(!error.contains("did you mean") && error.contains("./photos"), "{error}");
}

#[test]
fn a_subset_has_the_labels_and_words_of_its_dataset() {
    let catalog = Catalog::embedded();
    for name in ["mnist", "cifar10", "cifar100"] {
        let (whole, part) = (catalog.entry(name).unwrap(), catalog.entry(&format!("embedded/{name}")).unwrap());
        assert_eq!(whole.labels, part.labels);
        assert_eq!((&whole.wire.noun, &whole.wire.licence), (&part.wire.noun, &part.wire.licence));
        assert_eq!(whole.wire.caption_ensemble, part.wire.caption_ensemble);
        assert!(part.is_embedded("test") && part.is_embedded("train") && !whole.is_embedded("test"));
        assert!(!part.wire.evaluated_by_default);
    }
}

#[test]
fn a_subset_of_nothing_is_refused() {
    let text = format!("{DATASETS_TOML}\n[[subset]]\nname = \"x\"\nof = \"cifar11\"\nsplits = {{}}\n");
    let error = format!("{:#}", Catalog::parse(&text, "mine").unwrap_err());
    assert!(error.contains("cifar11") && error.contains("mine"), "{error}");
}

#[test]
fn no_alias_means_two_classes() {
    for entry in Catalog::embedded().entries {
        let mut owner: BTreeMap<String, &str> = BTreeMap::new();
        for label in entry.labels.labels() {
            for word in std::iter::once(&label.name).chain(&label.aliases) {
                if let Some(other) = owner.insert(word.to_lowercase(), &label.name) {
                    panic!("{}: `{word}` means `{other}` and `{}`", entry.name, label.name);
                }
            }
        }
    }
}

#[test]
fn a_misspelt_key_is_named() {
    let error = format!("{:#}", Catalog::parse(&DATASETS_TOML.replace("noun =", "nuon ="), "mine").unwrap_err());
    assert!(error.contains("nuon") && error.contains("mine"), "{error}");
}
proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn a_damaged_catalog_is_a_catalog_or_an_error(
        place in 0..DATASETS_TOML.len(), len in 0..200usize, noise in "[-a-z0-9\"'{}=.,/\\[\\] \n]{0,12}",
    ) {
        let (mut start, mut end) = (place, (place + len).min(DATASETS_TOML.len()));
        while !DATASETS_TOML.is_char_boundary(start) { start -= 1; }
        while !DATASETS_TOML.is_char_boundary(end) { end += 1; }
        let text = format!("{}{noise}{}", &DATASETS_TOML[..start], &DATASETS_TOML[end..]);
        if let Ok(catalog) = Catalog::parse(&text, "mine") {
            for entry in catalog.entries {
                prop_assert!(entry.split(None).is_ok());
            }
        }
        let _ = Catalog::parse(&noise, "mine");
    }
}
