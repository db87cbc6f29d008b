// SPDX-License-Identifier: Apache-2.0
//! `--link`: older than networks with names, and still used.

use berth_tests::harness::{Bed, until};

#[test]
fn on_the_default_bridge() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    let sleeps = ["busybox", "sleep", "1000"];
    let db = [
        "run",
        "-d",
        "--name",
        "db",
        "-h",
        "dbhost",
        "-e",
        "SECRET=x=y",
        "--expose",
        "5432",
        "--expose",
        "5433",
        "--expose",
        "53/udp",
    ];
    bed.docker(&[&db[..], &sleeps].concat()).ok();
    bed.docker(
        &[&["run", "-d", "--name", "web", "--link", "db:my-sql", "-e", "MY_SQL_NAME=own"][..], &sleeps]
            .concat(),
    )
    .ok();
    let address =
        || bed.docker(&["inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "db"]).ok();
    let ip = address();
    let env = bed.docker(&["exec", "web", "env"]).ok();
    for line in [
        // TCP's lowest.
        format!("MY_SQL_PORT=tcp://{ip}:5432"),
        format!("MY_SQL_PORT_5432_TCP_START=tcp://{ip}:5432"),
        "MY_SQL_PORT_5432_TCP_PORT_START=5432".to_owned(),
        format!("MY_SQL_PORT_5432_TCP_END=tcp://{ip}:5433"),
        "MY_SQL_PORT_5432_TCP_PORT_END=5433".to_owned(),
        format!("MY_SQL_PORT_53_UDP=udp://{ip}:53"),
        format!("MY_SQL_PORT_53_UDP_ADDR={ip}"),
        "MY_SQL_PORT_53_UDP_PORT=53".to_owned(),
        "MY_SQL_PORT_53_UDP_PROTO=udp".to_owned(),
        format!("MY_SQL_PORT_5432_TCP=tcp://{ip}:5432"),
        "MY_SQL_ENV_SECRET=x=y".to_owned(),
        "MY_SQL_NAME=own".to_owned(),
    ] {
        assert!(env.lines().any(|l| l == line), "{line} is not in\n{env}");
    }
    assert!(!env.contains("MY_SQL_ENV_PATH"), "{env}");
    let hosts = || bed.docker(&["exec", "web", "cat", "/etc/hosts"]).ok();
    let line = |ip: &str| format!("{ip}\tmy-sql dbhost db");
    assert!(hosts().lines().any(|l| l == line(&ip)), "{}", hosts());
    bed.docker(&["exec", "web", "ping", "-c", "1", "my-sql"]).ok();
    assert_eq!(
        bed.docker(&["inspect", "-f", "{{json .HostConfig.Links}}", "web"]).ok(),
        "[\"/db:/web/my-sql\"]"
    );
    let names = bed.docker(&["ps", "--no-trunc", "--format", "{{.Names}}"]).ok();
    assert!(names.lines().any(|l| l == "db,web/my-sql"), "{names}");

    // The other starts anew elsewhere: a third takes its address meanwhile.
    bed.docker(&["stop", "-t", "0", "db"]).ok();
    bed.docker(&[&["run", "-d", "--name", "third"][..], &sleeps].concat()).ok();
    bed.docker(&["start", "db"]).ok();
    let now = address();
    until("the link's address is up to date", || hosts().lines().any(|l| l == line(&now)).then_some(()));

    // A link needs the other to be there and to run.
    bed.docker(&["stop", "-t", "0", "web", "db"]).ok();
    let said = bed.docker(&["start", "web"]).fails(1);
    assert!(said.contains("Cannot link to a non running container: /db AS /web/my-sql"), "{said}");
    let said = bed.docker(&[&["run", "--rm", "--link", "nope"][..], &sleeps].concat()).fails(125);
    assert!(said.contains("could not get container for nope: No such container: nope"), "{said}");
    // A rename does not break it.
    bed.docker(&["rename", "db", "base"]).ok();
    bed.docker(&["start", "base", "web"]).ok();
    assert_eq!(
        bed.docker(&["inspect", "-f", "{{json .HostConfig.Links}}", "web"]).ok(),
        "[\"/base:/web/my-sql\"]"
    );
    bed.docker(&["rm", "-f", "base"]).ok();
    // The reference goes on naming the one that is gone.
    if bed.is_ours() {
        assert_eq!(bed.docker(&["inspect", "-f", "{{json .HostConfig.Links}}", "web"]).ok(), "null");
    }
    bed.finish();
}

#[test]
fn on_a_network_of_the_users() {
    let bed = Bed::start();
    bed.docker(&["pull", "busybox"]).ok();
    bed.docker(&["network", "create", "nn"]).ok();
    let run = |name: &str, more: &[&str]| {
        let args =
            [&["run", "-d", "--net", "nn", "--name", name][..], more, &["busybox", "sleep", "1000"]].concat();
        bed.docker(&args).ok();
    };
    run("db", &[]);
    run("web", &["--link", "db:sql"]);
    run("other", &[]);
    bed.docker(&["exec", "web", "ping", "-c", "1", "sql"]).ok();
    assert_ne!(
        bed.docker(&["exec", "other", "ping", "-c", "1", "sql"]).code,
        0,
        "the alias is the linking one's alone"
    );
    assert_eq!(
        bed.docker(&["inspect", "-f", "{{json .NetworkSettings.Networks.nn.Links}}", "web"]).ok(),
        "[\"db:sql\"]"
    );
    bed.docker(&["rm", "-f", "db", "web", "other"]).ok();
    bed.docker(&["network", "rm", "nn"]).ok();
    bed.finish();
}
