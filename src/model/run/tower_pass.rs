//! One pass of a tower over the images of a batch.

use anyhow::{Context, Result};
use candle_core::Tensor;

use super::features::ImageVector;
use super::subjects::{ImageRow, ItemRow};
use crate::domain::RunSet;
use crate::model::families::{Model, Seen};
use crate::model::vision::encoders::Encoder;
use crate::model::vision::preprocess::ImageInput;

/// One image of a batch, with what its item needs from it.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) image: ImageRow<'a>,
    /// The index of its item in the batch.
    pub(super) item: usize,
    /// Its index in the item.
    pub(super) place: usize,
    /// The runs whose model reads the image.
    pub(super) models: RunSet,
    pub(super) probe: RunSet,
    pub(super) asks_encoder: bool,
}

impl Row<'_> {
    /// Returns the runs whose tower features are needed.
    pub(super) fn lookers(&self) -> RunSet {
        self.models.union(self.probe)
    }
}

/// Lists the images of all items, item by item.
pub(super) fn rows_of<'a>(items: &[ItemRow<'a>]) -> Vec<Row<'a>> {
    let of_item = |(item, row): (usize, &ItemRow<'a>)| {
        let (models, probe, asks_encoder) = (row.generate.union(row.score), row.probe, row.asks_encoder);
        let images = row.images.clone().into_iter().enumerate();
        images.map(move |(place, image)| {
            let is_first = place == 0;
            let probe = if is_first { probe } else { RunSet::default() };
            Row { image, item, place, models, probe, asks_encoder: asks_encoder && is_first }
        })
    };
    items.iter().enumerate().flat_map(of_item).collect()
}

/// Returns what tower `number` of `model` computes for the rows `passing` in its view. Known features are not
/// recomputed.
pub(super) fn see(model: &Model, number: usize, view: usize, rows: &[Row], passing: &[usize]) -> Result<Vec<Seen>> {
    let is_new = |row: &usize| rows[*row].image.known.of_tower(number).is_none();
    let new: Vec<usize> = passing.iter().copied().filter(is_new).collect();
    let made = if new.is_empty() { Vec::new() } else { model.mllm.see(&inputs(rows, &new, view)?)? };
    merged(passing, &new, made, |row| rows[row].image.known.of_tower(number).cloned())
}

/// Computes the encoder's embeddings of images from its hidden states before the last block `(images, tokens, hidden)`.
pub(super) fn embeddings(encoder: &Encoder, before_last: &Tensor) -> Result<Vec<ImageVector>> {
    let rows = encoder.towers.image_embeddings(before_last)?; // (images, dimension)
    (0..rows.dim(0)?).map(|row| Ok(ImageVector(rows.get(row)?))).collect()
}

/// Returns for each of `rows` the value in `made` if the row is in `new`, else the known value.
pub(super) fn merged<T>(
    rows: &[usize],
    new: &[usize],
    made: Vec<T>,
    known: impl Fn(usize) -> Option<T>,
) -> Result<Vec<T>> {
    let mut made = new.iter().copied().zip(made).peekable();
    let take = |&row: &usize| match made.next_if(|(made_of, _)| *made_of == row) {
        Some((_, made)) => Ok(made),
        None => known(row).context("what is not known was made"),
    };
    rows.iter().map(take).collect()
}

pub(super) fn inputs<'a>(rows: &[Row<'a>], asked: &[usize], view: usize) -> Result<Vec<&'a ImageInput>> {
    asked.iter().map(|&row| input(rows, row, view)).collect()
}

pub(super) fn input<'a>(rows: &[Row<'a>], row: usize, view: usize) -> Result<&'a ImageInput> {
    let prepared = rows[row].image.for_models.get(view).and_then(Option::as_ref);
    prepared.context("an image was not prepared for a model that must answer")
}

/// The result of one pass of a tower.
pub(super) struct TowerPass {
    /// The rows that passed the tower.
    pub(super) rows: Vec<usize>,
    /// What models read, one entry per row.
    pub(super) seen: Vec<Seen>,
    /// The encoder's embeddings, if the encoder shares the tower.
    pub(super) vectors: Option<Vec<ImageVector>>,
}

impl TowerPass {
    /// Returns what the tower saw of the images of `item`, which must have passed.
    pub(super) fn seen_of(&self, rows: &[Row], item: usize) -> Vec<Seen> {
        let of_item = self.rows.iter().zip(&self.seen).filter(|(row, _)| rows[**row].item == item);
        of_item.map(|(_, seen)| seen.clone()).collect()
    }
}

pub(super) fn places_where<T>(all: &[T], is_wanted: impl Fn(&T) -> bool) -> Vec<usize> {
    all.iter().enumerate().filter(|(_, one)| is_wanted(one)).map(|(place, _)| place).collect()
}
