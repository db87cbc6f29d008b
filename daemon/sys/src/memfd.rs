// SPDX-License-Identifier: Apache-2.0
//! Sealed memory files: what they hold can no longer be changed by anybody, however a descriptor leaks.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

/// Whether the file will be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// A program.
    Program,
    /// Data.
    Data,
}

/// A sealed copy of `bytes`; `name` is what `/proc/PID/maps` shows. The offset is at the start.
///
/// # Errors
///
/// No memory, no descriptors.
pub fn sealed(name: &str, bytes: &[u8], purpose: Use) -> io::Result<OwnedFd> {
    let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    flags |= match purpose {
        Use::Program => MemfdFlags::EXEC,
        Use::Data => MemfdFlags::NOEXEC_SEAL,
    };
    let fd = match rustix::fs::memfd_create(name, flags) {
        // Kernels before 6.3 know neither flag.
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?,
        other => other?,
    };
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(file.into())
}

/// A sealed copy of a program file.
///
/// # Errors
///
/// The file cannot be read.
pub fn sealed_program(name: &str, path: &Path) -> io::Result<OwnedFd> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    sealed(name, &bytes, Use::Program)
}

/// What a memory file holds. Its offset is not moved.
///
/// # Errors
///
/// No memory.
pub fn contents(fd: &OwnedFd) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt as _;
    let file = File::from(fd.try_clone()?);
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_sealed_file_reads_back_and_refuses_writes() {
        let mut file = File::from(sealed("x", b"filter", Use::Data).unwrap());
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "filter");
        assert_eq!(contents(&file.try_clone().unwrap().into()).unwrap(), b"filter");
        assert_eq!(file.write(b"y").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert!(file.set_len(0).is_err());
    }

    #[test]
    fn a_sealed_program_runs() {
        use std::os::fd::AsRawFd;
        let fd = sealed_program("true", Path::new("/bin/true")).unwrap();
        let status =
            std::process::Command::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).status().unwrap();
        assert!(status.success());
    }
}
