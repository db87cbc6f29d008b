// SPDX-License-Identifier: Apache-2.0
//! The image store through deaths, power cuts and full disks; checked, mended, and read by others.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use berth_tests::fixtures;
use berth_tests::harness::{Bed, Cli, Options, Output, Volume};

/// Steps that everything goes through that makes an image.
const MAKING: [&str; 8] = [
    "image.synced",
    "image.blob-renamed",
    "image.layer-renamed",
    "image.placed",
    "image.config-written",
    "image.manifest-written",
    "image.index-written",
    "image.stored",
];

/// Nothing that the store names is missing or damaged.
#[track_caller]
fn whole(bed: &Bed, when: &str) {
    let check = bed.api("POST", "/berth/system/check", "");
    assert!(check.status == 200 && !check.text().contains("errorDetail"), "{when}: {}", check.text());
}

fn layout_tar(dir: &Path, name: &str) -> PathBuf {
    let tar = dir.join(format!("{name}.tar"));
    let layout = fixtures::ensure().join("oci").join(name);
    Output::of(Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(layout).arg(".")).ok();
    tar
}

/// What makes an image: its steps, how, and the image's name.
struct Making {
    steps: Vec<&'static str>,
    command: Vec<String>,
    image: &'static str,
}

fn pull() -> Making {
    let mut steps = vec!["pull.resolved", "pull.layer-arriving", "pull.layer-arriving:3", "pull.unpacked"];
    steps.extend(MAKING);
    steps.extend(["image.blob-renamed:2", "image.layer-renamed:3", "pull.recorded"]);
    Making { steps, command: ["pull", "twelve"].map(str::to_owned).into(), image: "twelve" }
}

fn load(bed: &Bed) -> Making {
    let mut steps = vec!["load.spooled", "load.unpacked"];
    steps.extend(MAKING);
    steps.push("load.recorded");
    let tar = layout_tar(bed.path(), "redis");
    let command = ["load", "-q", "-i", tar.to_str().unwrap()].map(str::to_owned).into();
    Making { steps, command, image: "redis" }
}

fn commit() -> Making {
    let mut steps = vec!["commit.layer-staged"];
    steps.extend(MAKING);
    Making { steps, command: ["commit", "source", "made:1"].map(str::to_owned).into(), image: "made:1" }
}

fn import(bed: &Bed) -> Making {
    let mut steps = vec!["import.unpacked"];
    steps.extend(MAKING);
    let tar = bed.path().join("root.tar");
    bed.docker(&["export", "-o", tar.to_str().unwrap(), "source"]).ok();
    let command = ["import", tar.to_str().unwrap(), "imported:1"].map(str::to_owned).into();
    Making { steps, command, image: "imported:1" }
}

impl Making {
    /// Some of the steps: the rest is for `make soak`.
    fn short(mut self) -> Self {
        const SHORT: [&str; 6] = [
            "pull.layer-arriving:3",
            "load.unpacked",
            "commit.layer-staged",
            "import.unpacked",
            "image.layer-renamed",
            "image.index-written",
        ];
        self.steps.retain(|step| SHORT.contains(step));
        self
    }
}

/// Does it with a daemon that dies at each step in turn, and once more with one that lives. `cut` is called while the
/// daemon is dead.
fn dies_at_each_step(bed: &mut Bed, making: &Making, mut cut: impl FnMut()) {
    let command: Vec<&str> = making.command.iter().map(String::as_str).collect();
    for step in &making.steps {
        bed.stop_daemon();
        bed.die_at(Some(step));
        bed.start_daemon();
        bed.die_at(None);
        let out = bed.docker(&command);
        assert_ne!(out.code, 0, "{step} was not reached: {out:?}");
        bed.await_death();
        cut();
        bed.start_daemon();
        whole(bed, step);
        // What was there before is there and runs.
        let before =
            bed.docker(&["run", "--rm", "--pull=never", "busybox", "sh", "-c", "ls /bin | wc -l"]).ok();
        assert_ne!(before, "0", "{step}");
        bed.docker(&command).ok();
        whole(bed, step);
        let run =
            bed.docker(&["run", "--rm", "--pull=never", making.image, "sh", "-c", "echo $((6*7))"]).ok();
        assert_eq!(run, "42", "{step}");
        bed.docker(&["rmi", making.image]).ok();
    }
}

/// Which steps.
type Choice = fn(Making) -> Making;

fn all(making: Making) -> Making {
    making
}

fn deaths(choice: Choice, makings: &[fn(&Bed) -> Making]) {
    let mut bed = Bed::start();
    if !bed.is_ours() {
        return;
    }
    bed.docker(&["pull", "busybox"]).ok();
    let changes = "echo x > /x; mkdir /d; rm /etc/passwd";
    bed.docker(&["run", "--name", "source", "busybox", "sh", "-c", changes]).ok();
    for making in makings {
        let making = choice(making(&bed));
        dies_at_each_step(&mut bed, &making, || {});
    }
    bed.finish();
}

#[test]
fn pulls_and_loads_die_on_the_way() {
    deaths(Making::short, &[|_| pull(), load]);
}

