// SPDX-License-Identifier: Apache-2.0
//! One HTTP client for all engines: a kept-alive connection on a Unix socket, blocking, no more than that.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

/// Docker 28.5's API; Podman and Berth speak it too.
const VERSION: &str = "/v1.44";

/// A connection to an engine's API.
pub struct Api {
    socket: PathBuf,
    stream: Option<BufReader<UnixStream>>,
}

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON; null if there is none.
    #[must_use]
    pub fn json(&self) -> Value {
        if self.body.is_empty() {
            return Value::Null;
        }
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("not JSON ({e}): {}", String::from_utf8_lossy(&self.body)))
    }
}

impl Api {
    /// Connects at the first request.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), stream: None }
    }

    fn connect(&self) -> BufReader<UnixStream> {
        let stream =
            UnixStream::connect(&self.socket).unwrap_or_else(|e| panic!("{}: {e}", self.socket.display()));
        stream.set_read_timeout(Some(Duration::from_secs(600))).expect("a time limit");
        BufReader::with_capacity(64 * 1024, stream)
    }

    /// One request.
    pub fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let mut stream = self.stream.take().unwrap_or_else(|| self.connect());
        send(stream.get_mut(), method, path, body, "");
        let (answer, keep) = receive(&mut stream, method);
        if keep {
            self.stream = Some(stream);
        }
        answer
    }

    /// One request that must succeed.
    #[track_caller]
    pub fn ok(&mut self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let answer = self.call(method, path, body);
        let text = String::from_utf8_lossy(&answer.body);
        assert!(answer.status < 400, "{}: {method} {path}: {} {text}", self.socket.display(), answer.status);
        answer
    }

    /// A request after which the connection is the caller's: attach, exec, events, logs. The header of the answer has been
    /// read; a body that is not a raw stream comes with its chunks' framing.
    #[track_caller]
    pub fn stream(&self, method: &str, path: &str, body: Option<&Value>) -> BufReader<UnixStream> {
        let mut stream = self.connect();
        send(stream.get_mut(), method, path, body, "Connection: Upgrade\r\nUpgrade: tcp\r\n");
        let (status, _) = head(&mut stream);
        assert!(matches!(status, 101 | 200), "{}: {method} {path}: {status}", self.socket.display());
        stream
    }

    /// A request whose answer is read until the engine closes: its header has been read, its body has its chunks' framing.
    #[track_caller]
    pub fn until_closed(&self, method: &str, path: &str) -> BufReader<UnixStream> {
        let mut stream = self.connect();
        send(stream.get_mut(), method, path, None, "Connection: close\r\n");
        let (status, _) = head(&mut stream);
        assert_eq!(status, 200, "{}: {method} {path}", self.socket.display());
        stream
    }

    /// Creates a container of `busybox`.
    #[track_caller]
    pub fn create(&mut self, body: &Value) -> String {
        let made = self.ok("POST", "/containers/create", Some(body)).json();
        made["Id"].as_str().expect("an id").to_owned()
    }

    /// Removes a container, running or not.
    #[track_caller]
    pub fn remove(&mut self, id: &str) {
        self.ok("DELETE", &format!("/containers/{id}?force=1&v=1"), None);
    }
}

fn send(stream: &mut UnixStream, method: &str, path: &str, body: Option<&Value>, more: &str) {
    let body = body.map(ToString::to_string).unwrap_or_default();
    let mut text = format!("{method} {VERSION}{path} HTTP/1.1\r\nHost: localhost\r\n{more}");
    if !body.is_empty() {
        text.push_str("Content-Type: application/json\r\n");
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    stream.write_all(text.as_bytes()).expect("sending a request");
}

/// The status and the headers, names in lower case.
fn head(stream: &mut impl BufRead) -> (u16, Vec<(String, String)>) {
    let mut line = String::new();
    stream.read_line(&mut line).expect("reading an answer");
    let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status line");
    let mut headers = Vec::new();
    loop {
        line.clear();
        stream.read_line(&mut line).expect("reading an answer");
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
            None => return (status, headers),
        }
    }
}

fn receive(stream: &mut BufReader<UnixStream>, method: &str) -> (Answer, bool) {
    let (status, headers) = head(stream);
    let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let mut keep = header("connection") != Some("close");
    let mut body = Vec::new();
    if header("transfer-encoding") == Some("chunked") {
        let mut line = String::new();
        loop {
            line.clear();
            stream.read_line(&mut line).expect("a chunk");
            let size = u64::from_str_radix(line.trim(), 16).expect("a chunk's size");
            (&mut *stream).take(size).read_to_end(&mut body).expect("a chunk's bytes");
            line.clear();
            stream.read_line(&mut line).expect("a chunk's end");
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = header("content-length") {
        let length = length.parse().expect("a length");
        (&mut *stream).take(length).read_to_end(&mut body).expect("a body");
    } else if !matches!(status, 204 | 304) && method != "HEAD" {
        stream.read_to_end(&mut body).expect("a body");
        keep = false;
    }
    (Answer { status, body }, keep)
}
