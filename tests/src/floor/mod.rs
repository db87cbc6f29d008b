// SPDX-License-Identifier: Apache-2.0
//! The floor: what the kernel asks of anybody who starts a container with Docker's defaults, done step by step by one
//! small program without an engine. No image store, no records, no log, no API, no shim, nothing ahead of time.
//!
//! ```text
//!  directories ─ /etc files ─ cgroups ─ overlay ─ clone3 ─┬─ veth onto the bridge ──────────────────┬─ wait
//!                                                         └─ mounts, devices, masks, pivot, caps, seccomp, exec
//! ```
//!
//! The time is from the first directory to the collected exit. Clearing up comes behind it and is not counted, and what
//! is done once (the bridge, the filter's instructions) is not either: the figure is on the low side on purpose.
#![allow(unsafe_code)] // Raw system calls are what is measured.

mod child;
mod link;
mod pull;

pub use pull::serve_pulls;

use std::fs;
use std::io::{self, BufRead, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

/// How the container is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// A namespace with its loopback.
    None,
    /// A veth pair onto a bridge, an address and a route.
    Bridge,
}

/// What the child needs, opened by the parent.
pub(crate) struct Plan {
    pub(crate) root: OwnedFd,
    /// `hosts`, `hostname`, `resolv.conf`.
    pub(crate) etc: Vec<(PathBuf, &'static str)>,
    /// `tasks` of its groups on v1.
    pub(crate) tasks: Vec<fs::File>,
    /// v1 controllers, each a mount in the container; empty on v2.
    pub(crate) controllers: Vec<String>,
    pub(crate) network: Network,
    pub(crate) life: Life,
    pub(crate) filter: Vec<libc::sock_filter>,
}

/// How long a container lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It ends at once, and the time is until its exit has been collected.
    Brief,
    /// It stays until standard input ends, and the time is until its program runs.
    Kept,
}

/// Does one container for each line on standard input, and answers its microseconds.
///
/// # Panics
///
/// When any step fails: there is nothing to fall back to.
pub fn serve(data: &Path, busybox: &Path, network: Network, life: Life) {
    let floor = Floor::prepare(data, busybox, network, life);
    let mut kept = Vec::new();
    for (number, line) in io::stdin().lock().lines().enumerate() {
        line.expect("standard input");
        let begun = Instant::now();
        let made = floor.one(number);
        let took = begun.elapsed();
        match life {
            Life::Brief => made.clear(),
            Life::Kept => kept.push(made),
        }
        println!("{}", took.as_micros());
        io::stdout().flush().expect("standard output");
    }
    for made in &kept {
        made.kill();
    }
    kept.into_iter().for_each(Made::clear);
}

struct Floor {
    lower: PathBuf,
    containers: PathBuf,
    hierarchies: Vec<PathBuf>,
    controllers: Vec<String>,
    unified: bool,
    network: Network,
    life: Life,
    filter: Vec<libc::sock_filter>,
}

/// What one container leaves.
struct Made {
    pid: i32,
    dir: PathBuf,
    groups: Vec<PathBuf>,
}

impl Floor {
    fn prepare(data: &Path, busybox: &Path, network: Network, life: Life) -> Self {
        let top = data.join("floor");
        let lower = top.join("lower");
        for dir in ["bin", "proc", "sys", "dev", "etc", "tmp", "old"] {
            fs::create_dir_all(lower.join(dir)).expect("the image's directories");
        }
        for name in ["true", "sleep"] {
            fs::copy(busybox, lower.join("bin").join(name)).expect("the image's program");
        }
        for name in ["hosts", "hostname", "resolv.conf"] {
            fs::write(lower.join("etc").join(name), "").expect("the image's mount points");
        }
        let containers = top.join("containers");
        fs::create_dir_all(&containers).expect("the containers' directory");
        if network == Network::Bridge {
            link::make_bridge();
        }
        let (hierarchies, controllers) = hierarchies();
        let unified = controllers.is_empty();
        let parent = format!("berth-floor-{}", std::process::id());
        let hierarchies: Vec<PathBuf> = hierarchies.into_iter().map(|h| h.join(&parent)).collect();
        for group in &hierarchies {
            fs::create_dir(group).expect("a parent cgroup");
            inherit_cpus(group);
        }
        Self { lower, containers, hierarchies, controllers, unified, network, life, filter: filter() }
    }

