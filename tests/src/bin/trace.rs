// SPDX-License-Identifier: Apache-2.0
//! Draws where the time of one start goes: `trace OUT`. See `berth_tests::bench::trace`.

fn main() {
    let Some(out) = std::env::args().nth(1) else {
        eprintln!("trace OUT");
        std::process::exit(2);
    };
    berth_tests::bench::trace::run(std::path::Path::new(&out));
}
