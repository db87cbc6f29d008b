// SPDX-License-Identifier: Apache-2.0
//! Which ids of the host a container's ids are (`userns-remap`).

use crate::{Error, Result};

/// As many extents as the kernel takes for one map.
const MAX_EXTENTS: usize = 340;
/// What a container sees of an id that it has no name for (the kernel's `overflowuid`).
const OVERFLOW: u32 = 65_534;

/// A run of ids: `count` of them from `container` on inside are those from `host` on outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First id inside.
    pub container: u32,
    /// First id outside.
    pub host: u32,
    /// How many.
    pub count: u32,
}

impl Extent {
    /// One map's extents from ranges of host ids, one after the other from id 0 inside.
    ///
    /// # Errors
    ///
    /// No range or too many; one that is empty, overlaps another, leaves 32 bits, or holds the host's root.
    pub fn stack(ranges: &[(u32, u32)]) -> Result<Vec<Self>> {
        if ranges.is_empty() || ranges.len() > MAX_EXTENTS {
            return Err(Error::invalid(format!("{} ranges of ids, not 1 to {MAX_EXTENTS}", ranges.len())));
        }
        let mut extents: Vec<Self> = Vec::with_capacity(ranges.len());
        let mut container = 0u32;
        for &(host, count) in ranges {
            let refused =
                |why: &str| Error::invalid(format!("the range of {count} ids from {host} on {why}"));
            if count == 0 {
                return Err(refused("is empty"));
            }
            if host == 0 {
                return Err(refused("holds root of the host"));
            }
            let too_far = || refused("ends beyond 4294967294");
            // 2^32-1 is no id.
            host.checked_add(count).ok_or_else(too_far)?;
            let next = container.checked_add(count).ok_or_else(too_far)?;
            let overlaps = |other: &Self| host < other.host + other.count && other.host < host + count;
            if extents.iter().any(overlaps) {
                return Err(refused("overlaps another"));
            }
            extents.push(Self { container, host, count });
            container = next;
        }
        Ok(extents)
    }
}

/// Users and groups of a container in a user namespace of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    /// Of users; the first extent begins with 0 inside.
    pub uids: Vec<Extent>,
    /// Of groups; likewise.
    pub gids: Vec<Extent>,
}

impl IdMap {
    /// The host's ids of the container's root.
    #[must_use]
    pub fn root(&self) -> (u32, u32) {
        (self.uid_to_host(0).unwrap_or(OVERFLOW), self.gid_to_host(0).unwrap_or(OVERFLOW))
    }

    /// The host's id of a user; `None` if the container cannot have it.
    #[must_use]
    pub fn uid_to_host(&self, id: u32) -> Option<u32> {
        to_host(&self.uids, id)
    }

    /// The host's id of a group; `None` if the container cannot have it.
    #[must_use]
    pub fn gid_to_host(&self, id: u32) -> Option<u32> {
        to_host(&self.gids, id)
    }

    /// What the container sees of a user of the host.
    #[must_use]
    pub fn uid_inside(&self, id: u32) -> u32 {
        inside(&self.uids, id)
    }

    /// What the container sees of a group of the host.
    #[must_use]
    pub fn gid_inside(&self, id: u32) -> u32 {
        inside(&self.gids, id)
    }
}

fn to_host(extents: &[Extent], id: u32) -> Option<u32> {
    extents.iter().find_map(|extent| {
        let at = id.checked_sub(extent.container).filter(|at| *at < extent.count)?;
        extent.host.checked_add(at)
    })
}

fn inside(extents: &[Extent], id: u32) -> u32 {
    let found = extents.iter().find_map(|extent| {
        let at = id.checked_sub(extent.host).filter(|at| *at < extent.count)?;
        extent.container.checked_add(at)
    });
    found.unwrap_or(OVERFLOW)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn there_and_back() {
        let extents = Extent::stack(&[(100_000, 1000), (500_000, 65_536)]).unwrap();
        let map = IdMap { uids: extents.clone(), gids: extents };
        assert_eq!(map.root(), (100_000, 100_000));
        for (container, host) in [(0, 100_000), (999, 100_999), (1000, 500_000), (66_535, 565_535)] {
            assert_eq!(map.uid_to_host(container), Some(host));
            assert_eq!(map.gid_inside(host), container);
        }
        assert_eq!(map.uid_to_host(66_536), None);
        assert_eq!((map.uid_inside(0), map.uid_inside(101_000)), (OVERFLOW, OVERFLOW));
    }

    #[test]
    fn bad_ranges() {
        for (ranges, why) in [
            (&[][..], "not 1 to"),
            (&[(5, 0)], "empty"),
            (&[(0, 10)], "root of the host"),
            (&[(u32::MAX, 2)], "ends beyond"),
            (&[(1, u32::MAX - 1), (u32::MAX, 10)], "ends beyond"),
            (&[(100, 10), (109, 10)], "overlaps"),
        ] {
            assert!(Extent::stack(ranges).unwrap_err().to_string().contains(why), "{ranges:?}");
        }
    }
}
