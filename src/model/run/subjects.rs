//! The subjects on their device: the models of all runs and the encoder. Shared parts are computed once.

use std::cell::OnceCell;
use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::Tensor;

use super::features::{ImageVector, TowerFeatures};
use super::generate::Decoding;
use super::image_attention::RestrictedAttention;
use super::prefix::{Opening, Prefix, PromptRow, batches_by_length};
use super::scoring::{self, LabelTrie, ScoreNotFinite, ranking};
use super::tower_pass::{Row, TowerPass, embeddings, input, inputs, merged, places_where, rows_of, see};
use crate::domain::{
    Answer, Conversation, Item, N_SCORES_KEPT, RgbImage, RunId, RunSet, ScoredLabel, ends_in_thought,
    with_thought_opened,
};
use crate::model::families::{Model, PlainTower, RenderedPrompt, Seen, side_by_side};
use crate::model::layers::Watched;
use crate::model::vision::encoders::Encoder;
use crate::model::vision::preprocess::{ImageInput, ImageProcessor, Preprocessor};
use crate::model::vision::zero_shot::rank;

/// The models of all runs and their encoder, loaded.
pub struct Subjects {
    /// The model without adapter.
    base: Option<Model>,
    /// One model per run. The first is the base if `base` is `None`.
    pub(super) models: Vec<Model>,
    /// The distinct image preparations. The first is the base's.
    views: Vec<Arc<dyn ImageProcessor>>,
    /// By run, its index in `views`.
    view_of: Vec<usize>,
    /// Each tower with the runs that share it.
    towers: Vec<SharedTower>,
    /// The encoder. If its tower is the base's, one pass serves both when their pixels are equal.
    encoder: Option<Encoder>,
    /// Whether answers include the tower features of their image.
    tells_features: bool,
}

/// A tower, and the runs that use it.
#[derive(Clone, Copy)]
struct SharedTower {
    runs: RunSet,
    /// Whether it is the base's.
    is_base: bool,
}

/// Keys that identify what each tower computes. Runs with equal keys share a tower.
pub struct TowerKeys {
    /// The base's key.
    pub of_base: String,
    /// The keys by run.
    pub of_runs: Vec<String>,
}

/// The questions about every image of a dataset.
pub struct Questions {
    /// For the base.
    of_base: Arc<Asked>,
    /// By run. Models with the same prompt share one.
    of_runs: Vec<Arc<Asked>>,
    /// By run, the start of the prompt before the image, once it was read.
    openings: Vec<OnceCell<Opening>>,
    /// For the encoder: unit-length label embeddings `(dimension, labels)`.
    label_embeddings: Option<Tensor>,
    /// The names of the labels.
    labels: Vec<String>,
    /// By run, each label's score on an image of the mean colour, computed on first use. `None` if a score is not
    /// finite.
    priors: Vec<OnceCell<Option<Vec<f32>>>>,
}

/// The question for a model.
struct Asked {
    prompt: RenderedPrompt,
    decoding: Decoding,
    /// The trie of the labels, if labels are scored.
    trie: Option<LabelTrie>,
}

impl Asked {
    /// Returns the number of positions that an answer needs after its prompt.
    fn n_new_positions(&self) -> usize {
        self.decoding.max_new_tokens.max(self.trie.as_ref().map_or(0, LabelTrie::n_nodes))
    }
}

/// An image prepared for the subjects.
#[derive(Clone, Copy, Debug)]
pub struct ImageRow<'a> {
    /// For the models, by [view](Subjects::views). `None` if no subject that must answer uses the view.
    pub for_models: &'a [Option<ImageInput>],
    /// For the encoder, if it differs from the base's.
    pub for_encoder: Option<&'a ImageInput>,
    /// The tower features of the image that are already known.
    pub known: &'a TowerFeatures,
}

/// The images of an item, and the subjects that must answer.
#[derive(Clone, Debug)]
pub struct ItemRow<'a> {
    /// The images, as many as the prompt has places for.
    pub images: Vec<ImageRow<'a>>,
    /// The runs whose model must answer.
    pub generate: RunSet,
    /// The runs whose model must score the labels.
    pub score: RunSet,
    /// The runs whose tower's features a probe needs. A probe sees the first image only.
    pub probe: RunSet,
    /// Whether the encoder must answer. It sees the first image only.
    pub asks_encoder: bool,
}

