// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]
use std::path::PathBuf;

use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::file::parse;
use super::*;

fn checked(text: &str, is_json: bool) -> std::result::Result<(), String> {
    parse(text, is_json)?.check()
}

fn spec() -> Spec {
    serde_json::from_value(json!({
        "ociVersion": "1.0.2",
        "process": {"args": ["x"], "cwd": "/", "env": ["PATH=/bin", "A=old"], "user": {"uid": 0, "gid": 0}},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/etc/hosts", "source": "/h"}, {"destination": "/x", "source": "/old"}],
        "linux": {"resources": {"devices": [{"allow": false, "access": "rwm"}]}},
    }))
    .unwrap()
}

const YAML: &str = r#"---
cdiVersion: 0.7.0
kind: vendor.com/device
annotations: {a.b/c: d}
containerEdits:
  env: [ALL=1]
devices:
  - name: one
    containerEdits:
      env: ["A=new"]
      additionalGids: [0, 7, 7]
      deviceNodes:
        - {path: /dev/nothing, hostPath: /dev/null, permissions: rw, fileMode: 0640, gid: 9}
      mounts:
        - {hostPath: /usr/lib, containerPath: /x, options: [ro, nosuid]}
        - {hostPath: tmpfs, containerPath: /x/y/z, type: tmpfs}
      hooks:
        - {hookName: createContainer, path: /bin/h, args: [h, x], env: [A=b], timeout: 3}
"#;

#[test]
fn edits_are_made() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("v.yaml"), YAML).unwrap();
    let cdi = Cdi::read(&[PathBuf::from("/no/such"), dir.path().to_owned()]);
    assert_eq!(cdi.names().collect::<Vec<_>>(), ["vendor.com/device=one"]);
    let mut spec = spec();
    let owner = Owner { uid: Some(1000), gid: Some(1001) };
    let groups = cdi.inject(&["vendor.com/device=one".to_owned()], &mut spec, owner).unwrap();
    assert_eq!(groups, [7]);
    let spec: Value = serde_json::to_value(&spec).unwrap();
    assert_eq!(spec["process"]["env"], json!(["PATH=/bin", "A=new", "ALL=1"]));
    let node = &spec["linux"]["devices"][0];
    let expected = json!({"path": "/dev/nothing", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 1000, "gid": 9});
    assert_eq!(*node, expected);
    let rule = &spec["linux"]["resources"]["devices"][1];
    assert_eq!(*rule, json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"}));
    let mounts: Vec<&str> =
        spec["mounts"].as_array().unwrap().iter().map(|m| m["destination"].as_str().unwrap()).collect();
    assert_eq!(mounts, ["/proc", "/x", "/etc/hosts", "/x/y/z"]);
    assert_eq!(spec["mounts"][1]["options"], json!(["ro", "nosuid", "rbind"]));
    assert_eq!(spec["mounts"][1]["source"], "/usr/lib");
    let hook = &spec["hooks"]["createContainer"][0];
    assert_eq!(*hook, json!({"path": "/bin/h", "args": ["h", "x"], "env": ["A=b"], "timeout": 3}));
}

#[test]
fn what_cannot_be_is_told() {
    let refused = |names: &[&str], cdi: &Cdi| {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        cdi.inject(&names, &mut spec(), Owner::default()).unwrap_err().to_string()
    };
    let dir = tempfile::tempdir().unwrap();
    let device = |name: &str, edits: Value| json!({"name": name, "containerEdits": edits});
    let devices = json!([
        device("gone", json!({"deviceNodes": [{"path": "/dev/no-such"}]})),
        device("kind", json!({"deviceNodes": [{"path": "/dev/null", "type": "b"}]})),
        device("file", json!({"deviceNodes": [{"path": "/etc/passwd"}]})),
        device("rdt", json!({"intelRdt": {"closID": "x"}})),
        device("net", json!({"netDevices": [{"hostInterfaceName": "a", "name": "b"}]})),
    ]);
    let file = json!({"cdiVersion": "1.1.0", "kind": "v.com/c", "devices": devices});
    std::fs::write(dir.path().join("v.json"), file.to_string()).unwrap();
    let cdi = Cdi::read(&[dir.path().to_owned()]);
    let failed = "CDI device injection failed: ";
    assert_eq!(
        refused(&["v.com/c=x", "v.com/c=gone", "y"], &cdi),
        format!("{failed}unresolvable CDI devices v.com/c=x, y")
    );
    for (name, why) in [
        ("gone", "failed to stat CDI host device \"/dev/no-such\": No such file"),
        ("kind", "CDI device (\"/dev/null\", \"/dev/null\"), host type mismatch (b, c)"),
        ("file", "failed to stat CDI host device \"/etc/passwd\": not a device node"),
        ("rdt", "intelRdt is not supported"),
        ("net", "netDevices is not supported"),
    ] {
        let told = refused(&[&format!("v.com/c={name}")], &cdi);
        assert!(told.starts_with(&format!("{failed}failed to inject devices: {why}")), "{told}");
    }
}

