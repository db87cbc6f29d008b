// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use berth_shim_proto::LogFormat;
use berth_shim_proto::local::{BLOCK, HEADER, Header, Kind};

use super::*;
use crate::log_config::Readable;

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

fn reader(path: &Path, options: LogOptions) -> Reader {
    Reader::open(Readable { path: path.to_owned(), format: LogFormat::Json }, options).unwrap()
}

/// All that can be read without waiting.
fn drain(reader: &mut Reader) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let batch = reader.batch().unwrap();
        all.extend_from_slice(&batch.bytes);
        if batch.over || !batch.more {
            return String::from_utf8(all).unwrap().split_inclusive('\n').map(str::to_owned).collect();
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
    assert_eq!(drain(&mut reader(&path, both())), expected(0..30));
}

#[test]
fn the_last_lines() {
    let (dir, path) = log();
    std::fs::write(dir.path().join("x-json.log.1"), lines(0..2000)).unwrap();
    std::fs::write(&path, lines(2000..2005)).unwrap();
    let tail = |n| drain(&mut reader(&path, LogOptions { tail: Tail::Last(n), ..both() }));
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
    let mut all = reader(&path, both());
    let mut tail = reader(&path, LogOptions { tail: Tail::Last(3), ..both() });
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
    let mut reader = reader(&path, both());
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
    // A file that is deleted is read to its end, and what is older is not read again.
    let age = |name: &str, seconds: u64| {
        let file = std::fs::File::options().write(true).open(dir.path().join(name)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
    };
    age("x-json.log.2", 1);
    age("x-json.log.1", 2);
    age("x-json.log", 3);
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
    let check = |options: LogOptions, wanted: &[&str]| assert_eq!(drain(&mut reader(&path, options)), wanted);
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
    assert_eq!(drain(&mut reader(&path, LogOptions { details: true, ..both() })), ["a=1,b=2%2C3 x\n"]);
}

#[test]
fn endless_lines_are_skipped() {
    let (_dir, path) = log();
    let mut text = vec![b'x'; 3 << 20];
    text.push(b'\n');
    text.extend_from_slice(line(1, "stdout").as_bytes());
    std::fs::write(&path, text).unwrap();
    assert_eq!(drain(&mut reader(&path, both())), expected(1..2));
}

/// Packs a file as the shim does.
fn pack(path: &Path) {
    use std::io::Write as _;
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).unwrap();
    let born = metadata.created().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let modified = metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec();
    let original = format!("{} {born} {modified}", metadata.ino());
    let packed = std::fs::File::create(format!("{}.gz", path.display())).unwrap();
    let mut encoder = flate2::GzBuilder::new().comment(original).write(packed, flate2::Compression::fast());
    encoder.write_all(&std::fs::read(path).unwrap()).unwrap();
    encoder.finish().unwrap();
    std::fs::remove_file(path).unwrap();
}

#[test]
fn compressed_files_are_read_like_others() {
    let (dir, path) = log();
    let numbered = |n: u32| dir.path().join(format!("x-json.log.{n}"));
    std::fs::write(&path, lines(0..10)).unwrap();
    let mut early = reader(&path, both());
    assert_eq!(drain(&mut early), expected(0..10));
    std::fs::rename(&path, numbered(1)).unwrap();
    pack(&numbered(1));
    std::fs::rename(dir.path().join("x-json.log.1.gz"), dir.path().join("x-json.log.2.gz")).unwrap();
    std::fs::write(numbered(1), lines(10..20)).unwrap();
    std::fs::write(&path, lines(20..30)).unwrap();
    // The packed file is known for the one that was read.
    assert_eq!(drain(&mut early), expected(10..30));
    assert_eq!(drain(&mut reader(&path, both())), expected(0..30));
    let tail = |n| drain(&mut reader(&path, LogOptions { tail: Tail::Last(n), ..both() }));
    assert_eq!(tail(5), expected(25..30));
    assert_eq!(tail(25), expected(5..30));
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 3, "nothing unpacked is left");
}

#[test]
fn a_single_file_that_starts_over_is_followed() {
    let (_dir, path) = log();
    std::fs::write(&path, lines(0..10)).unwrap();
    let mut reader = reader(&path, both());
    assert_eq!(drain(&mut reader), expected(0..10));
    std::fs::write(&path, lines(10..12)).unwrap();
    assert_eq!(drain(&mut reader), expected(10..12));
}

