// SPDX-License-Identifier: Apache-2.0
//! Profiles with conditions, and what they come to for one container on one host.

use berth_domain::{Error, Result};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};
use serde::Deserialize;

use super::table::{ROWS, Verdict};

/// A comparison with one argument of a system call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Comparison {
    pub(super) index: usize,
    pub(super) op: LinuxSeccompOperator,
    /// The value; for a masked comparison the mask.
    pub(super) value: u64,
    /// The value of a masked comparison.
    pub(super) value_two: Option<u64>,
}

/// When a row of the default profile counts.
#[derive(Debug, Clone, Copy)]
pub(super) enum When {
    /// For all.
    Always,
    /// On this kernel and later ones.
    KernelFrom(u32, u32),
    /// On these architectures.
    Arch(&'static [&'static str]),
    /// With this capability.
    Cap(&'static str),
    /// Without this capability and on none of these architectures.
    WithoutCap(&'static str, &'static [&'static str]),
}

/// What a profile's conditions are held against.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The container's bounding set, as `CAP_...`.
    pub caps: &'a [&'static str],
    /// The architecture by libseccomp's name: `amd64`, `arm64`, ...
    pub arch: &'a str,
    /// Version of the running kernel.
    pub kernel: (u32, u32),
}

/// libseccomp's name of the architecture that this program was built for.
#[must_use]
pub fn host_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn architectures(arch: &str) -> Vec<Arch> {
    match arch {
        "amd64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        "x86" => vec![Arch::ScmpArchX86],
        "arm64" => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        "arm" => vec![Arch::ScmpArchArm],
        "riscv64" => vec![Arch::ScmpArchRiscv64],
        "s390x" => vec![Arch::ScmpArchS390x, Arch::ScmpArchS390],
        "ppc64le" => vec![Arch::ScmpArchPpc64le],
        "loongarch64" => vec![Arch::ScmpArchLoongarch64],
        _ => vec![Arch::ScmpArchNative],
    }
}

fn broken(error: &impl std::fmt::Display) -> Error {
    Error::internal(format!("building a seccomp profile: {error}"))
}

