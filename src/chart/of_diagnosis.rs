//! Charts of a diagnosis: causes of lost images, shares of the fall, and curves over the layers.

use super::bars::{Bar, BarChart, BarGroup, BarLook, BarRow};
use super::layout::Drawn;
use super::of_comparison::Figure;
use super::panels::{CurveLook, Panel, PanelChart, PanelCurve, PanelGroup, PanelLevel, PanelPoint};
use crate::diagnose::{DatasetDiagnosis, Diagnosis, LayerDiagnosis};

/// The charts of a diagnosis, in page order.
const CHARTS: [DiagnosisChart; 3] = [CAUSES, SWAP, LAYERS];

/// A chart of a diagnosis.
struct DiagnosisChart {
    /// The name of its file.
    name: &'static str,
    /// What a page says below it.
    caption: &'static str,
    /// Draws it for some datasets of the diagnosis.
    draw: fn(&Diagnosis, &[DatasetDiagnosis]) -> Option<Drawn>,
}

/// The causes of lost images.
const CAUSES: DiagnosisChart = DiagnosisChart {
    name: "causes.svg",
    caption: "Each lost image has one cause, so the bars sum to 100%.",
    draw: |diagnosis, datasets| BarChart::of_causes(diagnosis, datasets).as_ref().map(Drawn::bars),
};

/// What each part gives back and takes away.
const SWAP: DiagnosisChart = DiagnosisChart {
    name: "swap.svg",
    caption: "100% is the whole fall; the numbers are in the table of parts below.",
    draw: |diagnosis, datasets| BarChart::of_swap(diagnosis, datasets).as_ref().map(Drawn::bars),
};

/// What was read layer by layer.
const LAYERS: DiagnosisChart = DiagnosisChart {
    name: "layers.svg",
    caption: "The numbers are in the table of layers below.",
    draw: |diagnosis, datasets| PanelChart::of_layers(diagnosis, datasets).as_ref().map(Drawn::panels),
};

/// All charts of a diagnosis. A chart that would be empty is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiagnosisCharts {
    whole: Vec<(&'static str, Figure)>,
    by_dataset: Vec<Vec<(&'static str, Figure)>>,
}

impl DiagnosisCharts {
    /// Draws all charts.
    pub fn draw(diagnosis: &Diagnosis) -> Self {
        let of = |datasets: &[DatasetDiagnosis]| -> Vec<(&'static str, Figure)> {
            let figure = |chart: &DiagnosisChart| {
                let drawn = (chart.draw)(diagnosis, datasets)?;
                Some((chart.name, Figure { drawn, caption: chart.caption.to_owned() }))
            };
            CHARTS.iter().filter_map(figure).collect()
        };
        let by_dataset = diagnosis.datasets.iter().map(|dataset| of(std::slice::from_ref(dataset))).collect();
        Self { whole: of(&diagnosis.datasets), by_dataset }
    }

    /// The charts of all datasets together, with their file names.
    pub fn main(&self) -> impl Iterator<Item = (&'static str, &Figure)> {
        self.whole.iter().map(|(name, figure)| (*name, figure))
    }

    /// The charts of the dataset at `index`, in page order.
    pub fn of_dataset(&self, index: usize) -> impl Iterator<Item = (&'static str, &Figure)> {
        self.by_dataset.get(index).into_iter().flatten().map(|(name, figure)| (*name, figure))
    }
}

/// The name of a group of rows or panels: a single dataset is named in the subtitle.
fn group_name(dataset: &DatasetDiagnosis, datasets: &[DatasetDiagnosis]) -> String {
    if datasets.len() > 1 { dataset.dataset.clone() } else { String::new() }
}

/// The first line of small print: `lora against base` and the dataset, if there is only one.
fn subtitle(diagnosis: &Diagnosis, datasets: &[DatasetDiagnosis], rest: &str) -> Vec<String> {
    let of = match datasets {
        [single] => format!("{}: ", single.dataset),
        _ => String::new(),
    };
    let base = &diagnosis.baseline.run;
    vec![match &diagnosis.candidate {
        Some(candidate) => format!("{of}{} against {base}; {rest}", candidate.run),
        None => format!("{of}{base}; {rest}"),
    }]
}

fn finite(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite())
}

/// An interval whose ends are numbers.
fn finite_interval(interval: Option<[f64; 2]>) -> Option<[f64; 2]> {
    interval.filter(|ends| ends.iter().all(|end| end.is_finite()))
}

