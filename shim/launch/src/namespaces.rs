// SPDX-License-Identifier: Apache-2.0
//! Which namespaces a container gets: new ones, or those of others.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType as Type, Spec};
use rustix::fs::{CWD, Mode, OFlags, open};

use crate::error::{Context as _, Error, Result};
use crate::sys::{
    self, CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWTIME,
    CLONE_NEWUSER, CLONE_NEWUTS,
};

/// As many extents as the kernel takes.
const MAX_MAPPINGS: usize = 340;

/// A namespace that is there already.
#[derive(Debug)]
struct Joined {
    flag: u64,
    fd: OwnedFd,
}

/// The namespaces of a container.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// `CLONE_NEW*` of those that the spec names, new or joined.
    named: u64,
    new: u64,
    joined: Vec<Joined>,
    /// The user namespace that is joined; it owns those that are new.
    user: Option<OwnedFd>,
    uid_map: String,
    gid_map: String,
}

fn flag(kind: Type) -> u64 {
    match kind {
        Type::Mount => CLONE_NEWNS,
        Type::Cgroup => CLONE_NEWCGROUP,
        Type::Uts => CLONE_NEWUTS,
        Type::Ipc => CLONE_NEWIPC,
        Type::User => CLONE_NEWUSER,
        Type::Pid => CLONE_NEWPID,
        Type::Network => CLONE_NEWNET,
        Type::Time => CLONE_NEWTIME,
    }
}

fn file(flag: u64) -> &'static str {
    match flag {
        CLONE_NEWCGROUP => "cgroup",
        CLONE_NEWUTS => "uts",
        CLONE_NEWIPC => "ipc",
        CLONE_NEWUSER => "user",
        CLONE_NEWPID => "pid",
        CLONE_NEWNET => "net",
        CLONE_NEWTIME => "time",
        _ => "mnt",
    }
}

/// `CLONE_NEW*` of every namespace that a spec names, new or joined: what its processes share.
pub(crate) fn named(spec: &Spec) -> u64 {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.into_iter().flatten().fold(0, |flags, namespace| flags | flag(namespace.typ()))
}

impl Namespaces {
    /// `netns` and `userns` stand in for the paths of a `network` and a `user` entry without one.
    pub(crate) fn new(
        spec: &Spec,
        netns: Option<BorrowedFd<'_>>,
        userns: Option<BorrowedFd<'_>>,
    ) -> Result<Self> {
        let mut out = Self::default();
        let Some(linux) = spec.linux() else { return Err(Error::invalid("the spec has no linux section")) };
        for namespace in linux.namespaces().iter().flatten() {
            let flag = flag(namespace.typ());
            if out.named & flag != 0 {
                return Err(Error::invalid(format!("two {} namespaces", file(flag))));
            }
            out.named |= flag;
            let fd = match (namespace.path(), netns) {
                (Some(path), _) => Some(
                    open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                        .map_err(|errno| Error::invalid(format!("namespace {}: {errno}", path.display())))?,
                ),
                (None, Some(netns)) if flag == CLONE_NEWNET => {
                    Some(netns.try_clone_to_owned().context(|| "the network namespace")?)
                }
                (None, _) if flag == CLONE_NEWUSER => userns
                    .map(|userns| userns.try_clone_to_owned().context(|| "the user namespace"))
                    .transpose()?,
                _ => None,
            };
            match fd {
                None => out.new |= flag,
                Some(fd) if flag == CLONE_NEWUSER => out.user = Some(fd),
                Some(_) if flag & (CLONE_NEWNS | CLONE_NEWTIME) != 0 => {
                    return Err(Error::invalid(format!(
                        "joining an existing {} namespace is not supported",
                        file(flag)
                    )));
                }
                Some(fd) => out.joined.push(Joined { flag, fd }),
            }
        }
        if !out.has(CLONE_NEWNS) {
            return Err(Error::invalid("a container without a mount namespace is not supported"));
        }
        if linux.time_offsets().as_ref().is_some_and(|offsets| !offsets.is_empty()) {
            return Err(Error::invalid("linux.timeOffsets is not supported"));
        }
        if out.has(CLONE_NEWUSER) {
            out.uid_map = map_lines(linux.uid_mappings().as_deref(), "linux.uidMappings")?;
            out.gid_map = map_lines(linux.gid_mappings().as_deref(), "linux.gidMappings")?;
        }
        Ok(out)
    }

    /// Whether the spec names this namespace: the container does not share the caller's.
    pub(crate) fn has(&self, flag: u64) -> bool {
        self.named & flag != 0
    }

    /// For `clone3`. A cgroup namespace must wait until the process is in its cgroups, whose path is
    /// what the namespace hides.
    pub(crate) fn clone_flags(&self) -> u64 {
        self.new & !CLONE_NEWCGROUP
    }

    pub(crate) fn new_cgroup(&self) -> bool {
        self.new & CLONE_NEWCGROUP != 0
    }

