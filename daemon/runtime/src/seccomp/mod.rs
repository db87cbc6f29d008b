// SPDX-License-Identifier: Apache-2.0
//! The default seccomp profile as data of our own, profiles that users bring, and compiled filters.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use berth_domain::{Error, Result};
use berth_sys::memfd;
use oci_spec::runtime::LinuxSeccomp;

mod profile;
mod table;

pub use profile::{Target, default_profile, host_arch, load};

/// A container's profile.
#[derive(Debug, Clone, PartialEq)]
pub enum Profile {
    /// The built-in one.
    Default {
        /// The container's capabilities, which decide on conditional rules.
        caps: Vec<&'static str>,
        /// The kernel's version, likewise.
        kernel: (u32, u32),
    },
    /// One that somebody brought.
    Given(LinuxSeccomp),
}

impl Profile {
    /// As the OCI spec has it.
    ///
    /// # Errors
    ///
    /// As [`default_profile`].
    pub fn into_oci(self) -> Result<LinuxSeccomp> {
        match self {
            Self::Default { caps, kernel } => {
                default_profile(Target { caps: &caps, arch: host_arch(), kernel })
            }
            Self::Given(profile) => Ok(profile),
        }
    }
}

/// A compiled filter: a sealed memfd with an array of `struct sock_filter`.
#[derive(Debug, Clone)]
pub struct SeccompFilter(Arc<OwnedFd>);

impl AsFd for SeccompFilter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Distinct profiles kept; clients choose profiles, so there is a bound. Running containers do not need theirs here.
const MAX_KEPT: usize = 64;

/// What the built-in profile depends on: capabilities, and the kernel's version.
type DefaultKey = (Vec<&'static str>, (u32, u32));

/// Filters compiled once per distinct profile. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct SeccompCache {
    // The whole profile is the key: with a hash alone, a collision would give a container somebody else's filter.
    filters: Arc<Mutex<HashMap<Vec<u8>, SeccompFilter>>>,
    /// Those of the built-in profile, by capabilities: its four hundred names are not even spelled out again.
    defaults: Arc<Mutex<HashMap<DefaultKey, SeccompFilter>>>,
}

impl SeccompCache {
    /// An empty cache.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The filter of a container's profile, compiled if it is new.
    ///
    /// # Errors
    ///
    /// As [`SeccompCache::get`].
    pub fn of(&self, profile: &Profile) -> Result<SeccompFilter> {
        let (caps, kernel) = match profile {
            Profile::Default { caps, kernel } => (caps, kernel),
            Profile::Given(profile) => return self.get(profile),
        };
        let key = (caps.clone(), *kernel);
        if let Some(found) = self.defaults.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(found.clone());
        }
        let filter = self.get(&profile.clone().into_oci()?)?;
        let mut defaults = self.defaults.lock().unwrap_or_else(PoisonError::into_inner);
        if defaults.len() >= MAX_KEPT {
            defaults.clear();
        }
        defaults.insert(key, filter.clone());
        Ok(filter)
    }

    /// The filter of a profile, compiled if it is new.
    ///
    /// # Errors
    ///
    /// A profile that cannot be compiled; no memory.
    pub fn get(&self, profile: &LinuxSeccomp) -> Result<SeccompFilter> {
        let key = serde_json::to_vec(profile)
            .map_err(|e| Error::internal("writing down a seccomp profile").because(e))?;
        if let Some(found) = self.filters.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(found.clone());
        }
        let program = berth_seccomp::compile(profile)
            .map_err(|e| Error::invalid("compiling the seccomp profile").because(e))?;
        let mut bytes = Vec::with_capacity(program.len() * 8);
        for instruction in &program {
            bytes.extend(instruction.code.to_ne_bytes());
            bytes.extend([instruction.jt, instruction.jf]);
            bytes.extend(instruction.k.to_ne_bytes());
        }
        let fd = memfd::sealed("berth-seccomp", &bytes, memfd::Use::Data)
            .map_err(|e| Error::internal("keeping a seccomp filter").because(e))?;
        let filter = SeccompFilter(Arc::new(fd));
        let mut filters = self.filters.lock().unwrap_or_else(PoisonError::into_inner);
        if filters.len() >= MAX_KEPT {
            filters.clear();
        }
        filters.insert(key, filter.clone());
        Ok(filter)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn the_built_in_profile_is_the_same_filter_by_either_way() {
        let cache = SeccompCache::new();
        let profile = Profile::Default { caps: vec!["CAP_SYS_CHROOT"], kernel: (6, 1) };
        let filter = cache.of(&profile).unwrap();
        let again = cache.get(&profile.clone().into_oci().unwrap()).unwrap();
        assert_eq!(filter.as_fd().as_raw_fd(), again.as_fd().as_raw_fd());
        assert_eq!(filter.as_fd().as_raw_fd(), cache.of(&profile).unwrap().as_fd().as_raw_fd());
        let other = Profile::Default { caps: Vec::new(), kernel: (6, 1) };
        assert_ne!(filter.as_fd().as_raw_fd(), cache.of(&other).unwrap().as_fd().as_raw_fd());
    }

    #[test]
    fn one_profile_is_compiled_once_and_another_apart() {
        let cache = SeccompCache::new();
        let target = Target { caps: &[], arch: host_arch(), kernel: (6, 1) };
        let plain = default_profile(target).unwrap();
        let chroot = default_profile(Target { caps: &["CAP_SYS_CHROOT"], ..target }).unwrap();
        let first = cache.get(&plain).unwrap();
        assert_eq!(first.as_fd().as_raw_fd(), cache.get(&plain).unwrap().as_fd().as_raw_fd());
        assert_ne!(first.as_fd().as_raw_fd(), cache.get(&chroot).unwrap().as_fd().as_raw_fd());
        let file = std::fs::File::from(first.as_fd().try_clone_to_owned().unwrap());
        let length = file.metadata().unwrap().len();
        assert!(length > 0 && length % 8 == 0 && length / 8 <= 4096, "{length}");
    }
}
