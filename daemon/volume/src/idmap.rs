// SPDX-License-Identifier: Apache-2.0
//! `idmap`: a mount that shows its files' owners as others.
//!
//! The Engine API has no field for it. What clients can send is a word among the options of `-v`, in Podman's form
//! (`idmap=uids=0-1000-1#1-2000-5;gids=0-1000-1`: the first id as stored, as seen, how many), with the runtime spec's two
//! words (`ridmap` maps the mounts beneath it too); and options of a local volume, there also in the form of mount(8),
//! `X-mount.idmap=u:0:1000:1 g:0:1000:1`.

use berth_domain::{Error, Result};
pub use berth_sys::idmap::OwnerMap;
use berth_sys::idmap::Range;

/// As many as the kernel takes.
const RANGES_MAX: usize = 340;

/// What a mount asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMapped {
    /// For the mounts beneath it too.
    pub recursive: bool,
    /// `None` for that of the container's user namespace.
    pub map: Option<OwnerMap>,
}

/// Whether a word of `-v` asks for it.
pub(crate) fn is_word(word: &str) -> bool {
    matches!(word.split('=').next(), Some("idmap" | "ridmap"))
}

/// `idmap`, `ridmap`, either with `=uids=...;gids=...`.
///
/// # Errors
///
/// No such form; ids that cannot be.
pub(crate) fn word(text: &str) -> Result<IdMapped> {
    let (key, value) = text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value)));
    let map = value.map(|value| podmans(text, value)).transpose()?;
    Ok(IdMapped { recursive: key == "ridmap", map })
}

fn bad(text: &str, what: &str) -> Error {
    Error::invalid(format!("invalid mode: {text:?}: {what}"))
}

fn podmans(text: &str, value: &str) -> Result<OwnerMap> {
    let mut map = OwnerMap { uids: Vec::new(), gids: Vec::new() };
    for part in value.split(';') {
        let (list, ranges) = match part.split_once('=') {
            Some(("uids", ranges)) => (&mut map.uids, ranges),
            Some(("gids", ranges)) => (&mut map.gids, ranges),
            _ => return Err(bad(text, "expected uids=STORED-SEEN-COUNT#...;gids=...")),
        };
        for range in ranges.split('#') {
            if range.starts_with('@') {
                return Err(bad(
                    text,
                    "ranges relative to the container's user namespace (@) are not supported",
                ));
            }
            list.push(one(text, &mut range.split('-'))?);
        }
    }
    checked(text, map)
}

/// The value of mount(8)'s `X-mount.idmap`.
///
/// # Errors
///
/// No such form; ids that cannot be.
pub(crate) fn of_mount(text: &str) -> Result<OwnerMap> {
    let mut map = OwnerMap { uids: Vec::new(), gids: Vec::new() };
    for part in text.split_ascii_whitespace() {
        let mut fields = part.split(':');
        let kind = fields.next().unwrap_or_default();
        let range = one(text, &mut fields)?;
        match kind {
            "u" => map.uids.push(range),
            "g" => map.gids.push(range),
            "b" => {
                map.uids.push(range);
                map.gids.push(range);
            }
            _ => {
                return Err(bad(
                    text,
                    "expected b:STORED:SEEN:COUNT, or u: and g: for users and groups apart",
                ));
            }
        }
    }
    checked(text, map)
}

fn one<'a>(text: &str, fields: &mut impl Iterator<Item = &'a str>) -> Result<Range> {
    let mut number = || fields.next()?.parse::<u32>().ok();
    let range = number().zip(number()).zip(number());
    match range {
        Some(((stored, seen), count)) if fields.next().is_none() => {
            let fits = |first: u32| count > 0 && first.checked_add(count).is_some();
            if fits(stored) && fits(seen) {
                Ok(Range { stored, seen, count })
            } else {
                Err(bad(text, "a range is empty or leads beyond the last id"))
            }
        }
        _ => Err(bad(text, "a range is three numbers: the first id as stored, as seen, and how many")),
    }
}

fn checked(text: &str, map: OwnerMap) -> Result<OwnerMap> {
    for list in [&map.uids, &map.gids] {
        if list.is_empty() || list.len() > RANGES_MAX {
            return Err(bad(text, "users and groups need 1 to 340 ranges each"));
        }
        for first in [|r: &Range| r.stored, |r: &Range| r.seen] {
            let mut sorted: Vec<(u32, u32)> = list.iter().map(|r| (first(r), r.count)).collect();
            sorted.sort_unstable();
            if sorted.windows(2).any(|two| two[0].0 + two[0].1 > two[1].0) {
                return Err(bad(text, "an id is in two ranges"));
            }
        }
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let asked = word("idmap=uids=0-1000-1#5-2000-10;gids=0-7-3").unwrap();
        let map = asked.map.unwrap();
        assert_eq!(map, of_mount("u:0:1000:1 u:5:2000:10 g:0:7:3").unwrap());
        assert_eq!((map.uids.len(), map.gids[0].seen), (2, 7));
        assert_eq!(word("ridmap").unwrap(), IdMapped { recursive: true, map: None });
        let both = of_mount("b:0:1:2").unwrap();
        assert_eq!(both.uids, both.gids);
        assert!(is_word("ridmap=x") && !is_word("idmapped") && !is_word("ro"));
    }

    #[test]
    fn what_cannot_be_says_why() {
        let refused = |text: &str, why: &str| {
            let error = word(text).unwrap_err();
            assert_eq!(error.meaning(), berth_domain::Meaning::InvalidInput);
            assert!(error.to_string().contains(why), "{error}");
        };
        refused("idmap=", "expected uids=");
        refused("idmap=uids=0-1-1", "need 1 to 340 ranges");
        refused("idmap=uids=0-1;gids=0-1-1", "three numbers");
        refused("idmap=uids=0-1-1-1;gids=0-1-1", "three numbers");
        refused("idmap=uids=0--1-1;gids=0-1-1", "three numbers");
        refused("idmap=uids=0-1-0;gids=0-1-1", "is empty");
        refused("idmap=uids=1-4294967295-1;gids=0-1-1", "beyond the last id");
        refused("idmap=uids=0-1-5#3-9-1;gids=0-1-1", "two ranges");
        refused("idmap=uids=0-1-5#8-3-1;gids=0-1-1", "two ranges");
        refused("idmap=uids=@0-1-1;gids=0-1-1", "relative");
        assert!(of_mount("x:0:0:1").is_err() && of_mount("").is_err());
    }
}
