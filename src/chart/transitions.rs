//! The transition diagram: the state of each image before and after, as ribbons.

use super::families::{self, Family};
use super::layout::Layout;
use super::svg::{self, Anchor, Svg, ink, number};
use super::{text, words};
use crate::domain::ErrorCode;

/// The content of a transition diagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransitionChart {
    /// The heading.
    pub title: String,
    /// Lines of small print below it.
    pub subtitle: Vec<String>,
    /// One per dataset.
    pub panels: Vec<TransitionPanel>,
}

/// One dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransitionPanel {
    /// Its name.
    pub name: String,
    /// A line of small print below it.
    pub remark: String,
    /// Images by state before and after.
    pub flows: Vec<Flow>,
}

/// Images that changed from one state to another: `correct`, a code's name or `unscored`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The state before.
    pub from: String,
    /// The state after.
    pub to: String,
    /// The number of images.
    pub n: usize,
}

const GUTTER: f64 = 28.0;
/// The total height of a panel's images; more if states with few images need room for their names.
const BODY: f64 = 250.0;
/// The distance from a panel's top to its bars.
const PANEL_HEAD: f64 = 66.0;
const PANEL_FOOT: f64 = 30.0;
const BAR: f64 = 13.0;
/// The height that a state's name needs.
const SLOT_MIN: f64 = 15.5;
const SLOT_GAP: f64 = 4.0;
const NAME_SIZE: f64 = 12.5;
/// The most transitions of a dataset that a description names; the table below has all of them.
const N_DESCRIBED: usize = 8;

/// Draws the diagram as SVG.
pub fn transitions(chart: &TransitionChart) -> String {
    transitions_in(chart, Layout::Wide)
}

/// Draws the diagram as SVG, for a screen or a phone.
pub(super) fn transitions_in(chart: &TransitionChart, layout: Layout) -> String {
    let margin = layout.margin();
    let mut svg = Svg::default();
    families::define_patterns(&mut svg);
    let mut top = svg.heading(layout, &chart.title, &chart.subtitle) + 14.0;
    let n_columns = if chart.panels.len() > 1 { layout.either(2, 1) } else { 1 };
    let width = (layout.width() - 2.0 * margin - GUTTER * (n_columns - 1) as f64) / n_columns as f64;
    for row in chart.panels.chunks(n_columns) {
        let mut height: f64 = 0.0;
        for (column, panel) in row.iter().enumerate() {
            let x = margin + column as f64 * (width + GUTTER);
            height = height.max(draw_panel(&mut svg, panel, x, top, width));
        }
        top += height + PANEL_FOOT;
    }
    if chart.panels.is_empty() {
        let middle = layout.width() / 2.0;
        svg.text(middle, top + 20.0, Anchor::Middle, ink(15.0, svg::WARNING, "warning"), "no datasets");
        top += 50.0;
    }
    let bottom = draw_legend(&mut svg, chart, top, layout);
    svg.finish(layout.width(), bottom + 18.0, &chart.title, &description(chart))
}

/// One state on one side of a panel.
struct Node<'a> {
    state: &'a str,
    n: usize,
    /// The top of its bar.
    y: f64,
    height: f64,
    /// The start of the next ribbon.
    next: f64,
}

impl Node<'_> {
    /// Takes the part of the bar for the next `n` images.
    fn take(&mut self, n: usize) -> [f64; 2] {
        let start = self.next;
        self.next += self.height * n as f64 / self.n as f64;
        [start, self.next]
    }
}

/// Returns the states of one side from the top, and the bottom of the lowest.
fn nodes<'a>(flows: &'a [Flow], side: fn(&Flow) -> &str, top: f64) -> (Vec<Node<'a>>, f64) {
    let total: usize = flows.iter().map(|flow| flow.n).sum();
    let mut states: Vec<&str> = flows.iter().filter(|flow| flow.n > 0).map(side).collect();
    states.sort_by_key(|state| (rank(state), *state));
    states.dedup();
    let mut y = top;
    let mut nodes = Vec::new();
    for state in states {
        let n = flows.iter().filter(|flow| side(flow) == state).map(|flow| flow.n).sum();
        let height = (BODY * n as f64 / total as f64).max(1.0);
        let slot = height.max(SLOT_MIN);
        let bar_top = y + (slot - height) / 2.0;
        nodes.push(Node { state, n, y: bar_top, height, next: bar_top });
        y += slot + SLOT_GAP;
    }
    (nodes, y - SLOT_GAP)
}

/// Orders states: correct first, then codes in report order, unscored last.
fn rank(state: &str) -> usize {
    match ErrorCode::ALL.into_iter().position(|code| code.name() == state) {
        _ if state == "correct" => 0,
        Some(position) => 1 + position,
        None => usize::MAX,
    }
}

