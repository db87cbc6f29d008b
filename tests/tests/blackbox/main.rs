// SPDX-License-Identifier: Apache-2.0
//! Black-box tests through the engine's socket: `make test` runs them against Berth, `make test-reference` against
//! the reference engine.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod api;
mod attach;
mod bad_input;
mod cgroups;
mod crash;
mod cut;
mod devices;
mod exec;
mod faults;
mod files;
mod files_attacks;
mod files_commit;
mod files_copies;
mod files_disks;
mod files_idmap;
mod files_layers;
mod files_mounts;
mod files_nasty;
mod files_plugins;
mod files_quota;
mod files_race;
mod files_volumes;
mod hang;
mod images;
mod images_import;
mod images_local;
mod init;
mod lifecycle;
mod limits;
mod links;
mod log_drivers;
mod logs;
mod many;
mod network;
mod network_crash;
mod network_dns;
mod network_kernels;
mod network_options;
mod network_scale;
mod network_world;
mod networks;
mod posture;
mod posture_attacks;
mod recovery;
mod registry;
mod registry_auth;
mod registry_world;
mod runtimes;
mod settings;
mod shapes;
mod states;
mod store;
mod streams;
mod tables;
mod tutorial;
mod users;
mod walk;

/// One test body, run with the docker CLI and with `berth`.
#[macro_export]
macro_rules! with_each_cli {
    ($($(#[$meta:meta])* fn $name:ident($bed:ident, $cli:ident) $body:block)*) => {$(
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            $(#[$meta])*
            fn check($bed: &mut berth_tests::harness::Bed, $cli: berth_tests::harness::Cli) $body

            #[test]
            fn docker() {
                let mut bed = berth_tests::harness::Bed::start();
                check(&mut bed, berth_tests::harness::Cli::Docker);
                bed.finish();
            }

            #[test]
            fn berth() {
                let mut bed = berth_tests::harness::Bed::start();
                check(&mut bed, berth_tests::harness::Cli::Berth);
                bed.finish();
            }
        }
    )*};
}
