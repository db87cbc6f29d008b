// SPDX-License-Identifier: Apache-2.0
//! A root file system of busybox and the spec of a container on it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};

static ROOT: OnceLock<PathBuf> = OnceLock::new();

/// A directory with busybox, shared by all tests and left to the next run.
pub fn busybox() -> &'static Path {
    ROOT.get_or_init(|| {
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let path = parent.join("busybox-root-1");
        if !path.exists() {
            let partial = tempfile::tempdir_in(parent).unwrap();
            build(partial.path());
            fs::set_permissions(partial.path(), fs::Permissions::from_mode(0o755)).unwrap();
            // Whoever is first wins; the other's is the same.
            if let Err(error) = fs::rename(partial.path(), &path) {
                assert!(path.exists(), "{error}");
            }
        }
        path
    })
}

fn build(path: &Path) {
    for directory in ["bin", "dev", "etc", "proc", "sys", "tmp", "root"] {
        fs::create_dir_all(path.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", path.join("bin/busybox")).expect("busybox-static is needed");
    let applets = [
        "cat", "dd", "echo", "env", "false", "grep", "head", "id", "kill", "ls", "mkdir", "printf", "ps",
        "pwd", "seq", "setsid", "sh", "sleep", "stty", "tail", "test", "tr", "true", "tty", "wc", "yes",
    ];
    for applet in applets {
        match symlink("busybox", path.join("bin").join(applet)) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => panic!("{e}"),
            _ => {}
        }
    }
    fs::write(path.join("bin/data"), "not a program\n").unwrap();
    fs::set_permissions(path.join("bin/data"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(
        path.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nsailor:x:1000:1000::/home/sailor:/bin/sh\n",
    )
    .unwrap();
    fs::write(path.join("etc/group"), "root:x:0:\nsailor:x:1000:\ndeck:x:2000:sailor\n").unwrap();
}

/// `process` of a spec.
pub fn process(args: &[&str]) -> Value {
    let capabilities = json!(["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE"]);
    json!({
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": ["PATH=/bin", "TERM=dumb"],
        "cwd": "/",
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
    })
}

/// A container in namespaces of its own.
pub fn spec(id: &str, args: &[&str]) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": false},
        "process": process(args),
        "hostname": "shimtest",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        ],
        "linux": {
            "cgroupsPath": format!("/berth-shim-test/{id}"),
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
            ],
            "resources": {"pids": {"limit": 200}},
        },
    })
}
