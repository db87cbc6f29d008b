// SPDX-License-Identifier: Apache-2.0
//! Attached clients.

use std::io::Read;

use berth_shim_proto::*;

use crate::rig::client::Client;
use crate::rig::{Builder, DEADLINE, Rig, attach};

crate::with_each_builder! {
    frames_tell_the_streams_apart
    input_goes_through_and_its_end_too
    stdin_stays_open_unless_it_is_once
    a_terminal_is_raw
    without_open_stdin_input_goes_nowhere
}

fn frames_tell_the_streams_apart(builder: Builder) {
    let mut rig = Rig::new(builder, &["sh", "-c", "echo out; echo err >&2"]);
    let both = rig.client(|_| {});
    let only_err = rig.client(|attach| attach.stdout = false);
    rig.launch();
    assert_eq!(both.output().text(), ("out\n".into(), "err\n".into()));
    assert_eq!(only_err.output().text(), (String::new(), "err\n".into()));
    assert_eq!(rig.exited().code, 0);
}

fn input_goes_through_and_its_end_too(builder: Builder) {
    let mut rig = Rig::new(builder, &["cat"]);
    (rig.launch.open_stdin, rig.launch.stdin_once) = (true, true);
    let mut client = rig.client(|attach| attach.early = b"first ".to_vec());
    rig.launch();
    client.send("second\n");
    client.until("first second\n");
    let big = vec![b'x'; 3_000_000];
    let mut sender = Client(client.0.try_clone().unwrap());
    let expected = big.len();
    let feeding = std::thread::spawn(move || {
        sender.send(&big);
        sender.half_close();
    });
    assert_eq!(client.output().stdout.len(), expected);
    feeding.join().unwrap();
    assert_eq!(rig.exited().code, 0);
}

fn stdin_stays_open_unless_it_is_once(builder: Builder) {
    let mut rig = Rig::new(builder, &["cat"]);
    rig.launch.open_stdin = true;
    let mut first = rig.client(|_| {});
    rig.launch();
    first.send("one\n");
    first.half_close();
    first.until("one\n");
    let mut second = rig.attach(|_| {});
    second.send("two\n");
    second.until("two\n");
    first.until("two\n");
    drop(second);
    let mut third = rig.attach(|_| {});
    third.send("three\n");
    third.until("three\n");
    rig.kill();
}

fn a_terminal_is_raw(builder: Builder) {
    let mut rig = Rig::new(builder, &["sh"]);
    rig.launch.terminal = Some(TerminalSize { height: 24, width: 80 });
    (rig.launch.open_stdin, rig.launch.stdin_once) = (true, true);
    let mut client = rig.client(|attach| attach.multiplexed = false);
    rig.launch();
    client.send("stty size; tty; test -t 0 -a -t 1 -a -t 2 && echo all $((1+2)) of them\n");
    let text = client.raw_until("all 3 of them\r\n");
    assert!(text.contains("24 80\r\n") && text.contains("/dev/"), "{text}");
    rig.done(Request::Resize { target: Target::Init, height: 40, width: 132 });
    client.send("stty size\n");
    client.raw_until("40 132\r\n");
    client.send("echo last words; exit 3\n");
    assert!(client.raw().ends_with("last words\r\n"));
    assert_eq!(rig.exited().code, 3);
    assert!(rig.log().iter().any(|(stream, text)| stream == "stdout" && text == "last words\r\n"));
}

fn without_open_stdin_input_goes_nowhere(builder: Builder) {
    let mut rig = Rig::new(builder, &["sh", "-c", "cat; echo done; sleep 1000"]);
    let mut client = rig.client(|_| {});
    rig.launch();
    client.send("into the void\n");
    assert_eq!(client.until("done\n"), "done\n");
    rig.kill();
}

const CTRL_P_CTRL_Q: &[u8] = b"\x10\x11";

/// A container that repeats what is typed.
fn parrot() -> (Rig, Client) {
    let mut rig = Rig::new(Builder::Native, &["cat"]);
    rig.launch.open_stdin = true;
    let client = rig.client(|attach| attach.detach_keys = CTRL_P_CTRL_Q.to_vec());
    rig.launch();
    (rig, client)
}

#[test]
fn detach_keys_are_found_over_reads() {
    let (mut rig, mut client) = parrot();
    client.send("hello\n");
    client.until("hello\n");
    // Half of the keys, then something else: typed after all.
    client.send(b"\x10");
    client.send(b"x\n");
    client.until("\x10x\n");
    client.send(b"bye\n\x10");
    client.until("bye\n");
    client.send(b"\x11 not for the process");
    assert_eq!(client.frame(), None);
    assert_eq!(rig.event(), Event::Detached { target: Target::Init });
    // The container does not care.
    let mut again = rig.attach(|_| {});
    again.send("still here\n");
    assert_eq!(again.until("still here\n"), "still here\n");
    rig.kill();
}

#[test]
fn detach_keys_in_the_early_bytes() {
    let (mut rig, _client) = parrot();
    let mut second = rig.attach(|attach| {
        attach.early = b"quick\n\x10\x11".to_vec();
        attach.detach_keys = CTRL_P_CTRL_Q.to_vec();
    });
    assert_eq!(rig.event(), Event::Detached { target: Target::Init });
    assert_eq!(second.frame(), None);
    rig.kill();
}

