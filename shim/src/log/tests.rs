// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use berth_shim_proto::local::{BLOCK, Frames, Kind};

use super::*;

fn asked(path: &Path, max_size: Option<u64>, max_files: u32) -> LogFile {
    LogFile {
        path: path.to_str().unwrap().to_owned(),
        format: LogFormat::Json,
        max_size,
        max_files,
        compress: false,
        attrs: None,
    }
}

fn recorder(file: LogFile) -> io::Result<Recorder> {
    Ok(Recorder::open(&Log { file: Some(file), sink: None })?.unwrap())
}

fn open(path: &Path, max_size: Option<u64>, max_files: u32) -> Recorder {
    recorder(asked(path, max_size, max_files)).unwrap()
}

fn texts(path: &Path) -> Vec<String> {
    let content = std::fs::read_to_string(path).unwrap();
    content
        .lines()
        .map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            value["log"].as_str().unwrap().to_owned()
        })
        .collect()
}

fn numbered(path: &Path, number: u32) -> std::path::PathBuf {
    format!("{}.{number}", path.display()).into()
}

#[test]
fn files_rotate_and_the_oldest_goes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = open(&path, Some(1000), 3);
    for number in 0..100 {
        log.write(Stream::Stdout, format!("line {number}\n").as_bytes());
    }
    let all: Vec<String> =
        [numbered(&path, 2), numbered(&path, 1), path.clone()].iter().flat_map(|p| texts(p)).collect();
    let first = 100 - all.len();
    let expected: Vec<String> = (first..100).map(|n| format!("line {n}\n")).collect();
    assert_eq!(all, expected);
    assert!(!numbered(&path, 3).exists());
    for file in [&path, &numbered(&path, 1), &numbered(&path, 2)] {
        assert!(std::fs::metadata(file).unwrap().len() <= 1000);
    }
}

#[test]
fn one_burst_may_fill_several_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = open(&path, Some(500), 100);
    let burst: String = (0..200).map(|n| format!("{n}\n")).collect();
    log.write(Stream::Stderr, burst.as_bytes());
    let mut all = Vec::new();
    for number in (1..100).rev().filter(|n| numbered(&path, *n).exists()) {
        all.extend(texts(&numbered(&path, number)));
    }
    all.extend(texts(&path));
    assert_eq!(all.concat(), burst);
}

#[test]
fn a_single_file_starts_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = open(&path, Some(300), 1);
    for number in 0..50 {
        log.write(Stream::Stdout, format!("{number}\n").as_bytes());
    }
    assert_eq!(texts(&path).last().unwrap(), "49\n");
    assert!(std::fs::metadata(&path).unwrap().len() <= 300);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn the_last_line_needs_no_newline() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = open(&path, None, 1);
    log.write(Stream::Stdout, b"a\nb");
    log.write(Stream::Stderr, b"err");
    log.finish(Stream::Stdout);
    log.finish(Stream::Stderr);
    assert_eq!(texts(&path), ["a\n", "b", "err"]);
}

#[test]
fn a_torn_end_does_not_spoil_what_follows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    std::fs::write(&path, "{\"log\":\"half").unwrap();
    let mut log = open(&path, None, 1);
    log.write(Stream::Stdout, b"next\n");
    let content = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = content.lines().collect();
    assert_eq!(lines[0], "{\"log\":\"half");
    assert!(lines[1].starts_with("{\"log\":\"next\\n\""));
}

#[test]
fn a_disk_that_refuses_stops_nothing() {
    // Every write to /dev/full fails with ENOSPC; it cannot be cut back either.
    let mut log = open(Path::new("/dev/full"), None, 1);
    for _ in 0..10 {
        log.write(Stream::Stdout, b"lost\n");
    }
    log.finish(Stream::Stdout);
}

#[test]
fn attrs_must_be_an_object() {
    let log = |attrs: &str| {
        recorder(LogFile { attrs: Some(attrs.to_owned()), ..asked(Path::new("/dev/null"), None, 1) })
    };
    assert!(log("[1]").is_err());
    assert!(log("{").is_err());
    assert!(log("{\"a\": \"b\"}").is_ok());
}

fn local(path: &Path, max_size: Option<u64>, max_files: u32) -> LogFile {
    LogFile {
        format: LogFormat::Local,
        attrs: Some("{\"a\":\"b\"}".into()),
        ..asked(path, max_size, max_files)
    }
}

/// The frames of a local file, joined.
fn frames(path: &Path) -> (Vec<Kind>, Vec<u8>) {
    let content = std::fs::read(path).unwrap();
    let all: Vec<_> = content.chunks(BLOCK).flat_map(Frames::new).collect();
    let text = all.iter().filter(|(h, _)| h.kind != Kind::Attrs).flat_map(|(_, payload)| payload.to_vec());
    (all.iter().map(|(header, _)| header.kind).collect(), text.collect())
}

#[test]
fn a_local_log_holds_what_was_printed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = recorder(local(&path, None, 1)).unwrap();
    log.write(Stream::Stdout, b"one\ntwo\nthr");
    log.write(Stream::Stdout, b"ee\n\xff\0");
    log.finish(Stream::Stdout);
    assert_eq!(
        frames(&path),
        (vec![Kind::Attrs, Kind::Lines, Kind::Lines, Kind::Part], b"one\ntwo\nthree\n\xff\0".to_vec())
    );
}

#[test]
fn a_local_log_rotates_and_each_file_has_its_attributes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = recorder(local(&path, Some(1000), 3)).unwrap();
    let burst: String = (0..500).map(|n| format!("{n}\n")).collect();
    log.write(Stream::Stderr, burst.as_bytes());
    let mut all = Vec::new();
    for file in [numbered(&path, 2), numbered(&path, 1), path.clone()] {
        assert!(std::fs::metadata(&file).unwrap().len() <= 1000);
        let (kinds, text) = frames(&file);
        assert_eq!(kinds[0], Kind::Attrs);
        all.extend(text);
    }
    assert!(burst.as_bytes().ends_with(&all) && !all.is_empty());
    assert!(!numbered(&path, 3).exists());
}

#[test]
fn a_local_log_goes_on_after_a_torn_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = recorder(local(&path, None, 1)).unwrap();
    log.write(Stream::Stdout, "x".repeat(16 * 1024 - 1).repeat(20).as_bytes());
    log.write(Stream::Stdout, b"\nwhole\n");
    drop(log);
    let length = std::fs::metadata(&path).unwrap().len();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(length - 3).unwrap();
    let mut log = recorder(local(&path, None, 1)).unwrap();
    log.write(Stream::Stdout, b"next\n");
    assert!(frames(&path).1.ends_with(b"x\nnext\n"));
}
