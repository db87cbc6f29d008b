// SPDX-License-Identifier: Apache-2.0
//! Daemons that die, come back, are replaced or do not listen.

use std::fs;

use berth_shim_proto::*;

use crate::rig::{Builder, Rig, readable, same};

crate::with_each_builder! {
    a_container_outlives_its_daemon
    an_end_without_a_daemon_is_on_disk
    held_descriptors_come_back
    a_second_daemon_replaces_the_first
    a_daemon_that_dies_in_the_middle_of_a_launch
}

fn state(rig: &mut Rig) -> State {
    match rig.ask(Request::State) {
        Reply::State(state) => state,
        other => panic!("{other:?}"),
    }
}

fn a_container_outlives_its_daemon(builder: Builder) {
    let mut rig = Rig::new(builder, &["sh", "-c", "while read line; do echo \"<$line>\"; done"]);
    rig.launch.open_stdin = true;
    let mut client = rig.client(|_| {});
    let pid = rig.launch();
    client.send("one\n");
    client.until("<one>\n");
    rig.drop_connection();
    client.send("two\n");
    client.until("<two>\n");
    rig.connect();
    let state = state(&mut rig);
    assert_eq!((state.init, state.exited, state.execs), (Some(pid), None, Vec::new()));
    // Everything works as before, for old clients and new ones.
    let mut second = rig.attach(|_| {});
    client.send("three\n");
    client.until("<three>\n");
    second.until("<three>\n");
    let (reply, output) = rig.exec("e", &["echo", "hi"], |_| {});
    assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
    assert_eq!(rig.exec_exited("e"), 0);
    assert_eq!(output.output().text().0, "hi\n");
    rig.kill();
    assert_eq!(client.output().text(), (String::new(), String::new()));
    let texts: Vec<String> = rig.log().into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["<one>\n", "<two>\n", "<three>\n"]);
}

fn an_end_without_a_daemon_is_on_disk(builder: Builder) {
    let mut rig = Rig::new(builder, &["sh", "-c", "read line; exit 9"]);
    rig.launch.open_stdin = true;
    let mut client = rig.client(|_| {});
    rig.launch();
    let (reply, mut exec) = rig.exec("e", &["sh", "-c", "read line; exit 4"], |_| {});
    assert!(matches!(reply, Reply::ExecStarted { .. }), "{reply:?}");
    rig.drop_connection();
    exec.send("\n");
    assert_eq!(exec.frame(), None);
    client.send("\n");
    assert_eq!(client.frame(), None);
    rig.gone();
    let text = fs::read(rig.bundle().join(EXIT_FILE)).unwrap();
    let record: ExitRecord = serde_json::from_slice(&text).unwrap();
    assert_eq!((record.code, record.execs), (9, vec![("e".to_owned(), 4)]));
}

fn held_descriptors_come_back(builder: Builder) {
    let mut rig = Rig::new(builder, &["sleep", "1000"]);
    let netns = fs::File::open("/proc/self/ns/net").unwrap();
    let file = tempfile::tempfile().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    rig.launch.netns = Some(rig.fd(netns.try_clone().unwrap().into()));
    for (name, fd) in [("a", file.try_clone().unwrap().into()), ("b", port.try_clone().unwrap().into())] {
        let fd = rig.fd(fd);
        rig.launch.held.push(HeldFd { name: name.to_owned(), fd });
    }
    rig.launch();
    rig.drop_connection();
    rig.connect();
    for _ in 0..3 {
        let (reply, fds) = rig.ask_raw(&Request::Held, &[]);
        let Reply::Held { netns: Some(net), fds: named } = reply else { panic!("{reply:?}") };
        assert!(same(&fds[usize::from(net)], &netns));
        let names: Vec<&str> = named.iter().map(|held| held.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(same(&fds[usize::from(named[0].fd)], &file));
        assert!(same(&fds[usize::from(named[1].fd)], &port));
    }
    rig.kill();
}

fn a_second_daemon_replaces_the_first(builder: Builder) {
    let mut rig = Rig::new(builder, &["sleep", "1000"]);
    rig.launch();
    let second = rig.dial();
    // The first hears that it is no longer the one.
    assert!(rig.receive().is_none());
    rig.replace_connection(second);
    assert!(state(&mut rig).init.is_some());
    rig.kill();
}

fn a_daemon_that_dies_in_the_middle_of_a_launch(builder: Builder) {
    let mut rig = Rig::new(builder, &["sh", "-c", "echo up; sleep 1000"]);
    let mut client = rig.client(|_| {});
    rig.launch_and_die();
    client.until("up\n");
    rig.connect();
    let pids: PidRecord = serde_json::from_slice(&fs::read(rig.bundle().join(PID_FILE)).unwrap()).unwrap();
    assert_eq!(state(&mut rig).init, Some(pids.init));
    rig.kill();
}

#[test]
fn nonsense_costs_the_connection_and_nothing_else() {
    let mut rig = Rig::new(Builder::Native, &["sleep", "1000"]);
    rig.launch();
    let stranger = rig.dial();
    rustix::net::send(&stranger, b"GET / HTTP/1.1\r\n\r\n", rustix::net::SendFlags::NOSIGNAL).unwrap();
    readable(&stranger, "the connection is not closed");
    assert!(matches!(recv::<FromShim>(&stranger), Err(PacketError::Closed)));
    rig.connect();
    rig.kill();
}

#[test]
fn a_daemon_that_does_not_listen_is_cut_off() {
    let mut rig = Rig::new(Builder::Native, &["sleep", "1000"]);
    rig.launch();
    let deaf = rig.dial();
    let request = serde_json::json!({"id": 1, "request": "State"});
    // It asks and asks and never reads an answer: in the end the shim hangs up.
    let ended = (0..1_000_000).any(|_| send(&deaf, &request, &[]).is_err());
    assert!(ended);
    rig.connect();
    assert!(state(&mut rig).init.is_some());
    rig.kill();
}

#[test]
fn service_managers_signals_do_not_end_it() {
    let mut rig = Rig::new(Builder::Native, &["sleep", "1000"]);
    rig.launch();
    let shim = rustix::process::Pid::from_raw(rig.shim_pid()).unwrap();
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT, rustix::process::Signal::HUP]
    {
        rustix::process::kill_process(shim, signal).unwrap();
    }
    assert!(state(&mut rig).init.is_some());
    assert_eq!(rustix::process::getsid(Some(shim)).unwrap(), shim);
    rig.kill();
}

#[test]
fn another_user_is_not_spoken_to() {
    use std::os::unix::fs::PermissionsExt;
    let mut rig = Rig::new(Builder::Native, &["sleep", "1000"]);
    rig.launch();
    let socket = rig.bundle().join(SOCKET_NAME);
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    // Even where nothing else keeps it out.
    for path in [rig.dir.path(), &rig.bundle(), &socket] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    std::thread::scope(|scope| {
        let stranger = scope.spawn(|| {
            let nobody = rustix::process::Uid::from_raw(65534);
            // Of this thread alone.
            rustix::thread::set_thread_res_uid(None, Some(nobody), None).unwrap();
            let stranger = rig.dial();
            readable(&stranger, "the connection is not closed");
            assert!(matches!(recv::<FromShim>(&stranger), Err(PacketError::Closed)));
        });
        stranger.join().unwrap();
    });
    // The daemon's own connection is still the one.
    assert!(state(&mut rig).init.is_some());
    assert!(rig.shim_log().contains("65534"));
    rig.kill();
}
