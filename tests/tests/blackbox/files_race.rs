// SPDX-License-Identifier: Apache-2.0
//! A container that exchanges directories for links to the host's root (CVE-2018-15664, 2021-30465, 2026-42306 and their kin),
//! as fast as the kernel does it, while its files are read and written from outside and others are started on its volume.
//!
//! The exchange is renameat2(RENAME_EXCHANGE) in the container's own files, through /proc, so that it needs no program in
//! the container and is as fast as one could be.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use berth_tests::harness::Bed;

/// Exchanges two names until told to stop; how often it did.
struct Swapper {
    stop: Arc<AtomicBool>,
    swaps: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Swapper {
    fn start(pairs: Vec<(PathBuf, PathBuf)>) -> Self {
        let (stop, swaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, count) = (Arc::clone(&stop), Arc::clone(&swaps));
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                for (one, other) in &pairs {
                    let flags = rustix::fs::RenameFlags::EXCHANGE;
                    if rustix::fs::renameat_with(rustix::fs::CWD, one, rustix::fs::CWD, other, flags).is_ok()
                    {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        Self { stop, swaps, thread: Some(thread) }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// What must not change: names, contents, times.
fn canary(path: &Path) -> Vec<(String, i64, i64, u64)> {
    let mut all: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            (
                entry.file_name().to_string_lossy().into_owned(),
                meta.mtime_nsec(),
                meta.ctime_nsec(),
                meta.len(),
            )
        })
        .collect();
    all.sort();
    all
}

fn race(rounds: usize, starts: usize) {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let host = bed.path().join("host-canary");
    fs::create_dir(&host).unwrap();
    for (name, text) in [("secret", "of the host"), ("other", "kept")] {
        fs::write(host.join(name), text).unwrap();
    }
    let before = canary(&host);
    let place = host.to_str().unwrap().to_owned();
    bed.docker(&["run", "-d", "--name", "race", "-v", "shared:/vol", "busybox", "sleep", "1000"]).ok();
    bed.docker(&["create", "--name", "cold", "-v", "shared:/vol", "busybox", "sleep", "1000"]).ok();
    let root = PathBuf::from(format!(
        "/proc/{}/root",
        bed.docker(&["inspect", "-f", "{{.State.Pid}}", "race"]).ok()
    ));
    // In the container the same path exists, so that both ends of an exchange lead somewhere.
    let inside = |path: &str| root.join(path.trim_start_matches('/'));
    for base in [place.clone(), format!("/w/dir{place}"), format!("/vol/dir{place}")] {
        fs::create_dir_all(inside(&base)).unwrap();
        fs::write(inside(&base).join("secret"), "inside").unwrap();
    }
    fs::create_dir_all(inside("/vol/x/y")).unwrap();
    for link in ["/w/link", "/vol/link"] {
        symlink("/", inside(link)).unwrap();
    }
    symlink(&place, inside("/vol/out")).unwrap();
    let pair = |one: &str, other: &str| (inside(one), inside(other));
    let swapper = Swapper::start(vec![
        pair("/w/dir", "/w/link"),
        pair("/vol/dir", "/vol/link"),
        pair("/vol/x", "/vol/out"),
    ]);

    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(16);
    header.set_mode(0o644);
    archive.append_data(&mut header, "new", &b"from the archive"[..]).unwrap();
    let archive = archive.into_inner().unwrap();
    let mut found = 0;
    for round in 0..rounds {
        let (container, base) = [("race", "/w/dir"), ("race", "/vol/dir"), ("cold", "/vol/dir")][round % 3];
        let path = format!("/containers/{container}/archive?path={base}{place}");
        let got = bed.api("GET", &format!("{path}/secret"), "");
        assert!([200, 400, 404].contains(&got.status), "{} {}", got.status, got.text());
        assert!(!got.text().contains("of the host"), "the host's file was read in round {round}");
        found += u32::from(got.status == 200);
        let head = bed.api("HEAD", &format!("{path}/secret"), "");
        assert!([200, 400, 404].contains(&head.status), "{}", head.status);
        let put = bed.api_with("PUT", &path, &[("Content-Type", "application/x-tar")], &archive);
        assert!([200, 400, 404, 500].contains(&put.status), "{} {}", put.status, put.text());
        if round % 1000 == 0 {
            let exported = bed.api("GET", "/containers/race/export", "");
            assert!(!exported.text().contains("of the host"), "the host's file was exported");
            assert!([200, 500].contains(&bed.api("GET", "/containers/race/changes", "").status));
        }
    }
    assert!(found > 0, "the container's own file was never found");
    // Mounts at and beneath what is exchanged.
    let mounts = ["-v", "shared:/vol", "-v", "deep:/vol/x/y", "-v", "/vol/x/z", "--tmpfs", "/vol/dir/t"];
    let part = "type=volume,source=shared,target=/part,volume-subpath=x/y";
    for start in 0..starts {
        let mounts: &[&str] = if start % 4 == 3 { &["--mount", part] } else { &mounts };
        let args = [
            &["run", "--rm"],
            mounts,
            &["busybox", "cat", "/vol/x/secret", "/vol/x/y/secret", "/part/secret"],
        ]
        .concat();
        let seen = bed.docker(&args);
        assert!(!seen.stdout.contains("of the host"), "{seen:?}");
    }
    let swaps = swapper.swaps.load(Ordering::Relaxed);
    drop(swapper);
    assert!(swaps > rounds as u64 / 10, "only {swaps} exchanges");
    assert_eq!(canary(&host), before, "the host was touched");
    assert_eq!(fs::read_to_string(host.join("secret")).unwrap(), "of the host");
    bed.docker(&["rm", "-f", "-v", "race", "cold"]).ok();
    bed.docker(&["volume", "rm", "-f", "shared", "deep"]).ok();
    bed.finish();
}

#[test]
fn exchanged_directories_never_lead_to_the_host() {
    race(300, 8);
}

#[test]
#[ignore = "long form: make soak"]
fn exchanged_directories_never_lead_to_the_host_10000_times() {
    race(10_000, 500);
}
