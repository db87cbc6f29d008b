// SPDX-License-Identifier: Apache-2.0
//! Rounds in turn: every seat does a round before any does its next. Who went before leaves work to the kernel (mounts,
//! namespaces and veth pairs go in the background), so that each seat goes after each other equally often.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::engines::{Hall, Seat};
use super::report::{Measured, Taken};
use super::row::{Row, Work};

/// Who goes when in a round: the rows of a balanced Latin square, 0 1 n-1 2 n-2 ..., moved on by one a round. With an odd
/// number of seats every other square is read backwards: only both together are balanced.
fn order(seats: usize, round: usize) -> Vec<usize> {
    let place = |n: usize| if n % 2 == 1 { n.div_ceil(2) } else { seats - n / 2 };
    let mut order: Vec<usize> = (0..seats).map(|n| (place(n) + round) % seats).collect();
    if seats % 2 == 1 && round / seats % 2 == 1 {
        order.reverse();
    }
    order
}

/// Does a row on all its seats.
pub fn run(row: Row, hall: &Hall) -> Measured {
    let prepare = row.prepare.as_ref().expect("a row has work");
    eprintln!("{} {}", row.group, row.name);
    let seats: Vec<Seat> = row.seats.of(hall);
    let mut works: Vec<Box<dyn Work>> = seats.iter().map(prepare).collect();
    let mut values: Vec<Vec<Vec<f64>>> = vec![vec![Vec::new(); row.figures.len()]; seats.len()];
    let rounds = row.rounds + usize::from(row.warm_up);
    let measured = catch_unwind(AssertUnwindSafe(|| {
        for round in 0..rounds {
            for at in order(seats.len(), round) {
                let (seat, work, values) = (&seats[at], &mut works[at], &mut values[at]);
                let took = catch_unwind(AssertUnwindSafe(|| work.round(seat))).unwrap_or_else(|panic| {
                    eprintln!("{}: round {round} on {}", row.name, seat.name());
                    resume_unwind(panic)
                });
                assert_eq!(took.len(), row.figures.len(), "{}: one value a figure", row.name);
                if round > 0 || !row.warm_up {
                    for (values, value) in values.iter_mut().zip(took) {
                        values.push(value);
                    }
                }
            }
        }
    }));
    // What a row that failed made would be in the next one's way.
    for (seat, work) in seats.iter().zip(&mut works) {
        work.end(seat);
    }
    if let Err(panic) = measured {
        resume_unwind(panic);
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

#[cfg(test)]
mod tests {
    use super::order;

    #[test]
    fn each_follows_each_other_equally() {
        for seats in 1..=7 {
            let rounds = if seats % 2 == 0 { seats } else { 2 * seats };
            let mut followed = vec![vec![0; seats]; seats];
            for round in 0..rounds {
                let order = order(seats, round);
                let mut sorted = order.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..seats).collect::<Vec<_>>(), "everybody once");
                for pair in order.windows(2) {
                    followed[pair[0]][pair[1]] += 1;
                }
            }
            for (first, then) in followed.iter().enumerate() {
                for (second, times) in then.iter().enumerate() {
                    let wanted = if first == second { 0 } else { rounds / seats };
                    assert_eq!(*times, wanted, "{second} after {first} of {seats}");
                }
            }
        }
    }
}
