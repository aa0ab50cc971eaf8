//! Charts of the cost by the number of clusters, as SVG.

use std::fmt::Write as _;

use super::{Etcds, MeshRow};

struct Chart {
    title: &'static str,
    lines: Vec<Line>,
}

/// Values in one colour, by the number of clusters, ascending.
struct Line {
    name: String,
    /// Whether the clusters have etcds of their own. Such values are points without a line.
    real: bool,
    points: Vec<(f64, f64)>,
}

/// The upper left corner of a chart's plot area, in units of the SVG.
struct Area {
    left: f64,
    top: f64,
}

const COLUMNS: usize = 2;
/// The sizes of a chart with its margins, of its plot area, and of its left and upper margins.
const CELL: (f64, f64) = (480.0, 300.0);
const SIZE: (f64, f64) = (260.0, 200.0);
const MARGIN: (f64, f64) = (70.0, 50.0);
/// The colours of a chart's lines in turn. They differ in grey, too.
const COLOURS: [&str; 6] = ["#1b6ca8", "#d1495b", "#66a182", "#8d6a9f", "#edae49", "#555555"];
const FEWEST_TICKS: f64 = 4.0;

/// Draws the cost of meshes of several sizes for an agent.
pub fn picture(rows: &[MeshRow]) -> String {
    let charts = charts(rows);
    let across = COLUMNS as f64 * CELL.0;
    let down = charts.len().div_ceil(COLUMNS) as f64 * CELL.1;
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {across} {down}" font-family="sans-serif" font-size="12">
<rect width="{across}" height="{down}" fill="#ffffff"/>
"##
    );
    for (index, chart) in charts.iter().enumerate() {
        let (column, row) = ((index % COLUMNS) as f64, (index / COLUMNS) as f64);
        let area = Area { left: column * CELL.0 + MARGIN.0, top: row * CELL.1 + MARGIN.1 };
        chart.draw(&area, &mut svg);
    }
    svg.push_str("</svg>\n");
    svg
}

/// The value of a row that a line shows.
type Value<'a> = &'a dyn Fn(&MeshRow) -> Option<f64>;

