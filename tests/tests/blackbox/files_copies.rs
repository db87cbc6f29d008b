// SPDX-License-Identifier: Apache-2.0
//! `docker cp` to and from every kind of mount, in every state of a container, and as streams; volumes found by their labels.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use berth_tests::harness::{Bed, Cli};

/// A command line that is fed, and what it says.
fn piped(bed: &Bed, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child =
        bed.command(Cli::Docker, args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{args:?}");
    out.stdout
}

fn tar(dir: &Path, args: &[&str]) -> Vec<u8> {
    let out = Command::new("tar").arg("-C").arg(dir).arg("-c").args(args).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    out.stdout
}

#[test]
fn every_kind_of_mount_is_copied_to_and_from_in_every_state() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&["run", "--name", "made", "busybox", "sh", "-c", "mkdir -p /d/sub; echo image > /d/sub/f"])
        .ok();
    bed.docker(&["commit", "made", "content:v1"]).ok();
    bed.docker(&["rm", "made"]).ok();
    let host = bed.path().join("host");
    fs::create_dir_all(&host).unwrap();
    let bind = format!("{}:/m/bind", host.display());
    let mut args =
        vec!["create", "--name", "all", "-v", "vol:/m/vol", "-v", "/m/anonymous", "--tmpfs", "/m/ram"];
    if bed.is_ours() {
        // The reference has a host of its own, and leaves images out.
        args.extend(["-v", &bind, "--mount", "type=image,source=content:v1,target=/m/img"]);
    }
    args.extend(["busybox", "sleep", "1000"]);
    bed.docker(&args).ok();
    let mut places = vec!["/m/vol", "/m/anonymous", "/m", "/tmp"];
    if bed.is_ours() {
        places.push("/m/bind");
    }
    let here = bed.path().join("here");
    let back = bed.path().join("back");
    let check = |state: &str, places: &[&str]| {
        assert_eq!(bed.docker(&["inspect", "-f", "{{.State.Status}}", "all"]).ok(), state);
        for place in places {
            let said = format!("{place} {state}");
            fs::write(&here, &said).unwrap();
            let there = format!("all:{place}/{state}");
            bed.docker(&["cp", here.to_str().unwrap(), &there]).ok();
            bed.docker(&["cp", &there, back.to_str().unwrap()]).ok();
            assert_eq!(fs::read_to_string(&back).unwrap(), said);
        }
        if bed.is_ours() {
            bed.docker(&["cp", "all:/m/img/d/sub/f", back.to_str().unwrap()]).ok();
            assert_eq!(fs::read_to_string(&back).unwrap(), "image\n");
            let refused = bed.docker(&["cp", here.to_str().unwrap(), "all:/m/img/d/g"]).fails(1);
            assert!(refused.contains("read-only"), "{refused}");
        }
    };
    check("created", &places);
    bed.docker(&["start", "all"]).ok();
    // What was copied while it did not run is in the mounts and not beneath them.
    for place in &places {
        let said = bed.docker(&["exec", "all", "cat", &format!("{place}/created")]).ok();
        assert_eq!(said, format!("{place} created"));
    }
    let mut running = places.clone();
    if bed.is_ours() {
        // The reference puts the container's files together anew and sees another tmpfs.
        running.push("/m/ram");
    }
    check("running", &running);
    bed.docker(&["pause", "all"]).ok();
    check("paused", &running);
    bed.docker(&["unpause", "all"]).ok();
    bed.docker(&["kill", "all"]).ok();
    bed.docker(&["wait", "all"]).ok();
    check("exited", &places);
    if bed.is_ours() {
        for state in ["created", "running", "paused", "exited"] {
            assert_eq!(fs::read_to_string(host.join(state)).unwrap(), format!("/m/bind {state}"));
        }
    }
    bed.docker(&["rm", "-v", "all"]).ok();
    bed.docker(&["volume", "rm", "vol"]).ok();
    bed.finish();
}

#[test]
fn archives_go_through_pipes() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&["create", "--name", "cc", "busybox", "sleep", "1000"]).ok();
    let dir = bed.path().join("dir");
    fs::create_dir_all(dir.join("sub")).unwrap();
    fs::write(dir.join("sub/f"), "piped").unwrap();
    fs::set_permissions(dir.join("sub/f"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("f", dir.join("sub/l")).unwrap();
    let archive = tar(&dir, &["--owner=:5", "--group=:6", "sub"]);
    piped(&bed, &["cp", "-", "cc:/tmp"], &archive);
    // As it was: names relative to where it was taken from, owners, modes, links.
    let out = piped(&bed, &["cp", "cc:/tmp/sub", "-"], b"");
    let mut seen: Vec<(String, u32, u64, String)> = tar::Archive::new(&out[..])
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let link = entry.link_name().unwrap().map_or(String::new(), |link| link.display().to_string());
            let header = entry.header();
            (
                entry.path().unwrap().display().to_string(),
                header.mode().unwrap() & 0o777,
                header.uid().unwrap(),
                link,
            )
        })
        .collect();
    seen.sort();
    let directory = fs::metadata(dir.join("sub")).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        seen,
        [
            ("sub/".into(), directory, 5, String::new()),
            ("sub/f".into(), 0o640, 5, String::new()),
            ("sub/l".into(), 0o777, 5, "f".into())
        ]
    );
    // Onto itself: what comes out goes in.
    piped(&bed, &["cp", "-", "cc:/var"], &out);
    assert_eq!(bed.docker(&["start", "cc"]).code, 0);
    assert_eq!(
        bed.docker(&["exec", "cc", "sh", "-c", "cat /var/sub/l; stat -c %u:%g:%a /var/sub/f"]).ok(),
        "piped5:6:640"
    );
    // Not a directory; not there.
    for (place, words) in [("cc:/etc/passwd", "must be a directory"), ("cc:/nowhere/x", "")] {
        let mut child = bed.command(Cli::Docker, &["cp", "-", place]);
        let mut child = child.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // It may not read it at all.
        drop(child.stdin.take().unwrap().write_all(&archive));
        let out = child.wait_with_output().unwrap();
        assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains(words), "{out:?}");
    }
    bed.docker(&["rm", "-f", "cc"]).ok();
    bed.finish();
}

