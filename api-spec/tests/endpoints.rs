// SPDX-License-Identifier: Apache-2.0
//! The route table beside the list of the Engine API's endpoints (its description of version 1.55, and the few that
//! are routed without being described). `{}` stands for any parameter.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

/// A template with its parameters' names left out.
fn shape(template: &str) -> String {
    let parts: Vec<&str> =
        template.split('/').map(|part| if part.starts_with('{') { "{}" } else { part }).collect();
    parts.join("/")
}

#[test]
fn every_endpoint_has_its_route() {
    let listed: BTreeSet<String> = include_str!("endpoints.txt").lines().map(str::to_owned).collect();
    let routed: BTreeSet<String> =
        // Those of our own have a prefix that no description has.
        berth_api::ROUTES
            .iter()
            .filter(|r| !r.template.starts_with("/berth/"))
            .map(|r| format!("{} {}", r.method.as_str(), shape(r.template)))
            .collect();
    let missing: Vec<_> = listed.difference(&routed).collect();
    assert!(missing.is_empty(), "no route for {missing:#?}");
    let unknown: Vec<_> = routed.difference(&listed).collect();
    assert!(unknown.is_empty(), "routes that no description knows: {unknown:#?}");
}
