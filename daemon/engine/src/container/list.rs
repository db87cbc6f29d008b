// SPDX-License-Identifier: Apache-2.0
//! `ContainerList`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_api::Filters;
use berth_domain::port::Ports;
use berth_domain::{Error, Result, Status};
use jiff::Timestamp;
use regex_lite::Regex;

use crate::{Engine, Snapshot};

/// Which containers.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Also those that do not run.
    pub all: bool,
    /// Only so many, the newest; implies `all`.
    pub limit: Option<usize>,
    /// See [`FILTERS`].
    pub filters: Filters,
}

/// The filters of a list.
pub const FILTERS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

/// The filters, read.
struct Selection<'a> {
    filters: &'a Filters,
    all: bool,
    statuses: Vec<Status>,
    codes: Vec<i32>,
    names: Vec<Regex>,
    ids: Vec<Regex>,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
    /// Ids and names of images asked for.
    ancestors: Vec<String>,
    /// Of the containers' images, with themselves; nobody's unless ancestors are asked for.
    lineages: BTreeMap<String, BTreeSet<String>>,
    published: Vec<Ports>,
    exposed: Vec<Ports>,
}

impl Engine {
    /// Containers, newest first.
    ///
    /// # Errors
    ///
    /// An unknown filter or a bad value of one.
    pub fn container_list(&self, options: &ListOptions) -> Result<Vec<Arc<Snapshot>>> {
        let selection = self.select(options)?;
        let mut found: Vec<Arc<Snapshot>> =
            self.snapshots().into_iter().filter(|now| selection.takes(now)).collect();
        found.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
        if let Some(limit) = options.limit.filter(|limit| *limit > 0) {
            found.truncate(limit);
        }
        Ok(found)
    }

    fn select<'a>(&self, options: &'a ListOptions) -> Result<Selection<'a>> {
        let filters = &options.filters;
        filters.only(FILTERS).map_err(|error| Error::invalid(error.0))?;
        let bad = |name: &str, value: &str, why: String| {
            Error::invalid(format!("invalid filter '{name}={value}': {why}"))
        };
        let statuses = filters
            .values("status")
            .map(|word| Status::parse(word).ok_or_else(|| bad("status", word, format!(
                "invalid value for state ({word}): must be one of created, running, paused, restarting, removing, exited, dead"
            ))))
            .collect::<Result<Vec<_>>>()?;
        let codes = filters
            .values("exited")
            .map(|code| {
                code.parse().map_err(|_| {
                    bad("exited", code, format!("strconv.Atoi: parsing {code:?}: invalid syntax"))
                })
            })
            .collect::<Result<Vec<i32>>>()?;
        for word in filters.values("health") {
            if !matches!(word, "starting" | "healthy" | "unhealthy" | "none") {
                return Err(bad(
                    "health",
                    word,
                    format!(
                        "invalid value for health ({word}): must be one of none, starting, healthy, unhealthy"
                    ),
                ));
            }
        }
        filters.bool("is-task").map_err(|error| Error::invalid(error.0))?;
        let created = |name: &str| -> Result<Option<Timestamp>> {
            let mut times = Vec::new();
            for container in filters.values(name) {
                times.push(self.index.resolve(container)?.now().created_at);
            }
            Ok(if name == "before" { times.into_iter().min() } else { times.into_iter().max() })
        };
        let ports = |name: &str| -> Result<Vec<Ports>> { filters.values(name).map(str::parse).collect() };
        let mut ancestors = Vec::new();
        for image in filters.values("ancestor") {
            ancestors.push(image.to_owned());
            // An image that is not there is nobody's ancestor, and no error.
            ancestors.extend(self.backends.images.resolve(image).ok().map(|id| id.to_string()));
        }
        let mut lineages = BTreeMap::new();
        if !ancestors.is_empty() {
            for now in self.snapshots() {
                lineages.entry(now.image.to_string()).or_insert_with(|| {
                    let lineage = self.backends.images.lineage(&now.image);
                    lineage.iter().map(ToString::to_string).collect::<BTreeSet<_>>()
                });
            }
        }
        Ok(Selection {
            filters,
            all: options.all || options.limit.is_some_and(|limit| limit > 0) || filters.has("status"),
            statuses,
            codes,
            names: patterns(filters, "name"),
            ids: patterns(filters, "id"),
            before: created("before")?,
            since: created("since")?,
            ancestors,
            lineages,
            published: ports("publish")?,
            exposed: ports("expose")?,
        })
    }
}

/// Names and ids are matched as the reference does: by regular expression anywhere in them. One that is none matches
/// nothing but itself.
fn patterns(filters: &Filters, name: &str) -> Vec<Regex> {
    let read =
        |value: &str| Regex::new(value).or_else(|_| Regex::new(&format!("^{}$", regex_lite::escape(value))));
    filters.values(name).filter_map(|value| read(value).ok()).collect()
}

