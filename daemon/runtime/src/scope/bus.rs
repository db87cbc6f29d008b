// SPDX-License-Identifier: Apache-2.0
//! The one conversation with systemd, over its private socket: no message bus has to run, and root is let in.
//!
//! The D-Bus specification's wire format, of which this needs a method call, its reply and a signal. Peers on that
//! socket are nameless, which is why a client for message buses does not get along with it.

use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use zvariant::serialized::{Context, Data};
use zvariant::{LE, OwnedValue, Type};

/// The longest message that is read: replies are a path or an error's text.
const LONGEST: u32 = 1 << 20;

const CALL: u8 = 1;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

const FIELD_PATH: u8 = 1;
const FIELD_INTERFACE: u8 = 2;
const FIELD_MEMBER: u8 = 3;
const FIELD_ERROR_NAME: u8 = 4;
const FIELD_REPLY_SERIAL: u8 = 5;
const FIELD_DESTINATION: u8 = 6;
const FIELD_SIGNATURE: u8 = 8;

/// A conversation.
#[derive(Debug)]
pub(super) struct Bus {
    stream: BufReader<UnixStream>,
    serial: u32,
}

/// A message from the other end.
#[derive(Debug)]
pub(super) struct Message {
    kind: u8,
    member: String,
    error: String,
    reply_serial: u32,
    body: Vec<u8>,
}

/// Of an object, a method.
#[derive(Clone, Copy, Debug)]
pub(super) struct Method<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
}

fn garbled(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

/// Everything on this socket is little-endian, because we are, and begins at a multiple of eight.
fn context() -> Context {
    Context::new_dbus(LE, 0)
}

impl Bus {
    /// Connects and says who we are: the kernel vouches for the user.
    pub(super) async fn connect(socket: &Path) -> io::Result<Self> {
        let mut stream = BufReader::new(UnixStream::connect(socket).await?);
        let user: String =
            rustix::process::geteuid().as_raw().to_string().bytes().map(|b| format!("{b:02x}")).collect();
        stream.write_all(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes()).await?;
        let mut line = String::new();
        (&mut stream).take(1024).read_line(&mut line).await?;
        if !line.starts_with("OK ") {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("refused: {}", line.trim_end()),
            ));
        }
        stream.write_all(b"BEGIN\r\n").await?;
        Ok(Self { stream, serial: 0 })
    }

    /// Sends a call; returns its number, which the reply will have.
    pub(super) async fn call<B: Serialize + Type>(
        &mut self,
        method: Method<'_>,
        body: &B,
    ) -> io::Result<u32> {
        self.serial = self.serial.wrapping_add(1).max(1);
        let message = encode(method, self.serial, body)?;
        self.stream.write_all(&message).await?;
        Ok(self.serial)
    }

    /// The next message.
    pub(super) async fn next(&mut self) -> io::Result<Message> {
        let mut fixed = [0; 16];
        self.stream.read_exact(&mut fixed).await?;
        let number = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let (body_length, fields_length) = (number(4), number(12));
        if fixed[0] != b'l' || body_length > LONGEST || fields_length > LONGEST {
            return Err(garbled("systemd sent a message that is not understood"));
        }
        // The head is padded to a multiple of eight.
        let fields_length = fields_length as usize;
        let mut rest = vec![0; fields_length.next_multiple_of(8) + body_length as usize];
        self.stream.read_exact(&mut rest).await?;
        let body = rest.split_off(fields_length.next_multiple_of(8));
        // The array again, with its length; it begins at 12 in the message, so that its elements begin at 16.
        let mut array = fixed[12..].to_vec();
        array.extend_from_slice(&rest[..fields_length]);
        decode(fixed[1], array, body)
    }
}

impl Message {
    /// Whether this answers a call.
    pub(super) fn answers(&self, serial: u32) -> bool {
        self.kind != SIGNAL && self.reply_serial == serial
    }

    /// Whether this is a signal of that name.
    pub(super) fn is_signal(&self, member: &str) -> bool {
        self.kind == SIGNAL && self.member == member
    }

    /// The content; an error that was answered is its text.
    pub(super) fn content<B: DeserializeOwned + Type>(self) -> io::Result<B> {
        let data = Data::new(self.body, context());
        if self.kind == ERROR {
            let (text, _): (String, usize) = data.deserialize().map_err(garbled)?;
            // org.freedesktop.systemd1.Manager's own name for it.
            let exists = self.error == "org.freedesktop.systemd1.UnitExists";
            return Err(io::Error::new(
                if exists { io::ErrorKind::AlreadyExists } else { io::ErrorKind::Other },
                text,
            ));
        }
        data.deserialize().map(|(body, _)| body).map_err(garbled)
    }
}

