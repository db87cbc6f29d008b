// SPDX-License-Identifier: Apache-2.0
//! A line between the engine and a registry that breaks, stalls and lies as a test wants it to.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::netns::NetNs;

/// What happens to a layer's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends after so many tenths of the body.
    Cut(u64),
    /// The same, and nothing more comes until the other side gives up.
    Stall(u64),
    /// `Content-Length` says so many bytes more (or fewer) than there are.
    Lie(i64),
    /// One byte in the middle is another one.
    Flip,
    /// This status instead, with `Retry-After`.
    Status(u16, &'static str),
}

/// Shorter bodies are configs and manifests, which pass.
const LAYER_LEAST: u64 = 16 << 10;

/// A line to a registry on the bed's loopback, one request a connection.
pub struct Line {
    faults: Mutex<VecDeque<Fault>>,
    /// Happens to every layer once the queue is empty.
    always: Mutex<Option<Fault>>,
    heads: Mutex<Vec<String>>,
    given_up: Mutex<u32>,
}

impl Line {
    /// Listens on `port` for the registry on port 5000, to the end of the test's process.
    #[must_use]
    pub fn open(netns: &NetNs, port: u16) -> Arc<Self> {
        let line = Arc::new(Self {
            faults: Mutex::default(),
            always: Mutex::default(),
            heads: Mutex::default(),
            given_up: Mutex::default(),
        });
        let listener = netns.run(|| TcpListener::bind(("127.0.0.1", port)).expect("a port for the line"));
        let (netns, opened) = (netns.clone(), Arc::clone(&line));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, netns, line) = (client.expect("a connection"), netns.clone(), Arc::clone(&line));
                std::thread::spawn(move || {
                    let server = netns.run(|| TcpStream::connect("127.0.0.1:5000"));
                    // A line that breaks on either side is what this is about.
                    drop(server.and_then(|server| line.pass(client, server)));
                });
            }
        });
        opened
    }

    /// What is to happen to the next layers, in this order.
    pub fn next(&self, faults: &[Fault]) {
        self.faults.lock().expect("the faults").extend(faults);
    }

    /// What happens to all others.
    pub fn always(&self, fault: Option<Fault>) {
        *self.always.lock().expect("the fault") = fault;
    }

    /// The heads of the requests that went through since they were last taken.
    pub fn take_heads(&self) -> Vec<String> {
        std::mem::take(&mut *self.heads.lock().expect("the heads"))
    }

    /// How many stalled answers the engine hung up on.
    pub fn given_up(&self) -> u32 {
        *self.given_up.lock().expect("the count")
    }

    fn fault(&self) -> Option<Fault> {
        self.faults.lock().expect("the faults").pop_front().or(*self.always.lock().expect("the fault"))
    }

    fn pass(&self, mut client: TcpStream, mut server: TcpStream) -> std::io::Result<()> {
        let Some(head) = read_head(&mut client)? else { return Ok(()) };
        // One request a connection, so that each can be spoiled by itself.
        server.write_all(head.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes())?;
        self.heads.lock().expect("the heads").push(head.clone());
        let Some(answer) = read_head(&mut server)? else { return Ok(()) };
        let length = answer
            .to_lowercase()
            .split("\r\n")
            .find_map(|line| line.strip_prefix("content-length:").and_then(|v| v.trim().parse::<u64>().ok()));
        let layer = head.starts_with("GET ") && head.contains("/blobs/");
        let fault = match length.filter(|l| layer && *l > LAYER_LEAST) {
            Some(length) => self.fault().map(|fault| (fault, length)),
            None => None,
        };
        let Some((fault, length)) = fault else {
            client.write_all(answer.as_bytes())?;
            return std::io::copy(&mut server, &mut client).map(drop);
        };
        match fault {
            Fault::Status(status, after) => {
                let text = format!(
                    "HTTP/1.1 {status} Spoiled\r\nRetry-After: {after}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                );
                client.write_all(text.as_bytes())
            }
            Fault::Cut(tenths) | Fault::Stall(tenths) => {
                client.write_all(answer.as_bytes())?;
                std::io::copy(&mut server.take(length * tenths / 10), &mut client)?;
                if matches!(fault, Fault::Stall(_)) {
                    // Ends when the engine hangs up.
                    let ended = client.read(&mut [0]);
                    *self.given_up.lock().expect("the count") += 1;
                    ended?;
                }
                Ok(())
            }
            Fault::Lie(by) => {
                let said = format!("Content-Length: {}", length.saturating_add_signed(by));
                let answer = answer
                    .split("\r\n")
                    .map(|line| match line.to_lowercase().starts_with("content-length:") {
                        true => said.as_str(),
                        false => line,
                    })
                    .collect::<Vec<_>>()
                    .join("\r\n");
                client.write_all(answer.as_bytes())?;
                std::io::copy(&mut server, &mut client).map(drop)
            }
            Fault::Flip => {
                client.write_all(answer.as_bytes())?;
                let mut first = vec![0; usize::try_from(length / 2).expect("a length")];
                server.read_exact(&mut first)?;
                if let Some(last) = first.last_mut() {
                    *last ^= 0x55;
                }
                client.write_all(&first)?;
                std::io::copy(&mut server, &mut client).map(drop)
            }
        }
    }
}

/// A head with its empty line; `None` when the connection ends before, or what comes is the beginning of TLS.
fn read_head(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
        // HTTPS is tried first, and a server that speaks plain HTTP does not wait for more of it.
        if head[0] == 0x16 {
            return Ok(None);
        }
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}
