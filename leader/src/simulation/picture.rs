//! What a simulation came to, as a picture (SVG 1.1, no script, no fonts of its own).
//!
//! Above, the day of the highest peak: what the readers need, what was paid. Below, what each rule costs, and, where it
//! was swept, the frontier: cost against service.

use std::fmt::Write as _;

use super::frontier::Frontier;
use super::{Outcome, Trace, World};

/// What is drawn.
#[derive(Debug)]
pub struct Picture<'a> {
    pub trace: &'a Trace,
    pub world: &'a World,
    /// The policy first, then its peers, fixed, and last the clairvoyant.
    pub rows: &'a [(String, Outcome)],
    pub frontiers: &'a [Frontier],
    /// Which readers these were.
    pub what: &'a str,
}

const WIDTH: f64 = 1100.0;
const HEIGHT: f64 = 760.0;

/// One colour a row, and a frontier the colour of its rule.
const COLOURS: [&str; 5] = ["#2f6fdd", "#d9480f", "#b8860b", "#8a94a6", "#2b8a3e"];
/// The share over capacity at which the legend says what each rule costs.
const AIMED_AT: f64 = 1e-4;

const FRONTIER_COLOURS: [&str; 4] = [COLOURS[0], "#8fb4f0", COLOURS[1], COLOURS[2]];

/// A rectangle of the picture with a scale on each side.
#[derive(Debug, Clone, Copy)]
struct Panel {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
    x: (f64, f64),
    y: (f64, f64),
}

impl Panel {
    fn x(&self, value: f64) -> f64 {
        self.left + (value - self.x.0) / (self.x.1 - self.x.0) * self.width
    }

    fn y(&self, value: f64) -> f64 {
        self.top + self.height - (value - self.y.0) / (self.y.1 - self.y.0) * self.height
    }
}

#[must_use]
pub fn draw(picture: &Picture<'_>) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"DejaVu Sans, Helvetica, Arial, sans-serif\" font-size=\"13\" fill=\"#1d2a3f\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n"
    );
    headline(&mut svg, picture);
    day(&mut svg, picture);
    bars(&mut svg, picture);
    frontier(&mut svg, picture.frontiers);
    svg.push_str("</svg>\n");
    svg
}

fn text(svg: &mut String, (x, y): (f64, f64), more: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {more}>{words}</text>");
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), more: &str) {
    let _ =
        writeln!(svg, "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" {more}/>", from.0, from.1, to.0, to.1);
}

fn path(svg: &mut String, points: &[(f64, f64)], more: &str) {
    let _ = write!(svg, "<path d=\"");
    for (at, (x, y)) in points.iter().enumerate() {
        let _ = write!(svg, "{}{x:.1} {y:.1}", if at == 0 { "M" } else { "L" });
    }
    let _ = writeln!(svg, "\" {more}/>");
}

fn row<'a>(picture: &Picture<'a>, named: &str) -> Option<&'a (String, Outcome)> {
    picture.rows.iter().find(|row| row.0.starts_with(named))
}

fn headline(svg: &mut String, picture: &Picture<'_>) {
    let (Some((_, own)), Some((_, fixed))) = (picture.rows.first(), row(picture, "fixed")) else { return };
    let saved = (1.0 - own.node_hours / fixed.node_hours.max(f64::MIN_POSITIVE)) * 100.0;
    let (by, which) = if saved < 0.0 { (-saved, "more") } else { (saved, "less") };
    let title = format!("mtxfleet pays {by:.0} % {which} than a cluster fixed for the peak");
    text(svg, (40.0, 42.0), "font-size=\"24\" font-weight=\"bold\"", &title);
    let World { per_node, lead, .. } = picture.world;
    let below = format!(
        "{}; {per_node:.0} readers a node, {} s from launch to first reader; {:.4} % of viewer-seconds over capacity",
        picture.what,
        lead.as_secs(),
        own.over_share() * 100.0
    );
    text(svg, (40.0, 66.0), "fill=\"#5b6b84\"", &below);
}

