// SPDX-License-Identifier: Apache-2.0
//! `-v` in its one line, `--mount` in its fields.

use std::path::{Component, Path, PathBuf};

use berth_api::types::container_create::{Mount as MountRequest, TmpfsOptions};
use berth_domain::{Error, Result};

use super::{MountPlan, MountPoint, MountType, ReadOnly, check_source, tmpfs};

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];
const DEFAULT_PROPAGATION: &str = "rprivate";
const ROOT: &str = "invalid specification: destination can't be '/'";

/// Longest path in bytes, as the kernel has it.
const PATH_MAX: usize = 4096;

/// An absolute path without `.`, `..` and doubled slashes, by its text alone.
fn clean(path: &str) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

fn absolute(path: &str) -> Result<String, String> {
    if path.contains('\0') || path.len() >= PATH_MAX {
        return Err("invalid mount path: too long or with a NUL byte".to_owned());
    }
    if !path.starts_with('/') {
        return Err(format!("invalid mount path: '{path}' mount path must be absolute"));
    }
    Ok(clean(path).to_string_lossy().into_owned())
}

fn check_destination(path: &str) -> Result<String, String> {
    let clean = absolute(path)?;
    if clean == "/" { Err(ROOT.to_owned()) } else { Ok(clean) }
}

/// The destination of an image's volume or of `--tmpfs`.
pub(super) fn destination(path: &str) -> Result<String> {
    check_destination(path).map_err(Error::invalid)
}

/// What the comma-separated options of `-v` say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Mode<'a> {
    access: Option<&'a str>,
    label: Option<&'a str>,
    propagation: Option<&'a str>,
    copy: Option<&'a str>,
    consistency: Option<&'a str>,
    idmap: Option<&'a str>,
}

/// `None` for what is no mode: unknown words, or two of one kind.
fn parse_mode(text: &str) -> Option<Mode<'_>> {
    let mut mode = Mode::default();
    if text.is_empty() {
        return Some(mode);
    }
    for word in text.split(',') {
        let slot = match word {
            "ro" | "rw" => &mut mode.access,
            "z" | "Z" => &mut mode.label,
            "nocopy" => &mut mode.copy,
            "consistent" | "cached" | "delegated" => &mut mode.consistency,
            word if crate::idmap::is_word(word) => &mut mode.idmap,
            word if PROPAGATIONS.contains(&word) => &mut mode.propagation,
            _ => return None,
        };
        if slot.replace(word).is_some() {
            return None;
        }
    }
    Some(mode)
}

/// Splits `container[:mode]`; the mode is `rw` if there is none.
///
/// # Errors
///
/// Invalid input, in Docker's words.
pub fn parse_volumes_from(text: &str) -> Result<(&str, &str)> {
    if text.is_empty() {
        return Err(Error::invalid("volumes-from specification cannot be an empty string"));
    }
    let (container, mode) = text.split_once(':').unwrap_or((text, ""));
    check_volumes_from_mode(mode)?;
    Ok((container, if mode.is_empty() { "rw" } else { mode }))
}

/// Whether the mode lets the container write.
pub(super) fn check_volumes_from_mode(mode: &str) -> Result<bool> {
    // Propagation and copying are those of the mounts that are taken over.
    match parse_mode(mode) {
        Some(Mode { propagation: None, copy: None, idmap: None, access, .. }) => Ok(access != Some("ro")),
        _ => Err(Error::invalid(format!("invalid mode: {mode}"))),
    }
}

