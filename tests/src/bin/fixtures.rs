// SPDX-License-Identifier: Apache-2.0
//! Builds the fixture images and prints where they are.

fn main() {
    println!("{}", berth_tests::fixtures::ensure().display());
}
