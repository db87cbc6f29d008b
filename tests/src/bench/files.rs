// SPDX-License-Identifier: Apache-2.0
//! `docker cp` both ways, through the docker CLI: a file of 1 GB, and a tree of 40,000 files.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;

use super::engines::{Client, Seat};
use super::row::{Aim, Figure, Row, Seats, Work, ms};

const FILES: usize = 40_000;
const GIGABYTE: usize = 1 << 30;

/// The rows.
#[must_use]
pub fn rows() -> Vec<Row> {
    let row = |name: &'static str, source: Source, rounds: usize| {
        Row::new("files", name, Seats::ApiWithoutPodman)
            .figure(Figure::less("in", "ms").aim(Client::Api, Aim::OfDocker(1.0)))
            .figure(Figure::less("out", "ms").aim(Client::Api, Aim::OfDocker(1.0)))
            .figure(Figure::less("memory of the daemons, at most", "MB").aim(Client::Api, Aim::OfDocker(1.0)))
            .rounds(rounds)
            .cold()
            .long()
            .work(move |seat| Box::new(Copies::new(seat, source)))
    };
    vec![row("cp of 1 GB", Source::Big, 3), row("cp of 40,000 files", Source::Many, 3)]
}

#[derive(Debug, Clone, Copy)]
enum Source {
    Big,
    Many,
}

/// A tree on the engine's own disk, and a container that it is copied to and from.
struct Copies {
    dir: tempfile::TempDir,
    tree: PathBuf,
    id: String,
}

impl Copies {
    fn new(seat: &Seat, source: Source) -> Self {
        let dir = tempfile::Builder::new().prefix("copies-").tempdir_in(&seat.engine.data_root);
        let dir = dir.or_else(|_| tempfile::tempdir_in("/var/tmp")).expect("a folder");
        let tree = dir.path().join("tree");
        plant(&tree, source);
        let body = json!({"Image": "busybox", "Cmd": ["sleep", "100000"], "StopSignal": "SIGKILL",
            "HostConfig": {"NetworkMode": "none"}});
        let id = seat.api().create(&body);
        seat.api().ok("POST", &format!("/containers/{id}/start"), None);
        Self { dir, tree, id }
    }
}

fn plant(tree: &Path, source: Source) {
    fs::create_dir(tree).expect("a folder");
    let piece: Vec<u8> = (0..1_u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    match source {
        Source::Big => {
            let mut file = fs::File::create(tree.join("big")).expect("a file");
            for _ in 0..GIGABYTE / piece.len() {
                file.write_all(&piece).expect("writing");
            }
        }
        Source::Many => {
            for n in 0..FILES {
                let folder = tree.join(format!("{}", n % 200));
                if n < 200 {
                    fs::create_dir(&folder).expect("a folder");
                }
                // 0 to 8 KB, as sources are.
                fs::write(folder.join(format!("file-{n}")), &piece[..n * 37 % 8192]).expect("a file");
            }
        }
    }
}

/// A command line that copies, its output thrown away.
fn copy(seat: &Seat, from: &str, to: &str) -> f64 {
    ms(|| {
        let mut command = seat.command(&["cp", "-q", from, to]);
        let status = command.stdout(Stdio::null()).status().expect("docker cp");
        assert!(status.success(), "{}: docker cp {from} {to}", seat.name());
    })
}

/// Starts the count of the most memory that processes had.
fn forget(pids: &[i32]) {
    for pid in pids {
        // It may have ended.
        drop(fs::write(format!("/proc/{pid}/clear_refs"), "5"));
    }
}

fn most(pids: &[i32]) -> f64 {
    let of = |pid: &i32| -> Option<f64> {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    pids.iter().filter_map(of).sum::<f64>() / 1024.0
}

impl Work for Copies {
    fn round(&mut self, seat: &Seat) -> Vec<f64> {
        let daemons = seat.engine.daemons();
        forget(&daemons);
        let (tree, id) = (self.tree.display(), &self.id);
        let into = copy(seat, &tree.to_string(), &format!("{id}:/copied"));
        let back = self.dir.path().join("back");
        let out = copy(seat, &format!("{id}:/copied"), back.to_str().expect("a path"));
        let memory = most(&daemons);
        fs::remove_dir_all(&back).expect("removing the copy");
        seat.api().ok("POST", &format!("/containers/{id}/restart?t=0"), None);
        let clean = seat.command(&["exec", id, "rm", "-rf", "/copied"]).status().expect("docker exec");
        assert!(clean.success(), "{}: removing the copy", seat.name());
        vec![into, out, memory]
    }

    fn end(&mut self, seat: &Seat) {
        seat.api().remove(&self.id);
    }
}
