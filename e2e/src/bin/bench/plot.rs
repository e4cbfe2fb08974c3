//! How the costs grow with the pods of a node, as pictures.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use super::report::median;

const COLOURS: [&str; 8] = [
    "#3467c2", "#d03030", "#3a9d4b", "#f0a030", "#7a4fb0", "#20a0a0", "#805020", "#909090",
];
const NAMES: [&str; 2] = ["Bulkhead", "containerd"];

/// What was seen while both nodes filled.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    ups: [Vec<f64>; 2],
    asked: BTreeMap<&'static str, Vec<(usize, [f64; 2])>>,
}

/// One line of a chart.
struct Series {
    name: String,
    points: Vec<(f64, f64)>,
}

#[expect(clippy::cast_precision_loss, reason = "a few hundred pods")]
fn number(count: usize) -> f64 {
    count as f64
}

impl Growth {
    /// A pod more on server `at`, up after this many milliseconds.
    pub(crate) fn came_up(&mut self, at: usize, milliseconds: f64) {
        self.ups[at].push(milliseconds);
    }

    /// The medians of a call at a level.
    pub(crate) fn asked(&mut self, call: &'static str, level: usize, medians: [f64; 2]) {
        self.asked.entry(call).or_default().push((level, medians));
    }

    pub(crate) fn ups(&self) -> &[Vec<f64>; 2] {
        &self.ups
    }

    /// Writes the charts of what was seen.
    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        let ups = |at: usize| Series {
            name: NAMES[at].to_owned(),
            // Each point is the median of ten: single pods tell of the machine's other work.
            points: self.ups[at]
                .chunks(10)
                .enumerate()
                .map(|(block, ten)| (number(block * 10 + ten.len()), median(ten)))
                .collect(),
        };
        let mut lists = Vec::new();
        for (call, points) in &self.asked {
            for (at, name) in NAMES.iter().enumerate() {
                lists.push(Series {
                    name: format!("{call}, {name}"),
                    points: points
                        .iter()
                        .map(|(level, medians)| (number(*level), medians[at]))
                        .collect(),
                });
            }
        }
        let files = [
            ("growth-up.svg", "pod up, by the pods there are", vec![ups(0), ups(1)]),
            ("growth-lists.svg", "one call, by the pods there are", lists),
        ];
        // Only some rows may have been asked for.
        let are_seen = |series: &[Series]| series.iter().any(|one| !one.points.is_empty());
        for (name, title, series) in files.iter().filter(|(_, _, series)| are_seen(series)) {
            let text = chart(title, series);
            let path = directory.join(name);
            std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            eprintln!("wrote {}", path.display());
        }
        Ok(())
    }
}

/// Milliseconds upwards (logarithmic: the servers are far apart), pods to the right.
fn chart(title: &str, series: &[Series]) -> String {
    let (width, height, left, bottom) = (760.0, 380.0, 60.0, 340.0);
    let all = || series.iter().flat_map(|one| &one.points);
    let most = all().map(|(x, _)| *x).fold(1.0, f64::max);
    let low = all()
        .map(|(_, y)| *y)
        .fold(f64::INFINITY, f64::min)
        .max(0.001)
        .log10()
        .floor();
    let high = all().map(|(_, y)| *y).fold(0.0, f64::max).max(0.01).log10().ceil();
    let x = |value: f64| left + value / most * 480.0;
    let y = |value: f64| bottom - (value.max(0.001).log10() - low) / (high - low).max(1.0) * 300.0;
    let mut text = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' font-family='sans-serif' font-size='11'>\n\
         <rect width='100%' height='100%' fill='white'/>\n<text x='{left}' y='20' font-size='14'>{title}</text>\n"
    );
    // Writing to a String does not fail.
    let mut power = low;
    while power <= high {
        let at = y(10_f64.powf(power));
        writeln!(
            text,
            "<path d='M{left} {at:.1}H{:.1}' stroke='#ddd'/><text x='4' y='{:.1}'>{} ms</text>",
            x(most),
            at + 4.0,
            10_f64.powf(power)
        )
        .ok();
        power += 1.0;
    }
    for step in 0..=5 {
        let value = (most * f64::from(step) / 5.0).round();
        writeln!(
            text,
            "<text x='{:.1}' y='{}'>{value}</text>",
            x(value) - 6.0,
            bottom + 18.0
        )
        .ok();
    }
    for (index, one) in series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let path: Vec<String> = one
            .points
            .iter()
            .map(|(a, b)| format!("{:.1},{:.1}", x(*a), y(*b)))
            .collect();
        let (legend, name) = (50 + index * 18, &one.name);
        writeln!(
            text,
            "<polyline points='{}' fill='none' stroke='{colour}' stroke-width='2'/>\n<text x='560' y='{legend}' fill='{colour}'>{name}</text>",
            path.join(" ")
        )
        .ok();
    }
    text.push_str("</svg>\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_has_its_lines_in_range() {
        let series = Series {
            name: "a".into(),
            points: vec![(10.0, 1.0), (300.0, 100.0)],
        };
        let text = chart("t", &[series]);
        assert!(text.contains("points='76.0,340.0 540.0,40.0'"), "{text}");
    }

    #[test]
    fn growth_counts_what_came_up() {
        let mut growth = Growth::default();
        growth.came_up(0, 1.0);
        growth.came_up(1, 2.0);
        assert_eq!(growth.ups(), &[vec![1.0], vec![2.0]]);
    }
}