fn charts(rows: &[MeshRow]) -> Vec<Chart> {
    let chart = |title, values: &[(String, Value<'_>)]| {
        let lines = values.iter().flat_map(|(name, value)| lines(rows, name, *value));
        Chart { title, lines: lines.collect() }
    };
    let named = |name: &str| name.to_owned();
    let rates: Vec<u32> =
        rows.first().into_iter().flat_map(|row| &row.changes).map(|one| one.rate).collect();
    let of_rate =
        |row: &MeshRow, rate: u32| row.changes.iter().find(|one| one.rate == rate).cloned();
    let cpu = rates.iter().map(|&rate| {
        let value = move |row: &MeshRow| of_rate(row, rate).map(|one| one.cpu_micros);
        let name = if rate == 0 { named("one at a time") } else { format!("{rate} a second") };
        (name, Box::new(value) as Box<dyn Fn(&MeshRow) -> Option<f64>>)
    });
    let cpu: Vec<_> = cpu.collect();
    let cpu: Vec<(String, Value<'_>)> =
        cpu.iter().map(|(name, value)| (name.clone(), value.as_ref())).collect();
    // Changes one at a time say little about a mesh, so the first rate is shown.
    let rate = rates.iter().copied().find(|rate| *rate > 0).unwrap_or_default();
    let millis = |nanos: u64| nanos as f64 / 1e6;
    vec![
        chart(
            "start until all is in the kernel, CPU ms",
            &[
                (named("agent"), &|row| Some(row.bootstrap.cpu_millis)),
                (named("plain read"), &|row| Some(row.bootstrap.read_cpu_millis)),
            ],
        ),
        chart(
            "resident memory of the agent, MB",
            &[(named("agent"), &|row| Some(row.resident as f64 / 1e6))],
        ),
        chart("one change, CPU µs of the agent", &cpu),
        chart(
            "from a change to the kernel, ms",
            &[
                (named("agent, p50"), &|row| Some(millis(of_rate(row, rate)?.kernel.p50_nanos))),
                (named("plain watch, p50"), &|row| {
                    Some(millis(of_rate(row, rate)?.watch.p50_nanos))
                }),
                (named("agent, p99"), &|row| Some(millis(of_rate(row, rate)?.kernel.p99_nanos))),
                (named("plain watch, p99"), &|row| {
                    Some(millis(of_rate(row, rate)?.watch.p99_nanos))
                }),
            ],
        ),
    ]
}

/// A line for the rows with real etcds, and one for the others.
fn lines(rows: &[MeshRow], name: &str, value: Value<'_>) -> Vec<Line> {
    let of = |etcds: Etcds| -> Vec<(f64, f64)> {
        let rows = rows.iter().filter(|row| row.etcds == etcds);
        rows.filter_map(|row| Some((row.clusters as f64, value(row)?))).collect()
    };
    [(Etcds::Replayed, false), (Etcds::Real, true)]
        .into_iter()
        .map(|(etcds, real)| Line { name: name.into(), real, points: of(etcds) })
        .filter(|line| !line.points.is_empty())
        .collect()
}

// === impl Chart ===

impl Chart {
    fn draw(&self, area: &Area, svg: &mut String) {
        let all = || self.lines.iter().flat_map(|line| &line.points);
        let (step_x, last_x) = scale(all().map(|(x, _)| *x).fold(0.0, f64::max));
        let (step_y, last_y) = scale(all().map(|(_, y)| *y).fold(0.0, f64::max));
        let at = |x: f64, y: f64| {
            let (across, up) = (x / last_x * SIZE.0, y / last_y * SIZE.1);
            (area.left + across, area.top + SIZE.1 - up)
        };
        let _ = writeln!(
            svg,
            r#"<text x="{}" y="{}" font-weight="bold">{}</text>"#,
            area.left,
            area.top - 20.0,
            self.title
        );
        for tick in ticks(step_y, last_y) {
            let ((left, y), (right, _)) = (at(0.0, tick), at(last_x, tick));
            let _ = writeln!(
                svg,
                r##"<path d="M{left:.1} {y:.1}H{right:.1}" stroke="#dddddd"/><text x="{:.1}" y="{:.1}" text-anchor="end">{tick}</text>"##,
                left - 6.0,
                y + 4.0
            );
        }
        for tick in ticks(step_x, last_x) {
            let (x, y) = at(tick, 0.0);
            let _ = writeln!(
                svg,
                r#"<text x="{x:.1}" y="{:.1}" text-anchor="middle">{tick}</text>"#,
                y + 16.0
            );
        }
        let (x, y) = at(last_x / 2.0, 0.0);
        let _ = writeln!(
            svg,
            r#"<text x="{x:.1}" y="{:.1}" text-anchor="middle">clusters</text>"#,
            y + 34.0
        );
        let mut names: Vec<&str> = Vec::new();
        for line in &self.lines {
            let known = names.iter().position(|name| *name == line.name);
            let index = known.unwrap_or(names.len());
            let colour = COLOURS.get(index % COLOURS.len()).copied().unwrap_or_default();
            if known.is_none() {
                names.push(&line.name);
                let (x, y) = (area.left + SIZE.0 + 12.0, area.top + 12.0 + 18.0 * index as f64);
                let _ = writeln!(
                    svg,
                    r#"<text x="{x:.1}" y="{y:.1}" fill="{colour}">{}</text>"#,
                    line.name
                );
            }
            let points: Vec<(f64, f64)> = line.points.iter().map(|(x, y)| at(*x, *y)).collect();
            if !line.real {
                let path: Vec<String> =
                    points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
                let _ = writeln!(
                    svg,
                    r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
                    path.join(" ")
                );
            }
            // Points of real etcds are hollow.
            let fill = if line.real { "none" } else { colour };
            for (x, y) in points {
                let _ = writeln!(
                    svg,
                    r#"<circle cx="{x:.1}" cy="{y:.1}" r="4" fill="{fill}" stroke="{colour}"/>"#
                );
            }
        }
    }
}

/// The distance of an axis's ticks, and its last tick: 1, 2 or 5 times a power of ten, so that there are four to ten.
fn scale(largest: f64) -> (f64, f64) {
    let largest = if largest > 0.0 { largest } else { 1.0 };
    let rough = largest / FEWEST_TICKS;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [5.0, 2.0, 1.0].map(|n| n * power).into_iter().find(|step| *step <= rough);
    let step = step.unwrap_or(power);
    (step, (largest / step).ceil() * step)
}

fn ticks(step: f64, last: f64) -> impl Iterator<Item = f64> {
    let round = move |tick: f64| (tick / step).round() * step;
    (0..)
        .map(move |n| round(f64::from(n) * step))
        .take_while(move |tick| *tick <= last + step / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mesh::{Bootstrap, Changes},
        stats::Distribution,
        usage::ProcessResources,
    };

    fn row(clusters: usize, etcds: Etcds, size: u32) -> MeshRow {
        let scale = f64::from(size);
        let million = u64::from(size) * 1_000_000;
        let distribution = Distribution::of(vec![million]);
        let change = |rate| Changes {
            rate,
            achieved: f64::from(rate),
            changes: 1,
            cpu_micros: 100.0 * scale,
            watch: distribution,
            kernel: distribution,
            ratio: 1.0,
        };
        MeshRow {
            clusters,
            etcds,
            endpoints: 1,
            bootstrap: Bootstrap {
                cpu_millis: scale,
                elapsed_millis: scale,
                keys: 1,
                read_cpu_millis: scale / 2.0,
                read_elapsed_millis: 1.0,
                ratio: 2.0,
            },
            resident: million,
            resident_each: 1.0,
            held: ProcessResources { threads: 1, descriptors: 1, inotify_instances: 1 },
            idle_millis: 1.0,
            changes: [0, 325].map(change).into(),
        }
    }

    /// The values of an attribute of all elements of a kind, in order.
    fn attribute(svg: &str, of: &str, name: &str) -> Vec<f64> {
        let elements = svg.split('<').filter(|element| element.starts_with(of));
        let value = |element: &str| {
            let (_, rest) = element.split_once(&format!(r#" {name}=""#))?;
            rest.split('"').next()?.parse().ok()
        };
        elements.filter_map(value).collect()
    }

    #[test]
    fn every_row_is_a_point_of_every_line_and_lies_where_its_value_is() {
        let rows = [
            row(10, Etcds::Real, 12),
            row(10, Etcds::Replayed, 10),
            row(50, Etcds::Replayed, 50),
            row(250, Etcds::Replayed, 250),
        ];
        let svg = picture(&rows);
        // Nine lines: two of the start, one of memory, two of a change's CPU time, four of its propagation.
        let circles = svg.matches("<circle").count();
        assert_eq!((circles, svg.matches("<polyline").count()), (9 * 4, 9));
        assert_eq!(
            svg.matches(r#"fill="none" stroke="#).count(),
            9 + 9,
            "lines, and hollow points"
        );
        for name in ["agent", "plain read", "one at a time", "325 a second", "plain watch, p99"] {
            assert!(svg.contains(&format!(">{name}</text>")), "{name}");
        }
        // The first line is the agent's start. Its cost is proportional to the size, so the points are on a line through
        // the origin.
        let (x, y) = (attribute(&svg, "circle", "cx"), attribute(&svg, "circle", "cy"));
        let left = MARGIN.0;
        let bottom = MARGIN.1 + SIZE.1;
        let slopes: Vec<f64> = (0..3).map(|at| (bottom - y[at]) / (x[at] - left)).collect();
        assert!(slopes.iter().all(|slope| (slope - slopes[2]).abs() < 0.1), "{slopes:?}");
        for (x, y) in x.iter().zip(&y) {
            assert!((0.0..=COLUMNS as f64 * CELL.0).contains(x), "{x}");
            assert!((0.0..=2.0 * CELL.1).contains(y), "{y}");
        }
    }

    #[test]
    fn axes_have_round_numbers() {
        for (largest, step, last) in
            [(250.0, 50.0, 250.0), (3.7, 0.5, 4.0), (1_234.0, 200.0, 1_400.0), (0.0, 0.2, 1.0)]
        {
            let (found, end) = scale(largest);
            assert!(
                (found - step).abs() < 1e-9 && (end - last).abs() < 1e-9,
                "{largest}: {found}, {end}"
            );
            let count = ticks(found, end).count();
            assert!((5..=11).contains(&count), "{largest}: {count}");
        }
    }
}
