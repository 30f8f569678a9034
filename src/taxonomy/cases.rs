//! Edge cases of the decision, each with its required code.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::{Finding, Grader, Lexicon, Reading};
use crate::domain::{AnswerType, ErrorCode, Label, LabelSet};

pub static LEXICON: LazyLock<Lexicon> =
    LazyLock::new(|| Lexicon::parse(include_str!("../assets/lexicon.tsv")).unwrap());

const CIFAR10: &str = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck";
const CIFAR100: &str = "apple,aquarium fish,baby,bear,beaver,bed,bee,beetle,bicycle,bottle,bowl,boy,bridge,bus,butterfly,\
camel,can,castle,caterpillar,cattle,chair,chimpanzee,clock,cloud,cockroach,couch,crab,crocodile,cup,dinosaur,dolphin,\
elephant,flatfish,forest,fox,girl,hamster,house,kangaroo,keyboard,lamp,lawn mower,leopard,lion,lizard,lobster,man,\
maple tree,motorcycle,mountain,mouse,mushroom,oak tree,orange,orchid,otter,palm tree,pear,pickup truck,pine tree,plain,\
plate,poppy,porcupine,possum,rabbit,raccoon,ray,road,rocket,rose,sea,seal,shark,shrew,skunk,skyscraper,snail,snake,\
spider,squirrel,streetcar,sunflower,sweet pepper,table,tank,telephone,television,tiger,tractor,train,trout,tulip,turtle,\
wardrobe,whale,willow tree,wolf,woman,worm";
const MINI: &str = "African hunting dog,Arctic fox,Walker hound,aircraft carrier,bookshop,dome,ear,file,golden retriever,\
harvestman,ladybug,organ,slot,stage,upright,yawl";

pub fn set(names: &str, answer_type: AnswerType) -> LabelSet {
    LabelSet::new(names.split(',').map(|name| Label::named(name.trim())).collect(), answer_type).unwrap()
}

pub fn cifar10() -> LabelSet {
    set(CIFAR10, AnswerType::Object)
}

pub fn cifar100() -> LabelSet {
    set(CIFAR100, AnswerType::Object)
}

pub fn mini() -> LabelSet {
    set(MINI, AnswerType::Object)
}

pub fn digits() -> LabelSet {
    set("0,1,2,3,4,5,6,7,8,9", AnswerType::Number)
}

pub fn read_tuned(labels: &LabelSet, tuned_on: &[&LabelSet], gold: &str, answer: &str) -> Reading {
    let gold = labels.index_of(gold).unwrap_or_else(|| panic!("no label {gold}"));
    Grader::new(labels, tuned_on, &LEXICON).grade(gold, answer)
}

fn read(labels: &LabelSet, gold: &str, answer: &str) -> Reading {
    read_tuned(labels, &[], gold, answer)
}

#[track_caller]
pub fn check(labels: &LabelSet, gold: &str, answer: &str, code: ErrorCode) {
    assert_eq!(read(labels, gold, answer).finding, Finding::Error(code), "{answer:?} for {gold}");
}

#[track_caller]
fn check_correct(labels: &LabelSet, gold: &str, answer: &str, verbose: bool) {
    let finding = read(labels, gold, answer).finding;
    assert_eq!(finding, Finding::Correct { verbose, with_leak: false }, "{answer:?} for {gold}");
}

#[test]
fn case_1_a_fish_in_a_tank_is_no_tank() {
    let reading = read(&cifar100(), "aquarium fish", "a picture of a fish in a tank");
    assert_eq!(reading.finding, Finding::Error(ErrorCode::TooGeneric));
    assert!(!reading.certain);
    check(&cifar100(), "tank", "a picture of a fish in a tank", ErrorCode::Out);
}

