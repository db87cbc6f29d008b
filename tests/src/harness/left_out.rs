// SPDX-License-Identifier: Apache-2.0
//! What a test cannot try on this machine is said where everybody reads it, and is a failure where it must be possible.

use std::io::Write as _;

/// Says why something was not tried, past the test runner, which hides what passing tests say. With `BERTH_TEST_ALL` set, as in
/// the virtual machine of `make test-disks`, it fails the test instead.
#[track_caller]
pub fn left_out(what: &str, why: &str) {
    assert!(std::env::var_os("BERTH_TEST_ALL").is_none(), "{what} has to be possible here: {why}");
    writeln!(
        std::io::stderr(),
        "LEFT OUT: {what}: {why} (the virtual machine has it: make test-disks, make test-kernels)"
    )
    .expect("standard error");
}
