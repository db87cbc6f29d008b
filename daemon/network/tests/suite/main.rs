// SPDX-License-Identifier: Apache-2.0
//! Real traffic through real kernels' networks, in namespaces of the tests' own making. Needs root; nft and ip are
//! used to look and to play the outside, never by what is tested.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod ahead;
mod costs;
mod gateways;
mod ipv6;
mod isolation;
mod lab;
mod lifecycle;
mod macvlan;
mod options;
mod repair;
mod resolver;
mod restart;
mod traffic;
mod user_networks;
