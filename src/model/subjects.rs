//! The subjects on their device: the models of all runs and the encoder beside them, with what they share computed once.

use std::cell::OnceCell;
use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::Tensor;

use super::encoders::Encoder;
use super::generate::Decoding;
use super::mllm::{Model, PlainTower, RenderedPrompt, Seen};
use super::prefix::Prefix;
use super::preprocess::{ImageInput, ImageProcessor, Preprocessor};
use super::scoring::{self, LabelTrie, NotFinite, ranking};
use super::zero_shot::{N_SCORES_KEPT, rank};
use crate::domain::{Answer, RgbImage, RunSet, ScoredLabel};

/// The models of all runs and their encoder, loaded.
pub struct Subjects {
    /// The model without adapter.
    base: Option<Model>,
    /// One a run; the first is the base where `base` is `None`.
    models: Vec<Model>,
    /// By run, whether its adapter changes the tower.
    has_own_tower: Vec<bool>,
    encoder: Option<Encoder>,
    /// Whether one pass of the base's tower serves the encoder, where their pixels agree.
    shares_tower: bool,
}

/// What is asked about every image of a dataset.
pub struct Questions {
    /// Of the models.
    prompt: RenderedPrompt,
    /// Of the encoder: unit-length label embeddings `(dimension, labels)`.
    label_embeddings: Option<Tensor>,
    /// Their names.
    labels: Vec<String>,
    decoding: Decoding,
    /// What labels are scored by, where they are.
    scoring: Option<LabelScoring>,
}

/// What the label scoring of a dataset needs.
struct LabelScoring {
    trie: LabelTrie,
    /// By run, each label's score on an image of the mean colour, once it was asked for; `None` where it is no number.
    priors: Vec<OnceCell<Option<Vec<f32>>>>,
}

/// An image as the subjects see it, and who must answer.
#[derive(Clone, Copy, Debug)]
pub struct ImageRow<'a> {
    /// For the models.
    pub for_model: &'a ImageInput,
    /// For the encoder, where it differs from the models'.
    pub for_encoder: Option<&'a ImageInput>,
    /// The runs whose model must answer.
    pub generate: RunSet,
    /// The runs whose model must score the labels.
    pub score: RunSet,
    /// The runs whose tower's features a probe needs.
    pub probe: RunSet,
    /// Whether the encoder must answer.
    pub asks_encoder: bool,
}

impl ImageRow<'_> {
    /// The runs whose tower must see it.
    fn lookers(&self) -> RunSet {
        self.generate.union(self.score).union(self.probe)
    }
}

/// The answers to one image.
#[derive(Clone, Debug, Default)]
pub struct ImageAnswers {
    /// By run: the text, or why the model failed on this image.
    pub generated: Vec<(usize, Result<Answer, String>)>,
    /// By run: the labels' scores, or why the model failed on this image.
    pub scored: Vec<(usize, Result<LabelChoice, String>)>,
    /// By tower that was asked for features: the runs that asked, and what the projector consumes in the mean.
    pub features: Vec<(RunSet, Vec<f32>)>,
    /// The encoder's best labels, best first; `None` where it was not asked.
    pub encoder: Option<Vec<ScoredLabel>>,
}

/// What label scoring makes of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelChoice {
    /// The best labels, best first, by log-probability.
    pub scores: Vec<ScoredLabel>,
    /// The best label where each one's score on an image of the mean colour is taken off; `None` where that is no
    /// number.
    pub prior_corrected: Option<String>,
    /// Tokens of the prompt, image positions included.
    pub n_prompt_tokens: usize,
}

impl Subjects {
    /// `models` is the base and then each adapter's model; without `has_base` the base is no run. `has_own_tower` is by
    /// run.
    pub fn new(
        mut models: Vec<Model>,
        has_base: bool,
        has_own_tower: Vec<bool>,
        encoder: Option<(Encoder, bool)>,
    ) -> Self {
        let base = if has_base { None } else { Some(models.remove(0)) };
        let (encoder, shares_tower) = encoder.map_or((None, false), |(encoder, shares)| (Some(encoder), shares));
        Self { base, models, has_own_tower, encoder, shares_tower }
    }

