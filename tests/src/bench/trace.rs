// SPDX-License-Identifier: Apache-2.0
//! One start as a chart: the daemon's marks (its log at level trace) and the shim's and init's (`shim.log`), on one line
//! of time from the request to the answer, and the container's end behind them.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::client::Api;
use super::disk::Disk;
use crate::harness::{Bed, Options, until};

/// Something that ended at a moment.
#[derive(Debug, Clone)]
struct Mark {
    lane: String,
    step: String,
    /// Unix time in microseconds.
    at: f64,
}

/// Starts containers until everything is warm, and draws the last.
pub fn run(out: &Path) {
    let dir = tempfile::Builder::new().prefix("berth-trace-").tempdir_in("/var/tmp").expect("a folder");
    let disk = Disk::make(dir.path(), "berth");
    let flags = ["--log-level", "trace", "--log-format", "json"].map(str::to_owned).into();
    let bed = Bed::with(Options { data_root: Some(disk.mount.join("data")), flags, ..Options::default() });
    let mut api = Api::new(bed.socket());
    api.ok("POST", "/images/create?fromImage=busybox&tag=latest", None);
    for network in ["none", "bridge"] {
        let mut marks = Vec::new();
        for _ in 0..10 {
            marks = one(&bed, &mut api, network);
        }
        let path = out.join(format!("trace-{network}.svg"));
        std::fs::create_dir_all(out).expect("making the folder of the results");
        std::fs::write(&path, draw(network, &marks)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        println!("{}", text(network, &marks));
        println!("drawn in {}\n", path.display());
    }
    bed.finish();
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs_f64() * 1e6
}

fn one(bed: &Bed, api: &mut Api, network: &str) -> Vec<Mark> {
    let mut marks = Vec::new();
    let mut mark = |step: &str| {
        marks.push(Mark { lane: "client".to_owned(), step: step.to_owned(), at: now() });
    };
    mark("begin");
    let id = api.create(
        &json!({"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": network}}),
    );
    mark("create");
    api.ok("POST", &format!("/containers/{id}/start"), None);
    mark("start");
    let log = bed.exec_root().join("containers").join(&id).join("shim.log");
    let shim = std::fs::read_to_string(&log).unwrap_or_default();
    mark("begin");
    api.ok("POST", &format!("/containers/{id}/kill"), None);
    api.ok("POST", &format!("/containers/{id}/wait"), None);
    mark("kill and wait");
    api.ok("DELETE", &format!("/containers/{id}"), None);
    mark("remove");
    marks.extend(shim.lines().filter_map(of_shim));
    // The last is written behind the answer.
    let daemon = until("the daemon has marked the container's end", || {
        let log = bed.daemon_log();
        let marks: Vec<Mark> = log.lines().filter_map(|line| of_daemon(line, &id)).collect();
        marks.iter().any(|mark| mark.lane == "exit" && mark.step == "recorded").then_some(marks)
    });
    marks.extend(daemon);
    marks
}

fn of_shim(line: &str) -> Option<Mark> {
    let mut words = line.strip_prefix("trace ")?.splitn(3, ' ');
    let at: f64 = words.next()?.parse().ok()?;
    Some(Mark { at: at / 1000.0, lane: words.next()?.to_owned(), step: words.next()?.to_owned() })
}

fn of_daemon(line: &str, id: &str) -> Option<Mark> {
    let line: Value = serde_json::from_str(line).ok()?;
    if line["target"] != "berth::path" || line["container"] != id {
        return None;
    }
    let field = |name: &str| Some(line[name].as_str()?.to_owned());
    Some(Mark { lane: field("lane")?, step: field("step")?, at: unix(line["timestamp"].as_str()?)? })
}

/// Microseconds of the day from `2026-01-01T12:34:56.123456Z`, made Unix time by the day that it is now.
fn unix(text: &str) -> Option<f64> {
    const DAY: f64 = 86_400.0;
    let clock = text.split_once('T')?.1.trim_end_matches('Z');
    let mut seconds = 0.0;
    for part in clock.split(':') {
        seconds = seconds * 60.0 + part.parse::<f64>().ok()?;
    }
    let today = (now() / 1e6 / DAY).floor() * DAY;
    Some((today + seconds) * 1e6)
}

/// A step, its begin and its length.
type Step = (String, f64, f64);

/// The steps of each lane, in the order of their first marks.
fn lanes(marks: &[Mark]) -> Vec<(String, Vec<Step>)> {
    let mut marks = marks.to_vec();
    marks.sort_by(|a, b| a.at.total_cmp(&b.at));
    let zero = marks.first().map_or(0.0, |mark| mark.at);
    let mut names: Vec<String> = Vec::new();
    let mut lanes: Vec<(f64, Vec<Step>)> = Vec::new();
    for mark in marks {
        let at = mark.at - zero;
        let lane = match names.iter().position(|name| *name == mark.lane) {
            Some(lane) => lane,
            None => {
                names.push(mark.lane.clone());
                lanes.push((at, Vec::new()));
                lanes.len() - 1
            }
        };
        let (since, steps) = &mut lanes[lane];
        if mark.step != "begin" {
            steps.push((mark.step, *since, at - *since));
        }
        *since = at;
    }
    names.into_iter().zip(lanes.into_iter().map(|(_, steps)| steps)).collect()
}

fn text(network: &str, marks: &[Mark]) -> String {
    let mut text = format!("one start, network {network}; microseconds: begin, length\n");
    for (lane, steps) in lanes(marks) {
        for (step, begin, length) in steps {
            text.push_str(&format!("{lane:>14}  {begin:8.0} {length:7.0}  {step}\n"));
        }
    }
    text
}

fn draw(network: &str, marks: &[Mark]) -> String {
    const WIDTH: f64 = 1200.0;
    const LEFT: f64 = 110.0;
    const COLOURS: [&str; 6] = ["#fdba74", "#93c5fd", "#86efac", "#fca5a5", "#d8b4fe", "#fde047"];
    let lanes = lanes(marks);
    let end = lanes
        .iter()
        .flat_map(|(_, steps)| steps)
        .map(|(_, begin, length)| begin + length)
        .fold(1.0, f64::max);
    let scale = (WIDTH - LEFT - 10.0) / end;
    let mut body = String::new();
    let mut y = 40.0;
    for (lane, steps) in &lanes {
        body.push_str(&format!(
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{lane}</text>",
            LEFT - 8.0,
            y + 14.0
        ));
        // Words that do not fit into their bar go below it, in turn.
        let mut row = 0.0;
        for (at, (step, begin, length)) in steps.iter().enumerate() {
            let (x, width) = (LEFT + begin * scale, (length * scale).max(0.6));
            body.push_str(&format!("<rect x=\"{x:.1}\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"20\" fill=\"{}\" stroke=\"#475569\" stroke-width=\"0.3\">\
                 <title>{lane}: {step}, {length:.0} us</title></rect>",
                COLOURS[at % COLOURS.len()]
            ));
            if length * scale > 26.0 {
                body.push_str(&format!(
                    "<text x=\"{:.1}\" y=\"{:.0}\" font-size=\"9\">{step} {length:.0}</text>",
                    x + 2.0,
                    y + 31.0 + row
                ));
                row = if row < 20.0 { row + 10.0 } else { 0.0 };
            }
        }
        y += 58.0;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y:.0}\" viewBox=\"0 0 {WIDTH} {y:.0}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#1e293b\">\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\
         <text x=\"8\" y=\"22\" font-size=\"15\" font-weight=\"700\">One life of a container, network {network}: {:.1} ms; microseconds below the bars</text>{body}</svg>\n",
        end / 1000.0
    )
}
