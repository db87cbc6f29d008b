// SPDX-License-Identifier: Apache-2.0
//! Edits of CDI files, made to an OCI spec.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Hook as OciHook, HookBuilder, Hooks, LinuxDeviceBuilder, LinuxDeviceCgroupBuilder, LinuxDeviceType,
    Mount as OciMount, MountBuilder, Spec,
};

use super::file::{Edits, Hook, Mount, Node};

/// Who owns a node that names no owner: the container's user, as far as it is a number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

/// Makes the edits; answers further groups for the container's process.
pub(super) fn apply(spec: &mut Spec, edits: &Edits, owner: Owner) -> Result<Vec<u32>, String> {
    if edits.intel_rdt.is_some() {
        return Err("intelRdt is not supported".to_owned());
    }
    if !edits.net_devices.is_empty() {
        return Err("netDevices is not supported".to_owned());
    }
    if let Some(process) = spec.process_mut() {
        let env = process.env_mut().get_or_insert_default();
        for one in &edits.env {
            let name = one.split('=').next().unwrap_or_default();
            let has_name = |other: &&mut String| other.split('=').next() == Some(name);
            match env.iter_mut().find(has_name) {
                Some(other) => other.clone_from(one),
                None => env.push(one.clone()),
            }
        }
    }
    for node in &edits.device_nodes {
        add_node(spec, node, owner)?;
    }
    add_mounts(spec, &edits.mounts)?;
    for hook in &edits.hooks {
        add_hook(spec, hook)?;
    }
    Ok(edits.additional_gids.iter().copied().filter(|gid| *gid != 0).collect())
}

fn broken(error: &impl std::fmt::Display) -> String {
    format!("building an OCI spec: {error}")
}

fn add_node(spec: &mut Spec, node: &Node, owner: Owner) -> Result<(), String> {
    let host = if node.host_path.is_empty() { &node.path } else { &node.host_path };
    let (mut kind, mut number) = (node.kind.clone(), (node.major, node.minor));
    if kind.is_empty() || (node.major == 0 && kind != "p") {
        let (its_kind, its_number) =
            look_at(Path::new(host)).map_err(|e| format!("failed to stat CDI host device {host:?}: {e}"))?;
        if kind.is_empty() {
            its_kind.clone_into(&mut kind);
        } else if kind != its_kind {
            return Err(format!(
                "CDI device ({:?}, {host:?}), host type mismatch ({kind}, {its_kind})",
                node.path
            ));
        }
        if node.major == 0 && kind != "p" {
            number = its_number;
        }
    }
    let typ = match kind.as_str() {
        "b" => LinuxDeviceType::B,
        "u" => LinuxDeviceType::U,
        "p" => LinuxDeviceType::P,
        _ => LinuxDeviceType::C,
    };
    let path = PathBuf::from(&node.path);
    let mut device =
        LinuxDeviceBuilder::default().path(path.clone()).typ(typ).major(number.0).minor(number.1);
    if let Some(mode) = node.file_mode {
        device = device.file_mode(mode & 0o7777);
    }
    if let Some(uid) = node.uid.or(owner.uid.filter(|uid| *uid > 0)) {
        device = device.uid(uid);
    }
    if let Some(gid) = node.gid.or(owner.gid.filter(|gid| *gid > 0)) {
        device = device.gid(gid);
    }
    let device = device.build().map_err(|e| broken(&e))?;
    let linux = spec.linux_mut().get_or_insert_default();
    let devices = linux.devices_mut().get_or_insert_default();
    devices.retain(|other| *other.path() != path);
    devices.push(device);
    if matches!(typ, LinuxDeviceType::B | LinuxDeviceType::C) {
        let access = if node.permissions.is_empty() { "rwm" } else { &node.permissions };
        let rule = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(typ)
            .major(number.0)
            .minor(number.1)
            .access(access)
            .build()
            .map_err(|e| broken(&e))?;
        linux.resources_mut().get_or_insert_default().devices_mut().get_or_insert_default().push(rule);
    }
    Ok(())
}

/// Kind and number of a node of the host's; a symbolic link is none.
fn look_at(path: &Path) -> std::io::Result<(&'static str, (i64, i64))> {
    let metadata = std::fs::symlink_metadata(path)?;
    let file_type = metadata.file_type();
    let kind = if file_type.is_block_device() {
        "b"
    } else if file_type.is_char_device() {
        "c"
    } else if file_type.is_fifo() {
        "p"
    } else {
        return Err(std::io::Error::other("not a device node"));
    };
    let number = metadata.rdev();
    Ok((kind, (rustix::fs::major(number).into(), rustix::fs::minor(number).into())))
}

fn add_mounts(spec: &mut Spec, mounts: &[Mount]) -> Result<(), String> {
    if mounts.is_empty() {
        return Ok(());
    }
    let all = spec.mounts_mut().get_or_insert_default();
    for mount in mounts {
        all.retain(|other| other.destination() != Path::new(&mount.container_path));
        let binds = mount.options.iter().any(|option| option == "bind" || option == "rbind");
        let mut one = MountBuilder::default()
            .destination(&mount.container_path)
            .source(&mount.host_path)
            .options(mount.options.clone());
        if !mount.kind.is_empty() {
            one = one.typ(mount.kind.clone());
        } else if !binds {
            let options = mount.options.iter().cloned().chain(["rbind".to_owned()]);
            one = one.options(options.collect::<Vec<_>>());
        }
        all.push(one.build().map_err(|e| broken(&e))?);
    }
    // What lies on something else comes after it.
    let depth = |mount: &OciMount| mount.destination().components().count();
    all.sort_by_key(depth);
    Ok(())
}

#[allow(deprecated)] // Vendors' files still have prestart hooks.
fn add_hook(spec: &mut Spec, hook: &Hook) -> Result<(), String> {
    let mut one = HookBuilder::default().path(&hook.path).args(hook.args.clone()).env(hook.env.clone());
    if let Some(timeout) = hook.timeout {
        one = one.timeout(timeout);
    }
    let one: OciHook = one.build().map_err(|e| broken(&e))?;
    let hooks: &mut Hooks = spec.hooks_mut().get_or_insert_default();
    let list = match hook.hook_name.as_str() {
        "prestart" => hooks.prestart_mut(),
        "createRuntime" => hooks.create_runtime_mut(),
        "createContainer" => hooks.create_container_mut(),
        "startContainer" => hooks.start_container_mut(),
        "poststart" => hooks.poststart_mut(),
        "poststop" => hooks.poststop_mut(),
        other => return Err(format!("unknown hook name {other:?}")),
    };
    list.get_or_insert_default().push(one);
    Ok(())
}
