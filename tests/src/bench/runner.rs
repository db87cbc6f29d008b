// SPDX-License-Identifier: Apache-2.0
//! Rounds in turn: every seat does a round before any does its next.

use super::engines::{Hall, Seat};
use super::report::{Measured, Taken};
use super::row::{Row, Work};

/// Does a row on all its seats.
pub fn run(row: Row, hall: &Hall) -> Measured {
    let prepare = row.prepare.as_ref().expect("a row has work");
    eprintln!("{} {}", row.group, row.name);
    let seats: Vec<Seat> = row.seats.of(hall);
    let mut works: Vec<Box<dyn Work>> = seats.iter().map(prepare).collect();
    let mut values: Vec<Vec<Vec<f64>>> = vec![vec![Vec::new(); row.figures.len()]; seats.len()];
    let rounds = row.rounds + usize::from(row.warm_up);
    for round in 0..rounds {
        for ((seat, work), values) in seats.iter().zip(&mut works).zip(&mut values) {
            let took = work.round(seat);
            assert_eq!(took.len(), row.figures.len(), "{}: one value a figure", row.name);
            if round > 0 || !row.warm_up {
                for (values, value) in values.iter_mut().zip(took) {
                    values.push(value);
                }
            }
        }
    }
    for (seat, work) in seats.iter().zip(&mut works) {
        work.end(seat);
    }
    let taken = seats
        .iter()
        .zip(values)
        .map(|(seat, values)| Taken {
            kind: seat.engine.kind,
            client: seat.client,
            name: seat.name(),
            version: seat.engine.version.clone(),
            values,
        })
        .collect();
    let measured = Measured { group: row.group, name: row.name, figures: row.figures, taken };
    measured.print();
    measured
}
