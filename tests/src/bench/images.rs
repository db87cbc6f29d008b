// SPDX-License-Identifier: Apache-2.0
//! Images: pulled from the loopback registry, saved, loaded, pushed, committed, removed. Wall time and the engine's CPU.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use serde_json::json;

use super::engines::{Client, Kind, Seat, registry_on};
use super::row::{Aim, Figure, Row, Seats, Work, ms};
use super::usage;
use crate::fixtures;
use crate::fixtures::layer::Layer;
use crate::fixtures::oci::{Compression, Image, Shelf, blob};

/// The images that are pulled; `make bench` makes them when it first needs them.
const PULLED: [(&str, &str); 6] = [
    ("small-gzip", "40,000 small files, gzip"),
    ("small-zstd", "40,000 small files, zstd"),
    ("twelve-gzip", "12 layers, gzip"),
    ("twelve-zstd", "12 layers, zstd"),
    ("large-gzip", "one layer of 500 MB, gzip"),
    ("large-zstd", "one layer of 500 MB, zstd"),
];

/// The rows.
#[must_use]
pub fn rows() -> Vec<Row> {
    use Aim::{OfDocker, OfFloor, OfPodman};
    let aimed = |unit| {
        Figure::less(unit, "ms")
            .aim(Client::Api, OfDocker(7.0))
            .aim(Client::Api, OfPodman(3.0))
            .aim(Client::Api, OfFloor(1.5))
    };
    let mut rows: Vec<Row> = PULLED
        .into_iter()
        .map(|(name, shown)| {
            Row::new("images", format!("pull of {shown}"), Seats::ApiAndFloor("pull"))
                .figure(aimed("wall"))
                .figure(
                    Figure::less("CPU", "ms").aim(Client::Api, OfDocker(1.0)).aim(Client::Api, OfPodman(1.0)),
                )
                .rounds(3)
                .long()
                .work(move |seat| {
                    images();
                    Box::new(Pull { image: format!("bench-{name}"), floor: Floor::start(seat) })
                })
        })
        .collect();
    let no_slower =
        || Figure::less("", "ms").aim(Client::Docker, OfDocker(1.0)).aim(Client::Docker, OfPodman(1.0));
    for (name, what) in [("save", What::Save), ("load", What::Load), ("rmi", What::Remove)] {
        rows.push(
            Row::new("images", format!("{name} of 12 layers"), Seats::Clis)
                .figure(no_slower())
                .rounds(3)
                .long()
                .work(move |seat| {
                    images();
                    Box::new(Archive::prepare(seat, what))
                }),
        );
    }
    rows.push(
        Row::new("images", "push of 12 layers to an empty registry", Seats::ApiWithoutPodman)
            .figure(Figure::less("", "ms").aim(Client::Api, OfDocker(1.0)))
            .rounds(3)
            .long()
            .work(|seat| {
                images();
                seat.pull("bench-twelve-gzip");
                Box::new(Push { round: 0, dir: tempfile::tempdir_in("/var/tmp").expect("a folder") })
            }),
    );
    rows.push(
        Row::new("images", "commit of 100 MB", Seats::Api)
            .figure(Figure::less("", "ms").aim(Client::Api, OfDocker(1.0)).aim(Client::Api, OfPodman(1.0)))
            .rounds(3)
            .long()
            .work(|seat| Box::new(Commit::prepare(seat))),
    );
    rows
}

/// Bytes that compress about as programs do: words of a small vocabulary among numbers that do not repeat.
fn content(seed: u64, length: usize) -> Vec<u8> {
    const WORDS: [&str; 8] =
        ["static ", "return ", "0x00000000", "struct ", "\n    ", "const ", "value", ", "];
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 16);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if state & 3 == 0 {
            bytes.extend_from_slice(&state.to_le_bytes());
        } else {
            bytes.extend_from_slice(WORDS[usize::try_from(state >> 8 & 7).expect("three bits")].as_bytes());
        }
    }
    bytes.truncate(length);
    bytes
}

