// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::Kind;
use proptest::prelude::*;

const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
# a comment
1000:x:0:0::/evil:/bin/sh
99999999999:x:0:0::/evil:/bin/sh
web:x:33:44::/srv:/bin/sh
broken:x:abc:1::/:
wrap:x:4294967296:1::/:
web:x:99:99::/second:/bin/sh
";
const GROUP: &str = "\
root:x:0:
www:x:44:web
video:x:45:web,other
1001:x:7:
audio:x:46:other
";

fn check(user: &str, extra: &[&str], want: (u32, u32, &[u32], Option<&str>)) {
    let extra: Vec<String> = extra.iter().map(|group| (*group).to_owned()).collect();
    let got = resolve_in(PASSWD, GROUP, &UserRequest { user, groups: &extra }).unwrap();
    let want =
        Identity { uid: want.0, gid: want.1, groups: want.2.to_vec(), home: want.3.map(str::to_owned) };
    assert_eq!(got, want, "{user:?} {extra:?}");
}

fn check_refused(user: &str, extra: &[&str], want: &str) {
    let extra: Vec<String> = extra.iter().map(|group| (*group).to_owned()).collect();
    let error = resolve_in(PASSWD, GROUP, &UserRequest { user, groups: &extra }).unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (Kind::InvalidInput, want), "{user:?}");
}

#[test]
fn names_and_numbers() {
    check("", &[], (0, 0, &[0], Some("/root")));
    check("root", &[], (0, 0, &[0], Some("/root")));
    check("web", &[], (33, 44, &[44, 45], Some("/srv")));
    check("33", &[], (33, 44, &[44, 45], Some("/srv")));
    check("web:audio", &[], (33, 46, &[46], Some("/srv")));
    check("web:0", &[], (33, 0, &[0], Some("/srv")));
    check("web:", &[], (33, 44, &[44, 45], Some("/srv")));
    check(":audio", &[], (0, 46, &[46], Some("/root")));
    check("5:6", &[], (5, 6, &[6], None));
    check("2147483647", &[], (2_147_483_647, 0, &[0], None));
}

#[test]
fn additional_groups() {
    check("web", &["audio", "7", "45", "44"], (33, 44, &[44, 45, 46, 7], Some("/srv")));
    check("5:6", &["video"], (5, 6, &[6, 45], None));
}

#[test]
fn numbers_are_never_names() {
    check("1000", &[], (1000, 0, &[0], None));
    check("5:1001", &[], (5, 1001, &[1001], None));
    for user in ["99999999999", "2147483648", "4294967296", "-1", "4294967295", "+1"] {
        check_refused(user, &[], &format!("uid {user} is not between 0 and 2147483647"));
    }
    check_refused("4294967295:0", &[], "uid 4294967295 is not between 0 and 2147483647");
    check_refused("0:-1", &[], "gid -1 is not between 0 and 2147483647");
    check_refused("0", &["4294967296"], "gid 4294967296 is not between 0 and 2147483647");
}

#[test]
fn missing_names() {
    check_refused("nobody", &[], "unable to find user nobody: no matching entries in passwd file");
    check_refused("broken", &[], "unable to find user broken: no matching entries in passwd file");
    check_refused("wrap", &[], "unable to find user wrap: no matching entries in passwd file");
    check_refused("root:crew", &[], "unable to find group crew: no matching entries in group file");
    check_refused("root", &["crew"], "unable to find group crew: no matching entries in group file");
}

#[test]
fn files_are_read_in_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let root = || rustix::fs::open(dir.path(), OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    let request = UserRequest { user: "web", groups: &[] };
    assert!(resolve(root(), &request).unwrap_err().message.contains("no matching entries"));
    std::fs::create_dir_all(dir.path().join("data")).unwrap();
    std::fs::write(dir.path().join("data/passwd"), PASSWD).unwrap();
    std::os::unix::fs::symlink("/data", dir.path().join("etc")).unwrap();
    assert_eq!(resolve(root(), &request).unwrap().uid, 33);
    std::fs::remove_file(dir.path().join("etc")).unwrap();
    std::fs::create_dir(dir.path().join("etc")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.path().join("etc/passwd"),
        FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    assert!(resolve(root(), &request).unwrap_err().message.contains("not a regular file"));
}

proptest! {
    #[test]
    fn never_panics_and_never_makes_root_of_a_number(
        passwd in ".{0,200}", group in ".{0,200}", uid in 1u32..=i32::MAX.unsigned_abs(),
    ) {
        let user = uid.to_string();
        let got = resolve_in(&passwd, &group, &UserRequest { user: &user, groups: &[] }).unwrap();
        prop_assert_eq!(got.uid, uid);
        drop(resolve_in(&passwd, &group, &UserRequest { user: &passwd, groups: &[] }));
    }
}
