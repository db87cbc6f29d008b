// SPDX-License-Identifier: Apache-2.0
//! The last stretch, the same for init and for exec: from a finished root to the container's program.

use std::borrow::Cow;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use berth_seccomp::SockFilter;
use oci_spec::runtime::{
    LinuxPersonalityDomain, LinuxSeccomp, LinuxSeccompFilterFlag, PosixRlimitType, Process, Spec,
};
use rustix::fs::{Access, AtFlags, FileType, Gid, Mode, OFlags, Uid, accessat, fchown, fstat, open, stat};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, fchdir, getcwd, prlimit, setsid, umask};
use rustix::thread::{
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::caps::{self, Caps};
use crate::channel::{Channel, Message};
use crate::error::{Context as _, Error, Kind, Result};
use crate::path::{Missing, ensure_in_root};
use crate::sys;
use crate::user::{self, Identity, UserRequest};

/// Who runs it.
#[derive(Debug)]
pub(crate) enum Who<'a> {
    /// As the spec says.
    Ids(Identity),
    /// To be looked up in the container's root.
    Request(UserRequest<'a>),
}

/// A seccomp program and the flags for loading it.
#[derive(Debug)]
pub(crate) struct Filter<'a> {
    pub(crate) program: Cow<'a, [SockFilter]>,
    pub(crate) flags: u64,
}

/// A process, checked and in the kernel's words; made by the parent before it forks.
#[derive(Debug)]
pub(crate) struct ProcessPlan<'a> {
    pub(crate) args: Vec<CString>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: PathBuf,
    pub(crate) who: Who<'a>,
    pub(crate) caps: Caps,
    pub(crate) no_new_privs: bool,
    pub(crate) seccomp: Option<Filter<'a>>,
    pub(crate) rlimits: Vec<(Resource, Rlimit)>,
    pub(crate) umask: u32,
    pub(crate) personality: Option<u64>,
    pub(crate) apparmor: Option<String>,
    pub(crate) oom_score_adj: Option<i32>,
}

/// Where the standard streams of the process come from, in the child.
#[derive(Debug)]
pub(crate) enum Streams<'a> {
    Fds([BorrowedFd<'a>; 3]),
    /// The slave side of its terminal.
    Terminal(OwnedFd),
}

impl<'a> ProcessPlan<'a> {
    /// Checks `process`. `spec` is the container's: its seccomp filter and `noNewPrivileges` hold for
    /// every process in it.
    pub(crate) fn new(
        spec: &Spec,
        process: &Process,
        user: Option<UserRequest<'a>>,
        seccomp: Option<&'a [SockFilter]>,
        warnings: &mut Vec<String>,
    ) -> Result<Self> {
        let args = process.args().as_deref().unwrap_or_default();
        if args.is_empty() {
            return Err(Error::invalid("process.args is empty"));
        }
        let args = args.iter().map(|arg| c_string(arg, "argument")).collect::<Result<Vec<_>>>()?;
        let env = process.env().clone().unwrap_or_default();
        for variable in &env {
            c_string(variable, "environment variable")?;
        }
        let cwd = process.cwd().clone();
        if !cwd.is_absolute() && !cwd.as_os_str().is_empty() {
            return Err(Error::invalid(format!("working directory {cwd:?} is not an absolute path")));
        }
        unsupported(process)?;
        let who = match user {
            Some(request) => Who::Request(request),
            None => Who::Ids(Identity {
                uid: process.user().uid(),
                gid: process.user().gid(),
                groups: process.user().additional_gids().clone().unwrap_or_default(),
                home: None,
            }),
        };
        let init = spec.process().as_ref();
        let capabilities = process.capabilities().as_ref();
        let mut caps =
            Caps::from_spec(capabilities.or_else(|| init.and_then(|init| init.capabilities().as_ref())));
        let missing = caps.clamp(caps::available()?);
        if missing != 0 {
            warnings.push(format!("capabilities {missing:#x} are not available on this host"));
        }
        let no_new_privs = |process: &Process| process.no_new_privileges() == Some(true);
        let linux = spec.linux().as_ref();
        let filter = linux.and_then(|linux| linux.seccomp().as_ref());
        Ok(Self {
            args,
            env,
            cwd: if cwd.as_os_str().is_empty() { PathBuf::from("/") } else { cwd },
            who,
            caps,
            no_new_privs: no_new_privs(process) || init.is_some_and(no_new_privs),
            seccomp: filter_of(filter, seccomp)?,
            rlimits: process
                .rlimits()
                .iter()
                .flatten()
                .map(|limit| (resource(limit.typ()), rlimit(limit.soft(), limit.hard())))
                .collect(),
            umask: process.user().umask().unwrap_or(0o022),
            personality: linux
                .and_then(|linux| linux.personality().as_ref())
                .map(|personality| match personality.domain() {
                    LinuxPersonalityDomain::PerLinux => Ok(0),
                    LinuxPersonalityDomain::PerLinux32 => Ok(8),
                })
                .transpose()?,
            apparmor: process
                .apparmor_profile()
                .clone()
                .or_else(|| init.and_then(|init| init.apparmor_profile().clone()))
                .filter(|profile| !profile.is_empty() && apparmor_is_enabled()),
            oom_score_adj: process.oom_score_adj().or_else(|| init.and_then(Process::oom_score_adj)),
        })
    }

    /// `exec --privileged`: every capability. The container's seccomp filter and AppArmor profile hold on, as with the
    /// reference; a privileged container has none.
    pub(crate) fn make_privileged(&mut self) -> Result<()> {
        self.caps = Caps::all();
        self.caps.clamp(caps::available()?);
        Ok(())
    }
}

fn unsupported(process: &Process) -> Result<()> {
    let asked = [
        ("process.scheduler", process.scheduler().is_some()),
        ("process.ioPriority", process.io_priority().is_some()),
        ("process.execCPUAffinity", process.exec_cpu_affinity().is_some()),
        ("process.selinuxLabel", process.selinux_label().as_deref().is_some_and(|label| !label.is_empty())),
    ];
    match asked.iter().find(|(_, asked)| *asked) {
        Some((field, _)) => Err(Error::invalid(format!("{field} is not supported"))),
        None => Ok(()),
    }
}

fn filter_of<'a>(
    profile: Option<&LinuxSeccomp>,
    compiled: Option<&'a [SockFilter]>,
) -> Result<Option<Filter<'a>>> {
    let mut flags = 0;
    for flag in profile.and_then(|profile| profile.flags().as_ref()).into_iter().flatten() {
        flags |= match flag {
            // One thread has nothing to synchronise with.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => 2,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 4,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                return Err(Error::invalid("seccomp notification is not supported"));
            }
        };
    }
    let program = match (compiled, profile) {
        (Some([]), _) | (None, None) => return Ok(None),
        (Some(program), _) => Cow::Borrowed(program),
        (None, Some(profile)) => {
            Cow::Owned(berth_seccomp::compile(profile).map_err(|cause| Error::invalid(cause.0))?)
        }
    };
    Ok(Some(Filter { program, flags }))
}

