// SPDX-License-Identifier: Apache-2.0
//! The same work on Berth and its peers in turn, in one run, round by round, so that a machine whose speed wanders wanders
//! for all of them. `make bench FILTER=word` picks rows by words in `group name`.
//!
//! To add a row, write a function that returns [`Row`]s in the file of its noun (`start.rs`, `images.rs`, ...) and name
//! it in [`rows`]:
//!
//! ```ignore
//! pub fn rows() -> Vec<Row> {
//!     vec![Row::new("images", "remove an image", Seats::Api)          // who takes part, and through which client
//!         .figure(Figure::less("time", "ms").aim(Client::Api, Aim::OfDocker(4.0)))
//!         .rounds(9)                                                  // after one round that does not count
//!         .work(|seat| {
//!             let mut api = seat.api();                               // prepare: once a seat, before all rounds
//!             Box::new(Each(move |seat: &Seat| {                      // one round: measures itself, answers one value
//!                 seat.pull("busybox");                               // a figure, in the order of the figures
//!                 vec![ms(|| drop(api.ok("DELETE", "/images/busybox", None)))]
//!             }))
//!         })]
//! }
//! ```
//!
//! A [`Work`] that has to clean up implements the trait itself (`end` is called once, after the last round). A [`Seat`]
//! knows its engine: `seat.engine.kind`, `.socket`, `.netns`, `.data_root` (a journaled ext4 of its own, loop-mounted),
//! `.processes()` (its daemons and shims, for CPU time and memory: [`usage`]). All engines have the fixture registry as
//! mirror of Docker Hub at 127.0.0.1:5000 in their network namespace; `busybox` is pulled before the first row. Peers
//! are there only when `PEERS` names the script that starts them, so that a row must not count on them.
//! Rows that take longer than a minute say so with [`Row::long`]: they run with `BENCH_LONG=1` or when FILTER is set.

mod client;
mod disk;
mod engines;
mod files;
mod images;
mod logs;
mod many;
mod network;
mod output;
mod plot;
mod report;
mod row;
mod runner;
mod start;
pub mod trace;
pub mod usage;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use client::{Answer, Api};
pub use engines::{Client, Engine, Hall, Kind, Seat};
pub use row::{Aim, Better, Each, Figure, Row, Seats, Work, ms};

/// All rows, in the order of the report.
#[must_use]
pub fn rows() -> Vec<Row> {
    [
        start::rows(),
        many::rows(),
        images::rows(),
        output::rows(),
        logs::rows(),
        network::rows(),
        files::rows(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Runs what `filter` picks, prints the table, writes JSON and plots into `out`.
pub fn run(filter: &str, out: &std::path::Path) {
    let picked: Vec<Row> = rows().into_iter().filter(|row| row.picked(filter)).collect();
    assert!(!picked.is_empty(), "no row has {filter:?} in its name");
    let hall = Hall::open();
    let machine = report::Machine::look();
    println!("{machine}");
    let (mut measured, mut failed) = (Vec::new(), Vec::new());
    for row in picked {
        let name = row.name.clone();
        // What was measured for an hour is not lost with the row that fails.
        match catch_unwind(AssertUnwindSafe(|| runner::run(row, &hall))) {
            Ok(row) => measured.push(row),
            Err(_) => failed.push(name),
        }
    }
    report::write(&machine, &measured, out);
    plot::write(&measured, out);
    hall.close();
    assert!(failed.is_empty(), "rows that failed: {failed:?}");
}
