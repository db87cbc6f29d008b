// SPDX-License-Identifier: Apache-2.0
//! Holds the compiler equal to libseccomp: the same rules given to both, both programs emulated.
//!
//! libseccomp is loaded at run time, so that building needs nothing of it; without it the test says so
//! and passes. `BERTH_REQUIRE_LIBSECCOMP=1` makes its absence a failure.
#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code, missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};

use berth_seccomp::emulate::{Call, run};
use berth_seccomp::{Machine, NewSyscalls, SockFilter, compile_for, from_bytes};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction as Action};
use proptest::prelude::*;
use serde_json::json;

const X86_64: u32 = 0xC000_003E;
const I386: u32 = 0x4000_0003;
/// libseccomp's token; the kernel has no such value.
const X32: u32 = 0x4000_003E;
const X32_BIT: u32 = 0x4000_0000;
const ALLOW: u32 = 0x7fff_0000;

#[repr(C)]
#[derive(Clone, Copy)]
struct ArgCmp {
    arg: c_uint,
    op: c_int,
    a: u64,
    b: u64,
}

type Init = unsafe extern "C" fn(u32) -> *mut c_void;
type Release = unsafe extern "C" fn(*mut c_void);
type ArchAdd = unsafe extern "C" fn(*mut c_void, u32) -> c_int;
type Resolve = unsafe extern "C" fn(*const c_char) -> c_int;
type ResolveOn = unsafe extern "C" fn(u32, *const c_char) -> c_int;
type RuleAdd = unsafe extern "C" fn(*mut c_void, u32, c_int, c_uint, *const ArgCmp) -> c_int;
type Export = unsafe extern "C" fn(*const c_void, c_int) -> c_int;

struct Library {
    init: Init,
    release: Release,
    arch_add: ArchAdd,
    resolve: Resolve,
    resolve_on: ResolveOn,
    rule_add: RuleAdd,
    export: Export,
}

impl Library {
    fn load() -> Option<Self> {
        // SAFETY: loading a library runs its initialisers, which libseccomp's are fit for.
        let handle = unsafe { libc::dlopen(c"libseccomp.so.2".as_ptr(), libc::RTLD_NOW) };
        if handle.is_null() {
            assert!(std::env::var_os("BERTH_REQUIRE_LIBSECCOMP").is_none(), "libseccomp.so.2 is missing");
            eprintln!("SKIPPED: libseccomp.so.2 is not installed, so nothing was compared with it");
            return None;
        }
        let symbol = |name: &CStr| {
            // SAFETY: the handle is open, the name ends in NUL.
            let symbol = unsafe { libc::dlsym(handle, name.as_ptr()) };
            assert!(!symbol.is_null(), "{name:?}");
            symbol
        };
        // SAFETY: the signatures are those of seccomp.h.
        unsafe {
            Some(Self {
                init: std::mem::transmute::<*mut c_void, Init>(symbol(c"seccomp_init")),
                release: std::mem::transmute::<*mut c_void, Release>(symbol(c"seccomp_release")),
                arch_add: std::mem::transmute::<*mut c_void, ArchAdd>(symbol(c"seccomp_arch_add")),
                resolve: std::mem::transmute::<*mut c_void, Resolve>(symbol(c"seccomp_syscall_resolve_name")),
                resolve_on: std::mem::transmute::<*mut c_void, ResolveOn>(symbol(
                    c"seccomp_syscall_resolve_name_arch",
                )),
                rule_add: std::mem::transmute::<*mut c_void, RuleAdd>(symbol(c"seccomp_rule_add_array")),
                export: std::mem::transmute::<*mut c_void, Export>(symbol(c"seccomp_export_bpf")),
            })
        }
    }

    /// Whether it has a number of its own for the syscall on each of these architectures.
    fn knows(&self, name: &str, arches: &[u32]) -> bool {
        let name = CString::new(name).unwrap();
        // SAFETY: the name ends in NUL.
        arches.iter().all(|arch| unsafe { (self.resolve_on)(*arch, name.as_ptr()) >= 0 })
    }

