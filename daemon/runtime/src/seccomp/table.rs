// SPDX-License-Identifier: Apache-2.0
//! The default profile, as facts: which system calls a container may make, and what each of the others needs.
//!
//! The set is Docker's (moby/profiles of 2026-06, seccomp/default.json): whatever is not named fails with `EPERM`. A name
//! that an architecture or the kernel does not have is no error.

use super::profile::{Comparison, When};
use oci_spec::runtime::LinuxSeccompOperator as Op;

/// What a rule answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The call is made.
    Allow,
    /// The call fails with this errno.
    Errno(u32),
}

/// One row: these calls, on this condition, with this argument, are answered so.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) names: &'static str,
    pub(super) when: When,
    pub(super) argument: Option<Comparison>,
    pub(super) verdict: Verdict,
}

const fn allow(when: When, names: &'static str) -> Row {
    Row { names, when, argument: None, verdict: Verdict::Allow }
}

const fn allow_if(name: &'static str, index: usize, op: Op, value: u64) -> Row {
    Row {
        names: name,
        when: When::Always,
        argument: Some(Comparison { index, op, value, value_two: None }),
        verdict: Verdict::Allow,
    }
}

/// Flags of `clone(2)` that make namespaces: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
/// A caller that is told `ENOSYS` for `clone3` falls back to `clone`, whose flags a filter can see.
const ENOSYS: u32 = 38;

/// For every container.
pub(super) const ALWAYS: &str = "
_llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod
chown chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime
clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat
dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64
fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl
fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs
fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake
futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid
geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid
getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname
getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init
inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64
io_setup io_submit ioctl ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset
landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr listxattrat
llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier memfd_create
memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr
mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink
mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep
newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free
pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6
pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom
recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2
restart_syscall riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo
sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr
sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop
semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area
set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer
setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32
setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown
sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs
statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time
timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate
truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes
vfork vmsplice wait4 waitid waitpid write writev";

/// All rows of the default profile.
pub(super) const ROWS: &[Row] = &[
    allow(When::Always, ALWAYS),
    // Before 4.8 ptrace could be used to get past a filter.
    allow(When::KernelFrom(4, 8), "process_vm_readv process_vm_writev ptrace"),
    // Every socket family but AF_ALG (38) and AF_VSOCK (40).
    allow_if("socket", 0, Op::ScmpCmpLt, 38),
    allow_if("socket", 0, Op::ScmpCmpEq, 39),
    allow_if("socket", 0, Op::ScmpCmpGt, 40),
    // PER_LINUX, PER_LINUX32, UNAME26 with either, and the question which one it is.
    allow_if("personality", 0, Op::ScmpCmpEq, 0x0),
    allow_if("personality", 0, Op::ScmpCmpEq, 0x8),
    allow_if("personality", 0, Op::ScmpCmpEq, 0x2_0000),
    allow_if("personality", 0, Op::ScmpCmpEq, 0x2_0008),
    allow_if("personality", 0, Op::ScmpCmpEq, 0xffff_ffff),
    allow(When::Arch(&["ppc64le"]), "sync_file_range2 swapcontext"),
    allow(
        When::Arch(&["arm", "arm64"]),
        "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
    ),
    allow(When::Arch(&["amd64", "x32"]), "arch_prctl"),
    allow(When::Arch(&["amd64", "x32", "x86"]), "modify_ldt"),
    allow(When::Arch(&["s390", "s390x"]), "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"),
    allow(When::Arch(&["riscv64"]), "riscv_flush_icache"),
    allow(When::Cap("CAP_DAC_READ_SEARCH"), "open_by_handle_at"),
    allow(
        When::Cap("CAP_SYS_ADMIN"),
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl
         quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    // Without it, processes may be made and namespaces may not. (s390 swaps the first two arguments.)
    Row {
        names: "clone",
        when: When::WithoutCap("CAP_SYS_ADMIN", &["s390", "s390x"]),
        argument: Some(Comparison {
            index: 0,
            op: Op::ScmpCmpMaskedEq,
            value: CLONE_NAMESPACES,
            value_two: Some(0),
        }),
        verdict: Verdict::Allow,
    },
    Row {
        names: "clone3",
        when: When::WithoutCap("CAP_SYS_ADMIN", &[]),
        argument: None,
        verdict: Verdict::Errno(ENOSYS),
    },
    allow(When::Cap("CAP_SYS_BOOT"), "reboot"),
    allow(When::Cap("CAP_SYS_CHROOT"), "chroot"),
    allow(When::Cap("CAP_SYS_MODULE"), "delete_module finit_module init_module"),
    allow(When::Cap("CAP_SYS_PACCT"), "acct"),
    allow(
        When::Cap("CAP_SYS_PTRACE"),
        "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    ),
    allow(When::Cap("CAP_SYS_RAWIO"), "ioperm iopl"),
    allow(When::Cap("CAP_SYS_TIME"), "clock_settime clock_settime64 settimeofday stime"),
    allow(When::Cap("CAP_SYS_TTY_CONFIG"), "vhangup"),
    allow(When::Cap("CAP_SYS_NICE"), "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    allow(When::Cap("CAP_SYSLOG"), "syslog"),
    allow(When::Cap("CAP_BPF"), "bpf"),
    allow(When::Cap("CAP_PERFMON"), "perf_event_open"),
];
