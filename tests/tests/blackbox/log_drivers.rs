// SPDX-License-Identifier: Apache-2.0
//! Where output is recorded: drivers and their options.

use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use berth_tests::harness::{Bed, Options, until};
use serde_json::json;

fn with_busybox() -> Bed {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed
}

/// Status and message of a create with this log config.
fn create(bed: &Bed, driver: &str, options: &[(&str, &str)]) -> (u16, String) {
    let options: serde_json::Map<String, serde_json::Value> =
        options.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    let body = json!({
        "Image": "busybox", "Cmd": ["true"], "HostConfig": {"LogConfig": {"Type": driver, "Config": options}}
    });
    let answer = bed.api("POST", "/containers/create?name=refused", &body.to_string());
    if answer.status == 201 {
        bed.docker(&["rm", "refused"]).ok();
        return (201, String::new());
    }
    (answer.status, answer.message())
}

#[test]
fn unknown_drivers_and_options_are_refused_at_create() {
    let bed = with_busybox();
    for (driver, options, message) in [
        ("nope", &[][..], "error looking up logging plugin nope: plugin \"nope\" not found"),
        ("json-file", &[("x", "1")][..], "unknown log opt 'x' for json-file log driver"),
        ("local", &[("x", "1")], "unknown log opt 'x' for log driver local"),
        ("journald", &[("max-size", "1m")], "unknown log opt 'max-size' for journald log driver"),
        ("syslog", &[("max-size", "1m")], "unknown log opt 'max-size' for syslog log driver"),
        ("syslog", &[("syslog-facility", "x")], "invalid syslog facility"),
        ("syslog", &[("syslog-format", "x")], "Invalid syslog format"),
        ("syslog", &[("syslog-address", "corn://x")], "unsupported scheme: 'corn'"),
        ("json-file", &[("mode", "x")], "logger: logging mode not supported: x"),
        (
            "json-file",
            &[("max-buffer-size", "1m")],
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        ),
    ] {
        assert_eq!(create(&bed, driver, options), (400, message.to_owned()), "{driver} {options:?}");
    }
    for (driver, options) in [
        ("none", &[("whatever", "x")][..]),
        (
            "json-file",
            &[
                ("max-size", "10m"),
                ("max-file", "3"),
                ("compress", "true"),
                ("labels", "a,b"),
                ("labels-regex", "^c"),
                ("env", "A"),
                ("env-regex", "^B"),
                ("tag", "{{.Name}}/{{.ID}}"),
                ("mode", "non-blocking"),
                ("max-buffer-size", "4m"),
            ],
        ),
        ("local", &[("max-size", "10m"), ("max-file", "3"), ("compress", "false")]),
        ("syslog", &[("syslog-address", "udp://127.0.0.1:514"), ("syslog-facility", "local3"), ("tag", "x")]),
        ("journald", &[("tag", "x"), ("labels", "a"), ("cache-disabled", "true")]),
    ] {
        assert_eq!(create(&bed, driver, options), (201, String::new()), "{driver} {options:?}");
    }
    let drivers = bed.docker(&["info", "--format", "{{json .Plugins.Log}}"]).ok();
    for driver in ["journald", "json-file", "local", "syslog"] {
        assert!(drivers.contains(&format!("\"{driver}\"")), "{drivers}");
    }
    bed.finish();
}