/// The default profile for a container.
///
/// # Errors
///
/// None in practice: the builders of `oci_spec` are fallible.
pub fn default_profile(target: Target<'_>) -> Result<LinuxSeccomp> {
    let mut syscalls = Vec::new();
    for row in ROWS {
        let counts = match row.when {
            When::Always => true,
            When::KernelFrom(major, minor) => target.kernel >= (major, minor),
            When::Arch(arches) => arches.contains(&target.arch),
            When::Cap(cap) => target.caps.contains(&cap),
            When::WithoutCap(cap, arches) => !target.caps.contains(&cap) && !arches.contains(&target.arch),
        };
        if !counts {
            continue;
        }
        let names: Vec<String> = row.names.split_whitespace().map(str::to_owned).collect();
        let mut call = LinuxSyscallBuilder::default().names(names);
        call = match row.verdict {
            Verdict::Allow => call.action(LinuxSeccompAction::ScmpActAllow),
            Verdict::Errno(errno) => call.action(LinuxSeccompAction::ScmpActErrno).errno_ret(errno),
        };
        if let Some(comparison) = row.argument {
            call = call.args(vec![argument(comparison)?]);
        }
        syscalls.push(call.build().map_err(|e| broken(&e))?);
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(EPERM)
        .architectures(architectures(target.arch))
        .syscalls(syscalls)
        .build()
        .map_err(|e| broken(&e))
}

const EPERM: u32 = 1;

fn argument(comparison: Comparison) -> Result<LinuxSeccompArg> {
    let mut argument =
        LinuxSeccompArgBuilder::default().index(comparison.index).op(comparison.op).value(comparison.value);
    if let Some(two) = comparison.value_two {
        argument = argument.value_two(two);
    }
    argument.build().map_err(|e| broken(&e))
}

/// A profile file in Docker's format: OCI's, with conditions and an architecture map.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    default_action: Option<LinuxSeccompAction>,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<Arch>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    #[serde(default)]
    listener_path: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Call>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Call {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Option<Conditions>,
    #[serde(default)]
    excludes: Option<Conditions>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conditions {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

/// Upper bound of a profile that a client sends, in bytes; Docker's own default is 15 KiB.
const MAX_PROFILE: usize = 1 << 20;

/// A profile that a user brought, for a container; `None` if it asks for nothing (no default action and no rule).
///
/// # Errors
///
/// Not a profile; conditions or actions that cannot be.
pub fn load(json: &str, target: Target<'_>) -> Result<Option<LinuxSeccomp>> {
    if json.len() > MAX_PROFILE {
        return Err(Error::invalid(format!("seccomp profile larger than {MAX_PROFILE} bytes")));
    }
    let file: File = serde_json::from_str(json)
        .map_err(|e| Error::invalid(format!("Decoding seccomp profile failed: {e}")))?;
    let calls = file.syscalls.unwrap_or_default();
    let Some(default_action) = file.default_action else {
        if calls.is_empty() {
            return Ok(None);
        }
        return Err(Error::invalid("Decoding seccomp profile failed: defaultAction is missing"));
    };
    if file.listener_path.is_some_and(|p| !p.is_empty()) {
        return Err(Error::not_implemented("seccomp profiles with a listenerPath are not supported"));
    }
    let listed = file.architectures.unwrap_or_default();
    let map = file.arch_map.unwrap_or_default();
    if !listed.is_empty() && !map.is_empty() {
        return Err(Error::invalid(
            "both 'architectures' and 'archMap' are specified in the seccomp profile, use either 'architectures' or 'archMap'",
        ));
    }
    let native = architectures(target.arch).first().copied();
    let mut arches = listed;
    if let Some(entry) = map.into_iter().find(|entry| Some(entry.architecture) == native) {
        arches.push(entry.architecture);
        arches.extend(entry.sub_architectures.unwrap_or_default());
    }
    let mut syscalls = Vec::new();
    for call in calls {
        if let Some(call) = resolve(call, target)? {
            syscalls.push(call);
        }
    }
    let mut profile = LinuxSeccompBuilder::default().default_action(default_action).syscalls(syscalls);
    if !arches.is_empty() {
        profile = profile.architectures(arches);
    }
    if let Some(errno) = file.default_errno_ret {
        profile = profile.default_errno_ret(errno);
    }
    if let Some(flags) = file.flags {
        profile = profile.flags(flags);
    }
    profile.build().map(Some).map_err(|e| broken(&e))
}

fn resolve(call: Call, target: Target<'_>) -> Result<Option<LinuxSyscall>> {
    let names = match (call.name.filter(|n| !n.is_empty()), call.names.unwrap_or_default()) {
        (Some(_), names) if !names.is_empty() => {
            return Err(Error::invalid(
                "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'",
            ));
        }
        (Some(name), _) => vec![name],
        (None, names) => names,
    };
    let has = |cap: &String| target.caps.contains(&cap.as_str());
    let excludes = call.excludes.unwrap_or_default();
    let excluded = excludes.arches.iter().flatten().any(|a| a == target.arch)
        || excludes.caps.iter().flatten().any(has)
        || excludes
            .min_kernel
            .as_deref()
            .map(kernel_version)
            .transpose()?
            .flatten()
            .is_some_and(|v| target.kernel >= v);
    let includes = call.includes.unwrap_or_default();
    let arches = includes.arches.unwrap_or_default();
    let included = (arches.is_empty() || arches.iter().any(|a| a == target.arch))
        && includes.caps.iter().flatten().all(has)
        && includes
            .min_kernel
            .as_deref()
            .map(kernel_version)
            .transpose()?
            .flatten()
            .is_none_or(|v| target.kernel >= v);
    if excluded || !included {
        return Ok(None);
    }
    let mut built = LinuxSyscallBuilder::default().names(names).action(call.action);
    if let Some(errno) = call.errno_ret {
        built = built.errno_ret(errno);
    }
    if let Some(args) = call.args {
        built = built.args(args);
    }
    built.build().map(Some).map_err(|e| broken(&e))
}

/// `"4.8"`; empty is none.
fn kernel_version(text: &str) -> Result<Option<(u32, u32)>> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.split_once('.').and_then(|(major, minor)| {
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?)).filter(|v| *v != (0, 0))
    });
    parsed.map(Some).ok_or_else(|| {
        Error::invalid(format!("invalid kernel version: {text:?}, expected \"<kernel>.<major>\""))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::collections::BTreeSet;

    const AMD64: Target<'_> = Target { caps: &[], arch: "amd64", kernel: (6, 1) };

    fn rules<'a>(profile: &'a LinuxSeccomp, name: &str) -> Vec<&'a LinuxSyscall> {
        let all = profile.syscalls().as_ref().unwrap();
        all.iter().filter(|c| c.names().iter().any(|n| n == name)).collect()
    }

    #[test]
    fn the_default_profile_has_the_sizes_of_the_reference() {
        let names: Vec<&str> = super::super::table::ALWAYS.split_whitespace().collect();
        let distinct: BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!((names.len(), distinct.len()), (361, 361));
        assert!(names.is_sorted());
        let all: BTreeSet<&str> = ROWS.iter().flat_map(|r| r.names.split_whitespace()).collect();
        assert_eq!(all.len(), 426);
        let admin = ROWS.iter().find(|r| matches!(r.when, When::Cap("CAP_SYS_ADMIN"))).unwrap();
        assert_eq!(admin.names.split_whitespace().count(), 26);
    }

    #[test]
    fn without_sys_admin_namespaces_are_refused_and_clone3_is_unknown() {
        let profile = default_profile(AMD64).unwrap();
        assert_eq!(profile.default_errno_ret(), Some(1));
        let clone = rules(&profile, "clone");
        assert_eq!(clone.len(), 1);
        let args = clone[0].args().as_ref().unwrap();
        assert_eq!((args[0].index(), args[0].value(), args[0].value_two()), (0, 0x7e02_0000, Some(0)));
        let clone3 = rules(&profile, "clone3");
        assert_eq!((clone3[0].action(), clone3[0].errno_ret()), (LinuxSeccompAction::ScmpActErrno, Some(38)));
        for refused in ["mount", "keyctl", "bpf", "io_uring_setup", "userfaultfd", "chroot", "setns"] {
            assert!(rules(&profile, refused).is_empty(), "{refused}");
        }
        assert_eq!(rules(&profile, "socket").len(), 3);
        assert_eq!(profile.architectures().as_ref().unwrap().len(), 3);
    }

    #[test]
    fn capabilities_kernel_and_architecture_open_their_calls() {
        let caps = ["CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_BPF"];
        let profile = default_profile(Target { caps: &caps, arch: "arm64", kernel: (4, 7) }).unwrap();
        for open in ["mount", "chroot", "bpf", "cacheflush"] {
            assert!(!rules(&profile, open).is_empty(), "{open}");
        }
        for shut in ["ptrace", "arch_prctl", "modify_ldt", "reboot"] {
            assert!(rules(&profile, shut).is_empty(), "{shut}");
        }
        let clone3 = rules(&profile, "clone3");
        assert!(clone3.len() == 1 && clone3[0].action() == LinuxSeccompAction::ScmpActAllow);
    }

    #[test]
    fn a_users_profile_is_resolved_for_the_host() {
        let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,
            "archMap":[{"architecture":"SCMP_ARCH_AARCH64","subArchitectures":["SCMP_ARCH_ARM"]},
                       {"architecture":"SCMP_ARCH_X86_64","subArchitectures":null}],
            "syscalls":[{"names":["read","write"],"action":"SCMP_ACT_ALLOW","args":null,"comment":""},
                        {"name":"mount","action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
                        {"names":["ptrace"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"}},
                        {"names":["kcmp"],"action":"SCMP_ACT_ALLOW","excludes":{"minKernel":"4.8"}},
                        {"names":["clone"],"action":"SCMP_ACT_ALLOW","excludes":{"arches":["amd64"]}}]}"#;
        let profile = load(json, AMD64).unwrap().unwrap();
        let names: Vec<_> =
            profile.syscalls().as_ref().unwrap().iter().flat_map(|c| c.names().clone()).collect();
        assert_eq!(names, ["read", "write", "ptrace"]);
        assert_eq!(profile.architectures().as_deref(), Some(&[Arch::ScmpArchX86_64][..]));
        assert_eq!(profile.default_errno_ret(), Some(38));
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        for bad in [
            "no json",
            r#"{"syscalls":[{"names":["a"],"action":"SCMP_ACT_ALLOW"}]}"#,
            r#"{"defaultAction":"NOPE"}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_ALLOW"}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","action":"SCMP_ACT_ALLOW","includes":{"minKernel":"x"}}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86_64"}]}"#,
        ] {
            assert_eq!(load(bad, AMD64).unwrap_err().meaning(), berth_domain::Meaning::InvalidInput, "{bad}");
        }
        assert!(load("{}", AMD64).unwrap().is_none());
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_loader_panic(text in ".{0,300}") {
            let _result = load(&text, AMD64);
        }
    }
}
