// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]

use oci_spec::runtime::LinuxSeccomp;
use proptest::prelude::*;

use crate::emulate::{Call, run};
use crate::table::TABLE;
use crate::{Machine, NewSyscalls, compile_for, from_bytes, to_bytes};

const X86_64: u32 = 0xC000_003E;
const I386: u32 = 0x4000_0003;
const AARCH64: u32 = 0xC000_00B7;
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;

fn profile(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap()
}

fn check(json: &str, cases: &[(u32, u32, [u64; 6], u32)]) {
    let program = compile_for(Machine::X86_64, &profile(json), NewSyscalls::Enosys).unwrap();
    for (arch, nr, args, want) in cases {
        let got = run(&program, &Call { nr: *nr, arch: *arch, args: *args }).unwrap().0;
        assert_eq!(got, *want, "arch {arch:#x} nr {nr} args {args:?}");
    }
}

fn args(first: u64, second: u64) -> [u64; 6] {
    [first, second, 0, 0, 0, 0]
}

#[test]
fn table_is_sorted() {
    assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
}

#[test]
fn plain_rules_and_errnos() {
    check(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":13,"architectures":["SCMP_ARCH_X86"],
            "syscalls":[{"names":["read","write","nosuchcall"],"action":"SCMP_ACT_ALLOW"},
                        {"names":["clone3"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}"#,
        &[
            (X86_64, 0, args(0, 0), ALLOW),
            (X86_64, 1, args(0, 0), ALLOW),
            (X86_64, 2, args(0, 0), ERRNO | 13),
            (X86_64, 435, args(0, 0), ERRNO | 38),
            (X86_64, 436, args(0, 0), ERRNO | 38),
            (X86_64, u32::MAX, args(0, 0), ERRNO | 13),
            (X86_64, 0x4000_0000, args(0, 0), 0),
            (I386, 3, args(0, 0), ALLOW),
            (I386, 0, args(0, 0), ERRNO | 13),
            (AARCH64, 63, args(0, 0), 0),
        ],
    );
}

#[test]
fn arguments_compare_all_64_bits() {
    let rule = |op: &str| {
        format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["mmap"],"action":"SCMP_ACT_ALLOW",
                "args":[{{"index":1,"value":4294967301,"valueTwo":0,"op":"SCMP_CMP_{op}"}}]}}]}}"#
        )
    };
    let value = 4_294_967_301u64;
    let samples = [0, 5, 4, 6, value - 1, value, value + 1, value + (1 << 32), 1 << 33, u64::MAX, 1 << 32];
    for (op, holds) in [
        ("EQ", (|a, b| a == b) as fn(u64, u64) -> bool),
        ("NE", |a, b| a != b),
        ("LT", |a, b| a < b),
        ("LE", |a, b| a <= b),
        ("GT", |a, b| a > b),
        ("GE", |a, b| a >= b),
        ("MASKED_EQ", |a, b| a & b == 0),
    ] {
        for sample in samples {
            let want = if holds(sample, value) { ALLOW } else { ERRNO | 1 };
            check(&rule(op), &[(X86_64, 9, args(0, sample), want)]);
        }
    }
}

#[test]
fn several_rules_are_alternatives() {
    // The shape of Docker's rule that leaves out AF_ALG (38) and AF_VSOCK (40).
    check(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X32"],"syscalls":[
            {"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":38,"op":"SCMP_CMP_LT"}]},
            {"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":39,"op":"SCMP_CMP_EQ"}]},
            {"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":40,"op":"SCMP_CMP_GT"}]}]}"#,
        &[
            (X86_64, 41, args(2, 0), ALLOW),
            (X86_64, 41, args(38, 0), ERRNO | 1),
            (X86_64, 41, args(39, 0), ALLOW),
            (X86_64, 41, args(40, 0), ERRNO | 1),
            (X86_64, 41, args(0x1_0000_0026, 0), ERRNO | 1),
            (X86_64, 41, args(0xffff_ffff_0000_0028, 0), ERRNO | 1),
            (X86_64, 41, args(41, 0), ALLOW),
            (X86_64, 0x4000_0000 | 41, args(40, 0), ERRNO | 1),
            (X86_64, 0x4000_0000 | 41, args(41, 0), ALLOW),
        ],
    );
}

