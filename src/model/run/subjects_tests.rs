//! Items with several images and conversations of several turns, on the built-in model.

use std::path::Path;

use super::features::TowerFeatures;
use super::subjects::{BASE_VIEW, ImageRow, ItemRow, Subjects, TowerKeys};
use crate::dataset::{Catalog, DataRoots, OpenRequest, open};
use crate::domain::{Conversation, RgbImage, RunId, RunSet, Turn};
use crate::model::Placement;
use crate::model::checkpoint::weights::{EMBEDDED, Miniature, open_checkpoint};
use crate::model::families::OpenedModel;
use crate::model::layers::Watched;
use crate::model::vision::preprocess::ImageInput;

const FIRST: RunId = RunId::new(0);

fn miniature() -> Subjects {
    let checkpoint = open_checkpoint(Path::new(EMBEDDED), Miniature::Model).unwrap();
    let model = OpenedModel::open(&checkpoint, None, None).unwrap().load(&Placement::cpu()).unwrap();
    let keys = TowerKeys { of_base: "t".to_owned(), of_runs: vec!["t".to_owned()] };
    Subjects::new(vec![model], true, &keys, None)
}

fn digits(n: usize) -> Vec<RgbImage> {
    let request = OpenRequest { text: "embedded/mnist", ..OpenRequest::default() };
    let dataset = open(&Catalog::embedded(), &DataRoots::default(), &request).unwrap();
    (0..n).map(|position| dataset.read(position).unwrap()).collect()
}

/// What the model answers to items of these images, in one batch.
fn answers(subjects: &Subjects, conversation: &Conversation, items: &[&[RgbImage]]) -> Vec<String> {
    let questions = subjects.questions(conversation, &[], &["one", "two"], 6, false).unwrap();
    let prepare = |image: &RgbImage| vec![Some(subjects.views()[BASE_VIEW].prepare(image))];
    let prepared: Vec<Vec<_>> = items.iter().map(|images| images.iter().map(prepare).collect()).collect();
    let known = TowerFeatures::default();
    let run = RunSet::of(1, |_| true);
    let rows: Vec<ItemRow> = prepared
        .iter()
        .map(|images| ItemRow {
            images: images
                .iter()
                .map(|input| ImageRow { for_models: input, for_encoder: None, known: &known })
                .collect(),
            generate: run,
            score: RunSet::default(),
            probe: RunSet::default(),
            asks_encoder: false,
        })
        .collect();
    let answered = subjects.ask(&questions, &rows).unwrap();
    answered.into_iter().map(|mut item| item.generated.remove(0).1.unwrap().text).collect()
}

#[test]
fn items_of_two_images_are_answered_as_their_prompts_are_read_by_the_model_itself() {
    let subjects = miniature();
    let turn = |text: &str, answer: Option<&str>| Turn {
        n_images: 1,
        text: text.to_owned(),
        answer: answer.map(str::to_owned),
    };
    let conversation = Conversation { turns: vec![turn("What is this?", Some("3")), turn("And this?", None)] };
    let images = digits(4);
    let items: [&[RgbImage]; 2] = [&images[..2], &images[2..]];
    let together = answers(&subjects, &conversation, &items);
    let model = &subjects.models[FIRST.place()];
    let prompt = model.dialogue.render_conversation(&conversation).unwrap();
    for (item, answer) in items.iter().zip(&together) {
        let inputs: Vec<ImageInput> = item.iter().map(|image| model.preprocessor.prepare(image)).collect();
        let seen = model.mllm.see(&inputs.iter().collect::<Vec<_>>()).unwrap();
        let row = model.place(&prompt, &model.mllm.embed_images(&seen).unwrap()).unwrap();
        let decoding = model.dialogue.decoding(6);
        let prefix = model.mllm.read(None, &[row], 6, Watched::by_none()).unwrap();
        let alone = model.generate(prefix, &decoding).unwrap().remove(0).unwrap();
        assert_eq!(*answer, model.dialogue.answer(&alone, &decoding).unwrap().text);
        assert_eq!(*answer, answers(&subjects, &conversation, &[item])[0], "it depends on its neighbour");
    }
}

#[test]
fn an_item_with_too_few_images_is_an_error_that_counts_them() {
    let subjects = miniature();
    let conversation = Conversation { turns: vec![Turn { n_images: 2, text: "Which?".to_owned(), answer: None }] };
    let questions = subjects.questions(&conversation, &[], &["one"], 6, false).unwrap();
    let image = digits(1).remove(0);
    let prepared = vec![Some(subjects.views()[BASE_VIEW].prepare(&image))];
    let known = TowerFeatures::default();
    let row = ItemRow {
        images: vec![ImageRow { for_models: &prepared, for_encoder: None, known: &known }],
        generate: RunSet::of(1, |_| true),
        score: RunSet::default(),
        probe: RunSet::default(),
        asks_encoder: false,
    };
    let error = subjects.ask(&questions, &[row]).unwrap_err().to_string();
    assert!(error.contains("1 images do not fill the 2 places"), "{error}");
}
