// SPDX-License-Identifier: Apache-2.0
//! A file system that stops answering, as a network's does when its server hangs: whoever asks it anything then waits and
//! cannot even be killed, for its requests are read and never answered.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::mount::{MountFlags, UnmountFlags};

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

/// Mounted at a directory; holds one directory, `inside`. Ends what waits for it when dropped.
pub struct StuckFs {
    /// Not in the bed's folder, whose removal would wait as well when a test fails.
    at: tempfile::TempDir,
    device: Option<Arc<File>>,
    stopped: Arc<AtomicBool>,
    waiting: Arc<AtomicUsize>,
    server: Option<std::thread::JoinHandle<()>>,
}

impl StuckFs {
    /// Mounts it; it answers until [`StuckFs::stop`].
    #[must_use]
    pub fn mount() -> Self {
        let at =
            tempfile::Builder::new().prefix("berth-stuck-").tempdir_in("/var/tmp").expect("a mount point");
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").expect("opening /dev/fuse");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount(
            "stuck",
            at.path(),
            "fuse",
            MountFlags::NOSUID | MountFlags::NODEV,
            Some(options.as_c_str()),
        )
        .expect("mounting a FUSE file system");
        let (device, stopped, waiting) =
            (Arc::new(device), Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let server = std::thread::spawn({
            let (device, stopped, waiting) =
                (Arc::clone(&device), Arc::clone(&stopped), Arc::clone(&waiting));
            move || serve(&device, &stopped, &waiting)
        });
        Self { at, device: Some(device), stopped, waiting, server: Some(server) }
    }

    /// The directory in it.
    #[must_use]
    pub fn inside(&self) -> PathBuf {
        self.at.path().join("inside")
    }

    /// From now on nothing is answered.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// How many requests wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Lets everybody go: what waits fails.
    pub fn release(&mut self) {
        let Some(device) = self.device.take() else { return };
        // Aborts the connection, which also wakes the server.
        rustix::mount::unmount(self.at.path(), UnmountFlags::FORCE | UnmountFlags::DETACH)
            .expect("unmounting");
        drop(device);
        if let Some(server) = self.server.take() {
            server.join().expect("the file system's server");
        }
    }
}

impl Drop for StuckFs {
    fn drop(&mut self) {
        self.release();
    }
}

fn serve(mut device: &File, stopped: &AtomicBool, waiting: &AtomicUsize) {
    let mut buffer = vec![0u8; 1 << 17];
    loop {
        let length = match device.read(&mut buffer) {
            Ok(length) if length >= 40 => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            // Unmounted.
            _ => return,
        };
        let request = &buffer[..length];
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_ne_bytes(request[at..at + 8].try_into().unwrap());
        let (opcode, unique, node) = (word(4), long(8), long(16));
        if matches!(opcode, FORGET | BATCH_FORGET | INTERRUPT) {
            continue;
        }
        if stopped.load(Ordering::SeqCst) {
            waiting.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        let answer = match opcode {
            INIT => {
                // Version 7.31 as its 64 bytes were then, nothing negotiated.
                let mut out = vec![0u8; 64];
                out[0..4].copy_from_slice(&7u32.to_ne_bytes());
                out[4..8].copy_from_slice(&31u32.to_ne_bytes());
                out[20..24].copy_from_slice(&4096u32.to_ne_bytes());
                Ok(out)
            }
            GETATTR => {
                // Valid for no time at all: whoever comes later has to ask again.
                let mut out = vec![0u8; 16];
                out.extend(attributes(node));
                Ok(out)
            }
            LOOKUP if &request[40..] == b"inside\0" => {
                let mut out = vec![0u8; 40];
                out[0..8].copy_from_slice(&2u64.to_ne_bytes());
                out.extend(attributes(2));
                Ok(out)
            }
            LOOKUP => Err(libc::ENOENT),
            _ => Err(libc::ENOSYS),
        };
        let (error, body) = match answer {
            Ok(body) => (0, body),
            Err(errno) => (-errno, Vec::new()),
        };
        let mut out = Vec::with_capacity(16 + body.len());
        out.extend(u32::try_from(16 + body.len()).unwrap().to_ne_bytes());
        out.extend(error.to_ne_bytes());
        out.extend(unique.to_ne_bytes());
        out.extend(body);
        // The asker may have given up.
        drop(device.write(&out));
    }
}

/// `struct fuse_attr` of a directory.
fn attributes(node: u64) -> Vec<u8> {
    let mut out = vec![0u8; 88];
    out[0..8].copy_from_slice(&node.to_ne_bytes());
    out[60..64].copy_from_slice(&(libc::S_IFDIR | 0o755).to_ne_bytes());
    out[64..68].copy_from_slice(&2u32.to_ne_bytes());
    out
}