/// Draws a panel and returns its height.
fn draw_panel(svg: &mut Svg, panel: &TransitionPanel, x: f64, top: f64, width: f64) -> f64 {
    let one_line = |words: &str, size: f64, is_bold: bool| text::wrap(words, width, size, is_bold, 1).concat();
    svg.text(
        x,
        top + 14.0,
        Anchor::Start,
        ink(15.0, svg::INK, "ink").bold(),
        &one_line(&words::printable(&panel.name), 15.0, true),
    );
    svg.text(
        x,
        top + 32.0,
        Anchor::Start,
        ink(12.5, svg::MUTED, "muted"),
        &one_line(&words::printable(&panel.remark), 12.5, false),
    );
    if panel.flows.iter().all(|flow| flow.n == 0) {
        svg.text(x, top + 62.0, Anchor::Start, ink(13.0, svg::WARNING, "warning"), "no pairs of answers");
        return 70.0;
    }
    let names = (width * 0.3).clamp(112.0, 150.0);
    let [left, right] = [x + names, x + width - names - BAR];
    let head = ink(12.0, svg::MUTED, "muted");
    svg.text(left + BAR, top + 56.0, Anchor::End, head, "before");
    svg.text(right, top + 56.0, Anchor::Start, head, "after");
    let (mut before, bottom_before) = nodes(&panel.flows, |flow| &flow.from, top + PANEL_HEAD);
    let (mut after, bottom_after) = nodes(&panel.flows, |flow| &flow.to, top + PANEL_HEAD);
    draw_ribbons(svg, &panel.flows, &mut before, &mut after, [left + BAR, right]);
    for (nodes, x, name_x, anchor) in
        [(&before, left, left - 8.0, Anchor::End), (&after, right, right + BAR + 8.0, Anchor::Start)]
    {
        for node in nodes {
            let name = format!("{} {}", node.state.replace('_', " "), node.n);
            families::bar(svg, Family::of_state(node.state), x, node.y, BAR, node.height, Some(&name));
            let shown = text::wrap(&name, names - 8.0, NAME_SIZE, false, 1).concat();
            let y = node.y + node.height / 2.0 + 0.36 * NAME_SIZE;
            svg.text(name_x, y, anchor, ink(NAME_SIZE, svg::INK, "ink"), &shown);
        }
    }
    bottom_before.max(bottom_after) - top
}

