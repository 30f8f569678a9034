//! Roses of a summary.

use super::rose::{Axis, Point, Role, RoseChart, RoseOptions, Scale, Series};
use super::words;
use crate::assets::paper;
use crate::compare::{DatasetSummary, SubjectSummary, Summary};
use crate::domain::EncoderRelation;

impl RoseChart {
    /// The rose of one run.
    pub fn of_summary(summary: &Summary, options: RoseOptions) -> Self {
        let mut series = Vec::new();
        if let Some(encoder) = encoder_series(summary) {
            series.push(encoder);
        }
        series.push(Series {
            name: format!("model: {}", words::model(&summary.model)),
            short_name: "model".to_owned(),
            role: Role::Model,
            points: summary.datasets.iter().map(|dataset| dataset.model.as_ref().and_then(point)).collect(),
        });
        if options.paper_rows {
            series.extend(paper_series(summary));
        }
        let model = words::model(&summary.model);
        let title = match (&summary.encoder.name, summary.encoder.relation) {
            (_, EncoderRelation::None) => format!("What {model} says"),
            _ if summary.encoder.probe.is_some() => format!("What {model} says and a probe on its tower sees"),
            (None, _) => format!("What {model} says and its encoder sees"),
            (Some(_), EncoderRelation::Other) => format!("What {model} says and another encoder sees"),
            (Some(_), _) => format!("What {model} says and its encoder sees"),
        };
        Self {
            title,
            subtitle: vec![words::encoder_heading(&summary.encoder), words::judge_heading(&summary.judge)],
            warnings: warnings(summary),
            footer: footer(summary, options),
            axes: summary.datasets.iter().map(axis).collect(),
            series,
            scale: options.scale,
            style: options.style,
        }
    }
}

impl RoseChart {
    /// A run before and after fine-tuning, over the datasets of `after`. The left half of each petal is the baseline's
    /// accuracy and the right half the candidate's, with the encoder behind.
    pub fn before_after(before: &Summary, after: &Summary, options: RoseOptions) -> Self {
        let mut chart = Self::of_summary(after, RoseOptions { paper_rows: false, ..options });
        let of_before =
            |dataset: &DatasetSummary| before.datasets.iter().find(|other| other.dataset == dataset.dataset);
        let points: Vec<Option<Point>> = after
            .datasets
            .iter()
            .map(|dataset| of_before(dataset).and_then(|dataset| dataset.model.as_ref()).and_then(point))
            .collect();
        for ((axis, before), after) in chart.axes.iter_mut().zip(&points).zip(&after.datasets) {
            if let (Some(before), Some(after)) = (before, after.model.as_ref().and_then(point)) {
                axis.remarks = vec![words::fall(before.accuracy - after.accuracy)];
            }
        }
        let baseline = Series {
            name: format!("before: {}", words::model(&before.model)),
            short_name: "before".to_owned(),
            role: Role::Before,
            points,
        };
        let at = chart.series.iter().position(|series| series.role == Role::Model).unwrap_or(chart.series.len());
        if let Some(model) = chart.series.get_mut(at) {
            model.name = format!("after: {}", words::model(&after.model));
            model.short_name = "after".to_owned();
        }
        chart.series.insert(at, baseline);
        chart.title = format!("Before and after: {}", words::model(&after.model));
        chart.footer = vec![format!(
            "Left half of a petal: before; right half: after. {}",
            match options.scale {
                Scale::Radius => "Radius: accuracy over scored images, in percent.",
                Scale::Area => "A petal's area is proportional to its accuracy over scored images, in percent.",
            }
        )];
        chart
    }
}

fn point(subject: &SubjectSummary) -> Option<Point> {
    let accuracy = subject.accuracy.filter(|accuracy| accuracy.is_finite())?;
    let interval = subject.accuracy_interval.filter(|ends| ends.iter().all(|end| end.is_finite()));
    Some(Point { accuracy, interval })
}