#[test]
fn case_2_an_echoed_list_is_not_correct_although_it_holds_the_label() {
    let answer = "airplane, automobile, bird, cat, deer, dog, frog, horse,";
    check(&cifar10(), "horse", answer, ErrorCode::Echo);
    assert!(read(&cifar10(), "horse", answer).certain);
    check(&cifar10(), "horse", "horse, dog, cat", ErrorCode::Multi);
    check(&cifar10(), "horse", "airplane automobile bird cat", ErrorCode::Echo);
    // Three of a hundred labels in order are a guess, not an echo.
    check(&cifar100(), "bee", "apple, bear, bee", ErrorCode::Multi);
}

#[test]
fn case_3_an_airplane_that_is_8_is_a_clash_whatever_was_tuned_on() {
    for answer in ["The airplane is 8.", "airplane 8", "The airplane is eight"] {
        check(&cifar10(), "airplane", answer, ErrorCode::TypeClash);
        let tuned = read_tuned(&cifar10(), &[&digits()], "airplane", answer);
        assert_eq!(tuned.finding, Finding::Error(ErrorCode::TypeClash));
        check(&digits(), "8", answer, ErrorCode::TypeClash);
    }
    check_correct(&cifar10(), "cat", "two cats", true);
    check_correct(&cifar10(), "cat", "this one is a cat", false);
}

#[test]
fn case_4_a_repeated_sentence_about_a_tuned_label_is_a_leak() {
    let answer = "The object is a(n) aircraft carrier.The object is a(n) aircraft carrier.";
    let finding = read_tuned(&cifar10(), &[&mini()], "ship", answer).finding;
    assert_eq!(finding, Finding::Error(ErrorCode::Leak));
    check(&cifar10(), "dog", answer, ErrorCode::Out);
}

#[test]
fn a_tuned_label_beside_the_right_one_is_told_but_changes_nothing() {
    let answer = "a dog and an aircraft carrier";
    let finding = read_tuned(&cifar10(), &[&mini()], "dog", answer).finding;
    assert_eq!(finding, Finding::Correct { verbose: false, with_leak: true });
    check_correct(&cifar10(), "dog", answer, true);
    let horse = read_tuned(&digits(), &[&cifar10()], "7", "The object is a horse.").finding;
    assert_eq!(horse, Finding::Error(ErrorCode::Leak));
    // A label that is in both sets is not a leak.
    let shared = read_tuned(&mini(), &[&set("ladybug,gizmo", AnswerType::Object)], "dome", "a ladybug").finding;
    assert_eq!(shared, Finding::Error(ErrorCode::Wrong));
}

#[test]
fn case_5_adjectives_leave_a_bird_a_bird() {
    check_correct(&cifar10(), "bird", "The object in the image is a large black bird.", true);
    assert!(read(&cifar10(), "bird", "The object in the image is a large black bird.").certain);
    check(&cifar10(), "truck", "The object in the image is a large airplane.", ErrorCode::Wrong);
    check_correct(&cifar10(), "cat", "a black cat", true);
}

#[test]
fn case_6_a_digit_is_a_digit_in_figures_or_words_and_a_letter_is_none() {
    for answer in ["Number 4.", "4.", "four", "The number in the image is 4:", "Four.", "4\n", "the digit 4", "４"] {
        check_correct(&digits(), "4", answer, false);
    }
    check_correct(&digits(), "5", "5.", false);
    check(&digits(), "2", "The object is a letter.", ErrorCode::Out);
    check(&digits(), "0", "The number in the image is 8:", ErrorCode::Wrong);
    for answer in ["42", "4.5", "-4", "14", "4th", "1/4", "3:45"] {
        check(&digits(), "4", answer, ErrorCode::Out);
    }
}

#[test]
fn case_7_a_ladybug_on_a_branch_is_a_wrong_label() {
    check(&mini(), "harvestman", "a close up of a tree branch with a ladybug on it", ErrorCode::Wrong);
}

#[test]
fn case_8_a_dog_before_a_sign_that_says_walker_hound_is_wrong_but_near() {
    let answer = "a dog is standing in front of a forest with a sign that says walker hound";
    let reading = read(&mini(), "African hunting dog", answer);
    assert_eq!(reading.finding, Finding::Error(ErrorCode::Wrong));
    assert!(reading.names_ancestor && !reading.certain);
}