    fn one(&self, number: usize) -> Made {
        let dir = self.containers.join(number.to_string());
        make_dir(&dir);
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        make_dir(&upper);
        make_dir(&work);
        let etc = [
            ("hosts", "127.0.0.1 localhost\n"),
            ("hostname", "floor\n"),
            ("resolv.conf", "nameserver 127.0.0.1\n"),
        ];
        let etc: Vec<(PathBuf, &'static str)> = etc
            .into_iter()
            .map(|(name, text)| {
                let path = dir.join(name);
                fs::write(&path, text).expect("a file in /etc");
                (path, name)
            })
            .collect();

        let groups: Vec<PathBuf> = self.hierarchies.iter().map(|h| h.join(number.to_string())).collect();
        let mut tasks = Vec::new();
        let mut into = None;
        for group in &groups {
            fs::create_dir(group).expect("a cgroup");
            if self.unified {
                into = Some(
                    rustix::fs::open(group, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                        .expect("the cgroup"),
                );
                continue;
            }
            allow_devices(group);
            tasks.push(fs::File::options().write(true).open(group.join("tasks")).expect("tasks"));
        }

        let root = overlay(&self.lower, &upper, &work);
        let plan = Plan {
            root,
            etc,
            tasks,
            controllers: self.controllers.clone(),
            network: self.network,
            life: self.life,
            filter: self.filter.clone(),
        };
        // The child goes on when it can read that its link is there.
        let (ready, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
        // The child's end of this one closes when its program runs.
        let (gone, running) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
        let pid = clone3(into.as_ref());
        if pid == 0 {
            drop((tell, gone));
            child::run(&plan, &ready);
        }
        if self.network == Network::Bridge {
            link::make_veth(u32::try_from(number).unwrap_or(0), u32::try_from(pid).unwrap_or(0));
        }
        rustix::io::write(&tell, b"!").expect("telling the child");
        match self.life {
            Life::Brief => assert_eq!(collect(pid, 0), (pid, 0), "the container failed"),
            Life::Kept => {
                drop(running);
                assert_eq!(rustix::io::read(&gone, &mut [0; 1]).expect("waiting for the program"), 0);
                assert_eq!(collect(pid, libc::WNOHANG), (0, 0), "the container failed");
            }
        }
        Made { pid, dir, groups }
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        for group in &self.hierarchies {
            drop(fs::remove_dir(group));
        }
    }
}

/// Which process has ended, and how.
fn collect(pid: i32, flags: i32) -> (i32, i32) {
    let mut status = 0;
    // SAFETY: `status` lives through the call.
    let ended = unsafe { libc::waitpid(pid, &raw mut status, flags) };
    assert!(ended >= 0, "waitpid: {}", io::Error::last_os_error());
    (ended, status)
}

impl Made {
    /// Ends a container that stays.
    fn kill(&self) {
        // SAFETY: plain system call; the process is a child that has not been collected.
        assert_eq!(unsafe { libc::kill(self.pid, libc::SIGKILL) }, 0, "kill");
        collect(self.pid, 0);
    }

    fn clear(self) {
        for group in &self.groups {
            fs::remove_dir(group).expect("removing a cgroup");
        }
        fs::remove_dir_all(&self.dir).expect("removing the container");
    }
}

fn make_dir(path: &Path) {
    fs::DirBuilder::new().mode(0o755).create(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// Where the cgroup hierarchies are, and the controllers of those of v1.
fn hierarchies() -> (Vec<PathBuf>, Vec<String>) {
    let unified = Path::new("/sys/fs/cgroup");
    if unified.join("cgroup.controllers").exists() {
        return (vec![unified.to_owned()], Vec::new());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let mut dirs = Vec::new();
    let mut controllers = Vec::new();
    for line in mounts.lines() {
        let Some((before, after)) = line.split_once(" - cgroup ") else { continue };
        let options = after.split(' ').nth(1).unwrap_or_default();
        let names: Vec<&str> = options
            .split(',')
            .filter(|o| {
                !matches!(*o, "rw" | "ro" | "xattr" | "clone_children") && !o.starts_with("release_agent")
            })
            .collect();
        let Some(dir) = before.split(' ').nth(4) else { continue };
        if dir.starts_with("/sys/fs/cgroup/") && !controllers.contains(&names.join(",")) {
            dirs.push(PathBuf::from(dir));
            controllers.push(names.join(","));
        }
    }
    (dirs, controllers)
}

/// A new group of the cpuset hierarchy has no CPUs until it is given some; its children are to have them at once.
fn inherit_cpus(group: &Path) {
    if !group.join("cpuset.cpus").exists() || group.join("cgroup.type").exists() {
        return;
    }
    let above = group.parent().expect("a hierarchy");
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let value = fs::read_to_string(above.join(file)).expect("the CPUs above");
        fs::write(group.join(file), value.trim()).expect("the group's CPUs");
    }
    fs::write(group.join("cgroup.clone_children"), "1").expect("cgroup.clone_children");
}

/// As Docker has it: nothing, and then a few.
fn allow_devices(group: &Path) {
    let deny = group.join("devices.deny");
    if !deny.exists() {
        return;
    }
    fs::write(deny, "a").expect("devices.deny");
    for rule in [
        "c *:* m",
        "b *:* m",
        "c 1:3 rwm",
        "c 1:5 rwm",
        "c 1:7 rwm",
        "c 1:8 rwm",
        "c 1:9 rwm",
        "c 5:0 rwm",
        "c 5:2 rwm",
        "c 136:* rwm",
    ] {
        fs::write(group.join("devices.allow"), rule).expect("devices.allow");
    }
}

fn overlay(lower: &Path, upper: &Path, work: &Path) -> OwnedFd {
    use rustix::mount::{fsconfig_create, fsconfig_set_string, fsmount, fsopen};
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).expect("fsopen");
    for (key, value) in [("lowerdir", lower), ("upperdir", upper), ("workdir", work)] {
        fsconfig_set_string(&fs, key, value).expect("fsconfig");
    }
    fsconfig_create(&fs).expect("making the overlay");
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).expect("fsmount")
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

fn clone3(into: Option<&OwnedFd>) -> i32 {
    const INTO_CGROUP: u64 = 0x2_0000_0000;
    let namespaces =
        libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWNET;
    let mut args = CloneArgs {
        flags: u64::try_from(namespaces).unwrap_or(0),
        exit_signal: u64::try_from(libc::SIGCHLD).unwrap_or(0),
        ..CloneArgs::default()
    };
    if let Some(group) = into {
        args.flags |= INTO_CGROUP;
        args.cgroup = u64::try_from(group.as_raw_fd()).unwrap_or(0);
    }
    // SAFETY: this process has one thread, and the child gets a copy of its memory as after fork.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    assert!(pid >= 0, "clone3: {}", io::Error::last_os_error());
    i32::try_from(pid).unwrap_or(-1)
}

/// As many instructions as Docker's profile has when it is compiled well. Only the way to the first verdict is ever run,
/// but the kernel checks and translates all of them, which is what loading costs.
fn filter() -> Vec<libc::sock_filter> {
    const LENGTH: usize = 659;
    let instruction =
        |code: u32, jt, jf, k| libc::sock_filter { code: u16::try_from(code).unwrap_or(0), jt, jf, k };
    let allow = instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW);
    let mut program = vec![
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, 100_000),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | 1),
        allow,
    ];
    while program.len() + 1 < LENGTH {
        program.push(instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 0, 1));
    }
    program.push(allow);
    program
}

/// Opens a path, for the child's mounts.
pub(crate) fn open_path(path: &Path) -> OwnedFd {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
