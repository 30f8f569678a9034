//! Checks trainers' leftover files for differences between how a model or adapter is asked here and how it was trained.

use std::path::Path;

use anyhow::Result;

use super::{Dialogue, OpenedModel};
use crate::model::checkpoint::known_bad;
use crate::model::checkpoint::weights::{Adapter, SwiftArguments, TrainerNotes};
use crate::model::text::template::ChatTemplate;
use crate::model::vision::preprocess::ImageProcessor;

/// Any question shows whether two templates ask alike.
const QUESTION: &str = "What is this?";

impl OpenedModel {
    /// Returns warnings about `adapter`, called `name`, when it is asked through `dialogue` about images that
    /// `processor` prepares.
    ///
    /// # Errors
    /// A file of the adapter cannot be read.
    pub fn adapter_warnings(
        &self,
        name: &str,
        adapter: &Adapter,
        dialogue: &Dialogue,
        processor: &dyn ImageProcessor,
    ) -> Result<Vec<String>> {
        let mut warnings = of_notes(name, &adapter.notes, dialogue, processor);
        if warnings.is_empty() {
            // The trainer's record of its prompt is more specific than the template in the adapter's folder.
            let Dialogue { template, tokenizer, .. } = dialogue;
            warnings.extend(template.adapter_template(name, |file| adapter.read_file(file), tokenizer)?);
        }
        if let Some(method) = &adapter.notes.quantised_base {
            let base = adapter.base_name().map(|base| format!(" `{base}`")).unwrap_or_default();
            warnings.push(format!(
                "{name} was trained on the quantised base{base} ({method}), but is evaluated on `{}` as it is: its \
                 base had other weights in training; hint: compare it only with runs on the same base",
                self.name
            ));
        }
        // An adapter that is not a checkpoint has its base's architecture.
        let model_type = adapter.notes.model_type.as_deref().or(self.notes.model_type.as_deref());
        warnings.extend(of_version(name, model_type, &adapter.notes));
        Ok(warnings)
    }
}

/// Returns warnings about the model `name` itself.
pub(super) fn of_model(
    name: &str,
    notes: &TrainerNotes,
    dialogue: &Dialogue,
    processor: &dyn ImageProcessor,
) -> Vec<String> {
    let mut warnings = of_notes(name, notes, dialogue, processor);
    if let Some(method) = &notes.quantised_base {
        warnings.push(format!(
            "{name} was trained on a quantised base ({method}) and merged into one that is not: its base had other \
             weights in training; hint: compare it only with the unquantised base"
        ));
    }
    warnings.extend(of_version(name, notes.model_type.as_deref(), notes));
    warnings
}

fn of_version(name: &str, model_type: Option<&str>, notes: &TrainerNotes) -> Vec<String> {
    match (model_type, &notes.transformers_version) {
        (Some(model_type), Some(version)) => known_bad::warnings(name, model_type, version),
        _ => Vec::new(),
    }
}

fn of_notes(name: &str, notes: &TrainerNotes, dialogue: &Dialogue, processor: &dyn ImageProcessor) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some((path, arguments)) = &notes.swift {
        warnings.extend(of_swift(name, path, arguments, dialogue));
        warnings.extend(arguments.max_pixels.and_then(|n_pixels| of_pixels(name, n_pixels, processor)));
    }
    if let Some((path, modelfile)) = &notes.modelfile {
        let template = ChatTemplate::of_modelfile("Modelfile", modelfile, &dialogue.tokenizer);
        let told = match template {
            Some(template) if dialogue.asks_as(&template) => None,
            Some(_) => Some(format!(
                "{name} has a `Modelfile` whose prompt differs from that of `{}`, which is used; hint: use it with \
                 `--template {}`",
                dialogue.template.name(),
                path.display()
            )),
            None => Some(format!(
                "{name} has a `Modelfile` of a form that is not read (`{}`): its prompt may differ from that of `{}`, \
                 which is used; hint: compare both",
                path.display(),
                dialogue.template.name()
            )),
        };
        warnings.extend(told);
    }
    warnings
}

fn of_swift(name: &str, path: &Path, arguments: &SwiftArguments, dialogue: &Dialogue) -> Option<String> {
    let SwiftArguments { template, system, .. } = arguments;
    let with_system = system.as_ref().map(|text| format!(" and the system text {text:?}")).unwrap_or_default();
    let used = dialogue.template.name();
    match ChatTemplate::of_swift(template, arguments) {
        Some(trained) if dialogue.asks_as(&trained) => None,
        Some(_) => Some(format!(
            "{name} was trained by ms-swift with its template `{template}`{with_system}, whose prompt differs from \
             that of `{used}`, which is used; hint: `--template {}` gives the prompt of its training",
            path.display()
        )),
        None => Some(format!(
            "{name} was trained by ms-swift with its template `{template}`{with_system}, which is not known here: its \
             prompt may differ from that of `{used}`, which is used; hint: compare the prompt in run.json with \
             ms-swift's"
        )),
    }
}

/// ms-swift shrinks larger images to `n_pixels` before the model's own processor sees them.
fn of_pixels(name: &str, n_pixels: u64, processor: &dyn ImageProcessor) -> Option<String> {
    let told = format!("{name} was trained by ms-swift on images of at most {n_pixels} pixels (`max_pixels`)");
    match processor.parameters().get("max_pixels").map(|own| own.as_u64()) {
        Some(Some(own)) if own == n_pixels => None,
        Some(_) => Some(format!("{told}, which is not the limit here; hint: `--max-pixels {n_pixels}`")),
        None => Some(format!("{told}, with larger ones scaled down first; here they are not scaled down")),
    }
}

impl Dialogue {
    /// Returns whether `other` gives the same tokens for a question. A template that fails here counts as different.
    fn asks_as(&self, other: &ChatTemplate) -> bool {
        let ids = |template: &ChatTemplate| {
            let text = template.render(QUESTION).ok()?;
            self.tokenizer.encode_with_image(&text, self.image_marker).ok()
        };
        let (own, other) = (ids(&self.template), ids(&other.clone().with_image_marker(self.image_marker)));
        own.is_some() && own == other
    }
}
