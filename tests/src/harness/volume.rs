// SPDX-License-Identifier: Apache-2.0
//! A disk of the test's own: a journaled ext4 on a file, which can be filled up and whose power can be cut, or which is just
//! roomy and sound where the machine's own disk is neither.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cli::Output;

/// Mounted while it lives.
pub struct Volume {
    dir: tempfile::TempDir,
    /// Counts power cuts: each goes on with a copy of the device.
    generation: u32,
    /// Of `mount(8)`.
    options: &'static str,
}

/// The journal is committed when somebody asks for it, and not by the clock: what nobody synced is lost in a cut.
const FORGETFUL: &str = "loop,commit=3000";

impl Volume {
    /// A disk of this size in bytes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self::made(size, &["-E", "lazy_itable_init=0"], FORGETFUL)
    }

    /// A disk for hundreds of thousands of files, which takes no more of the machine's than is written to it.
    #[must_use]
    pub fn roomy(size: u64) -> Self {
        Self::made(size, &["-i", "4096"], "loop,discard")
    }

    fn made(size: u64, make: &[&str], options: &'static str) -> Self {
        let dir = tempfile::Builder::new().prefix("berth-disk-").tempdir_in("/var/tmp").expect("a folder");
        let volume = Self { dir, generation: 0, options };
        std::fs::create_dir(volume.path()).expect("the mount point");
        File::create(volume.device()).and_then(|f| f.set_len(size)).expect("the device's file");
        Output::of(Command::new("mkfs.ext4").args(["-q", "-F"]).args(make).arg(volume.device())).ok();
        volume.mount();
        volume
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn device(&self) -> PathBuf {
        self.dir.path().join(format!("disk-{}", self.generation))
    }

    fn mount(&self) {
        Output::of(Command::new("mount").args(["-o", self.options]).arg(self.device()).arg(self.path())).ok();
    }

    fn unmount(path: &Path) {
        let out = Output::of(Command::new("umount").arg(path));
        if out.code != 0 {
            Output::of(Command::new("umount").arg("-l").arg(path)).ok();
        }
    }

    /// Cuts the power: what the device has now is mounted in place of what the kernel still meant to write. Nobody may
    /// have files open on it.
    pub fn cut_power(&mut self) {
        let before = self.device();
        self.generation += 1;
        // The file is what the device was told to keep; the rest is in the filesystem's memory.
        Output::of(Command::new("cp").arg("--sparse=always").arg(&before).arg(self.device())).ok();
        Self::unmount(&self.path());
        std::fs::remove_file(before).expect("removing the device of before");
        self.mount();
    }

    /// Checks the filesystem itself; it is unmounted for that.
    pub fn fsck(&self) {
        Self::unmount(&self.path());
        let out = Output::of(Command::new("e2fsck").args(["-f", "-n"]).arg(self.device()));
        assert_eq!(out.code, 0, "{out:?}");
        self.mount();
    }

    /// Takes room away until so many bytes are left to root.
    pub fn leave(&self, bytes: u64) {
        self.empty();
        // What was removed is free once the journal has it.
        let root = File::open(self.path()).expect("the disk");
        rustix::fs::syncfs(&root).expect("syncing the disk");
        let stat = rustix::fs::statvfs(self.path()).expect("statvfs");
        let free = stat.f_bfree * stat.f_frsize;
        let filler = File::create(self.path().join("filler")).expect("a file to fill up with");
        // The filesystem needs some of it to keep its books.
        let mut room = free.saturating_sub(bytes).max(1);
        while rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, room).is_err() {
            room = room.checked_sub(256 << 10).expect("some room to take away");
        }
        filler.sync_all().expect("syncing the filler");
    }

    /// Gives the room back.
    pub fn empty(&self) {
        let filler = self.path().join("filler");
        if filler.exists() {
            std::fs::remove_file(filler).expect("removing the filler");
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        Self::unmount(&self.path());
    }
}