impl BarChart {
    /// The share of each cause among the lost images, by dataset; `None` if no image was lost.
    pub fn of_causes(diagnosis: &Diagnosis, datasets: &[DatasetDiagnosis]) -> Option<Self> {
        let group = |dataset: &DatasetDiagnosis| {
            let found = dataset.causes.iter().filter(|cause| cause.n > 0 && cause.share.is_finite());
            let rows = found.map(|cause| BarRow {
                name: format!("{}, {} {}", cause.cause.name(), cause.n, if cause.n == 1 { "image" } else { "images" }),
                bars: vec![Bar {
                    look: BarLook::After,
                    value: cause.share,
                    interval: finite_interval(cause.share_interval),
                }],
                diamond: None,
            });
            BarGroup { name: group_name(dataset, datasets), rows: rows.collect() }
        };
        let groups: Vec<BarGroup> = datasets.iter().map(group).filter(|group| !group.rows.is_empty()).collect();
        (!groups.is_empty()).then(|| Self {
            title: "Why images were lost".to_owned(),
            subtitle: subtitle(diagnosis, datasets, "images that were right before and are wrong after"),
            groups,
            x_label: "share of the lost images".to_owned(),
            lines: vec![0.0],
            key: Vec::new(),
            diamond: None,
        })
    }

    /// The share of the fall that each part gives back and causes, by dataset; `None` if no part has a share.
    pub fn of_swap(diagnosis: &Diagnosis, datasets: &[DatasetDiagnosis]) -> Option<Self> {
        let group = |dataset: &DatasetDiagnosis| {
            let rows = dataset.swap.iter().map(|share| {
                let bar = |look, value: Option<f64>, interval| {
                    Some(Bar { look, value: finite(value)?, interval: finite_interval(interval) })
                };
                let restored = bar(BarLook::Before, share.restore.recovered, share.restore.recovered_interval);
                let kept = share.keep.as_ref();
                let kept = kept.and_then(|keep| bar(BarLook::After, keep.caused, keep.caused_interval));
                BarRow {
                    name: share.component.clone(),
                    bars: restored.into_iter().chain(kept).collect(),
                    diamond: finite(share.shapley),
                }
            });
            let rows = rows.filter(|row| !row.bars.is_empty()).collect();
            BarGroup { name: group_name(dataset, datasets), rows }
        };
        let groups: Vec<BarGroup> = datasets.iter().map(group).filter(|group| !group.rows.is_empty()).collect();
        if groups.is_empty() {
            return None;
        }
        let rows = || groups.iter().flat_map(|group| &group.rows);
        let has_kept = rows().flat_map(|row| &row.bars).any(|bar| bar.look == BarLook::After);
        let mut key = vec![(BarLook::Before, "comes back with the base's part".to_owned())];
        key.extend(has_kept.then(|| (BarLook::After, "the candidate's part alone causes".to_owned())));
        let has_diamond = rows().any(|row| row.diamond.is_some());
        Some(Self {
            title: "Which part carries the fall".to_owned(),
            subtitle: subtitle(diagnosis, datasets, "one part of the model exchanged at a time"),
            groups,
            x_label: "share of the fall of accuracy".to_owned(),
            lines: vec![0.0, 1.0],
            key,
            diamond: has_diamond.then(|| "Shapley value".to_owned()),
        })
    }
}

/// A value of a layer, and where it is read.
type Field = fn(&LayerDiagnosis) -> Option<f64>;

/// A curve by its name, its look and its values.
type Wanted<'a> = (&'a str, CurveLook, Field);

const STATE: &str = "state (0: the embeddings, k: after k layers)";
const LAYER: &str = "layer";

impl PanelChart {
    /// What was read layer by layer, by dataset; `None` if nothing was.
    pub fn of_layers(diagnosis: &Diagnosis, datasets: &[DatasetDiagnosis]) -> Option<Self> {
        let group = |dataset: &DatasetDiagnosis| {
            let panels = [
                lens(dataset),
                decision(dataset),
                patch(dataset),
                knockout(dataset),
                flow(dataset),
                similarity(dataset),
            ];
            PanelGroup { name: group_name(dataset, datasets), panels: panels.into_iter().flatten().collect() }
        };
        let groups: Vec<PanelGroup> = datasets.iter().map(group).filter(|group| !group.panels.is_empty()).collect();
        (!groups.is_empty()).then(|| Self {
            title: "Layer by layer".to_owned(),
            subtitle: subtitle(diagnosis, datasets, "log-probabilities are natural and of the label"),
            groups,
        })
    }
}

/// A small panel of those of `wanted` that have values; `None` if none has.
fn panel(dataset: &DatasetDiagnosis, title: &str, x_label: &str, wanted: &[Wanted<'_>]) -> Option<Panel> {
    let curve = |(name, look, field): &Wanted<'_>| {
        let point = |layer: &LayerDiagnosis| {
            Some(PanelPoint { x: layer.layer as f64, y: finite(field(layer))?, interval: None })
        };
        let points: Vec<PanelPoint> = dataset.layers.iter().filter_map(point).collect();
        (!points.is_empty()).then(|| PanelCurve { name: (*name).to_owned(), look: *look, points })
    };
    let curves: Vec<PanelCurve> = wanted.iter().filter_map(curve).collect();
    (!curves.is_empty()).then(|| Panel {
        title: title.to_owned(),
        x_label: x_label.to_owned(),
        is_large: false,
        is_share: false,
        curves,
        levels: Vec::new(),
        mark: None,
    })
}

