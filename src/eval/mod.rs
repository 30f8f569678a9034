//! The spine: what remains to be asked, asking it, judging the answers, recording everything.
//!
//! Several runs, of a base model and its adapters, go on in lock-step: an image is prepared once, passes the tower and
//! the encoder once, and then each model.
//!
//! It flows through three threads and two bounded channels: one reads and prepares images, one owns the device
//! and answers, one (the caller's) owns the journal and the judges.

mod calibration;
mod events;
mod images;
mod judge;
mod loaded;
mod pipeline;
mod plan;
mod probe;
mod spec;
mod subjects;

pub use calibration::{SheetPlaces, judge_sheet, marked_pairs, recorded_outcomes, sheet_places};
pub use events::{Event, Observer};
pub use judge::{is_judged, judged_datasets, rejudge};
pub use loaded::{AdapterRequest, EncoderChoice, EvalSubjects, OpenedSubjects, SubjectsRequest};
pub use pipeline::{Ended, EvalRun, OpenRun, Session, UnscoredShare, largest_unscored_share, refuse_empty, run};
pub use plan::{DatasetWork, SampleWork, plan};
pub use probe::{ProbeRequest, Shots};
pub use spec::{Captions, Question, dataset_spec, model_prompts};
