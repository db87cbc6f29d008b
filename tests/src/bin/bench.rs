// SPDX-License-Identifier: Apache-2.0
//! Berth beside its peers, the same work in turn: see `berth_tests::bench`.
//!
//! `bench OUT [FILTER]` writes table, JSON and plots into OUT; FILTER picks rows. `PEERS` names the script that starts the
//! peers; without it only Berth's figures are told.

use std::path::Path;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(out) = arguments.next() else {
        eprintln!("bench OUT [FILTER]");
        std::process::exit(2);
    };
    let filter: Vec<String> = arguments.collect();
    berth_tests::bench::run(&filter.join(" "), Path::new(&out));
}
