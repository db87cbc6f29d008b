// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::json;

use super::*;

fn config(extra: &serde_json::Value) -> Result<Config> {
    let mut config =
        json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [] } });
    for (key, value) in extra.as_object().unwrap() {
        config[key] = value.clone();
    }
    Config::parse(&serde_json::to_vec(&config).unwrap())
}

#[test]
fn configs_as_docker_writes_them() {
    let parsed = config(&json!({
        "config": {
            "Cmd": null, "Entrypoint": null, "Env": ["PATH=/bin"], "ExposedPorts": { "80/tcp": {} }, "Volumes": null,
            "Labels": null, "OnBuild": null, "Healthcheck": { "Test": ["CMD", "true"] }, "ArgsEscaped": true,
        },
        "container_config": null, "docker_version": "20.10", "history": null, "variant": null,
    }))
    .expect("reads");
    let run = parsed.parsed.config().as_ref().unwrap();
    assert_eq!(run.exposed_ports().as_ref().unwrap(), &["80/tcp"]);
    assert_eq!(parsed.raw["config"]["Healthcheck"]["Test"][1], "true");
    assert_eq!(parsed.raw["config"]["Cmd"], serde_json::Value::Null, "the raw document is as it came");
    assert_eq!(parsed.platform().to_string(), "linux/amd64");
}

#[test]
fn configs_that_are_refused() {
    let says = |extra: serde_json::Value, text: &str| {
        let error = config(&extra).expect_err(text);
        assert!(error.chain().contains(text), "{}", error.chain());
    };
    says(json!({ "rootfs": { "type": "other", "diff_ids": [] } }), "must be layers");
    says(json!({ "rootfs": { "type": "layers", "diff_ids": ["sha256:short"] } }), "invalid digest");
    says(json!({ "rootfs": null }), "invalid image config");
    says(json!({ "os": "windows" }), "cannot be used on this platform");
    assert!(Config::parse(b"{").is_err());
    assert!(Config::parse(&vec![b' '; 9 << 20]).is_err());
}

#[test]
fn chain_ids_are_those_of_the_image_spec() {
    let id = |byte: char| format!("sha256:{}", byte.to_string().repeat(64)).parse::<Digest>().unwrap();
    let (a, b) = (id('a'), id('b'));
    let chain = chain_ids(&[a.clone(), b.clone(), a.clone()]);
    assert_eq!(chain[0], a);
    assert_eq!(chain[1], sha256(format!("{a} {b}").as_bytes()));
    assert_eq!(chain[2], sha256(format!("{} {a}", chain[1]).as_bytes()));
    assert!(chain_ids(&[]).is_empty());
}

#[test]
fn an_index_with_one_line_and_no_platform_is_taken() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let line = json!({ "mediaType": media_type::OCI_MANIFEST, "digest": digest, "size": 2 });
    let index = |lines: &[serde_json::Value]| {
        let bytes = serde_json::to_vec(&json!({ "schemaVersion": 2, "manifests": lines })).unwrap();
        match parse(&bytes, Some(media_type::OCI_INDEX)).unwrap() {
            Document::Index(entries) => entries,
            Document::Manifest(_) => panic!("an index"),
        }
    };
    let host = Platform::host();
    assert!(choose(&index(std::slice::from_ref(&line)), &host).is_ok());
    assert!(choose(&index(&[line.clone(), line]), &host).is_err());
    assert!(choose(&[], &host).is_err());
}

#[test]
fn documents_that_are_too_big_or_too_many() {
    assert!(parse(&vec![b' '; 5 << 20], None).is_err());
    let digest = format!("sha256:{}", "a".repeat(64));
    let layer = json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": 1 });
    let manifest = json!({ "schemaVersion": 2,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 1 },
        "layers": vec![layer; 500] });
    let error = parse(&serde_json::to_vec(&manifest).unwrap(), None).expect_err("too many layers");
    assert!(error.chain().contains("500 layers"), "{}", error.chain());
    let helm = json!({ "schemaVersion": 2, "layers": [],
        "config": { "mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": digest, "size": 1 } });
    let error = parse(&serde_json::to_vec(&helm).unwrap(), None).expect_err("not an image");
    assert!(error.chain().contains("not an image"), "{}", error.chain());
}
