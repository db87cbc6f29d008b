// SPDX-License-Identifier: Apache-2.0
//! Starting containers, beside the reference engine: the same command lines on both in turn, so that a machine whose
//! speed wanders wanders for both. Prints medians, spreads and ratios; `--json FILE` writes them too.
//!
//! `BENCH_REFERENCE=unix:///socket` is the reference engine; without it only Berth's figures are printed.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use berth_tests::harness::{Bed, Cli, Options};
use serde_json::json;

const ROUNDS: usize = 25;

struct Contestant {
    name: &'static str,
    program: std::path::PathBuf,
    host: String,
}

fn time(contestant: &Contestant, args: &[&str]) -> Duration {
    let start = Instant::now();
    let status = Command::new(&contestant.program)
        .args(args)
        .env("DOCKER_HOST", &contestant.host)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .unwrap_or_else(|e| panic!("{}: {e}", contestant.program.display()));
    assert!(status.success(), "{} {args:?}: {status}", contestant.name);
    start.elapsed()
}

struct Figures {
    median: f64,
    low: f64,
    high: f64,
}

fn figures(mut times: Vec<Duration>) -> Figures {
    times.sort();
    let ms = |d: Duration| d.as_secs_f64() * 1000.0;
    let at = |percent: usize| ms(times[(times.len() - 1) * percent / 100]);
    Figures { median: at(50), low: at(10), high: at(90) }
}

#[allow(clippy::expect_used)] // A benchmark stops at the first thing that is wrong.
fn main() {
    let data_root = std::env::var_os("BENCH_DATA_ROOT").map(std::path::PathBuf::from);
    let bed = Bed::with(Options { data_root, ..Options::default() });
    let berth_host = format!("unix://{}", bed.socket().display());
    let mut contestants = vec![
        Contestant { name: "Berth, docker CLI", program: Cli::Docker.program(), host: berth_host.clone() },
        Contestant { name: "Berth, berth CLI", program: Cli::Berth.program(), host: berth_host },
    ];
    if let Ok(host) = std::env::var("BENCH_REFERENCE") {
        contestants.insert(0, Contestant { name: "Docker", program: Cli::Docker.program(), host });
    }
    for contestant in &contestants {
        time(contestant, &["pull", "busybox"]);
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load before: {}", load.trim());
    println!("| row | engine | median ms | p10 | p90 | of Docker | aim |");
    println!("|---|---|---|---|---|---|---|");
    let mut all = Vec::new();
    for (row, aim, args) in [
        ("run --rm, no network", Some(4.0), vec!["run", "--rm", "--network", "none", "busybox", "true"]),
        ("run --rm, host network", None, vec!["run", "--rm", "--network", "host", "busybox", "true"]),
        ("run --rm, default bridge", Some(6.0), vec!["run", "--rm", "busybox", "true"]),
        ("run --rm, published port", None, vec!["run", "--rm", "-p", "18080:80", "busybox", "true"]),
    ] {
        let mut times: Vec<Vec<Duration>> = contestants.iter().map(|_| Vec::new()).collect();
        for round in 0..=ROUNDS {
            for (contestant, times) in contestants.iter().zip(&mut times) {
                let took = time(contestant, &args);
                // The first is a warm-up.
                if round > 0 {
                    times.push(took);
                }
            }
        }
        let rows: Vec<Figures> = times.into_iter().map(figures).collect();
        let docker = contestants.iter().position(|c| c.name == "Docker").map(|at| rows[at].median);
        for (contestant, figures) in contestants.iter().zip(&rows) {
            let ratio = docker.map_or("-".to_owned(), |d| format!("1/{:.1}", d / figures.median));
            let aim: Option<f64> = aim.filter(|_| contestant.name != "Docker");
            let judged = match (aim, docker) {
                (Some(aim), Some(d)) if d / figures.median >= aim => format!("1/{aim}, met"),
                (Some(aim), Some(_)) => format!("1/{aim}, missed"),
                _ => "-".to_owned(),
            };
            println!(
                "| {row} | {} | {:.1} | {:.1} | {:.1} | {ratio} | {judged} |",
                contestant.name, figures.median, figures.low, figures.high
            );
            all.push(json!({"row": row, "engine": contestant.name, "median_ms": figures.median,
                "p10_ms": figures.low, "p90_ms": figures.high, "of_docker": docker.map(|d| figures.median / d)}));
        }
    }
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("--json") {
        let file = arguments.next().expect("--json FILE");
        let text = serde_json::to_string_pretty(&all).expect("figures as JSON");
        std::fs::write(&file, text).unwrap_or_else(|e| panic!("{file}: {e}"));
    }
    bed.finish();
}
