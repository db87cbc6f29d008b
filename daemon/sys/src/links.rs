// SPDX-License-Identifier: Apache-2.0
//! Files with several names, while a tree is walked: under which name each was met first.

use std::collections::HashMap;

use rustix::fs::Stat;

/// Bytes of names that are kept. Who fills the tree chooses how many there are; what does not fit is copied as a file of its own.
const BYTES_MAX: usize = 128 << 20;
/// What a name takes beside itself.
const OVERHEAD: usize = 64;

/// The first names.
#[derive(Debug)]
pub struct Links {
    /// By device and inode; with how many names of it are still to be met.
    names: HashMap<(u64, u64), (Vec<u8>, u64)>,
    bytes: usize,
    most: usize,
}

impl Default for Links {
    fn default() -> Self {
        Self { names: HashMap::new(), bytes: 0, most: BYTES_MAX }
    }
}

impl Links {
    /// The name under which a file was met before. The first time there is none, and `name` is kept.
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)] // The fields' widths differ between architectures.
    pub fn met(&mut self, stat: &Stat, name: &[u8]) -> Option<Vec<u8>> {
        let links = u64::from(stat.st_nlink);
        if links < 2 {
            return None;
        }
        let key = (stat.st_dev, stat.st_ino);
        if let Some((first, left)) = self.names.get_mut(&key) {
            *left = left.saturating_sub(1);
            if *left > 0 {
                return Some(first.clone());
            }
            let (first, _) = self.names.remove(&key)?;
            self.bytes -= first.len() + OVERHEAD;
            return Some(first);
        }
        if self.bytes + name.len() + OVERHEAD <= self.most {
            self.bytes += name.len() + OVERHEAD;
            self.names.insert(key, (name.to_vec(), links - 1));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn names_are_kept_until_the_last_and_no_more_than_fit() {
        let dir = tempfile::tempdir().unwrap();
        let stat = |name: &str, links: usize| {
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            for n in 1..links {
                std::fs::hard_link(&path, dir.path().join(format!("{name}-{n}"))).unwrap();
            }
            rustix::fs::stat(&path).unwrap()
        };
        let (single, double, triple) = (stat("single", 1), stat("double", 2), stat("triple", 3));
        let mut links = Links { most: 2 * (OVERHEAD + 1), ..Links::default() };
        assert_eq!(links.met(&single, b"s"), None);
        assert_eq!(links.met(&triple, b"a"), None);
        assert_eq!(links.met(&double, b"b"), None);
        assert_eq!(links.met(&stat("other", 2), b"c"), None, "no room");
        assert_eq!(links.names.len(), 2);
        assert_eq!(links.met(&triple, b"x"), Some(b"a".to_vec()));
        assert_eq!(links.met(&triple, b"y"), Some(b"a".to_vec()));
        assert_eq!(links.met(&double, b"z"), Some(b"b".to_vec()));
        assert!(links.names.is_empty() && links.bytes == 0);
    }
}
