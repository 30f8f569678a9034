//! The frontier of a recovery.

use super::{Frontier, FrontierPoint, FrontierSeries};
use crate::study::recover::{Accuracies, Chosen, Point, Recovery};

impl Frontier {
    /// The points of a recovery on its selection half: the new datasets against the old ones. The chosen point is marked.
    pub fn of_recovery(recovery: &Recovery) -> Self {
        let base = FrontierSeries {
            name: "base".to_owned(),
            is_joined: false,
            points: point("base", &recovery.baseline, false).into_iter().collect(),
        };
        let mut series = vec![base];
        for of_point in &recovery.points {
            let name = match &of_point.component {
                Some(component) => format!("{} with the base's {component}", of_point.method),
                None => of_point.method.clone(),
            };
            let label = of_point.strength.to_string();
            let is_chosen = recovery.chosen.as_ref().is_some_and(|chosen| is_of(chosen, of_point));
            let drawn = point(&label, &of_point.accuracies, is_chosen);
            match series.iter_mut().find(|known| known.name == name) {
                Some(known) => known.points.extend(drawn),
                None => series.push(FrontierSeries { name, is_joined: true, points: drawn.into_iter().collect() }),
            }
        }
        Self {
            title: format!("What {} keeps at each strength", recovery.adapter),
            x_label: format!("new: {}", recovery.new.join(", ")),
            y_label: format!("old: mean of {}", recovery.old.join(", ")),
            series,
        }
    }
}

fn is_of(chosen: &Chosen, point: &Point) -> bool {
    chosen.method == point.method && chosen.strength == point.strength && chosen.component == point.component
}

/// The point of a model; `None` if one of its means is not defined.
fn point(label: &str, of: &Accuracies, is_marked: bool) -> Option<FrontierPoint> {
    Some(FrontierPoint {
        label: label.to_owned(),
        x: of.new.accuracy?,
        x_interval: of.new.interval,
        y: of.old.accuracy?,
        y_interval: of.old.interval,
        is_marked,
    })
}
