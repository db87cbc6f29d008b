// SPDX-License-Identifier: Apache-2.0
//! Project quotas: how much a directory and all that is ever made in it may take (ext4 and xfs, mounted with `prjquota`).
//!
//! The kernel's own accounts are kept per project whether there is a limit or not, so that they also tell what a directory
//! takes without a walk through it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct FsXattr {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

/// `struct fs_disk_quota` of linux/dqblk_xfs.h.
#[repr(C)]
#[derive(Default)]
struct DiskQuota {
    version: i8,
    flags: i8,
    fieldmask: u16,
    id: u32,
    block_hard: u64,
    block_soft: u64,
    inode_hard: u64,
    inode_soft: u64,
    blocks: u64,
    inodes: u64,
    timers: [i32; 2],
    warns: [u16; 2],
    high: [i8; 4],
    realtime: [u64; 3],
    realtime_timer: i32,
    realtime_warns: u16,
    pad3: i16,
    pad4: [u8; 8],
}

const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801c_581f;
const FS_IOC_FSSETXATTR: libc::c_ulong = 0x401c_5820;
/// What is made beneath the directory belongs to its project.
const PROJINHERIT: u32 = 0x200;
const VERSION: i8 = 1;
const PROJECT: i8 = 2;
const BLOCK_SOFT: u16 = 1 << 2;
const BLOCK_HARD: u16 = 1 << 3;
/// `QCMD(Q_XGETQUOTA, PRJQUOTA)` and `QCMD(Q_XSETQLIM, PRJQUOTA)`.
const GET: u32 = 0x5803 << 8 | 2;
const SET: u32 = 0x5804 << 8 | 2;
/// Quotas are counted in these.
const UNIT: u64 = 512;

#[allow(unsafe_code)]
fn attributes(file: &File) -> io::Result<FsXattr> {
    let mut attributes = FsXattr::default();
    // SAFETY: the structure is the one that this request fills, and outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSGETXATTR, &raw mut attributes) }.into())?;
    Ok(attributes)
}

/// The project that a directory is in; 0 for none.
///
/// # Errors
///
/// `Unsupported` where the file system has no projects.
pub fn project(directory: &Path) -> io::Result<u32> {
    Ok(attributes(&File::open(directory)?)?.projid)
}

/// Puts an empty directory in a project.
///
/// # Errors
///
/// `Unsupported` where the file system has no projects.
#[allow(unsafe_code)]
pub fn set_project(directory: &Path, project: u32) -> io::Result<()> {
    let file = File::open(directory)?;
    let mut attributes = attributes(&file)?;
    attributes.projid = project;
    attributes.xflags |= PROJINHERIT;
    // SAFETY: the structure is the one that this request reads, and outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSSETXATTR, &raw const attributes) }.into())
}

/// Bounds what a project may take on the file system that `directory` is on; 0 lifts the bound.
///
/// # Errors
///
/// `Unsupported` where the file system was not mounted with project quotas.
pub fn limit(directory: &Path, project: u32, bytes: u64) -> io::Result<()> {
    let blocks = bytes.div_ceil(UNIT);
    let mut quota = DiskQuota {
        version: VERSION,
        flags: PROJECT,
        fieldmask: BLOCK_SOFT | BLOCK_HARD,
        id: project,
        block_hard: blocks,
        block_soft: blocks,
        ..DiskQuota::default()
    };
    quotactl(directory, SET, project, &mut quota)
}

/// What a project takes and may take, in bytes. A project that nobody uses takes nothing.
///
/// # Errors
///
/// As [`limit`].
pub fn usage(directory: &Path, project: u32) -> io::Result<(u64, u64)> {
    let mut quota = DiskQuota::default();
    match quotactl(directory, GET, project, &mut quota) {
        Ok(()) => Ok((quota.blocks.saturating_mul(UNIT), quota.block_hard.saturating_mul(UNIT))),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok((0, 0)),
        Err(error) => Err(error),
    }
}

#[allow(unsafe_code)]
fn quotactl(directory: &Path, command: u32, project: u32, quota: &mut DiskQuota) -> io::Result<()> {
    let file = File::open(directory)?;
    // SAFETY: the structure is the one that both commands take, and outlives the call.
    check(unsafe {
        libc::syscall(libc::SYS_quotactl_fd, file.as_raw_fd(), command, project, std::ptr::from_mut(quota))
    })
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(match error.raw_os_error() {
        Some(libc::ENOTTY | libc::EOPNOTSUPP | libc::ESRCH | libc::ENOSYS | libc::EINVAL) => io::Error::new(
            io::ErrorKind::Unsupported,
            "the file system has no project quotas (ext4 needs the features quota and project, and it and xfs are mounted with the option prjquota)",
        ),
        _ => error,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn structures_are_the_kernels() {
        assert_eq!(std::mem::size_of::<FsXattr>(), 28);
        assert_eq!(std::mem::size_of::<DiskQuota>(), 112);
    }

    #[test]
    fn a_file_system_without_projects_says_so() {
        // A tmpfs has none.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        assert_eq!(set_project(dir.path(), 7).unwrap_err().kind(), io::ErrorKind::Unsupported);
        assert_eq!(limit(dir.path(), 7, 1 << 20).unwrap_err().kind(), io::ErrorKind::Unsupported);
    }
}