/// One entry of `Binds`: `source:destination[:mode]`, or a destination alone for an anonymous volume.
pub(super) fn parse_bind(raw: &str, volume_driver: &str) -> Result<MountPlan> {
    let invalid = || format!("invalid volume specification: '{raw}'");
    let parts: Vec<&str> = raw.split(':').collect();
    let (source, target, mode) = match parts.as_slice() {
        [target] if !target.is_empty() => ("", *target, ""),
        // `/destination:ro`: a mode needs a source.
        [source, target] if !source.is_empty() && parse_mode(target).is_none() => (*source, *target, ""),
        [source, target, mode] if !source.is_empty() => (*source, *target, *mode),
        _ => return Err(Error::invalid(invalid())),
    };
    let parsed = parse_mode(mode).ok_or_else(|| Error::invalid(format!("invalid mode: {mode}")))?;
    let kind = if source.starts_with('/') { MountType::Bind } else { MountType::Volume };
    let name = if kind == MountType::Bind { "bind" } else { "volume" };
    let bad = |what: String| {
        Error::invalid(format!("{}: invalid mount config for type \"{name}\": {what}", invalid()))
    };
    if target.is_empty() {
        return Err(bad("field Target must not be empty".to_owned()));
    }
    let mut point = MountPoint::new(kind, check_destination(target).map_err(bad)?);
    mode.clone_into(&mut point.mode);
    point.rw = parsed.access != Some("ro");
    if let Some(idmap) = parsed.idmap {
        crate::idmap::word(idmap)?;
        idmap.clone_into(&mut point.idmap);
    }
    if kind == MountType::Bind {
        point.source = absolute(source).map_err(bad)?;
        parsed.propagation.unwrap_or(DEFAULT_PROPAGATION).clone_into(&mut point.propagation);
        point.create_source = true;
    } else {
        if parsed.propagation.is_some() {
            return Err(bad("field BindOptions must not be specified".to_owned()));
        }
        source.clone_into(&mut point.name);
        volume_driver.clone_into(&mut point.driver);
        point.anonymous = source.is_empty();
    }
    let copy = kind == MountType::Volume && parsed.copy.is_none();
    Ok(MountPlan { copy, ..MountPlan::new(point) })
}