#[test]
fn a_local_log_is_read_like_any_other() {
    let bed = with_busybox();
    let script = "echo out; head -c 40000 /dev/zero | tr '\\0' x; echo; printf 'a\\377b\\n'; \
                  printf 'no newline'";
    bed.docker(&["run", "--name", "ll", "--log-driver", "local", "busybox", "sh", "-c", script]).ok();
    let get = |query: &str| bed.api("GET", &format!("/containers/ll/logs?stdout=1&{query}"), "").body;
    let all = unframe(&get(""));
    let expected = [b"out\n".as_slice(), &[b'x'; 40000], b"\na\xffb\nno newline"].concat();
    assert!(all == expected, "binary output comes back byte by byte: {} bytes", all.len());
    assert_eq!(unframe(&get("tail=1")), b"no newline");
    assert_eq!(unframe(&get("tail=2")), b"a\xffb\nno newline");
    bed.docker(&["run", "--name", "ee", "--log-driver", "local", "busybox", "sh", "-c", "echo oops >&2"])
        .ok();
    assert_eq!(bed.docker(&["logs", "ee"]).stderr, "oops\n");
    let stamped = bed.docker(&["logs", "-t", "-n", "1", "ll"]).stdout;
    let (time, text) = stamped.split_once(' ').unwrap();
    assert_eq!((text, time.len()), ("no newline", 30), "{stamped}");
    assert_eq!(unframe(&get("since=4102444800")), b"");
    assert_eq!(unframe(&get("until=1000")), b"");
    assert_eq!(bed.docker(&["inspect", "-f", "{{.LogPath}}", "ll"]).ok(), "");
    bed.finish();
}

/// The payloads of frames, joined.
fn unframe(mut bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<8>() {
        let length = u32::from_be_bytes(header[4..].try_into().unwrap()) as usize;
        all.extend_from_slice(&rest[..length]);
        bytes = &rest[length..];
    }
    all
}

#[test]
fn rotated_files_are_read_as_one_and_the_oldest_go() {
    let bed = with_busybox();
    for (name, options) in [
        ("plain", &["--log-opt", "compress=false"][..]),
        ("packed", &["--log-opt", "compress=true"]),
        ("local", &["--log-driver", "local"]),
    ] {
        // What is larger than four files; the reader sees the newest of it, without a gap.
        let mut args = vec!["run", "-d", "--name", name];
        args.extend(["--log-opt", "max-size=50k", "--log-opt", "max-file=4"]);
        args.extend(options);
        args.extend([
            "busybox",
            "sh",
            "-c",
            "seq 1 60000; until test -e /go; do sleep 0.02; done; seq 60001 60100",
        ]);
        bed.docker(&args).ok();
        until("all is written", || {
            (bed.docker(&["logs", "-n", "1", name]).stdout.trim() == "60000").then_some(())
        });
        check_rotated(&bed, name);
        bed.docker(&["exec", name, "touch", "/go"]).ok();
        bed.docker(&["wait", name]).ok();
        let out = bed.docker(&["logs", name]).stdout;
        let numbers: Vec<u32> = out.lines().map(|line| line.parse().unwrap()).collect();
        let first = *numbers.first().unwrap();
        assert!(numbers.iter().copied().eq(first..=60_100), "{name}: a gap after {first}");
        assert!(first > 1, "{name}: nothing was dropped");
        assert_eq!(bed.docker(&["logs", "-n", "3", name]).stdout, "60098\n60099\n60100\n", "{name}");
    }
    bed.finish();
}

/// The rotated files are there and are what they are called.
fn check_rotated(bed: &Bed, name: &str) {
    let inspect = bed.api("GET", &format!("/containers/{name}/json"), "").json();
    let path = match inspect["LogPath"].as_str() {
        Some("") | None if bed.is_ours() => {
            let id = inspect["Id"].as_str().unwrap();
            bed.data_root().join("containers").join(id).join("local.log")
        }
        // Where the reference keeps these it does not say.
        Some("") | None => return,
        Some(path) => PathBuf::from(path),
    };
    let folder = path.parent().unwrap();
    if !folder.exists() && !bed.is_ours() {
        // Not the file system that this test sees.
        return;
    }
    let file = path.file_name().unwrap().to_str().unwrap();
    let suffix = if name == "plain" { "" } else { ".gz" };
    // They are packed in the background, and what is under way has another name.
    let wanted: Vec<String> = (1..4).map(|n| format!("{file}.{n}{suffix}")).collect();
    let names = until(&format!("there are {wanted:?}"), || {
        let names = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|n| n.starts_with(&format!("{file}."))).collect();
        names.sort();
        (names == wanted).then_some(names)
    });
    for rotated in names {
        let mut magic = [0; 2];
        let mut opened = std::fs::File::open(folder.join(&rotated)).unwrap();
        std::io::Read::read_exact(&mut opened, &mut magic).unwrap();
        assert_eq!(magic == [0x1f, 0x8b], suffix == ".gz", "{name}: {rotated}");
    }
}

