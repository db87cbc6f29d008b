// SPDX-License-Identifier: Apache-2.0
//! What the program says on the wire, and in which order, against a daemon that is played here.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};

/// One request: `POST /v1.44/containers/create?name=x`, and its body.
#[derive(Debug, Clone)]
struct Asked {
    line: String,
    body: String,
}

type Answer = Box<dyn Fn(&Asked, &Daemon, &mut UnixStream) + Send + Sync>;

/// Remembers what it was asked. Connections are kept alive, as a real one does.
#[derive(Default)]
struct Daemon {
    log: Mutex<Vec<Asked>>,
    started: Mutex<bool>,
    changed: Condvar,
}

impl Daemon {
    fn start(&self) {
        *self.started.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn wait_for_start(&self) {
        let mut started = self.started.lock().unwrap();
        while !*started {
            started = self.changed.wait(started).unwrap();
        }
    }

    fn times(&self, part: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|asked| asked.line.contains(part)).count()
    }

    fn lines(&self) -> Vec<String> {
        self.log.lock().unwrap().iter().map(|asked| asked.line.clone()).collect()
    }
}

fn respond(stream: &mut UnixStream, status: &str, body: &str) {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    // The client may have gone: then its own outcome is what the test looks at.
    stream.write_all(format!("{head}{body}").as_bytes()).ok();
}

/// The head at once, the body when `body` gives it.
fn respond_late(stream: &mut UnixStream, body: impl FnOnce() -> String) {
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        .ok();
    let body = body();
    stream.write_all(format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).as_bytes()).ok();
}

fn upgrade(stream: &mut UnixStream, kind: &str) {
    let head = format!(
        "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.{kind}-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).ok();
}

fn frame(stream: u8, text: &str) -> Vec<u8> {
    let mut out = vec![stream, 0, 0, 0];
    out.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    out
}

fn read_request(reader: &mut BufReader<UnixStream>) -> Option<Asked> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let (mut length, mut chunked) = (0, false);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        chunked |= header == "transfer-encoding: chunked";
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    while chunked {
        let mut size = String::new();
        reader.read_line(&mut size).ok()?;
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk).ok()?;
        body.extend_from_slice(&chunk[..size]);
        chunked = size > 0;
    }
    let line = line.trim().trim_end_matches(" HTTP/1.1").to_owned();
    Some(Asked { line, body: String::from_utf8_lossy(&body).into_owned() })
}

struct Played {
    daemon: Arc<Daemon>,
    output: Output,
}

impl Played {
    fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    fn code(&self) -> Option<i32> {
        self.output.status.code()
    }
}

/// Runs `berth` with these words and this input against a daemon that answers like this.
fn play(
    words: &[&str],
    input: &str,
    answer: impl Fn(&Asked, &Daemon, &mut UnixStream) + Send + Sync + 'static,
) -> Played {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("daemon.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let daemon = Arc::new(Daemon::default());
    let answer: Arc<Answer> = Arc::new(Box::new(answer));
    let remembered = Arc::clone(&daemon);
    // Ends with the test's process; its threads end with their connections.
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (daemon, answer) = (Arc::clone(&remembered), Arc::clone(&answer));
            std::thread::spawn(move || {
                let mut stream_out = stream.try_clone().unwrap();
                let mut reader = BufReader::new(stream);
                while let Some(asked) = read_request(&mut reader) {
                    daemon.log.lock().unwrap().push(asked.clone());
                    if asked.line.contains("/_ping") {
                        stream_out
                            .write_all(b"HTTP/1.1 200 OK\r\nApi-Version: 1.44\r\nContent-Length: 0\r\n\r\n")
                            .ok();
                        continue;
                    }
                    answer(&asked, &daemon, &mut stream_out);
                    if asked.line.contains("/attach")
                        || asked.line.ends_with("/start") && asked.line.contains("/exec/")
                    {
                        // No longer HTTP.
                        return;
                    }
                }
            });
        }
    });
    let mut child = Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(words)
        .env("BERTH_HOST", format!("unix://{}", path.display()))
        .env("DOCKER_CONFIG", dir.path())
        .env_remove("DOCKER_DEFAULT_PLATFORM")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that does not read its input may have gone already.
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    Played { daemon, output: child.wait_with_output().unwrap() }
}