pub(super) fn bad_config(request: &MountRequest, what: &str) -> Error {
    Error::invalid(format!("invalid mount config for type {:?}: {what}", request.r#type))
}

/// One entry of `Mounts`.
pub(super) fn parse_mount(request: &MountRequest) -> Result<MountPlan> {
    let bad = |what: &str| bad_config(request, what);
    let extra = |name: &str| bad(&format!("field {name} must not be specified"));
    let kind = match request.r#type.as_str() {
        "bind" => MountType::Bind,
        "volume" => MountType::Volume,
        "tmpfs" => MountType::Tmpfs,
        "image" => MountType::Image,
        "npipe" | "cluster" => {
            return Err(Error::not_implemented(format!(
                "mounts of type {:?} are not supported on this engine",
                request.r#type
            )));
        }
        _ => return Err(bad("mount type unknown")),
    };
    if kind != MountType::Bind && request.bind_options.is_some() {
        return Err(extra("BindOptions"));
    }
    if kind != MountType::Volume && request.volume_options.is_some() {
        return Err(extra("VolumeOptions"));
    }
    if kind != MountType::Image && request.image_options.is_some() {
        return Err(extra("ImageOptions"));
    }
    if kind != MountType::Tmpfs && request.tmpfs_options.is_some() {
        return Err(extra("TmpfsOptions"));
    }
    if request.target.is_empty() {
        return Err(bad("field Target must not be empty"));
    }
    let mut point = MountPoint::new(kind, check_destination(&request.target).map_err(|e| bad(&e))?);
    point.rw = !request.read_only;
    let mut plan = match kind {
        MountType::Bind => bind(request, point)?,
        MountType::Volume => volume(request, point)?,
        MountType::Image => {
            if request.source.is_empty() {
                return Err(bad("field Source must not be empty"));
            }
            point.name.clone_from(&request.source);
            point.rw = false;
            DEFAULT_PROPAGATION.clone_into(&mut point.propagation);
            if let Some(options) = &request.image_options {
                point.subpath = subpath(&options.subpath).map_err(|e| bad(&e))?;
            }
            MountPlan::new(point)
        }
        MountType::Tmpfs => {
            if !request.source.is_empty() {
                return Err(extra("Source"));
            }
            let words =
                tmpfs_words(request.tmpfs_options.as_ref(), request.read_only).map_err(|e| bad(&e))?;
            point.tmpfs = tmpfs::merge(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
            MountPlan::new(point)
        }
    };
    plan.copy &= kind == MountType::Volume;
    Ok(plan)
}

fn bind(request: &MountRequest, mut point: MountPoint) -> Result<MountPlan> {
    let bad = |what: &str| bad_config(request, what);
    if request.source.is_empty() {
        return Err(bad("field Source must not be empty"));
    }
    DEFAULT_PROPAGATION.clone_into(&mut point.propagation);
    point.source = absolute(&request.source).map_err(|e| bad(&e))?;
    if let Some(options) = &request.bind_options {
        if !options.propagation.is_empty() {
            if !PROPAGATIONS.contains(&options.propagation.as_str()) {
                return Err(bad(&format!("invalid propagation mode: {}", options.propagation)));
            }
            point.propagation.clone_from(&options.propagation);
        }
        let conflict = |what: &str| Err(Error::invalid(format!("mount options conflict: {what}")));
        point.read_only =
            match (options.read_only_non_recursive, options.read_only_force_recursive, request.read_only) {
                (true, true, _) => {
                    return conflict("ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive");
                }
                (true, _, false) => return conflict("!ReadOnly && BindOptions.ReadOnlyNonRecursive"),
                (_, true, false) => return conflict("!ReadOnly && BindOptions.ReadOnlyForceRecursive"),
                (true, false, true) => ReadOnly::NonRecursive,
                (false, true, true) => ReadOnly::Recursive,
                (false, false, _) => ReadOnly::IfPossible,
            };
        point.non_recursive = options.non_recursive;
        point.create_source = options.create_mountpoint;
    }
    check_source(request)?;
    Ok(MountPlan::new(point))
}

fn volume(request: &MountRequest, mut point: MountPoint) -> Result<MountPlan> {
    point.name.clone_from(&request.source);
    point.anonymous = request.source.is_empty();
    let mut plan = MountPlan::new(point);
    let Some(options) = &request.volume_options else { return Ok(plan) };
    if !options.subpath.is_empty() {
        if request.source.is_empty() {
            return Err(bad_config(request, "must not set Subpath when using anonymous volumes"));
        }
        plan.point.subpath = subpath(&options.subpath).map_err(|e| bad_config(request, &e))?;
    }
    plan.copy = !options.no_copy;
    plan.labels.clone_from(&options.labels);
    if let Some(driver) = &options.driver_config {
        plan.point.driver.clone_from(&driver.name);
        plan.options = (!driver.options.is_empty()).then(|| driver.options.clone());
    }
    Ok(plan)
}

/// A path beneath a volume or an image.
fn subpath(path: &str) -> Result<String, String> {
    let local = !path.starts_with('/')
        && path.len() < PATH_MAX
        && !path.contains('\0')
        && Path::new(path)
            .components()
            .try_fold(0_usize, |depth, component| match component {
                Component::Normal(_) => Some(depth + 1),
                Component::ParentDir => depth.checked_sub(1),
                _ => Some(depth),
            })
            .is_some();
    if !local {
        return Err("subpath must be a relative path within the volume".to_owned());
    }
    let clean = clean(path);
    Ok(clean.strip_prefix("/").unwrap_or(&clean).to_string_lossy().into_owned())
}

fn tmpfs_words(options: Option<&TmpfsOptions>, read_only: bool) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    if read_only {
        words.push("ro".to_owned());
    }
    let Some(options) = options else { return Ok(words) };
    if let Some(mode) = options.mode.filter(|m| *m != 0) {
        words.push(format!("mode={mode:o}"));
    }
    if options.size_bytes < 0 {
        return Err(format!("invalid size: {}", options.size_bytes));
    }
    if options.size_bytes > 0 {
        words.push(format!("size={}", options.size_bytes));
    }
    for option in options.options.iter().flatten() {
        match option.as_slice() {
            [word] if matches!(word.as_str(), "exec" | "noexec") => words.push(word.clone()),
            [word, ..] if option.len() <= 2 => return Err(format!("invalid option: {word}")),
            _ => return Err("invalid option array length".to_owned()),
        }
    }
    Ok(words)
}
