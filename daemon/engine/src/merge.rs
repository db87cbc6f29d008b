// SPDX-License-Identifier: Apache-2.0
//! An image's config merged into what was asked of a container. What was asked wins.

use std::collections::BTreeSet;

use berth_api::types::container_create::{ContainerConfig, HealthConfig, StrSlice};

/// Labels that mean something to engines and orchestrators: an image does not get to set them
/// (CVE-2026-53488 and its kin).
const RESERVED_LABELS: &[&str] = &["io.berth.", "containerd.io/", "com.docker.", "org.systemd.property."];

/// Merges `image` into `asked`.
pub(crate) fn merge(asked: &mut ContainerConfig, image: &ContainerConfig) {
    if asked.user.is_empty() {
        asked.user.clone_from(&image.user);
    }
    if asked.working_dir.is_empty() {
        asked.working_dir.clone_from(&image.working_dir);
    }
    if asked.stop_signal.is_empty() {
        asked.stop_signal.clone_from(&image.stop_signal);
    }
    if asked.shell.as_ref().is_none_or(Vec::is_empty) {
        asked.shell.clone_from(&image.shell);
    }
    asked.exposed_ports.extend(image.exposed_ports.iter().map(|(port, empty)| (port.clone(), *empty)));
    merge_env(asked, image);
    merge_command(asked, image);
    merge_healthcheck(asked, image);
    if let Some(volumes) = image.volumes.as_ref().filter(|volumes| !volumes.is_empty()) {
        asked
            .volumes
            .get_or_insert_default()
            .extend(volumes.iter().map(|(path, empty)| (path.clone(), *empty)));
    }
    let labels = asked.labels.get_or_insert_default();
    for (key, value) in image.labels.iter().flatten() {
        if !RESERVED_LABELS.iter().any(|reserved| key.starts_with(reserved)) {
            labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
}

fn key(variable: &str) -> &str {
    variable.split_once('=').map_or(variable, |(key, _)| key)
}

fn merge_env(asked: &mut ContainerConfig, image: &ContainerConfig) {
    let Some(inherited) = image.env.as_ref().filter(|env| !env.is_empty()) else { return };
    let env = asked.env.get_or_insert_default();
    let own: BTreeSet<String> = env.iter().map(|variable| key(variable).to_owned()).collect();
    env.extend(inherited.iter().filter(|variable| !own.contains(key(variable))).cloned());
}

fn is_empty(words: Option<&StrSlice>) -> bool {
    words.is_none_or(|words| words.to_vec().is_empty())
}

fn merge_command(asked: &mut ContainerConfig, image: &ContainerConfig) {
    // An entrypoint of one's own also does away with the image's command.
    if is_empty(asked.entrypoint.as_ref()) {
        if is_empty(asked.cmd.as_ref()) {
            asked.cmd.clone_from(&image.cmd);
            asked.args_escaped = image.args_escaped;
        }
        if asked.entrypoint.is_none() {
            asked.entrypoint.clone_from(&image.entrypoint);
        }
    }
    // `--entrypoint ""` asks for none at all.
    if asked.entrypoint.as_ref().is_some_and(|words| words.to_vec() == [""]) {
        asked.entrypoint = None;
    }
    // One shape from here on: lists.
    for words in [&mut asked.entrypoint, &mut asked.cmd].into_iter().flatten() {
        *words = StrSlice::Many(words.to_vec());
    }
}

fn merge_healthcheck(asked: &mut ContainerConfig, image: &ContainerConfig) {
    let Some(inherited) = &image.healthcheck else { return };
    let check = asked.healthcheck.get_or_insert_with(HealthConfig::default);
    if check.test.as_ref().is_none_or(Vec::is_empty) {
        check.test.clone_from(&inherited.test);
    }
    for (own, inherited) in [
        (&mut check.interval, inherited.interval),
        (&mut check.timeout, inherited.timeout),
        (&mut check.start_period, inherited.start_period),
        (&mut check.start_interval, inherited.start_interval),
        (&mut check.retries, inherited.retries),
    ] {
        if *own == 0 {
            *own = inherited;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use serde_json::{Value, json};

    use super::*;

    /// Every field of `wanted` must be so in the merged config.
    fn check(asked: Value, image: Value, wanted: &Value) {
        let mut config: ContainerConfig = serde_json::from_value(asked).unwrap();
        merge(&mut config, &serde_json::from_value(image).unwrap());
        let merged = serde_json::to_value(&config).unwrap();
        for (field, value) in wanted.as_object().unwrap() {
            assert_eq!(&merged[field], value, "{field}");
        }
    }

    #[test]
    fn variables_merge_by_key() {
        check(
            json!({"Env": ["A=1", "B"]}),
            json!({"Env": ["PATH=/bin", "A=2", "B=3"]}),
            &json!({"Env": ["A=1", "B", "PATH=/bin"]}),
        );
    }

    #[test]
    fn command_and_entrypoint() {
        let image = json!({"Entrypoint": ["/e"], "Cmd": ["c"]});
        check(json!({}), image.clone(), &json!({"Entrypoint": ["/e"], "Cmd": ["c"]}));
        check(json!({"Cmd": ["x"]}), image.clone(), &json!({"Entrypoint": ["/e"], "Cmd": ["x"]}));
        check(json!({"Cmd": "x"}), image.clone(), &json!({"Entrypoint": ["/e"], "Cmd": ["x"]}));
        check(json!({"Entrypoint": ["/o"]}), image.clone(), &json!({"Entrypoint": ["/o"], "Cmd": null}));
        check(json!({"Entrypoint": [""]}), image.clone(), &json!({"Entrypoint": null, "Cmd": null}));
        check(json!({"Entrypoint": [], "Cmd": ["x"]}), image, &json!({"Entrypoint": [], "Cmd": ["x"]}));
    }

    #[test]
    fn the_rest() {
        check(
            json!({"User": "u", "Labels": {"a": "mine"}, "ExposedPorts": {"1/tcp": {}}, "Healthcheck": {"Interval": 5}}),
            json!({
                "User": "i", "WorkingDir": "/w", "StopSignal": "SIGQUIT", "Volumes": {"/v": {}},
                "Labels": {"a": "image", "b": "image", "io.berth.x": "evil", "com.docker.compose.project": "evil"},
                "ExposedPorts": {"2/tcp": {}}, "Healthcheck": {"Test": ["CMD", "x"], "Interval": 9, "Retries": 2},
            }),
            &json!({
                "User": "u", "WorkingDir": "/w", "StopSignal": "SIGQUIT", "Volumes": {"/v": {}},
                "Labels": {"a": "mine", "b": "image"}, "ExposedPorts": {"1/tcp": {}, "2/tcp": {}},
                "Healthcheck": {"Test": ["CMD", "x"], "Interval": 5, "Retries": 2},
            }),
        );
    }
}
