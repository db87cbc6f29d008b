// SPDX-License-Identifier: Apache-2.0
//! Namespaces that are there before their container is: a user namespace, and a network namespace that it owns.
//!
//! A network namespace belongs to the user namespace that its maker was in, for ever, and a process with several threads
//! cannot enter one. So the shim's program, in yet another role, makes both, and stays just long enough for the daemon
//! to write the mappings and to open the two.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use berth_domain::{Error, Extent, IdMap, Result};

use super::shims::Shims;

/// A process that makes two namespaces takes a millisecond.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which user namespace is to own the network namespace.
#[derive(Debug, Clone, Copy)]
pub enum Owner<'a> {
    /// A new one with these mappings.
    New(&'a IdMap),
    /// One that is there.
    Joined(BorrowedFd<'a>),
}

/// Namespaces as descriptors; they last as long as somebody has one.
#[derive(Debug)]
pub struct Founded {
    /// The user namespace.
    pub user: OwnedFd,
    /// The network namespace that it owns.
    pub net: OwnedFd,
}

impl Shims {
    /// Makes a network namespace and, if asked, its user namespace. Blocks for a few milliseconds.
    ///
    /// # Errors
    ///
    /// The kernel makes no more user namespaces, or none at all; the mappings are not permitted.
    pub fn found(&self, owner: Owner<'_>) -> Result<Founded> {
        found(&self.program(), owner).map_err(|error| {
            Error::internal(
                "making a user namespace (see /proc/sys/user/max_user_namespaces for how many there may be)",
            )
            .because(error)
        })
    }
}

/// A process that is not to outlive this.
struct Founder(Child);

impl Drop for Founder {
    fn drop(&mut self) {
        // Its socket is closed before this, so that it ends by itself; one that hangs is ended here.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn found(program: &str, owner: Owner<'_>) -> io::Result<Founded> {
    let (mut ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(PATIENCE))?;
    let joined = match owner {
        Owner::New(_) => Stdio::null(),
        Owner::Joined(userns) => userns.try_clone_to_owned()?.into(),
    };
    let mut command = Command::new(program);
    command.arg0("berth-found").arg("namespaces").env_clear().current_dir("/").process_group(0);
    command.stdin(OwnedFd::from(theirs)).stdout(joined).stderr(Stdio::piped());
    let mut founder = Founder(command.spawn()?);
    // Its end of the socket is to be its alone.
    drop(command);
    let mut ready = [0; 1];
    if ours.read(&mut ready)? == 0 {
        let mut said = String::new();
        if let Some(mut stderr) = founder.0.stderr.take() {
            stderr.read_to_string(&mut said)?;
        }
        return Err(io::Error::other(said.trim().to_owned()));
    }
    let pid = founder.0.id();
    if let Owner::New(map) = owner {
        write_map(pid, "uid_map", &map.uids)?;
        write_map(pid, "gid_map", &map.gids)?;
    }
    let open = |kind: &str| File::open(format!("/proc/{pid}/ns/{kind}")).map(OwnedFd::from);
    let founded = Founded { user: open("user")?, net: open("net")? };
    drop(ours);
    Ok(founded)
}

/// A map is written once, and whole.
fn write_map(pid: u32, name: &str, extents: &[Extent]) -> io::Result<()> {
    let line = |extent: &Extent| format!("{} {} {}\n", extent.container, extent.host, extent.count);
    let path = format!("/proc/{pid}/{name}");
    std::fs::write(&path, extents.iter().map(line).collect::<String>())
        .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
}

impl Shims {
    fn program(&self) -> String {
        format!("/proc/self/fd/{}", self.memfd().as_raw_fd())
    }
}
