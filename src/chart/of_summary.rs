//! A summary as a rose.
use super::{RoseChart, RoseOptions};
use crate::compare::Summary;
impl RoseChart {
    /// The chart of one run.
    pub fn of_summary(summary: &Summary, options: RoseOptions) -> Self {
        let _ = summary;
        Self {
            title: String::new(),
            subtitle: vec![],
            warnings: vec![],
            footer: vec![],
            axes: vec![],
            series: vec![],
            scale: options.scale,
            style: options.style,
        }
    }
}
