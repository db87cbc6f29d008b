// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::mounts::{PlanInput, plan};
use berth_api::types::container_create::HostConfig;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

struct Bed {
    dir: tempfile::TempDir,
    volumes: Volumes,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(&dir.path().join("volumes")).unwrap();
        std::fs::create_dir(dir.path().join("image")).unwrap();
        Self { dir, volumes }
    }

    fn image(&self, path: &str) -> PathBuf {
        self.dir.path().join("image").join(path)
    }

    fn realise(&self, binds: &[&str], image_volumes: &[&str], n: u8) -> Result<Vec<MountPoint>> {
        let binds = binds.iter().map(|b| (*b).to_owned()).collect();
        let host = HostConfig { binds: Some(binds), ..HostConfig::default() };
        let volumes: Vec<String> = image_volumes.iter().map(|v| (*v).to_owned()).collect();
        let plans = plan(&PlanInput { host: &host, volumes: &volumes, volumes_from: &[] })?;
        let root = InRoot::open_root(&self.dir.path().join("image")).unwrap();
        self.volumes.realise(plans, &id(n), Some(root.as_fd()))
    }
}

impl Bed {
    fn mounts(&self, points: &[MountPoint]) -> Result<crate::Sources> {
        let layers = |_: &str| Ok(Vec::new());
        let start =
            crate::Start { container: &id(9), run_dir: self.dir.path(), layers: &layers, userns: None };
        self.volumes.oci_mounts(points, &start)
    }
}

fn id(n: u8) -> ContainerId {
    ContainerId::from_bytes([n; 32])
}

#[test]
fn an_images_volume_is_made_filled_held_and_goes_with_its_container() {
    let bed = Bed::new();
    std::fs::create_dir(bed.image("data")).unwrap();
    std::fs::write(bed.image("data/f"), "x").unwrap();
    std::fs::set_permissions(bed.image("data"), PermissionsExt::from_mode(0o1770)).unwrap();
    let points = bed.realise(&["named:/srv"], &["/data"], 1).unwrap();
    assert_eq!(points.len(), 2);
    let anonymous = &points[0];
    assert_eq!((anonymous.destination.as_str(), anonymous.mode.as_str()), ("/data", ""));
    assert_eq!(points[1].mode, "z");
    assert_eq!(anonymous.driver, "local");
    let content = PathBuf::from(&anonymous.source);
    assert_eq!(std::fs::read_to_string(content.join("f")).unwrap(), "x");
    assert_eq!(std::fs::metadata(&content).unwrap().mode() & 0o7777, 0o1770);
    assert_eq!(bed.volumes.users(&anonymous.name), [id(1)]);
    let mounts = &bed.mounts(&points).unwrap().mounts;
    assert_eq!(mounts[0].source().as_deref(), Some(content.as_path()));
    assert_eq!(mounts[0].options().as_deref(), Some(&["rbind".to_owned()][..]));
    bed.volumes.release_all(&points, &id(1), true).unwrap();
    assert!(!content.exists());
    assert_eq!(bed.volumes.list().len(), 1, "the named one stays");
}

#[test]
fn a_volume_with_content_is_not_filled() {
    let bed = Bed::new();
    std::fs::create_dir(bed.image("data")).unwrap();
    std::fs::write(bed.image("data/f"), "x").unwrap();
    let points = bed.realise(&["v1:/data", "v2:/data2", "v3:/none"], &[], 1).unwrap();
    let content = PathBuf::from(&points[0].source);
    std::fs::write(content.join("f"), "mine").unwrap();
    bed.realise(&["v1:/data"], &[], 2).unwrap();
    assert_eq!(std::fs::read_to_string(content.join("f")).unwrap(), "mine");
    let points = bed.realise(&["v4:/data:nocopy"], &[], 3).unwrap();
    assert_eq!(std::fs::read_dir(&points[0].source).unwrap().count(), 0);
}

#[test]
fn a_volume_that_others_have_mounted_is_filled_in_place() {
    let bed = Bed::new();
    let points = bed.realise(&["v1:/none"], &[], 1).unwrap();
    let mounted = std::fs::metadata(&points[0].source).unwrap().ino();
    std::fs::create_dir(bed.image("data")).unwrap();
    std::fs::write(bed.image("data/f"), "x").unwrap();
    let points = bed.realise(&["v1:/data"], &[], 2).unwrap();
    assert_eq!(std::fs::metadata(&points[0].source).unwrap().ino(), mounted);
    assert!(Path::new(&points[0].source).join("f").exists());
}

#[test]
fn links_in_the_image_never_lead_out() {
    let bed = Bed::new();
    let outside = bed.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "s").unwrap();
    std::fs::create_dir(bed.image("inside")).unwrap();
    std::fs::write(bed.image("inside/plain"), "p").unwrap();
    symlink("../outside", bed.image("relative")).unwrap();
    symlink(&outside, bed.image("absolute")).unwrap();
    symlink("/inside", bed.image("within")).unwrap();
    symlink(&outside, bed.image("inside/out")).unwrap();
    let content = |point: &MountPoint| {
        let mut names: Vec<String> = std::fs::read_dir(&point.source)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let points = bed.realise(&["v1:/relative", "v2:/absolute", "v3:/within"], &[], 1).unwrap();
    assert!(content(&points[0]).is_empty() && content(&points[1]).is_empty());
    assert_eq!(content(&points[2]), ["out", "plain"]);
    let link = Path::new(&points[2].source).join("out");
    assert_eq!(std::fs::read_link(link).unwrap(), outside, "copied as the link it is");
}

