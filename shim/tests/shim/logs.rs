// SPDX-License-Identifier: Apache-2.0
//! What is recorded of a container's output.

use std::fs;

use berth_shim_proto::*;

use crate::rig::{Builder, Rig, log, records};

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
    rig.launch.log = log(path, |log| (log.max_size, log.max_files) = (Some(20_000), 4));
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
fn rotated_files_are_compressed() {
    // Slow enough for the compressing child to keep up, and to be reaped before the end.
    let script = "for n in 1 2 3 4; do seq ${n}000 ${n}999; read go; done";
    let mut rig = Rig::new(Builder::Native, &["sh", "-c", script]);
    let path = rig.log_path().to_str().unwrap().to_owned();
    rig.launch.log = log(path, |log| (log.max_size, log.max_files, log.compress) = (Some(40_000), 50, true));
    rig.launch.open_stdin = true;
    let mut client = rig.client(|_| {});
    rig.launch();
    for n in 1..=4 {
        client.until(&format!("{n}999\n"));
        rig.wait_for("compressed logs", |dir| {
            let names: Vec<String> = names(dir);
            names.iter().any(|name| name.ends_with(".gz"))
                && !names.iter().any(|name| name.ends_with(".tmp") || plain_predecessor(name))
        });
        client.send("\n");
    }
    assert_eq!(rig.exited().code, 0);
    let mut all = Vec::new();
    for number in (1..50).rev() {
        let path = rig.dir.path().join(format!("log.json.{number}.gz"));
        if let Ok(file) = fs::File::open(&path) {
            let mut text = String::new();
            std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut text).unwrap();
            all.extend(crate::rig::parse(&text));
        }
    }
    all.extend(rig.log());
    let expected: Vec<String> =
        (1..=4).flat_map(|n| n * 1000..=n * 1000 + 999).map(|number| format!("{number}\n")).collect();
    assert_eq!(all.into_iter().map(|(_, text)| text).collect::<Vec<_>>(), expected);
}

fn names(dir: &std::path::Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// `log.json.3`
fn plain_predecessor(name: &str) -> bool {
    name.strip_prefix("log.json.").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// So many messages of a datagram socket; those of different streams come in any order.
fn datagrams(socket: &std::os::unix::net::UnixDatagram, count: usize) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    socket.set_read_timeout(Some(crate::rig::DEADLINE)).unwrap();
    while all.len() < count {
        let mut buffer = vec![0; 1 << 20];
        let n = socket.recv(&mut buffer).unwrap();
        all.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
    }
    all
}

#[test]
fn journald_is_told_in_its_own_protocol() {
    let script = "echo out; echo oops >&2; head -c 16400 /dev/zero | tr '\\0' x; echo; echo end";
    let mut rig = Rig::new(Builder::Native, &["sh", "-c", script]);
    let path = rig.dir.path().join("journal.sock");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let fields = vec![("CONTAINER_NAME".to_owned(), "cc".to_owned()), ("NOTE".to_owned(), "a\nb".to_owned())];
    rig.launch.log = Log {
        file: None,
        sink: Some(LogSink {
            kind: SinkKind::Journald { fields },
            address: SinkAddress::UnixDatagram(path.to_str().unwrap().to_owned()),
            buffer: 1 << 20,
            lossy: false,
        }),
    };
    rig.launch();
    let entries = datagrams(&socket, 5);
    assert_eq!(rig.exited().code, 0);
    let find = |text: &str| entries.iter().find(|entry| entry.contains(text)).unwrap();
    let out = find("MESSAGE=out\n");
    assert!(out.contains("PRIORITY=6\n") && out.contains("CONTAINER_NAME=cc\n"), "{out}");
    assert!(out.contains("NOTE\n\u{3}\0\0\0\0\0\0\0a\nb\n"), "{out:?}");
    assert!(!out.contains("PARTIAL"), "{out}");
    assert!(find("MESSAGE=oops\n").contains("PRIORITY=3\n"));
    let part = find(&"x".repeat(16384));
    assert!(
        part.contains("CONTAINER_PARTIAL_MESSAGE=true\n") && part.contains("CONTAINER_PARTIAL_LAST=false\n")
    );
    let last = find(&format!("MESSAGE={}\n", "x".repeat(16)));
    assert!(last.contains("CONTAINER_PARTIAL_LAST=true\n") && last.contains("CONTAINER_PARTIAL_ORDINAL=2\n"));
}

#[test]
fn a_log_server_that_goes_away_and_one_that_does_not_read_stop_nothing() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut rig = Rig::new(Builder::Native, &["sh", "-c", "read go; seq 1 400000; echo done; read go"]);
    rig.launch.log.sink = Some(LogSink {
        kind: SinkKind::Syslog {
            format: SyslogFormat::Rfc5424,
            facility: 3,
            tag: "t".into(),
            hostname: "h".into(),
            utc_offset: 0,
        },
        address: SinkAddress::Tcp(listener.local_addr().unwrap().to_string()),
        buffer: 1 << 20,
        lossy: true,
    });
    rig.launch.open_stdin = true;
    let mut client = rig.client(|attach| attach.stdout = false);
    rig.launch();
    // It never reads: beyond what the sockets and the queue hold lines are lost, and the container goes on.
    let (server, _) = listener.accept().unwrap();
    client.send("\n");
    rig.wait_for("the log's end", |dir| fs::read_to_string(dir.join("log.json")).unwrap().contains("done"));
    drop(server);
    client.send("\n");
    assert_eq!(rig.exited().code, 0);
}

#[test]
fn a_log_server_that_is_not_there_fails_the_start() {
    let mut rig = Rig::new(Builder::Native, &["true"]);
    rig.launch.log.sink = Some(LogSink {
        kind: SinkKind::Journald { fields: Vec::new() },
        address: SinkAddress::UnixDatagram("/nowhere/at/all".into()),
        buffer: 1 << 20,
        lossy: false,
    });
    match rig.try_launch() {
        Reply::Failed(failure) => {
            assert!(failure.message.contains("failed to initialize logging driver"), "{}", failure.message);
            assert!(failure.message.contains("journald is not enabled on this host"), "{}", failure.message);
        }
        other => panic!("{other:?}"),
    }
    rig.gone();
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
    rig.launch.log = log(path, |log| log.attrs = attrs);
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
    rig.launch.log = log(path.to_str().unwrap().to_owned(), |_| {});
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
