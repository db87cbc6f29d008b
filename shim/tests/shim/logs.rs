// SPDX-License-Identifier: Apache-2.0
//! What is recorded of a container's output.

use std::fs;

use berth_shim_proto::*;

use crate::rig::{Builder, Rig, records};

crate::with_each_builder! {
    lines_of_every_kind
    files_rotate
    a_terminals_last_words_are_kept
}

fn lines_of_every_kind(builder: Builder) {
    // A line of 16,384 bytes and one more, bytes that are no text, HTML, an unfinished end.
    let script = r#"
        head -c 16385 /dev/zero | tr '\0' x; echo
        printf 'bad \377 byte\n'
        echo '<a href="x">&</a>'
        echo
        printf 'no newline'
    "#;
    let mut rig = Rig::new(builder, &["sh", "-c", script]);
    rig.launch();
    assert_eq!(rig.exited().code, 0);
    let texts: Vec<String> = rig.log().into_iter().map(|(_, text)| text).collect();
    let part = "x".repeat(16384);
    let expected = [&part, "x\n", "bad \u{fffd} byte\n", "<a href=\"x\">&</a>\n", "\n", "no newline"];
    assert_eq!(texts, expected);
    let raw = fs::read_to_string(rig.log_path()).unwrap();
    assert!(
        raw.contains(r#"{"log":"\u003ca href=\"x\"\u003e\u0026\u003c/a\u003e\n","stream":"stdout","time":""#)
    );
    assert!(raw.contains(r#"bad \ufffd byte"#));
    let times = raw.lines().map(|line| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        value["time"].as_str().unwrap().to_owned()
    });
    for time in times {
        let shape = time.strip_suffix('Z').and_then(|time| time.split_once('T'));
        assert!(shape.is_some_and(|(date, _)| date.len() == 10), "{time}");
    }
}

fn files_rotate(builder: Builder) {
    let mut rig = Rig::new(builder, &["sh", "-c", "seq 1 2000"]);
    let path = rig.log_path().to_str().unwrap().to_owned();
    rig.launch.log = Log::JsonFile { path, max_size: Some(20_000), max_files: 4, attrs: None };
    rig.launch();
    assert_eq!(rig.exited().code, 0);
    let mut all = Vec::new();
    for number in ["3", "2", "1"] {
        let path = rig.dir.path().join(format!("log.json.{number}"));
        assert!(fs::metadata(&path).unwrap().len() <= 20_000);
        all.extend(records(&path));
    }
    all.extend(rig.log());
    let first = 2001 - all.len();
    let expected: Vec<String> = (first..=2000).map(|number| format!("{number}\n")).collect();
    assert_eq!(all.into_iter().map(|(_, text)| text).collect::<Vec<_>>(), expected);
    assert!(!rig.dir.path().join("log.json.4").exists());
}

fn a_terminals_last_words_are_kept(builder: Builder) {
    let mut rig = Rig::new(builder, &["seq", "1", "5000"]);
    rig.launch.terminal = Some(TerminalSize { height: 24, width: 80 });
    rig.launch();
    assert_eq!(rig.exited().code, 0);
    let texts: Vec<String> = rig.log().into_iter().map(|(_, text)| text).collect();
    let expected: Vec<String> = (1..=5000).map(|number| format!("{number}\r\n")).collect();
    assert_eq!(texts, expected);
}

#[test]
fn a_log_is_continued_by_the_next_start() {
    let mut rig = Rig::new(Builder::Native, &["echo", "second"]);
    fs::write(
        rig.log_path(),
        "{\"log\":\"first\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:00Z\"}\n",
    )
    .unwrap();
    rig.launch();
    assert_eq!(rig.exited().code, 0);
    let texts: Vec<String> = rig.log().into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["first\n", "second\n"]);
}

#[test]
fn attributes_are_in_each_line() {
    let mut rig = Rig::new(Builder::Native, &["echo", "x"]);
    let path = rig.log_path().to_str().unwrap().to_owned();
    let attrs = Some("{\"tag\":\"t\"}".to_owned());
    rig.launch.log = Log::JsonFile { path, max_size: None, max_files: 1, attrs };
    rig.launch();
    assert_eq!(rig.exited().code, 0);
    let raw = fs::read_to_string(rig.log_path()).unwrap();
    assert!(
        raw.starts_with("{\"log\":\"x\\n\",\"stream\":\"stdout\",\"attrs\":{\"tag\":\"t\"},\"time\":\""),
        "{raw}"
    );
}

/// A file system that goes away with the test.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let flags = rustix::mount::MountFlags::NOSUID;
        rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, Some(c"size=64k")).unwrap();
        Self(dir)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn a_full_disk_does_not_stop_the_container() {
    let disk = Small::mount();
    let path = disk.0.path().join("log.json");
    let mut rig = Rig::new(Builder::Native, &["sh", "-c", "seq 1 20000; echo end; read go; echo after"]);
    rig.launch.log =
        Log::JsonFile { path: path.to_str().unwrap().to_owned(), max_size: None, max_files: 1, attrs: None };
    rig.launch.open_stdin = true;
    let mut client = rig.client(|_| {});
    rig.launch();
    client.until("end\n");
    // The file holds whole records only, even now.
    let kept = records(&path);
    assert_eq!(kept[0].1, "1\n");
    assert!(kept.len() < 20_000);
    fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    client.send("\n");
    assert_eq!(rig.exited().code, 0);
    assert!(records(&path).iter().any(|(_, text)| text == "after\n"));
    let said = rig.shim_log();
    assert_eq!(said.matches("No space left").count(), 1, "{said}");
    assert!(said.contains("bytes were lost"), "{said}");
}
