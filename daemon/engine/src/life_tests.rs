// SPDX-License-Identifier: Apache-2.0
//! A container's life on stand-ins.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::Ordering;

use berth_api::Filters;
use berth_domain::{Meaning, Status};
use serde_json::json;

use crate::fake::{Fixture, Launching};
use crate::{
    AttachOptions, Condition, EventStream, ExecConfig, ExecStart, LogOptions, RemoveOptions, Update,
};

const FORCE: RemoveOptions = RemoveOptions { force: true, volumes: false, link: false };

/// The actions of the next events.
async fn actions(events: &mut EventStream, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..count {
        let next = tokio::time::timeout(std::time::Duration::from_secs(20), events.next());
        let event = next.await.expect("an event in time").expect("an event");
        all.push(format!("{} {}", event.kind, event.action));
    }
    all
}

#[tokio::test]
async fn a_whole_life_and_its_events() {
    let f = Fixture::new().await;
    let mut events = f.engine.events_subscribe(None, None, Filters::default()).unwrap();
    let id = f.create("c1", json!({"Labels": {"l": "1"}})).await;
    assert_eq!(f.engine.container_inspect("c1").unwrap().state.status, Status::Created);
    f.engine.container_start("c1", None).await.unwrap();
    let now = f.engine.container_inspect(id.short()).unwrap();
    assert_eq!((now.state.status, now.state.pid, &*now.path), (Status::Running, 4242, "sh"));
    let again = f.engine.container_start("c1", None).await.expect_err("it runs");
    assert_eq!(again.meaning(), Meaning::NotModified);

    let wait = f.engine.container_wait("c1", Condition::NextExit).unwrap();
    f.shims.last().exit(3);
    assert_eq!(wait.outcome().await.unwrap().code, 3);
    let now = f.engine.container_inspect("/c1").unwrap();
    assert_eq!((now.state.status, now.state.exit_code, now.state.pid), (Status::Exited, 3, 0));
    f.engine.container_remove("c1", RemoveOptions::default()).await.unwrap();
    assert_eq!(f.engine.container_inspect("c1").expect_err("gone").to_string(), "No such container: c1");
    assert_eq!(
        actions(&mut events, 6).await,
        [
            "container create",
            "network connect",
            "container start",
            "network disconnect",
            "container die",
            "container destroy"
        ]
    );
}

