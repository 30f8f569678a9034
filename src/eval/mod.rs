//! The evaluation: plans what to ask, asks it, judges the answers and records everything.
//!
//! The runs of a base model and its adapters proceed in lock-step. An image is prepared once, passes the tower and the
//! encoder once, and then each model.
//!
//! Images flow through three threads and two bounded channels. One thread reads and prepares images, one owns the
//! device and answers, and the caller's thread owns the journal and the judges. With models behind a server, the second
//! keeps requests in flight and passes on each answer as it arrives.

mod calibration;
mod candidates;
mod desk;
mod events;
mod features;
mod images;
mod judge;
mod loaded;
mod pipeline;
mod plan;
mod probe;
mod repeat;
mod respondent;
mod served;
mod spec;
mod subjects;
mod subjects_request;
mod task;
mod timing;
mod trials;
mod unscored;

pub use calibration::{SheetPlaces, judge_sheet, marked_pairs, recorded_outcomes, sheet_places};
pub use events::{Event, Observer};
pub use judge::{is_judged, judged_datasets, rejudge};
pub use loaded::OpenedSubjects;
pub use pipeline::{Ended, EvalRun, OpenRun, Session, refuse_empty, run};
pub use plan::{Batching, DatasetWork, SampleWork, Selection, plan, settled_keys};
pub use probe::{ProbeRequest, Shots};
pub use repeat::SERVER_FLIPS;
pub use respondent::{Description, Loaded, Opened, RunDescription, SERVER};
pub use served::{SERVED_BATCH_SIZE, ServedRequest, ServedSubjects, refuse_equal_names};
pub use spec::{Captions, Question, dataset_spec, model_prompts, served_prompts};
pub use subjects_request::{AdapterRequest, EncoderChoice, SubjectsRequest};
pub use task::{Task, TaskId};
pub use unscored::{UnscoredShare, largest_unscored_share};