/// The answers about one item.
#[derive(Clone, Debug, Default)]
pub struct ItemAnswers {
    /// By run: the answer, or why the model failed on this item.
    pub generated: Vec<(RunId, Result<Answer, String>)>,
    /// By run: the labels' scores, or why the model failed on this item.
    pub scored: Vec<(RunId, Result<LabelChoice, String>)>,
    /// By tower whose features were requested: the runs that requested them, and the mean of the projector's input.
    pub features: Vec<(RunSet, Vec<f32>)>,
    /// The encoder's best labels, best first. `None` if it was not asked.
    pub encoder: Option<Vec<ScoredLabel>>,
    /// By image: the newly computed tower features, if answers include features.
    pub made: Vec<TowerFeatures>,
}

/// The result of label scoring for one item.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelChoice {
    /// The best labels, best first, by log-probability.
    pub scores: Vec<ScoredLabel>,
    /// The best label after each label's score on an image of the mean colour is subtracted. `None` if such a score is
    /// not finite.
    pub prior_corrected: Option<String>,
    /// The number of prompt tokens, including image positions.
    pub n_prompt_tokens: usize,
}

impl Subjects {
    /// `models` is the base and then each adapter's model. Without `has_base`, the base is not a run.
    pub fn new(mut models: Vec<Model>, has_base: bool, keys: &TowerKeys, encoder: Option<Encoder>) -> Self {
        let mut views: Vec<Arc<dyn ImageProcessor>> = Vec::new();
        let mut view_of: Vec<usize> = models.iter().map(|model| view(&mut views, &model.preprocessor)).collect();
        let base = if has_base {
            None
        } else {
            view_of.remove(0);
            Some(models.remove(0))
        };
        let runs_of = |key: &String| RunSet::of(models.len(), |run| keys.of_runs.get(run.place()) == Some(key));
        let mut towers = vec![SharedTower { runs: runs_of(&keys.of_base), is_base: true }];
        for key in keys.of_runs.iter().filter(|key| **key != keys.of_base) {
            let runs = runs_of(key);
            if towers.iter().all(|tower| tower.runs != runs) {
                towers.push(SharedTower { runs, is_base: false });
            }
        }
        towers.retain(|tower| !tower.runs.is_empty());
        Self { base, models, views, view_of, towers, encoder, tells_features: false }
    }

    /// Makes answers include the tower features of their image.
    pub fn tell_features(&mut self) {
        self.tells_features = true;
    }

    /// The model without adapter.
    fn base(&self) -> &Model {
        self.base.as_ref().unwrap_or(&self.models[0])
    }

    /// The distinct image preparations of the models. The first is the base's.
    pub fn views(&self) -> &[Arc<dyn ImageProcessor>] {
        &self.views
    }

    /// By run, its index in [`views`](Self::views).
    pub fn view_of(&self) -> &[usize] {
        &self.view_of
    }

    /// The image preparation of the encoder.
    pub fn encoder_preprocessor(&self) -> Option<&Preprocessor> {
        self.encoder.as_ref().map(|encoder| &encoder.preprocessor)
    }

    /// Renders the `conversation` of a dataset and embeds its labels in `captions`, templates with `{}` for the label.
    /// Models can score the labels only if `scores_labels`.
    pub fn questions(
        &self,
        conversation: &Conversation,
        captions: &[String],
        labels: &[&str],
        max_new_tokens: usize,
        scores_labels: bool,
    ) -> Result<Questions> {
        let label_embeddings = match &self.encoder {
            Some(encoder) => Some(encoder.label_embeddings(captions, labels)?.t()?.contiguous()?),
            None => None,
        };
        let asked = |model: &Model| -> Result<Arc<Asked>> {
            let prompt = model.dialogue.render_conversation(conversation)?;
            let trie = if scores_labels { Some(model.dialogue.label_trie(&prompt, labels)?) } else { None };
            Ok(Arc::new(Asked { prompt, decoding: model.dialogue.decoding(max_new_tokens), trie }))
        };
        let of_base = asked(self.base())?;
        let of_run = |model: &Model| match Arc::ptr_eq(&model.dialogue, &self.base().dialogue) {
            true => Ok(of_base.clone()),
            false => asked(model),
        };
        Ok(Questions {
            of_runs: self.models.iter().map(of_run).collect::<Result<_>>()?,
            openings: self.models.iter().map(|_| OnceCell::new()).collect(),
            label_embeddings,
            labels: labels.iter().map(|&label| label.to_owned()).collect(),
            priors: self.models.iter().map(|_| OnceCell::new()).collect(),
            of_base,
        })
    }

