// SPDX-License-Identifier: Apache-2.0
//! A registry behind a line that breaks.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use berth_tests::harness::{Bed, NetNs};

/// Passes HTTP requests on to the bed's registry, one a connection, and hangs up after `cut` bytes of each answer that
/// is longer than a megabyte. Tells the heads of the requests that it saw.
fn breaking_line(netns: &NetNs, port: u16, cut: usize) -> Arc<Mutex<Vec<String>>> {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let listener = netns.run(|| TcpListener::bind(("127.0.0.1", port)).unwrap());
    let (netns, seen) = (netns.clone(), Arc::clone(&heads));
    // Ends with the test's process; there is nothing to wait for.
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, netns, seen) = (client.unwrap(), netns.clone(), Arc::clone(&seen));
            std::thread::spawn(move || {
                let server = netns.run(|| TcpStream::connect("127.0.0.1:5000"));
                // A line that breaks on either side is what this is about.
                drop(server.and_then(|server| pass(client, server, cut, &seen)));
            });
        }
    });
    heads
}

fn pass(
    mut client: TcpStream,
    mut server: TcpStream,
    cut: usize,
    seen: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if client.read(&mut byte)? == 0 {
            return Ok(());
        }
        head.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    // One request a connection, so that each can be cut by itself.
    let once = text.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    seen.lock().unwrap().push(text);
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
        if length.is_some_and(|l| l > 1 << 20) && passed > cut {
            return Ok(());
        }
    }
}

#[test]
fn a_download_goes_on_where_it_was_cut() {
    let bed = Bed::start();
    if !bed.is_ours() {
        return;
    }
    let heads = breaking_line(&bed.netns, 5001, 700_000);
    let pulled = bed.docker(&["pull", "127.0.0.1:5001/library/redis"]);
    let heads = heads.lock().unwrap().clone();
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
    let heads = breaking_line(&bed.netns, 5001, 700_000);
    let mut pull = bed
        .command(berth_tests::harness::Cli::Docker, &["pull", "127.0.0.1:5001/library/redis"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
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
    heads.lock().unwrap().clear();
    bed.start_daemon();
    let mut tries = 0;
    while bed.docker(&["pull", "127.0.0.1:5001/library/redis"]).code != 0 {
        tries += 1;
        assert!(tries < 60);
    }
    let first = heads
        .lock()
        .unwrap()
        .iter()
        .find(|h| h.contains("/blobs/") && h.to_lowercase().contains("range:"))
        .cloned();
    assert!(first.is_some(), "nothing was resumed");
    assert_eq!(bed.docker(&["run", "--rm", "127.0.0.1:5001/library/redis", "echo", "whole"]).ok(), "whole");
    bed.finish();
}