/// The reference loses lines here: 18,407 of the 20,000 came.
#[test]
fn following_goes_on_across_rotation() {
    let bed = with_busybox();
    if !bed.is_ours() {
        return bed.finish();
    }
    let script = "for n in $(seq 0 19); do seq ${n}000 ${n}999 | sed s/^0*//; sleep 0.05; done";
    bed.docker(&[
        "run",
        "-d",
        "--name",
        "ff",
        "--log-opt",
        "max-size=60k",
        "--log-opt",
        "max-file=100",
        "busybox",
        "sh",
        "-c",
        script,
    ])
    .ok();
    let out = bed.docker(&["logs", "-f", "ff"]).stdout;
    assert_eq!(out.lines().count(), 20_000);
    let expected: String =
        (0..20).flat_map(|n| (0..1000).map(move |m| (n, m))).fold(String::new(), |text, (n, m)| {
            let number = n * 1000 + m;
            // `sed` leaves nothing of zero.
            text + &if number == 0 { "\n".to_owned() } else { format!("{number}\n") }
        });
    assert!(out == expected, "lines are missing, double or out of order");
    bed.finish();
}

/// The reference does not rotate by default.
#[test]
fn logs_rotate_though_nobody_asked() {
    let bed = with_busybox();
    if bed.is_ours() {
        bed.docker(&[
            "run",
            "--name",
            "dd",
            "busybox",
            "sh",
            "-c",
            "yes 0123456789012345 | head -c 12000000",
        ])
        .ok();
        let path = bed.docker(&["inspect", "-f", "{{.LogPath}}", "dd"]).ok();
        assert!(std::fs::exists(format!("{}.1", path.trim())).unwrap());
        assert_eq!(
            bed.docker(&["inspect", "-f", "{{json .HostConfig.LogConfig}}", "dd"]).ok(),
            "{\"Type\":\"json-file\",\"Config\":{}}"
        );
        assert_eq!(bed.docker(&["logs", "dd"]).stdout.len(), 12_000_000);
    }
    bed.finish();
}

#[test]
fn details_are_labels_environment_and_tag() {
    let bed = with_busybox();
    bed.docker(&[
        "run",
        "--name",
        "dd",
        "--label",
        "com.a=1",
        "--label",
        "com.b=2,3",
        "--label",
        "other=4",
        "-e",
        "X=5",
        "--log-opt",
        "labels=other",
        "--log-opt",
        "labels-regex=^com",
        "--log-opt",
        "env=X,NOPE",
        "--log-opt",
        "tag={{.Name}}",
        "busybox",
        "echo",
        "hi",
    ])
    .ok();
    assert_eq!(
        bed.docker(&["logs", "--details", "dd"]).stdout,
        "X=5,com.a=1,com.b=2%2C3,other=4,tag=dd hi\n"
    );
    bed.finish();
}

#[test]
fn none_cannot_be_read() {
    let bed = with_busybox();
    bed.docker(&["run", "--name", "nn", "--log-driver", "none", "busybox", "echo", "hi"]).ok();
    let answer = bed.api("GET", "/containers/nn/logs?stdout=1", "");
    assert_eq!(
        (answer.status, answer.message()),
        (501, "configured logging driver does not support reading".into())
    );
    bed.finish();
}