    /// Answers one batch, with one answer per item.
    pub fn ask(&self, questions: &Questions, items: &[ItemRow]) -> Result<Vec<ItemAnswers>> {
        let rows = rows_of(items);
        let new = |item: &ItemRow| ItemAnswers {
            made: vec![TowerFeatures::default(); item.images.len()],
            ..ItemAnswers::default()
        };
        let mut answers: Vec<ItemAnswers> = items.iter().map(new).collect();
        let mut vectors = None;
        for number in 0..self.towers.len() {
            let Some(pass) = self.pass_tower(number, &rows)? else { continue };
            self.add_features(number, &pass, &rows, &mut answers)?;
            for run in self.towers[number].runs.iter() {
                self.answer(run, questions, items, (&rows, &pass), &mut answers)?;
            }
            vectors = vectors.or(pass.vectors);
        }
        self.ask_encoder(questions, &rows, vectors, &mut answers)?;
        Ok(answers)
    }

    /// Adds the answers of the model of `run` to the items that need them, given what its tower saw in `pass`.
    fn answer(
        &self,
        run: RunId,
        questions: &Questions,
        items: &[ItemRow],
        (rows, pass): (&[Row], &TowerPass),
        answers: &mut [ItemAnswers],
    ) -> Result<()> {
        let model = &self.models[run.place()];
        let generated = places_where(items, |item| item.generate.contains(run));
        let scored = places_where(items, |item| item.score.contains(run));
        // If the same items are generated and scored, one reading of the prompt serves both.
        let readings = match generated == scored {
            true => vec![(generated, true, true)],
            false => vec![(generated, true, false), (scored, false, true)],
        };
        for (asked, is_generated, is_scored) in readings.into_iter().filter(|(asked, ..)| !asked.is_empty()) {
            let prompt = &questions.of_runs[run.place()].prompt;
            let seen: Vec<Vec<Seen>> = asked.iter().map(|&item| pass.seen_of(rows, item)).collect();
            let prompts = model.prompt_rows(prompt, &seen)?;
            for (asked, prompts) in by_length(asked, prompts, prompt.n_text_tokens()) {
                let mut watch = RestrictedAttention::new(model.image_attention, &prompts);
                let mut prefix = self.read(run, questions, &prompts, watch.as_mut())?;
                if is_scored {
                    let choices = self.choose(run, questions, &mut prefix)?;
                    asked.iter().zip(choices).for_each(|(&item, choice)| answers[item].scored.push((run, choice)));
                }
                if is_generated {
                    let texts = generate(model, &questions.of_runs[run.place()], prefix, watch.as_mut())?;
                    asked.iter().zip(texts).for_each(|(&item, text)| answers[item].generated.push((run, text)));
                }
            }
        }
        Ok(())
    }

