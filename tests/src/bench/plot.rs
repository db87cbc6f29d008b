// SPDX-License-Identifier: Apache-2.0
//! Bars for the README: one SVG a group, a row of bars for each row, as long as it is many times Berth's best.

use std::collections::BTreeMap;
use std::path::Path;

use super::engines::Kind;
use super::report::{Measured, number};

const WIDTH: f64 = 760.0;
const LEFT: f64 = 250.0;
const BAR: f64 = 15.0;
const GAP: f64 = 14.0;

/// Writes one SVG a group of rows.
pub fn write(measured: &[Measured], out: &Path) {
    let mut groups: BTreeMap<&str, Vec<&Measured>> = BTreeMap::new();
    for row in measured {
        groups.entry(row.group).or_default().push(row);
    }
    for (group, rows) in groups {
        let path = out.join(format!("bench-{group}.svg"));
        std::fs::write(&path, draw(group, &rows)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Berth => "#c2410c",
        Kind::Docker => "#64748b",
        Kind::Podman => "#94a3b8",
        Kind::Floor => "#cbd5e1",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn draw(group: &str, rows: &[&Measured]) -> String {
    let mut body = String::new();
    let mut y = 44.0;
    for row in rows {
        for (at, figure) in row.figures.iter().enumerate() {
            let name = if figure.name.is_empty() {
                row.name.clone()
            } else {
                format!("{}: {}", row.name, figure.name)
            };
            let values: Vec<f64> = row.taken.iter().map(|taken| row.spread(taken, at).median).collect();
            let most = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
            body.push_str(&format!(
                "<text x=\"8\" y=\"{:.0}\" font-weight=\"600\">{}</text>",
                y + 11.0,
                escape(&name)
            ));
            y += BAR + 3.0;
            for (taken, value) in row.taken.iter().zip(values) {
                let length = (WIDTH - LEFT - 110.0) * value / most;
                body.push_str(&format!(
                    "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
                     <rect x=\"{LEFT}\" y=\"{y:.0}\" width=\"{:.1}\" height=\"{:.0}\" fill=\"{}\"/>\
                     <text x=\"{:.0}\" y=\"{:.0}\">{} {}</text>",
                    LEFT - 8.0,
                    y + 11.0,
                    escape(taken.name),
                    length.max(1.0),
                    BAR - 2.0,
                    colour(taken.kind),
                    LEFT + length + 6.0,
                    y + 11.0,
                    number(value),
                    figure.unit
                ));
                y += BAR;
            }
            y += GAP;
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y:.0}\" viewBox=\"0 0 {WIDTH} {y:.0}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#1e293b\">\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\
         <text x=\"8\" y=\"24\" font-size=\"16\" font-weight=\"700\">{}</text>{body}</svg>\n",
        escape(group)
    )
}
