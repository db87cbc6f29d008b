// SPDX-License-Identifier: Apache-2.0
//! One HTTP client for all engines: a kept-alive connection on a Unix socket, blocking, no more than that.

use std::io::{self, BufRead, BufReader, Read, Write};
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

    /// A request whose answer comes in chunks, read as it comes and without their framing.
    #[track_caller]
    pub fn chunks(&self, method: &str, path: &str) -> impl Read + use<> {
        let mut stream = self.connect();
        send(stream.get_mut(), method, path, None, "");
        let (status, headers) = head(&mut stream);
        assert_eq!(status, 200, "{}: {method} {path}", self.socket.display());
        assert!(is_chunked(&headers), "{}: {method} {path}: {headers:?}", self.socket.display());
        Chunks::of(stream)
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
    if is_chunked(&headers) {
        Chunks::of(&mut *stream).read_to_end(&mut body).expect("the chunks of a body");
    } else if let Some(length) = header("content-length") {
        let length = length.parse().expect("a length");
        (&mut *stream).take(length).read_to_end(&mut body).expect("a body");
    } else if !matches!(status, 204 | 304) && method != "HEAD" {
        stream.read_to_end(&mut body).expect("a body");
        keep = false;
    }
    (Answer { status, body }, keep)
}

fn is_chunked(headers: &[(String, String)]) -> bool {
    headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked")
}

/// A body in chunks (RFC 9112, 7.1) without their framing, to the last one and no further.
struct Chunks<R> {
    stream: R,
    /// Of the chunk that is being read.
    left: u64,
    ended: bool,
}

impl<R: BufRead> Chunks<R> {
    fn of(stream: R) -> Self {
        Self { stream, left: 0, ended: false }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let whole = line.strip_suffix("\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(whole.to_owned())
    }

    fn size(&mut self) -> io::Result<u64> {
        let line = self.line()?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        u64::from_str_radix(digits, 16)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("no chunk's size: {line:?}")))
    }
}

impl<R: BufRead> Read for Chunks<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            self.left = self.size()?;
            if self.left == 0 {
                self.ended = true;
                // Trailers, and an empty line.
                while !self.line()?.is_empty() {}
                return Ok(0);
            }
        }
        let n = (&mut self.stream).take(self.left).read(buffer)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n as u64;
        if self.left == 0 && !self.line()?.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk is longer than it says"));
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn chunks_however_they_are_cut() {
        let body = b"4\r\nwiki\r\n10;x=y\r\n0\r\n\r\n0123456789a\r\n0\r\nx-trailer: 1\r\n\r\nHTTP/1.1";
        for step in 1..body.len() {
            let mut stream = BufReader::with_capacity(step, &body[..]);
            let mut all = Vec::new();
            Chunks::of(&mut stream).read_to_end(&mut all).unwrap();
            assert_eq!(all, b"wiki0\r\n\r\n0123456789a", "{step}");
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, b"HTTP/1.1", "the next answer is left alone");
        }
        for broken in [&body[..20], &body[..3], b"", b"z\r\n", b"1\r\nab\r\n0\r\n\r\n"] {
            assert!(Chunks::of(broken).read_to_end(&mut Vec::new()).is_err(), "{broken:?}");
        }
    }
}