fn small_files(first: usize, count: usize, length: usize) -> Layer {
    (first..first + count).fold(Layer::default(), |layer, n| {
        layer.file(
            &format!("usr/lib/part{}/dir{}/file{n}.txt", n / 2000, n / 40 % 50),
            0o644,
            content(n as u64, length / 2 + n * 37 % length),
        )
    })
}

/// Makes what is not there yet.
fn images() {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| {
        let cache = fixtures::ensure();
        let publish = |name: &str, layers: &[Vec<u8>]| {
            for (kind, compression) in [("gzip", Compression::Gzip), ("zstd", Compression::Zstd)] {
                let name = format!("bench-{name}-{kind}");
                let there = cache
                    .join(format!("registry/docker/registry/v2/repositories/library/{name}/_manifests/tags/latest/current/link"));
                if there.exists() {
                    continue;
                }
                let layers = layers.iter().map(|tar| blob(tar, compression)).collect();
                let image = Image { config: json!({"Cmd": ["true"]}), layers };
                Shelf::new(&cache).publish(&name, "latest", &image, false);
                // Pulled only.
                std::fs::remove_dir_all(cache.join("oci").join(&name)).expect("removing the layout");
            }
        };
        publish("small", &[small_files(0, 40_000, 3000).tar()]);
        let twelve: Vec<Vec<u8>> = (0..12).map(|n| small_files(100_000 + n * 2500, 2500, 12_000).tar()).collect();
        publish("twelve", &twelve);
        publish("large", &[Layer::default().file("data/large", 0o644, content(7, 500 << 20)).tar()]);
    });
}

/// The floor program and the registry that it pulls from.
struct Floor {
    registry: Child,
    program: Child,
    _dir: tempfile::TempDir,
}

