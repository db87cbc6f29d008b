// SPDX-License-Identifier: Apache-2.0
//! One HTTP request on a connection of its own, within a deadline and a bound.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;

/// Longest head of an answer, and longest answer.
const HEAD_MAX: u64 = 64 << 10;
const BODY_MAX: u64 = 4 << 20;
const HEADERS_MAX: usize = 64;

/// Where a plugin listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Unix(PathBuf),
    Tcp(String),
}

impl Address {
    /// `unix:///path` or `tcp://host:port`.
    pub(super) fn parse(url: &str) -> Option<Self> {
        if let Some(path) = url.strip_prefix("unix://").filter(|path| path.starts_with('/')) {
            return Some(Self::Unix(path.into()));
        }
        let host = url.strip_prefix("tcp://").or_else(|| url.strip_prefix("http://"))?.trim_end_matches('/');
        let (name, port) = host.rsplit_once(':')?;
        (!name.is_empty() && port.parse::<u16>().is_ok()).then(|| Self::Tcp(host.to_owned()))
    }
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// A connection that ends at a deadline.
struct Connection {
    stream: Stream,
    deadline: Instant,
}

impl Connection {
    fn open(address: &Address, deadline: Instant) -> io::Result<Self> {
        let stream = match address {
            Address::Unix(path) => Stream::Unix(connect(path, deadline)?),
            Address::Tcp(host) => {
                let address = host.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
                Stream::Tcp(TcpStream::connect_timeout(&address, left(deadline)?)?)
            }
        };
        Ok(Self { stream, deadline })
    }
}

#[allow(clippy::disallowed_methods)] // A pause between attempts; there is no event to wait for.
/// Connects; a plugin that takes no connections any more is given up at the deadline.
fn connect(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    /// Nothing tells when a listener has room again.
    const AGAIN: Duration = Duration::from_millis(10);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let address = SocketAddrUnix::new(path)?;
    loop {
        match rustix::net::connect(&socket, &address) {
            Ok(()) => break,
            Err(Errno::AGAIN) => std::thread::sleep(left(deadline)?.min(AGAIN)),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::Error::new(io::ErrorKind::TimedOut, "it takes too long")) } else { Ok(left) }
}

/// What a socket says when its time-out is over.
fn late(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "it takes too long"),
        _ => error,
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = Some(left(self.deadline)?);
        match &mut self.stream {
            Stream::Unix(stream) => stream.set_read_timeout(left).and_then(|()| stream.read(buffer)),
            Stream::Tcp(stream) => stream.set_read_timeout(left).and_then(|()| stream.read(buffer)),
        }
        .map_err(late)
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = Some(left(self.deadline)?);
        match &mut self.stream {
            Stream::Unix(stream) => stream.set_write_timeout(left).and_then(|()| stream.write(bytes)),
            Stream::Tcp(stream) => stream.set_write_timeout(left).and_then(|()| stream.write(bytes)),
        }
        .map_err(late)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("its answer is no HTTP: {what}"))
}

/// Posts JSON; the status and the body of the answer.
pub(super) fn post(
    address: &Address,
    path: &str,
    body: &[u8],
    deadline: Instant,
) -> io::Result<(u16, Vec<u8>)> {
    let mut connection = Connection::open(address, deadline)?;
    let host = match address {
        Address::Unix(_) => "plugin",
        Address::Tcp(host) => host,
    };
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: berth\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\n\
         Content-Type: application/vnd.docker.plugins.v1.2+json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    connection.write_all(&request)?;
    answer(&mut BufReader::new(connection))
}

fn answer(from: &mut impl BufRead) -> io::Result<(u16, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let n = from.take(HEAD_MAX.saturating_sub(head.len() as u64)).read_until(b'\n', &mut head)?;
        if n == 0 {
            return Err(bad("its head does not end"));
        }
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut headers);
    let status = match parsed.parse(&head) {
        Ok(httparse::Status::Complete(_)) => parsed.code.unwrap_or(0),
        Ok(httparse::Status::Partial) => return Err(bad("its head is cut short")),
        Err(error) => return Err(bad(&error.to_string())),
    };
    let header = |name: &str| {
        let found = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok().map(str::trim)
    };
    let chunked = header("Transfer-Encoding").is_some_and(|how| how.eq_ignore_ascii_case("chunked"));
    let length = header("Content-Length").map(|text| text.parse::<u64>().map_err(|_| bad("its length")));
    let mut body = Vec::new();
    match (chunked, length.transpose()?) {
        (true, _) => chunks(from, &mut body)?,
        (false, Some(length)) if length > BODY_MAX => return Err(too_long()),
        (false, Some(length)) => {
            from.take(length).read_to_end(&mut body)?;
            if body.len() as u64 != length {
                return Err(bad("its body is cut short"));
            }
        }
        (false, None) => {
            from.take(BODY_MAX + 1).read_to_end(&mut body)?;
            if body.len() as u64 > BODY_MAX {
                return Err(too_long());
            }
        }
    }
    Ok((status, body))
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("its answer is longer than {BODY_MAX} bytes"))
}

fn chunks(from: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let mut line = Vec::new();
        from.take(100).read_until(b'\n', &mut line)?;
        let text = std::str::from_utf8(&line).map_err(|_| bad("a chunk's size"))?;
        let size = text.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(|_| bad("a chunk's size"))?;
        if size == 0 {
            return Ok(());
        }
        if size > BODY_MAX || body.len() as u64 + size > BODY_MAX {
            return Err(too_long());
        }
        let before = body.len() as u64;
        from.take(size).read_to_end(body)?;
        let mut end = [0; 2];
        from.read_exact(&mut end)?;
        if body.len() as u64 != before + size || end != *b"\r\n" {
            return Err(bad("a chunk is cut short"));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::os::unix::net::UnixListener;

    fn check(text: &str) -> io::Result<(u16, Vec<u8>)> {
        answer(&mut text.as_bytes())
    }

    #[test]
    fn answers_in_their_three_lengths() {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}tail";
        assert_eq!(check(head).unwrap(), (200, b"{}".to_vec()));
        let chunked = "HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n1;x\r\n{\r\n1\r\n}\r\n0\r\n\r\n";
        assert_eq!(check(chunked).unwrap(), (500, b"{}".to_vec()));
        assert_eq!(check("HTTP/1.0 404 Not Found\r\n\r\nto the end").unwrap(), (404, b"to the end".to_vec()));
    }

    #[test]
    fn what_is_no_answer_or_too_long_is_refused() {
        for bad in [
            "",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        assert!(check(&format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(100_000))).is_err());
        let endless =
            format!("HTTP/1.1 200 OK\r\n\r\n{}", "z".repeat(usize::try_from(BODY_MAX).unwrap() + 1));
        assert!(check(&endless).is_err());
    }

    #[test]
    fn a_plugin_that_says_nothing_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mute.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let deadline = Instant::now() + Duration::from_millis(50);
        let error = post(&Address::Unix(path), "/x", b"{}", deadline).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn addresses() {
        assert_eq!(Address::parse("unix:///run/x.sock"), Some(Address::Unix("/run/x.sock".into())));
        assert_eq!(Address::parse("tcp://localhost:8080/"), Some(Address::Tcp("localhost:8080".into())));
        for bad in ["", "unix://x", "tcp://x", "tcp://:1", "https://x:1", "file:///x"] {
            assert_eq!(Address::parse(bad), None, "{bad}");
        }
    }
}
