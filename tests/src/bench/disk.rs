// SPDX-License-Identifier: Apache-2.0
//! A journaled ext4 for each engine's data root, loop-mounted: file creation on one without a journal slows down as it
//! ages, and what one engine has left to write is not another's to wait for.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::Output;

/// Sparse; only what is written takes room.
const SIZE: u64 = 16 << 30;

/// A disk; unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    /// Where the bench's own mount namespace sees it.
    pub mount: PathBuf,
    /// Its loop device.
    pub device: String,
}

fn run(program: &str, args: &[&str]) -> String {
    Output::of(Command::new(program).args(args)).ok()
}

impl Disk {
    /// Makes and mounts one named `name` in `dir`.
    #[must_use]
    pub fn make(dir: &Path, name: &str) -> Self {
        let image = dir.join(format!("{name}.img"));
        std::fs::File::create(&image).and_then(|f| f.set_len(SIZE)).expect("making a disk image");
        let image = image.to_str().expect("a plain path");
        run("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image]);
        let device = run("losetup", &["--find", "--show", image]);
        let mount = dir.join(name);
        std::fs::create_dir(&mount).expect("making a mount point");
        run("mount", &["-t", "ext4", &device, mount.to_str().expect("a plain path")]);
        Self { mount, device }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mount = self.mount.to_string_lossy().into_owned();
        for (program, args) in [("umount", ["-l", &mount]), ("losetup", ["-d", &self.device])] {
            let out = Output::of(Command::new(program).args(args));
            if out.code != 0 {
                eprintln!("{}: {}", out.shown, out.stderr);
            }
        }
    }
}
