// SPDX-License-Identifier: Apache-2.0
//! What a first hour with the engine looks like, with both command lines.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;

use berth_tests::harness::{Bed, Cli, until};

use crate::with_each_cli;

/// What a redis server answers on a port of the bed's host.
fn ping_redis(bed: &Bed, port: u16) {
    let answer = bed.netns.run(|| {
        until("redis answers through its published port", || {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
            stream.write_all(b"PING\r\n").ok()?;
            let mut buffer = [0u8; 7];
            stream.read_exact(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer).into_owned())
        })
    });
    assert_eq!(answer, "+PONG\r\n");
}

with_each_cli! {
    fn pull_and_say_hello(bed, cli) {
        let pulled = bed.run(cli, &["pull", "busybox"]).ok();
        assert!(pulled.contains("Status: Downloaded newer image for busybox:latest"), "{pulled}");
        assert!(pulled.contains("Digest: sha256:"), "{pulled}");
        assert!(pulled.contains("Pull complete"), "{pulled}");
        let again = bed.run(cli, &["pull", "busybox"]).ok();
        assert!(again.contains("Status: Image is up to date for busybox:latest"), "{again}");
        assert_eq!(bed.run(cli, &["run", "busybox", "echo", "hello world"]).ok(), "hello world");
    }

    fn run_pulls_what_is_missing(bed, cli) {
        let out = bed.run(cli, &["run", "--rm", "busybox", "echo", "hi"]);
        assert!(out.stderr.contains("Unable to find image 'busybox:latest' locally"), "{}", out.stderr);
        assert_eq!(out.ok(), "hi");
    }

    fn a_shell_on_a_terminal(bed, cli) {
        bed.run(cli, &["pull", "busybox"]).ok();
        let mut shell = bed.pty(cli, &["run", "-it", "--rm", "--hostname", "shellhost", "busybox", "sh"]);
        shell.expect("# ");
        shell.send("echo pid=$$ host=$(hostname)\r");
        shell.expect("pid=1 host=shellhost");
        shell.expect("# ");
        shell.send("cat /etc/os-release; echo done\r");
        let shown = shell.expect("ID=fixture");
        assert!(shown.contains("Fixture Linux"), "{shown}");
        shell.expect("# ");
        shell.send("ps -o pid,comm | head -n 3; ls /; tty\r");
        let shown = shell.expect("/dev/pts/0");
        assert!(shown.contains("1 sh"), "{shown}");
        for name in ["bin", "etc", "proc", "root", "usr"] {
            assert!(shown.contains(name), "{shown}");
        }
        shell.expect("# ");
        shell.send("stty size\r");
        shell.expect("40 120");
        shell.expect("# ");
        shell.resize(50, 100);
        // The new size arrives in its own time: ask until it is there.
        shell.send("until [ \"$(stty size)\" = '50 100' ]; do usleep 10000; done; echo resized-$((1+1))\r");
        shell.expect("resized-2");
        shell.expect("# ");
        shell.send("exit 7\r");
        let (_, code) = shell.finish();
        assert_eq!(code, 7);
    }

    fn a_redis_server(bed, cli) {
        bed.run(cli, &["pull", "redis"]).ok();
        let id = bed.run(cli, &["run", "--rm", "--name", "redis", "-d", "-p", "6378:6379", "redis"]).ok();
        assert_eq!(id.len(), 64, "{id}");
        ping_redis(bed, 6378);

        let ps = bed.run(cli, &["ps"]).ok();
        let mut lines = ps.lines();
        let header = lines.next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(header, "CONTAINER ID IMAGE COMMAND CREATED STATUS PORTS NAMES");
        let row = lines.next().unwrap();
        assert!(row.starts_with(&id[..12]) && row.ends_with("redis"), "{row}");
        assert!(row.contains("0.0.0.0:6378->6379/tcp") && row.contains("Up "), "{row}");
        assert!(bed.run(cli, &["ps", "-a"]).ok().lines().any(|l| l.contains("redis")), "ps -a");

        let mut shell = bed.pty(cli, &["exec", "-it", "redis", "sh"]);
        shell.expect("# ");
        shell.send("redis-cli ping; exit 3\r");
        shell.expect("PONG");
        assert_eq!(shell.finish().1, 3);

        let mut logs = bed.command(cli, &["logs", "-f", "redis"]).stdout(Stdio::piped()).spawn().unwrap();
        bed.run(cli, &["stop", "redis"]).ok();
        let mut text = String::new();
        logs.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(logs.wait().unwrap().success());
        assert!(text.contains("Ready to accept connections") && text.contains("bye bye"), "{text}");
        until("--rm has removed it", || {
            (!bed.run(cli, &["ps", "-a", "-q"]).ok().contains(&id[..12])).then_some(())
        });

        bed.run(cli, &["run", "--name", "redis2", "-d", "-p", "6379:6379", "redis"]).ok();
        ping_redis(bed, 6379);
        assert_eq!(bed.run(cli, &["stop", "redis2"]).ok(), "redis2");
        assert!(bed.run(cli, &["ps", "-a"]).ok().contains("Exited (0)"), "stopped");
        assert_eq!(bed.run(cli, &["start", "redis2"]).ok(), "redis2");
        ping_redis(bed, 6379);
        assert_eq!(bed.run(cli, &["restart", "redis2"]).ok(), "redis2");
        ping_redis(bed, 6379);
        let port = bed.run(cli, &["port", "redis2"]).ok();
        assert!(port.contains("6379/tcp -> 0.0.0.0:6379"), "{port}");
        let refused = bed.run(cli, &["rm", "redis2"]).fails(1);
        assert!(refused.contains("container is running: stop the container before removing or force remove"), "{refused}");
        bed.run(cli, &["stop", "redis2"]).ok();
        assert_eq!(bed.run(cli, &["rm", "-v", "redis2"]).ok(), "redis2");
    }

    fn images_by_name_and_id(bed, cli) {
        bed.run(cli, &["pull", "redis"]).ok();
        bed.run(cli, &["pull", "twelve"]).ok();
        let table = bed.run(cli, &["images"]).ok();
        let header = table.lines().next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(header, "REPOSITORY TAG IMAGE ID CREATED SIZE");
        assert!(table.lines().any(|l| l.starts_with("redis ") && l.contains(" latest ")), "{table}");

        let inspected: serde_json::Value = serde_json::from_str(&bed.run(cli, &["inspect", "redis"]).ok()).unwrap();
        assert_eq!(inspected[0]["RootFS"]["Layers"].as_array().unwrap().len(), 3);
        assert_eq!(inspected[0]["RepoTags"][0], "redis:latest");
        let twelve: serde_json::Value = serde_json::from_str(&bed.run(cli, &["inspect", "twelve"]).ok()).unwrap();
        assert_eq!(twelve[0]["RootFS"]["Layers"].as_array().unwrap().len(), 12);

        let id = twelve[0]["Id"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
        let removed = bed.run(cli, &["rmi", &id[..3]]).ok();
        assert!(removed.contains("Untagged: twelve:latest"), "{removed}");
        assert!(removed.contains("Deleted: sha256:"), "{removed}");

        let removed = bed.run(cli, &["rmi", "redis"]).ok();
        assert!(removed.contains("Untagged: redis:latest"), "{removed}");
        assert!(!bed.run(cli, &["images", "-q"]).ok().lines().any(|l| l.contains(&id[..12])));
        let missing = bed.run(cli, &["rmi", "redis"]).fails(1);
        assert!(missing.contains("No such image: redis:latest"), "{missing}");
    }

    fn tags_are_names_only(bed, cli) {
        bed.run(cli, &["pull", "busybox"]).ok();
        bed.run(cli, &["tag", "busybox", "other:v1"]).ok();
        let removed = bed.run(cli, &["rmi", "busybox"]).ok();
        assert!(removed.contains("Untagged: busybox:latest") && !removed.contains("Deleted"), "{removed}");
        assert_eq!(bed.run(cli, &["run", "--rm", "other:v1", "echo", "still here"]).ok(), "still here");
        bed.run(cli, &["create", "--name", "user", "other:v1", "true"]).ok();
        let refused = bed.run(cli, &["rmi", "other:v1"]).fails(1);
        assert!(refused.contains("conflict"), "{refused}");
        bed.run(cli, &["rm", "user"]).ok();
        bed.run(cli, &["rmi", "other:v1"]).ok();
    }

    fn exit_codes_are_the_commands_own(bed, cli) {
        bed.run(cli, &["pull", "busybox"]).ok();
        assert_eq!(bed.run(cli, &["run", "--rm", "busybox", "sh", "-c", "exit 42"]).code, 42);
        let missing = bed.run(cli, &["run", "--rm", "busybox", "no-such-program"]);
        assert!(missing.stderr.contains("executable file not found in $PATH"), "{}", missing.stderr);
        assert_eq!(missing.code, 127);
        assert_eq!(bed.run(cli, &["run", "--rm", "busybox", "/no/such/file"]).code, 127);
        let denied = bed.run(cli, &["run", "--rm", "busybox", "/etc"]);
        assert!(denied.stderr.contains("permission denied"), "{}", denied.stderr);
        assert_eq!(denied.code, 126);
        assert_eq!(bed.run(cli, &["run", "--rm", "--memory", "1k", "busybox", "true"]).code, 125);
    }

    fn env_user_workdir_and_entrypoint(bed, cli) {
        bed.run(cli, &["pull", "busybox"]).ok();
        let sh = |args: &[&str], script: &str| {
            let mut all = vec!["run", "--rm"];
            all.extend(args);
            all.extend(["busybox", "sh", "-c", script]);
            bed.run(cli, &all).ok()
        };
        assert_eq!(sh(&["-e", "A=b c", "-e", "PATH=/bin"], "echo $A $PATH $HOME"), "b c /bin /root");
        assert_eq!(sh(&["-u", "1000"], "id -u; id -g; echo $HOME"), "1000\n1000\n/home/app");
        assert_eq!(sh(&["-u", "app"], "id -un; id -Gn"), "app\napp adm staff");
        assert_eq!(sh(&["-u", "app:staff"], "id -g"), "50");
        assert_eq!(sh(&["-u", "4242:4343"], "id -u; id -g"), "4242\n4343");
        assert_eq!(sh(&["-w", "/made/for/this"], "pwd"), "/made/for/this");
        assert_eq!(sh(&["-h", "here"], "hostname; grep -c here /etc/hosts"), "here\n1");
        let out = bed.run(cli, &["run", "--rm", "--entrypoint", "echo", "busybox", "from", "entrypoint"]).ok();
        assert_eq!(out, "from entrypoint");
    }

    fn binds_and_volumes(bed, cli) {
        bed.run(cli, &["pull", "busybox"]).ok();
        // A reference engine may live in another mount namespace, where the bed's folder is not.
        if bed.is_ours() {
        let dir = bed.path().join("bound");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("from-host"), "host\n").unwrap();
        let bind = format!("{}:/bound", dir.display());
        let out = bed.run(cli, &["run", "--rm", "-v", &bind, "busybox", "sh", "-c", "cat /bound/from-host; echo c >/bound/from-container"]);
        assert_eq!(out.ok(), "host");
        assert_eq!(std::fs::read_to_string(dir.join("from-container")).unwrap(), "c\n");
        let ro = bed.run(cli, &["run", "--rm", "-v", &format!("{bind}:ro"), "busybox", "touch", "/bound/x"]);
        assert!(ro.stderr.contains("Read-only file system"), "{}", ro.stderr);
        }

        bed.run(cli, &["run", "--rm", "-v", "vol:/data", "busybox", "sh", "-c", "echo kept >/data/file"]).ok();
        assert_eq!(bed.run(cli, &["run", "--rm", "-v", "vol:/data", "busybox", "cat", "/data/file"]).ok(), "kept");
        // The image's content fills a new volume.
        assert_eq!(bed.run(cli, &["run", "--rm", "-v", "copied:/etc", "busybox", "cat", "/etc/os-release"]).ok().lines().count(), 4);
        assert_eq!(bed.docker(&["volume", "ls", "-q"]).ok().lines().filter(|l| ["vol", "copied"].contains(l)).count(), 2);
        bed.docker(&["volume", "rm", "vol", "copied"]).ok();
    }

    fn wait_and_inspect(bed, cli) {
        bed.run(cli, &["pull", "busybox"]).ok();
        let id = bed.run(cli, &["run", "-d", "--name", "ww", "-m", "64m", "busybox", "sh", "-c", "read x; exit 9"]).ok();
        // Its stdin is /dev/null, so that read fails at once and the exit code is the script's.
        assert_eq!(bed.run(cli, &["wait", "ww"]).ok(), "9");
        let state = bed.run(cli, &["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.HostConfig.Memory}}", "ww"]).ok();
        assert_eq!(state, "exited 9 67108864");
        assert_eq!(bed.run(cli, &["inspect", "-f", "{{.Id}}", "ww"]).ok(), id);
        assert!(bed.run(cli, &["inspect", "nosuch"]).fails(1).to_lowercase().contains("no such object: nosuch"));
    }

    fn attach_and_detach(bed, cli) {
        bed.run(cli, &["pull", "busybox"]).ok();
        bed.run(cli, &["run", "-dit", "--name", "aa", "busybox", "sh"]).ok();
        let mut terminal = bed.pty(cli, &["attach", "aa"]);
        terminal.send("echo in-$((40+2))\r");
        terminal.expect("in-42");
        terminal.send("\u{10}\u{11}");
        // The docker CLI says "read escape sequence" and exits with 1.
        assert_eq!(terminal.finish().1, 1);
        assert_eq!(bed.run(cli, &["inspect", "-f", "{{.State.Running}}", "aa"]).ok(), "true");
        bed.run(cli, &["kill", "aa"]).ok();
        assert_eq!(bed.run(cli, &["wait", "aa"]).ok(), "137");
    }

    fn version_and_info(bed, cli) {
        let version = bed.run(cli, &["version"]).ok();
        assert!(version.contains("Client") && version.contains("Server"), "{version}");
        let info = bed.run(cli, &["info"]).ok();
        assert!(info.contains("Containers: 0") && info.contains("Kernel Version:"), "{info}");
    }
}

/// Output that comes in pieces and at the end is all there: nothing is lost between the exit and the hang-up.
#[test]
fn all_output_arrives() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    for _ in 0..5 {
        let out = bed.docker(&["run", "--rm", "busybox", "sh", "-c", "seq 1 20000; echo err >&2"]);
        assert_eq!(out.stdout.lines().count(), 20000);
        assert!(out.stdout.ends_with("20000\n"));
        assert_eq!(out.stderr, "err\n");
    }
    let mut child = bed
        .command(Cli::Docker, &["run", "--rm", "-i", "busybox", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let big: Vec<u8> = (0..3_000_000u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let mut stdin = child.stdin.take().unwrap();
    let sent = big.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let mut got = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut got).unwrap();
    writer.join().unwrap();
    assert!(child.wait().unwrap().success());
    assert!(got == big, "{} of {} bytes came back", got.len(), big.len());
    bed.finish();
}
