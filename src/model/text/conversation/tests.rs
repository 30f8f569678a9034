use super::*;
use crate::model::checkpoint::weights::testing::fixtures;
use crate::model::checkpoint::weights::{Checkpoint, Miniature, open_checkpoint};

fn turn(n_images: usize, text: &str, answer: Option<&str>) -> Turn {
    Turn { n_images, text: text.to_owned(), answer: answer.map(str::to_owned) }
}

#[test]
fn a_plain_template_takes_several_images_and_one_turn() {
    let checkpoint = open_checkpoint(std::path::Path::new("embedded"), Miniature::Model).unwrap();
    let template = ChatTemplate::open(&checkpoint, Some("llava_hf")).unwrap();
    let render = |turns: Vec<Turn>| template.render_conversation(&Conversation { turns });
    let two = render(vec![turn(2, "Which differs?", None)]).unwrap();
    assert_eq!(two, "USER: <image>\n<image>\nWhich differs? ASSISTANT:");
    assert_eq!(render(vec![turn(1, "What?", None)]).unwrap(), template.render("What?").unwrap());
    let error = render(vec![turn(1, "What?", Some("A cat")), turn(0, "And now?", None)]).unwrap_err();
    assert!(error.to_string().contains("one question and no answers"), "{error}");
}

#[test]
fn a_checkpoints_own_template_takes_turns_with_answers_and_images() {
    for (name, marker) in [("llava", "<image>"), ("qwen2_5_vl", "<|image_pad|>")] {
        for dir in fixtures(name) {
            let checkpoint = Checkpoint::open(dir).unwrap();
            let template = ChatTemplate::open(&checkpoint, None).unwrap().with_image_marker(marker);
            let turns = vec![turn(1, "What is it?", Some("A zebra")), turn(2, "And these?", None)];
            let text = template.render_conversation(&Conversation { turns }).unwrap();
            assert_eq!(text.matches(marker).count(), 3, "{text}");
            let places = ["What is it?", "A zebra", "And these?"].map(|part| text.find(part).unwrap());
            assert!(places.is_sorted(), "{text}");
        }
    }
}