    /// The user namespace that is there already.
    pub(crate) fn user(&self) -> Option<BorrowedFd<'_>> {
        self.user.as_ref().map(AsFd::as_fd)
    }

    /// What the parent must join for the child to be born in it: a pid namespace always, and everything
    /// if a new user namespace would leave the child without the right to. With a user namespace that is
    /// joined there is a process in between for all that.
    fn joined_by_parent(&self) -> impl Iterator<Item = &Joined> {
        let all = self.has(CLONE_NEWUSER);
        let none = self.user.is_some();
        self.joined.iter().filter(move |joined| !none && (all || joined.flag == CLONE_NEWPID))
    }

    /// The part of the process in between, from whose place in the user namespace init is born: whoever
    /// has joined that has no more right to join others of the host's.
    pub(crate) fn enter_in_between(&self) -> Result<()> {
        for joined in &self.joined {
            sys::setns(joined.fd.as_fd(), joined.flag)
                .context(|| format!("join the {} namespace", file(joined.flag)))?;
        }
        match &self.user {
            Some(user) => sys::setns(user.as_fd(), CLONE_NEWUSER).context(|| "join the user namespace"),
            None => Ok(()),
        }
    }

    /// The parent's part of joining; undone by dropping the result.
    pub(crate) fn enter_in_parent(&self) -> Result<Vec<Restore>> {
        self.joined_by_parent().map(|joined| Restore::after_joining(joined.fd.as_fd(), joined.flag)).collect()
    }

    /// The child's part of joining.
    pub(crate) fn enter_in_child(&self) -> Result<()> {
        for joined in &self.joined {
            if self.has(CLONE_NEWUSER) || joined.flag == CLONE_NEWPID {
                continue;
            }
            sys::setns(joined.fd.as_fd(), joined.flag)
                .context(|| format!("join the {} namespace", file(joined.flag)))?;
        }
        Ok(())
    }

    /// Maps the ids of the child's user namespace, if that is new.
    pub(crate) fn write_maps(&self, pid: i32) -> Result<()> {
        if self.user.is_some() {
            return Ok(());
        }
        write_maps(pid, &self.uid_map, &self.gid_map)
    }
}

/// Maps the ids of a process's user namespace.
pub(crate) fn write_maps(pid: i32, uids: &str, gids: &str) -> Result<()> {
    for (name, map) in [("uid_map", uids), ("gid_map", gids)] {
        let path = format!("/proc/{pid}/{name}");
        std::fs::write(&path, map).map_err(|cause| Error::invalid(format!("{path}: {cause}")))?;
    }
    Ok(())
}

/// Puts this process back into its own namespace.
#[derive(Debug)]
pub(crate) struct Restore {
    own: OwnedFd,
    flag: u64,
}

impl Restore {
    /// Joins a namespace (or, with a pidfd, a process's namespace of that kind) until dropped.
    pub(crate) fn after_joining(target: BorrowedFd<'_>, flag: u64) -> Result<Self> {
        let what = || format!("join the {} namespace", file(flag));
        let path = format!("/proc/self/ns/{}", file(flag));
        let own =
            rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).context(what)?;
        sys::setns(target, flag).context(what)?;
        Ok(Self { own, flag })
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        if let Err(errno) = sys::setns(self.own.as_fd(), self.flag) {
            // Whatever this process did next would happen in a container's namespace.
            panic!("cannot return to the {} namespace: {errno}", file(self.flag));
        }
    }
}

/// The host's ids of a container's uid and gid 0, if it is in a user namespace of its own.
pub(crate) fn host_root(spec: &Spec) -> Option<(u32, u32)> {
    let linux = spec.linux().as_ref()?;
    let in_user = linux.namespaces().iter().flatten().any(|namespace| namespace.typ() == Type::User);
    let root = |mappings: Option<&[LinuxIdMapping]>| {
        let first = mappings.unwrap_or_default().iter().find(|mapping| mapping.container_id() == 0)?;
        Some(first.host_id())
    };
    root(linux.uid_mappings().as_deref()).zip(root(linux.gid_mappings().as_deref())).filter(|_| in_user)
}

/// Mappings as the kernel reads them, a line each.
pub(crate) fn map_lines(mappings: Option<&[LinuxIdMapping]>, what: &str) -> Result<String> {
    let mappings = mappings.unwrap_or_default();
    if mappings.is_empty() || mappings.len() > MAX_MAPPINGS {
        return Err(Error::invalid(format!(
            "{what} has {} entries, not 1 to {MAX_MAPPINGS}",
            mappings.len()
        )));
    }
    let line = |one: &LinuxIdMapping| format!("{} {} {}\n", one.container_id(), one.host_id(), one.size());
    Ok(mappings.iter().map(line).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(linux: &str) -> Result<Namespaces> {
        let spec = serde_json::from_str(&format!(r#"{{"ociVersion":"1.2.0","linux":{linux}}}"#)).unwrap();
        Namespaces::new(&spec, None, None)
    }

    #[test]
    fn new_and_joined() {
        let namespaces = parse(
            r#"{"namespaces":[{"type":"mount"},{"type":"pid"},{"type":"cgroup"},{"type":"network","path":"/proc/self/ns/net"}]}"#,
        )
        .unwrap();
        assert_eq!(namespaces.clone_flags(), CLONE_NEWNS | CLONE_NEWPID);
        assert!(namespaces.new_cgroup() && namespaces.has(CLONE_NEWNET) && !namespaces.has(CLONE_NEWUTS));
        assert_eq!(namespaces.joined.len(), 1);
    }

    #[test]
    fn refusals() {
        let many: Vec<String> =
            (0..3000).map(|n| format!(r#"{{"containerID":{n},"hostID":{n},"size":1}}"#)).collect();
        let many = many.join(",");
        for linux in [
            r#"{"namespaces":[{"type":"pid"}]}"#.to_owned(),
            r#"{"namespaces":[{"type":"mount"},{"type":"mount"}]}"#.to_owned(),
            r#"{"namespaces":[{"type":"mount"},{"type":"ipc","path":"/no/such"}]}"#.to_owned(),
            r#"{"namespaces":[{"type":"mount"},{"type":"user"}]}"#.to_owned(),
            format!(
                r#"{{"namespaces":[{{"type":"mount"}},{{"type":"user"}}],"uidMappings":[{many}],"gidMappings":[{many}]}}"#
            ),
        ] {
            let error = parse(&linux).unwrap_err();
            assert_eq!(error.kind, crate::Kind::InvalidInput, "{}", error.message);
        }
    }
}
