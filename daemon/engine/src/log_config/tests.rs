// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]
use super::*;

fn choice(kind: &str, options: &[(&str, &str)]) -> Result<LogChoice> {
    let log = LogConfig {
        r#type: kind.into(),
        config: options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
    };
    let config = ContainerConfig {
        labels: Some(BTreeMap::from([
            ("l".to_owned(), "1".to_owned()),
            ("other".to_owned(), "3".to_owned()),
        ])),
        env: Some(vec!["E=2".into(), "F=4".into()]),
        ..ContainerConfig::default()
    };
    LogChoice::derive(&log, &config)
}

fn file(kind: &str, options: &[(&str, &str)]) -> (Option<u64>, u32, bool) {
    let file = choice(kind, options).unwrap().file.unwrap();
    (file.max_size, file.max_files, file.compress)
}

#[test]
fn rotation() {
    assert_eq!(file("", &[]), (Some(20 << 20), 5, false));
    assert_eq!(file("json-file", &[("max-size", "10m")]), (Some(10 << 20), 1, false));
    assert_eq!(file("json-file", &[("max-file", "3")]), (Some(20 << 20), 3, false));
    assert_eq!(file("json-file", &[("max-size", "-1")]), (None, 1, false));
    assert_eq!(
        file("json-file", &[("max-size", "1k"), ("max-file", "2"), ("compress", "true")]),
        (Some(1024), 2, true)
    );
    assert_eq!(file("local", &[]), (Some(20 << 20), 5, true));
    assert_eq!(file("local", &[("max-size", "1m"), ("compress", "false")]), (Some(1 << 20), 5, false));
    assert_eq!(file("syslog", &[("cache-max-file", "2")]), (Some(20 << 20), 2, true));
    assert!(choice("syslog", &[("cache-disabled", "true")]).unwrap().file.is_none());
    assert_eq!(choice("none", &[("whatever", "x")]).unwrap(), LogChoice::nowhere());
}

#[test]
fn attributes_are_listed_or_matched() {
    let attrs = |options: &[(&str, &str)]| {
        choice("json-file", options)
            .unwrap()
            .attrs
            .into_iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(attrs(&[("labels", "l,x"), ("env", "E")]), ["E=2", "l=1"]);
    assert_eq!(attrs(&[("labels-regex", "^o"), ("env-regex", "^[EF]$")]), ["E=2", "F=4", "other=3"]);
    assert!(choice("json-file", &[("env-regex", "(")]).is_err());
}

#[test]
fn what_cannot_be_is_refused() {
    for (kind, options, text) in [
        ("nope", &[][..], "error looking up logging plugin nope: plugin \"nope\" not found"),
        ("json-file", &[("x", "1")][..], "unknown log opt 'x' for json-file log driver"),
        ("local", &[("labels", "1")], "unknown log opt 'labels' for log driver local"),
        ("journald", &[("max-size", "1")], "unknown log opt 'max-size' for journald log driver"),
        ("syslog", &[("max-size", "1")], "unknown log opt 'max-size' for syslog log driver"),
        ("json-file", &[("mode", "x")], "logger: logging mode not supported: x"),
        (
            "json-file",
            &[("max-buffer-size", "1m")],
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        ),
        ("json-file", &[("max-size", "0")], "invalid value for max-size: 0"),
        (
            "json-file",
            &[("max-file", "0")],
            "invalid value for max-file: 0: a number from 1 to 10000 expected",
        ),
        (
            "json-file",
            &[("max-size", "1m"), ("compress", "true")],
            "compress cannot be true when max-file is less than 2 or max-size is not set",
        ),
    ] {
        assert_eq!(choice(kind, options).expect_err(text).to_string(), text);
    }
    for kind in ["gelf", "fluentd"] {
        assert!(choice(kind, &[]).unwrap_err().to_string().contains("not implemented"));
    }
}

#[test]
fn names_of_journal_fields() {
    for (key, name) in [("com.x/y", "COM_X_Y"), ("__a", "A"), ("1b", "B"), ("é", "")] {
        assert_eq!(journal_name(key), name);
    }
}
