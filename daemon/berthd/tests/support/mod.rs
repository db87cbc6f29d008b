// SPDX-License-Identifier: Apache-2.0
//! A daemon of its own for each test: own roots, own socket, own network namespace. Readiness is what the daemon
//! tells its service manager, so nothing sleeps.
#![allow(dead_code)] // Each test file uses its part.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a daemon may live.
pub struct Home {
    pub dir: TempDir,
    notify: UnixDatagram,
}

impl Home {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("berthd-test").tempdir().unwrap();
        let notify = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        notify.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { dir, notify }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("berth.sock")
    }

    /// A command for the daemon in a network namespace of its own, without its `-H`.
    pub fn bare_command(&self) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--net", "--", env!("CARGO_BIN_EXE_berthd")]);
        self.arguments(&mut command);
        command
    }

    pub fn arguments(&self, command: &mut Command) {
        command
            .arg("--data-root")
            .arg(self.path("data"))
            .arg("--exec-root")
            .arg(self.path("run"))
            // Nothing is started here: any program does.
            .args(["--shim-path", "/bin/true"])
            .arg("--cgroup-parent")
            .arg(format!("/berthd-test-{}", std::process::id()))
            .env("NOTIFY_SOCKET", self.path("notify"))
            .env_remove("LISTEN_FDS")
            .stdin(Stdio::null());
    }

    pub fn command(&self) -> Command {
        let mut command = self.bare_command();
        command.arg("-H").arg(format!("unix://{}", self.socket().display()));
        command
    }

    /// Starts a daemon and waits until it is ready.
    pub fn start(&self, more: &[&str]) -> Daemon {
        let mut command = self.command();
        command.args(more);
        self.spawn(command)
    }

    pub fn spawn(&self, mut command: Command) -> Daemon {
        let log = std::fs::File::create(self.path("log")).unwrap();
        let child = command.stderr(log).spawn().unwrap();
        let daemon = Daemon { child, socket: self.socket(), log: self.path("log") };
        self.told("READY=1", &daemon);
        daemon
    }

    /// Waits until the service manager is told this.
    pub fn told(&self, what: &str, daemon: &Daemon) {
        let mut buffer = [0; 4096];
        loop {
            let n = self.notify.recv(&mut buffer).unwrap_or_else(|e| panic!("{what}: {e}\n{}", daemon.log()));
            let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
            if text.lines().any(|l| l == what) {
                return;
            }
        }
    }

    /// Runs a daemon that is expected to end by itself.
    pub fn fails(&self, more: &[&str]) -> Output {
        let output = self.command().args(more).output().unwrap();
        assert!(!output.status.success(), "it did not fail: {output:?}");
        output
    }
}

/// A running daemon, killed with the test.
pub struct Daemon {
    child: Child,
    pub socket: PathBuf,
    log: PathBuf,
}

impl Daemon {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub fn connect(&self) -> UnixStream {
        connect(&self.socket)
    }

    /// One request on a connection of its own.
    pub fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let mut request = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        request.push_str(body);
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        Reply::read(&mut stream)
    }

    pub fn get(&self, target: &str) -> Reply {
        self.ask("GET", target, &[], "")
    }

    pub fn post(&self, target: &str, body: &str) -> Reply {
        self.ask("POST", target, &[("Content-Type", "application/json")], body)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let killed = self.child.kill().and_then(|()| self.child.wait());
            assert!(killed.is_ok() || std::thread::panicking(), "{killed:?}");
        }
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}", self.log());
        }
    }
}

pub fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn read(stream: &mut UnixStream) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut reply = Self { status, head: head.to_owned(), body: body.to_owned() };
        if reply.header("transfer-encoding").is_some_and(|v| v == "chunked") {
            reply.body = unchunked(&reply.body);
        }
        reply
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Asserts an error of this status and message, in exactly the shape that clients compare.
    pub fn refused(&self, status: u16, message: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        assert_eq!(self.json(), serde_json::json!({ "message": message }), "{self:?}");
    }
}

fn unchunked(mut text: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        out.push_str(&rest[..size]);
        text = rest[size..].strip_prefix("\r\n").unwrap_or("");
        if size == 0 {
            break;
        }
    }
    out
}
