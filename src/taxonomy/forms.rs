//! The forms of models' answers: spellings, denials, leaks, and sixty answers graded by hand.

use std::collections::BTreeMap;

use super::cases::{LEXICON, check, cifar10, cifar100, digits, mini, read_tuned, set};
use super::{Finding, Grader};
use crate::domain::{AnswerType, ErrorCode, Label, LabelSet};

fn objects(names: &[&str]) -> LabelSet {
    LabelSet::new(names.iter().copied().map(Label::named).collect(), AnswerType::Object).unwrap()
}

#[track_caller]
fn right(labels: &LabelSet, gold: &str, answer: &str) {
    let finding = read_tuned(labels, &[], gold, answer).finding;
    assert!(matches!(finding, Finding::Correct { .. }), "{answer:?} for {gold}: {finding:?}");
}

#[test]
fn a_name_may_be_joined_split_hyphenated_or_in_camel_case() {
    let land = objects(&["AnnualCrop", "HerbaceousVegetation", "Industrial", "Residential", "River", "SeaLake"]);
    for (gold, answer) in [
        ("AnnualCrop", "Annual Crop"),
        ("AnnualCrop", "annual crops."),
        ("AnnualCrop", "annual_crop"),
        ("AnnualCrop", "An annual crop field"),
        ("HerbaceousVegetation", "herbaceous-vegetation"),
        ("SeaLake", "Sea/Lake"),
        ("SeaLake", "sea lake"),
        ("Residential", "a residential area"),
        ("Industrial", "Industrial buildings"),
    ] {
        right(&land, gold, answer);
    }
    for (gold, answer) in [
        ("pickup truck", "pick-up truck"),
        ("pickup truck", "pick up truck"),
        ("streetcar", "a street car"),
        ("skyscraper", "sky-scraper"),
        ("sunflower", "sun flowers"),
        ("television", "T.V."),
        ("lawn mower", "LawnMower"),
    ] {
        right(&cifar100(), gold, answer);
    }
    let others =
        objects(&["colt's foot", "love in the mist", "creme brulee", "bird of paradise", "F/A-18", "DC-10", "A320"]);
    for (gold, answer) in [
        ("colt's foot", "coltsfoot"),
        ("love in the mist", "love-in-a-mist"),
        ("creme brulee", "Cr\u{e8}me Br\u{fb}l\u{e9}e"),
        ("bird of paradise", "a bird of paradise flower"),
        ("DC-10", "DC10"),
        ("A320", "Airbus A-320"),
    ] {
        right(&others, gold, answer);
    }
    right(&cifar10(), "truck", "a firetruck");
    right(&cifar10(), "cat", "C A T");
}

#[test]
fn words_that_only_happen_to_join_to_a_name_are_none() {
    check(&objects(&["island", "beach"]), "island", "The area is land", ErrorCode::Out);
    check(&objects(&["lion", "tulip"]), "lion", "lion fish", ErrorCode::Out);
    check(&objects(&["lion", "tulip"]), "lion", "lion cub", ErrorCode::Out);
    check(&digits(), "4", "4 2", ErrorCode::Multi);
    check(&objects(&["C", "C++", "C#"]), "C", "C++", ErrorCode::Wrong);
    check(&cifar10(), "horse", "a seahorse", ErrorCode::Out);
}

#[test]
fn what_an_answer_denies_or_takes_back_is_not_what_it_says() {
    for answer in [
        "It is not a deer, it is a horse.",
        "not a deer but a horse",
        "Deer? No, horse.",
        "A deer? No, it's a horse.",
        "I first thought deer, but it is a horse.",
        "a horse rather than a deer",
        "Rather than a deer, it is a horse.",
        "It isn't a deer. It's a horse.",
        "no deer; it's a horse",
        "a deer, or rather a horse",
        "It looks like a deer, but it's actually a horse",
        "Although it looks like a deer, it is a horse.",
        "a deer - no, a horse",
        "a deer, I mean a horse",
        "It is a horse, not a deer.",
        "It's not a deer, cat, or dog. It's a horse.",
        "This is no deer, this is a horse",
        "I don't think it is a deer; it is a horse",
        "unlike a deer, this is a horse",
        "a horse, often mistaken for a deer",
    ] {
        right(&cifar10(), "horse", answer);
        check(&cifar10(), "deer", answer, ErrorCode::Wrong);
        assert!(!read_tuned(&cifar10(), &[], "horse", answer).certain, "{answer}");
    }
    for answer in
        ["It is not a cat.", "Cat? No.", "not a cat or a dog", "The cat is not visible.", "anything but a cat"]
    {
        check(&cifar10(), "cat", answer, ErrorCode::Out);
        check(&cifar10(), "dog", answer, ErrorCode::Out);
    }
    check(&cifar10(), "cat", "It is not clear whether this is a cat", ErrorCode::Out);
    for answer in ["a cat without a tail", "No doubt it is a cat", "It is none other than a cat", "a cat, not moving"] {
        right(&cifar10(), "cat", answer);
    }
    right(&digits(), "4", "No. 4");
}

#[test]
fn a_denied_label_means_its_opposite_where_the_set_has_one() {
    let mask = objects(&["with mask", "without mask"]);
    for answer in ["without a mask", "The person is without a mask.", "no mask", "The person isn't wearing a mask."] {
        right(&mask, "without mask", answer);
        check(&mask, "with mask", answer, ErrorCode::Wrong);
    }
    for answer in ["with a mask", "The person is wearing a mask", "With mask."] {
        right(&mask, "with mask", answer);
    }
    let normal = objects(&["normal", "not normal"]);
    right(&normal, "not normal", "It isn't normal.");
    check(&normal, "normal", "It isn't normal.", ErrorCode::Wrong);
    right(&objects(&["hot dog", "not hot dog"]), "not hot dog", "This is not a hot dog.");
    right(&objects(&["glioma", "notumor"]), "notumor", "There is no tumor.");
    let yes = objects(&["yes", "no"]);
    right(&yes, "no", "No, there is no tumor.");
    right(&yes, "yes", "Yes, without doubt.");
    right(&objects(&["vehicles", "non-vehicles"]), "non-vehicles", "Not a vehicle.");
}

