// SPDX-License-Identifier: Apache-2.0
//! Joining a container's streams.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use berth_tests::harness::{Bed, DEADLINE, until};

/// A connection that was taken over for streams.
pub struct Stream {
    socket: UnixStream,
    /// The answer's head.
    pub head: String,
    early: Vec<u8>,
}

impl Stream {
    /// `POST path` with an upgrade (or without, when `headers` says so).
    pub fn open(bed: &Bed, method: &str, path: &str, headers: &str, body: &str) -> Self {
        let mut socket = UnixStream::connect(bed.socket()).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let length = if body.is_empty() {
            String::new()
        } else {
            format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())
        };
        write!(socket, "{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}{length}\r\n{body}").unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(socket.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&head));
            head.push(byte[0]);
        }
        Self { socket, head: String::from_utf8(head).unwrap(), early: Vec::new() }
    }

    /// Attaches to a container.
    pub fn attach(bed: &Bed, name: &str, query: &str) -> Self {
        let path = format!("/containers/{name}/attach?{query}");
        let this = Self::open(bed, "POST", &path, "Connection: Upgrade\r\nUpgrade: tcp\r\n", "");
        assert!(this.head.starts_with("HTTP/1.1 101 "), "{}", this.head);
        this
    }

    /// Starts an exec with its streams.
    pub fn exec(bed: &Bed, id: &str) -> Self {
        Self::exec_with(bed, id, "{}")
    }

    /// The same with a body.
    pub fn exec_with(bed: &Bed, id: &str, body: &str) -> Self {
        let path = format!("/exec/{id}/start");
        let this = Self::open(bed, "POST", &path, "Connection: Upgrade\r\nUpgrade: tcp\r\n", body);
        assert!(this.head.starts_with("HTTP/1.1 101 "), "{}", this.head);
        this
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    pub fn half_close(&self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }

    /// The next frame's stream and payload; `None` at the end.
    pub fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; 8];
        if self.socket.read(&mut header[..1]).unwrap() == 0 {
            return None;
        }
        self.socket.read_exact(&mut header[1..]).unwrap();
        let mut payload = vec![0; u32::from_be_bytes(header[4..].try_into().unwrap()) as usize];
        self.socket.read_exact(&mut payload).unwrap();
        Some((header[0], payload))
    }

    /// Reads frames until what came on stdout holds a text.
    pub fn until(&mut self, text: &str) {
        while !String::from_utf8_lossy(&self.early).contains(text) {
            let (_, payload) = self.frame().unwrap_or_else(|| panic!("the stream ended before {text:?}"));
            self.early.extend(payload);
        }
        self.early.clear();
    }

    /// What comes on an unframed stream up to a text.
    pub fn raw_until(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        while !seen.ends_with(text.as_bytes()) {
            let mut byte = [0];
            assert_eq!(self.socket.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&seen));
            seen.push(byte[0]);
        }
        String::from_utf8(seen).unwrap()
    }

    /// Everything until the end: stdout and stderr.
    pub fn rest(mut self) -> (Vec<u8>, Vec<u8>) {
        let mut all = (Vec::new(), Vec::new());
        while let Some((stream, payload)) = self.frame() {
            if stream == 2 { all.1.extend(payload) } else { all.0.extend(payload) }
        }
        all
    }

    /// Everything until the end, unframed.
    pub fn raw(mut self) -> Vec<u8> {
        let mut all = Vec::new();
        self.socket.read_to_end(&mut all).unwrap();
        all
    }
}

fn with_busybox() -> Bed {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed
}

const BOTH: &str = "stream=1&stdin=1&stdout=1&stderr=1";