fn encoder_series(summary: &Summary) -> Option<Series> {
    let ran = summary.encoder.relation != EncoderRelation::None
        || summary.datasets.iter().any(|dataset| dataset.encoder.is_some());
    let name = match (&summary.encoder.probe, &summary.encoder.name) {
        (Some(probe), _) => {
            format!("{} on the tower: {}", words::encoder_column(&summary.encoder), probe.classifier.name())
        }
        (None, name) => {
            let how = words::comparator(&summary.encoder).map(|how| format!(", {how}")).unwrap_or_default();
            format!("encoder: {}{how}", name.as_deref().unwrap_or("unnamed"))
        }
    };
    ran.then(|| Series {
        name,
        short_name: words::encoder_noun(&summary.encoder).to_owned(),
        role: Role::Encoder,
        points: summary.datasets.iter().map(|dataset| dataset.encoder.as_ref().and_then(point)).collect(),
    })
}

/// The paper's rows that have a value for at least one of the datasets.
fn paper_series(summary: &Summary) -> Vec<Series> {
    let rows = paper::rows_beside(&summary.model.family).into_iter().map(|row| Series {
        name: format!("paper: {}", row.name),
        short_name: format!("the paper's {}", row.name),
        role: Role::Reference,
        points: summary
            .datasets
            .iter()
            .map(|dataset| row.accuracy(&dataset.dataset).map(|accuracy| Point { accuracy, interval: None }))
            .collect(),
    });
    rows.filter(|series| series.points.iter().any(Option::is_some)).collect()
}

/// A lower chance level is too near the centre to show as an arc and is written in words.
const CHANCE_SEEN_MIN: f64 = 0.04;

fn axis(dataset: &DatasetSummary) -> Axis {
    let chance = (dataset.n_classes > 0).then(|| 1.0 / dataset.n_classes as f64);
    let mut remarks = Vec::new();
    if let Some(retention) = dataset.retention.filter(|retention| retention.is_finite()) {
        remarks.push(format!("retention {}", words::percent(Some(retention))));
    }
    if let Some(chance) = chance.filter(|&chance| chance < CHANCE_SEEN_MIN) {
        remarks.push(format!("chance {}", words::chance(chance)));
    }
    let n_unscored = dataset.model.as_ref().map_or(0, |model| model.n_unscored);
    if n_unscored > 0 {
        remarks.push(format!("{n_unscored} unscored"));
    }
    Axis {
        name: dataset.dataset.clone(),
        chance,
        remarks,
        warning: dataset.is_training_split.then(|| "training split".to_owned()),
    }
}

fn warnings(summary: &Summary) -> Vec<String> {
    let mut warnings: Vec<String> = words::training_split_warning(summary).into_iter().collect();
    let constant: Vec<&str> = summary
        .datasets
        .iter()
        .filter(|dataset| dataset.constant_answer.is_some())
        .map(|dataset| dataset.dataset.as_str())
        .collect();
    if !constant.is_empty() {
        warnings.push(format!("Mostly one same answer: {}.", constant.join(", ")));
    }
    warnings
}

fn footer(summary: &Summary, options: RoseOptions) -> Vec<String> {
    let mut text = match options.scale {
        Scale::Radius => "Radius: accuracy over scored images, in percent.".to_owned(),
        Scale::Area => "A petal's area is proportional to its accuracy over scored images, in percent.".to_owned(),
    };
    if summary.datasets.iter().any(|dataset| dataset.retention.is_some()) {
        let whose = words::encoder_noun(&summary.encoder);
        text.push_str(&format!(" Retention: the model's accuracy over the {whose}'s."));
    }
    let mut lines = vec![text];
    if options.paper_rows && summary.datasets.iter().any(|one| paper::DATASETS.contains(&one.dataset.as_str())) {
        lines.push("Paper: Zhai et al. 2023, Table 2, training images, graded by GPT-3.5.".to_owned());
    }
    lines
}
