// SPDX-License-Identifier: Apache-2.0
//! Medians, spreads, ratios, and whether the aims are met: as a table and as JSON.

use std::fmt;
use std::path::Path;

use serde_json::{Value, json};

use super::engines::{Client, Kind};
use super::row::{Aim, Better, Figure};
use crate::harness::Output;

/// What one seat gave: values by figure.
pub struct Taken {
    pub(super) kind: Kind,
    pub(super) client: Client,
    pub(super) name: &'static str,
    pub(super) version: String,
    pub(super) values: Vec<Vec<f64>>,
}

/// A row that was measured.
pub struct Measured {
    pub(super) group: &'static str,
    pub(super) name: String,
    pub(super) figures: Vec<Figure>,
    pub(super) taken: Vec<Taken>,
}

/// A figure's place among its rounds.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// Median.
    pub median: f64,
    /// A tenth of the rounds was below.
    pub p10: f64,
    /// A tenth was above.
    pub p90: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |percent: usize| sorted[(sorted.len() - 1) * percent / 100];
        Self { median: at(50), p10: at(10), p90: at(90) }
    }
}

impl Measured {
    /// The spread of a figure on a seat.
    pub(super) fn spread(&self, taken: &Taken, figure: usize) -> Spread {
        Spread::of(&taken.values[figure])
    }

    /// The peer's median, through the docker CLI if the row is one of command lines.
    fn of(&self, kind: Kind, figure: usize) -> Option<f64> {
        let taken = self.taken.iter().find(|t| t.kind == kind)?;
        Some(self.spread(taken, figure).median)
    }

    /// How many times better than a peer a value is.
    fn better(&self, figure: usize, kind: Kind, value: f64) -> Option<f64> {
        let peer = self.of(kind, figure)?;
        Some(match self.figures[figure].better {
            Better::Less => peer / value,
            Better::More => value / peer,
        })
    }

    /// The aims of a seat for a figure, in words, and whether each is met; `None` if there is nothing to compare with.
    fn aims(&self, figure: usize, taken: &Taken) -> Vec<(String, Option<bool>)> {
        if taken.kind != Kind::Berth {
            return Vec::new();
        }
        let value = self.spread(taken, figure).median;
        let mine = self.figures[figure].aims.iter().filter(|(client, _)| *client == taken.client);
        mine.map(|(_, aim)| match *aim {
            Aim::OfDocker(n) => {
                (format!("{n}x of Docker"), self.better(figure, Kind::Docker, value).map(|b| b >= n))
            }
            Aim::OfPodman(n) => {
                (format!("{n}x of Podman"), self.better(figure, Kind::Podman, value).map(|b| b >= n))
            }
            Aim::OfFloor(n) => {
                let floor = self.of(Kind::Floor, figure).filter(|floor| *floor > 0.0);
                (format!("{n}x the floor"), floor.map(|floor| value <= n * floor))
            }
            Aim::AtMost(n) => (format!("at most {n} {}", self.figures[figure].unit), Some(value <= n)),
        })
        .collect()
    }

    /// The table's lines.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (at, figure) in self.figures.iter().enumerate() {
            let row = if figure.name.is_empty() {
                self.name.clone()
            } else {
                format!("{}: {}", self.name, figure.name)
            };
            for taken in &self.taken {
                let spread = self.spread(taken, at);
                let times = |kind: Kind| match self.better(at, kind, spread.median) {
                    Some(n) if taken.kind != kind && n.is_finite() => format!("{n:.1}x"),
                    _ => "-".to_owned(),
                };
                let floor = match self.of(Kind::Floor, at) {
                    Some(floor) if floor > 0.0 && taken.kind != Kind::Floor => {
                        format!("{:.1}x", spread.median / floor)
                    }
                    _ => "-".to_owned(),
                };
                let aims = self.aims(at, taken).into_iter().map(|(aim, met)| match met {
                    Some(true) => format!("{aim}: met"),
                    Some(false) => format!("**{aim}: missed**"),
                    None => aim,
                });
                let aims: Vec<String> = aims.collect();
                lines.push(format!(
                    "| {row} | {} | {} | {} | {} | {} | {} | {floor} | {} |",
                    taken.name,
                    figure.unit,
                    number(spread.median),
                    format_args!("{} to {}", number(spread.p10), number(spread.p90)),
                    times(Kind::Docker),
                    times(Kind::Podman),
                    aims.join("; "),
                ));
            }
        }
        lines
    }

    pub(super) fn print(&self) {
        for line in self.lines() {
            println!("{line}");
        }
    }

    fn json(&self) -> Vec<Value> {
        let mut all = Vec::new();
        for (at, figure) in self.figures.iter().enumerate() {
            for taken in &self.taken {
                let spread = self.spread(taken, at);
                let aims: Vec<Value> = self
                    .aims(at, taken)
                    .into_iter()
                    .map(|(aim, met)| json!({"aim": aim, "met": met}))
                    .collect();
                all.push(json!({
                    "group": self.group, "row": self.name, "figure": figure.name, "unit": figure.unit,
                    "seat": taken.name, "version": taken.version, "rounds": taken.values[at].len(),
                    "median": spread.median, "p10": spread.p10, "p90": spread.p90,
                    "better_than_docker": self.better(at, Kind::Docker, spread.median),
                    "better_than_podman": self.better(at, Kind::Podman, spread.median),
                    "floors": self.of(Kind::Floor, at).filter(|floor| *floor > 0.0).map(|floor| spread.median / floor),
                    "aims": aims,
                }));
            }
        }
        all
    }
}

/// Three digits that count.
pub fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Where it was measured.
pub struct Machine {
    kernel: String,
    cpus: usize,
    cgroups: &'static str,
    load: String,
}

impl Machine {
    /// As it is now.
    #[must_use]
    pub fn look() -> Self {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        Self {
            kernel: Output::of(std::process::Command::new("uname").arg("-sr")).ok(),
            cpus: std::thread::available_parallelism().map_or(1, Into::into),
            cgroups: if unified { "cgroup v2" } else { "cgroup v1 (hybrid)" },
            load: load.split(' ').take(3).collect::<Vec<_>>().join(" "),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} CPUs, {}, loop-mounted ext4; load before: {}\n\n{HEAD}",
            self.kernel, self.cpus, self.cgroups, self.load
        )
    }
}

const HEAD: &str = "| row | engine | unit | median | p10 to p90 | better than Docker | better than Podman | of the floor | aims |\n|---|---|---|---|---|---|---|---|---|";

/// Writes `bench.md` and `bench.json`.
pub fn write(machine: &Machine, measured: &[Measured], out: &Path) {
    let mut table = machine.to_string();
    for row in measured {
        for line in row.lines() {
            table.push('\n');
            table.push_str(&line);
        }
    }
    table.push('\n');
    let rows: Vec<Value> = measured.iter().flat_map(Measured::json).collect();
    let all = json!({"kernel": machine.kernel, "cpus": machine.cpus, "cgroups": machine.cgroups,
        "load_before": machine.load, "rows": rows});
    std::fs::create_dir_all(out).expect("making the folder of the results");
    std::fs::write(out.join("bench.md"), table).expect("writing bench.md");
    let text = serde_json::to_string_pretty(&all).expect("figures as JSON");
    std::fs::write(out.join("bench.json"), text).expect("writing bench.json");
}