#[test]
fn the_longest_phrase_counts_whoever_owns_it() {
    let tuned =
        |labels: &LabelSet, on: &LabelSet, gold: &str, answer: &str| read_tuned(labels, &[on], gold, answer).finding;
    let leak = Finding::Error(ErrorCode::Leak);
    assert_eq!(tuned(&cifar10(), &mini(), "airplane", "The object is a(n) aircraft carrier."), leak);
    assert_eq!(tuned(&cifar10(), &mini(), "dog", "an aircraft-carrier"), leak);
    assert_eq!(tuned(&cifar100(), &cifar10(), "bus", "truck."), leak);
    assert_eq!(tuned(&cifar100(), &cifar10(), "pickup truck", "truck."), leak);
    assert_eq!(tuned(&cifar100(), &cifar10(), "bus", "This is a dog."), leak);
    let wrong = Finding::Error(ErrorCode::Wrong);
    assert_eq!(tuned(&cifar100(), &cifar10(), "bus", "a pickup truck"), wrong);
    assert_eq!(tuned(&cifar100(), &cifar10(), "bus", "It is not a truck."), Finding::Error(ErrorCode::Out));
    assert!(matches!(tuned(&cifar100(), &cifar10(), "pickup truck", "a pickup truck"), Finding::Correct { .. }));
    check(&cifar10(), "airplane", "The object is a(n) aircraft carrier.", ErrorCode::Out);
}

#[test]
fn a_name_of_several_labels_counts_for_each_of_them() {
    let labels = objects(&[
        "crane",
        "drake",
        "maillot",
        "maillot, tank suit",
        "cardigan",
        "Cardigan, Cardigan Welsh corgi",
        "Cat",
        "cats",
    ]);
    for (gold, answer) in [
        ("maillot", "maillot"),
        ("maillot, tank suit", "maillot"),
        ("maillot, tank suit", "a tank suit"),
        ("cardigan", "The object is a cardigan."),
        ("Cardigan, Cardigan Welsh corgi", "The object is a cardigan."),
        ("Cat", "two cats"),
        ("cats", "a cat"),
    ] {
        right(&labels, gold, answer);
    }
    for (gold, answer) in [("maillot", "tank suit"), ("cardigan", "a Cardigan Welsh corgi"), ("drake", "maillot")] {
        check(&labels, gold, answer, ErrorCode::Wrong);
    }
    let twice = objects(&["crane", "drake", "crane"]);
    let grader = Grader::new(&twice, &[], &LEXICON);
    for (label, is_right) in [(0, true), (1, false), (2, true)] {
        let finding = grader.grade(label, "a crane").finding;
        assert_eq!(matches!(finding, Finding::Correct { .. }), is_right, "{label}");
    }
}

struct Graded {
    group: String,
    gold: String,
    answer: String,
    by_hand: String,
    by_rules: String,
}

/// The answers of `tests/golden/odd_answers.tsv`, graded by the rules.
fn odd_answers() -> Vec<Graded> {
    let mut sets: BTreeMap<&str, LabelSet> = BTreeMap::new();
    let mut graded = Vec::new();
    for line in include_str!("../../tests/golden/odd_answers.tsv").lines().filter(|line| !line.starts_with('#')) {
        match line.split('\t').collect::<Vec<_>>()[..] {
            ["set", name, "number", labels] => drop(sets.insert(name, set(labels, AnswerType::Number))),
            ["set", name, _, labels] => drop(sets.insert(name, set(labels, AnswerType::Object))),
            [group, name, gold, by_hand, answer] => {
                let answer: String = serde_json::from_str(answer).unwrap();
                let by_rules = match read_tuned(&sets[name], &[], gold, &answer).finding {
                    Finding::Correct { .. } => "correct",
                    Finding::Error(code) => code.name(),
                };
                let [group, gold, by_hand, by_rules] = [group, gold, by_hand, by_rules].map(str::to_owned);
                graded.push(Graded { group, gold, answer, by_hand, by_rules });
            }
            _ => panic!("{line}"),
        }
    }
    graded
}

#[test]
fn sixty_odd_answers_are_graded_as_by_hand_but_for_those_named_here() {
    let graded = odd_answers();
    let n_of = |group: &str| graded.iter().filter(|answer| answer.group == group).count();
    assert_eq!(["negation", "scripts", "markup", "other"].map(n_of), [20, 10, 10, 20]);
    let wrong: Vec<(&str, &str, &str, &str)> = graded
        .iter()
        .filter(|answer| answer.by_hand != answer.by_rules)
        .map(|a| (a.gold.as_str(), a.answer.as_str(), a.by_hand.as_str(), a.by_rules.as_str()))
        .collect();
    assert_eq!(wrong, STILL_WRONG);
    let mut confusion: BTreeMap<(bool, bool), usize> = BTreeMap::new();
    for answer in &graded {
        *confusion.entry((answer.by_hand == "correct", answer.by_rules == "correct")).or_default() += 1;
    }
    assert_eq!(confusion.get(&(false, true)), None, "no wrong answer is called correct");
}

/// Label, answer, code by hand, code by the rules.
const STILL_WRONG: &[(&str, &str, &str, &str)] = &[("7", "I see 1 digit: 7", "correct", "multi")];
