// SPDX-License-Identifier: Apache-2.0
//! Many containers: how fast they come and go, what they weigh, what they cost while nothing happens.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::engines::{Client, Kind, Seat};
use super::row::{Aim, Each, Figure, Row, Seats, Work, ms};
use super::start::Floor;
use super::usage;

/// Requests under way at a time.
const WIDE: usize = 8;

/// The rows.
#[must_use]
pub fn rows() -> Vec<Row> {
    use Aim::{AtMost, OfDocker};
    vec![
        Row::new("many", "memory of the idle daemon", Seats::Api)
            .figure(Figure::less("", "MB").aim(Client::Api, OfDocker(6.0)))
            .rounds(3)
            .work(|_| Box::new(Each(|seat: &Seat| vec![usage::pss(&seat.engine.daemons())]))),
        Row::new("many", "100 containers", Seats::Api)
            .figure(Figure::more("started, 8 wide", "/s").aim(Client::Api, OfDocker(12.0)))
            .figure(Figure::less("PSS a container", "MB").aim(Client::Api, OfDocker(10.0)))
            .figure(Figure::less("PSS of all daemons", "MB"))
            .figure(Figure::less("CPU at idle", "% of one"))
            .figure(Figure::less("stop and rm, 8 wide", "s").aim(Client::Api, OfDocker(8.0)))
            .rounds(2)
            .cold()
            .work(|_| Box::new(Each(hundred))),
        Row::new("many", "restart of the daemon with 100 running", Seats::BerthOnly)
            .figure(Figure::less("until ps answers", "ms").aim(Client::Api, AtMost(200.0)))
            .figure(Figure::less("until it says ready", "ms"))
            .rounds(5)
            .work(|seat| Box::new(Restarts { ids: start_many(seat, 100).ids })),
        Row::new("many", "ps with 1,000 containers", Seats::ApiWithoutPodman)
            .figure(Figure::less("all of them, stopped", "ms").aim(Client::Api, OfDocker(3.0)))
            .rounds(15)
            .long()
            .work(|seat| {
                let ids = each(1000, |_| seat.api().create(&sleeper("none")));
                Box::new(Lists { ids })
            }),
        Row::new("many", "1,000 starts", Seats::ApiWithoutPodman)
            .figure(Figure::more("8 wide", "/s").aim(Client::Api, OfDocker(12.0)))
            .figure(Figure::less("the last 50 to the first 50", "times").aim(Client::Api, AtMost(1.3)))
            .figure(Figure::less("ps with 1,000 running", "ms").aim(Client::Api, OfDocker(3.0)))
            .figure(Figure::less("PSS of all daemons", "MB"))
            .figure(Figure::less("removal, 8 wide", "s").aim(Client::Api, OfDocker(8.0)))
            .rounds(1)
            .cold()
            .long()
            .work(|_| Box::new(Each(thousand))),
        Row::new("many", "1,000 starts, one after the other", Seats::BerthAndFloor)
            .figure(Figure::less("the first 50", "ms"))
            .figure(Figure::less("the last 50", "ms"))
            .figure(Figure::less("the last 50 to the first 50", "times"))
            .rounds(1)
            .cold()
            .long()
            .work(|_| Box::new(Each(in_turn))),
    ]
}

/// A container that does nothing; its init ends at once when it is asked to.
fn sleeper(network: &str) -> serde_json::Value {
    json!({"Image": "busybox", "Cmd": ["sleep", "100000"], "StopSignal": "SIGKILL",
        "HostConfig": {"NetworkMode": network}})
}

/// Does something `count` times, [`WIDE`] at a time; answers in order.
fn each<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, T)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WIDE {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        return;
                    }
                    let result = work(at);
                    done.lock().expect("results").push((at, result));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("results");
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

struct Crowd {
    ids: Vec<String>,
    /// How long each took, in order.
    times: Vec<f64>,
    seconds: f64,
}

fn start_many(seat: &Seat, count: usize) -> Crowd {
    let begun = Instant::now();
    let started = each(count, |_| {
        let start = Instant::now();
        let mut api = seat.api();
        let id = api.create(&sleeper("bridge"));
        api.ok("POST", &format!("/containers/{id}/start"), None);
        (id, start.elapsed().as_secs_f64())
    });
    let seconds = begun.elapsed().as_secs_f64();
    let (ids, times) = started.into_iter().unzip();
    Crowd { ids, times, seconds }
}

#[allow(clippy::disallowed_methods)] // What is measured is what happens while nothing is asked for.
fn rest(time: Duration) {
    std::thread::sleep(time);
}

