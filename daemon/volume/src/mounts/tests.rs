// SPDX-License-Identifier: Apache-2.0
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use berth_api::types::container_create::{BindOptions, TmpfsOptions, VolumeOptions};
use berth_domain::Meaning;

fn host(binds: &[&str]) -> HostConfig {
    HostConfig { binds: Some(binds.iter().map(|b| (*b).to_owned()).collect()), ..HostConfig::default() }
}

fn plan_of(host: &HostConfig) -> Result<Vec<MountPlan>> {
    plan(&PlanInput { host, volumes: &[], volumes_from: &[] })
}

fn bind(raw: &str) -> MountPlan {
    plan_of(&host(&[raw])).unwrap().remove(0)
}

fn refused(raw: &str) -> String {
    let error = plan_of(&host(&[raw])).unwrap_err();
    assert_eq!(error.meaning(), Meaning::InvalidInput);
    error.chain()
}

#[test]
fn binds_of_all_forms() {
    let plan = bind("/srv//x/:/data/./a:ro,rslave,Z");
    let point = &plan.point;
    assert_eq!(
        (point.r#type, point.source.as_str(), point.destination.as_str()),
        (MountType::Bind, "/srv/x", "/data/a")
    );
    assert_eq!((point.rw, point.propagation.as_str(), point.mode.as_str()), (false, "rslave", "ro,rslave,Z"));
    assert!(point.create_source && !plan.copy);

    let plan = bind("name:/data:nocopy");
    assert_eq!((plan.point.r#type, plan.point.name.as_str(), plan.copy), (MountType::Volume, "name", false));
    assert!(plan.point.propagation.is_empty() && !plan.point.anonymous);

    let plan = bind("/data");
    assert!(plan.point.r#type == MountType::Volume && plan.point.anonymous && plan.copy);
    // The reference takes a relative source as a volume's name and leaves the refusal to the driver.
    assert_eq!(bind("./x:/data").point.name, "./x");
}

#[test]
fn owners_are_mapped_where_it_is_asked() {
    let text = "idmap=uids=0-1000-1;gids=0-1000-1";
    let point = bind(&format!("/srv:/data:ro,{text}")).point;
    assert_eq!((point.idmap.as_str(), point.rw), (text, false));
    assert_eq!(bind("name:/data:ridmap").point.idmap, "ridmap");
    assert!(
        refused("/srv:/data:idmap=uids=1").contains("expected uids=")
            || refused("/srv:/data:idmap=uids=1").contains("three numbers")
    );
    assert_eq!(refused("/srv:/data:idmap,ridmap"), "invalid mode: idmap,ridmap");
    parse_volumes_from("c:idmap").unwrap_err();
}

#[test]
fn binds_that_cannot_be() {
    assert_eq!(refused("/data:ro"), "invalid volume specification: '/data:ro'");
    assert_eq!(refused(":/data"), "invalid volume specification: ':/data'");
    assert_eq!(refused("a:b:c:d"), "invalid volume specification: 'a:b:c:d'");
    assert_eq!(refused("/a:/b:rw,ro"), "invalid mode: rw,ro");
    assert_eq!(refused("/a:/b:what"), "invalid mode: what");
    assert_eq!(
        refused("/a:b"),
        "invalid volume specification: '/a:b': invalid mount config for type \"bind\": invalid mount path: 'b' mount path must be absolute"
    );
    assert_eq!(
        refused("a:/"),
        "invalid volume specification: 'a:/': invalid mount config for type \"volume\": invalid specification: destination can't be '/'"
    );
    assert!(refused("a:/x/../..").ends_with("destination can't be '/'"));
    assert!(refused("a:/b:rslave").ends_with("field BindOptions must not be specified"));
}

#[test]
fn a_destination_is_mounted_once() {
    assert_eq!(plan_of(&host(&["a:/x", "b:/x/"])).unwrap_err().to_string(), "Duplicate mount point: /x");
    let mut both = host(&["a:/x"]);
    both.tmpfs = Some([("/x".to_owned(), String::new())].into());
    assert_eq!(plan_of(&both).unwrap_err().to_string(), "Duplicate mount point: /x");
}

#[test]
fn images_volumes_and_volumes_from_give_way() {
    let mut host = host(&["named:/a"]);
    host.tmpfs = Some([("/t".to_owned(), "size=1m,exec".to_owned())].into());
    let mut donor = bind("/srv:/a").point;
    let other = MountPoint { destination: "/b/c".into(), ..donor.clone() };
    donor.rw = true;
    let volumes = ["/a", "/t", "/v/", "/b/c"].map(str::to_owned);
    let plans = plan(&PlanInput {
        host: &host,
        volumes: &volumes,
        volumes_from: &[(vec![donor, other], "ro".to_owned())],
    })
    .unwrap();
    let found: Vec<(&str, MountType, bool)> =
        plans.iter().map(|p| (p.point.destination.as_str(), p.point.r#type, p.point.rw)).collect();
    assert_eq!(
        found,
        [
            ("/a", MountType::Volume, true),
            ("/t", MountType::Tmpfs, true),
            ("/v", MountType::Volume, true),
            ("/b/c", MountType::Bind, false),
        ]
    );
    assert!(plans[1].point.hidden && plans[2].from_image && plans[2].point.anonymous);
    assert_eq!(plans[1].point.tmpfs, ["nosuid", "nodev", "rprivate", "size=1m", "exec"]);
}

#[test]
fn volumes_from_modes() {
    assert_eq!(parse_volumes_from("c").unwrap(), ("c", "rw"));
    assert_eq!(parse_volumes_from("c:ro,z").unwrap(), ("c", "ro,z"));
    for bad in ["", "c:what", "c:rslave", "c:nocopy"] {
        assert!(parse_volumes_from(bad).is_err(), "{bad:?}");
    }
}

fn request(kind: &str, source: &str, target: &str) -> MountRequest {
    MountRequest {
        r#type: kind.into(),
        source: source.into(),
        target: target.into(),
        ..MountRequest::default()
    }
}

fn check_request(request: MountRequest) -> Result<MountPlan> {
    let host = HostConfig { mounts: Some(vec![request]), ..HostConfig::default() };
    plan_of(&host).map(|mut plans| plans.remove(0))
}

#[test]
fn mounts_in_fields() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().to_str().unwrap();
    let mut asked = request("bind", source, "/d");
    asked.read_only = true;
    asked.bind_options = Some(BindOptions {
        propagation: "rshared".into(),
        non_recursive: true,
        read_only_non_recursive: true,
        ..BindOptions::default()
    });
    let point = check_request(asked).unwrap().point;
    assert_eq!(
        (point.rw, point.propagation.as_str(), point.read_only),
        (false, "rshared", ReadOnly::NonRecursive)
    );
    assert!(point.non_recursive && !point.create_source);

    let mut asked = request("volume", "v", "/d");
    asked.volume_options = Some(VolumeOptions {
        no_copy: true,
        labels: Some([("a".to_owned(), "b".to_owned())].into()),
        ..VolumeOptions::default()
    });
    let plan = check_request(asked).unwrap();
    assert!(!plan.copy && plan.labels.is_some() && plan.point.name == "v");

    let mut asked = request("tmpfs", "", "/t");
    asked.tmpfs_options =
        Some(TmpfsOptions { size_bytes: 4096, mode: Some(0o1777), options: Some(vec![vec!["exec".into()]]) });
    let plan = check_request(asked).unwrap();
    assert!(!plan.point.hidden);
    assert_eq!(plan.point.tmpfs, ["nosuid", "nodev", "rprivate", "mode=1777", "size=4096", "exec"]);
}

#[test]
fn mounts_that_cannot_be() {
    let text = |request: MountRequest| check_request(request).unwrap_err().chain();
    assert_eq!(
        text(request("bind", "/nope/q", "/y")),
        "invalid mount config for type \"bind\": bind source path does not exist: /nope/q"
    );
    assert_eq!(
        text(request("bind", "", "/y")),
        "invalid mount config for type \"bind\": field Source must not be empty"
    );
    assert_eq!(
        text(request("volume", "v", "")),
        "invalid mount config for type \"volume\": field Target must not be empty"
    );
    assert_eq!(
        text(request("what", "v", "/y")),
        "invalid mount config for type \"what\": mount type unknown"
    );
    assert_eq!(
        text(request("tmpfs", "v", "/y")),
        "invalid mount config for type \"tmpfs\": field Source must not be specified"
    );
    let mut asked = request("volume", "v", "/y");
    asked.bind_options = Some(BindOptions::default());
    assert!(text(asked).ends_with("field BindOptions must not be specified"));
    let mut asked = request("bind", "/", "/y");
    asked.bind_options = Some(BindOptions { propagation: "x".into(), ..BindOptions::default() });
    assert!(text(asked).ends_with("invalid propagation mode: x"));
    let mut asked = request("bind", "/", "/y");
    asked.bind_options = Some(BindOptions { read_only_non_recursive: true, ..BindOptions::default() });
    assert_eq!(text(asked), "mount options conflict: !ReadOnly && BindOptions.ReadOnlyNonRecursive");
    for kind in ["cluster", "npipe"] {
        let error = check_request(request(kind, "v", "/y")).unwrap_err();
        assert_eq!(error.meaning(), Meaning::NotImplemented);
    }
}

proptest::proptest! {
    #[test]
    fn what_is_accepted_is_absolute_and_clean(raw in "[a-z/.:,]{0,30}") {
        if let Ok(plans) = plan_of(&host(&[&raw])) {
            let point = &plans[0].point;
            for path in [&point.destination, &point.source] {
                let plain = path.is_empty() || (path.starts_with('/') && path.split('/').skip(1).all(|p| !matches!(p, "" | "." | "..")));
                proptest::prop_assert!(plain || path == "/", "{path}");
            }
            proptest::prop_assert!(point.destination != "/");
        }
    }

    #[test]
    fn no_text_makes_the_parsers_panic(raw in ".{0,60}") {
        let _bind = plan_of(&host(&[&raw]));
        let _from = parse_volumes_from(&raw);
        let _mount = check_request(request(&raw, &raw, &raw));
    }
}