fn draw_ribbons(svg: &mut Svg, flows: &[Flow], before: &mut [Node<'_>], after: &mut [Node<'_>], ends: [f64; 2]) {
    // Sorted by both sides, so that ribbons of one bar do not cross at it.
    let place = |nodes: &[Node<'_>], state: &str| nodes.iter().position(|node| node.state == state);
    let mut placed: Vec<(usize, usize, &Flow)> = flows
        .iter()
        .filter(|flow| flow.n > 0)
        .filter_map(|flow| Some((place(before, &flow.from)?, place(after, &flow.to)?, flow)))
        .collect();
    placed.sort_by_key(|&(from, to, _)| (from, to));
    let mut ribbons: Vec<(bool, String, &Flow)> = Vec::new();
    for (from, to, flow) in placed {
        let [y0, y1] = before[from].take(flow.n);
        let [y2, y3] = after[to].take(flow.n);
        let crosses = (flow.from == "correct") != (flow.to == "correct");
        ribbons.push((crosses, ribbon(ends, [y0, y1], [y2, y3]), flow));
    }
    // Changes between right and wrong are drawn above the rest.
    ribbons.sort_by_key(|(crosses, _, flow)| (*crosses, std::cmp::Reverse(flow.n)));
    for (crosses, data, flow) in ribbons {
        let family = Family::of_state(&flow.to);
        let opacity = if crosses { 0.62 } else { 0.2 };
        let look = format!(
            r#"fill="{0}" fill-opacity="{opacity}" stroke="{0}" stroke-opacity="{opacity}" stroke-width="0.7""#,
            family.fill()
        );
        let images = if flow.n == 1 { "image" } else { "images" };
        let tooltip = format!("{} → {}: {} {images}", flow.from.replace('_', " "), flow.to.replace('_', " "), flow.n);
        svg.path(&format!("ribbon {}", family.class()), &data, &look, Some(&tooltip));
    }
}

fn ribbon([left, right]: [f64; 2], [y0, y1]: [f64; 2], [y2, y3]: [f64; 2]) -> String {
    let middle = number((left + right) / 2.0);
    let [left, right, y0, y1, y2, y3] = [left, right, y0, y1, y2, y3].map(number);
    format!(
        "M{left} {y0}C{middle} {y0} {middle} {y2} {right} {y2}L{right} {y3}C{middle} {y3} {middle} {y1} {left} {y1}Z"
    )
}

/// Draws the families that occur, from `top`. Returns the bottom of the legend.
fn draw_legend(svg: &mut Svg, chart: &TransitionChart, top: f64, layout: Layout) -> f64 {
    let occurs = |family: &Family| {
        let mut flows = chart.panels.iter().flat_map(|panel| &panel.flows).filter(|flow| flow.n > 0);
        flows.any(|flow| [&flow.from, &flow.to].into_iter().any(|state| Family::of_state(state) == *family))
    };
    let (size, margin) = (13.0, layout.margin());
    let (mut x, mut y) = (margin, top);
    svg.open("legend", 0.0, 0.0);
    for family in Family::ALL.into_iter().filter(occurs) {
        let needed = 27.0 + text::width(family.name(), size, false);
        if x > margin && x + needed > layout.width() - margin {
            (x, y) = (margin, y + 21.0);
        }
        families::bar(svg, family, x, y, 20.0, 13.0, None);
        svg.text(x + 27.0, y + 11.0, Anchor::Start, ink(size, svg::INK, "ink"), family.name());
        x += needed + 20.0;
    }
    svg.close();
    let note =
        "A ribbon has the colour of what its images became; the strong ones changed between right and not right.";
    y += 18.0;
    for line in text::wrap(note, layout.width() - 2.0 * margin, 12.0, false, 5) {
        y += 17.0;
        svg.text(margin, y, Anchor::Start, ink(12.0, svg::MUTED, "muted"), &line);
    }
    y + 5.0
}

/// Describes the diagram in words, for readers who cannot see it.
fn description(chart: &TransitionChart) -> String {
    let mut sentences = vec!["What each image was before and is after.".to_owned()];
    for panel in &chart.panels {
        let mut flows: Vec<&Flow> = panel.flows.iter().filter(|flow| flow.n > 0).collect();
        flows.sort_by_key(|flow| std::cmp::Reverse(flow.n));
        let mut parts: Vec<String> = flows
            .iter()
            .take(N_DESCRIBED)
            .map(|flow| format!("{} to {} {}", flow.from.replace('_', " "), flow.to.replace('_', " "), flow.n))
            .collect();
        if flows.len() > N_DESCRIBED {
            parts.push(format!("and {} rarer ones", flows.len() - N_DESCRIBED));
        }
        sentences.push(format!("{}: {}.", panel.name, parts.join(", ")));
    }
    sentences.join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use resvg::usvg::roxmltree::Document;

    use super::*;
    use crate::chart::raster;

    fn flow(from: &str, to: &str, n: usize) -> Flow {
        Flow { from: from.to_owned(), to: to.to_owned(), n }
    }

    fn panel(name: &str, flows: Vec<Flow>) -> TransitionPanel {
        TransitionPanel { name: name.to_owned(), remark: "all pairs".to_owned(), flows }
    }

    fn chart(panels: Vec<TransitionPanel>) -> TransitionChart {
        TransitionChart { title: "What became of each image".to_owned(), subtitle: Vec::new(), panels }
    }

    #[test]
    fn a_bar_is_as_high_as_its_share_and_ribbons_fill_it() {
        let flows = vec![flow("correct", "correct", 60), flow("correct", "leak", 30), flow("wrong", "correct", 10)];
        let (mut before, _) = nodes(&flows, |flow| &flow.from, 0.0);
        assert_eq!(
            before.iter().map(|node| (node.state, node.n)).collect::<Vec<_>>(),
            [("correct", 90), ("wrong", 10)]
        );
        assert!((before[0].height - 0.9 * BODY).abs() < 1e-9);
        let [_, end] = before[0].take(60);
        let [start, last] = before[0].take(30);
        assert!(end == start && (last - before[0].y - before[0].height).abs() < 1e-9);
    }

    #[test]
    fn names_of_one_side_never_overlap() {
        let flows: Vec<Flow> = ErrorCode::ALL
            .into_iter()
            .map(|code| flow("correct", code.name(), 1))
            .chain([flow("correct", "correct", 5000)])
            .collect();
        let (after, _) = nodes(&flows, |flow| &flow.to, 0.0);
        assert_eq!(after.len(), 12);
        for pair in after.windows(2) {
            let middle = |node: &Node<'_>| node.y + node.height / 2.0;
            assert!(middle(&pair[1]) - middle(&pair[0]) >= SLOT_MIN - 1e-9);
        }
        assert_eq!((after[0].state, after[1].state, after[11].state), ("correct", "wrong", "refusal"));
    }

    #[test]
    fn markup_in_a_name_stays_text_and_an_empty_panel_says_so() {
        let drawn = transitions(&chart(vec![
            panel("<script>x</script>", vec![]),
            panel("b", vec![flow("correct", "leak", 3)]),
        ]));
        assert!(!drawn.contains("<script") && drawn.contains("no pairs of answers"));
        assert!(drawn.contains("correct → leak: 3 images"));
        Document::parse(&drawn).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn every_diagram_is_well_formed(
            flows in proptest::collection::vec((0..14_usize, 0..14_usize, 0..3000_usize), 0..60), n_panels in 0..5_usize,
        ) {
            let states: Vec<&str> = ["correct", "unscored", "other"].into_iter().chain(ErrorCode::ALL.map(ErrorCode::name)).collect();
            let flows: Vec<Flow> = flows.into_iter().map(|(from, to, n)| flow(states[from], states[to], n)).collect();
            let drawn = transitions(&chart(vec![panel("d", flows); n_panels]));
            prop_assert!(!drawn.contains("NaN") && !drawn.contains("inf"));
            raster::parse(&drawn).unwrap();
        }
    }
}