fn any_or_none<T>(wanted: &[T], mut test: impl FnMut(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(&mut test)
}

impl Selection<'_> {
    fn takes(&self, now: &Snapshot) -> bool {
        let state = &now.state;
        let running = matches!(state.status, Status::Running | Status::Paused | Status::Restarting);
        let slashed = format!("/{}", now.name);
        let labels = now.config.labels.clone().unwrap_or_default();
        let health = state.health.as_ref().map_or("none", |health| health.status.as_str());
        (self.all || running)
            && any_or_none(&self.statuses, |status| *status == state.status)
            && any_or_none(&self.codes, |code| {
                !running && state.started_at.is_some() && *code == state.exit_code
            })
            && any_or_none(&self.names, |name| name.is_match(&now.name) || name.is_match(&slashed))
            && any_or_none(&self.ids, |id| id.is_match(now.id.as_str()))
            && self.before.is_none_or(|before| now.created_at < before)
            && self.since.is_none_or(|since| now.created_at > since)
            && any_or_none(&self.ancestors, |image| {
                self.lineages.get(now.image.as_str()).is_some_and(|lineage| lineage.contains(image))
                    || without_latest(image) == without_latest(&now.image_name)
            })
            && self.filters.labels("label", &labels)
            && self.filters.is("health", health)
            && self
                .filters
                .any("is-task", |wanted| matches!(wanted, "0" | "false" | "False" | "FALSE" | "f" | "F"))
            && self.filters.any("volume", |wanted| {
                now.mounts.iter().any(|mount| mount.name == wanted || mount.destination == wanted)
            })
            && self.filters.any("network", |wanted| on_network(now, wanted))
            && any_or_none(&self.published, |ports| publishes(now, *ports))
            && any_or_none(&self.exposed, |ports| exposes(now, *ports))
    }
}

fn without_latest(name: &str) -> &str {
    name.strip_suffix(":latest").unwrap_or(name)
}

fn on_network(now: &Snapshot, wanted: &str) -> bool {
    now.host_config.network_mode == wanted
        || now.networking.endpoints_config.contains_key(wanted)
        || now.sandbox.as_ref().is_some_and(|sandbox| {
            sandbox.endpoints.iter().any(|e| e.network_name == wanted || e.network_id.starts_with(wanted))
        })
}

fn publishes(now: &Snapshot, ports: Ports) -> bool {
    now.sandbox.as_ref().is_some_and(|sandbox| {
        sandbox.ports.iter().any(|published| {
            published.protocol.as_str() == ports.protocol.as_str()
                && ports.iter().any(|p| p == published.host_port)
        })
    })
}

fn exposes(now: &Snapshot, ports: Ports) -> bool {
    now.config.exposed_ports.keys().filter_map(|exposed| exposed.parse::<Ports>().ok()).any(|exposed| {
        exposed.protocol == ports.protocol && exposed.first <= ports.last && ports.first <= exposed.last
    })
}

/// The `until` filter of prunes: a time (RFC 3339 or Unix seconds) or how long ago (`24h`, `10m30s`).
///
/// # Errors
///
/// It is none of these, or there is more than one.
pub(crate) fn until(filters: &Filters, now: Timestamp) -> Result<Option<Timestamp>> {
    let mut values = filters.values("until");
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Error::invalid("more than one until filter specified"));
    }
    let bad = || Error::invalid(format!("failed to parse value as time or duration: {value:?}"));
    if let Ok(time) = value.parse::<Timestamp>() {
        return Ok(Some(time));
    }
    if let Some((seconds, nanoseconds)) = unix_time(value) {
        return Timestamp::new(seconds, nanoseconds).map(Some).map_err(|_| bad());
    }
    let ago = berth_domain::duration::parse(value).ok_or_else(bad)?;
    now.checked_sub(ago).map(Some).map_err(|_| bad())
}

/// `1700000000` or `1700000000.5`.
fn unix_time(text: &str) -> Option<(i64, i32)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanoseconds = format!("{fraction:0<9}").parse().ok()?;
    Some((seconds.parse().ok()?, nanoseconds))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn until_is_a_time_or_how_long_ago() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let check = |value: &str, wanted: Option<&str>| {
            let mut filters = Filters::default();
            filters.add("until", value);
            let time = until(&filters, now).ok().flatten();
            assert_eq!(time, wanted.map(|w| w.parse().unwrap()), "{value}");
        };
        check("24h", Some("2026-01-01T00:00:00Z"));
        check("1h30m", Some("2026-01-01T22:30:00Z"));
        check("2026-01-01T12:00:00Z", Some("2026-01-01T12:00:00Z"));
        check("1700000000", Some("2023-11-14T22:13:20Z"));
        check("1700000000.5", Some("2023-11-14T22:13:20.5Z"));
        for bad in ["", "h", "1x", "1h2", "999999999999h"] {
            check(bad, None);
        }
    }
}