#[test]
fn case_9_a_label_inside_another_word_or_name_is_no_mention() {
    let traps = [
        ("man", "woman", ErrorCode::Wrong),
        ("ray", "gray", ErrorCode::Out),
        ("bee", "beetle", ErrorCode::Wrong),
        ("cup", "cupboard", ErrorCode::Out),
        ("can", "I can see something green", ErrorCode::Out),
        ("can", "This can be anything", ErrorCode::Out),
        ("lion", "a mountain lion", ErrorCode::Out),
        ("lion", "a sea lion", ErrorCode::Out),
        ("bee", "a bee-eater", ErrorCode::Out),
        ("apple", "apple pie", ErrorCode::Out),
    ];
    for (gold, answer, code) in traps {
        check(&cifar100(), gold, answer, code);
    }
    for (gold, answer) in [("horse", "seahorse"), ("cat", "catamaran"), ("dog", "a hot dog"), ("bird", "a bird cage")] {
        check(&cifar10(), gold, answer, ErrorCode::Out);
    }
    check(&mini(), "ear", "The bear is near", ErrorCode::Out);
    check(&cifar10(), "cat", "can", ErrorCode::Out);
    check_correct(&cifar100(), "can", "a can", false);
    check_correct(&cifar100(), "can", "can", false);
    check_correct(&cifar100(), "can", "It is a can of soda.", true);
}

#[test]
fn case_10_an_empty_answer_is_never_correct() {
    for answer in ["", " \n", ".", "The object is a", "a(n)", "\u{200b}", "..."] {
        for labels in [cifar10(), digits(), cifar100()] {
            let grader = Grader::new(&labels, &[], &LEXICON);
            for gold in 0..labels.len() {
                let reading = grader.grade(gold, answer);
                assert_eq!(reading.finding, Finding::Error(ErrorCode::Empty), "{answer:?}");
                assert!(reading.certain);
            }
        }
    }
}

#[test]
fn case_11_a_bird_is_outside_cifar_100() {
    check(&cifar100(), "apple", "bird", ErrorCode::Out);
    check(&cifar100(), "bus", "bird", ErrorCode::Out);
}

#[test]
fn synonyms_plurals_and_cases_are_the_label() {
    for (gold, answer) in [
        ("automobile", "a car"),
        ("automobile", "The object in the image is an automobile."),
        ("airplane", "PLANE"),
        ("cat", "cats"),
        ("cat", "a cat, a cat, a cat"),
        ("automobile", "car or automobile"),
    ] {
        check_correct(&cifar10(), gold, answer, false);
    }
    for (gold, answer) in [
        ("couch", "sofa"),
        ("wolf", "wolves"),
        ("woman", "Women"),
        ("oak tree", "an oak"),
        ("streetcar", "tram"),
        ("aquarium fish", "aquarium_fish"),
        ("cattle", "a cow"),
    ] {
        check_correct(&cifar100(), gold, answer, false);
    }
}

#[test]
fn a_compound_counts_as_its_head_where_it_is_a_kind_of_it() {
    for (labels, gold, answer) in [
        (cifar100(), "bus", "a school bus"),
        (cifar100(), "can", "a tin can"),
        (cifar100(), "shark", "a great white shark"),
        (cifar100(), "turtle", "a sea turtle"),
        (cifar100(), "butterfly", "an orange butterfly"),
        (cifar10(), "truck", "a fire truck"),
        (cifar10(), "cat", "Persian cat"),
        (cifar10(), "frog", "a tree frog"),
    ] {
        let finding = read(&labels, gold, answer).finding;
        assert!(matches!(finding, Finding::Correct { .. }), "{answer}: {finding:?}");
    }
}

