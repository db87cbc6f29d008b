// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use super::*;

fn open(path: &Path, max_size: Option<u64>, max_files: u32) -> JsonLog {
    let log = Log::JsonFile { path: path.to_str().unwrap().to_owned(), max_size, max_files, attrs: None };
    JsonLog::open(&log).unwrap().unwrap()
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
    let log = Log::JsonFile { path: "/dev/full".to_owned(), max_size: None, max_files: 1, attrs: None };
    let mut log = JsonLog::open(&log).unwrap().unwrap();
    for _ in 0..10 {
        log.write(Stream::Stdout, b"lost\n");
    }
    log.finish(Stream::Stdout);
}

#[test]
fn attrs_must_be_an_object() {
    let log = |attrs: &str| Log::JsonFile {
        path: "/dev/null".to_owned(),
        max_size: None,
        max_files: 1,
        attrs: Some(attrs.to_owned()),
    };
    assert!(JsonLog::open(&log("[1]")).is_err());
    assert!(JsonLog::open(&log("{")).is_err());
    assert!(JsonLog::open(&log("{\"a\": \"b\"}")).is_ok());
}