    /// Adds the encoder's choices. `vectors` are its embeddings of the rows that it must answer, if the models' pass
    /// computed them.
    fn ask_encoder(
        &self,
        questions: &Questions,
        rows: &[Row],
        vectors: Option<Vec<ImageVector>>,
        answers: &mut [ItemAnswers],
    ) -> Result<()> {
        let asked = places_where(rows, |row| row.asks_encoder);
        let (Some(encoder), false) = (&self.encoder, asked.is_empty()) else { return Ok(()) };
        let vectors = match vectors {
            Some(vectors) => vectors,
            None => {
                let is_new = |row: &usize| rows[*row].image.known.embedding.is_none();
                let new: Vec<usize> = asked.iter().copied().filter(is_new).collect();
                let image = |row: usize| rows[row].image.for_encoder.map_or_else(|| input(rows, row, BASE_VIEW), Ok);
                let images = new.iter().map(|&row| image(row)).collect::<Result<Vec<_>>>()?;
                let tower = encoder.towers.tower();
                let hidden = |images: &[&ImageInput]| -> Result<Tensor> {
                    Ok(tower.hidden_states(&tower.pixels(images)?, &[tower.state_before_last()])?.swap_remove(0))
                };
                let made = if images.is_empty() { Vec::new() } else { embeddings(encoder, &hidden(&images)?)? };
                let known = |row: usize| rows[row].image.known.embedding.clone();
                merged(&asked, &new, made, known)?
            }
        };
        let labels = questions.label_embeddings.as_ref().context("the encoder has no captions to rank")?;
        let images: Vec<&Tensor> = vectors.iter().map(|ImageVector(image)| image).collect();
        let ranked = rank(labels, &questions.labels, &Tensor::stack(&images, 0)?)?;
        for ((row, ranking), vector) in asked.into_iter().zip(ranked).zip(vectors) {
            let Row { item, place, image, .. } = rows[row];
            answers[item].encoder = Some(ranking);
            if self.tells_features && image.known.embedding.is_none() {
                answers[item].made[place].embedding = Some(vector);
            }
        }
        Ok(())
    }

    /// Returns the runs of each tower. The base's tower comes first.
    pub fn towers(&self) -> Vec<RunSet> {
        self.towers.iter().map(|tower| tower.runs).collect()
    }

    /// The image preparation of the tower of the runs `tower`, one of [`towers`](Self::towers).
    pub fn tower_preprocessor(&self, tower: RunSet) -> &Arc<dyn ImageProcessor> {
        &self.model_of(tower).preprocessor
    }

    /// Returns the features of `images`, one row each, from the tower of the runs `tower`, one of
    /// [`towers`](Self::towers).
    pub fn tower_features(&self, tower: RunSet, images: &[&ImageInput]) -> Result<Vec<Vec<f32>>> {
        let mllm = &self.model_of(tower).mllm;
        mllm.see(images)?.iter().map(|seen| mllm.probe_features(seen)).collect()
    }

    /// Returns a model with the tower of the runs `tower`. If the tower is the base's, this is the base, whose tower
    /// the encoder may share.
    fn model_of(&self, tower: RunSet) -> &Model {
        let is_base = self.towers.iter().any(|shared| shared.is_base && shared.runs == tower);
        let first = if is_base { None } else { tower.iter().next() };
        first.and_then(|run| self.models.get(run.place())).unwrap_or_else(|| self.base())
    }

    /// Adds the features in `pass` to the answers: those that a probe needs and, if answers include features, those
    /// that were not known.
    fn add_features(&self, number: usize, pass: &TowerPass, rows: &[Row], answers: &mut [ItemAnswers]) -> Result<()> {
        let tower = self.towers[number].runs;
        let mllm = &self.model_of(tower).mllm;
        let number = Some(number).filter(|_| self.tells_features);
        for (&row, seen) in pass.rows.iter().zip(&pass.seen) {
            let Row { item, place, image, probe, .. } = rows[row];
            let runs = probe.intersection(tower);
            if !runs.is_empty() {
                answers[item].features.push((runs, mllm.probe_features(seen)?));
            }
            if let Some(number) = number.filter(|&number| image.known.of_tower(number).is_none()) {
                answers[item].made[place].set_tower(number, seen.clone());
            }
        }
        Ok(())
    }