#[test]
fn later_directories_win_and_equals_cancel_out() {
    let file = |value: &str| {
        let devices = json!([{"name": "d", "containerEdits": {"env": [format!("FROM={value}")]}}]);
        json!({"cdiVersion": "0.5.0", "kind": "v/c", "devices": devices}).to_string()
    };
    let (low, high) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let dirs = [low.path().to_owned(), high.path().to_owned()];
    let from = || {
        let mut spec = spec();
        let cdi = Cdi::read(&dirs);
        cdi.inject(&["v/c=d".to_owned()], &mut spec, Owner::default()).ok()?;
        let troubles = cdi.troubles().count();
        let env = spec.process().as_ref().unwrap().env().clone().unwrap();
        Some((env.into_iter().find_map(|e| e.strip_prefix("FROM=").map(str::to_owned)).unwrap(), troubles))
    };
    std::fs::write(low.path().join("a.json"), file("low")).unwrap();
    std::fs::write(low.path().join("notes.txt"), "no spec").unwrap();
    std::fs::create_dir(low.path().join("dir.json")).unwrap();
    assert_eq!(from(), Some(("low".to_owned(), 0)));
    std::fs::write(low.path().join("b.yaml"), file("other")).unwrap();
    assert_eq!(from(), None, "two of the same rank");
    std::fs::write(high.path().join("a.json"), file("high")).unwrap();
    assert_eq!(from(), Some(("high".to_owned(), 2)));
    // Three of a kind, a FIFO, something long and something broken.
    std::fs::write(low.path().join("c.json"), file("third")).unwrap();
    std::fs::write(high.path().join("bad.json"), "{").unwrap();
    std::fs::write(high.path().join("long.yaml"), vec![b' '; (4 << 20) + 1]).unwrap();
    let fifo = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, high.path().join("fifo.json"), rustix::fs::FileType::Fifo, fifo, 0)
        .unwrap();
    assert_eq!(from(), Some(("high".to_owned(), 4 + 3)));
    let told: Vec<String> = Cdi::read(&dirs).troubles().map(|(_, why)| why.to_owned()).collect();
    assert!(told.iter().any(|why| why.contains("conflicting device \"v/c=d\"")), "{told:?}");
    assert!(told.iter().any(|why| why.contains("no regular file")), "{told:?}");
    assert!(told.iter().any(|why| why.contains("longer than")), "{told:?}");
}