#[test]
fn one_index_twice_makes_alternatives_and_unconditional_wins() {
    check(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
            {"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[
                {"index":0,"value":8,"op":"SCMP_CMP_EQ"},{"index":0,"value":9,"op":"SCMP_CMP_EQ"}]},
            {"names":["socket"],"action":"SCMP_ACT_ERRNO","errnoRet":97,"args":[
                {"index":0,"value":2,"op":"SCMP_CMP_EQ"}]},
            {"names":["socket"],"action":"SCMP_ACT_ALLOW"}]}"#,
        &[
            (X86_64, 135, args(8, 0), ALLOW),
            (X86_64, 135, args(9, 0), ALLOW),
            (X86_64, 135, args(10, 0), ERRNO | 1),
            (X86_64, 41, args(2, 0), ALLOW),
        ],
    );
}

#[test]
fn multiplexed_calls_on_i386() {
    check(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86"],"syscalls":[
            {"names":["connect"],"action":"SCMP_ACT_ALLOW"},
            {"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":38,"op":"SCMP_CMP_LT"}]}]}"#,
        &[
            (I386, 362, args(0, 0), ALLOW),
            (I386, 102, args(3, 0), ALLOW),
            (I386, 359, args(2, 0), ALLOW),
            (I386, 102, args(1, 0), ERRNO | 1),
        ],
    );
}

#[test]
fn aarch64_program_covers_arm() {
    let json = r#"{"defaultAction":"SCMP_ACT_KILL_PROCESS","architectures":["SCMP_ARCH_ARM"],
        "syscalls":[{"names":["read","set_tls"],"action":"SCMP_ACT_ALLOW"}]}"#;
    let program = compile_for(Machine::Aarch64, &profile(json), NewSyscalls::Default).unwrap();
    let verdict = |arch, nr| run(&program, &Call { nr, arch, args: [0; 6] }).unwrap().0;
    assert_eq!(verdict(AARCH64, 63), ALLOW);
    assert_eq!(verdict(AARCH64, 64), 0x8000_0000);
    assert_eq!(verdict(0x4000_0028, 3), ALLOW);
    assert_eq!(verdict(0x4000_0028, 0x000F_0005), ALLOW);
    assert_eq!(verdict(X86_64, 0), 0);
}

#[test]
fn refuses_what_it_cannot_do() {
    let refused = |json: &str| compile_for(Machine::X86_64, &profile(json), NewSyscalls::Enosys).unwrap_err();
    let notify =
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_NOTIFY"}]}"#;
    assert!(refused(notify).0.contains("NOTIFY"));
    let index = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO",
        "args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#;
    assert!(refused(index).0.contains("index 6"));
    let rules: Vec<String> = (0..900)
        .map(|n| {
            format!(
                r#"{{"names":["ioctl"],"action":"SCMP_ACT_ERRNO","args":[{{"index":1,"value":{n},"op":"SCMP_CMP_EQ"}}]}}"#
            )
        })
        .collect();
    let long = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{}]}}"#, rules.join(","));
    assert!(refused(&long).0.contains("4096"));
}

#[test]
fn bytes_round_trip() {
    let json =
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["reboot"],"action":"SCMP_ACT_ERRNO"}]}"#;
    let program = compile_for(Machine::X86_64, &profile(json), NewSyscalls::Enosys).unwrap();
    assert_eq!(from_bytes(&to_bytes(&program)).unwrap(), program);
    assert!(from_bytes(&[]).is_err());
    assert!(from_bytes(&[0; 7]).is_err());
    assert!(from_bytes(&vec![0; 4097 * 8]).is_err());
}

proptest! {
    /// Whatever subset is allowed: exactly those numbers are, and every jump lands inside.
    #[test]
    fn verdicts_follow_the_names(picked in proptest::collection::btree_set(0..TABLE.len(), 0..200)) {
        let names: Vec<_> = picked.iter().map(|row| TABLE[*row].0).collect();
        let json = serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]});
        let program =
            compile_for(Machine::X86_64, &profile(&json.to_string()), NewSyscalls::Default).unwrap();
        let mut allowed = std::collections::BTreeSet::new();
        for row in &picked {
            let [x86_64, x32, ..] = TABLE[*row].1;
            allowed.extend(u32::try_from(x86_64).ok());
            allowed.extend(u32::try_from(x32).ok().map(|nr| nr | 0x4000_0000));
        }
        for nr in (0..600).chain(0x4000_0000..0x4000_0000 + 600) {
            let got = run(&program, &Call { nr, arch: X86_64, args: [0; 6] }).unwrap().0;
            prop_assert_eq!(got == ALLOW, allowed.contains(&nr), "nr {:#x}", nr);
        }
    }
}