/// The day of the highest peak.
fn day(svg: &mut String, picture: &Picture<'_>) {
    let (Some((_, own)), Some((_, fixed)), Some((_, bound))) =
        (picture.rows.first(), row(picture, "fixed"), picture.rows.last())
    else {
        return;
    };
    let readers = &picture.world.needed(picture.trace);
    let step = picture.trace.step.as_secs_f64();
    let a_day = ((86_400.0 / step) as usize).min(readers.len());
    let peak = (0..readers.len()).max_by(|a, b| readers[*a].total_cmp(&readers[*b])).unwrap_or_default();
    let first = (peak / a_day.max(1) * a_day).min(readers.len() - a_day);
    let shown = first..first + a_day;
    let most = shown.clone().map(|at| own.paid[at].max(fixed.paid[at])).max().unwrap_or(1);
    let hours = a_day as f64 * step / 3_600.0;
    let panel =
        Panel { left: 70.0, top: 120.0, width: 860.0, height: 270.0, x: (0.0, hours), y: (0.0, f64::from(most) + 1.0) };
    text(svg, (40.0, 104.0), "font-weight=\"bold\"", "Nodes, on the day of the highest peak");
    let every = most.div_ceil(6).max(1);
    for nodes in (0..=most).step_by(every as usize) {
        let y = panel.y(f64::from(nodes));
        line(svg, (panel.left, y), (panel.left + panel.width, y), "stroke=\"#e3e8f0\"");
        text(svg, (panel.left - 8.0, y + 4.0), "text-anchor=\"end\" fill=\"#5b6b84\"", &nodes.to_string());
    }
    let ticks = if hours > 12.0 { 4.0 } else { (hours / 4.0).max(0.01) };
    let mut hour = 0.0;
    while hour <= hours + 0.001 {
        let label = if hours > 12.0 { format!("{hour:02.0}:00") } else { format!("{hour:.1} h") };
        text(svg, (panel.x(hour), panel.top + panel.height + 20.0), "text-anchor=\"middle\" fill=\"#5b6b84\"", &label);
        hour += ticks;
    }
    // One point a minute is all that can be seen.
    let thin = (60.0 / step).max(1.0) as usize;
    let time = |at: usize| panel.x((at - first) as f64 * step / 3_600.0);
    let mut area = vec![(panel.left, panel.y(0.0))];
    for chunk in shown.clone().step_by(thin) {
        let end = (chunk + thin).min(shown.end);
        let high = readers[chunk..end].iter().copied().fold(0.0, f64::max);
        area.push((time(chunk), panel.y(high)));
    }
    area.push((panel.left + panel.width, panel.y(0.0)));
    path(svg, &area, "fill=\"#d5dbe6\" stroke=\"none\"");
    let stairs = |nodes: &[u32]| {
        let mut points: Vec<(f64, f64)> = Vec::new();
        let mut last = None;
        for at in shown.clone() {
            let y = panel.y(f64::from(nodes[at]));
            if last != Some(nodes[at]) {
                points.extend(points.last().map(|before| (time(at), before.1)));
                points.push((time(at), y));
                last = Some(nodes[at]);
            }
        }
        points.extend(points.last().map(|before| (panel.left + panel.width, before.1)));
        points
    };
    path(svg, &stairs(&bound.paid), &format!("fill=\"none\" stroke=\"{}\" stroke-width=\"1.2\"", COLOURS[4]));
    path(svg, &stairs(&own.paid), &format!("fill=\"none\" stroke=\"{}\" stroke-width=\"2.5\"", COLOURS[0]));
    let dashed = format!("fill=\"none\" stroke=\"{}\" stroke-width=\"2.5\" stroke-dasharray=\"9 5\"", COLOURS[3]);
    path(svg, &stairs(&fixed.paid), &dashed);
    let legend = [
        (COLOURS[3], "fixed for the peak"),
        (COLOURS[0], "mtxfleet, paid"),
        (COLOURS[4], "clairvoyant, paid"),
        ("#aab4c5", "needed by readers"),
    ];
    for (at, (colour, words)) in legend.iter().enumerate() {
        let y = panel.top + 20.0 + at as f64 * 24.0;
        line(svg, (945.0, y), (967.0, y), &format!("stroke=\"{colour}\" stroke-width=\"4\""));
        text(svg, (974.0, y + 4.0), "font-size=\"12\"", words);
    }
}