#[test]
fn commits_and_imports_die_on_the_way() {
    deaths(Making::short, &[|_| commit(), import]);
}

#[test]
#[ignore = "long form: make soak"]
fn everything_dies_at_each_step() {
    deaths(all, &[|_| pull(), load, |_| commit(), import]);
}

/// The daemon dies at a step, and with it everything that nobody had synced: the data root's device goes on as it was.
fn power_cuts(choice: Choice, makings: &[fn(&Bed) -> Making]) {
    let mut volume = Volume::new(768 << 20);
    let mut bed = Bed::with(Options { data_root: Some(volume.path().join("data")), ..Options::default() });
    if !bed.is_ours() {
        return;
    }
    bed.docker(&["pull", "busybox"]).ok();
    for making in makings {
        let making = choice(making(&bed));
        dies_at_each_step(&mut bed, &making, || volume.cut_power());
    }
    bed.stop_daemon();
    volume.fsck();
    bed.start_daemon();
    whole(&bed, "in the end");
    bed.finish();
}

#[test]
fn power_cuts_on_the_way() {
    power_cuts(Making::short, &[|_| pull(), load]);
}

#[test]
#[ignore = "long form: make soak"]
fn a_power_cut_at_each_step() {
    power_cuts(all, &[|_| pull(), load]);
}

/// What was acknowledged survives, whatever the kernel still meant to write.
#[test]
fn a_power_cut_right_after_the_answer() {
    let mut volume = Volume::new(768 << 20);
    let mut bed = Bed::with(Options { data_root: Some(volume.path().join("data")), ..Options::default() });
    if !bed.is_ours() {
        return;
    }
    let tar = layout_tar(bed.path(), "redis");
    let commands: [(&[&str], &str); 4] = [
        (&["pull", "busybox"], "busybox"),
        (&["load", "-q", "-i", tar.to_str().unwrap()], "redis"),
        (&["tag", "busybox", "other:1"], "other:1"),
        (&["import", "-c", "CMD x", tar.to_str().unwrap(), "imported:1"], "imported:1"),
    ];
    let mut images = Vec::new();
    for (command, image) in commands {
        bed.docker(command).ok();
        images.push((image, bed.docker(&["image", "inspect", "-f", "{{.Id}}", image]).ok()));
        bed.kill_daemon();
        volume.cut_power();
        bed.start_daemon();
        for (image, id) in &images {
            assert_eq!(
                &bed.docker(&["image", "inspect", "-f", "{{.Id}}", image]).ok(),
                id,
                "after {command:?}"
            );
        }
        whole(&bed, image);
    }
    bed.docker(&["rmi", "other:1"]).ok();
    bed.kill_daemon();
    volume.cut_power();
    bed.start_daemon();
    bed.docker(&["image", "inspect", "other:1"]).fails(1);
    whole(&bed, "after a removal");
    bed.finish();
}

/// With a little more room at each try, the disk becomes full at other places.
fn full_disk(steps: u64) {
    // The check that follows unpacks the largest layer beside itself.
    let volume = Volume::new(288 << 20);
    let bed = Bed::with(Options { data_root: Some(volume.path().join("data")), ..Options::default() });
    if !bed.is_ours() {
        return;
    }
    bed.docker(&["pull", "busybox"]).ok();
    let data =
        "dd if=/dev/urandom of=/data bs=1M count=8 2>/dev/null; for i in $(seq 200); do echo $i > /f$i; done";
    bed.docker(&["run", "--name", "source", "busybox", "sh", "-c", data]).ok();
    for making in [pull(), load(&bed), commit(), import(&bed)] {
        let command: Vec<&str> = making.command.iter().map(String::as_str).collect();
        let used = || {
            let stat = rustix::fs::statvfs(volume.path()).unwrap();
            (stat.f_blocks - stat.f_bfree) * stat.f_frsize
        };
        volume.empty();
        let before = used();
        bed.docker(&command).ok();
        let needed = (used() - before) * 3 / 2 + (4 << 20);
        bed.docker(&["rmi", making.image]).ok();
        let mut failed = 0;
        for step in 0..steps {
            volume.leave(needed * step / steps);
            let out = bed.docker(&command);
            if out.code != 0 {
                failed += 1;
                let said = format!("{}{}", out.stdout, out.stderr);
                assert!(said.contains("no space left on device"), "{command:?} with {step}/{steps}: {out:?}");
            }
            volume.empty();
            whole(&bed, &format!("{command:?} with {step}/{steps}"));
            if out.code == 0 {
                bed.docker(&["rmi", making.image]).ok();
            }
            assert_eq!(
                bed.docker(&["run", "--rm", "--pull=never", "busybox", "echo", "alive"]).ok(),
                "alive"
            );
        }
        assert!(failed > 0, "{command:?} never met a full disk");
        bed.docker(&command).ok();
        bed.docker(&["rmi", making.image]).ok();
    }
    bed.finish();
}

#[test]
fn a_full_disk_on_the_way() {
    full_disk(3);
}

#[test]
#[ignore = "long form: make soak"]
fn a_full_disk_anywhere() {
    full_disk(24);
}