#[tokio::test]
async fn events_carry_names_labels_and_codes() {
    let f = Fixture::new().await;
    let mut events =
        f.engine.events_subscribe(Some(0), None, Filters::parse(r#"{"event":["die"]}"#).unwrap()).unwrap();
    f.create("c1", json!({"Labels": {"l": "1"}})).await;
    f.engine.container_start("c1", None).await.unwrap();
    f.shims.last().exit(3);
    let die = events.next().await.unwrap();
    for (key, value) in [
        ("image", "busybox"),
        ("name", "c1"),
        ("l", "1"),
        ("from", "image"),
        ("exitCode", "3"),
        ("execDuration", "0"),
    ] {
        assert_eq!(die.attributes.get(key).map(String::as_str), Some(value), "{key}");
    }
}

#[tokio::test]
async fn every_step_of_a_start_is_undone_when_the_next_fails() {
    let f = Fixture::new().await;
    let id = f.create("c1", json!({})).await;
    for step in ["image", "run dir", "sandbox and shim", "files", "guests", "launch"] {
        *f.engine.faults.lock().unwrap() = Some(step);
        let error = f.engine.container_start("c1", None).await.expect_err(step);
        assert!(error.to_string().contains("fault"), "{step}: {error}");
        f.check_nothing_left(&id);
        let state = &f.engine.container_inspect("c1").unwrap().state;
        assert_eq!((state.status, state.exit_code), (Status::Created, 128), "{step}");
        assert!(state.error.contains(step));
    }
    *f.engine.faults.lock().unwrap() = None;
    f.engine.container_start("c1", None).await.expect("and then it works");
    assert_eq!(f.engine.container_inspect("c1").unwrap().state.error, "");
}

#[tokio::test]
async fn failures_below_are_undone_and_told_in_known_words() {
    let f = Fixture::new().await;
    let id = f.create("c1", json!({})).await;
    f.networks.fail.store(true, Ordering::SeqCst);
    let error = f.engine.container_start("c1", None).await.expect_err("no network");
    assert_eq!(error.meaning(), Meaning::NotFound);
    assert_eq!(error.chain(), "failed to set up container networking: network nonet not found");
    f.check_nothing_left(&id);
    f.networks.fail.store(false, Ordering::SeqCst);

    f.shims.fail_spawn.store(true, Ordering::SeqCst);
    f.engine.container_start("c1", None).await.expect_err("no shim");
    f.check_nothing_left(&id);
    f.shims.fail_spawn.store(false, Ordering::SeqCst);

    *f.shims.launching.lock().unwrap() = Launching::NotFound;
    let error = f.engine.container_start("c1", None).await.expect_err("no program");
    assert_eq!(error.meaning(), Meaning::InvalidInput);
    assert_eq!(
        error.chain(),
        "failed to create task for container: failed to create shim task: OCI runtime create failed: berth-shim create \
         failed: unable to start container process: exec: \"x\": executable file not found in $PATH"
    );
    f.check_nothing_left(&id);
    assert_eq!(f.engine.container_inspect("c1").unwrap().state.exit_code, 127);
}

#[tokio::test]
async fn a_kill_cancels_a_start_in_flight() {
    let f = Fixture::new().await;
    *f.shims.launching.lock().unwrap() = Launching::Hangs;
    let id = f.create("c1", json!({})).await;
    let engine = f.engine.clone();
    let start = tokio::spawn(async move { engine.container_start("c1", None).await });
    f.shims.nth(1).await;
    f.engine.container_kill("c1", "").await.unwrap();
    assert_eq!(start.await.unwrap().expect_err("cancelled").meaning(), Meaning::Cancelled);
    f.check_nothing_left(&id);
    assert_eq!(f.engine.container_inspect("c1").unwrap().state.status, Status::Created);
}

#[tokio::test]
async fn a_forced_removal_cancels_a_start_that_hangs_on_the_network() {
    let f = Fixture::new().await;
    f.networks.hang.store(true, Ordering::SeqCst);
    let id = f.create("c1", json!({})).await;
    let engine = f.engine.clone();
    let start = tokio::spawn(async move { engine.container_start("c1", None).await });
    f.shims.nth(1).await;
    f.engine.container_remove("c1", FORCE).await.unwrap();
    assert_eq!(start.await.unwrap().expect_err("cancelled").meaning(), Meaning::Cancelled);
    f.check_nothing_left(&id);
    assert!(f.engine.resolve("c1").is_err());
}

#[tokio::test]
async fn reads_do_not_wait_for_a_start_that_hangs() {
    let f = Fixture::new().await;
    *f.shims.launching.lock().unwrap() = Launching::Hangs;
    f.create("c1", json!({})).await;
    let engine = f.engine.clone();
    let _start = tokio::spawn(async move { engine.container_start("c1", None).await });
    f.shims.nth(1).await;
    assert_eq!(f.engine.container_inspect("c1").unwrap().state.status, Status::Created);
    let all = crate::ListOptions { all: true, ..crate::ListOptions::default() };
    assert_eq!(f.engine.container_list(&all).unwrap().len(), 1);
}

#[tokio::test]
async fn too_many_requests_are_told_so() {
    let f = Fixture::new().await;
    *f.shims.launching.lock().unwrap() = Launching::Hangs;
    f.create("c1", json!({})).await;
    let spawn = || {
        let engine = f.engine.clone();
        tokio::spawn(async move { engine.container_stop("c1", None, None).await })
    };
    let engine = f.engine.clone();
    let _start = tokio::spawn(async move { engine.container_start("c1", None).await });
    f.shims.nth(1).await;
    let waiting: Vec<_> = (0..crate::handle::QUEUE).map(|_| spawn()).collect();
    while f.engine.index.resolve("c1").unwrap().commands.capacity() > 0 {
        tokio::task::yield_now().await;
    }
    let error = spawn().await.unwrap().expect_err("the queue is full");
    assert_eq!(error.meaning(), Meaning::Unavailable);
    f.engine.container_remove("c1", FORCE).await.expect("and yet it can be removed");
    for stop in waiting {
        stop.await.unwrap().expect_err("it never ran");
    }
}

#[tokio::test]
async fn conditions_of_a_wait() {
    let f = Fixture::new().await;
    f.create("c1", json!({})).await;
    let at_once = f.engine.container_wait("c1", Condition::NotRunning).unwrap();
    assert_eq!(at_once.outcome().await.unwrap().code, 0);
    let next = f.engine.container_wait("c1", Condition::NextExit).unwrap();
    let removed = f.engine.container_wait("c1", Condition::Removed).unwrap();
    f.engine.container_start("c1", None).await.unwrap();
    let ended = f.engine.container_wait("c1", Condition::NotRunning).unwrap();
    f.shims.last().exit(5);
    assert_eq!(next.outcome().await.unwrap().code, 5);
    assert_eq!(ended.outcome().await.unwrap().code, 5);
    f.engine.container_remove("c1", RemoveOptions::default()).await.unwrap();
    assert_eq!(removed.outcome().await.unwrap().code, 5);
}

#[tokio::test]
async fn one_that_removes_itself() {
    let f = Fixture::new().await;
    let id = f.create("c1", json!({"HostConfig": {"AutoRemove": true}})).await;
    let wait = f.engine.container_wait("c1", Condition::Removed).unwrap();
    f.engine.container_start("c1", None).await.unwrap();
    f.shims.last().exit(7);
    assert_eq!(wait.outcome().await.unwrap().code, 7);
    assert!(f.engine.resolve(id.as_str()).is_err());
    assert!(!f.root.path().join("data/containers").join(id.as_str()).exists());

    *f.shims.launching.lock().unwrap() = Launching::NotFound;
    f.create("c2", json!({"HostConfig": {"AutoRemove": true}})).await;
    let wait = f.engine.container_wait("c2", Condition::Removed).unwrap();
    f.engine.container_start("c2", None).await.expect_err("no program");
    assert_eq!(wait.outcome().await.unwrap().code, 127);
}

#[tokio::test]
async fn stop_asks_and_then_insists() {
    let f = Fixture::new().await;
    f.create("c1", json!({})).await;
    let idle = f.engine.container_stop("c1", None, None).await.expect_err("it does not run");
    assert_eq!(idle.meaning(), Meaning::NotModified);
    f.engine.container_start("c1", None).await.unwrap();
    let mut events = f.engine.events_subscribe(None, None, Filters::default()).unwrap();
    f.engine.container_stop("c1", None, None).await.unwrap();
    assert_eq!(f.engine.container_inspect("c1").unwrap().state.exit_code, 143);
    assert_eq!(
        actions(&mut events, 4).await,
        ["container kill", "network disconnect", "container die", "container stop"]
    );

    f.shims.ignores_term.store(true, Ordering::SeqCst);
    f.engine.container_start("c1", None).await.unwrap();
    let shim = f.shims.last();
    f.engine.container_stop("c1", Some("SIGTERM"), Some(0)).await.unwrap();
    assert_eq!(*shim.signals.lock().unwrap(), [15, 9]);
    assert_eq!(f.engine.container_inspect("c1").unwrap().state.exit_code, 137);
    assert!(f.engine.container_stop("c1", Some("NOPE"), None).await.is_err());
}

#[tokio::test]
async fn restart_stops_and_starts() {
    let f = Fixture::new().await;
    f.create("c1", json!({})).await;
    f.engine.container_restart("c1", None, None).await.expect("one that does not run is started");
    let mut events = f.engine.events_subscribe(None, None, Filters::default()).unwrap();
    f.engine.container_restart("c1", None, None).await.unwrap();
    assert_eq!(
        actions(&mut events, 7).await,
        [
            "container kill",
            "network disconnect",
            "container die",
            "container stop",
            "network connect",
            "container start",
            "container restart"
        ]
    );
    assert_eq!(f.engine.container_inspect("c1").unwrap().state.status, Status::Running);
}

#[tokio::test]
async fn a_policy_starts_again_until_its_count_is_reached() {
    let f = Fixture::new().await;
    let policy = json!({"HostConfig": {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}}});
    f.create("c1", policy).await;
    f.engine.container_start("c1", None).await.unwrap();
    for run in 1..=3 {
        let shim = f.shims.nth(run).await;
        f.until("c1", |now| now.state.status == Status::Running).await;
        shim.exit(1);
        f.until("c1", |now| now.state.exits == u64::try_from(run).unwrap()).await;
    }
    f.until("c1", |now| now.state.status == Status::Exited).await;
    assert_eq!(f.engine.container_inspect("c1").unwrap().state.restart_count, 2);
}

#[tokio::test]
async fn a_stop_ends_the_policy_even_between_two_runs() {
    let f = Fixture::new().await;
    f.create("c1", json!({"HostConfig": {"RestartPolicy": {"Name": "always"}}})).await;
    f.engine.container_start("c1", None).await.unwrap();
    f.engine.container_stop("c1", None, None).await.unwrap();
    assert_eq!(f.engine.container_inspect("c1").unwrap().state.status, Status::Exited);
    // Many quick ends make the pause long; the stop comes within it.
    f.engine.container_start("c1", None).await.unwrap();
    f.shims.last().exit(0);
    f.until("c1", |now| now.state.status == Status::Restarting).await;
    let refused = f.engine.container_pause("c1").await.expect_err("it does not run");
    assert!(refused.to_string().ends_with("is restarting, wait until the container is running"), "{refused}");
    f.engine.container_stop("c1", None, None).await.unwrap();
    assert_eq!(f.engine.container_inspect("c1").unwrap().state.status, Status::Exited);
}

#[tokio::test]
async fn names_have_one_owner() {
    let f = Fixture::new().await;
    let many = (0..16).map(|_| {
        let engine = f.engine.clone();
        let body = serde_json::from_value(json!({"Image": "busybox"})).unwrap();
        tokio::spawn(async move { engine.container_create(Some("same".into()), None, body).await })
    });
    let mut winners = Vec::new();
    let mut texts = Vec::new();
    for made in many.collect::<Vec<_>>() {
        match made.await.unwrap() {
            Ok(created) => winners.push(created.id),
            Err(error) => texts.push(error.to_string()),
        }
    }
    let [winner] = winners.as_slice() else { panic!("{} won", winners.len()) };
    let conflict = format!(
        "Conflict. The container name \"/same\" is already in use by container \"{winner}\". You have to remove (or rename) \
         that container to be able to reuse that name."
    );
    assert!(texts.iter().all(|text| *text == conflict), "{texts:?}");

    f.create("other", json!({})).await;
    let error = f.engine.container_rename("other", "same").await.expect_err("taken");
    assert_eq!(error.to_string(), format!("Error when allocating new name: {conflict}"));
    f.engine.container_rename("other", "third").await.unwrap();
    f.create("other", json!({})).await;
    let error = f.engine.container_rename("third", "b@d").await.expect_err("no name");
    assert_eq!(error.meaning(), Meaning::InvalidInput);
}

#[tokio::test]
async fn half_a_create_leaves_nothing() {
    let f = Fixture::new().await;
    for step in ["create: directories", "create: record"] {
        *f.engine.faults.lock().unwrap() = Some(step);
        f.try_create("c1", json!({})).await.expect_err(step);
        let left = std::fs::read_dir(f.root.path().join("data/containers")).unwrap().count();
        assert_eq!(left, 0, "{step}");
    }
    *f.engine.faults.lock().unwrap() = None;
    f.create("c1", json!({})).await;
}

#[tokio::test]
async fn what_cannot_be_is_refused_at_create() {
    let f = Fixture::new().await;
    for (body, text) in [
        (json!({"HostConfig": {"Memory": 1000}}), "Minimum memory limit allowed is 6MB"),
        (
            json!({"HostConfig": {"RestartPolicy": {"Name": "bad"}}}),
            "invalid restart policy: unknown policy 'bad'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
        ),
        (
            json!({"HostConfig": {"Mounts": [{"Type": "bind", "Source": "/nope/q", "Target": "/y"}]}}),
            "invalid mount config for type \"bind\": bind source path does not exist: /nope/q",
        ),
        (json!({"Image": "nosuch"}), "No such image: nosuch:latest"),
        (json!({"StopSignal": "NOPE"}), "invalid signal: NOPE"),
        (
            json!({"HostConfig": {"AutoRemove": true, "RestartPolicy": {"Name": "always"}}}),
            "can't create 'AutoRemove' container with restart policy",
        ),
        (json!({"HostConfig": {"Links": ["a:b"]}}), "could not get container for a: No such container: a"),
    ] {
        assert_eq!(f.try_create("c1", body).await.expect_err(text).to_string(), text);
    }
    let error = f.try_create("b@d", json!({})).await.expect_err("no name");
    assert_eq!(error.to_string(), "Invalid container name (b@d), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed");
}

#[tokio::test]
async fn a_start_waits_for_clients_that_reserved_a_place() {
    let f = Fixture::new().await;
    f.create("c1", json!({"AttachStdout": true})).await;
    let options = AttachOptions { stream: true, stdout: true, ..AttachOptions::default() };
    let ticket = f.engine.container_attach("c1", options.clone()).await.unwrap();
    let given_up = f.engine.container_attach("c1", options.clone()).await.unwrap();
    let engine = f.engine.clone();
    let start = tokio::spawn(async move { engine.container_start("c1", None).await });
    f.shims.nth(1).await;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ticket.join(theirs.into(), b"early".to_vec()).await.unwrap();
    drop(given_up);
    start.await.unwrap().unwrap();
    let launch = f.shims.last().launch.lock().unwrap().clone().unwrap();
    assert_eq!(launch.attach.len(), 1);
    assert_eq!((&*launch.attach[0].early, launch.attach[0].multiplexed), (&b"early"[..], true));

    let late = f.engine.container_attach("c1", options).await.unwrap();
    late.join(ours.into(), Vec::new()).await.unwrap();
    assert_eq!(f.shims.last().attached.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn pause_and_what_is_refused_meanwhile() {
    let f = Fixture::new().await;
    let id = f.create("c1", json!({})).await;
    f.engine.container_start("c1", None).await.unwrap();
    f.engine.container_pause("c1").await.unwrap();
    assert_eq!(f.engine.container_inspect("c1").unwrap().state.status, Status::Paused);
    let again = f.engine.container_pause("c1").await.expect_err("paused");
    assert_eq!(again.to_string(), format!("Container {id} is already paused"));
    let exec = ExecConfig { cmd: vec!["a".into()], ..ExecConfig::default() };
    let refused = f.engine.exec_create("c1", exec).await.expect_err("paused");
    assert_eq!(refused.to_string(), "Container c1 is paused, unpause the container before exec");
    f.engine.container_unpause("c1").await.unwrap();
    let again = f.engine.container_unpause("c1").await.expect_err("not paused");
    assert_eq!(again.meaning(), Meaning::Internal);
    f.engine.container_pause("c1").await.unwrap();
    f.engine.container_remove("c1", FORCE).await.unwrap();
}

#[tokio::test]
async fn execs_run_once_and_are_remembered() {
    let f = Fixture::new().await;
    f.create("c1", json!({})).await;
    f.engine.container_start("c1", None).await.unwrap();
    let config = |cmd: &str| ExecConfig { cmd: vec![cmd.to_owned()], ..ExecConfig::default() };
    let id = f.engine.exec_create("c1", config("true")).await.unwrap();
    let dropped = f.engine.exec_start(id.as_str(), ExecStart::default()).await.unwrap();
    f.engine.exec_start(id.as_str(), ExecStart::default()).await.expect_err("reserved");
    drop(dropped);
    let ticket = f.engine.exec_start(id.as_str(), ExecStart::default()).await.unwrap();
    ticket.start_detached().await.unwrap();
    let seen = f.engine.exec_inspect(id.as_str()).await.unwrap();
    assert_eq!((seen.running, seen.pid, seen.exit_code), (true, 4343, None));
    let mut events =
        f.engine.events_subscribe(None, None, Filters::parse(r#"{"event":["exec_die"]}"#).unwrap()).unwrap();
    f.shims.last().tell(berth_runtime::ShimEvent::ExecExited { exec_id: id.to_string(), code: 9 });
    assert_eq!(events.next().await.unwrap().attributes["exitCode"], "9");
    assert_eq!(f.engine.exec_inspect(id.as_str()).await.unwrap().exit_code, Some(9));
    f.engine.exec_start(id.as_str(), ExecStart::default()).await.expect_err("it ran");

    let id = f.engine.exec_create("c1", config("nosuch")).await.unwrap();
    let ticket = f.engine.exec_start(id.as_str(), ExecStart::default()).await.unwrap();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ticket.join(theirs.into(), Vec::new()).await.expect_err("no program");
    assert_eq!(f.engine.exec_inspect(id.as_str()).await.unwrap().exit_code, Some(127));
    let told = tokio::task::spawn_blocking(move || std::io::read_to_string(ours)).await.unwrap().unwrap();
    assert!(told.ends_with("exec: \"nosuch\": executable file not found in $PATH\r\n"), "{told:?}");
    let error = f.engine.exec_inspect("nosuch").await.expect_err("none");
    assert_eq!(error.to_string(), "No such exec instance: nosuch");
}

#[tokio::test]
async fn a_shim_that_vanishes_is_an_end_with_255() {
    let f = Fixture::new().await;
    f.create("c1", json!({})).await;
    f.engine.container_start("c1", None).await.unwrap();
    f.shims.last().vanish();
    f.until("c1", |now| now.state.status == Status::Exited).await;
    assert_eq!(f.engine.container_inspect("c1").unwrap().state.exit_code, 255);
    assert!(f.networks.sandboxes.lock().unwrap().is_empty());
    f.engine.container_start("c1", None).await.expect("it can be started again");
}

#[tokio::test]
async fn a_followed_log_ends_with_its_container() {
    let f = Fixture::new().await;
    let id = f.create("c1", json!({})).await;
    f.engine.container_start("c1", None).await.unwrap();
    let path = f.engine.container_inspect("c1").unwrap().log_path.clone().unwrap();
    let line =
        |n: u32| format!("{{\"log\":\"{n}\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:00Z\"}}\n");
    let append = |text: String| {
        use std::io::Write as _;
        let mut file = std::fs::File::options().create(true).append(true).open(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    append(line(1));
    let options = LogOptions { follow: true, stdout: true, ..LogOptions::default() };
    let mut log = f.engine.container_logs(id.as_str(), options).await.unwrap();
    assert_eq!(&*log.next().await.unwrap().unwrap(), b"1\n");
    append(line(2));
    assert_eq!(&*log.next().await.unwrap().unwrap(), b"2\n");
    append(line(3));
    f.shims.last().exit(0);
    assert_eq!(&*log.next().await.unwrap().unwrap(), b"3\n");
    assert!(log.next().await.is_none());
    let error = f.engine.container_logs("c1", LogOptions::default()).await.expect_err("no stream");
    assert_eq!(error.to_string(), "Bad parameters: you must choose at least one stream");
}

#[tokio::test]
async fn an_update_is_recorded_and_checked() {
    let f = Fixture::new().await;
    f.create("c1", json!({})).await;
    f.engine.container_start("c1", None).await.unwrap();
    let memory = |memory| {
        let mut update = Update::default();
        update.resources.memory = memory;
        update
    };
    let error = f.engine.container_update("c1", memory(1000)).await.expect_err("too little");
    assert_eq!(error.to_string(), "Minimum memory limit allowed is 6MB");
    f.engine.container_update("c1", memory(64 << 20)).await.unwrap();
    assert_eq!(f.engine.container_inspect("c1").unwrap().host_config.resources.memory, 64 << 20);
}

#[tokio::test]
async fn prune_takes_what_does_not_run() {
    let f = Fixture::new().await;
    let dead = f.create("c1", json!({"Labels": {"x": "1"}})).await;
    f.create("c2", json!({})).await;
    f.create("c3", json!({})).await;
    f.engine.container_start("c3", None).await.unwrap();
    let report = f.engine.container_prune(Filters::parse(r#"{"label":["x"]}"#).unwrap()).await.unwrap();
    assert_eq!(report.deleted, [dead]);
    assert_eq!(f.engine.container_prune(Filters::default()).await.unwrap().deleted.len(), 1);
    assert_eq!(f.engine.counts().all, 1);
}

#[tokio::test]
async fn lists_are_filtered() {
    let f = Fixture::new().await;
    let first = f.create("first", json!({"Labels": {"x": "1"}, "ExposedPorts": {"80/tcp": {}}})).await;
    f.create("second", json!({})).await;
    f.engine.container_start("second", None).await.unwrap();
    f.create("third", json!({})).await;
    f.engine.container_start("third", None).await.unwrap();
    f.shims.last().exit(3);
    f.until("third", |now| now.state.status == Status::Exited).await;
    let check = |filters: &str, all: bool, wanted: &[&str]| {
        let options = crate::ListOptions { all, limit: None, filters: Filters::parse(filters).unwrap() };
        let found = f.engine.container_list(&options).expect(filters);
        assert_eq!(found.iter().map(|now| &*now.name).collect::<Vec<_>>(), wanted, "{filters}");
    };
    check("", false, &["second"]);
    check("", true, &["third", "second", "first"]);
    check(r#"{"status":["created","exited"]}"#, false, &["third", "first"]);
    check(r#"{"exited":["3"]}"#, false, &[]);
    check(r#"{"exited":["3","0"]}"#, true, &["third"]);
    check(r#"{"label":["x=1"]}"#, true, &["first"]);
    check(r#"{"name":["^/?sec"]}"#, true, &["second"]);
    check(r#"{"name":["ir"]}"#, true, &["third", "first"]);
    check(&format!(r#"{{"id":["^{}"]}}"#, first.short()), true, &["first"]);
    check(r#"{"ancestor":["busybox"]}"#, false, &["second"]);
    check(r#"{"ancestor":["busybox:latest"]}"#, false, &["second"]);
    check(r#"{"ancestor":["other"]}"#, true, &[]);
    check(r#"{"before":["second"]}"#, true, &["first"]);
    check(r#"{"since":["first"]}"#, true, &["third", "second"]);
    check(r#"{"expose":["80"]}"#, true, &["first"]);
    check(r#"{"name":["("]}"#, true, &[]);
    check(r#"{"network":["bridge"]}"#, false, &["second"]);
    check(r#"{"health":["none"]}"#, false, &["second"]);
    let bad = |filters: &str| {
        let options =
            crate::ListOptions { all: true, limit: None, filters: Filters::parse(filters).unwrap() };
        f.engine.container_list(&options).expect_err(filters).to_string()
    };
    assert_eq!(bad(r#"{"nope":["1"]}"#), "invalid filter 'nope'");
    assert_eq!(
        bad(r#"{"exited":["x"]}"#),
        "invalid filter 'exited=x': strconv.Atoi: parsing \"x\": invalid syntax"
    );
    assert_eq!(bad(r#"{"before":["nope"]}"#), "No such container: nope");
}

#[tokio::test]
async fn shared_namespaces_need_a_running_container() {
    let f = Fixture::new().await;
    f.create("donor", json!({})).await;
    f.create("c1", json!({"HostConfig": {"NetworkMode": "container:donor"}})).await;
    let error = f.engine.container_start("c1", None).await.expect_err("the donor does not run");
    assert_eq!(error.meaning(), Meaning::Conflict);
    assert!(
        error.to_string().starts_with("cannot join network namespace of a non running container"),
        "{error}"
    );
}

#[tokio::test]
async fn that_a_person_ends_it_is_recorded_before_the_signal() {
    let f = Fixture::new().await;
    let body = json!({"HostConfig": {"RestartPolicy": {"Name": "unless-stopped"}}});
    let id = f.create("c1", body).await;
    let state = f.root.path().join("data/containers").join(id.as_str()).join(crate::record::STATE_FILE);
    let watch = |shim: &crate::fake::FakeShim| *shim.watched.lock().unwrap() = Some(state.clone());
    let seen = |shim: &crate::fake::FakeShim| {
        let seen = shim.seen.lock().unwrap();
        seen.iter().map(|seen| seen.as_ref().map(|s| (s.status.clone(), s.by_hand))).collect::<Vec<_>>()
    };
    let said = |by_hand: bool| [Some(("running".to_owned(), by_hand))];

    f.engine.container_start("c1", None).await.unwrap();
    let shim = f.shims.last();
    watch(&shim);
    f.engine.container_stop("c1", None, None).await.unwrap();
    assert_eq!(seen(&shim), said(true));

    f.engine.container_start("c1", None).await.unwrap();
    let shim = f.shims.last();
    watch(&shim);
    f.engine.container_kill("c1", "").await.unwrap();
    assert_eq!(seen(&shim), said(true));
    f.until("c1", |now| now.state.status == Status::Exited).await;

    // It is to run again: a daemon that dies in between finds a container that nobody wanted to end.
    f.engine.container_start("c1", None).await.unwrap();
    let shim = f.shims.last();
    watch(&shim);
    f.engine.container_restart("c1", None, None).await.unwrap();
    assert_eq!(seen(&shim), said(false));

    let shim = f.shims.last();
    watch(&shim);
    f.engine.container_remove("c1", FORCE).await.unwrap();
    assert_eq!(seen(&shim), said(true));
}
