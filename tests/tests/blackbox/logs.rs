// SPDX-License-Identifier: Apache-2.0
//! What a container wrote, read back.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use berth_tests::harness::{Bed, Cli};

#[test]
fn tail_timestamps_and_streams() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&["run", "--name", "ll", "busybox", "sh", "-c", "for n in 1 2 3 4 5; do echo line $n; done"])
        .ok();
    bed.docker(&["run", "--name", "both", "busybox", "sh", "-c", "echo out; echo oops >&2"]).ok();
    let both = bed.docker(&["logs", "both"]);
    assert_eq!((both.stdout.as_str(), both.stderr.as_str()), ("out\n", "oops\n"));
    assert_eq!(bed.docker(&["logs", "ll"]).stdout, "line 1\nline 2\nline 3\nline 4\nline 5\n");
    assert_eq!(bed.docker(&["logs", "-n", "2", "ll"]).stdout, "line 4\nline 5\n");
    assert_eq!(bed.docker(&["logs", "-n", "0", "ll"]).stdout, "");
    let stamped = bed.docker(&["logs", "-t", "ll"]).stdout;
    let first = stamped.lines().next().unwrap();
    let (time, text) = first.split_once(' ').unwrap();
    assert_eq!(text, "line 1");
    assert!(time.ends_with('Z') && time.len() == "2026-11-20T08:36:07.851767496Z".len(), "{time}");
    assert_eq!(bed.docker(&["logs", "--since", "1h", "ll"]).stdout.lines().count(), 5);
    assert_eq!(bed.docker(&["logs", "--since", "2999-01-01T00:00:00Z", "ll"]).stdout, "");
    assert_eq!(bed.docker(&["logs", "--until", "2001-01-01T00:00:00Z", "ll"]).stdout, "");
    let response = bed.api("GET", "/containers/ll/logs", "");
    assert_eq!(
        (response.status, response.message()),
        (400, "Bad parameters: you must choose at least one stream".into())
    );
    bed.finish();
}

#[test]
fn follow_sees_what_comes_and_ends_with_the_container() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&["run", "-d", "-i", "--name", "ff", "busybox", "cat"]).ok();
    let mut logs = bed.command(Cli::Docker, &["logs", "-f", "ff"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(logs.stdout.take().unwrap());
    let mut attach = bed
        .command(Cli::Docker, &["attach", "ff"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = attach.stdin.take().unwrap();
    for n in 0..3 {
        use std::io::Write;
        writeln!(stdin, "message {n}").unwrap();
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert_eq!(line, format!("message {n}\n"));
    }
    drop(stdin);
    bed.docker(&["kill", "ff"]).ok();
    let mut rest = String::new();
    lines.read_line(&mut rest).unwrap();
    assert_eq!(rest, "", "the stream ends with the container");
    assert!(logs.wait().unwrap().success());
    attach.wait().unwrap();
    bed.finish();
}

#[test]
fn long_partial_and_binary_lines_come_back_whole() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let script = "head -c 40000 /dev/zero | tr '\\0' x; echo; printf 'no newline'";
    bed.docker(&["run", "--name", "pp", "busybox", "sh", "-c", script]).ok();
    let out = bed.docker(&["logs", "pp"]).stdout;
    assert_eq!(out, format!("{}\nno newline", "x".repeat(40000)));
    bed.finish();
}