#[test]
fn damage_is_told_and_mended() {
    let bed = Bed::start();
    if !bed.is_ours() {
        return;
    }
    bed.docker(&["pull", "busybox"]).ok();
    let check = |flags: &[&str]| bed.run(Cli::Berth, &[&["system", "check"], flags].concat());
    assert!(check(&[]).ok().contains("0 damaged"));
    let image = bed.api("GET", "/images/busybox/json", "").json();
    let layer = image["RootFS"]["Layers"][0].as_str().unwrap().replace("sha256:", "");
    let file = bed.data_root().join("layers").join(layer).join("fs/etc/passwd");
    // One byte of one file, as a bad disk would have it.
    let time = std::fs::metadata(&file).unwrap().modified().unwrap();
    let open = std::fs::File::options().write(true).open(&file).unwrap();
    open.write_all_at(b"X", 0).unwrap();
    open.set_modified(time).unwrap();
    let told = check(&[]);
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.stdout.contains("/etc/passwd: other content"), "{told:?}");
    // Not under the feet of a container.
    bed.docker(&["run", "-d", "--name", "busy", "busybox", "sleep", "1000"]).ok();
    let busy = check(&["--repair"]);
    assert!(busy.code == 1 && busy.stdout.contains("stop busy"), "{busy:?}");
    bed.docker(&["rm", "-f", "busy"]).ok();
    assert!(check(&["--repair"]).ok().contains("1 repaired"));
    // A blob that is gone comes from its registry.
    let manifest = image["Descriptor"]["digest"].as_str().unwrap().replace("sha256:", "");
    let blobs = bed.data_root().join("blobs/sha256");
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(blobs.join(manifest)).unwrap()).unwrap();
    let blob = manifest["layers"][0]["digest"].as_str().unwrap().replace("sha256:", "");
    std::fs::remove_file(blobs.join(blob)).unwrap();
    assert_eq!(check(&[]).code, 1);
    check(&["--repair"]).ok();
    assert!(check(&[]).ok().contains("0 damaged"));
    assert_eq!(bed.docker(&["run", "--rm", "busybox", "head", "-c4", "/etc/passwd"]).ok(), "root");
    bed.finish();
}

#[test]
fn the_index_is_rebuilt_by_hand() {
    let mut bed = Bed::start();
    if !bed.is_ours() {
        return;
    }
    bed.docker(&["pull", "redis"]).ok();
    bed.docker(&["tag", "redis", "mine:1"]).ok();
    // The names of one image come in any order: the client's.
    let listed = |bed: &Bed| {
        let mut lines: Vec<String> =
            bed.docker(&["images", "--no-trunc"]).ok().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let before = listed(&bed);
    bed.stop_daemon();
    std::fs::remove_dir_all(bed.data_root().join("images.sled")).unwrap();
    let said = Output::of(bed.daemon_command().arg("--rebuild-index"));
    assert_eq!(said.code, 0, "{said:?}");
    bed.start_daemon();
    assert_eq!(listed(&bed), before);
    whole(&bed, "rebuilt");
    bed.finish();
}

/// The data root is an OCI layout: skopeo copies images out of it, byte for byte.
#[test]
fn others_read_the_data_root() {
    let bed = Bed::start();
    if !bed.is_ours() {
        return;
    }
    for image in ["busybox", "twelve"] {
        bed.docker(&["pull", image]).ok();
        let source = format!("oci:{}:docker.io/library/{image}:latest", bed.data_root().display());
        let raw = Output::of(Command::new("skopeo").args(["inspect", "--raw", &source])).ok();
        let digest =
            bed.api("GET", &format!("/images/{image}/json"), "").json()["Descriptor"]["digest"].clone();
        let to = bed.path().join(image);
        std::fs::create_dir(&to).unwrap();
        let mut copy = Command::new("skopeo");
        copy.args(["--insecure-policy", "copy", "--preserve-digests", "-q", &source]);
        Output::of(copy.arg(format!("dir:{}", to.display()))).ok();
        let sum = Output::of(Command::new("sha256sum").arg(to.join("manifest.json"))).ok();
        assert_eq!(format!("sha256:{}", sum.split(' ').next().unwrap()), digest, "{raw}");
    }
    // What was made here is whole, too.
    bed.docker(&["run", "--name", "source", "busybox", "touch", "/x"]).ok();
    bed.docker(&["commit", "source", "made:1"]).ok();
    let source = format!("oci:{}:docker.io/library/made:1", bed.data_root().display());
    let to = bed.path().join("made");
    let mut copy = Command::new("skopeo");
    copy.args(["--insecure-policy", "copy", "-q", &source]);
    Output::of(copy.arg(format!("docker-archive:{}:made:2", to.display()))).ok();
    // And comes back as an archive of skopeo's.
    let loaded = bed.docker(&["load", "-i", to.to_str().unwrap()]).ok();
    assert!(loaded.contains("made:2"), "{loaded}");
    assert_eq!(bed.docker(&["run", "--rm", "made:2", "ls", "/x"]).ok(), "/x");
    bed.finish();
}