    /// The profile as runc gives it to libseccomp.
    fn compile(&self, profile: &LinuxSeccomp) -> Vec<SockFilter> {
        let action = |action: Action, errno: Option<u32>| match action {
            Action::ScmpActAllow => ALLOW,
            Action::ScmpActErrno => 0x0005_0000 | errno.unwrap_or(1),
            Action::ScmpActKillProcess => 0x8000_0000,
            Action::ScmpActLog => 0x7ffc_0000,
            Action::ScmpActTrap => 0x0003_0000,
            _ => 0,
        };
        let default = action(profile.default_action(), profile.default_errno_ret());
        // SAFETY: the calls follow seccomp.h; the context is released at the end, and the arrays and
        // strings outlive the calls that read them.
        unsafe {
            let context = (self.init)(default);
            for arch in profile.architectures().iter().flatten() {
                let code = (self.arch_add)(context, *arch as u32);
                assert!(code == 0 || code == -libc::EEXIST, "{arch:?}: {code}");
            }
            for rule in profile.syscalls().iter().flatten() {
                let verdict = action(rule.action(), rule.errno_ret());
                if verdict == default {
                    continue;
                }
                for name in rule.names() {
                    let c_name = CString::new(name.as_str()).unwrap();
                    let number = (self.resolve)(c_name.as_ptr());
                    if number == -1 {
                        continue;
                    }
                    let args: Vec<ArgCmp> = rule
                        .args()
                        .iter()
                        .flatten()
                        .map(|arg| ArgCmp {
                            arg: u32::try_from(arg.index()).unwrap(),
                            op: arg.op() as c_int,
                            a: arg.value(),
                            b: arg.value_two().unwrap_or(0),
                        })
                        .collect();
                    let count = u32::try_from(args.len()).unwrap();
                    let code = (self.rule_add)(context, verdict, number, count, args.as_ptr());
                    assert!(code == 0 || code == -libc::EEXIST, "{name}: {code}");
                }
            }
            let fd = libc::memfd_create(c"oracle".as_ptr(), libc::MFD_CLOEXEC);
            let mut file = File::from_raw_fd(fd);
            assert_eq!((self.export)(context, file.as_raw_fd()), 0);
            (self.release)(context);
            file.rewind().unwrap();
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            from_bytes(&bytes).unwrap()
        }
    }
}

/// Values around those that rules compare with.
fn samples(profile: &LinuxSeccomp) -> Vec<u64> {
    let mut values = vec![0, 1, 2, u64::MAX, 1 << 32, 1 << 63];
    for arg in profile.syscalls().iter().flatten().flat_map(|rule| rule.args().iter().flatten()) {
        for value in [arg.value(), arg.value_two().unwrap_or(0)] {
            values.extend([value, value.wrapping_add(1), value.wrapping_sub(1), value ^ (1 << 32), !value]);
        }
    }
    values.sort_unstable();
    values.dedup();
    values
}

/// Every number, with every argument set to every sample.
fn compare(library: &Library, profile: &LinuxSeccomp) -> Result<(), TestCaseError> {
    let ours = compile_for(Machine::X86_64, profile, NewSyscalls::Default).unwrap();
    let theirs = library.compile(profile);
    let conditional: Vec<&str> = profile
        .syscalls()
        .iter()
        .flatten()
        .filter(|rule| rule.args().as_ref().is_some_and(|args| !args.is_empty()))
        .flat_map(|rule| rule.names().iter().map(String::as_str))
        .collect();
    let values = samples(profile);
    for (arch, base) in [(X86_64, 0), (X86_64, X32_BIT), (I386, 0), (0xC000_00B7, 0)] {
        for nr in (0..=480).chain([511, 512, 547, 548, 1000, 0x0fff_ffff, 0x3fff_ffff]).map(|nr| nr | base) {
            // The one departure: rules by argument are not stretched over the multiplexed calls of i386.
            if arch == I386 && (nr == 102 || nr == 117) && !conditional.is_empty() {
                continue;
            }
            for value in &values {
                // The other departure: `int` arguments are compared as the kernel sees them.
                let narrow = arch == X86_64 && matches!(nr, 41 | 53 | 135);
                if narrow && (*value > 0xffff_fffe || !conditional.is_empty() && has_wide_values(profile)) {
                    continue;
                }
                for index in 0..7usize {
                    let mut call = Call { nr, arch, args: [*value; 6] };
                    if let Some(arg) = call.args.get_mut(index) {
                        *arg = value.wrapping_add(1);
                    }
                    let (got, want) = (run(&ours, &call).map(|r| r.0), run(&theirs, &call).map(|r| r.0));
                    prop_assert_eq!(got, want, "{:x?}", call);
                    if conditional.is_empty() {
                        break;
                    }
                }
                if conditional.is_empty() {
                    break;
                }
            }
        }
    }
    for arch in [X86_64, I386] {
        let call = Call { nr: u32::MAX, arch, args: [0; 6] };
        prop_assert_eq!(run(&ours, &call).map(|r| r.0), run(&theirs, &call).map(|r| r.0), "{:x?}", call);
    }
    Ok(())
}

fn has_wide_values(profile: &LinuxSeccomp) -> bool {
    let args = profile.syscalls().iter().flatten().flat_map(|rule| rule.args().iter().flatten());
    args.into_iter().any(|arg| arg.value() > 0xffff_ffff)
}

fn parse(value: serde_json::Value) -> LinuxSeccomp {
    serde_json::from_value(value).unwrap()
}

