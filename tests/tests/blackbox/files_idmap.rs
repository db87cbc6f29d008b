// SPDX-License-Identifier: Apache-2.0
//! Mounts that show their files' owners as others. The reference engine has none: its API has no field for them, and it refuses
//! the words.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};

use berth_tests::harness::Bed;

#[test]
fn owners_are_seen_as_it_is_asked() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let host = bed.path().join("host");
    fs::create_dir(&host).unwrap();
    for (name, owner) in [("root", 0), ("one", 1), ("far", 70_000)] {
        fs::write(host.join(name), name).unwrap();
        chown(host.join(name), Some(owner), Some(owner)).unwrap();
    }
    chown(&host, Some(0), Some(0)).unwrap();
    let words = "idmap=uids=0-1000-1#1-2000-5;gids=0-3000-6";
    let bind = format!("{}:/m:{words}", host.display());
    if !bed.is_ours() {
        assert!(bed.docker(&["create", "-v", &bind, "busybox"]).fails(1).contains("invalid mode"));
        return bed.finish();
    }
    bed.docker(&["run", "-d", "--name", "up", "-v", &bind, "busybox", "sleep", "1000"]).ok();
    let owners = "cd /m; stat -c '%n %u:%g' root one far";
    let expected = "root 1000:3000\none 2000:3001\nfar 65534:65534";
    assert_eq!(bed.docker(&["exec", "up", "sh", "-c", owners]).ok(), expected);
    // The other way for what is made: by whom the mapping knows, and by nobody else.
    bed.docker(&["exec", "-u", "1000:3000", "up", "touch", "/m/mine"]).ok();
    let made = fs::metadata(host.join("mine")).unwrap();
    assert_eq!((made.uid(), made.gid()), (0, 0));
    let refused = bed.docker(&["exec", "-u", "5:5", "--privileged", "up", "touch", "/m/theirs"]);
    assert!(refused.code != 0 && !host.join("theirs").exists(), "{refused:?}");
    assert_eq!(bed.docker(&["inspect", "-f", "{{(index .Mounts 0).Mode}}", "up"]).ok(), words);

    // From outside as from inside, whether it runs or not; and after a restart.
    let owner = |name: &str| {
        let answer = bed.api("GET", &format!("/containers/up/archive?path=/m/{name}"), "");
        assert_eq!(answer.status, 200);
        let mut archive = tar::Archive::new(&answer.body[..]);
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        (entry.header().uid().unwrap(), entry.header().gid().unwrap())
    };
    assert_eq!(owner("one"), (2000, 3001));
    bed.docker(&["kill", "up"]).ok();
    bed.docker(&["wait", "up"]).ok();
    assert_eq!(owner("one"), (2000, 3001));
    bed.docker(&["start", "up"]).ok();
    assert_eq!(bed.docker(&["exec", "up", "sh", "-c", owners]).ok(), expected);
    bed.docker(&["rm", "-f", "up"]).ok();

    // A volume of options has them in the form of mount(8), too; a volume in the form of -v.
    for (name, o) in [("theirs", "bind,X-mount.idmap=b:0:7:2"), ("ours", "rbind,idmap=uids=0-7-2;gids=0-7-2")]
    {
        let device = format!("device={}", host.display());
        bed.docker(&["volume", "create", "-o", "type=none", "-o", &device, "-o", &format!("o={o}"), name])
            .ok();
        let seen =
            bed.docker(&["run", "--rm", "-v", &format!("{name}:/m"), "busybox", "sh", "-c", owners]).ok();
        assert_eq!(seen, "root 7:7\none 8:8\nfar 65534:65534", "{name}");
        bed.docker(&["volume", "rm", name]).ok();
    }
    let volume = "plain:/m:nocopy,idmap=uids=0-9-1;gids=0-9-1";
    assert_eq!(bed.docker(&["run", "--rm", "-v", volume, "busybox", "stat", "-c", "%u", "/m"]).ok(), "9");
    bed.docker(&["volume", "rm", "plain"]).ok();

    // What cannot be is refused by name, and leaves nothing.
    for (word, why) in [
        ("idmap=uids=0-1-1", "1 to 340 ranges"),
        ("idmap=uids=0-1-1#0-5-1;gids=0-1-1", "two ranges"),
        ("idmap=what", "expected uids="),
        ("idmap,ridmap", "invalid mode"),
    ] {
        let error =
            bed.docker(&["create", "-v", &format!("{}:/m:{word}", host.display()), "busybox"]).fails(1);
        assert!(error.contains(why), "{word}: {error}");
    }
    let alone = format!("{}:/m:idmap", host.display());
    let error = bed.docker(&["run", "--rm", "-v", &alone, "busybox", "true"]).fails(125);
    assert!(error.contains("user namespace"), "{error}");
    // A file system whose owners cannot be mapped.
    let error = bed
        .docker(&["run", "--rm", "-v", "/proc/sys:/m:idmap=uids=0-1-1;gids=0-1-1", "busybox", "true"])
        .fails(125);
    assert!(error.contains("cannot map owners"), "{error}");
    bed.finish();
}