fn c_string(text: &str, what: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::invalid(format!("{what} {text:?} holds a NUL byte")))
}

fn apparmor_is_enabled() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.first() == Some(&b'Y'))
}

fn rlimit(soft: u64, hard: u64) -> Rlimit {
    let value = |value: u64| (value != u64::MAX).then_some(value);
    Rlimit { current: value(soft), maximum: value(hard) }
}

fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}

/// Sets limits of a process, `None` for this one. One that the host does not grant is set as far as it
/// goes and named in the result.
pub(crate) fn set_rlimits(pid: Option<Pid>, limits: &[(Resource, Rlimit)]) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for (resource, wanted) in limits {
        match prlimit(pid, *resource, *wanted) {
            Ok(_) => {}
            Err(Errno::PERM) => {
                let most = rustix::process::getrlimit(*resource).maximum;
                let least = |limit: Option<u64>| match (limit, most) {
                    (Some(limit), Some(most)) => Some(limit.min(most)),
                    (limit, most) => limit.or(most),
                };
                let clamped = Rlimit { current: least(wanted.current), maximum: least(wanted.maximum) };
                prlimit(pid, *resource, clamped).context(|| format!("set the {resource:?} limit"))?;
                warnings.push(format!("the {resource:?} limit is held to {most:?} by this host"));
            }
            Err(errno) => return Err(Error::invalid(format!("set the {resource:?} limit: {errno}"))),
        }
    }
    Ok(warnings)
}

/// Opens the file through which an AppArmor profile is set for the next `execve`. `proc` is a procfs
/// root that no container has had its hands on.
pub(crate) fn open_apparmor(proc: BorrowedFd<'_>) -> Result<OwnedFd> {
    for path in ["thread-self/attr/apparmor/exec", "thread-self/attr/exec"] {
        match rustix::fs::openat(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => return Ok(fd),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(Error::internal(format!("/proc/{path}: {errno}"))),
        }
    }
    Err(Error::internal("the kernel has no way to set an AppArmor profile"))
}