#[test]
fn half_close_ends_input_and_not_output() {
    let bed = with_busybox();
    bed.docker(&["create", "-i", "--name", "hh", "busybox", "sh", "-c", "cat; echo end; echo oops >&2"]).ok();
    let mut stream = Stream::attach(&bed, "hh", BOTH);
    bed.docker(&["start", "hh"]).ok();
    stream.write(b"typed\n");
    stream.until("typed\n");
    stream.half_close();
    assert_eq!(stream.rest(), (b"end\n".to_vec(), b"oops\n".to_vec()));
    bed.finish();
}

#[test]
fn without_an_upgrade_the_answer_is_a_stream_of_bytes() {
    let bed = with_busybox();
    bed.docker(&["create", "-i", "--name", "pp", "busybox", "sh", "-c", "echo hi; read x; echo got $x"]).ok();
    let mut stream = Stream::open(&bed, "POST", &format!("/containers/pp/attach?{BOTH}"), "", "");
    assert!(stream.head.contains(" 200 OK\r\n"), "{}", stream.head);
    assert!(stream.head.contains("application/vnd.docker.raw-stream"), "{}", stream.head);
    bed.docker(&["start", "pp"]).ok();
    stream.until("hi\n");
    stream.write(b"there\n");
    assert_eq!(stream.rest().0, b"got there\n");
    bed.finish();
}

#[test]
fn detach_keys_end_the_session_and_not_the_process() {
    let bed = with_busybox();
    bed.docker(&["run", "-d", "-it", "--name", "dd", "busybox", "cat"]).ok();
    for (query, keys) in [("", &b"\x10\x11"[..]), ("&detachKeys=a,ctrl-b", b"a\x02")] {
        let mut stream = Stream::attach(&bed, "dd", &format!("{BOTH}{query}"));
        // Key by key, as a person types.
        for key in keys {
            stream.write(&[*key]);
        }
        let rest = String::from_utf8_lossy(&stream.raw()).into_owned();
        assert!(!rest.contains("\x11"), "{rest:?}");
    }
    let bad = bed.api("POST", &format!("/containers/dd/attach?{BOTH}&detachKeys=nope,nope"), "");
    assert_eq!(bad.status, 400, "{}", bad.text());
    assert_eq!(bed.docker(&["inspect", "-f", "{{.State.Running}}", "dd"]).ok(), "true");
    bed.finish();
}

#[test]
fn many_clients_see_the_same_and_logs_come_first() {
    let bed = with_busybox();
    bed.docker(&["run", "-d", "-i", "--name", "mm", "busybox", "sh", "-c", "echo early; exec cat"]).ok();
    until("the first line is recorded", || (bed.docker(&["logs", "mm"]).stdout == "early\n").then_some(()));
    let mut streams: Vec<Stream> =
        (0..20).map(|_| Stream::attach(&bed, "mm", &format!("{BOTH}&logs=1"))).collect();
    for stream in &mut streams {
        stream.until("early\n");
    }
    let mut late = Stream::attach(&bed, "mm", BOTH);
    late.write(b"late\n");
    for stream in streams.iter_mut().chain([&mut late]) {
        stream.until("late\n");
    }
    bed.docker(&["kill", "mm"]).ok();
    for stream in streams {
        assert_eq!(stream.rest(), (Vec::new(), Vec::new()));
    }
    bed.finish();
}

#[test]
fn errors_before_the_streams() {
    let bed = with_busybox();
    let gone = bed.api("POST", &format!("/containers/nosuch/attach?{BOTH}"), "");
    assert_eq!((gone.status, gone.text().trim()), (404, "No such container: nosuch"));
    bed.docker(&["run", "-d", "--name", "pp", "busybox", "sleep", "1000"]).ok();
    bed.docker(&["pause", "pp"]).ok();
    let paused = bed.api("POST", &format!("/containers/pp/attach?{BOTH}"), "");
    assert_eq!(paused.status, 409, "{}", paused.text());
    assert!(paused.text().contains("is paused, unpause the container before attach"), "{}", paused.text());
    bed.docker(&["unpause", "pp"]).ok();
    bed.finish();
}