fn encode<B: Serialize + Type>(method: Method<'_>, serial: u32, body: &B) -> io::Result<Vec<u8>> {
    let signature = B::SIGNATURE.to_string_no_parens();
    let body = zvariant::to_bytes(context(), body).map_err(garbled)?;
    let mut fields = Vec::new();
    for (field, kind, text) in [
        (FIELD_PATH, b'o', method.path),
        (FIELD_INTERFACE, b's', method.interface),
        (FIELD_MEMBER, b's', method.member),
        (FIELD_DESTINATION, b's', method.destination),
        (FIELD_SIGNATURE, b'g', &signature),
    ] {
        // Each is a structure, which begins at a multiple of eight; the array itself does, at 16 in the message.
        fields.resize(fields.len().next_multiple_of(8), 0);
        fields.extend_from_slice(&[field, 1, kind, 0]);
        if kind == b'g' {
            fields.push(u8::try_from(text.len()).map_err(garbled)?);
        } else {
            fields.extend_from_slice(&length(text.len())?);
        }
        fields.extend_from_slice(text.as_bytes());
        fields.push(0);
    }
    let mut message = vec![b'l', CALL, 0, 1];
    message.extend_from_slice(&length(body.len())?);
    message.extend_from_slice(&serial.to_le_bytes());
    message.extend_from_slice(&length(fields.len())?);
    message.extend_from_slice(&fields);
    message.resize(message.len().next_multiple_of(8), 0);
    message.extend_from_slice(&body);
    Ok(message)
}

fn length(bytes: usize) -> io::Result<[u8; 4]> {
    u32::try_from(bytes).map(u32::to_le_bytes).map_err(garbled)
}

fn decode(kind: u8, fields: Vec<u8>, body: Vec<u8>) -> io::Result<Message> {
    let data = Data::new(fields, Context::new_dbus(LE, 12));
    let (fields, _): (Vec<(u8, OwnedValue)>, usize) = data.deserialize().map_err(garbled)?;
    let mut message = Message { kind, member: String::new(), error: String::new(), reply_serial: 0, body };
    for (field, value) in fields {
        match field {
            FIELD_MEMBER => message.member = String::try_from(value).map_err(garbled)?,
            FIELD_ERROR_NAME => message.error = String::try_from(value).map_err(garbled)?,
            FIELD_REPLY_SERIAL => message.reply_serial = u32::try_from(value).map_err(garbled)?,
            _ => {}
        }
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const METHOD: Method<'_> = Method { destination: "a.b", path: "/a/b", interface: "a.b.C", member: "Do" };

    /// A peer that takes the client in and then does as told.
    async fn peer(
        script: impl AsyncFnOnce(BufReader<UnixStream>) + Send + 'static,
    ) -> (tempfile::TempDir, Bus) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("private");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let local = tokio::task::LocalSet::new();
        let serve = local.run_until(async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            assert!(line.starts_with("\0AUTH EXTERNAL "), "{line:?}");
            stream.write_all(b"OK 0123\r\n").await.unwrap();
            line.clear();
            stream.read_line(&mut line).await.unwrap();
            assert_eq!(line, "BEGIN\r\n");
            stream
        });
        let (stream, bus) = tokio::join!(serve, Bus::connect(&path));
        local.run_until(script(stream)).await;
        (dir, bus.unwrap())
    }

    #[test]
    fn a_call_is_what_the_specification_says() {
        let body = ("x", 7u32);
        let message = encode(METHOD, 9, &body).unwrap();
        assert_eq!(&message[..4], b"l\x01\x00\x01");
        assert_eq!(message.len() % 4, 0);
        let number = |at: usize| u32::from_le_bytes(message[at..at + 4].try_into().unwrap()) as usize;
        let (body_length, serial, fields) = (number(4), number(8), number(12));
        assert_eq!((body_length, serial), (12, 9), "a string of 4 + 1 + 1 bytes, padded to 8, and a number");
        assert_eq!(message.len(), (16 + fields).next_multiple_of(8) + body_length);
        let text = String::from_utf8_lossy(&message);
        for part in ["/a/b", "a.b.C", "Do", "\u{1}g\0\u{2}su\0"] {
            assert!(text.contains(part), "{part:?} in {text:?}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let signature: (String, u32) = ("x".into(), 7);
        let message = encode(METHOD, 9, &signature).unwrap();
        let fields = u32::from_le_bytes(message[12..16].try_into().unwrap()) as usize;
        let body = message[(16 + fields).next_multiple_of(8)..].to_vec();
        let read = decode(SIGNAL, message[12..16 + fields].to_vec(), body).unwrap();
        assert!(read.is_signal("Do") && !read.answers(0));
        assert_eq!(read.content::<(String, u32)>().unwrap(), signature);
    }

    #[tokio::test]
    async fn a_message_without_end_is_refused() {
        let (_dir, mut bus) = peer(async |mut stream| {
            let mut head = *b"l\x02\x01\x01....\x01\x00\x00\x00\x00\x00\x00\x00";
            head[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
            stream.write_all(&head).await.unwrap();
        })
        .await;
        assert_eq!(bus.next().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