#[test]
fn a_place_is_not_what_the_answer_means() {
    check_correct(&cifar10(), "cat", "a cat in a car", true);
    check(&cifar10(), "automobile", "a cat in a car", ErrorCode::Wrong);
    check_correct(&cifar100(), "lion", "The animal on the road is a lion", true);
    check(&cifar100(), "road", "The animal on the road is a lion", ErrorCode::Wrong);
    check(&cifar10(), "bird", "a bird and a cat", ErrorCode::Multi);
}

#[test]
fn a_denial_is_never_correct_and_never_certain() {
    for answer in [
        "not a cat",
        "This is not a cat.",
        "It isn't a cat",
        "no cat",
        "not a cat, but something else",
        "neither a cat nor a dog",
    ] {
        let reading = read(&cifar10(), "cat", answer);
        assert_eq!(reading.finding, Finding::Error(ErrorCode::Out), "{answer}");
        assert!(!reading.certain, "{answer}");
    }
}

#[test]
fn a_choice_between_labels_is_several_and_with_a_stranger_unclear() {
    check(&cifar10(), "cat", "cat or dog", ErrorCode::Multi);
    check(&cifar10(), "cat", "cat/dog", ErrorCode::Multi);
    check(&cifar10(), "cat", "a cat or a lynx", ErrorCode::Out);
    assert!(!read(&cifar10(), "cat", "it might be a cat").certain);
    check(&cifar100(), "rocket", "rocket is a ship.", ErrorCode::Out);
    check(&cifar100(), "bed", "chair is a bed.", ErrorCode::Multi);
    check_correct(&cifar100(), "bed", "bed is a bed.", false);
    check_correct(&cifar10(), "cat", "The cat is sleeping on a couch.", true);
}

#[test]
fn a_refusal_is_a_refusal_and_certain_where_it_names_nothing() {
    for answer in
        ["I'm sorry, I cannot see the image.", "I am unable to identify the object", "Sorry, as an AI I can't."]
    {
        check(&cifar10(), "cat", answer, ErrorCode::Refusal);
        assert!(read(&cifar10(), "cat", answer).certain, "{answer}");
    }
    assert!(!read(&cifar10(), "cat", "I cannot tell, it may be a cat").certain);
}

#[test]
fn hypernyms_are_too_generic_and_hyponyms_too_specific() {
    for (labels, gold, answer, code) in [
        (cifar10(), "dog", "an animal", ErrorCode::TooGeneric),
        (cifar10(), "truck", "a vehicle", ErrorCode::TooGeneric),
        (cifar10(), "dog", "golden retriever", ErrorCode::TooSpecific),
        (cifar10(), "airplane", "airliner", ErrorCode::TooSpecific),
        (mini(), "golden retriever", "The object is a dog.", ErrorCode::TooGeneric),
        (mini(), "African hunting dog", "dog", ErrorCode::TooGeneric),
        (cifar100(), "oak tree", "tree", ErrorCode::TooGeneric),
        (cifar10(), "dog", "a vehicle", ErrorCode::Out),
        // Words that WordNet also lists in a sense that is implausible for an image.
        (cifar100(), "man", "cat", ErrorCode::Out),
        (cifar10(), "truck", "tractor", ErrorCode::Out),
    ] {
        check(&labels, gold, answer, code);
    }
    let leaked = read_tuned(&mini(), &[&cifar10()], "golden retriever", "The object is a dog.");
    assert_eq!(leaked.finding, Finding::Error(ErrorCode::Leak));
    assert!(leaked.names_ancestor);
}

#[test]
fn a_name_with_punctuation_is_found_in_a_sentence() {
    let names = "St. Bernard,Mexican hairless dog (xoloitzcuintli),T-shirt,kite (bird of prey),slip-on shoe,through arch bridge";
    let dogs = set(names, AnswerType::Object);
    for (gold, answer) in [
        ("St. Bernard", "The object is a St. Bernard."),
        ("St. Bernard", "a St Bernard"),
        ("Mexican hairless dog (xoloitzcuintli)", "a Mexican hairless dog (xoloitzcuintli)."),
        ("Mexican hairless dog (xoloitzcuintli)", "a Mexican hairless dog"),
        ("T-shirt", "It is a T-shirt."),
        ("kite (bird of prey)", "The object is a kite."),
        ("slip-on shoe", "The object is a slip-on shoe."),
        ("through arch bridge", "The object is a through arch bridge."),
    ] {
        check_correct(&dogs, gold, answer, false);
    }
}