#[test]
fn files_are_read_strictly() {
    checked(YAML, false).unwrap();
    let base = |change: &dyn Fn(&mut Value)| {
        let mut file = json!({"cdiVersion": "0.3.0", "kind": "vendor.com/class",
            "devices": [{"name": "dev", "containerEdits": {"env": ["A=b"]}}]});
        change(&mut file);
        file
    };
    checked(&base(&|_| {}).to_string(), true).unwrap();
    let edits = |value: Value| move |f: &mut Value| f["devices"][0]["containerEdits"] = value.clone();
    let cases: Vec<(Value, &str)> = vec![
        (base(&|f| f["cdiVersion"] = json!("0.9.0")), "invalid version"),
        (base(&|f| f["cdiVersion"] = json!("1.0")), "invalid version"),
        (base(&|f| f["kind"] = json!("vendor")), "invalid vendor. empty name"),
        (base(&|f| f["kind"] = json!("1/c")), "should start with letter"),
        (base(&|f| f["kind"] = json!("v/c_")), "should end with"),
        (base(&|f| f["kind"] = json!("v/a b")), "invalid character"),
        (base(&|f| f["kind"] = json!("v/a.b")), "at least v0.6.0"),
        (base(&|f| f["annotations"] = json!({"a": "b"})), "at least v0.6.0"),
        (base(&|f| f["devices"] = json!([])), "no devices"),
        (base(&|f| f["devices"][0]["name"] = json!("1")), "at least v0.5.0"),
        (base(&|f| f["devices"][0]["name"] = json!("a/b")), "invalid character"),
        (base(&|f| f["devices"][0]["name"] = json!("-a")), "should start and end"),
        (base(&|f| f["devices"] = json!([f["devices"][0], f["devices"][0]])), "multiple device \"dev\""),
        (base(&|f| f["colour"] = json!("red")), "unknown field"),
        (base(&edits(json!({}))), "empty device edits"),
        (base(&edits(json!({"additionalGids": [1]}))), "at least v0.7.0"),
        (base(&edits(json!({"env": ["=x"]}))), "invalid environment variable"),
        (base(&edits(json!({"deviceNodes": [{"path": ""}]}))), "invalid (empty) device path"),
        (base(&edits(json!({"deviceNodes": [{"path": "dev/x"}]}))), "not an absolute path"),
        (base(&edits(json!({"deviceNodes": [{"path": "/x", "type": "q"}]}))), "invalid type"),
        (base(&edits(json!({"deviceNodes": [{"path": "/x", "permissions": "x"}]}))), "invalid permissions"),
        (base(&edits(json!({"hooks": [{"hookName": "x", "path": "/x"}]}))), "invalid hook name"),
        (base(&edits(json!({"hooks": [{"hookName": "poststop"}]}))), "empty path"),
        (base(&edits(json!({"hooks": [{"hookName": "poststop", "path": "x"}]}))), "not an absolute path"),
        (base(&edits(json!({"mounts": [{"containerPath": "/x"}]}))), "empty host path"),
        (base(&edits(json!({"mounts": [{"hostPath": "/x"}]}))), "empty container path"),
        (
            base(&edits(json!({"mounts": [{"hostPath": "/x", "containerPath": "/y", "type": "tmpfs"}]}))),
            "v0.4.0",
        ),
    ];
    for (file, why) in cases {
        let told = checked(&file.to_string(), true).unwrap_err();
        assert!(told.contains(why), "{file}: {told}");
        // JSON is YAML.
        let told = checked(&file.to_string(), false).unwrap_err();
        assert!(told.contains(why), "{file}: {told}");
    }
    // What swells in memory is refused in time.
    let bomb = format!("a: &a [{}]\n", "x,".repeat(100))
        + &(b'b'..b'k')
            .map(|c| format!("{0}: &{0} [{1}]\n", c as char, format!("*{},", (c - 1) as char).repeat(100)))
            .collect::<String>();
    checked(&bomb, false).unwrap_err();
}

#[test]
fn requests_come_to_names() {
    let request = |value: Value| serde_json::from_value::<DeviceRequest>(value).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let devices = json!([{"name": "all", "containerEdits": {"env": ["A=b"]}}]);
    let gpus = json!({"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": devices});
    std::fs::write(dir.path().join("g.json"), gpus.to_string()).unwrap();
    let (with, without) = (Cdi::read(&[dir.path().to_owned()]), Cdi::default());
    let names = |value: Value| request(value).names(Some(&with)).unwrap();
    assert_eq!(names(json!({"Count": -1, "Capabilities": [["gpu"]]})), ["nvidia.com/gpu=all"]);
    assert_eq!(
        names(json!({"Count": 2, "Driver": "nvidia", "Capabilities": [["gpu", "utility"]]})),
        ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]
    );
    assert_eq!(names(json!({"DeviceIDs": ["3"], "Capabilities": [["x"], ["gpu"]]})), ["nvidia.com/gpu=3"]);
    assert_eq!(names(json!({"DeviceIDs": ["v/c=3"], "Driver": "cdi"})), ["v/c=3"]);
    let refused = |value: Value, cdi: Option<&Cdi>| request(value).names(cdi).unwrap_err().to_string();
    let gpu = json!({"Count": -1, "Capabilities": [["gpu", "x"], ["y"]]});
    let words = "could not select device driver \"\" with capabilities: [[gpu x] [y]]";
    assert_eq!(refused(gpu, Some(&with)), words);
    let gpu = json!({"Count": -1, "Capabilities": [["gpu"]]});
    assert_eq!(
        refused(gpu, Some(&without)),
        "could not select device driver \"\" with capabilities: [[gpu]]"
    );
    let cdi = json!({"Driver": "cdi", "DeviceIDs": ["v/c=3"]});
    assert_eq!(refused(cdi, None), "could not select device driver \"cdi\" with capabilities: []");
    let cdi = json!({"Driver": "cdi", "DeviceIDs": ["v/c=3"], "Count": 1});
    assert_eq!(refused(cdi, Some(&with)), "unexpected count in CDI device request");
    let cdi = json!({"Driver": "cdi", "Options": {"a": "b"}});
    assert_eq!(refused(cdi, Some(&with)), "unexpected options in CDI device request");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "[ -~\n]{0,200}") {
        let _result = checked(&text, false);
        let _result = checked(&text, true);
    }
}