    /// Returns the label choice for each row of `prefix`.
    fn choose(
        &self,
        run: RunId,
        questions: &Questions,
        prefix: &mut Prefix,
    ) -> Result<Vec<Result<LabelChoice, String>>> {
        let trie = questions.of_runs[run.place()].trie.as_ref();
        let trie = trie.context("the labels of this dataset were not prepared for scoring")?;
        let prior = match questions.priors[run.place()].get() {
            Some(prior) => prior,
            None => {
                let prior = self.prior(run, questions, trie)?;
                questions.priors[run.place()].get_or_init(|| prior)
            }
        };
        let lengths = prefix.lengths().to_vec();
        let rows = scoring::score(self.models[run.place()].mllm.decoder(), prefix, trie)?;
        let choice = |(row, n_prompt_tokens): (Result<Vec<f32>, ScoreNotFinite>, usize)| {
            let scores = row.map_err(|error| format!("{error} (`{}`)", questions.labels[error.label]))?;
            let shares = scoring::shares(&scores);
            let best = ranking(&scores).into_iter().take(N_SCORES_KEPT);
            let prior_corrected = prior.as_ref().map(|prior| {
                let corrected: Vec<f32> = scores.iter().zip(prior).map(|(score, prior)| score - prior).collect();
                questions.labels[ranking(&corrected)[0]].clone()
            });
            let scores = best
                .map(|i| ScoredLabel { label: questions.labels[i].clone(), score: scores[i], share: Some(shares[i]) })
                .collect();
            Ok(LabelChoice { scores, prior_corrected, n_prompt_tokens })
        };
        Ok(rows.into_iter().zip(lengths).map(choice).collect())
    }

    /// Reads `prompts`, with room for an answer and for all labels. A `watch` must see whole prompts.
    fn read(
        &self,
        run: RunId,
        questions: &Questions,
        prompts: &[PromptRow],
        watch: Option<&mut RestrictedAttention>,
    ) -> Result<Prefix> {
        let (model, asked) = (&self.models[run.place()], &questions.of_runs[run.place()]);
        if let Some(watch) = watch {
            return model.mllm.read(None, prompts, asked.n_new_positions(), Watched::by(watch));
        }
        let opening = match questions.openings[run.place()].get() {
            Some(opening) => opening,
            None => {
                let opening = model.opening(&asked.prompt)?;
                questions.openings[run.place()].get_or_init(|| opening)
            }
        };
        model.mllm.read(Some(opening), prompts, asked.n_new_positions(), Watched::by_none())
    }

    /// Returns the labels' scores on an image of the mean colour, which is all zeros after normalisation.
    fn prior(&self, run: RunId, questions: &Questions, trie: &LabelTrie) -> Result<Option<Vec<f32>>> {
        let model = &self.models[run.place()];
        let blank = model.preprocessor.prepare(&RgbImage::blank(PRIOR_SIDE, PRIOR_SIDE)).blank();
        let prompt = model.rows(&questions.of_runs[run.place()].prompt, &model.mllm.see(&[&blank])?)?;
        let mut watch = RestrictedAttention::new(model.image_attention, &prompt);
        let mut prefix = self.read(run, questions, &prompt, watch.as_mut())?;
        Ok(scoring::score(model.mllm.decoder(), &mut prefix, trie)?.pop().and_then(Result::ok))
    }

    /// Returns, by run, whether the first logits of an answer about `item` differ from the base's in any bit.
    pub fn differ_from_base(&self, questions: &Questions, item: &Item<'_>) -> Result<Vec<bool>> {
        let first_logits = |model: &Model, asked: &Asked| -> Result<Vec<f32>> {
            let inputs: Vec<ImageInput> = item.images.iter().map(|image| model.preprocessor.prepare(image)).collect();
            let seen = model.mllm.see(&inputs.iter().collect::<Vec<_>>())?;
            model.first_logits(model.prompt_rows(&asked.prompt, &[seen])?.remove(0))
        };
        let of_base = first_logits(self.base(), &questions.of_base)?;
        let runs = self.models.iter().zip(&questions.of_runs);
        runs.map(|(model, asked)| Ok(first_logits(model, asked)? != of_base)).collect()
    }

