// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::*;

fn line(n: u32, stream: &str) -> String {
    format!(
        "{{\"log\":\"line {n}\\n\",\"stream\":\"{stream}\",\"time\":\"2026-01-01T00:00:{:02}.5Z\"}}\n",
        n % 60
    )
}

fn lines(range: std::ops::Range<u32>) -> String {
    range.fold(String::new(), |mut text, n| {
        let _ok = write!(text, "{}", line(n, "stdout"));
        text
    })
}

fn both() -> LogOptions {
    LogOptions { stdout: true, stderr: true, ..LogOptions::default() }
}

fn reader(path: &Path, files: u32, options: LogOptions) -> Reader {
    Reader::open(path.to_owned(), files, options).unwrap()
}

/// All that can be read without waiting.
fn drain(reader: &mut Reader) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let batch = reader.batch().unwrap();
        all.extend(batch.entries.iter().map(|e| String::from_utf8(e.bytes.to_vec()).unwrap()));
        if batch.over || !batch.more {
            return all;
        }
    }
}

fn expected(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| format!("line {n}\n")).collect()
}

fn log() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x-json.log");
    (dir, path)
}

#[test]
fn everything_in_order_across_rotated_files() {
    let (dir, path) = log();
    std::fs::write(dir.path().join("x-json.log.2"), lines(0..10)).unwrap();
    std::fs::write(dir.path().join("x-json.log.1"), lines(10..20)).unwrap();
    std::fs::write(&path, lines(20..30)).unwrap();
    assert_eq!(drain(&mut reader(&path, 3, both())), expected(0..30));
    assert_eq!(drain(&mut reader(&path, 2, both())), expected(10..30));
}

#[test]
fn the_last_lines() {
    let (dir, path) = log();
    std::fs::write(dir.path().join("x-json.log.1"), lines(0..2000)).unwrap();
    std::fs::write(&path, lines(2000..2005)).unwrap();
    let tail = |n| drain(&mut reader(&path, 2, LogOptions { tail: Tail::Last(n), ..both() }));
    assert_eq!(tail(0), expected(0..0));
    assert_eq!(tail(1), expected(2004..2005));
    assert_eq!(tail(5), expected(2000..2005));
    assert_eq!(tail(6), expected(1999..2005));
    assert_eq!(tail(1500), expected(505..2005));
    assert_eq!(tail(99999), expected(0..2005));
}

#[test]
fn nothing_was_printed_yet() {
    let (_dir, path) = log();
    let mut all = reader(&path, 1, both());
    let mut tail = reader(&path, 1, LogOptions { tail: Tail::Last(3), ..both() });
    assert_eq!(drain(&mut all), expected(0..0));
    std::fs::write(&path, lines(0..2)).unwrap();
    assert_eq!(drain(&mut all), expected(0..2));
    assert_eq!(drain(&mut tail), expected(0..2));
}

#[test]
fn growth_half_lines_and_rotation_are_followed() {
    use std::io::Write as _;
    let (dir, path) = log();
    std::fs::write(&path, lines(0..2)).unwrap();
    let mut reader = reader(&path, 5, both());
    assert_eq!(drain(&mut reader), expected(0..2));
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    let whole = line(2, "stdout");
    file.write_all(&whole.as_bytes()[..10]).unwrap();
    assert_eq!(drain(&mut reader), expected(0..0));
    file.write_all(&whole.as_bytes()[10..]).unwrap();
    assert_eq!(drain(&mut reader), expected(2..3));
    // Two rotations between two looks: the file in between is read as well.
    file.write_all(lines(3..4).as_bytes()).unwrap();
    std::fs::rename(&path, dir.path().join("x-json.log.2")).unwrap();
    std::fs::write(dir.path().join("x-json.log.1"), lines(4..6)).unwrap();
    std::fs::write(&path, lines(6..7)).unwrap();
    assert_eq!(drain(&mut reader), expected(3..7));
    // A rotated file that is deleted is read to its end.
    std::fs::rename(&path, dir.path().join("gone")).unwrap();
    std::fs::write(&path, lines(7..8)).unwrap();
    std::fs::remove_file(dir.path().join("gone")).unwrap();
    assert_eq!(drain(&mut reader), expected(7..8));
}

#[test]
fn streams_times_and_torn_lines() {
    let (_dir, path) = log();
    let text =
        [line(1, "stdout"), line(2, "stderr"), "{\"log\":\"torn\n".into(), "\n".into(), line(3, "stdout")];
    std::fs::write(&path, text.concat()).unwrap();
    let check =
        |options: LogOptions, wanted: &[&str]| assert_eq!(drain(&mut reader(&path, 1, options)), wanted);
    check(LogOptions { stderr: true, ..LogOptions::default() }, &["line 2\n"]);
    check(LogOptions { stdout: true, ..LogOptions::default() }, &["line 1\n", "line 3\n"]);
    let at = |second: i64| {
        let base: jiff::Timestamp = "2026-01-01T00:00:00.5Z".parse().unwrap();
        Some(i64::try_from(base.as_nanosecond()).unwrap() + second * 1_000_000_000)
    };
    check(LogOptions { since: at(2), ..both() }, &["line 2\n", "line 3\n"]);
    check(LogOptions { until: at(2), ..both() }, &["line 1\n", "line 2\n"]);
    check(
        LogOptions { timestamps: true, since: at(3), ..both() },
        &["2026-01-01T00:00:03.500000000Z line 3\n"],
    );
}

#[test]
fn attributes_are_shown() {
    let (_dir, path) = log();
    std::fs::write(
        &path,
        "{\"log\":\"x\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:00Z\",\"attrs\":{\"b\":\"2,3\",\"a\":\"1\"}}\n",
    )
    .unwrap();
    assert_eq!(drain(&mut reader(&path, 1, LogOptions { details: true, ..both() })), ["a=1,b=2%2C3 x\n"]);
}

#[test]
fn endless_lines_are_skipped() {
    let (_dir, path) = log();
    let mut text = vec![b'x'; 3 << 20];
    text.push(b'\n');
    text.extend_from_slice(line(1, "stdout").as_bytes());
    std::fs::write(&path, text).unwrap();
    assert_eq!(drain(&mut reader(&path, 1, both())), expected(1..2));
}
