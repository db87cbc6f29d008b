// SPDX-License-Identifier: Apache-2.0
//! The client against registries of the tests' own, in this process and on loopback.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod auth;
mod blobs;
mod download;
mod hosts;
mod manifests;
mod mirrors;
mod patience;
mod proxies;
mod search;
mod support;
mod tls;
mod uploads;
