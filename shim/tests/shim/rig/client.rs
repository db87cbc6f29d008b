// SPDX-License-Identifier: Apache-2.0
//! The far end of an attachment.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::DEADLINE;

pub struct Client(pub UnixStream);

/// What came on a multiplexed connection until its end.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Output {
    pub fn text(&self) -> (String, String) {
        let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).unwrap();
        (text(&self.stdout), text(&self.stderr))
    }
}

impl Client {
    pub fn pair() -> (Self, OwnedFd) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(DEADLINE)).unwrap();
        (Self(ours), theirs.into())
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).unwrap();
    }

    /// Ends the client's side.
    pub fn half_close(&self) {
        self.0.shutdown(Shutdown::Write).unwrap();
    }

    /// The next frame; `None` at the end.
    pub fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0u8; 8];
        if self.0.read(&mut header[..1]).unwrap() == 0 {
            return None;
        }
        self.0.read_exact(&mut header[1..]).unwrap();
        assert_eq!(header[1..4], [0, 0, 0]);
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let mut payload = vec![0u8; length.try_into().unwrap()];
        self.0.read_exact(&mut payload).unwrap();
        Some((header[0], payload))
    }

    /// Reads frames until the end.
    pub fn output(mut self) -> Output {
        let mut output = Output::default();
        while let Some((stream, payload)) = self.frame() {
            match stream {
                1 => output.stdout.extend(payload),
                2 => output.stderr.extend(payload),
                other => panic!("stream {other}"),
            }
        }
        output
    }

    /// Reads frames until stdout, put together, holds the text.
    pub fn until(&mut self, text: &str) -> String {
        let mut got = Vec::new();
        while !contains(&got, text) {
            match self.frame() {
                Some((_, payload)) => got.extend(payload),
                None => panic!("ended without {text:?}: {:?}", String::from_utf8_lossy(&got)),
            }
        }
        String::from_utf8(got).unwrap()
    }

    /// Reads an unframed connection until it holds the text.
    pub fn raw_until(&mut self, text: &str) -> String {
        let mut got = Vec::new();
        let mut buffer = [0u8; 4096];
        while !contains(&got, text) {
            match self.0.read(&mut buffer).unwrap() {
                0 => panic!("ended without {text:?}: {:?}", String::from_utf8_lossy(&got)),
                n => got.extend_from_slice(&buffer[..n]),
            }
        }
        String::from_utf8(got).unwrap()
    }

    /// Reads an unframed connection to its end.
    pub fn raw(mut self) -> String {
        let mut text = String::new();
        self.0.read_to_string(&mut text).unwrap();
        text
    }
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}