/// The forms that Docker's profile uses.
#[test]
fn like_dockers_profile() {
    let Some(library) = Library::load() else { return };
    let allowed = [
        "accept",
        "accept4",
        "access",
        "bind",
        "brk",
        "chdir",
        "chmod",
        "chown32",
        "close",
        "connect",
        "dup",
        "execve",
        "exit_group",
        "fork",
        "futex",
        "getpid",
        "ioctl",
        "ipc",
        "mmap",
        "mmap2",
        "open",
        "openat",
        "pread64",
        "read",
        "readv",
        "recvmsg",
        "rt_sigaction",
        "semget",
        "sendto",
        "shmat",
        "socketcall",
        "statx",
        "time",
        "umount",
        "wait4",
        "waitid",
        "write",
        "writev",
        "no_such_call",
    ];
    let arg = |index: u32, value: u64, op: &str| json!({"index": index, "value": value, "op": op});
    let profile = parse(json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": allowed.as_slice(), "action": "SCMP_ACT_ALLOW"},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [arg(0, 38, "SCMP_CMP_LT")]},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [arg(0, 39, "SCMP_CMP_EQ")]},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [arg(0, 40, "SCMP_CMP_GT")]},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [arg(0, 0, "SCMP_CMP_EQ")]},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [arg(0, 0xffff_ffff, "SCMP_CMP_EQ")]},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 0x7E02_0000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        ]
    }));
    compare(&library, &profile).unwrap();
    let ours = compile_for(Machine::X86_64, &profile, NewSyscalls::Default).unwrap();
    let theirs = library.compile(&profile);
    println!("{} instructions, libseccomp {}", ours.len(), theirs.len());
}

/// Names that libseccomp may be too old for are left out, and those that some architecture lacks or
/// multiplexes: if such a one comes first in an architecture's part, libseccomp 2.5.4 forgets to load
/// the syscall number there (`jeq #arch` straight into `jeq #number`).
fn known(library: &Library) -> Vec<&'static str> {
    let arches = [X86_64, X32, I386];
    include!("names.in").into_iter().filter(|name| library.knows(name, &arches)).collect()
}

#[test]
fn any_profile() {
    let Some(library) = Library::load() else { return };
    let names = known(&library);
    assert!(names.len() > 250, "{}", names.len());
    let action = prop_oneof![
        Just(json!({"action": "SCMP_ACT_ALLOW"})),
        Just(json!({"action": "SCMP_ACT_ERRNO", "errnoRet": 38})),
        Just(json!({"action": "SCMP_ACT_LOG"})),
    ];
    let condition = (
        0usize..6,
        prop_oneof![Just(0u64), 0u64..64, any::<u64>(), Just(1 << 32)],
        prop_oneof![
            Just("EQ"),
            Just("NE"),
            Just("LT"),
            Just("LE"),
            Just("GT"),
            Just("GE"),
            Just("MASKED_EQ")
        ],
    );
    let conditions = proptest::collection::vec(condition, 0..3);
    // One rule a syscall: which of several wins is asked below, where it is certain.
    let rule = (action, proptest::collection::btree_set(0..names.len(), 1..12), conditions);
    let profiles = (
        prop_oneof![Just("SCMP_ACT_ERRNO"), Just("SCMP_ACT_ALLOW"), Just("SCMP_ACT_KILL_PROCESS")],
        proptest::collection::vec(rule, 0..6),
        proptest::sample::subsequence(vec!["SCMP_ARCH_X86", "SCMP_ARCH_X32"], 0..=2),
    );
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |((default, rules, arches) in profiles)| {
        let mut used = std::collections::BTreeSet::new();
        let mut syscalls = Vec::new();
        for (action, picked, conditions) in rules {
            let picked: Vec<&str> = picked
                .into_iter()
                .map(|at| names[at])
                .filter(|name| used.insert(name.trim_start_matches('_').to_owned()))
                .collect();
            let mut args: Vec<serde_json::Value> = Vec::new();
            for (index, value, op) in conditions {
                if args.iter().any(|arg| arg["index"] == index) {
                    continue;
                }
                let two = if op == "MASKED_EQ" { value & 0x5555_5555_5555_5555 } else { 0 };
                args.push(json!({"index": index, "value": value, "valueTwo": two, "op": format!("SCMP_CMP_{op}")}));
            }
            let mut rule = action;
            rule["names"] = json!(picked);
            rule["args"] = json!(args);
            if !picked.is_empty() {
                syscalls.push(rule);
            }
        }
        let profile = parse(json!({"defaultAction": default, "architectures": arches, "syscalls": syscalls}));
        compare(&library, &profile)?;
    });
}

#[test]
fn a_rule_without_arguments_wins() {
    let Some(library) = Library::load() else { return };
    let by_argument = json!({"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 97,
        "args": [{"index": 0, "value": 38, "op": "SCMP_CMP_EQ"}]});
    let plain = json!({"names": ["socket"], "action": "SCMP_ACT_ALLOW"});
    for syscalls in [json!([by_argument, plain]), json!([plain, by_argument])] {
        let profile = parse(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": syscalls}));
        compare(&library, &profile).unwrap();
    }
}
