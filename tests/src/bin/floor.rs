// SPDX-License-Identifier: Apache-2.0
//! The kernel's part of a container start and nothing else: see `berth_tests::floor`.
//!
//! `floor DATA_ROOT pull` pulls the image that each line on its input names, and prints its microseconds of wall and CPU;
//! `floor DATA_ROOT none|bridge` starts one container for each line on its input and prints its microseconds.

use std::path::Path;

use berth_tests::floor::{Network, serve};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let network = match arguments.get(1).map(String::as_str) {
        Some("none") => Network::None,
        Some("bridge") => Network::Bridge,
        Some("pull") => {
            berth_tests::floor::serve_pulls(Path::new(&arguments[0]));
            return;
        }
        _ => {
            eprintln!("floor DATA_ROOT none|bridge|pull");
            std::process::exit(2);
        }
    };
    let busybox = berth_tests::fixtures::ensure().join("bin/busybox");
    serve(Path::new(&arguments[0]), &busybox, network);
}