#[test]
fn a_directory_in_the_way_of_a_file_keeps_what_is_mounted_in_it() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&["run", "-d", "--name", "cc", "-v", "kept:/a/b", "busybox", "sleep", "1000"]).ok();
    bed.docker(&["exec", "cc", "sh", "-c", "echo kept > /a/b/f"]).ok();
    let dir = bed.path().join("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("a"), "a file").unwrap();
    let put = bed.api_with("PUT", "/containers/cc/archive?path=/", &[], &tar(&dir, &["a"]));
    assert!(put.status >= 400, "{}", put.status);
    if bed.is_ours() {
        // The reference empties the volume before it notices.
        assert_eq!(bed.docker(&["exec", "cc", "cat", "/a/b/f"]).ok(), "kept");
    }
    bed.docker(&["rm", "-f", "cc"]).ok();
    bed.docker(&["volume", "rm", "kept"]).ok();
    bed.finish();
}

#[test]
fn volumes_are_found_by_their_labels() {
    let bed = Bed::start();
    let create = |name: &str, labels: &[&str]| {
        let labels: Vec<&str> = labels.iter().flat_map(|label| ["--label", label]).collect();
        bed.docker(&[&["volume", "create"], &labels[..], &[name]].concat()).ok();
    };
    bed.docker(&["volume", "prune", "-f", "-a"]).ok();
    create("one", &["stage=test", "who=me"]);
    create("two", &["stage=live", "who=me"]);
    create("three", &[]);
    let listed = |filters: &[&str]| {
        let filters: Vec<&str> = filters.iter().flat_map(|filter| ["--filter", filter]).collect();
        let mut names: Vec<String> = bed
            .docker(&[&["volume", "ls", "-q"], &filters[..]].concat())
            .ok()
            .lines()
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    };
    assert_eq!(listed(&[]), ["one", "three", "two"]);
    assert_eq!(listed(&["label=who"]), ["one", "two"]);
    assert_eq!(listed(&["label=stage=live"]), ["two"]);
    assert_eq!(listed(&["label=who=me", "label=stage=test"]), ["one"]);
    assert_eq!(listed(&["name=t", "label=who"]), ["two"]);
    assert_eq!(listed(&["dangling=false"]), Vec::<String>::new());
    let refused = bed.docker(&["volume", "ls", "--filter", "nonsense=1"]).fails(1);
    assert!(refused.contains("invalid filter"), "{refused}");
    let refused = bed.docker(&["volume", "prune", "-f", "--filter", "nonsense=1"]).fails(1);
    assert!(refused.contains("invalid filter"), "{refused}");
    // Only those without a name go unless all are meant; labels narrow it.
    let prune = |args: &[&str]| bed.docker(&[&["volume", "prune", "-f"], args].concat()).ok();
    prune(&[]);
    assert_eq!(listed(&[]).len(), 3);
    prune(&["-a", "--filter", "label=stage=test"]);
    assert_eq!(listed(&[]), ["three", "two"]);
    prune(&["-a", "--filter", "label!=who"]);
    assert_eq!(listed(&[]), ["two"]);
    bed.docker(&["volume", "rm", "two"]).ok();
    bed.finish();
}

/// Links of an image lead where they lead in it, and nothing of the host comes into a volume.
#[test]
fn a_volume_is_filled_with_the_images_files_and_no_others() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let host = bed.path().join("canary");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("secret"), "of the host").unwrap();
    let path = host.to_str().unwrap();
    let script = format!(
        "ln -s {path} /out; ln -s ../../../../../../../../../..{path} /up; mkdir /real; echo inside > /real/f;
         ln -s /real /in; ln -s {path}/secret /real/link; chown 12:34 /real; chmod 2750 /real"
    );
    bed.docker(&["run", "--name", "made", "busybox", "sh", "-c", &script]).ok();
    let changes = ["VOLUME /out", "VOLUME /in"].iter().flat_map(|change| ["-c", change]);
    let args: Vec<&str> = ["commit"].into_iter().chain(changes).chain(["made", "linked"]).collect();
    bed.docker(&args).ok();
    bed.docker(&["rm", "made"]).ok();
    let look = "ls -A /out/ /up/ /in/; cat /in/f /in/link 2>/dev/null; stat -c %u:%g:%a /real";
    let seen = bed.docker(&["run", "--rm", "-v", "/up", "linked", "sh", "-c", look]);
    assert!(!seen.stdout.contains("secret") && !seen.stdout.contains("of the host"), "{seen:?}");
    assert!(seen.stdout.contains("inside") && seen.stdout.contains("12:34:2750"), "{seen:?}");
    assert_eq!(fs::read_dir(&host).unwrap().count(), 1);
    bed.docker(&["rmi", "linked"]).ok();
    bed.finish();
}
