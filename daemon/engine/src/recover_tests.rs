// SPDX-License-Identifier: Apache-2.0
//! What a new daemon makes of what an old one left.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use berth_domain::{ContainerId, Status};
use serde_json::json;

use crate::Condition;
use crate::fake::{Fixture, Left};
use crate::record::{self, STARTING, STATE_FILE, StateRecord};

fn status(f: &Fixture, name: &str) -> (Status, i32) {
    let now = f.engine.container_inspect(name).expect(name);
    (now.state.status, now.state.exit_code)
}

fn read_state(f: &Fixture, id: &ContainerId) -> StateRecord {
    record::read(&f.root.path().join("data/containers").join(id.as_str()).join(STATE_FILE)).expect("a state")
}

/// Makes the record what a daemon that was killed at another moment had left.
async fn write_state(f: &Fixture, id: &ContainerId, change: impl FnOnce(&mut StateRecord)) {
    // A start is recorded behind its answer; whatever is answered after that comes behind the record.
    f.engine.container_kill(id.as_str(), "SIGCONT").await.unwrap();
    let mut state = read_state(f, id);
    change(&mut state);
    record::write(&f.root.path().join("data/containers").join(id.as_str()).join(STATE_FILE), &state).unwrap();
}

#[tokio::test]
async fn what_runs_is_taken_back() {
    let f = Fixture::new().await;
    let id = f.create("c1", json!({"Labels": {"x": "1"}})).await;
    f.engine.container_start("c1", None).await.unwrap();
    let before = f.engine.container_inspect("c1").unwrap();
    let f = f.restart([(id.clone(), Left::Alive { launched: true })]).await;
    let now = f.engine.container_inspect("c1").unwrap();
    assert_eq!((now.state.status, now.state.pid), (Status::Running, 4242));
    assert_eq!(
        (&now.config, &now.host_config, &now.mounts),
        (&before.config, &before.host_config, &before.mounts)
    );
    assert_eq!((&now.sandbox, now.state.started_at), (&before.sandbox, before.state.started_at));
    assert_eq!(*f.networks.adopted.lock().unwrap(), [id.to_string()]);
    assert_eq!(*f.networks.swept.lock().unwrap(), Some(vec![id.to_string()]));
    let wait = f.engine.container_wait("c1", Condition::NotRunning).unwrap();
    f.engine.container_stop("c1", None, None).await.unwrap();
    assert_eq!(wait.outcome().await.unwrap().code, 143);
}

#[tokio::test]
async fn what_ended_meanwhile_has_its_code() {
    let f = Fixture::new().await;
    let ended = f.create("ended", json!({})).await;
    let lost = f.create("lost", json!({})).await;
    let empty = f.create("empty", json!({})).await;
    f.create("created", json!({"HostConfig": {"RestartPolicy": {"Name": "always"}}})).await;
    for name in ["ended", "lost", "empty"] {
        f.engine.container_start(name, None).await.unwrap();
    }
    let left =
        [(ended, Left::Ended(42)), (lost.clone(), Left::Lost), (empty, Left::Alive { launched: false })];
    let f = f.restart(left).await;
    assert_eq!(status(&f, "ended"), (Status::Exited, 42));
    assert_eq!(status(&f, "lost"), (Status::Exited, 255));
    assert_eq!(status(&f, "empty"), (Status::Exited, 255));
    assert_eq!(status(&f, "created"), (Status::Created, 0));
    f.check_nothing_left(&lost);
    let f = f.restart([]).await;
    assert_eq!(status(&f, "ended"), (Status::Exited, 42));
}

#[tokio::test]
async fn a_host_that_was_rebooted_left_no_run_directories() {
    let f = Fixture::new().await;
    f.create("c1", json!({})).await;
    f.engine.container_start("c1", None).await.unwrap();
    std::fs::remove_dir_all(f.root.path().join("run")).unwrap();
    let f = f.restart([]).await;
    assert_eq!(status(&f, "c1"), (Status::Exited, 255));
    assert!(f.engine.container_inspect("c1").unwrap().state.finished_at.is_some());
}