    /// The model without adapter.
    fn base(&self) -> &Model {
        self.base.as_ref().unwrap_or(&self.models[0])
    }

    /// How images are prepared for every model.
    pub fn model_preprocessor(&self) -> &Arc<dyn ImageProcessor> {
        &self.base().preprocessor
    }

    /// How images are prepared for the encoder.
    pub fn encoder_preprocessor(&self) -> Option<&Preprocessor> {
        self.encoder.as_ref().map(|encoder| &encoder.preprocessor)
    }

    /// Renders the `question` of a dataset and embeds its labels in `captions`, templates with `{}` for the label.
    /// Where `scores_labels`, models can be asked to score them.
    pub fn questions(
        &self,
        question: &str,
        captions: &[String],
        labels: &[&str],
        max_new_tokens: usize,
        scores_labels: bool,
    ) -> Result<Questions> {
        let label_embeddings = match &self.encoder {
            Some(encoder) => Some(encoder.label_embeddings(captions, labels)?.t()?.contiguous()?),
            None => None,
        };
        let prompt = self.base().dialogue.render(question)?;
        let scoring = match scores_labels {
            true => Some(LabelScoring {
                trie: self.base().dialogue.label_trie(&prompt, labels)?,
                priors: self.models.iter().map(|_| OnceCell::new()).collect(),
            }),
            false => None,
        };
        Ok(Questions {
            prompt,
            label_embeddings,
            labels: labels.iter().map(|&label| label.to_owned()).collect(),
            decoding: self.base().dialogue.decoding(max_new_tokens),
            scoring,
        })
    }

    /// Answers one batch, one answer a row.
    pub fn ask(&self, questions: &Questions, rows: &[ImageRow]) -> Result<Vec<ImageAnswers>> {
        let mut answers: Vec<ImageAnswers> = rows.iter().map(|_| ImageAnswers::default()).collect();
        let shared = self.pass_tower(rows)?;
        if let Some(pass) = &shared {
            self.add_features(self.sharing_runs(), pass, rows, &mut answers)?;
        }
        for (run, model) in self.models.iter().enumerate() {
            let own = if self.has_own_tower[run] { pass_own(model, run, rows)? } else { None };
            if let Some(pass) = &own {
                self.add_features(RunSet::of(self.models.len(), |other| other == run), pass, rows, &mut answers)?;
            }
            let Some(pass) = own.as_ref().or(shared.as_ref()) else { continue };
            let generated = rows_where(rows, |row| row.generate.contains(run));
            let scored = rows_where(rows, |row| row.score.contains(run));
            // Where the same rows are asked both, one reading of the prompt serves both.
            let readings = match generated == scored {
                true => vec![(generated, true, true)],
                false => vec![(generated, true, false), (scored, false, true)],
            };
            for (asked, is_generated, is_scored) in readings.into_iter().filter(|(asked, ..)| !asked.is_empty()) {
                let mut prefix = read(model, questions, &pass.seen_of(&asked))?;
                if is_scored {
                    let choices = self.choose(run, questions, &mut prefix)?;
                    asked.iter().zip(choices).for_each(|(&row, choice)| answers[row].scored.push((run, choice)));
                }
                if is_generated {
                    let texts = generate(model, questions, prefix)?;
                    asked.iter().zip(texts).for_each(|(&row, text)| answers[row].generated.push((run, text)));
                }
            }
        }
        self.ask_encoder(questions, rows, shared.and_then(|pass| pass.last), &mut answers)?;
        Ok(answers)
    }

    /// The encoder's choices; `last` is its hidden state where the models' pass gave it.
    fn ask_encoder(
        &self,
        questions: &Questions,
        rows: &[ImageRow],
        last: Option<Tensor>,
        answers: &mut [ImageAnswers],
    ) -> Result<()> {
        let asked = rows_where(rows, |row| row.asks_encoder);
        let (Some(encoder), false) = (&self.encoder, asked.is_empty()) else { return Ok(()) };
        let hidden = match last {
            Some(hidden) => hidden,
            None => {
                let images: Vec<_> =
                    asked.iter().map(|&row| rows[row].for_encoder.unwrap_or(rows[row].for_model)).collect();
                let tower = encoder.towers.tower();
                tower.hidden_states(&tower.pixels(&images)?, &[tower.last_state()])?.swap_remove(0)
            }
        };
        let labels = questions.label_embeddings.as_ref().context("the encoder has no captions to rank")?;
        let ranked = rank(labels, &questions.labels, &encoder.towers.image_embeddings(&hidden)?)?;
        asked.into_iter().zip(ranked).for_each(|(row, ranking)| answers[row].encoder = Some(ranking));
        Ok(())
    }