/// Cost of each rule as it was set, and how much was over capacity then.
fn bars(svg: &mut String, picture: &Picture<'_>) {
    let Some((_, bound)) = picture.rows.last() else { return };
    text(svg, (40.0, 452.0), "font-weight=\"bold\"", "Cost: node-hours, in times the clairvoyant's");
    let costs = || picture.rows.iter().map(|(_, outcome)| outcome.node_hours / bound.node_hours.max(1e-9));
    let most = costs().fold(1.0, f64::max);
    for (at, ((name, outcome), cost)) in picture.rows.iter().zip(costs()).enumerate() {
        let y = 474.0 + at as f64 * 52.0;
        let width = cost / most * 300.0;
        text(svg, (40.0, y + 8.0), "", name);
        let colour = COLOURS[at % COLOURS.len()];
        let _ = writeln!(
            svg,
            "<rect x=\"40\" y=\"{:.1}\" width=\"{width:.1}\" height=\"20\" rx=\"3\" fill=\"{colour}\"/>",
            y + 14.0
        );
        let value = format!("{cost:.2}");
        text(svg, (48.0 + width, y + 29.0), "font-weight=\"bold\"", &value);
        let over = format!("{:.4} % over capacity", outcome.over_share() * 100.0);
        text(svg, (92.0 + width, y + 29.0), "font-size=\"12\" fill=\"#5b6b84\"", &over);
    }
}

/// Cost to the right, viewer-seconds over capacity upwards on a logarithmic scale: lower and further left is better.
fn frontier(svg: &mut String, frontiers: &[Frontier]) {
    if frontiers.is_empty() {
        text(svg, (620.0, 452.0), "fill=\"#5b6b84\"", "--frontier shows cost against service");
        return;
    }
    let panel = Panel { left: 680.0, top: 480.0, width: 380.0, height: 220.0, x: (0.9, 2.0), y: (-3.0, 0.0) };
    text(svg, (600.0, 452.0), "font-weight=\"bold\"", "Cost against service, each rule swept: further left is better");
    for (power, label) in [(0, "1 %"), (-1, "0.1 %"), (-2, "0.01 %"), (-3, "0.001 %")] {
        let y = panel.y(f64::from(power));
        let stroke = if power == -2 { "#33415c" } else { "#e3e8f0" };
        line(svg, (panel.left, y), (panel.left + panel.width, y), &format!("stroke=\"{stroke}\""));
        text(svg, (panel.left - 8.0, y + 4.0), "text-anchor=\"end\" fill=\"#5b6b84\"", label);
    }
    let mut cost = 1.0;
    while cost < panel.x.1 + 0.01 {
        let at = (panel.x(cost), panel.top + panel.height + 18.0);
        text(svg, at, "text-anchor=\"middle\" fill=\"#5b6b84\"", &format!("{cost:.2}"));
        cost += 0.25;
    }
    let axis = "viewer-seconds over capacity, against times the clairvoyant's cost";
    text(svg, (panel.left, panel.top + panel.height + 40.0), "font-size=\"12\" fill=\"#5b6b84\"", axis);
    text(svg, (880.0, panel.top + 8.0), "font-size=\"12\" fill=\"#5b6b84\"", "cost at 0.01 % over capacity");
    let inside = |x: f64, y: f64| (panel.x.0..=panel.x.1).contains(&x) && (panel.y.0..=panel.y.1).contains(&y);
    for (at, frontier) in frontiers.iter().enumerate() {
        let colour = FRONTIER_COLOURS[at % FRONTIER_COLOURS.len()];
        let mut points = Vec::new();
        for point in &frontier.points {
            let over = (point.over * 100.0).max(1e-9).log10();
            if inside(point.cost, over) {
                points.push((panel.x(point.cost), panel.y(over)));
            }
        }
        path(svg, &points, &format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.2\""));
        for (x, y) in &points {
            let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.6\" fill=\"{colour}\"/>");
        }
        let y = panel.top + 24.0 + at as f64 * 17.0;
        line(svg, (880.0, y), (900.0, y), &format!("stroke=\"{colour}\" stroke-width=\"3\""));
        let name = frontier
            .at(AIMED_AT)
            .map_or_else(|| frontier.name.to_owned(), |point| format!("{}: {:.2}", frontier.name, point.cost));
        text(svg, (906.0, y + 4.0), "font-size=\"12\"", &name);
    }
}
