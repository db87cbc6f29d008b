// SPDX-License-Identifier: Apache-2.0
//! The kernel's part of a container start and nothing else: see `berth_tests::floor`.
//!
//! `floor DATA_ROOT pull` pulls the image that each line on its input names, and prints its microseconds of wall and CPU;
//! `floor DATA_ROOT none|bridge` starts one container for each line on its input and prints its microseconds;
//! `floor DATA_ROOT kept` does so on the bridge with containers that stay until its input ends.

use std::path::Path;

use berth_tests::floor::{Life, Network, serve};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (network, life) = match arguments.get(1).map(String::as_str) {
        Some("none") => (Network::None, Life::Brief),
        Some("bridge") => (Network::Bridge, Life::Brief),
        Some("kept") => (Network::Bridge, Life::Kept),
        Some("pull") => {
            berth_tests::floor::serve_pulls(Path::new(&arguments[0]));
            return;
        }
        _ => {
            eprintln!("floor DATA_ROOT none|bridge|kept|pull");
            std::process::exit(2);
        }
    };
    let busybox = berth_tests::fixtures::ensure().join("bin/busybox");
    serve(Path::new(&arguments[0]), &busybox, network, life);
}