#[tokio::test]
async fn policies_apply_once_at_start() {
    let f = Fixture::new().await;
    let policy = |name: &str| json!({"HostConfig": {"RestartPolicy": {"Name": name}}});
    for (name, asked) in
        [("always", "always"), ("stopped", "unless-stopped"), ("unless", "unless-stopped"), ("no", "no")]
    {
        f.create(name, policy(asked)).await;
        f.engine.container_start(name, None).await.unwrap();
    }
    f.engine.container_stop("always", None, None).await.unwrap();
    f.engine.container_stop("stopped", None, None).await.unwrap();
    let f = f.restart([]).await;
    f.until("always", |now| now.state.status == Status::Running).await;
    f.until("unless", |now| now.state.status == Status::Running).await;
    assert_eq!(status(&f, "stopped"), (Status::Exited, 143));
    assert_eq!(status(&f, "no"), (Status::Exited, 255));
}

#[tokio::test]
async fn an_interrupted_self_removal_is_finished() {
    let f = Fixture::new().await;
    let id = f.create("c1", json!({"HostConfig": {"AutoRemove": true}})).await;
    f.engine.container_start("c1", None).await.unwrap();
    let f = f.restart([(id.clone(), Left::Ended(0))]).await;
    // Gone already, or about to be.
    if let Ok(wait) = f.engine.container_wait(id.as_str(), Condition::Removed) {
        wait.outcome().await.unwrap();
    }
    assert!(!f.root.path().join("data/containers").join(id.as_str()).exists());
}

#[tokio::test]
async fn bad_records_are_left_aside_and_the_rest_goes_on() {
    let f = Fixture::new().await;
    let torn = f.create("torn", json!({})).await;
    let newer = f.create("newer", json!({})).await;
    let state = f.create("state", json!({})).await;
    f.create("good", json!({})).await;
    let dir = |id: &berth_domain::ContainerId| f.root.path().join("data/containers").join(id.as_str());
    std::fs::write(dir(&torn).join("config.json"), "{\"schema\":1").unwrap();
    std::fs::write(dir(&newer).join("config.json"), "{\"schema\":999}").unwrap();
    std::fs::write(dir(&state).join("state.json"), "").unwrap();
    let half = f.root.path().join("data/containers").join("a".repeat(64));
    std::fs::create_dir(&half).unwrap();
    let (torn_dir, newer_dir) = (dir(&torn), dir(&newer));
    let f = f.restart([]).await;
    assert_eq!(status(&f, "good"), (Status::Created, 0));
    assert_eq!(status(&f, "state"), (Status::Exited, 255));
    assert_eq!(f.engine.counts().all, 2);
    assert!(torn_dir.exists() && newer_dir.exists(), "they are a person's to look at");
    assert!(!half.exists(), "half a create is nobody's");
}

#[tokio::test]
async fn names_and_renames_are_kept() {
    let f = Fixture::new().await;
    let id = f.create("old", json!({})).await;
    f.engine.container_rename("old", "new").await.unwrap();
    let f = f.restart([]).await;
    assert_eq!(f.engine.resolve("new").unwrap(), id);
    f.engine.resolve("old").expect_err("renamed");
    f.try_create("new", json!({})).await.expect_err("taken");
}

#[tokio::test]
async fn anonymous_volumes_of_what_was_interrupted_go_with_it() {
    let f = Fixture::new().await;
    let body = json!({"Volumes": {"/v": {}}});
    let keeps = f.create("keeps", body.clone()).await;
    let half = f.create("half", body.clone()).await;
    let removed = f.create("removed", body).await;
    let volume = |name: &str| f.engine.container_inspect(name).unwrap().mounts[0].name.clone();
    let (kept, lost, gone) = (volume("keeps"), volume("half"), volume("removed"));
    let data = f.root.path().join("data");
    let dir = |id: &berth_domain::ContainerId| data.join("containers").join(id.as_str());
    let note = |id: &berth_domain::ContainerId, name: &str| {
        crate::record::note_unwanted(&dir(id), f.engine.container_inspect(name).unwrap().mounts.iter())
            .unwrap();
    };
    // Killed before the record was written; between the renaming and the volumes; and right after the record.
    note(&half, "half");
    std::fs::remove_file(dir(&half).join("config.json")).unwrap();
    note(&removed, "removed");
    std::fs::rename(dir(&removed), data.join("removing").join(removed.as_str())).unwrap();
    note(&keeps, "keeps");
    let f = f.restart([]).await;
    f.engine.shutdown().await;
    let there = |name: &str| data.join("volumes").join(name).exists();
    assert!(there(&kept), "its container is whole");
    assert!(!there(&lost) && !there(&gone), "nobody's volumes");
}