#[test]
fn every_kind_of_file_is_copied_faithfully() {
    let bed = Bed::new();
    let data = bed.image("data");
    std::fs::create_dir_all(data.join("sub")).unwrap();
    std::fs::write(data.join("file"), "content").unwrap();
    std::os::unix::fs::chown(data.join("file"), Some(1000), Some(2000)).unwrap();
    std::fs::set_permissions(data.join("file"), PermissionsExt::from_mode(0o4755)).unwrap();
    std::fs::hard_link(data.join("file"), data.join("sub/second")).unwrap();
    symlink("nowhere", data.join("link")).unwrap();
    std::fs::hard_link(data.join("link"), data.join("sub/link2")).unwrap();
    std::os::unix::fs::lchown(data.join("link"), Some(7), Some(8)).unwrap();
    let at = rustix::fs::CWD;
    rustix::fs::mknodat(at, data.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    let null = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(at, data.join("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), null)
        .unwrap();
    let sparse = std::fs::File::create(data.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 64 << 20).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    let attribute = rustix::fs::setxattr(data.join("file"), "trusted.berth", b"v", flags);
    let time = rustix::fs::Timespec { tv_sec: 1_000_000, tv_nsec: 5 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    for name in ["file", "link", "sub", "fifo"] {
        rustix::fs::utimensat(at, data.join(name), &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }

    let points = bed.realise(&["v1:/data"], &[], 1).unwrap();
    let copy = PathBuf::from(&points[0].source);
    let stat = |name: &str| std::fs::symlink_metadata(copy.join(name)).unwrap();
    assert_eq!(std::fs::read_to_string(copy.join("file")).unwrap(), "content");
    let file = stat("file");
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777, file.nlink()), (1000, 2000, 0o4755, 2));
    assert_eq!(file.ino(), stat("sub/second").ino());
    for name in ["file", "link", "sub", "fifo"] {
        assert_eq!((stat(name).mtime(), stat(name).mtime_nsec()), (1_000_000, 5), "{name}");
    }
    assert_eq!((stat("link").uid(), stat("link").gid()), (7, 8));
    assert_eq!(stat("link").ino(), stat("sub/link2").ino());
    assert!(stat("fifo").file_type().is_fifo() && stat("fifo").mode() & 0o7777 == 0o640);
    assert!(stat("null").file_type().is_char_device() && stat("null").rdev() == null);
    assert_eq!(stat("null").mode(), std::fs::symlink_metadata(data.join("null")).unwrap().mode());
    assert_eq!(stat("sparse").len(), (64 << 20) + 3);
    assert!(stat("sparse").blocks() * 512 < 1 << 20, "holes stay holes");
    if attribute.is_ok() {
        let mut value = [0; 8];
        let size = rustix::fs::getxattr(copy.join("file"), "trusted.berth", &mut value).unwrap();
        assert_eq!(&value[..size], b"v");
    }
}

#[test]
fn a_file_in_the_place_of_a_volume_undoes_the_plan() {
    let bed = Bed::new();
    std::fs::write(bed.image("file"), "").unwrap();
    let error = bed.realise(&[], &["/a", "/file"], 1).unwrap_err();
    assert_eq!(error.to_string(), "cannot mount volume over existing file, file exists /file");
    assert!(bed.volumes.list().is_empty());
}

#[test]
fn sources_of_binds_are_made_only_for_v() {
    let bed = Bed::new();
    let source = bed.dir.path().join("a/b");
    let bind = format!("{}:/x:ro", source.display());
    let mut points = bed.realise(&[&bind], &[], 1).unwrap();
    bed.mounts(&points).unwrap();
    assert!(!source.exists(), "that is for the shim");
    let path = source.display().to_string();
    assert_eq!(Volumes::bind_sources(&points), [(path.clone(), true)]);
    points[0].create_source = false;
    assert_eq!(Volumes::bind_sources(&points), [(path, false)]);
}

#[test]
fn a_volume_may_stand_for_a_host_directory() {
    let bed = Bed::new();
    let device = bed.dir.path().join("device");
    std::fs::create_dir(&device).unwrap();
    std::fs::write(device.join("f"), "").unwrap();
    let options = [("type", "none"), ("o", "bind"), ("device", device.to_str().unwrap())];
    let options = options.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    bed.volumes.create(Some("bound"), "", Some(options), None).unwrap();
    let points = bed.realise(&["bound:/x"], &[], 1).unwrap();
    let sources = bed.mounts(&points).unwrap();
    let place = sources.mounts[0].source().clone().unwrap();
    assert!(place.join("f").exists(), "{}", place.display());
    bed.volumes.unmount_all(&points, &id(9));
    assert!(!place.join("f").exists());
    bed.volumes.release_all(&points, &id(1), true).unwrap();
    bed.volumes.remove("bound", false).unwrap();
    assert!(device.join("f").exists(), "the host's directory is not ours to remove");
}

#[test]
fn volumes_are_shared_by_volumes_from() {
    let bed = Bed::new();
    let donor = bed.realise(&[], &["/data"], 1).unwrap();
    let host = HostConfig::default();
    let from = [(donor.clone(), "ro".to_owned())];
    let plans =
        plan(&PlanInput { host: &host, volumes: &["/data".to_owned()], volumes_from: &from }).unwrap();
    let points = bed.volumes.realise(plans, &id(2), None).unwrap();
    assert_eq!((points[0].name.as_str(), points[0].rw), (donor[0].name.as_str(), false));
    bed.volumes.release_all(&donor, &id(1), true).unwrap();
    assert_eq!(bed.volumes.users(&donor[0].name), [id(2)], "kept for the second container");
    bed.volumes.release_all(&points, &id(2), true).unwrap();
    assert!(bed.volumes.list().is_empty());
}
