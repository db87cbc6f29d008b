// SPDX-License-Identifier: Apache-2.0
//! Images made of containers.

use std::fs;

use berth_tests::harness::Bed;

fn inspect(bed: &Bed, image: &str, what: &str) -> String {
    bed.docker(&["image", "inspect", "-f", what, image]).ok()
}

#[test]
fn a_commit_has_what_the_container_made_and_not_what_was_mounted() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let host = bed.path().join("bound");
    fs::create_dir_all(&host).unwrap();
    let bind = format!("{}:/tmp/bound", host.display());
    let script = "echo one > /etc/new; rm /etc/os-release; rm -r /home/app; mkdir /home/app; echo x > /home/app/f;
        echo v > /test/in-volume; echo b > /tmp/bound/in-bind; ln /etc/new /etc/hard; ln -s new /etc/soft; mkdir -m 1777 /sticky";
    bed.docker(&["run", "--name", "cc", "-v", "/test", "-v", &bind, "busybox", "sh", "-c", script]).ok();
    let there = bed.path().join("a.txt");
    fs::write(&there, "copied in").unwrap();
    bed.docker(&["cp", there.to_str().unwrap(), "cc:/tmp/a.txt"]).ok();
    bed.docker(&["cp", "cc:/tmp/a.txt", bed.path().join("back.txt").to_str().unwrap()]).ok();
    assert_eq!(fs::read_to_string(bed.path().join("back.txt")).unwrap(), "copied in");

    let id = bed.docker(&["commit", "-a", "An Author", "-m", "a message", "cc", "made:one"]).ok();
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    assert_eq!(
        inspect(&bed, "made:one", "{{.Id}} {{.Author}} {{.Comment}} {{.Os}}"),
        format!("{id} An Author a message linux")
    );
    assert_eq!(
        inspect(&bed, "made:one", "{{json .Config.Cmd}}"),
        format!("[\"sh\",\"-c\",{}]", serde_json::json!(script))
    );
    let history =
        bed.docker(&["history", "--no-trunc", "--format", "{{.Comment}}|{{.CreatedBy}}", "made:one"]).ok();
    assert!(history.starts_with("a message|sh -c echo one"), "{history}");

    let look =
        "cat /etc/new /etc/hard /etc/soft /home/app/f /tmp/a.txt; ls -A /test /tmp/bound; stat -c %a /sticky;
        [ /etc/new -ef /etc/hard ] && echo linked; ls /etc/os-release /home/app 2>&1; true";
    let seen = bed.docker(&["run", "--rm", "made:one", "sh", "-c", look]).ok();
    let expected = "one\none\none\nx\ncopied in/test:\n\n/tmp/bound:\n1777\nlinked\nls: /etc/os-release: No such file or directory\n/home/app:\nf";
    assert_eq!(seen, expected);

    // Nothing was made: one more step of history and no layer.
    let layers = |image: &str| inspect(&bed, image, "{{len .RootFS.Layers}}");
    bed.docker(&["create", "--name", "idle", "made:one", "true"]).ok();
    bed.docker(&["commit", "idle", "made:two"]).ok();
    assert_eq!(layers("made:two"), layers("made:one"));
    // A commit without a name; one of an image that was committed itself.
    let nameless = bed.docker(&["commit", "cc"]).ok();
    assert_eq!(inspect(&bed, &nameless, "{{json .RepoTags}}"), "[]");
    bed.docker(&["run", "--name", "second", "made:one", "sh", "-c", "echo two > /etc/new"]).ok();
    bed.docker(&["commit", "second", "made:three"]).ok();
    assert_eq!(
        bed.docker(&["run", "--rm", "made:three", "cat", "/etc/new", "/tmp/a.txt"]).ok(),
        "two\ncopied in"
    );

    // Saved and loaded, it is the same image.
    let archive = bed.path().join("saved.tar");
    bed.docker(&["save", "-o", archive.to_str().unwrap(), "made:one"]).ok();
    bed.docker(&["rm", "-f", "-v", "cc", "idle", "second"]).ok();
    bed.docker(&["rmi", "-f", "made:one", "made:two", "made:three", &nameless]).ok();
    bed.docker(&["load", "-i", archive.to_str().unwrap()]).ok();
    assert_eq!(inspect(&bed, "made:one", "{{.Id}}"), id);
    assert_eq!(bed.docker(&["run", "--rm", "made:one", "sh", "-c", look]).ok(), expected);
    bed.docker(&["rmi", "-f", "made:one"]).ok();
    bed.finish();
}