/// Messages that a socket got, up to the one that holds `last`.
fn messages(receive: impl Fn(&mut [u8]) -> std::io::Result<usize>, last: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    while !all.last().is_some_and(|text| text.contains(last)) {
        let mut buffer = vec![0; 64 * 1024];
        let n = receive(&mut buffer).expect("a message");
        all.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
    }
    all
}

#[test]
fn syslog_is_told_and_a_copy_can_be_read() {
    let bed = with_busybox();
    let socket = bed.netns.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    let address = format!("syslog-address=udp://{}", socket.local_addr().unwrap());
    let run = |name: &str, options: &[&str]| {
        let mut args = vec!["run", "--name", name, "--log-driver", "syslog", "--log-opt", &address];
        args.extend(options.iter().flat_map(|option| ["--log-opt", option]));
        args.extend(["busybox", "sh", "-c", "echo oops >&2; sleep 0.2; echo end"]);
        bed.docker(&args).ok();
        socket.set_read_timeout(Some(berth_tests::harness::DEADLINE)).unwrap();
        messages(|buffer| socket.recv(buffer), "end")
    };
    let plain = run("plain", &[]);
    let id = &bed.docker(&["inspect", "-f", "{{.Id}}", "plain"]).ok()[..12];
    let check = |text: &str, priority: &str, tag: &str, end: &str| {
        let rest = text.strip_prefix(priority).unwrap_or_else(|| panic!("{text:?}"));
        assert!(rest.contains(tag) && rest.ends_with(end), "{text:?}");
    };
    assert_eq!(plain.len(), 2);
    check(&plain[0], "<27>", &format!(" {id}["), "]: oops\n");
    check(&plain[1], "<30>", &format!(" {id}["), "]: end\n");
    let shaped = run("shaped", &["syslog-format=rfc5424micro", "syslog-facility=local7", "tag=a/{{.Name}}"]);
    check(&shaped[1], "<190>1 2", " a/shaped ", " a/shaped - end\n");
    let read = bed.docker(&["logs", "plain"]);
    assert_eq!((read.stdout.as_str(), read.stderr.as_str()), ("end\n", "oops\n"));
    run("uncached", &["cache-disabled=true"]);
    let refused = bed.api("GET", "/containers/uncached/logs?stdout=1", "");
    assert_eq!(
        (refused.status, refused.message()),
        (501, "configured logging driver does not support reading".into())
    );
    bed.finish();
}

#[test]
fn a_log_server_that_is_not_there_fails_the_start() {
    let bed = with_busybox();
    let out = bed.docker(&[
        "run",
        "--name",
        "ff",
        "--log-driver",
        "syslog",
        "--log-opt",
        "syslog-address=tcp://127.0.0.1:9",
        "busybox",
        "true",
    ]);
    assert_ne!(out.code, 0);
    assert!(out.stderr.contains("failed to initialize logging driver"), "{}", out.stderr);
    assert!(out.stderr.contains("onnection refused"), "{}", out.stderr);
    bed.finish();
}

/// The reference's journald cannot be pointed elsewhere.
#[test]
fn journald_is_told_in_its_own_protocol() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    let bed = Bed::with(Options {
        env: vec![("BERTH_JOURNAL_SOCKET".into(), path.to_str().unwrap().into())],
        ..Options::default()
    });
    if bed.is_ours() {
        bed.docker(&["pull", "busybox"]).ok();
        bed.docker(&[
            "run",
            "--name",
            "jj",
            "--log-driver",
            "journald",
            "--label",
            "my.label=x",
            "--log-opt",
            "labels=my.label",
            "--log-opt",
            "tag=t/{{.ImageName}}",
            "busybox",
            "echo",
            "hi",
        ])
        .ok();
        socket.set_read_timeout(Some(berth_tests::harness::DEADLINE)).unwrap();
        let entries = messages(|buffer| socket.recv(buffer), "MESSAGE=hi");
        let id = bed.docker(&["inspect", "-f", "{{.Id}}", "jj"]).ok();
        let id = id.trim();
        for field in [
            "PRIORITY=6",
            &format!("CONTAINER_ID={}", &id[..12]),
            &format!("CONTAINER_ID_FULL={id}"),
            "CONTAINER_NAME=jj",
            "CONTAINER_TAG=t/busybox",
            "SYSLOG_IDENTIFIER=t/busybox",
            "IMAGE_NAME=busybox",
            "MY_LABEL=x",
        ] {
            assert!(entries[0].lines().any(|line| line == field), "{field} is not in {}", entries[0]);
        }
        assert_eq!(bed.docker(&["logs", "jj"]).ok(), "hi");
    }
    bed.finish();
}