    /// The runs that stand on the base's tower.
    fn sharing_runs(&self) -> RunSet {
        RunSet::of(self.models.len(), |run| !self.has_own_tower[run])
    }

    /// The runs of each tower: those that share the base's, and each that has its own.
    pub fn towers(&self) -> Vec<RunSet> {
        let n_runs = self.models.len();
        let own =
            (0..n_runs).filter(|&run| self.has_own_tower[run]).map(|run| RunSet::of(n_runs, |other| other == run));
        std::iter::once(self.sharing_runs()).chain(own).filter(|tower| !tower.is_empty()).collect()
    }

    /// The features of `images`, one row each, by the tower of the runs `tower`, one of [`towers`](Self::towers).
    pub fn tower_features(&self, tower: RunSet, images: &[&ImageInput]) -> Result<Vec<Vec<f32>>> {
        let mllm = &self.model_of(tower).mllm;
        mllm.see(images)?.iter().map(|seen| mllm.probe_features(seen)).collect()
    }

    /// A model on the tower of the runs `tower`.
    fn model_of(&self, tower: RunSet) -> &Model {
        let own = tower.iter().find(|&run| self.has_own_tower.get(run) == Some(&true));
        own.and_then(|run| self.models.get(run)).unwrap_or_else(|| self.base())
    }

    /// Adds what `pass` gave to the answers of the rows for which runs of its tower asked for features.
    fn add_features(
        &self,
        tower: RunSet,
        pass: &TowerPass,
        rows: &[ImageRow],
        answers: &mut [ImageAnswers],
    ) -> Result<()> {
        let mllm = &self.model_of(tower).mllm;
        for (&row, seen) in pass.rows.iter().zip(&pass.seen) {
            let runs = rows[row].probe.intersection(tower);
            if !runs.is_empty() {
                answers[row].features.push((runs, mllm.probe_features(seen)?));
            }
        }
        Ok(())
    }

