//! Reads and prepares images ahead of the respondent.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rayon::prelude::*;

use super::features::RunFeatures;
use super::plan::SampleWork;
use super::task::{Task, TaskId};
use super::timing::{Stage, Stages};
use crate::api::Message;
use crate::dataset::UnreadableImage;
use crate::domain::{Item, RgbImage};
use crate::model::run::features::TowerFeatures;
use crate::model::run::served;
use crate::model::run::subjects::BASE_VIEW;
use crate::model::vision::preprocess::{ImageInput, ImageProcessor, Preprocessor};

/// An item as the subjects see it.
pub(super) struct PreparedItem {
    /// [`Item::content`].
    pub content: String,
    pub images: Vec<PreparedImage>,
}

/// An image as the subjects see it.
pub(super) struct PreparedImage {
    /// `blake3:…` of the decoded pixels.
    pub content: String,
    /// The model inputs, by view; `None` if no model that is asked uses the view.
    pub for_models: Vec<Option<ImageInput>>,
    /// The encoder's input, if it differs from the base's.
    pub for_encoder: Option<ImageInput>,
    /// Tower features that are already known.
    pub known: TowerFeatures,
}

/// An item as a server and a local encoder see it.
pub(super) struct PreparedForServer {
    /// [`Item::content`].
    pub content: String,
    /// The server's input, or why it cannot be sent; `None` if the server is not asked.
    pub messages: Option<Result<Vec<Message>, String>>,
    /// The encoder's input, if the encoder is asked.
    pub for_encoder: Option<ImageInput>,
}

/// A sample for the respondent.
pub(super) struct PreparedSample<I> {
    pub work: SampleWork,
    pub item: Result<I, UnreadableImage>,
}

/// A batch for the respondent.
pub(super) struct PreparedBatch<I> {
    pub task: TaskId,
    pub samples: Vec<PreparedSample<I>>,
}

/// How items are prepared for the subjects.
pub(super) trait Prepare: Sync {
    /// A prepared item.
    type Item: Send;
    fn prepare(&self, item: &Item<'_>, content: String, work: &SampleWork) -> Self::Item;
}

/// How images are prepared for each local subject.
#[derive(Clone)]
pub(super) struct Preparation {
    /// The distinct image processors of the models; the first is the base's.
    pub views: Vec<Arc<dyn ImageProcessor>>,
    /// By run, its index in `views`.
    pub view_of: Vec<usize>,
    pub encoder: Option<Preprocessor>,
    /// The cache of tower features.
    pub features: Option<Arc<RunFeatures>>,
}

impl Prepare for Preparation {
    type Item = PreparedItem;

    fn prepare(&self, item: &Item<'_>, content: String, work: &SampleWork) -> PreparedItem {
        PreparedItem { content, images: item.images.iter().map(|image| self.image(image, work)).collect() }
    }
}

impl Preparation {
    fn image(&self, image: &RgbImage, work: &SampleWork) -> PreparedImage {
        let content = image.content();
        let (base, asks_encoder) = (&self.views[BASE_VIEW], !work.encoder.is_empty());
        let apart = |encoder: &&Preprocessor| !base.agrees_with(encoder, image.width(), image.height());
        let for_encoder = self.encoder.as_ref().filter(|_| asks_encoder).filter(apart);
        let lookers = work.models().union(work.probe);
        let is_seen = |view: usize| lookers.iter().any(|run| self.view_of.get(run.place()) == Some(&view));
        let serves_encoder = asks_encoder && for_encoder.is_none() && self.encoder.is_some();
        let for_models = self.views.iter().enumerate().map(|(view, processor)| {
            (is_seen(view) || view == BASE_VIEW && serves_encoder).then(|| processor.prepare(image))
        });
        let known = self.features.as_ref().map(|features| features.known(&content, work)).unwrap_or_default();
        PreparedImage {
            content,
            for_models: for_models.collect(),
            for_encoder: for_encoder.map(|encoder| encoder.prepare(image)),
            known,
        }
    }
}

/// How images are prepared for a server and a local encoder.
#[derive(Clone)]
pub(super) struct ServerPreparation {
    pub encoder: Option<Preprocessor>,
}

impl Prepare for ServerPreparation {
    type Item = PreparedForServer;

    fn prepare(&self, item: &Item<'_>, content: String, work: &SampleWork) -> PreparedForServer {
        let sent = || served::messages(item).map_err(|error| format!("{error:#}"));
        let for_encoder = self.encoder.as_ref().filter(|_| !work.encoder.is_empty());
        PreparedForServer {
            content,
            messages: (!work.models().is_empty()).then(sent),
            for_encoder: for_encoder.zip(item.images.first()).map(|(encoder, image)| encoder.prepare(image)),
        }
    }
}

/// The images that are still to be asked about, in batches.
pub(super) struct ImageSource<'a> {
    pub tasks: &'a [Task],
    pub batch_size: usize,
    pub is_stopped: &'a (dyn Fn() -> bool + Sync),
    pub stages: &'a Stages,
}

/// One batch is prepared while another is answered; more would only use memory.
pub(super) const BATCHES_AHEAD: usize = 1;

impl ImageSource<'_> {
    /// Runs `answer` on the batches while a separate thread reads and prepares images ahead of it.
    pub fn ahead<P: Prepare>(&self, preparation: &P, answer: impl FnOnce(&Receiver<PreparedBatch<P::Item>>)) {
        std::thread::scope(|scope| {
            let (sender, prepared) = sync_channel(BATCHES_AHEAD);
            scope.spawn(move || self.send(preparation, &sender));
            answer(&prepared);
        });
    }

    /// Sends all remaining batches. Ends early if the receiver is gone or the run is stopped.
    fn send<P: Prepare>(&self, preparation: &P, sender: &SyncSender<PreparedBatch<P::Item>>) {
        for (place, task) in self.tasks.iter().enumerate() {
            for chunk in task.work.remaining.chunks(self.batch_size) {
                if (self.is_stopped)() {
                    return;
                }
                let prepare = |&work: &SampleWork| {
                    let read = || task.item(work.position).map(|item| (item.content(), item));
                    let item = self.stages.time(Stage::Read, read);
                    let prepare = |(content, item): (String, Item<'_>)| {
                        self.stages.time(Stage::Prepare, || preparation.prepare(&item, content, &work))
                    };
                    PreparedSample { work, item: item.map(prepare) }
                };
                let samples = chunk.par_iter().map(prepare).collect();
                if sender.send(PreparedBatch { task: TaskId::new(place), samples }).is_err() {
                    return;
                }
            }
        }
    }
}
