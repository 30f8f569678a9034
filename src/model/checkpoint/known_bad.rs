//! Releases of transformers that compute some models wrongly. Models that were fine-tuned with them learned from wrong
//! inputs.

/// One fault: the models, and the versions that saved them.
struct Fault {
    /// `model_type` of `config.json`.
    model_types: &'static [&'static str],
    first: Version,
    /// Inclusive. A patch of [`ANY`] means every patch of that minor version.
    last: Version,
    /// What went wrong.
    what: &'static str,
    /// What to use for training again.
    mend: &'static str,
}

/// Major, minor, patch.
type Version = (u32, u32, u32);

const ANY: u32 = u32::MAX;

/// Measured with equal weights against the neighbouring versions and the models' own code.
const FAULTS: [Fault; 6] = [
    Fault {
        model_types: &["qwen2_5_vl"],
        first: (5, 3, 0),
        last: (5, 5, ANY),
        what: "multiplies the temporal position of an image by 4, which moves logits by 5 of 10",
        mend: "5.6 or later",
    },
    Fault {
        model_types: &["smolvlm", "idefics3"],
        first: (4, 55, 1),
        last: (4, 57, ANY),
        what: "gives image patches other positions than all versions before and after, which moves logits by 4 of 10",
        mend: "5.0 or later, or 4.53",
    },
    Fault {
        model_types: &["t5", "blip-2", "instructblip"],
        first: (5, 0, 0),
        last: (5, 0, 0),
        what: "ignores the stored output head of T5 1.1 and flan-T5, which moves logits by 7 of 10",
        mend: "another version",
    },
    Fault {
        model_types: &["blip-2", "instructblip"],
        first: (4, 52, 1),
        last: (4, 52, 4),
        what: "gives other logits than the versions before and after, by 1 to 4 of 10",
        mend: "4.53.3 or later",
    },
    Fault {
        model_types: &["llava"],
        first: (4, 46, 3),
        last: (4, 46, 3),
        what: "answers padded rows of a batch wrongly",
        mend: "a later version",
    },
    Fault {
        model_types: &["llava_next", "llava_onevision"],
        first: (4, 46, 3),
        last: (4, 46, 3),
        what: "pads tiles of images by one pixel too few or too many, which moves logits by 1 of 10",
        mend: "a later version",
    },
];

/// Returns warnings about a model of `model_type` that `version` of transformers saved. `who` names it. Empty if no
/// fault is known.
pub(in crate::model) fn warnings(who: &str, model_type: &str, version: &str) -> Vec<String> {
    let Some(parsed) = parse(version) else { return Vec::new() };
    let is_hit =
        |fault: &&Fault| fault.model_types.contains(&model_type) && (fault.first..=fault.last).contains(&parsed);
    let told = FAULTS.iter().filter(is_hit).map(|Fault { what, mend, .. }| {
        format!(
            "{who} was saved by transformers {version}, which {what} (`{model_type}`): what was fine-tuned or evaluated \
             with it saw wrong inputs; hint: train again with {mend}"
        )
    });
    told.collect()
}

/// Parses `4.57.6`, `5.3.0.dev0` or `4.57.0rc1`. `None` for anything else.
fn parse(version: &str) -> Option<Version> {
    let mut parts = version.split('.').map(|part| {
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part[..end].parse::<u32>().ok()
    });
    Some((parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
}

#[cfg(test)]
mod tests;
