// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::net::UnixDatagram;

use berth_shim_proto::SyslogFormat;

use super::*;

fn line(text: &str) -> Line<'_> {
    Line { text: text.as_bytes(), whole: true, at: Duration::new(1_795_163_767, 851_767_496) }
}

fn asked(format: SyslogFormat, address: SinkAddress, lossy: bool) -> LogSink {
    let kind = SinkKind::Syslog {
        format,
        facility: 3,
        tag: "tag".into(),
        hostname: "host".into(),
        utc_offset: -2 * 3600,
    };
    LogSink { kind, address, buffer: 64 * 1024, lossy }
}

fn said(format: SyslogFormat, stream: Stream) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let server = UnixDatagram::bind(&path).unwrap();
    let address = SinkAddress::UnixDatagram(path.to_str().unwrap().to_owned());
    let mut sink = Sink::open(&asked(format, address, false)).unwrap();
    sink.push(stream, &line("hello"));
    sink.flush();
    let mut buffer = [0; 1000];
    let n = server.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..n].to_vec()).unwrap()
}

#[test]
fn layouts() {
    let pid = std::process::id();
    let check = |format, stream, expected: String| assert_eq!(said(format, stream), expected);
    check(SyslogFormat::Unix, Stream::Stdout, format!("<30>Nov 20 06:36:07 tag[{pid}]: hello\n"));
    check(SyslogFormat::Rfc3164, Stream::Stderr, format!("<27>Nov 20 06:36:07 host tag[{pid}]: hello\n"));
    check(
        SyslogFormat::Rfc5424,
        Stream::Stdout,
        format!("<30>1 2026-11-20T08:36:07Z host tag {pid} tag - hello\n"),
    );
    check(
        SyslogFormat::Rfc5424Micro,
        Stream::Stdout,
        format!("<30>1 2026-11-20T08:36:07.851767Z host tag {pid} tag - hello\n"),
    );
}

#[test]
fn a_full_queue_stops_reading_or_drops() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let server = UnixDatagram::bind(&path).unwrap();
    let address = SinkAddress::UnixDatagram(path.to_str().unwrap().to_owned());
    let text = "x".repeat(1000);
    let fill = |lossy| {
        let mut sink = Sink::open(&asked(SyslogFormat::Unix, address.clone(), lossy)).unwrap();
        for _ in 0..1000 {
            if !sink.has_room() {
                break;
            }
            sink.push(Stream::Stdout, &line(&text));
            sink.flush();
        }
        sink
    };
    let mut patient = fill(false);
    assert!(!patient.has_room() && patient.dropped == 0);
    assert!(patient.interest().is_some());
    let lossy = fill(true);
    assert!(lossy.has_room() && lossy.dropped > 0 && lossy.queued <= lossy.limit);
    let mut buffer = [0; 2000];
    server.set_nonblocking(true).unwrap();
    while patient.pending() {
        while server.recv(&mut buffer).is_ok() {}
        patient.on_ready(PollFlags::OUT);
    }
    assert!(patient.has_room());
}

#[test]
fn a_peer_that_goes_is_tried_again_with_longer_waits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let server = UnixDatagram::bind(&path).unwrap();
    let address = SinkAddress::UnixDatagram(path.to_str().unwrap().to_owned());
    let mut sink = Sink::open(&asked(SyslogFormat::Unix, address, false)).unwrap();
    drop(server);
    sink.push(Stream::Stdout, &line("one"));
    sink.flush();
    assert!(sink.has_room() && sink.deadline().is_some());
    let due = |sink: &mut Sink| {
        if let Link::Down { again_at, .. } = &mut sink.link {
            *again_at = Instant::now();
        }
        sink.tick();
    };
    std::fs::remove_file(&path).unwrap();
    due(&mut sink);
    assert_eq!(sink.wait, Duration::from_secs(4), "one second, two, and then this");
    let server = UnixDatagram::bind(&path).unwrap();
    due(&mut sink);
    sink.on_ready(PollFlags::OUT);
    let mut buffer = [0; 200];
    let n = server.recv(&mut buffer).unwrap();
    assert!(String::from_utf8_lossy(&buffer[..n]).ends_with("one\n"));
    assert!(!sink.pending());
}

#[test]
fn a_peer_that_takes_nothing_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _server = UnixDatagram::bind(&path).unwrap();
    let address = SinkAddress::UnixDatagram(path.to_str().unwrap().to_owned());
    let mut sink = Sink::open(&asked(SyslogFormat::Unix, address, false)).unwrap();
    while sink.has_room() {
        sink.push(Stream::Stdout, &line(&"x".repeat(1000)));
        sink.flush();
    }
    sink.moved_at = Instant::now().checked_sub(STALL).unwrap();
    sink.tick();
    assert!(sink.has_room());
    let before = sink.dropped;
    sink.push(Stream::Stdout, &line(&"x".repeat(1000)));
    assert_eq!(sink.dropped, before + 1);
    sink.last_call();
    assert!(sink.pending());
}

#[test]
fn an_entry_too_large_for_a_datagram_comes_as_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let server = UnixDatagram::bind(&path).unwrap();
    let fields = vec![("LABEL".to_owned(), "y".repeat(400_000)), ("MORE".to_owned(), "z\n".repeat(100_000))];
    let kind = SinkKind::Journald { fields };
    let address = SinkAddress::UnixDatagram(path.to_str().unwrap().to_owned());
    let mut sink = Sink::open(&LogSink { kind, address, buffer: 1 << 20, lossy: false }).unwrap();
    sink.push(Stream::Stdout, &line("small"));
    sink.flush();
    assert!(!sink.pending() && sink.dropped == 0);
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let flags = rustix::net::RecvFlags::empty();
    let parts = &mut [std::io::IoSliceMut::new(&mut [])];
    rustix::net::recvmsg(&server, parts, &mut control, flags).unwrap();
    let fd = control.drain().find_map(|message| match message {
        rustix::net::RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let mut file = std::fs::File::from(fd.expect("a descriptor"));
    std::io::Seek::rewind(&mut file).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut file, &mut text).unwrap();
    assert!(text.starts_with("MESSAGE=small\n") && text.contains(&"z\n".repeat(100_000)));
}
