// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use proptest::prelude::*;

fn parse(json: &str) -> Vec<Rule> {
    rules(&serde_json::from_str::<Vec<LinuxDeviceCgroup>>(json).unwrap()).unwrap()
}

/// What the rules mean, said plainly.
fn decide(rules: &[Rule], kind: Kind, major: u32, minor: u32, access: u32) -> bool {
    rules
        .iter()
        .rev()
        .find(|rule| {
            rule.kind.is_none_or(|wanted| wanted == kind)
                && rule.major.is_none_or(|wanted| wanted == major)
                && rule.minor.is_none_or(|wanted| wanted == minor)
                && if rule.allow { access & !rule.access == 0 } else { access & rule.access != 0 }
        })
        .is_some_and(|rule| rule.allow)
}

/// Runs the few instructions that the compiler emits.
fn run(program: &[Insn], kind: Kind, major: u32, minor: u32, access: u32) -> bool {
    let mut registers = [0u32; 6];
    let mut at = 0usize;
    loop {
        let insn = program[at];
        let (to, from) = (usize::from(insn.registers & 15), usize::from(insn.registers >> 4));
        let k = u32::from_ne_bytes(insn.immediate.to_ne_bytes());
        at += 1;
        match insn.code {
            LDX_W => registers[to] = [access << 16 | kind as u32, major, minor][insn.offset as usize / 4],
            MOV_X => registers[to] = registers[from],
            MOV32_K => registers[to] = k,
            AND32_K => registers[to] &= k,
            RSH32_K => registers[to] >>= k,
            JNE32_K if registers[to] != k => at += insn.offset as usize,
            JEQ32_K if registers[to] == k => at += insn.offset as usize,
            JNE32_K | JEQ32_K => {}
            EXIT => return registers[0] == 1,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

#[test]
fn v1_lines() {
    let rules = parse(
        r#"[{"allow":false,"access":"rwm"},
            {"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"},
            {"allow":false,"type":"c","major":10,"minor":229,"access":"rwm"},
            {"allow":true,"type":"b","major":8,"access":"r"}]"#,
    );
    let lines: Vec<_> = rules.iter().take(4).map(Rule::v1).collect();
    assert_eq!(lines[0], ("devices.deny", vec!["a".to_owned()]));
    assert_eq!(lines[1], ("devices.allow", vec!["c 1:3 rwm".to_owned()]));
    assert_eq!(lines[2], ("devices.deny", vec!["c 10:229 rwm".to_owned()]));
    assert_eq!(lines[3], ("devices.allow", vec!["b 8:* r".to_owned()]));
    assert_eq!(rules.len(), 4 + ALWAYS.len());
}

#[test]
fn privileged_needs_nothing_more() {
    assert_eq!(parse(r#"[{"allow":true,"access":"rwm"}]"#).len(), 1);
    assert!(parse("[]").is_empty());
}

#[test]
fn nonsense_is_refused() {
    for json in
        [r#"[{"allow":true,"access":"rx"}]"#, r#"[{"allow":true,"type":"c","major":-7,"access":"r"}]"#]
    {
        assert!(rules(&serde_json::from_str::<Vec<LinuxDeviceCgroup>>(json).unwrap()).is_err(), "{json}");
    }
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let kind = prop_oneof![Just(None), Just(Some(Kind::Block)), Just(Some(Kind::Char))];
    (any::<bool>(), kind, proptest::option::of(0u32..4), proptest::option::of(0u32..4), 1u32..8)
        .prop_map(|(allow, kind, major, minor, access)| Rule { allow, kind, major, minor, access })
}

proptest! {
    #[test]
    fn the_program_means_the_rules(rules in proptest::collection::vec(any_rule(), 0..8)) {
        let program = compile(&rules);
        for kind in [Kind::Block, Kind::Char] {
            for (major, minor, access) in
                (0..5).flat_map(|a| (0..5).flat_map(move |b| (1..8).map(move |c| (a, b, c))))
            {
                prop_assert_eq!(
                    run(&program, kind, major, minor, access),
                    decide(&rules, kind, major, minor, access),
                    "{:?} {}:{} {}", kind, major, minor, access
                );
            }
        }
    }
}
