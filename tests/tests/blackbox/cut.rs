// SPDX-License-Identifier: Apache-2.0
//! A registry behind a line that breaks.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use berth_tests::harness::{Bed, NetNs};

/// What the line does to a long answer, once three million bytes of it went through.
const PASS: u8 = 0;
const CUT: u8 = 1;
const STALL: u8 = 2;

/// A line to the bed's registry, one request a connection.
struct Line {
    mood: AtomicU8,
    /// The heads of the requests that went through it.
    heads: Mutex<Vec<String>>,
}

impl Line {
    /// Listens on a port of the bed's loopback, to the end of the test's process.
    fn open(netns: &NetNs, port: u16, mood: u8) -> Arc<Self> {
        let line = Arc::new(Self { mood: AtomicU8::new(mood), heads: Mutex::default() });
        let listener = netns.run(|| TcpListener::bind(("127.0.0.1", port)).unwrap());
        let (netns, opened) = (netns.clone(), Arc::clone(&line));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, netns, line) = (client.unwrap(), netns.clone(), Arc::clone(&line));
                std::thread::spawn(move || {
                    let server = netns.run(|| TcpStream::connect("127.0.0.1:5000"));
                    // A line that breaks on either side is what this is about.
                    drop(server.and_then(|server| pass(client, server, &line)));
                });
            }
        });
        opened
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn pass(mut client: TcpStream, mut server: TcpStream, line: &Line) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if client.read(&mut byte)? == 0 {
            return Ok(());
        }
        head.push(byte[0]);
        // A TLS handshake: HTTPS is tried first, and a server that speaks plain HTTP does not wait for more of it.
        if head[0] == 0x16 {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    // One request a connection, so that each can be cut by itself.
    let once = text.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    line.heads.lock().unwrap().push(text);
    server.write_all(once.as_bytes())?;
    let mut answer = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let (mut passed, mut length) = (0, None);
    loop {
        let n = server.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        if length.is_none() {
            answer.extend_from_slice(&buffer[..n]);
            length = String::from_utf8_lossy(&answer).to_lowercase().split("\r\n").find_map(|line| {
                line.strip_prefix("content-length:").and_then(|v| v.trim().parse::<usize>().ok())
            });
        }
        client.write_all(&buffer[..n])?;
        passed += n;
        if length.is_some_and(|l| l > 4 << 20) && passed > 3_000_000 {
            match line.mood.load(Ordering::Relaxed) {
                PASS => {}
                CUT => return Ok(()),
                // Nothing more comes until the other side gives up.
                _ => return client.read(&mut byte).map(drop),
            }
        }
    }
}

#[test]
fn a_download_goes_on_where_it_was_cut() {
    let bed = Bed::start();
    if !bed.is_ours() {
        return;
    }
    let line = Line::open(&bed.netns, 5001, CUT);
    let pulled = bed.docker(&["pull", "127.0.0.1:5001/library/redis"]);
    let heads = line.heads();
    let resumed = heads.iter().filter(|h| h.to_lowercase().contains("\r\nrange: bytes=")).count();
    assert!(resumed > 0, "no request asked for the rest of a blob: {heads:#?}");
    // Each try gets on by what came through, so that it ends, at once or when it is asked for again.
    let mut tries = 1;
    let mut out = pulled;
    while out.code != 0 {
        tries += 1;
        assert!(tries < 60, "{out:?}");
        out = bed.docker(&["pull", "127.0.0.1:5001/library/redis"]);
    }
    assert_eq!(bed.docker(&["run", "--rm", "127.0.0.1:5001/library/redis", "echo", "whole"]).ok(), "whole");
    bed.finish();
}

/// The daemon dies in the middle of a download; the next pull asks for the rest only.
#[test]
fn a_pull_survives_the_daemon() {
    let mut bed = Bed::start();
    if !bed.is_ours() {
        return;
    }
    let line = Line::open(&bed.netns, 5001, STALL);
    let mut pull = bed
        .command(berth_tests::harness::Cli::Docker, &["pull", "127.0.0.1:5001/library/redis"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    berth_tests::harness::until("some of a layer is there", || {
        let staging = std::fs::read_dir(bed.data_root().join("staging")).ok()?;
        staging.filter_map(Result::ok).find(|e| {
            e.file_name().to_string_lossy().contains("partial")
                && e.metadata().is_ok_and(|m| m.len() > 100_000)
        })
    });
    bed.kill_daemon();
    pull.wait().unwrap();
    line.heads.lock().unwrap().clear();
    line.mood.store(PASS, Ordering::Relaxed);
    bed.start_daemon();
    bed.docker(&["pull", "127.0.0.1:5001/library/redis"]).ok();
    let resumed =
        line.heads().iter().any(|h| h.contains("/blobs/") && h.to_lowercase().contains("\r\nrange: bytes="));
    assert!(resumed, "nothing was resumed: {:#?}", line.heads());
    assert_eq!(bed.docker(&["run", "--rm", "127.0.0.1:5001/library/redis", "echo", "whole"]).ok(), "whole");
    bed.finish();
}