#[tokio::test]
async fn settings_that_are_not_accepted_any_more_keep_their_container() {
    let f = Fixture::new().await;
    let id = f.create("c1", json!({})).await;
    f.engine.container_start("c1", None).await.unwrap();
    let path = f.root.path().join("data/containers").join(id.as_str()).join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        text.replace("\"StopSignal\"", "\"-\"").replace("\"Runtime\":\"berth\"", "\"Runtime\":\"gone\""),
    )
    .unwrap();
    let f = f.restart([(id, Left::Alive { launched: true })]).await;
    assert_eq!(status(&f, "c1").0, Status::Running);
    f.engine.container_stop("c1", None, None).await.unwrap();
    let error = f.engine.container_start("c1", None).await.expect_err("not accepted");
    assert!(error.to_string().contains("unknown or invalid runtime name: gone"), "{error}");
    f.engine.container_remove("c1", crate::RemoveOptions::default()).await.unwrap();
}

#[tokio::test]
async fn one_that_removes_itself_and_never_ran_goes() {
    let f = Fixture::new().await;
    let once = json!({"HostConfig": {"AutoRemove": true}});
    let created = f.create("created", once.clone()).await;
    let interrupted = f.create("interrupted", once.clone()).await;
    let runs = f.create("runs", once).await;
    let plain = f.create("plain", json!({})).await;
    f.engine.container_start("interrupted", None).await.unwrap();
    f.engine.container_start("runs", None).await.unwrap();
    write_state(&f, &interrupted, |state| state.status = STARTING.into()).await;
    let left = [
        (interrupted.clone(), Left::Alive { launched: false }),
        (runs.clone(), Left::Alive { launched: true }),
    ];
    let f = f.restart(left).await;
    for id in [&created, &interrupted] {
        // Gone already, or about to be.
        if let Ok(wait) = f.engine.container_wait(id.as_str(), Condition::Removed) {
            wait.outcome().await.unwrap();
        }
        assert!(!f.root.path().join("data/containers").join(id.as_str()).exists());
    }
    assert_eq!(status(&f, runs.as_str()).0, Status::Running);
    assert_eq!(status(&f, plain.as_str()).0, Status::Created);
}

#[tokio::test]
async fn a_start_that_nobody_recorded_is_not_ended_by_hand() {
    let f = Fixture::new().await;
    let mut left = Vec::new();
    for name in ["runs", "ended", "stopped"] {
        let id = f.create(name, json!({"HostConfig": {"RestartPolicy": {"Name": "unless-stopped"}}})).await;
        f.engine.container_start(name, None).await.unwrap();
        // Of the run before; the daemon was killed between the next launch and its record, or in a stop.
        write_state(&f, &id, |state| {
            state.by_hand = true;
            state.oom_killed = true;
            state.status = if name == "stopped" { "running" } else { STARTING }.into();
        })
        .await;
        left.push((id, if name == "runs" { Left::Alive { launched: true } } else { Left::Ended(1) }));
    }
    let runs = left[0].0.clone();
    let f = f.restart(left).await;
    let now = f.engine.container_inspect("runs").unwrap();
    assert_eq!((now.state.status, now.state.oom_killed), (Status::Running, false));
    let state = read_state(&f, &runs);
    assert_eq!((&*state.status, state.by_hand, state.oom_killed), ("running", false, false));
    f.until("ended", |now| now.state.status == Status::Running).await;
    assert_eq!(status(&f, "stopped").0, Status::Exited);

    // Its policy is in force again.
    f.shims.shims.lock().unwrap()[0].exit(1);
    f.until("runs", |now| now.state.restart_count == 1).await;
}