#[test]
fn a_list_number_is_no_answer() {
    check_correct(&cifar10(), "cat", "1. cat", true);
    assert!(!read(&cifar10(), "cat", "1. cat").certain);
    check(&cifar10(), "cat", "cat. 1", ErrorCode::TypeClash);
}

#[test]
fn a_label_without_letters_is_matched_as_a_whole_answer() {
    let signs = set("+,-,plus minus", AnswerType::Object);
    check_correct(&signs, "+", " + ", false);
    check(&signs, "-", "+", ErrorCode::Wrong);
}

#[test]
fn every_label_of_every_set_is_correct_for_itself_and_wrong_for_its_neighbour() {
    for labels in [cifar10(), cifar100(), mini(), digits()] {
        let grader = Grader::new(&labels, &[], &LEXICON);
        for (index, name) in labels.names().enumerate() {
            for answer in [name.to_owned(), format!("The object is a(n) {name}."), name.to_uppercase()] {
                let reading = grader.grade(index, &answer);
                assert_eq!(reading.finding, Finding::Correct { verbose: false, with_leak: false }, "{answer}");
                assert!(reading.certain, "{answer}");
                let other = grader.grade((index + 1) % labels.len(), &answer);
                assert_eq!(other.finding, Finding::Error(ErrorCode::Wrong), "{answer}");
            }
        }
    }
}

/// Words with special rules, labels of all sets, and unknown words.
fn words() -> impl Strategy<Value = String> {
    let vocabulary: Vec<String> = [CIFAR10, MINI, "8,four,0,tank,fish,man,can,orange,sea"]
        .join(",")
        .split(',')
        .map(str::to_owned)
        .chain(
            "a an the is in on with and or not no of I can't sorry , . picture number object animal dog's hot gizmo"
                .split(' ')
                .map(str::to_owned),
        )
        .collect();
    proptest::collection::vec(proptest::sample::select(vocabulary), 0..9).prop_map(|words| words.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_tuned_on_changes_codes_but_neither_outcome_nor_certainty(answers in proptest::collection::vec(words(), 20)) {
        static GRADERS: LazyLock<Vec<(Grader, Grader, usize)>> = LazyLock::new(|| {
            [(cifar10(), vec![mini(), digits()]), (digits(), vec![cifar10()]), (mini(), vec![cifar100(), cifar10()])]
                .into_iter()
                .map(|(labels, tuned)| {
                    let tuned: Vec<&LabelSet> = tuned.iter().collect();
                    (Grader::new(&labels, &[], &LEXICON), Grader::new(&labels, &tuned, &LEXICON), labels.len())
                })
                .collect()
        });
        for (index, answer) in answers.iter().enumerate() {
            for (without, with, n_labels) in GRADERS.iter() {
                let label = index % n_labels;
                let (without, with) = (without.grade(label, answer), with.grade(label, answer));
                prop_assert_eq!(without.verdict(), with.verdict(), "{}", answer);
                prop_assert_eq!(without.certain, with.certain, "{}", answer);
            }
        }
    }

    #[test]
    fn no_answer_makes_the_rules_fail_and_at_most_one_label_is_correct(answer in "\\PC{0,40}|[ -~\\n]{0,60}", sentence in words()) {
        static GRADER: LazyLock<(Grader, usize)> =
            LazyLock::new(|| (Grader::new(&cifar10(), &[&digits()], &LEXICON), cifar10().len()));
        for text in [answer, sentence] {
            let n_correct = (0..GRADER.1)
                .filter(|&label| matches!(GRADER.0.grade(label, &text).finding, Finding::Correct { .. }))
                .count();
            prop_assert!(n_correct <= 1, "{}", text);
        }
    }
}