fn hundred(seat: &Seat) -> Vec<f64> {
    const COUNT: usize = 100;
    let idle = usage::pss(&seat.engine.processes());
    let crowd = start_many(seat, COUNT);
    // What the starts left to do is done.
    rest(Duration::from_secs(3));
    let processes = seat.engine.processes();
    let all = usage::pss(&processes);
    let daemons = usage::pss(&seat.engine.daemons());
    let before = usage::cpu(&processes);
    let begun = Instant::now();
    rest(Duration::from_secs(5));
    let idle_cpu = usage::spent(&before, &usage::cpu(&processes)) / begun.elapsed().as_secs_f64() * 100.0;
    let begun = Instant::now();
    each(COUNT, |at| {
        let (mut api, id) = (seat.api(), &crowd.ids[at]);
        api.ok("POST", &format!("/containers/{id}/stop"), None);
        api.ok("DELETE", &format!("/containers/{id}"), None);
    });
    let ended = begun.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss)] // A hundred.
    let count = COUNT as f64;
    vec![count / crowd.seconds, (all - idle) / count, daemons, idle_cpu, ended]
}

fn middle(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// How much dearer a start is for the 950 before it, which the kernel alone has its share in.
fn in_turn(seat: &Seat) -> Vec<f64> {
    const COUNT: usize = 1000;
    let times: Vec<f64> = if seat.engine.kind == Kind::Floor {
        let mut floor = Floor::start(seat, "kept");
        let times = (0..COUNT).map(|_| floor.round(seat)[0]).collect();
        floor.end(seat);
        times
    } else {
        let mut api = seat.api();
        let mut ids = Vec::new();
        let mut start = || {
            let id = api.create(&sleeper("bridge"));
            api.ok("POST", &format!("/containers/{id}/start"), None);
            ids.push(id);
        };
        let times = (0..COUNT).map(|_| ms(&mut start)).collect();
        each(COUNT, |at| seat.api().remove(&ids[at]));
        times
    };
    let (first, last) = (middle(&times[..50]), middle(&times[COUNT - 50..]));
    vec![first, last, last / first]
}

fn thousand(seat: &Seat) -> Vec<f64> {
    const COUNT: usize = 1000;
    let crowd = start_many(seat, COUNT);
    let ratio = middle(&crowd.times[COUNT - 50..]) / middle(&crowd.times[..50]);
    let mut api = seat.api();
    let mut lists: Vec<f64> = (0..9).map(|_| ms(|| drop(api.ok("GET", "/containers/json", None)))).collect();
    lists.sort_by(f64::total_cmp);
    let memory = usage::pss(&seat.engine.daemons());
    let begun = Instant::now();
    each(COUNT, |at| seat.api().remove(&crowd.ids[at]));
    #[allow(clippy::cast_precision_loss)] // A thousand.
    let rate = COUNT as f64 / crowd.seconds;
    vec![rate, ratio, lists[lists.len() / 2], memory, begun.elapsed().as_secs_f64()]
}

/// Listing all containers again and again.
struct Lists {
    ids: Vec<String>,
}

impl Work for Lists {
    fn round(&mut self, seat: &Seat) -> Vec<f64> {
        let mut api = seat.api();
        drop(api.ok("GET", "/containers/json?all=1&limit=1", None));
        vec![ms(|| drop(api.ok("GET", "/containers/json?all=1", None)))]
    }

    fn end(&mut self, seat: &Seat) {
        each(self.ids.len(), |at| seat.api().remove(&self.ids[at]));
    }
}

/// `kill -9` of the daemon, and its start again.
struct Restarts {
    ids: Vec<String>,
}

impl Work for Restarts {
    fn round(&mut self, seat: &Seat) -> Vec<f64> {
        assert_eq!(seat.engine.kind, Kind::Berth);
        let mut bed = seat.engine.bed.as_ref().expect("our bed").lock().expect("our bed");
        bed.kill_daemon();
        let begun = Instant::now();
        let (socket, count) = (seat.engine.socket.clone(), self.ids.len());
        let asked = std::thread::spawn(move || {
            loop {
                if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
                    let mut api = super::Api::new(&socket);
                    let listed = api.ok("GET", "/containers/json", None).json();
                    let took = begun.elapsed().as_secs_f64() * 1000.0;
                    assert_eq!(listed.as_array().map(Vec::len), Some(count), "running after a restart");
                    return took;
                }
                std::thread::yield_now();
            }
        });
        bed.start_daemon();
        let ready = begun.elapsed().as_secs_f64() * 1000.0;
        vec![asked.join().expect("asking"), ready]
    }

    fn end(&mut self, seat: &Seat) {
        each(self.ids.len(), |at| seat.api().remove(&self.ids[at]));
    }
}
