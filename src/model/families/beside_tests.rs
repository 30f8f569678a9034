//! Families whose layers attend to images beside the text: all ways to continue a prompt agree.

use candle_core::{D, DType, Tensor};

use super::*;
use crate::model::checkpoint::weights::TOWER_FOLDER;
use crate::model::checkpoint::weights::testing::{copy_of, pictures, rgb_image, shared, write};
use crate::model::run::prefix::RowMedia;
use crate::model::run::scoring::score;

const LABELS: [&str; 4] = ["cat", "caterpillar", "dog", "a red truck"];

/// Each family's model, with what its tower sees of two pictures.
fn models() -> Vec<(&'static str, Model, Vec<Seen>)> {
    let Some(shared) = shared() else { return Vec::new() };
    let load = |name: &'static str| {
        let dir = shared.join("fixtures").join(name);
        let template = tempfile::tempdir().unwrap();
        let path = template.path().join("template.jinja");
        write(&path, "<|image|>{{ messages[0].content[1].text }}");
        let tower = dir.join(TOWER_FOLDER);
        let tower = tower.exists().then(|| Checkpoint::open(tower).unwrap());
        let chosen = if name == "mllama" { path.to_str() } else { None };
        let copy = if name == "open_flamingo" { None } else { Some(copy_of(&dir)) };
        let folder = copy.as_ref().map_or(dir.as_path(), |copy| copy.path());
        let opened = OpenedModel::open(&Checkpoint::open(folder).unwrap(), tower.as_ref(), chosen).unwrap();
        let inputs: Vec<ImageInput> =
            pictures(&dir).iter().take(2).map(|file| opened.preprocessor.prepare(&rgb_image(file))).collect();
        let model = opened.load(&Placement::cpu()).unwrap();
        let seen = model.mllm.see(&inputs.iter().collect::<Vec<_>>()).unwrap();
        (name, model, seen)
    };
    ["mllama", "otter_llama", "otter_mpt", "open_flamingo"].into_iter().map(load).collect()
}

/// The log-probability of `answer` by a pass over all of it.
fn forced(model: &Model, prompt: &RenderedPrompt, seen: &Seen, answer: &[u32]) -> f32 {
    let prompt = ImagePrompt { prompt, images: std::slice::from_ref(seen) };
    let logits = model.mllm.teacher_forced(&[ForcedAnswer { prompt, answer }], Watched::by_none()).unwrap();
    let logits = logits.to_dtype(DType::F32).unwrap();
    let shares = candle_nn::ops::log_softmax(&logits, D::Minus1).unwrap();
    let wanted = Tensor::new(answer, logits.device()).unwrap().unsqueeze(1).unwrap();
    shares.gather(&wanted, 1).unwrap().sum_all().unwrap().to_scalar().unwrap()
}

#[test]
fn labels_score_as_whole_answers_do_and_generation_says_what_is_most_probable() {
    for (name, model, seen) in models() {
        let prompt = model.dialogue.render("What is it?").unwrap();
        let trie = model.dialogue.label_trie(&prompt, &LABELS).unwrap();
        let rows = model.rows(&prompt, &seen).unwrap();
        let mut prefix = model.mllm.read(None, &rows, trie.n_nodes() + 6, Watched::by_none()).unwrap();
        let scores = score(model.mllm.decoder(), &mut prefix, &trie).unwrap();
        for (scores, seen) in scores.iter().zip(&seen) {
            for (score, label) in scores.as_ref().unwrap().iter().zip(LABELS) {
                let whole = forced(&model, &prompt, seen, &model.dialogue.answer_ids(&prompt, label).unwrap());
                assert!((score - whole).abs() < 1e-3, "{name} {label}: {score} and {whole}");
            }
        }
        // The state is as it was before the labels, so an answer continues from it.
        let decoding = Decoding {
            max_new_tokens: 6,
            eos_ids: vec![u32::MAX],
            stop_strings: Vec::new(),
            processors: Default::default(),
        };
        let answers = model.generate(prefix, &decoding).unwrap();
        for (answer, seen) in answers.into_iter().zip(&seen) {
            let ids = answer.unwrap().ids;
            let prompt = ImagePrompt { prompt: &prompt, images: std::slice::from_ref(seen) };
            let example = ForcedAnswer { prompt, answer: &ids };
            let logits = model.mllm.teacher_forced(&[example], Watched::by_none()).unwrap();
            assert_eq!(logits.argmax(D::Minus1).unwrap().to_vec1::<u32>().unwrap(), ids, "{name}");
        }
    }
}

#[test]
fn an_image_decides_what_is_answered_and_without_it_the_text_is_read_alone() {
    for (name, mut model, seen) in models() {
        let prompt = model.dialogue.render("What is it?").unwrap();
        let logits = |model: &Model, seen: &Seen| {
            let row = model.prompt_rows(&prompt, &[vec![seen.clone()]]).unwrap().remove(0);
            model.first_logits(row).unwrap()
        };
        let [first, second] = [&seen[0], &seen[1]].map(|seen| logits(&model, seen));
        assert_ne!(first, second, "{name}");
        model.is_blind = true;
        let [first_blind, second_blind] = [&seen[0], &seen[1]].map(|seen| logits(&model, seen));
        assert_eq!(first_blind, second_blind, "{name}");
        assert_ne!(first, first_blind, "{name}");
    }
}

#[test]
fn tokens_see_the_last_image_and_in_llama_those_directly_before_it() {
    let device = &candle_core::Device::Cpu;
    let image = |kind: CrossKind, n: usize, n_seen: usize, value: f32| {
        let features = Tensor::full(value, (n, 2), device).unwrap();
        let embedding = Tensor::zeros((1, 3), DType::F32, device).unwrap();
        ImageEmbedding { beside: Some(Beside { features, n_seen, kind }), ..ImageEmbedding::plain(embedding) }
    };
    for (kind, first, second, before) in
        [(CrossKind::Llama, 0..2, 0..5, 0..12), (CrossKind::Flamingo, 0..2, 2..5, 0..0)]
    {
        // Two images side by side at positions 1 and 2, and another at 5.
        let images = [image(kind, 4, 2, 1.0), image(kind, 4, 3, 2.0), image(kind, 4, 4, 3.0)];
        let placed: Vec<(&ImageEmbedding, usize)> = images.iter().zip([1, 2, 5]).collect();
        let RowMedia { features, views } = prompt::beside(&placed, 8).unwrap().unwrap();
        let attends: Vec<Range<usize>> = views.iter().map(|view| view.attends.clone()).collect();
        let expected = [&[before, first][..], &vec![second; 3], &vec![5..9; 3]].concat();
        assert_eq!(attends, expected, "{kind:?}");
        assert_eq!(views.iter().map(|view| view.sees).collect::<Vec<_>>(), [&[false][..], &[true; 7]].concat());
        // What is seen comes first, image by image, and then what only tokens before the images attend to.
        let values: Vec<f32> = features.narrow(1, 0, 1).unwrap().squeeze(1).unwrap().to_vec1().unwrap();
        assert_eq!(values, [1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0, 1.0, 1.0, 2.0]);
    }
}
