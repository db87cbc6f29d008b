// SPDX-License-Identifier: Apache-2.0
//! What every tutorial does: a network, a database on it by name, a client beside it.

use std::io::Read as _;
use std::net::TcpStream;

use berth_tests::harness::{Bed, until};

#[test]
fn a_database_by_name() {
    let bed = Bed::start();
    bed.docker(&["network", "create", "mynetwork"]).ok();
    bed.docker(&[
        "run",
        "-d",
        "--name",
        "mymysql",
        "--network",
        "mynetwork",
        "-p",
        "8806:3306",
        "-e",
        "MARIADB_ROOT_PASSWORD=secret",
        "-e",
        "MARIADB_DATABASE=shop",
        "mariadb",
    ])
    .ok();
    let client = |sql: &str| {
        let args =
            ["run", "--rm", "--network", "mynetwork", "--entrypoint", "mariadb", "mariadb", "--no-defaults"];
        let more = ["-h", "mymysql", "-P", "3306", "-uroot", "-psecret", "-N", "-e", sql, "shop"];
        bed.docker(&[&args[..], &more[..]].concat())
    };
    until("the database answers by its name", || (client("select 1").code == 0).then_some(()));
    client("create table t (n int); insert into t values (41), (1)").ok();
    assert_eq!(client("select sum(n) from t").ok(), "42");
    // On the host's port, with the greeting that the protocol begins with.
    let greeting = bed.netns.run(|| {
        let mut stream = TcpStream::connect("127.0.0.1:8806").unwrap();
        let mut bytes = [0; 64];
        let length = stream.read(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    });
    assert!(greeting.contains("MariaDB"), "{greeting:?}");
    // The data is in a volume of the image's: it is there for the next start.
    bed.docker(&["restart", "-t", "5", "mymysql"]).ok();
    until("the database is back", || (client("select 1").code == 0).then_some(()));
    assert_eq!(client("select sum(n) from t").ok(), "42");
    bed.docker(&["rm", "-f", "-v", "mymysql"]).ok();
    bed.docker(&["network", "rm", "mynetwork"]).ok();
    bed.finish();
}