/// Creates, runs and ends a container that says something and exits with 7.
fn container(asked: &Asked, daemon: &Daemon, stream: &mut UnixStream) {
    let line = asked.line.as_str();
    if line.contains("/containers/create") {
        respond(stream, "201 Created", r#"{"Id":"c0ffee","Warnings":["mind the gap"]}"#);
    } else if line.contains("/attach") {
        upgrade(stream, "multiplexed");
        daemon.wait_for_start();
        let mut typed = String::new();
        if line.contains("stdin=1") {
            stream.read_to_string(&mut typed).unwrap();
        }
        stream.write_all(&frame(1, &format!("out {typed}"))).unwrap();
        stream.write_all(&frame(2, "err")).unwrap();
        stream.shutdown(std::net::Shutdown::Both).ok();
    } else if line.contains("/wait") {
        respond_late(stream, || {
            daemon.wait_for_start();
            r#"{"StatusCode":7}"#.into()
        });
    } else if line.contains("/start") {
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        daemon.start();
    } else {
        respond(stream, "404 Not Found", r#"{"message":"page not found"}"#);
    }
}

#[test]
fn run_attaches_waits_and_then_starts() {
    let played = play(&["run", "--rm", "--name", "n", "busybox", "true"], "", container);
    assert_eq!(
        played.daemon.lines(),
        [
            "HEAD /_ping",
            "POST /v1.44/containers/create?name=n",
            "POST /v1.44/containers/c0ffee/attach?stderr=1&stdout=1&stream=1",
            "POST /v1.44/containers/c0ffee/wait?condition=removed",
            "POST /v1.44/containers/c0ffee/start",
        ]
    );
    assert_eq!(played.code(), Some(7));
    assert_eq!(played.stdout(), "out ");
    assert_eq!(played.stderr(), "WARNING: mind the gap\nerr");
}

#[test]
fn input_is_passed_on_and_its_end_too() {
    let played = play(&["run", "-i", "busybox", "cat"], "typed", container);
    assert_eq!(played.stdout(), "out typed");
    assert_eq!(played.daemon.times("wait?condition=next-exit"), 1);
    let log = played.daemon.log.lock().unwrap();
    let body: serde_json::Value = serde_json::from_str(&log[1].body).unwrap();
    assert_eq!(body["OpenStdin"], true);
    assert_eq!(body["StdinOnce"], true);
    assert_eq!(body["Cmd"], serde_json::json!(["cat"]));
}

#[test]
fn detached_it_only_starts() {
    let played = play(&["run", "-d", "busybox"], "", container);
    assert_eq!(played.stdout(), "c0ffee\n");
    assert_eq!(played.code(), Some(0));
    assert_eq!(played.daemon.times("/attach") + played.daemon.times("/wait"), 0);
}

#[test]
fn an_image_that_is_not_there_is_pulled() {
    let played = play(&["run", "localhost:5000/a"], "", |asked, daemon, stream| {
        if asked.line.contains("/images/create") {
            respond_late(stream, || {
                "{\"status\":\"Pulling from a\",\"id\":\"latest\"}\r\n\
                 {\"status\":\"Downloading\",\"progressDetail\":{\"current\":1,\"total\":2},\"id\":\"x\"}\r\n\
                 {\"status\":\"Status: Downloaded newer image for localhost:5000/a:latest\"}\r\n"
                    .into()
            });
        } else if asked.line.contains("/containers/create") && daemon.times("/images/create") == 0 {
            respond(stream, "404 Not Found", r#"{"message":"No such image: localhost:5000/a:latest"}"#);
        } else {
            container(asked, daemon, stream);
        }
    });
    assert_eq!(played.code(), Some(7), "{}", played.stderr());
    assert_eq!(
        played.stderr(),
        "Unable to find image 'localhost:5000/a:latest' locally\nlatest: Pulling from a\n\
         Status: Downloaded newer image for localhost:5000/a:latest\nWARNING: mind the gap\nerr"
    );
    assert_eq!(
        played.daemon.lines()[2],
        "POST /v1.44/images/create?fromImage=localhost%3A5000%2Fa&tag=latest"
    );
    assert_eq!(played.daemon.times("/containers/create"), 2);
}

#[test]
fn a_pull_that_fails_midway_is_a_failure() {
    let played = play(&["pull", "a"], "", |_, _, stream| {
        respond_late(stream, || {
            "{\"status\":\"Pulling from library/a\",\"id\":\"latest\"}\r\n{\"errorDetail\":{\"message\":\"no space left\"},\"error\":\"no space left\"}\r\n".into()
        });
    });
    assert_eq!(played.code(), Some(1));
    assert_eq!(played.stderr(), "no space left\n");
    assert_eq!(played.stdout(), "Using default tag: latest\nlatest: Pulling from library/a\n");
}

#[test]
fn a_start_that_fails_has_dockers_codes() {
    for (message, code) in [
        (r#"exec: \"x\": executable file not found in $PATH"#, 127),
        (r#"exec: \"/etc\": permission denied"#, 126),
        ("address already in use", 125),
    ] {
        let body = format!("{{\"message\":\"{message}\"}}");
        let played = play(&["run", "--rm", "busybox", "x"], "", move |asked, daemon, stream| {
            if asked.line.ends_with("/start") {
                respond(stream, "400 Bad Request", &body);
                // Removed, as --rm asks: the client waits for this.
                daemon.start();
            } else {
                container(asked, daemon, stream);
            }
        });
        assert_eq!(played.code(), Some(code), "{message}");
        assert!(played.stderr().contains("berth: Error response from daemon: "), "{}", played.stderr());
    }
}

#[test]
fn exec_asks_for_its_exit_code() {
    let played = play(&["exec", "-i", "c", "cat"], "hello", |asked, _, stream| {
        if asked.line.ends_with("/containers/c/exec") {
            respond(stream, "201 Created", r#"{"Id":"e1"}"#);
        } else if asked.line.ends_with("/exec/e1/start") {
            upgrade(stream, "multiplexed");
            let mut typed = String::new();
            stream.read_to_string(&mut typed).unwrap();
            stream.write_all(&frame(1, &typed)).unwrap();
            stream.shutdown(std::net::Shutdown::Both).ok();
        } else {
            respond(stream, "200 OK", r#"{"ExitCode":3,"Running":false}"#);
        }
    });
    assert_eq!(
        played.daemon.lines(),
        [
            "HEAD /_ping",
            "POST /v1.44/containers/c/exec",
            "POST /v1.44/exec/e1/start",
            "GET /v1.44/exec/e1/json"
        ]
    );
    assert_eq!(played.stdout(), "hello");
    assert_eq!(played.code(), Some(3));
}

#[test]
fn several_names_are_each_tried() {
    let played = play(&["stop", "-t", "1", "a", "b", "c"], "", |asked, _, stream| {
        if asked.line.contains("/b/") {
            respond(stream, "404 Not Found", r#"{"message":"No such container: b"}"#);
        } else {
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        }
    });
    assert_eq!(played.stdout(), "a\nc\n");
    assert_eq!(played.stderr(), "Error response from daemon: No such container: b\n");
    assert_eq!(played.code(), Some(1));
    assert_eq!(played.daemon.times("/stop?t=1"), 3);
}

#[test]
fn inspect_tries_one_kind_after_the_other_and_keeps_what_the_daemon_wrote() {
    let played = play(&["inspect", "i", "nosuch"], "", |asked, _, stream| {
        if asked.line.contains("/images/i/") {
            respond(stream, "200 OK", r#"{"Zeta":1.0,"Alpha":[]}"#);
        } else {
            respond(stream, "404 Not Found", r#"{"message":"no such thing"}"#);
        }
    });
    assert_eq!(played.stdout(), "[\n    {\n        \"Zeta\": 1.0,\n        \"Alpha\": []\n    }\n]\n");
    assert_eq!(played.stderr(), "Error: No such object: nosuch\n");
    assert_eq!(played.code(), Some(1));
}

#[test]
fn a_daemon_that_is_not_there_is_explained() {
    let output = Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(["-H", "unix:///nonexistent/berth.sock", "ps"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("unix:///nonexistent/berth.sock") && stderr.contains("Is berthd running?"),
        "{stderr}"
    );
}