/// Turns this process, whose `/` is the container's, into the container's program. Comes back only with
/// what went wrong.
pub(crate) fn finish(
    plan: &ProcessPlan<'_>,
    streams: &Streams<'_>,
    apparmor: Option<OwnedFd>,
    set_limits: bool,
    channel: &Channel,
) -> Error {
    match try_finish(plan, streams, apparmor, set_limits, channel) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn try_finish(
    plan: &ProcessPlan<'_>,
    streams: &Streams<'_>,
    apparmor: Option<OwnedFd>,
    set_limits: bool,
    channel: &Channel,
) -> Result<std::convert::Infallible> {
    let root = open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .context(|| "the container's root")?;
    let who = match &plan.who {
        Who::Ids(identity) => identity.clone(),
        Who::Request(request) => user::resolve(&root, request)?,
    };
    let env = environment(plan, &who, root.as_fd())?;

    // Fails only for a process group leader, which a fresh child is not.
    setsid().context(|| "setsid")?;
    match sys::join_new_session_keyring() {
        Ok(()) | Err(Errno::NOSYS | Errno::PERM | Errno::ACCESS | Errno::DQUOT) => {}
        Err(errno) => return Err(Error::internal(format!("join a session keyring: {errno}"))),
    }
    if let Some(persona) = plan.personality {
        sys::personality(persona).context(|| "personality")?;
    }
    umask(Mode::from_raw_mode(plan.umask));
    enter(&root, &plan.cwd)?;
    crate::trace::mark("init", "user and directory");
    attach_streams(streams, who.uid)?;
    if set_limits {
        for warning in set_rlimits(None, &plan.rlimits)? {
            channel.send(&Message::Warning(warning))?;
        }
    }

    let mut caps = plan.caps;
    if who.uid != 0 && matches!(plan.who, Who::Request(_)) && caps.ambient == 0 {
        // What execve does to another user's capabilities, done before the program is looked up.
        (caps.effective, caps.permitted) = (0, 0);
    }
    caps::bound(caps.bounding)?;
    become_user(&who)?;

    // Without no_new_privs a filter may be loaded only with CAP_SYS_ADMIN.
    let late = if plan.no_new_privs || plan.seccomp.is_none() { 0 } else { caps::SYS_ADMIN };
    caps::set(caps.permitted | late, caps.effective | late, caps.inheritable)?;
    caps::set_ambient(caps.ambient)?;
    if plan.no_new_privs {
        set_no_new_privs(true).context(|| "no_new_privs")?;
    }
    let program = find_program(&plan.args[0], &env)?;
    if let (Some(fd), Some(profile)) = (apparmor, &plan.apparmor) {
        let line = format!("exec {profile}");
        rustix::io::write(&fd, line.as_bytes()).context(|| format!("apply AppArmor profile {profile}"))?;
    }
    sys::close_range_on_exec(3).context(|| "close_range")?;
    channel.send(&Message::Executing)?;
    if let Some(filter) = &plan.seccomp {
        sys::seccomp_load(&filter.program, filter.flags).context(|| "load the seccomp filter")?;
        if late != 0 {
            caps::set(caps.permitted, caps.effective, caps.inheritable)?;
        }
    }
    let errno = sys::execve(&program, &plan.args, &env);
    Err(exec_error(&plan.args[0], errno))
}

/// The environment, with `HOME` if it lacks one.
fn environment(plan: &ProcessPlan<'_>, who: &Identity, root: BorrowedFd<'_>) -> Result<Vec<CString>> {
    let mut env =
        plan.env.iter().map(|one| c_string(one, "environment variable")).collect::<Result<Vec<_>>>()?;
    let has_home = plan.env.iter().any(|one| one.strip_prefix("HOME=").is_some_and(|home| !home.is_empty()));
    if !has_home {
        env.retain(|one| !one.as_bytes().starts_with(b"HOME="));
        let home = match (&who.home, &plan.who) {
            (Some(home), _) => Some(home.clone()),
            (None, Who::Ids(_)) => user::home_of(root, who.uid)?,
            (None, Who::Request(_)) => None,
        };
        let home = home.filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned());
        env.push(c_string(&format!("HOME={home}"), "home directory")?);
    }
    Ok(env)
}

/// Makes the working directory if it is missing and goes there. Magic links are refused on the way, so
/// that `/proc/self/fd/N` leads nowhere (CVE-2024-21626), and the result is checked to be inside.
fn enter(root: &OwnedFd, cwd: &Path) -> Result<()> {
    let what = || format!("working directory {}", cwd.display());
    let fd = ensure_in_root(root, cwd, Missing::Directory)
        .map_err(|error| Error { message: format!("{}: {error}", what()), ..error })?;
    fchdir(&fd).map_err(|errno| match errno {
        Errno::NOTDIR => Error::invalid(format!("{} is not a directory", what())),
        errno => Error::internal(format!("{}: {errno}", what())),
    })?;
    let here = getcwd(Vec::new()).context(what)?;
    if here.as_bytes().first() != Some(&b'/') {
        return Err(Error::invalid(format!("{} is outside the container's root", what())));
    }
    Ok(())
}