    /// The choice among the labels for each row of `prefix`.
    fn choose(
        &self,
        run: usize,
        questions: &Questions,
        prefix: &mut Prefix,
    ) -> Result<Vec<Result<LabelChoice, String>>> {
        let scoring = questions.scoring.as_ref().context("the labels of this dataset were not prepared for scoring")?;
        let prior = match scoring.priors[run].get() {
            Some(prior) => prior,
            None => {
                let prior = self.prior(run, questions, &scoring.trie)?;
                scoring.priors[run].get_or_init(|| prior)
            }
        };
        let lengths = prefix.lengths().to_vec();
        let rows = scoring::score(self.models[run].mllm.language(), prefix, &scoring.trie)?;
        let choice = |(row, n_prompt_tokens): (Result<Vec<f32>, NotFinite>, usize)| {
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

    /// The labels' scores on an image of the mean colour, which is all zeros once normalised.
    fn prior(&self, run: usize, questions: &Questions, trie: &LabelTrie) -> Result<Option<Vec<f32>>> {
        let model = &self.models[run];
        let blank = model.preprocessor.prepare(&RgbImage::blank(PRIOR_SIDE, PRIOR_SIDE)).blank();
        let mut prefix = read(model, questions, &model.mllm.see(&[&blank])?)?;
        Ok(scoring::score(model.mllm.language(), &mut prefix, trie)?.pop().and_then(Result::ok))
    }

    /// By run, whether the first logits of an answer about `image` differ from the base's in any bit.
    pub fn differ_from_base(&self, questions: &Questions, image: &ImageInput) -> Result<Vec<bool>> {
        let first_logits = |model: &Model| -> Result<Vec<f32>> {
            let embedded = model.mllm.embed_images(&model.mllm.see(&[image])?)?;
            model.first_logits(&questions.prompt, &embedded[0])
        };
        let of_base = first_logits(self.base())?;
        self.models.iter().map(|model| Ok(first_logits(model)? != of_base)).collect()
    }

    /// One pass of the base's tower for all models that share it, and for the encoder where it is the same tower and
    /// sees the same pixels; `None` where no model needs it.
    fn pass_tower(&self, rows: &[ImageRow]) -> Result<Option<TowerPass>> {
        let passing = rows_where(rows, |row| !row.lookers().intersection(self.sharing_runs()).is_empty());
        if passing.is_empty() {
            return Ok(None);
        }
        let serves_encoder = self.shares_tower
            && passing == rows_where(rows, |row| row.asks_encoder)
            && passing.iter().all(|&row| rows[row].for_encoder.is_none());
        let images = inputs(rows, &passing);
        let mllm = &self.base().mllm;
        let shared = mllm.plain_tower().filter(|plain| serves_encoder && plain.state != plain.tower.last_state());
        let Some(PlainTower { tower, state }) = shared else {
            return Ok(Some(TowerPass { rows: passing, seen: mllm.see(&images)?, last: None }));
        };
        let mut states = tower.hidden_states(&tower.pixels(&images)?, &[state, tower.last_state()])?;
        let last = states.pop();
        let hidden = states.pop().context("two states are asked for")?;
        let seen = images.iter().enumerate().map(|(row, image)| Ok(Seen::plain(hidden.get(row)?, image)));
        Ok(Some(TowerPass { rows: passing, seen: seen.collect::<candle_core::Result<_>>()?, last }))
    }
}

/// The side of the image of the mean colour, in pixels, before it is prepared.
const PRIOR_SIDE: u32 = 224;

fn inputs<'a>(rows: &[ImageRow<'a>], asked: &[usize]) -> Vec<&'a ImageInput> {
    asked.iter().map(|&row| rows[row].for_model).collect()
}

/// A pass of the tower that `run` has for itself; `None` where nothing is asked of it.
fn pass_own(model: &Model, run: usize, rows: &[ImageRow]) -> Result<Option<TowerPass>> {
    let passing = rows_where(rows, |row| row.lookers().contains(run));
    if passing.is_empty() {
        return Ok(None);
    }
    let seen = model.mllm.see(&inputs(rows, &passing))?;
    Ok(Some(TowerPass { rows: passing, seen, last: None }))
}

/// What one pass of the tower gave.
struct TowerPass {
    /// The rows that passed.
    rows: Vec<usize>,
    /// What models read, one a row.
    seen: Vec<Seen>,
    /// The last hidden state, where it is the encoder's.
    last: Option<Tensor>,
}

impl TowerPass {
    /// What was seen of `rows`, which are among those that passed.
    fn seen_of(&self, rows: &[usize]) -> Vec<Seen> {
        self.rows.iter().zip(&self.seen).filter(|(row, _)| rows.contains(row)).map(|(_, seen)| seen.clone()).collect()
    }
}

fn rows_where(rows: &[ImageRow], is_wanted: impl Fn(&ImageRow) -> bool) -> Vec<usize> {
    rows.iter().enumerate().filter(|(_, row)| is_wanted(row)).map(|(index, _)| index).collect()
}

/// Reads the prompt about each of `seen`, with room for an answer and for all labels.
fn read(model: &Model, questions: &Questions, seen: &[Seen]) -> Result<Prefix> {
    let images = model.mllm.embed_images(seen)?;
    let prompts = vec![&questions.prompt; images.len()];
    let n_nodes = questions.scoring.as_ref().map_or(0, |scoring| scoring.trie.n_nodes());
    model.read(&prompts, &images, questions.decoding.max_new_tokens.max(n_nodes))
}

/// What the model says after each prompt of `prefix`.
fn generate(model: &Model, questions: &Questions, prefix: Prefix) -> Result<Vec<Result<Answer, String>>> {
    let rows = model.generate(prefix, &questions.decoding)?;
    rows.into_iter()
        .map(|row| match row {
            Ok(generation) => Ok(Ok(model.dialogue.answer(&generation, &questions.decoding)?)),
            Err(error) => Ok(Err(error.to_string())),
        })
        .collect()
}
