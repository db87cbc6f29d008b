// SPDX-License-Identifier: Apache-2.0
//! Ids within extended attributes: access lists name users and groups, and a file's capabilities hold in the user
//! namespace of one root. Archives have them as the container sees them, files as the host does.

use berth_domain::IdMap;

const CAPABILITY: &[u8] = b"security.capability";
const ACCESS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
/// `linux/capability.h`: revisions without and with the root they are for, as bytes and lengths.
const REVISION: u8 = 3;
const PLAIN: (u8, usize) = (2, 20);
const ROOTED: (u8, usize) = (3, 24);
/// `linux/posix_acl_xattr.h`: a version, then entries of tag, permissions and id.
const HEADER: usize = 4;
const ENTRY: usize = 8;
const USER: u16 = 0x02;
const GROUP: u16 = 0x08;

/// A value as the container sees it; `None` if it has none there.
pub(crate) fn inside(name: &[u8], value: &[u8], map: &IdMap) -> Option<Vec<u8>> {
    if name == CAPABILITY {
        // One that holds for the host's root holds for nobody in the container.
        let root = rooted(value)?;
        if root == map.root().0 {
            let mut plain = value.get(..PLAIN.1)?.to_vec();
            *plain.get_mut(REVISION as usize)? = PLAIN.0;
            return Some(plain);
        }
        map.uid_to_host(map.uid_inside(root)).filter(|known| *known == root)?;
        return with_root(value, map.uid_inside(root));
    }
    if ACCESS.contains(&name) {
        return list(value, |id| Some(map.uid_inside(id)), |id| Some(map.gid_inside(id)));
    }
    Some(value.to_vec())
}

/// A value as the host sees it; `None` if it names somebody whom the container cannot have.
pub(crate) fn to_host(name: &[u8], value: &[u8], map: &IdMap) -> Option<Vec<u8>> {
    if name == CAPABILITY {
        let root = match rooted(value) {
            Some(root) => map.uid_to_host(root)?,
            None => map.root().0,
        };
        return with_root(value, root);
    }
    if ACCESS.contains(&name) {
        return list(value, |id| map.uid_to_host(id), |id| map.gid_to_host(id));
    }
    Some(value.to_vec())
}

fn rooted(value: &[u8]) -> Option<u32> {
    let revision = *value.get(REVISION as usize)?;
    let root: [u8; 4] = value.get(PLAIN.1..ROOTED.1)?.try_into().ok()?;
    (revision == ROOTED.0).then(|| u32::from_le_bytes(root))
}

fn with_root(value: &[u8], root: u32) -> Option<Vec<u8>> {
    let mut rooted = value.get(..PLAIN.1)?.to_vec();
    *rooted.get_mut(REVISION as usize)? = ROOTED.0;
    rooted.extend_from_slice(&root.to_le_bytes());
    Some(rooted)
}

fn list(
    value: &[u8],
    user: impl Fn(u32) -> Option<u32>,
    group: impl Fn(u32) -> Option<u32>,
) -> Option<Vec<u8>> {
    let mut translated = value.to_vec();
    for entry in translated.get_mut(HEADER..)?.chunks_exact_mut(ENTRY) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let other = match tag {
            USER => user(id)?,
            GROUP => group(id)?,
            _ => continue,
        };
        entry[4..].copy_from_slice(&other.to_le_bytes());
    }
    Some(translated)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use berth_domain::Extent;

    use super::*;

    fn map() -> IdMap {
        let extents = Extent::stack(&[(100_000, 65_536)]).unwrap();
        IdMap { uids: extents.clone(), gids: extents }
    }

    #[test]
    fn capabilities_go_with_their_root() {
        let plain: Vec<u8> = [vec![1, 0, 0, 2], vec![0; 16]].concat();
        let stored = to_host(CAPABILITY, &plain, &map()).unwrap();
        assert_eq!((stored.len(), stored[3], &stored[20..]), (24, 3, &100_000u32.to_le_bytes()[..]));
        assert_eq!(inside(CAPABILITY, &stored, &map()), Some(plain.clone()));
        assert_eq!(inside(CAPABILITY, &plain, &map()), None, "the host's root's");
        let nested = with_root(&plain, 1000).unwrap();
        let stored = to_host(CAPABILITY, &nested, &map()).unwrap();
        assert_eq!(inside(CAPABILITY, &stored, &map()), Some(nested));
        assert_eq!(to_host(CAPABILITY, b"short", &map()), None);
    }

    #[test]
    fn access_lists_name_others() {
        let entry = |tag: u16, id: u32| [&tag.to_le_bytes()[..], &[6, 0], &id.to_le_bytes()].concat();
        let list = |user, group| {
            [vec![2, 0, 0, 0], entry(1, u32::MAX), entry(USER, user), entry(GROUP, group)].concat()
        };
        let stored = to_host(ACCESS[0], &list(5, 6), &map()).unwrap();
        assert_eq!(stored, list(100_005, 100_006));
        assert_eq!(inside(ACCESS[0], &stored, &map()), Some(list(5, 6)));
        assert_eq!(to_host(ACCESS[1], &list(70_000, 0), &map()), None);
        assert_eq!(to_host(b"user.x", b"anything", &map()), Some(b"anything".to_vec()));
    }
}
