// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]
use proptest::prelude::*;

use super::*;

#[allow(clippy::needless_pass_by_value)] // Callers write literals.
fn check(changes: &[&str], wanted: Value) {
    let mut config = Value::Null;
    apply(&mut config, changes).unwrap_or_else(|e| panic!("{changes:?}: {}", e.chain()));
    assert_eq!(config, wanted, "{changes:?}");
}

fn refused(change: &str, words: &str) {
    let mut config = json!({"User": "u"});
    let error = apply(&mut config, &["USER other", change]).expect_err(change).chain();
    assert!(error.contains(words) && error.contains(change.trim()), "{change:?}: {error}");
    assert_eq!(config, json!({"User": "u"}), "a refused change changes nothing");
}

#[test]
fn exec_and_shell_forms() {
    check(&[r#"CMD ["a", "b c"]"#], json!({"Cmd": ["a", "b c"]}));
    check(&["CMD echo $HOME 'x'"], json!({"Cmd": ["/bin/sh", "-c", "echo $HOME 'x'"]}));
    check(&["cmd [a, b]"], json!({"Cmd": ["/bin/sh", "-c", "[a, b]"]}));
    check(
        &[r#"SHELL ["/bin/bash", "-ec"]"#, "ENTRYPOINT run it"],
        json!({"Shell": ["/bin/bash", "-ec"], "Entrypoint": ["/bin/bash", "-ec", "run it"]}),
    );
    check(&["ENTRYPOINT []"], json!({"Entrypoint": null}));
}

#[test]
fn an_entrypoint_clears_an_inherited_command_only() {
    let mut config = json!({"Cmd": ["old"]});
    apply(&mut config, &[r#"ENTRYPOINT ["e"]"#]).unwrap();
    assert_eq!(config, json!({"Entrypoint": ["e"]}));
    check(&["CMD a", r#"ENTRYPOINT ["e"]"#], json!({"Cmd": ["/bin/sh", "-c", "a"], "Entrypoint": ["e"]}));
}

#[test]
fn env_in_its_forms() {
    check(
        &[r#"ENV A=1 B="two words" C=it\ is D='$A'"#],
        json!({"Env": ["A=1", "B=two words", "C=it is", "D=$A"]}),
    );
    check(&["ENV A one  two"], json!({"Env": ["A=one  two"]}));
    check(&["ENV A=1", "ENV B=$A C=${A}x A=2", "ENV D=$A"], json!({"Env": ["A=2", "B=1", "C=1x", "D=2"]}));
    check(
        &["ENV A=${no:-x} B=${no:+x} C=\"${no:-a ${no:-b}}\" E= F=${E-x} G=${E:-x} H=\\$A"],
        json!({"Env": ["A=x", "B=", "C=a b", "E=", "F=x", "G=x", "H=$A"]}),
    );
    refused("ENV A", "two arguments");
    refused("ENV", "at least one argument");
    refused("ENV A=b c", "can't find =");
    refused("ENV A=\"b", "double quote");
    refused("ENV =b", "blank");
    refused("ENV A=${no:?told so}", "told so");
    refused("ENV A=${no", "unsupported modifier");
}

#[test]
fn the_rest() {
    check(
        &["EXPOSE 80 53/udp 8000-8001 1:90"],
        json!({"ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}, "90/tcp": {}}}),
    );
    check(&["LABEL a.b=c \"d e\"='f g'"], json!({"Labels": {"a.b": "c", "d e": "f g"}}));
    check(&["ONBUILD  RUN a  b"], json!({"OnBuild": ["RUN a  b"]}));
    check(&["ENV U=me", "USER $U:grp"], json!({"Env": ["U=me"], "User": "me:grp"}));
    check(&["VOLUME /a /b", r#"VOLUME ["/c d"]"#], json!({"Volumes": {"/a": {}, "/b": {}, "/c d": {}}}));
    check(&["WORKDIR a", "WORKDIR ../b/./c"], json!({"WorkingDir": "/b/c"}));
    check(&["STOPSIGNAL SIGUSR1"], json!({"StopSignal": "SIGUSR1"}));
    check(&["HEALTHCHECK NONE"], json!({"Healthcheck": {"Test": ["NONE"]}}));
    check(
        &[
            "HEALTHCHECK --interval=1m30s --timeout=500ms --start-period=1s --start-interval=2s --retries=3 CMD curl x || exit 1",
        ],
        json!({"Healthcheck": {"Test": ["CMD-SHELL", "curl x || exit 1"], "Interval": 90_000_000_000_i64,
            "Timeout": 500_000_000, "StartPeriod": 1_000_000_000, "StartInterval": 2_000_000_000, "Retries": 3}}),
    );
    check(&[r#"healthcheck cmd ["a"]"#], json!({"Healthcheck": {"Test": ["CMD", "a"]}}));
}

#[test]
fn what_would_grow_without_end_is_refused() {
    let mut config = json!({"User": "u"});
    let mut refused = |changes: &[String]| {
        let error = apply(&mut config, changes).expect_err("too much").chain();
        assert!(error.contains("1048576 bytes"), "{error}");
        assert_eq!(config, json!({"User": "u"}));
    };
    let mut doubling = vec!["ENV A=0123456789abcdef".to_owned()];
    doubling.extend(vec!["ENV A=$A$A".to_owned(); 40]);
    refused(&doubling);
    // Looking costs as much as showing.
    refused(&[format!("ENV A={}", "x".repeat(60_000)), format!("USER {}", "${A:+}".repeat(20))]);
    refused(&[format!("EXPOSE {}", "1-65535 ".repeat(20))]);
    refused(&[format!("LABEL a={}", "x".repeat((1 << 20) - 10))]);
    check(&["ENV A=b", "USER $A"], json!({"Env": ["A=b"], "User": "b"}));
}

#[test]
fn lines() {
    check(
        &["# no\nUSER a\\\nb\n\n  ENV A=1 \\\n # in between\n\n  B=2"],
        json!({"User": "ab", "Env": ["A=1", "B=2"]}),
    );
    check(&[""], json!({}));
}

#[test]
fn what_is_refused() {
    refused("RUN x", "RUN is not a valid change command");
    refused("FROM x", "FROM is not a valid change command");
    refused("BOGUS x", "unknown instruction: BOGUS");
    refused("EXPOSE x", "x");
    refused("EXPOSE 70000", "70000");
    refused("STOPSIGNAL x", "invalid signal");
    refused("ONBUILD ONBUILD RUN x", "Chaining");
    refused("ONBUILD FROM x", "isn't allowed");
    refused("VOLUME [\"\"]", "empty");
    refused("SHELL /bin/sh", "JSON");
    refused("HEALTHCHECK CMD", "Missing command");
    refused("HEALTHCHECK NONE x", "no arguments");
    refused("HEALTHCHECK --interval=1us CMD x", "less than 1ms");
    refused("HEALTHCHECK --interval=soon CMD x", "duration");
    refused("HEALTHCHECK --retries=-1 CMD x", "negative");
    refused("HEALTHCHECK --what=1 CMD x", "unknown flag");
    refused("HEALTHCHECK x", "Unknown type");
    refused("WORKDIR", "exactly one");
    let mut config = json!([]);
    assert!(apply(&mut config, &["USER a"]).is_err());
}

proptest! {
    #[test]
    fn whatever_is_given_ends_well(changes in prop::collection::vec("(ENV|LABEL|EXPOSE|CMD|HEALTHCHECK|VOLUME|WORKDIR) [-a-z0-9=\"'\\\\$\\{\\}: \\[\\]/]{0,40}", 0..4)) {
        let mut config = Value::Null;
        let before = config.clone();
        if apply(&mut config, &changes).is_err() {
            prop_assert_eq!(config, before);
        } else {
            prop_assert!(config.is_object());
        }
    }
}
