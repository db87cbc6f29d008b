// SPDX-License-Identifier: Apache-2.0
//! Capability sets as bit masks.

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
};

use crate::error::{Context as _, Result};

/// `CAP_SYS_ADMIN`.
pub(crate) const SYS_ADMIN: u64 = 1 << 21;

/// The five sets of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Caps {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

impl Caps {
    pub(crate) fn from_spec(spec: Option<&LinuxCapabilities>) -> Self {
        let Some(spec) = spec else { return Self::default() };
        Self {
            bounding: mask(spec.bounding().as_ref()),
            effective: mask(spec.effective().as_ref()),
            permitted: mask(spec.permitted().as_ref()),
            inheritable: mask(spec.inheritable().as_ref()),
            ambient: mask(spec.ambient().as_ref()),
        }
    }

    /// Everything that `--privileged` gives: bounding, permitted and effective, and never inheritable
    /// or ambient, which would leak through programs of other users (CVE-2022-24769).
    pub(crate) fn all() -> Self {
        Self { bounding: u64::MAX, effective: u64::MAX, permitted: u64::MAX, inheritable: 0, ambient: 0 }
    }

    /// Leaves out what this process does not have itself and returns what that was.
    pub(crate) fn clamp(&mut self, available: u64) -> u64 {
        let asked = self.bounding | self.effective | self.permitted | self.inheritable | self.ambient;
        for set in [
            &mut self.bounding,
            &mut self.effective,
            &mut self.permitted,
            &mut self.inheritable,
            &mut self.ambient,
        ] {
            *set &= available;
        }
        asked & !available
    }
}

/// What this process may hand on.
pub(crate) fn available() -> Result<u64> {
    Ok(capabilities(None).context(|| "capget")?.permitted.bits())
}

/// Drops everything else from the bounding set.
pub(crate) fn bound(keep: u64) -> Result<()> {
    for bit in 0..64 {
        if keep & (1 << bit) != 0 {
            continue;
        }
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            Ok(()) => {}
            // Past the last capability that this kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            Err(errno) => return Err(errno).context(|| "drop a capability from the bounding set"),
        }
    }
    Ok(())
}

/// Sets permitted, effective and inheritable.
pub(crate) fn set(permitted: u64, effective: u64, inheritable: u64) -> Result<()> {
    let sets = CapabilitySets {
        effective: CapabilitySet::from_bits_retain(effective),
        permitted: CapabilitySet::from_bits_retain(permitted),
        inheritable: CapabilitySet::from_bits_retain(inheritable),
    };
    set_capabilities(None, sets).context(|| "set capabilities")
}

/// Sets the ambient set.
pub(crate) fn set_ambient(ambient: u64) -> Result<()> {
    clear_ambient_capability_set().context(|| "clear ambient capabilities")?;
    for bit in (0..64).filter(|bit| ambient & (1 << bit) != 0) {
        configure_capability_in_ambient_set(CapabilitySet::from_bits_retain(1 << bit), true)
            .context(|| "raise an ambient capability")?;
    }
    Ok(())
}

fn mask(set: Option<&Capabilities>) -> u64 {
    set.into_iter().flatten().map(|capability| 1 << number(*capability)).fold(0, |mask, bit: u64| mask | bit)
}

/// The kernel's number of a capability (`include/uapi/linux/capability.h`).
fn number(capability: Capability) -> u32 {
    match capability {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::DacReadSearch => 2,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::LinuxImmutable => 9,
        Capability::NetBindService => 10,
        Capability::NetBroadcast => 11,
        Capability::NetAdmin => 12,
        Capability::NetRaw => 13,
        Capability::IpcLock => 14,
        Capability::IpcOwner => 15,
        Capability::SysModule => 16,
        Capability::SysRawio => 17,
        Capability::SysChroot => 18,
        Capability::SysPtrace => 19,
        Capability::SysPacct => 20,
        Capability::SysAdmin => 21,
        Capability::SysBoot => 22,
        Capability::SysNice => 23,
        Capability::SysResource => 24,
        Capability::SysTime => 25,
        Capability::SysTtyConfig => 26,
        Capability::Mknod => 27,
        Capability::Lease => 28,
        Capability::AuditWrite => 29,
        Capability::AuditControl => 30,
        Capability::Setfcap => 31,
        Capability::MacOverride => 32,
        Capability::MacAdmin => 33,
        Capability::Syslog => 34,
        Capability::WakeAlarm => 35,
        Capability::BlockSuspend => 36,
        Capability::AuditRead => 37,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
        Capability::CheckpointRestore => 40,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_from_a_spec() {
        let spec: LinuxCapabilities = match serde_json::from_str(
            r#"{"bounding":["CAP_CHOWN","CAP_SYS_ADMIN"],"permitted":["CAP_CHECKPOINT_RESTORE"]}"#,
        ) {
            Ok(spec) => spec,
            Err(cause) => panic!("{cause}"),
        };
        let mut caps = Caps::from_spec(Some(&spec));
        assert_eq!(caps.bounding, 1 | SYS_ADMIN);
        assert_eq!(caps.permitted, 1 << 40);
        assert_eq!((caps.effective, caps.inheritable, caps.ambient), (0, 0, 0));
        assert_eq!(caps.clamp(1), SYS_ADMIN | 1 << 40);
        assert_eq!((caps.bounding, caps.permitted), (1, 0));
    }
}