/// Somebody who looks on and does not read is let go of; the reference lets the container wait for it.
#[test]
fn an_onlooker_that_is_stuck_does_not_stall_the_others() {
    let bed = with_busybox();
    if bed.is_ours() {
        let script = "read go; seq 1 400000; echo done; exec cat";
        bed.docker(&["run", "-d", "-i", "--name", "ss", "busybox", "sh", "-c", script]).ok();
        let stuck = Stream::attach(&bed, "ss", BOTH);
        let mut reader = Stream::attach(&bed, "ss", BOTH);
        reader.write(b"\n");
        reader.until("done\n");
        // What was sent before comes; then the end, in the middle of a frame perhaps.
        assert!(stuck.raw().len() < 3 << 20);
    }
    bed.finish();
}

const HANDSHAKE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://localhost\r\n";

/// A client's frame, masked with zeros.
fn ws_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

/// The server's next frame.
fn ws_read(stream: &mut Stream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    stream.socket.read_exact(&mut head).unwrap();
    let length = match head[1] {
        126 => {
            let mut length = [0; 2];
            stream.socket.read_exact(&mut length).unwrap();
            usize::from(u16::from_be_bytes(length))
        }
        short => usize::from(short),
    };
    let mut payload = vec![0; length];
    stream.socket.read_exact(&mut payload).unwrap();
    (head[0], payload)
}

fn ws_until(stream: &mut Stream, text: &str) {
    let mut seen = String::new();
    while !seen.contains(text) {
        let (opcode, payload) = ws_read(stream);
        assert_eq!(opcode, 0x82, "binary frames, each whole; seen: {seen:?}");
        seen += &String::from_utf8_lossy(&payload);
    }
}

#[test]
fn a_websocket_carries_the_streams() {
    let bed = with_busybox();
    let script = "echo early; while read x; do echo got $x; echo oops $x >&2; done; echo end";
    bed.docker(&["run", "-d", "-i", "--name", "ww", "busybox", "sh", "-c", script]).ok();
    until("the first line is recorded", || (bed.docker(&["logs", "ww"]).stdout == "early\n").then_some(()));
    let path = format!("/v1.43/containers/ww/attach/ws?{BOTH}&logs=1");
    let mut stream = Stream::open(&bed, "GET", &path, HANDSHAKE, "");
    assert!(stream.head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{}", stream.head);
    let head = stream.head.to_ascii_lowercase();
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
    ws_until(&mut stream, "early\n");
    // Text and binary frames are input alike; output is raw, stderr among it.
    stream.write(&ws_frame(1, b"one\n"));
    ws_until(&mut stream, "oops one\n");
    stream.write(&ws_frame(2, b"two\n"));
    ws_until(&mut stream, "oops two\n");
    bed.docker(&["kill", "ww"]).ok();
    let mut rest = Vec::new();
    stream.socket.read_to_end(&mut rest).unwrap();
    let gone = bed.api_with("GET", "/containers/nosuch/attach/ws?stream=1", &[], b"");
    assert!(matches!(gone.status, 400 | 404), "{}", gone.text());
    bed.finish();
}

#[test]
fn a_websocket_that_closes_leaves_the_container() {
    let bed = with_busybox();
    bed.docker(&["run", "-d", "-i", "--name", "ww", "busybox", "cat"]).ok();
    let path = format!("/containers/ww/attach/ws?{BOTH}");
    for _ in 0..3 {
        let mut stream = Stream::open(&bed, "GET", &path, HANDSHAKE, "");
        stream.write(&ws_frame(2, b"hi\n"));
        ws_until(&mut stream, "hi\n");
        stream.write(&ws_frame(8, &1000u16.to_be_bytes()));
        let mut rest = Vec::new();
        stream.socket.read_to_end(&mut rest).unwrap();
    }
    assert_eq!(bed.docker(&["inspect", "-f", "{{.State.Running}}", "ww"]).ok(), "true");
    bed.finish();
}