#[test]
fn changes_overrides_and_refusals_of_commits() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&[
        "run", "-d", "--name", "up", "-e", "A=1", "-l", "k=v", "-w", "/tmp", "busybox", "sleep", "1000",
    ])
    .ok();
    let changes = [
        "CMD [\"echo\", \"hi\"]",
        "ENV B=2 C=\"x y\"",
        "EXPOSE 80 53/udp",
        "LABEL one=1 \"two words\"=2",
        "USER app",
        "VOLUME /data",
        "WORKDIR /srv",
        "STOPSIGNAL SIGINT",
        "HEALTHCHECK --interval=5s CMD true",
        "ONBUILD RUN true",
    ];
    let mut args = vec!["commit"];
    for change in &changes {
        args.extend(["-c", change]);
    }
    args.extend(["up", "changed"]);
    bed.docker(&args).ok();
    let config: serde_json::Value =
        serde_json::from_str(&inspect(&bed, "changed", "{{json .Config}}")).unwrap();
    let is = |key: &str, value: serde_json::Value| assert_eq!(config[key], value, "{key} of {config}");
    is("Cmd", serde_json::json!(["echo", "hi"]));
    is("ExposedPorts", serde_json::json!({"53/udp": {}, "80/tcp": {}}));
    is("User", "app".into());
    is("Volumes", serde_json::json!({"/data": {}}));
    is("WorkingDir", "/srv".into());
    is("StopSignal", "SIGINT".into());
    is("OnBuild", serde_json::json!(["RUN true"]));
    assert_eq!(config["Healthcheck"]["Interval"], 5_000_000_000_i64, "{config}");
    for (key, value) in [("one", "1"), ("two words", "2"), ("k", "v")] {
        assert_eq!(config["Labels"][key], value, "{config}");
    }
    let env: Vec<&str> = config["Env"].as_array().unwrap().iter().filter_map(|v| v.as_str()).collect();
    for wanted in ["A=1", "B=2", "C=x y"] {
        assert!(env.contains(&wanted), "{env:?}");
    }
    assert_eq!(bed.docker(&["run", "--rm", "changed", "id", "-u"]).ok(), "1000");

    // The container goes on as it was, frozen meanwhile or not.
    bed.docker(&["commit", "--pause=false", "up", "unpaused"]).ok();
    assert_eq!(bed.docker(&["inspect", "-f", "{{.State.Status}}", "up"]).ok(), "running");
    bed.docker(&["pause", "up"]).ok();
    bed.docker(&["commit", "up", "paused"]).ok();
    assert_eq!(bed.docker(&["inspect", "-f", "{{.State.Status}}", "up"]).ok(), "paused");
    bed.docker(&["unpause", "up"]).ok();

    // The configuration in the body.
    let answer = bed.api(
        "POST",
        "/commit?container=up&repo=body&tag=t",
        r#"{"User":"0","Env":["A=9"],"Cmd":["pwd"]}"#,
    );
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(answer.json()["Id"], inspect(&bed, "body:t", "{{.Id}}"));
    assert_eq!(
        inspect(&bed, "body:t", "{{.Config.User}} {{.Config.WorkingDir}} {{json .Config.Cmd}}"),
        "0 /tmp [\"pwd\"]"
    );
    assert_eq!(bed.docker(&["run", "--rm", "body:t"]).ok(), "/tmp");

    let refused = |path: &str, status: u16, words: &str| {
        let answer = bed.api("POST", path, "{}");
        assert!(
            answer.status == status && answer.message().contains(words),
            "{path}: {} {}",
            answer.status,
            answer.text()
        );
    };
    refused("/commit?container=nobody", 404, "No such container: nobody");
    refused("/commit?container=up&repo=UPPER", 400, "must be lowercase");
    refused("/commit?container=up&changes=FROM%20x", 400, "FROM");
    refused("/commit?container=up&changes=USER", 400, "USER");
    let images = bed.docker(&["images", "-q", "--no-trunc"]).ok();
    assert_eq!(images.lines().collect::<std::collections::BTreeSet<_>>().len(), 5, "{images}");

    bed.events("event=commit").until("container commit up");
    bed.docker(&["rm", "-f", "up"]).ok();
    bed.finish();
}