    /// Runs a tower once for all models that share it. The pass also serves the encoder if the tower is shared by the
    /// base and the encoder and both see the same pixels. `None` if no model needs it.
    fn pass_tower(&self, number: usize, rows: &[Row]) -> Result<Option<TowerPass>> {
        let SharedTower { runs, is_base } = self.towers[number];
        let passing = places_where(rows, |row| !row.lookers().intersection(runs).is_empty());
        if passing.is_empty() {
            return Ok(None);
        }
        let serves_encoder = is_base
            && passing == places_where(rows, |row| row.asks_encoder)
            && passing.iter().all(|&row| rows[row].image.for_encoder.is_none());
        let model = self.model_of(runs);
        let view =
            if is_base { BASE_VIEW } else { runs.iter().next().map_or(BASE_VIEW, |run| self.view_of[run.place()]) };
        let shared = model.mllm.plain_tower().zip(self.encoder.as_ref()).filter(|_| serves_encoder);
        let shared = shared.filter(|(plain, encoder)| Arc::ptr_eq(plain.tower, encoder.towers.tower()));
        let Some((PlainTower { tower, states: wanted }, encoder)) = shared else {
            let seen = see(model, number, view, rows, &passing)?;
            return Ok(Some(TowerPass { rows: passing, seen, vectors: None }));
        };
        let is_known = |row: &Row| row.image.known.of_tower(number).is_some() && row.image.known.embedding.is_some();
        let new: Vec<usize> = passing.iter().copied().filter(|&row| !is_known(&rows[row])).collect();
        let (mut made_seen, mut made_vectors) = (Vec::new(), Vec::new());
        if !new.is_empty() {
            let images = inputs(rows, &new, view)?;
            let wanted: Vec<usize> = wanted.iter().copied().chain([tower.state_before_last()]).collect();
            let mut states = tower.hidden_states(&tower.pixels(&images)?, &wanted)?;
            let before_last = states.pop().context("a state is asked for")?;
            made_vectors = embeddings(encoder, &before_last)?;
            let hidden = side_by_side(states)?;
            let seen = images.iter().enumerate().map(|(row, image)| Ok(Seen::plain(hidden.get(row)?, image)));
            made_seen = seen.collect::<candle_core::Result<_>>()?;
        }
        let seen = merged(&passing, &new, made_seen, |row| rows[row].image.known.of_tower(number).cloned())?;
        let vectors = merged(&passing, &new, made_vectors, |row| rows[row].image.known.embedding.clone())?;
        Ok(Some(TowerPass { rows: passing, seen, vectors: Some(vectors) }))
    }
}

/// The index of the base's image preparation.
pub const BASE_VIEW: usize = 0;

/// Returns the index in `views` of one that prepares images as `processor` does. Adds it if there is none.
fn view(views: &mut Vec<Arc<dyn ImageProcessor>>, processor: &Arc<dyn ImageProcessor>) -> usize {
    let is_same =
        |view: &Arc<dyn ImageProcessor>| Arc::ptr_eq(view, processor) || view.parameters() == processor.parameters();
    views.iter().position(is_same).unwrap_or_else(|| {
        views.push(processor.clone());
        views.len() - 1
    })
}

/// The side of the image of the mean colour, in pixels, before it is prepared.
const PRIOR_SIDE: u32 = 224;

/// Groups items with their prompts into batches of similar image length. The prompts share a text of `n_text_tokens`.
fn by_length(items: Vec<usize>, prompts: Vec<PromptRow>, n_text_tokens: usize) -> Vec<(Vec<usize>, Vec<PromptRow>)> {
    let lengths: Vec<usize> = prompts.iter().map(|prompt| prompt.n_tokens() - n_text_tokens).collect();
    let batches = batches_by_length(&lengths).into_iter();
    let of = |batch: Vec<usize>| batch.into_iter().map(|place| (items[place], prompts[place].clone())).unzip();
    batches.map(of).collect()
}

/// Returns the model's answer to each prompt of `prefix`.
fn generate(
    model: &Model,
    asked: &Asked,
    prefix: Prefix,
    watch: Option<&mut RestrictedAttention>,
) -> Result<Vec<Result<Answer, String>>> {
    let watch = watch.map_or_else(Watched::by_none, |watch| Watched::by(watch));
    let rows = model.generate_watched(prefix, &asked.decoding, watch)?;
    let begins_in_thought = ends_in_thought(&asked.prompt.text);
    rows.into_iter()
        .map(|row| match row {
            Ok(generation) => {
                let mut answer = model.dialogue.answer(&generation, &asked.decoding)?;
                if begins_in_thought {
                    answer.text = with_thought_opened(&answer.text);
                }
                Ok(Ok(answer))
            }
            Err(error) => Ok(Err(error.to_string())),
        })
        .collect()
}