/// The lens of both models at the label's first token.
fn lens(dataset: &DatasetDiagnosis) -> Option<Panel> {
    let wanted: [Wanted<'_>; 2] = [
        ("base", CurveLook::Before, |layer| layer.lens_baseline),
        ("candidate", CurveLook::After, |layer| layer.lens_candidate),
    ];
    let mut panel = panel(dataset, "Lens: log-probability of the label's first token", STATE, &wanted)?;
    panel.is_large = true;
    for curve in &mut panel.curves {
        for point in &mut curve.points {
            let layer = dataset.layers.iter().find(|layer| layer.layer as f64 == point.x);
            let interval = layer.and_then(|layer| match curve.look {
                CurveLook::Before => layer.lens_baseline_interval,
                _ => layer.lens_candidate_interval,
            });
            point.interval = finite_interval(interval);
        }
    }
    panel.mark = dataset.parting_layer.map(|layer| (layer as f64, format!("base and candidate part at {layer}")));
    Some(panel)
}

/// The lens at the token that tells the label from others, if that is not the first.
fn decision(dataset: &DatasetDiagnosis) -> Option<Panel> {
    let differs = |layer: &LayerDiagnosis| layer.decision_baseline != layer.lens_baseline;
    if !dataset.layers.iter().any(differs) {
        return None;
    }
    let wanted: [Wanted<'_>; 2] = [
        ("base", CurveLook::Before, |layer| layer.decision_baseline),
        ("candidate", CurveLook::After, |layer| layer.decision_candidate),
    ];
    panel(dataset, "Lens: log-probability of the token that tells the label from others", STATE, &wanted)
}

/// The candidate with a state of the base, next to both models as they are.
fn patch(dataset: &DatasetDiagnosis) -> Option<Panel> {
    let fields: [Field; 4] = [
        |layer| layer.patch_image,
        |layer| layer.patch_last,
        |layer| layer.lens_baseline,
        |layer| layer.lens_candidate,
    ];
    let wanted = [
        ("base's state at the image", CurveLook::Image, fields[0]),
        ("base's state at the last position", CurveLook::Last, fields[1]),
    ];
    let title = "Patch: log-probability of the candidate with a state of the base";
    let mut panel = panel(dataset, title, STATE, &wanted)?;
    // The lens of the last state is what the model says.
    let last = dataset.layers.last();
    let level = |name: &str, look, field: Field| {
        let y = last.and_then(field).filter(|value| value.is_finite())?;
        Some(PanelLevel { name: name.to_owned(), look, y })
    };
    let levels = [
        level("base as it is", CurveLook::Before, fields[2]),
        level("candidate as it is", CurveLook::After, fields[3]),
    ];
    panel.levels = levels.into_iter().flatten().collect();
    Some(panel)
}

/// Both models without attention from the last position to the image.
fn knockout(dataset: &DatasetDiagnosis) -> Option<Panel> {
    let wanted: [Wanted<'_>; 2] = [
        ("base", CurveLook::Before, |layer| layer.knockout_baseline),
        ("candidate", CurveLook::After, |layer| layer.knockout_candidate),
    ];
    let n_cut = dataset.layers.iter().find_map(|layer| layer.knockout_layers);
    let x_label = match n_cut {
        None | Some(1) => "layer without attention from the last position to the image".to_owned(),
        Some(n) => format!("first of {n} layers without attention to the image"),
    };
    panel(dataset, "Knockout: log-probability with the image cut off", &x_label, &wanted)
}

/// The share of attention that goes to the image.
fn flow(dataset: &DatasetDiagnosis) -> Option<Panel> {
    let wanted: [Wanted<'_>; 2] = [
        ("base", CurveLook::Before, |layer| Some(layer.flow_baseline?.image)),
        ("candidate", CurveLook::After, |layer| Some(layer.flow_candidate?.image)),
    ];
    let panel = panel(dataset, "Attention: share that goes to the image", LAYER, &wanted)?;
    Some(Panel { is_share: true, ..panel })
}

/// How alike the states of both models are.
fn similarity(dataset: &DatasetDiagnosis) -> Option<Panel> {
    let wanted: [Wanted<'_>; 2] = [
        ("image", CurveLook::Image, |layer| layer.similarity_image),
        ("last position", CurveLook::Last, |layer| layer.similarity_last),
    ];
    panel(dataset, "Similarity of base and candidate (linear CKA)", STATE, &wanted)
}

#[cfg(test)]
mod tests;
