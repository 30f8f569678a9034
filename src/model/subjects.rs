//! The subjects on their device: the models of all runs and the encoder beside them, with what they share computed once.

use std::cell::OnceCell;
use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::Tensor;

use super::encoders::Encoder;
use super::features::{Features, ImageVector};
use super::generate::Decoding;
use super::mllm::{ImageEmbedding, Model, PlainTower, RenderedPrompt, Seen, side_by_side};
use super::prefix::{Opening, Prefix, batches_by_length};
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
    /// Where its tower is the base's, one pass serves both if their pixels agree.
    encoder: Option<Encoder>,
    /// Whether answers hold what towers made of their image.
    tells_features: bool,
}

/// What is asked about every image of a dataset.
pub struct Questions {
    /// Of the models.
    prompt: RenderedPrompt,
    /// By run, what the prompt says before the image, once it was read.
    openings: Vec<OnceCell<Opening>>,
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
    /// What is known of what towers make of it.
    pub known: &'a Features,
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
    /// What towers made of it that was not known, where that is to be told.
    pub made: Features,
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
    pub fn new(mut models: Vec<Model>, has_base: bool, has_own_tower: Vec<bool>, encoder: Option<Encoder>) -> Self {
        let base = if has_base { None } else { Some(models.remove(0)) };
        Self { base, models, has_own_tower, encoder, tells_features: false }
    }

    /// Lets answers hold what towers made of their image, for whoever keeps it.
    pub fn tell_features(&mut self) {
        self.tells_features = true;
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
            openings: self.models.iter().map(|_| OnceCell::new()).collect(),
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
            let own = if self.has_own_tower[run] { self.pass_own(run, rows)? } else { None };
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
                let images = model.mllm.embed_images(&pass.seen_of(&asked))?;
                for (asked, images) in by_length(asked, images)? {
                    let mut prefix = self.read(run, questions, &images)?;
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
        }
        self.ask_encoder(questions, rows, shared.and_then(|pass| pass.vectors), &mut answers)?;
        Ok(answers)
    }