impl Floor {
    fn start(seat: &Seat) -> Option<Self> {
        if seat.engine.kind != Kind::Floor {
            return None;
        }
        let dir = tempfile::tempdir_in("/var/tmp").expect("a folder");
        let store = fixtures::ensure().join("registry");
        let registry = registry_on(&seat.engine.netns, dir.path(), "floor", &store, 5000, true);
        let program =
            seat.floor(&["pull"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the floor");
        Some(Self { registry, program, _dir: dir })
    }

    /// Wall and CPU milliseconds.
    fn pull(&mut self, image: &str) -> Vec<f64> {
        use std::io::{BufRead as _, BufReader, Write as _};
        writeln!(self.program.stdin.as_mut().expect("its input"), "{image}").expect("asking the floor");
        let mut line = String::new();
        BufReader::new(self.program.stdout.as_mut().expect("its output"))
            .read_line(&mut line)
            .expect("an answer");
        line.split_whitespace().map(|n| n.parse::<f64>().expect("microseconds") / 1000.0).collect()
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        for child in [&mut self.program, &mut self.registry] {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

struct Pull {
    image: String,
    floor: Option<Floor>,
}

impl Work for Pull {
    fn round(&mut self, seat: &Seat) -> Vec<f64> {
        if let Some(floor) = &mut self.floor {
            return floor.pull(&self.image);
        }
        let before = usage::cpu(&seat.engine.processes());
        let wall = ms(|| seat.pull(&self.image));
        let cpu = usage::spent(&before, &usage::cpu(&seat.engine.processes())) * 1000.0;
        remove(seat, &self.image);
        vec![wall, cpu]
    }
}

fn remove(seat: &Seat, image: &str) {
    seat.api().ok("DELETE", &format!("/images/{image}?force=1"), None);
    settle(seat);
}

/// What one round left to write is not the next one's to wait for.
fn settle(seat: &Seat) {
    let root = std::fs::File::open(&seat.engine.data_root).expect("the data root");
    rustix::fs::syncfs(root).expect("syncing the disk");
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Save,
    Load,
    Remove,
}

/// Through command lines: how users meet them.
struct Archive {
    what: What,
    file: PathBuf,
    _dir: tempfile::TempDir,
}

const TWELVE: &str = "bench-twelve-gzip";

impl Archive {
    fn prepare(seat: &Seat, what: What) -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a folder");
        let file = dir.path().join("saved.tar");
        seat.pull(TWELVE);
        let mut archive = Self { what, file, _dir: dir };
        archive.save(seat);
        archive
    }

    fn run(seat: &Seat, args: &[&str]) -> f64 {
        ms(|| {
            let out = seat.command(args).stdout(Stdio::null()).output().expect("a command line");
            assert!(
                out.status.success(),
                "{}: {args:?}: {}",
                seat.name(),
                String::from_utf8_lossy(&out.stderr)
            );
        })
    }

    /// Podman runs where it does not see our files: both ways go through pipes.
    fn save(&mut self, seat: &Seat) -> f64 {
        let out = std::fs::File::create(&self.file).expect("the archive");
        ms(|| {
            let status = seat.command(&["save", TWELVE]).stdout(out).status().expect("a command line");
            assert!(status.success(), "{}: save: {status}", seat.name());
        })
    }

    fn load(&self, seat: &Seat) -> f64 {
        let archive = std::fs::File::open(&self.file).expect("the archive");
        ms(|| {
            let mut load = seat.command(&["load"]);
            let status = load.stdin(archive).stdout(Stdio::null()).status().expect("a command line");
            assert!(status.success(), "{}: load: {status}", seat.name());
        })
    }
}

impl Work for Archive {
    fn round(&mut self, seat: &Seat) -> Vec<f64> {
        let took = match self.what {
            What::Save => self.save(seat),
            What::Load => {
                Self::run(seat, &["rmi", "-f", TWELVE]);
                settle(seat);
                self.load(seat)
            }
            What::Remove => {
                let took = Self::run(seat, &["rmi", "-f", TWELVE]);
                settle(seat);
                self.load(seat);
                took
            }
        };
        settle(seat);
        vec![took]
    }

    fn end(&mut self, seat: &Seat) {
        Self::run(seat, &["rmi", "-f", TWELVE]);
    }
}

struct Push {
    round: usize,
    dir: tempfile::TempDir,
}

impl Work for Push {
    fn round(&mut self, seat: &Seat) -> Vec<f64> {
        self.round += 1;
        let store = self.dir.path().join(self.round.to_string());
        std::fs::create_dir(&store).expect("the registry's folder");
        let mut registry = registry_on(&seat.engine.netns, self.dir.path(), "push", &store, 5002, false);
        // Another name each time, so that nobody hopes to find its blobs in a repository of before.
        let name = format!("127.0.0.1:5002/bench/twelve{}", self.round);
        seat.api().ok("POST", &format!("/images/{TWELVE}/tag?repo={name}&tag=1"), None);
        let start = Instant::now();
        let mut answer = seat
            .command(&["push", "-q", &format!("{name}:1")])
            .stdout(Stdio::null())
            .spawn()
            .expect("a command line");
        let status = answer.wait().expect("its end");
        let took = start.elapsed().as_secs_f64() * 1000.0;
        assert!(status.success(), "{}: push: {status}", seat.name());
        seat.api().ok("DELETE", &format!("/images/{name}:1"), None);
        registry.kill().expect("ending the registry");
        registry.wait().expect("its end");
        vec![took]
    }

    fn end(&mut self, seat: &Seat) {
        remove(seat, TWELVE);
    }
}

struct Commit {
    id: String,
}

impl Commit {
    fn prepare(seat: &Seat) -> Self {
        let mut api = seat.api();
        let script = "for n in $(seq 100); do dd if=/dev/urandom of=/file$n bs=1M count=1 2>/dev/null; done";
        let id = api.create(
            &json!({"Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": {"NetworkMode": "none"}}),
        );
        api.ok("POST", &format!("/containers/{id}/start"), None);
        api.ok("POST", &format!("/containers/{id}/wait"), None);
        settle(seat);
        Self { id }
    }
}

impl Work for Commit {
    fn round(&mut self, seat: &Seat) -> Vec<f64> {
        let path = format!("/commit?container={}&repo=bench-committed&tag=1", self.id);
        let took = ms(|| drop(seat.api().ok("POST", &path, Some(&json!({})))));
        remove(seat, "bench-committed:1");
        vec![took]
    }

    fn end(&mut self, seat: &Seat) {
        seat.api().remove(&self.id);
    }
}