#[test]
fn detaching_from_a_terminal_and_coming_back() {
    let mut rig = Rig::new(Builder::Native, &["sh"]);
    rig.launch.terminal = Some(TerminalSize::default());
    (rig.launch.open_stdin, rig.launch.stdin_once) = (true, true);
    let raw = |attach: &mut Attach| {
        attach.multiplexed = false;
        attach.detach_keys = CTRL_P_CTRL_Q.to_vec();
    };
    let mut client = rig.client(raw);
    rig.launch();
    client.send("echo a$((1+1))b\n");
    client.raw_until("a2b\r\n");
    client.send(CTRL_P_CTRL_Q);
    client.raw();
    assert_eq!(rig.event(), Event::Detached { target: Target::Init });
    let mut client = rig.attach(raw);
    client.send("echo c$((2+2))d\n");
    client.raw_until("c4d\r\n");
    client.send("exit\n");
    client.raw();
    assert_eq!(rig.exited().code, 0);
}

#[test]
fn many_clients_see_the_same() {
    let (mut rig, mut first) = parrot();
    let mut others: Vec<Client> = (0..5).map(|_| rig.attach(|_| {})).collect();
    others[2].send("shared\n");
    first.until("shared\n");
    for client in &mut others {
        client.until("shared\n");
    }
    drop(others);
    first.send("alone\n");
    first.until("alone\n");
    rig.kill();
}

#[test]
fn attaching_and_leaving_costs_nothing() {
    let (mut rig, mut first) = parrot();
    let fds = rig.shim_fds();
    for _ in 0..300 {
        drop(rig.attach(|_| {}));
    }
    first.send("echo\n");
    first.until("echo\n");
    assert_eq!(rig.shim_fds(), fds);
    rig.kill();
}

#[test]
fn attaching_to_what_has_ended_closes_at_once() {
    // The process that goes on holds the pipes, so that the shim still drains when the client comes.
    let (mut rig, client) = parrot();
    assert_eq!(rig.signal(Target::Init, libc::SIGKILL), Reply::Done);
    assert_eq!(client.output().text(), (String::new(), String::new()));
    assert_eq!(rig.exited().code, 137);
}

const MEGABYTE: usize = 1024 * 1024;

/// A client that does not read makes the process wait, and costs a bounded amount of memory.
#[test]
fn a_slow_client_holds_the_process_back_and_gets_everything() {
    let mut rig =
        Rig::new(Builder::Native, &["sh", "-c", "head -c 20000000 /dev/zero | tr '\\0' x; echo end >&2"]);
    rig.launch.log = Log::default();
    let client = rig.client(|_| {});
    rig.launch();
    // The shim answers all the while.
    for _ in 0..100 {
        assert!(matches!(rig.ask(Request::State), Reply::State(_)));
    }
    assert!(rig.shim_memory() < 4 * MEGABYTE, "{}", rig.shim_memory());
    let output = client.output();
    assert_eq!((output.stdout.len(), output.stderr.as_slice()), (20_000_000, b"end\n".as_slice()));
    assert_eq!(rig.exited().code, 0);
}

#[test]
fn a_client_that_is_gone_does_not_hold_the_process_back() {
    let mut rig = Rig::new(Builder::Native, &["sh", "-c", "head -c 20000000 /dev/zero; echo end >&2"]);
    let client = rig.client(|_| {});
    rig.launch.log = Log::default();
    rig.launch();
    drop(client);
    assert_eq!(rig.exited().code, 0);
}

/// The shim does not stay for a client that has not read all; what is left reaches it nevertheless.
#[test]
fn output_outlives_the_shim() {
    let mut rig = Rig::new(Builder::Native, &["sh", "-c", "head -c 700000 /dev/zero"]);
    let client = rig.client(|_| {});
    rig.launch();
    assert_eq!(rig.exited().code, 0);
    assert_eq!(client.output().stdout.len(), 700_000);
}

/// The same with a process that takes no input: the client is not read beyond a bound.
#[test]
fn input_that_nobody_takes_is_bounded() {
    let mut rig = Rig::new(Builder::Native, &["sh", "-c", "read go </dev/null; sleep 1000"]);
    rig.launch.open_stdin = true;
    let client = rig.client(|_| {});
    rig.launch();
    client.0.set_nonblocking(true).unwrap();
    let chunk = vec![b'x'; 65536];
    let mut sent = 0usize;
    // Asking in between gives the shim its turns.
    for _ in 0..200 {
        if let Ok(n) = std::io::Write::write(&mut &client.0, &chunk) {
            sent += n;
        }
        assert!(matches!(rig.ask(Request::State), Reply::State(_)));
    }
    assert!(sent < 2 * MEGABYTE, "{sent}");
    assert!(rig.shim_memory() < 4 * MEGABYTE, "{}", rig.shim_memory());
    rig.kill();
}

/// A client of a daemon that listens on TCP.
#[test]
fn a_tcp_connection_is_a_stream_too() {
    let mut rig = Rig::new(Builder::Native, &["cat"]);
    (rig.launch.open_stdin, rig.launch.stdin_once) = (true, true);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let fd = rig.fd(listener.accept().unwrap().0.into());
    rig.launch.attach.push(Attach { multiplexed: false, ..attach(fd) });
    rig.launch();
    std::io::Write::write_all(&mut client, b"over the wire\n").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "over the wire\n");
    assert_eq!(rig.exited().code, 0);
}
