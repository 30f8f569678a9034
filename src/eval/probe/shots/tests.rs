use super::*;
use crate::dataset::{Catalog, DataRoots, OpenRequest, open, open_training};

fn embedded(name: &str, split: Option<&str>) -> Dataset {
    open(
        &Catalog::embedded(),
        &DataRoots::default(),
        &OpenRequest { text: name, split, labels_file: None, ..OpenRequest::default() },
    )
    .unwrap()
}

fn training(name: &str) -> Dataset {
    let request = OpenRequest { text: name, split: None, labels_file: None, ..OpenRequest::default() };
    open_training(&Catalog::embedded(), &DataRoots::default(), &request).unwrap()
}

fn request(shots: &[usize]) -> ProbeRequest {
    ProbeRequest { classifier: ProbeClassifier::NearestMean, shots: shots.to_vec() }
}

fn choose(name: &str, shots: &[usize], seed: u64) -> Shots {
    Shots::choose(&request(shots), &embedded(name, None), training(name), seed, Some(50)).unwrap()
}

#[test]
fn shots_are_balanced_nested_and_follow_from_the_seed() {
    let (many, few) = (choose("embedded/mnist", &[1, 5, 16], 7), choose("embedded/mnist", &[5], 7));
    assert_eq!(many.n_classes(), 10);
    for (many, few) in many.classes.iter().zip(&few.classes) {
        assert_eq!((many.len(), few.len()), (16, 5));
        assert_eq!(many[..5], few[..]);
    }
    assert_eq!((many.spec.n_shots(), many.prompt_name().as_str()), (16, "probe-16"));
    assert!(many.warnings.is_empty());
    assert_eq!(many.spec, choose("embedded/mnist", &[1, 5, 16], 7).spec);
    assert_ne!(many.spec.content, choose("embedded/mnist", &[1, 5, 16], 8).spec.content);
}

#[test]
fn too_few_training_images_make_every_class_have_fewer() {
    let shots = choose("embedded/cifar100", &[1, 5, 16], 7);
    assert_eq!(shots.spec.shots, [1, 2]);
    assert!(shots.classes.iter().all(|class| class.len() == 2));
    assert!(shots.warnings[0].contains("2 shots per class instead of 16"), "{:?}", shots.warnings);
}

#[test]
fn an_image_that_is_scored_is_never_a_shot() {
    // The test split takes the place of the training split: all samples that `limit` keeps must be left out.
    let evaluated = embedded("embedded/mnist", None);
    let choose = |limit| Shots::choose(&request(&[16]), &evaluated, embedded("embedded/mnist", None), 7, limit);
    let scored = contents(&evaluated, 7, Some(50));
    assert_eq!(scored.len(), 50);
    let shots = choose(Some(50)).unwrap();
    for position in shots.positions() {
        assert!(!scored.contains(&shots.read(position).unwrap().content()));
    }
    let error = choose(None).unwrap_err().to_string();
    assert!(error.contains("no usable image of"), "{error}");
}

#[test]
fn a_probe_does_not_learn_from_the_split_that_is_evaluated() {
    let evaluated = embedded("embedded/mnist", Some("train"));
    let error = Shots::choose(&request(&[1]), &evaluated, training("embedded/mnist"), 7, None).unwrap_err();
    assert!(error.to_string().contains("held-out split"), "{error}");
}

#[test]
fn a_class_that_the_training_split_lacks_is_named() {
    let (evaluated, training) = (embedded("embedded/cifar10", None), training("embedded/mnist"));
    let error = Shots::choose(&request(&[1]), &evaluated, training, 7, Some(10)).unwrap_err().to_string();
    assert!(error.contains("no class `airplane`"), "{error}");
}
