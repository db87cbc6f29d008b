// SPDX-License-Identifier: Apache-2.0
//! What tests share. Each works in network namespaces of its own making: nothing here changes the host's.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Runs a test on a thread in a new network namespace.
pub(crate) fn in_namespace<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
            test()
        });
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Runs a program in the calling thread's namespace; its output.
pub(crate) fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().expect(line);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Compares with a file that is reviewed as part of a change; `BERTH_UPDATE_GOLDEN=1` writes it.
pub(crate) fn check_golden(file: &str, actual: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    if std::env::var_os("BERTH_UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, actual).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(golden == actual, "{} differs (BERTH_UPDATE_GOLDEN=1 writes it):\n{actual}", path.display());
}
