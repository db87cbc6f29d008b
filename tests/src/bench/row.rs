// SPDX-License-Identifier: Apache-2.0
//! What is measured: a row is work that all engines do in turn, with one or more figures a round.

use std::time::Instant;

use super::engines::{Client, Hall, Kind, Seat};

/// Which way a figure is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Times, memory.
    Less,
    /// Rates.
    More,
}

/// What Berth is to reach, as a ratio in one run wherever that is possible.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Aim {
    /// So many times better than Docker through the same client (through the docker CLI for `berth`).
    OfDocker(f64),
    /// So many times better than Podman, likewise.
    OfPodman(f64),
    /// At most so many times the floor program.
    OfFloor(f64),
    /// At most this, in the figure's unit.
    AtMost(f64),
}

/// One number of a round.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What it tells of the row; empty if the row's name says it all.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Which way is good.
    pub better: Better,
    /// What Berth is to reach through which client.
    pub aims: Vec<(Client, Aim)>,
}

impl Figure {
    /// A figure that is better when it is less.
    #[must_use]
    pub fn less(name: &'static str, unit: &'static str) -> Self {
        Self { name, unit, better: Better::Less, aims: Vec::new() }
    }

    /// A figure that is better when it is more.
    #[must_use]
    pub fn more(name: &'static str, unit: &'static str) -> Self {
        Self { better: Better::More, ..Self::less(name, unit) }
    }

    /// With an aim for Berth through a client.
    #[must_use]
    pub fn aim(mut self, client: Client, aim: Aim) -> Self {
        self.aims.push((client, aim));
        self
    }
}

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seats {
    /// Every engine through the docker CLI, Berth through `berth` and Podman through `podman` too.
    Clis,
    /// Every engine through its API.
    Api,
    /// As [`Seats::Api`], and the floor program with these arguments.
    ApiAndFloor(&'static str),
    /// Berth and Docker through their APIs: work that takes Podman too long or that it has not.
    ApiWithoutPodman,
    /// Berth alone, through its API.
    BerthOnly,
    /// The same beside the floor program.
    BerthAndFloor,
}

impl Seats {
    /// The seats of an engine.
    pub(super) fn of(self, hall: &Hall) -> Vec<Seat> {
        let mut seats = Vec::new();
        for engine in &hall.engines {
            let clients: &[Client] = match (self, engine.kind) {
                (Self::Clis, Kind::Berth) => &[Client::Docker, Client::Berth],
                (Self::Clis, Kind::Podman) => &[Client::Docker, Client::Podman],
                (Self::Clis, Kind::Docker) => &[Client::Docker],
                (Self::ApiAndFloor(_) | Self::BerthAndFloor, Kind::Floor) => &[Client::Direct],
                (_, Kind::Floor)
                | (Self::ApiWithoutPodman, Kind::Podman)
                | (Self::BerthOnly | Self::BerthAndFloor, Kind::Docker | Kind::Podman) => &[],
                (_, Kind::Berth | Kind::Docker | Kind::Podman) => &[Client::Api],
            };
            seats.extend(clients.iter().map(|client| Seat { engine: engine.clone(), client: *client }));
        }
        seats
    }
}

/// What one seat does in a row, with what it has prepared.
pub trait Work {
    /// One round; one value a figure.
    fn round(&mut self, seat: &Seat) -> Vec<f64>;
    /// After the last round.
    fn end(&mut self, _seat: &Seat) {}
}

/// Work that is a function and needs no end.
pub struct Each<F>(pub F);

impl<F: FnMut(&Seat) -> Vec<f64>> Work for Each<F> {
    fn round(&mut self, seat: &Seat) -> Vec<f64> {
        (self.0)(seat)
    }
}

/// A row's preparation on a seat.
pub type Prepare = Box<dyn Fn(&Seat) -> Box<dyn Work>>;

/// A row of the report, or several if it has several figures.
pub struct Row {
    /// What it belongs to: `start`, `images`, ...
    pub group: &'static str,
    /// What is done.
    pub name: String,
    /// What is told of it.
    pub figures: Vec<Figure>,
    pub(super) rounds: usize,
    pub(super) warm_up: bool,
    pub(super) long: bool,
    pub(super) seats: Seats,
    pub(super) prepare: Option<Prepare>,
}

impl Row {
    /// A row without figures and work yet.
    #[must_use]
    pub fn new(group: &'static str, name: impl Into<String>, seats: Seats) -> Self {
        let figures = Vec::new();
        Self {
            group,
            name: name.into(),
            figures,
            rounds: 15,
            warm_up: true,
            long: false,
            seats,
            prepare: None,
        }
    }

    /// With a figure more.
    #[must_use]
    pub fn figure(mut self, figure: Figure) -> Self {
        self.figures.push(figure);
        self
    }

    /// With this many rounds that count.
    #[must_use]
    pub fn rounds(mut self, rounds: usize) -> Self {
        self.rounds = rounds;
        self
    }

    /// Without the round that does not count: for work that is too long to be done in vain.
    #[must_use]
    pub fn cold(mut self) -> Self {
        self.warm_up = false;
        self
    }

    /// Runs only when asked for.
    #[must_use]
    pub fn long(mut self) -> Self {
        self.long = true;
        self
    }

    /// With what is to be done.
    #[must_use]
    pub fn work(mut self, prepare: impl Fn(&Seat) -> Box<dyn Work> + 'static) -> Self {
        self.prepare = Some(Box::new(prepare));
        self
    }

    pub(super) fn picked(&self, filter: &str) -> bool {
        let name = format!("{} {}", self.group, self.name);
        let asked = !filter.is_empty() || std::env::var_os("BENCH_LONG").is_some();
        (asked || !self.long) && filter.split_whitespace().all(|word| name.contains(word))
    }
}

/// Milliseconds that something takes.
pub fn ms(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1000.0
}