/// A line of a log that spans many seconds.
fn timed(n: u32) -> String {
    let time = jiff::Timestamp::from_second(1_767_225_600 + i64::from(n)).unwrap();
    format!("{{\"log\":\"line {n}\\n\",\"stream\":\"stdout\",\"time\":\"{time}\"}}\n")
}

fn since(n: u32) -> LogOptions {
    LogOptions { since: Some((1_767_225_600 + i64::from(n)) * 1_000_000_000), ..both() }
}

#[test]
fn times_are_found_in_large_files() {
    let (_dir, path) = log();
    let count = 60_000;
    std::fs::write(&path, (0..count).map(timed).collect::<String>()).unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() > 4 << 20);
    for n in [0, 1, 777, 30_000, 59_998, 59_999, 60_000] {
        assert_eq!(drain(&mut reader(&path, since(n))), expected(n..count), "{n}");
    }
    let file = std::fs::File::open(&path).unwrap();
    let length = file.metadata().unwrap().len();
    let found = json::seek(&file, length, since(59_000).since.unwrap()).unwrap();
    assert!(found > length - (1 << 20), "{found} of {length} is no place to begin");
}

/// A local log of many blocks: a frame a second, with this many lines each.
fn local(path: &Path, frames: u32, lines: u32) -> Readable {
    let mut file = Vec::new();
    let mut push = |kind, time: u32, lines, payload: &[u8]| {
        let left = BLOCK - file.len() % BLOCK;
        if HEADER + payload.len() > left {
            file.resize(file.len() + left, 0);
        }
        let time = (1_767_225_600 + i64::from(time)) * 1_000_000_000;
        let length = u32::try_from(payload.len()).unwrap();
        file.extend(Header { kind, stderr: false, length, lines, time }.encode());
        file.extend_from_slice(payload);
    };
    push(Kind::Attrs, 0, 0, b"{\"a\":\"1\"}");
    for frame in 0..frames {
        let payload: String =
            (0..lines).fold(String::new(), |text, n| text + &format!("line {}\n", frame * lines + n));
        push(Kind::Lines, frame, lines, payload.as_bytes());
    }
    push(Kind::Part, frames, 1, b"the end");
    std::fs::write(path, file).unwrap();
    Readable { path: path.to_owned(), format: LogFormat::Local }
}

#[test]
fn local_logs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("local.log");
    let (frames, each) = (6000, 30);
    let log = local(&path, frames, each);
    let count = frames * each;
    assert!(std::fs::metadata(&path).unwrap().len() > 4 * BLOCK as u64);
    let read = |options| drain(&mut Reader::open(log.clone(), options).unwrap());
    let wanted = |first| {
        let mut wanted = expected(first..count);
        wanted.push("the end".into());
        wanted
    };
    assert_eq!(read(both()), wanted(0));
    for n in [1, 2, 31, 32, 1000, 100_000] {
        let options = LogOptions { tail: Tail::Last(n.into()), ..both() };
        assert_eq!(read(options), wanted(count + 1 - n), "{n}");
    }
    assert_eq!(read(LogOptions { tail: Tail::Last(0), ..both() }), expected(0..0));
    for n in [0, 1, 2999, 5999] {
        assert_eq!(read(since(n)), wanted(n * each), "{n}");
    }
    let detailed = read(LogOptions { details: true, tail: Tail::Last(2), ..both() });
    assert_eq!(detailed, [format!("a=1 line {}\n", count - 1), "a=1 the end".into()]);
}

#[test]
fn local_logs_are_followed_frame_by_frame() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("local.log");
    let log = local(&path, 3, 1);
    let whole = std::fs::read(&path).unwrap();
    // A byte at a time: nothing comes twice, nothing half.
    let mut reader = Reader::open(log, both()).unwrap();
    let mut seen = Vec::new();
    for n in 0..=whole.len() {
        std::fs::write(&path, &whole[..n]).unwrap();
        seen.extend(drain(&mut reader));
    }
    let mut wanted = expected(0..3);
    wanted.push("the end".into());
    assert_eq!(seen, wanted);
}

#[test]
fn frames_for_clients_that_tell_streams_apart() {
    let (_dir, path) = log();
    std::fs::write(&path, [line(1, "stdout"), line(2, "stderr")].concat()).unwrap();
    let batch = reader(&path, LogOptions { framed: true, ..both() }).batch().unwrap();
    assert_eq!(&batch.bytes[..], b"\x01\0\0\0\0\0\0\x07line 1\n\x02\0\0\0\0\0\0\x07line 2\n");
}
