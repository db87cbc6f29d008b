// SPDX-License-Identifier: Apache-2.0
//! The command lines under test: the real docker CLI and our own.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::fixtures;

/// Which command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cli {
    /// The docker CLI: `BERTH_TEST_DOCKER`, else `docker` on the PATH, else the one that the set-up script unpacked
    /// from the distribution's package into the fixture cache.
    Docker,
    /// `berth`, as built beside the tests.
    Berth,
}

/// The folder of the programs under test: `BERTH_TEST_BIN`, else where cargo built this test.
#[must_use]
pub fn build_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("BERTH_TEST_BIN") {
        return PathBuf::from(dir);
    }
    let exe = std::env::current_exe().expect("the test's own path");
    let dir = exe.parent().expect("its folder");
    if dir.ends_with("deps") {
        dir.parent().expect("the profile's folder").to_owned()
    } else {
        dir.to_owned()
    }
}

impl Cli {
    /// Its program.
    #[must_use]
    pub fn program(self) -> PathBuf {
        match self {
            Self::Berth => build_dir().join("berth"),
            Self::Docker => {
                if let Some(path) = std::env::var_os("BERTH_TEST_DOCKER") {
                    return PathBuf::from(path);
                }
                let on_path = std::env::var_os("PATH").and_then(|path| {
                    std::env::split_paths(&path).map(|d| d.join("docker")).find(|p| p.is_file())
                });
                on_path.unwrap_or_else(|| fixtures::cache_dir().join("cli/docker"))
            }
        }
    }
}

/// What a command left.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command, for messages.
    pub shown: String,
    /// Exit code; 128+n after signal n.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Runs a command to its end.
    #[must_use]
    pub fn of(command: &mut Command) -> Self {
        let shown = command.get_args().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let shown = format!("{} {shown}", command.get_program().to_string_lossy());
        let out = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{shown}: {e}"));
        use std::os::unix::process::ExitStatusExt;
        Self {
            shown,
            code: out.status.code().or(out.status.signal().map(|s| 128 + s)).unwrap_or(-1),
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        }
    }

    /// The trimmed output of a command that must succeed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}\nstdout: {}\nstderr: {}", self.shown, self.stdout, self.stderr);
        self.stdout.trim_end().to_owned()
    }

    /// The error output of a command that must fail with this code.
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}\nstdout: {}\nstderr: {}", self.shown, self.stdout, self.stderr);
        self.stderr.trim_end().to_owned()
    }
}