    /// The encoder's choices; `vectors` are its embeddings of the rows that it is asked about, where the models' pass gave them.
    fn ask_encoder(
        &self,
        questions: &Questions,
        rows: &[ImageRow],
        vectors: Option<Vec<ImageVector>>,
        answers: &mut [ImageAnswers],
    ) -> Result<()> {
        let asked = rows_where(rows, |row| row.asks_encoder);
        let (Some(encoder), false) = (&self.encoder, asked.is_empty()) else { return Ok(()) };
        let vectors = match vectors {
            Some(vectors) => vectors,
            None => {
                let is_new = |row: &usize| rows[*row].known.embedding.is_none();
                let new: Vec<usize> = asked.iter().copied().filter(is_new).collect();
                let images: Vec<_> =
                    new.iter().map(|&row| rows[row].for_encoder.unwrap_or(rows[row].for_model)).collect();
                let tower = encoder.towers.tower();
                let hidden = |images: &[&ImageInput]| -> Result<Tensor> {
                    Ok(tower.hidden_states(&tower.pixels(images)?, &[tower.state_before_last()])?.swap_remove(0))
                };
                let made = if images.is_empty() { Vec::new() } else { embeddings(encoder, &hidden(&images)?)? };
                let known = |row: usize| rows[row].known.embedding.clone();
                merged(&asked, &new, made, known)?
            }
        };
        let labels = questions.label_embeddings.as_ref().context("the encoder has no captions to rank")?;
        let images: Vec<&Tensor> = vectors.iter().map(|ImageVector(image)| image).collect();
        let ranked = rank(labels, &questions.labels, &Tensor::stack(&images, 0)?)?;
        for ((row, ranking), vector) in asked.into_iter().zip(ranked).zip(vectors) {
            answers[row].encoder = Some(ranking);
            if self.tells_features && rows[row].known.embedding.is_none() {
                answers[row].made.embedding = Some(vector);
            }
        }
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

    /// The place in [`towers`](Self::towers) of the tower of `run`.
    fn tower_number(&self, run: usize) -> Option<usize> {
        self.towers().iter().position(|tower| tower.contains(run))
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

    /// Adds what `pass` gave to the answers: of the rows for which runs of its tower asked for features, and where what is
    /// new is to be told.
    fn add_features(
        &self,
        tower: RunSet,
        pass: &TowerPass,
        rows: &[ImageRow],
        answers: &mut [ImageAnswers],
    ) -> Result<()> {
        let mllm = &self.model_of(tower).mllm;
        let number = tower.iter().next().and_then(|run| self.tower_number(run)).filter(|_| self.tells_features);
        for (&row, seen) in pass.rows.iter().zip(&pass.seen) {
            let runs = rows[row].probe.intersection(tower);
            if !runs.is_empty() {
                answers[row].features.push((runs, mllm.probe_features(seen)?));
            }
            if let Some(number) = number.filter(|&number| rows[row].known.of_tower(number).is_none()) {
                answers[row].made.set_tower(number, seen.clone());
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

    /// Reads the prompt about each of `images`, with room for an answer and for all labels.
    fn read(&self, run: usize, questions: &Questions, images: &[ImageEmbedding]) -> Result<Prefix> {
        let model = &self.models[run];
        let opening = match questions.openings[run].get() {
            Some(opening) => opening,
            None => {
                let opening = model.opening(&questions.prompt)?;
                questions.openings[run].get_or_init(|| opening)
            }
        };
        let prompts = vec![&questions.prompt; images.len()];
        let n_nodes = questions.scoring.as_ref().map_or(0, |scoring| scoring.trie.n_nodes());
        model.read(Some(opening), &prompts, images, questions.decoding.max_new_tokens.max(n_nodes))
    }

    /// The labels' scores on an image of the mean colour, which is all zeros once normalised.
    fn prior(&self, run: usize, questions: &Questions, trie: &LabelTrie) -> Result<Option<Vec<f32>>> {
        let model = &self.models[run];
        let blank = model.preprocessor.prepare(&RgbImage::blank(PRIOR_SIDE, PRIOR_SIDE)).blank();
        let image = model.mllm.embed_images(&model.mllm.see(&[&blank])?)?;
        let mut prefix = self.read(run, questions, &image)?;
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
        let serves_encoder = passing == rows_where(rows, |row| row.asks_encoder)
            && passing.iter().all(|&row| rows[row].for_encoder.is_none());
        let mllm = &self.base().mllm;
        let number = self.sharing_runs().iter().next().and_then(|run| self.tower_number(run));
        let number = number.context("the runs that share a tower have one")?;
        let shared = mllm.plain_tower().zip(self.encoder.as_ref()).filter(|_| serves_encoder);
        let shared = shared.filter(|(plain, encoder)| Arc::ptr_eq(plain.tower, encoder.towers.tower()));
        let Some((PlainTower { tower, states: wanted }, encoder)) = shared else {
            let seen = see(self.base(), number, rows, &passing)?;
            return Ok(Some(TowerPass { rows: passing, seen, vectors: None }));
        };
        let is_known = |row: &ImageRow| row.known.of_tower(number).is_some() && row.known.embedding.is_some();
        let new: Vec<usize> = passing.iter().copied().filter(|&row| !is_known(&rows[row])).collect();
        let (mut made_seen, mut made_vectors) = (Vec::new(), Vec::new());
        if !new.is_empty() {
            let images = inputs(rows, &new);
            let wanted: Vec<usize> = wanted.iter().copied().chain([tower.state_before_last()]).collect();
            let mut states = tower.hidden_states(&tower.pixels(&images)?, &wanted)?;
            let before_last = states.pop().context("a state is asked for")?;
            made_vectors = embeddings(encoder, &before_last)?;
            let hidden = side_by_side(states)?;
            let seen = images.iter().enumerate().map(|(row, image)| Ok(Seen::plain(hidden.get(row)?, image)));
            made_seen = seen.collect::<candle_core::Result<_>>()?;
        }
        let seen = merged(&passing, &new, made_seen, |row| rows[row].known.of_tower(number).cloned())?;
        let vectors = merged(&passing, &new, made_vectors, |row| rows[row].known.embedding.clone())?;
        Ok(Some(TowerPass { rows: passing, seen, vectors: Some(vectors) }))
    }

    /// A pass of the tower that `run` has for itself; `None` where nothing is asked of it.
    fn pass_own(&self, run: usize, rows: &[ImageRow]) -> Result<Option<TowerPass>> {
        let passing = rows_where(rows, |row| row.lookers().contains(run));
        if passing.is_empty() {
            return Ok(None);
        }
        let number = self.tower_number(run).context("every run has a tower")?;
        let seen = see(&self.models[run], number, rows, &passing)?;
        Ok(Some(TowerPass { rows: passing, seen, vectors: None }))
    }
}

/// What the tower of `model`, of this number, makes of the rows `passing`; those that are known do not pass it.
fn see(model: &Model, number: usize, rows: &[ImageRow], passing: &[usize]) -> Result<Vec<Seen>> {
    let is_new = |row: &usize| rows[*row].known.of_tower(number).is_none();
    let new: Vec<usize> = passing.iter().copied().filter(is_new).collect();
    let made = if new.is_empty() { Vec::new() } else { model.mllm.see(&inputs(rows, &new))? };
    merged(passing, &new, made, |row| rows[row].known.of_tower(number).cloned())
}

/// The encoder's embeddings of images from its hidden states before the last block `(images, tokens, hidden)`.
fn embeddings(encoder: &Encoder, before_last: &Tensor) -> Result<Vec<ImageVector>> {
    let rows = encoder.towers.image_embeddings(before_last)?; // (images, dimension)
    (0..rows.dim(0)?).map(|row| Ok(ImageVector(rows.get(row)?))).collect()
}

/// For each of `rows` what was made of it, where it is in `new`, else what is known.
fn merged<T>(rows: &[usize], new: &[usize], made: Vec<T>, known: impl Fn(usize) -> Option<T>) -> Result<Vec<T>> {
    let mut made = new.iter().copied().zip(made).peekable();
    let take = |&row: &usize| match made.next_if(|(made_of, _)| *made_of == row) {
        Some((_, made)) => Ok(made),
        None => known(row).context("what is not known was made"),
    };
    rows.iter().map(take).collect()
}

/// The side of the image of the mean colour, in pixels, before it is prepared.
const PRIOR_SIDE: u32 = 224;

fn inputs<'a>(rows: &[ImageRow<'a>], asked: &[usize]) -> Vec<&'a ImageInput> {
    asked.iter().map(|&row| rows[row].for_model).collect()
}

/// What one pass of the tower gave.
struct TowerPass {
    /// The rows that passed.
    rows: Vec<usize>,
    /// What models read, one a row.
    seen: Vec<Seen>,
    /// The encoder's embeddings, where the tower is its own, too.
    vectors: Option<Vec<ImageVector>>,
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

/// Rows with their images in batches of like length.
fn by_length(rows: Vec<usize>, images: Vec<ImageEmbedding>) -> Result<Vec<(Vec<usize>, Vec<ImageEmbedding>)>> {
    let lengths = images.iter().map(|image| image.embeddings.dim(0)).collect::<candle_core::Result<Vec<_>>>()?;
    let batches = batches_by_length(&lengths).into_iter();
    let of = |batch: Vec<usize>| batch.into_iter().map(|place| (rows[place], images[place].clone())).unzip();
    Ok(batches.map(of).collect())
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