/// Puts the streams on 0, 1 and 2 and gives them to the user, so that it can open /dev/stdout again.
fn attach_streams(streams: &Streams<'_>, uid: u32) -> Result<()> {
    let fds = match streams {
        Streams::Fds(fds) => *fds,
        Streams::Terminal(slave) => {
            rustix::process::ioctl_tiocsctty(slave).context(|| "take the terminal")?;
            [slave.as_fd(); 3]
        }
    };
    // First out of the way of the numbers that they will replace.
    let mut copies = Vec::new();
    for fd in fds {
        copies.push(rustix::io::fcntl_dupfd_cloexec(fd, 3).context(|| "duplicate a standard stream")?);
    }
    for (number, fd) in (0..).zip(&copies) {
        sys::dup_to(fd.as_fd(), number).context(|| "duplicate a standard stream")?;
        let stat = fstat(fd).context(|| "stat a standard stream")?;
        let null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == rustix::fs::makedev(1, 3);
        if stat.st_uid == uid || null {
            continue;
        }
        match fchown(fd, Some(Uid::from_raw(uid)), None::<Gid>) {
            // A stream on a read-only or foreign file system keeps its owner.
            Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => {}
            Err(errno) => return Err(Error::internal(format!("chown a standard stream: {errno}"))),
        }
    }
    Ok(())
}

fn become_user(who: &Identity) -> Result<()> {
    let groups: Vec<Gid> = who.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    set_thread_groups(&groups).context(|| "set supplementary groups")?;
    let (gid, uid) = (Gid::from_raw(who.gid), Uid::from_raw(who.uid));
    set_thread_res_gid(gid, gid, gid).context(|| format!("become gid {}", who.gid))?;
    if who.uid != 0 {
        set_keep_capabilities(true).context(|| "keep capabilities")?;
    }
    set_thread_res_uid(uid, uid, uid).context(|| format!("become uid {}", who.uid))
}

/// What `execve` is to be called with, found as the user whom the program will run as.
fn find_program(name: &CString, env: &[CString]) -> Result<CString> {
    let bytes = name.as_bytes();
    if bytes.contains(&b'/') {
        return match executable(name) {
            Ok(()) => Ok(name.clone()),
            Err(errno) => Err(exec_error(name, errno)),
        };
    }
    let path = env.iter().rev().find_map(|one| one.as_bytes().strip_prefix(b"PATH=")).unwrap_or_default();
    for directory in path.split(|byte| *byte == b':') {
        if bytes.is_empty() || path.is_empty() {
            break;
        }
        let directory = if directory.is_empty() { b"." } else { directory };
        let candidate =
            Path::new(std::ffi::OsStr::from_bytes(directory)).join(std::ffi::OsStr::from_bytes(bytes));
        let Ok(candidate) = CString::new(candidate.as_os_str().as_bytes()) else { continue };
        if executable(&candidate).is_ok() {
            return Ok(candidate);
        }
    }
    Err(Error {
        kind: Kind::CommandNotFound,
        message: format!("exec: {:?}: executable file not found in $PATH", name.to_string_lossy()),
    })
}

fn executable(path: &CString) -> std::result::Result<(), Errno> {
    let found = stat(path.as_c_str())?;
    if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
        return Err(Errno::ACCESS);
    }
    match accessat(rustix::fs::CWD, path.as_c_str(), Access::EXEC_OK, AtFlags::EACCESS) {
        // Kernels before 5.8 have no faccessat2; execve will tell.
        Ok(()) | Err(Errno::NOSYS | Errno::INVAL) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// The docker CLI derives exit codes 126 and 127 from these words.
fn exec_error(name: &CString, errno: Errno) -> Error {
    let (kind, words) = match errno {
        Errno::NOENT | Errno::NOTDIR => (Kind::CommandNotFound, "no such file or directory".to_owned()),
        Errno::ACCESS | Errno::PERM | Errno::ISDIR => {
            (Kind::CommandNotExecutable, "permission denied".to_owned())
        }
        Errno::NOEXEC => (Kind::CommandNotExecutable, "exec format error".to_owned()),
        Errno::LOOP => (Kind::CommandNotFound, "too many levels of symbolic links".to_owned()),
        Errno::TOOBIG => (Kind::InvalidInput, "argument list too long".to_owned()),
        other => (Kind::Internal, other.to_string()),
    };
    Error { kind, message: format!("exec: {:?}: {words}", name.to_string_lossy()) }
}
