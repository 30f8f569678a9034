//! The report of a comparison: its pages, tables and charts.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::decisions::Decisions;
use super::summaries::Summaries;
use crate::chart::{self, ComparisonCharts, RoseOptions};
use crate::cli::gallery::{Gallery, Wanted};
use crate::cli::results;
use crate::compare::{self, Comparison, DEFAULT_MARGIN, Summary};
use crate::diagnose::Diagnosis;
use crate::finetune::Curve;
use crate::record;
use crate::report::{self, CandidateReport, ComparisonReport, DecisionBrief, GalleryImage};
use crate::study::{self, Compare, RecordedRun, comparability};

/// A report of a comparison, as a command asks for it.
pub(in crate::cli) struct ComparisonRequest<'a> {
    pub(in crate::cli) baseline: RecordedRun,
    pub(in crate::cli) candidates: Vec<RecordedRun>,
    /// By candidate, the datasets that it was fine-tuned on.
    pub(in crate::cli) tuned_on: Vec<BTreeSet<String>>,
    /// By candidate, what was decided, where that is shown.
    pub(in crate::cli) decisions: Decisions,
    /// Why the candidates forgot, in their order; none, or one each.
    pub(in crate::cli) diagnoses: Vec<Diagnosis>,
    /// By candidate, the curve of its fine-tune, where that is shown.
    pub(in crate::cli) curves: Vec<Curve>,
    /// The fields that may differ.
    pub(in crate::cli) allow_different: &'a [String],
    /// How roses look.
    pub(in crate::cli) charts: RoseOptions,
    /// The page's heading.
    pub(in crate::cli) title: &'a str,
    /// Where its files go.
    pub(in crate::cli) dir: &'a Path,
}

impl ComparisonRequest<'_> {
    /// Compares and writes all files; `images` says which images are shown. Returns what was found, and what a person should know.
    pub(in crate::cli) fn write(self, images: Wanted<'_>) -> Result<(Comparison, Vec<String>)> {
        let (compared, summaries) = self.compare(images)?;
        let mut warnings = oddities(&self.baseline, self.candidates.iter())?;
        warnings.extend(self.decisions.check_numbers(&compared.candidates)?);
        let gallery = Gallery::open(images, self.candidates.iter().map(|run| &run.manifest))?;
        warnings.extend(gallery.warnings.iter().cloned());
        self.write_files(&compared, &summaries, &gallery, &warnings)?;
        Ok((compared, warnings))
    }

    /// The comparison, and the summaries of all runs, the baseline first.
    fn compare(&self, images: Wanted<'_>) -> Result<(Comparison, Vec<Summary>)> {
        let Self { baseline, candidates, .. } = self;
        let request = Compare {
            baseline,
            candidates,
            tuned_on: &self.tuned_on,
            may_lack: &|name| self.decisions.leave_out(name),
            allow_different: self.allow_different,
            catalog: &images.places.catalog()?,
        };
        let runs = || std::iter::once(baseline).chain(candidates);
        let names: Vec<&str> = runs().map(|run| run.name.as_str()).collect();
        let mut summaries = Summaries::new(names.len());
        let compared = request.run(&mut |passing| match passing.is_recoded {
            true => summaries.add(passing.run, names[passing.run], passing.spec, passing.trials),
            false => Ok(()),
        })?;
        let mut summaries = summaries.finish();
        for (summary, run) in summaries.iter_mut().zip(runs()) {
            summary.model.server_flips = study::server_flips(&run.manifest);
        }
        Ok((compared, summaries))
    }

    fn write_files(
        &self,
        compared: &Comparison,
        summaries: &[Summary],
        gallery: &Gallery,
        warnings: &[String],
    ) -> Result<()> {
        let (before, summaries) = summaries.split_first().context("the baseline has no summary")?;
        let afters: Vec<&Summary> = summaries.iter().collect();
        let margin = self.decisions.margin().unwrap_or(DEFAULT_MARGIN);
        let charts = ComparisonCharts::draw(compared, before, &afters, self.charts, Some(margin));
        let pictures: Vec<Vec<GalleryImage>> =
            compared.candidates.iter().map(|candidate| gallery.of(candidate)).collect::<Result<_>>()?;
        let decisions: Vec<DecisionBrief> = self.decisions.all().map(report::decision_brief).collect();
        let rows = summaries.iter().zip(&pictures).enumerate();
        let candidates: Vec<CandidateReport> = rows
            .map(|(index, (after, gallery))| CandidateReport {
                after,
                gallery,
                curve: self.curves.get(index),
                decision: decisions.get(index),
                diagnosis: self.diagnoses.get(index),
            })
            .collect();
        let page = ComparisonReport {
            title: self.title,
            comparison: compared,
            before,
            candidates: &candidates,
            charts: &charts,
            stages: None,
            warnings,
            command: &results::command_line(),
        };
        write_charts(&charts, compared, self.dir)?;
        for (name, text) in [
            ("comparison.json", report::comparison_json(compared)),
            ("comparison.csv", report::comparison_csv(compared)),
            ("lost.csv", report::lost_csv(compared)),
            ("gained.csv", report::gained_csv(compared)),
            ("report.md", report::comparison_markdown(&page)),
            ("report.html", report::comparison_html(&page)),
        ] {
            record::write_file(self.dir, name, text.as_bytes())?;
        }
        Ok(())
    }
}

/// What of the runs was changed after they ended, and which of them are one and the same model.
fn oddities<'a>(before: &RecordedRun, after: impl Iterator<Item = &'a RecordedRun>) -> Result<Vec<String>> {
    let mut found = Vec::new();
    found.extend(before.digest()?.1);
    for run in after {
        found.extend(run.digest()?.1);
        let differences = compare::field_differences(&before.manifest.comparable, &run.manifest.comparable);
        let specs = [&before.manifest.spec, &run.manifest.spec];
        if is_one_run(before, run)? {
            found.push(format!(
                "baseline `{}` and candidate `{}` are the same model and the same run; no forgetting could be found; \
                 hint: --baseline takes the run of the model before fine-tuning",
                before.name, run.name
            ));
            continue;
        }
        found.extend(comparability::same_model([&before.name, &run.name], specs, &differences));
    }
    Ok(found)
}

/// Whether two folders hold the same trials of the same specification.
fn is_one_run(before: &RecordedRun, after: &RecordedRun) -> Result<bool> {
    Ok(before.manifest.identity == after.manifest.identity && before.digest()?.0 == after.digest()?.0)
}

/// A chart's file shows all candidates side by side, or the only one. With several, each also has files of its own.
fn write_charts(charts: &ComparisonCharts, compared: &Comparison, dir: &Path) -> Result<()> {
    ensure!(!compared.candidates.is_empty(), "there is no candidate to draw");
    for (name, figure) in charts.main() {
        let svg = &figure.drawn.wide;
        record::write_file(dir, &format!("{name}.svg"), svg.as_bytes())?;
        record::write_file(dir, &format!("{name}.png"), &chart::png(svg, chart::PNG_WIDTH_PX)?)?;
    }
    if compared.candidates.len() > 1 {
        for (index, candidate) in compared.candidates.iter().enumerate() {
            for (name, figure) in charts.of_candidate(index) {
                record::write_file(dir, &format!("{name}-{}.svg", candidate.run), figure.drawn.wide.as_bytes())?;
            }
        }
    }
    Ok(())
}