/// The reference's daemon is not ours to configure.
#[test]
fn the_daemons_defaults_apply() {
    let flags = ["--log-driver", "local", "--log-opt", "max-size=1m"].map(str::to_owned).to_vec();
    let bed = Bed::with(Options { flags, ..Options::default() });
    if bed.is_ours() {
        bed.docker(&["pull", "busybox"]).ok();
        bed.docker(&["run", "--name", "dd", "--log-opt", "max-file=2", "busybox", "echo", "hi"]).ok();
        assert_eq!(
            bed.docker(&["inspect", "-f", "{{json .HostConfig.LogConfig}}", "dd"]).ok(),
            "{\"Type\":\"local\",\"Config\":{\"max-file\":\"2\",\"max-size\":\"1m\"}}"
        );
        assert_eq!(bed.docker(&["logs", "dd"]).ok(), "hi");
        assert_eq!(bed.docker(&["info", "-f", "{{.LoggingDriver}}"]).ok(), "local");
    }
    bed.finish();
}

/// The reference's containers end with its daemon.
#[test]
fn a_missing_daemon_stalls_nothing_and_loses_nothing() {
    let mut bed = with_busybox();
    if bed.is_ours() {
        let script = "read go; seq 1 200000; echo done > /flag; read go";
        bed.docker(&[
            "run",
            "-d",
            "-i",
            "--name",
            "mm",
            "--log-opt",
            "max-size=-1",
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .ok();
        let path = bed.docker(&["inspect", "-f", "{{.LogPath}}", "mm"]).ok();
        let pid = bed.docker(&["inspect", "-f", "{{.State.Pid}}", "mm"]).ok();
        // Another way in than through the daemon.
        bed.kill_daemon();
        std::fs::write(format!("/proc/{}/fd/0", pid.trim()), "\n").unwrap();
        until("the container has written everything", || {
            std::fs::exists(format!("/proc/{}/root/flag", pid.trim())).unwrap().then_some(())
        });
        until("everything is in the log", || {
            let log = std::fs::read_to_string(path.trim()).unwrap();
            (log.lines().count() == 200_000).then_some(())
        });
        bed.start_daemon();
        let out = bed.docker(&["logs", "mm"]).stdout;
        assert!(out.lines().enumerate().all(|(n, line)| line == (n + 1).to_string()));
        assert_eq!(out.lines().count(), 200_000);
    }
    bed.finish();
}

#[test]
fn a_reader_that_does_not_read_stalls_nothing() {
    use std::io::Write as _;
    let bed = with_busybox();
    let script = "read go; seq 1 300000; echo done >&2; read go";
    bed.docker(&["run", "-d", "-i", "--name", "rr", "busybox", "sh", "-c", script]).ok();
    let mut reader = std::os::unix::net::UnixStream::connect(bed.socket()).unwrap();
    reader.write_all(b"GET /containers/rr/logs?follow=1&stdout=1 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut attach = super::attach::Stream::attach(&bed, "rr", "stdin=1&stream=1");
    attach.write(b"\n");
    until("the container is done", || {
        let log = bed.api("GET", "/containers/rr/logs?stderr=1", "");
        (unframe(&log.body) == b"done\n").then_some(())
    });
    drop((reader, attach));
    bed.finish();
}
