// SPDX-License-Identifier: Apache-2.0
//! What a start and a stop ask of this crate, and whether that grows. Figures are printed; `cargo test -- --ignored --nocapture costs`.

use std::time::{Duration, Instant};

use berth_network::*;

use super::lab::*;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn measure(what: &str, rounds: usize, mut one: impl FnMut() -> Duration) {
    one();
    println!("{what}: {:?}", median((0..rounds).map(|_| one()).collect()));
}

#[test]
#[ignore = "prints figures"]
fn of_a_start() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(1).build().unwrap();
    let _inside = runtime.enter();
    for ahead in [0, 2] {
        let lab = Lab::with(|c| c.endpoint_pool = ahead);
        lab.network("mine", |_| {}).unwrap();
        lab.network("dual", |n| n.ipv6 = true).unwrap();
        let ten: Vec<PortRequest> = (0..10).map(|n| tcp(8080 + n, 80 + n)).collect();
        for (what, network, ports) in [
            ("default bridge", "bridge", &[][..]),
            ("default bridge, 10 ports", "bridge", &ten),
            ("network of the user's", "mine", &[]),
            ("both families", "dual", &[]),
        ] {
            // Lets what is made ahead be made again.
            let rest = || std::thread::park_timeout(Duration::from_millis(40));
            measure(&format!("{what}, {ahead} ahead, create"), 30, || {
                rest();
                let begun = Instant::now();
                let container = lab.on(network, ports);
                let taken = begun.elapsed();
                lab.release(&container);
                taken
            });
            measure(&format!("{what}, {ahead} ahead, release"), 30, || {
                let container = lab.on(network, ports);
                rest();
                let begun = Instant::now();
                lab.release(&container);
                begun.elapsed()
            });
        }
    }
}

/// The last of a thousand on one network, and in turn the first on one that is new: a machine that has other things to do has
/// them for both.
#[test]
#[ignore = "prints figures"]
fn of_the_first_and_the_last_of_a_thousand() {
    let lab = Lab::new();
    lab.network("full", |_| {}).unwrap();
    lab.network("new", |_| {}).unwrap();
    let mut next = 20_000;
    let mut add = |network: &str| {
        let ports: Vec<PortRequest> = (0..4).map(|k| tcp(next + k, 80 + k)).collect();
        next += 4;
        let begun = Instant::now();
        let container = lab.on(network, &ports);
        (begun.elapsed(), container)
    };
    let mut all: Vec<Container> = (0..950).map(|_| add("full").1).collect();
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for _ in 0..50 {
        for (network, times) in [("full", &mut last), ("new", &mut first)] {
            let (taken, container) = add(network);
            times.push(taken);
            all.push(container);
        }
    }
    println!("first 50: {:?}, last 50: {:?}", median(first), median(last));
    drop(all);
}
