// SPDX-License-Identifier: Apache-2.0
//! Registries that break, stall and lie: what comes of a pull is the image or an error, and the next pull works.

use std::process::{Child, Stdio};
use std::sync::Arc;

use berth_tests::harness::{Bed, Cli, Fault, Line, until};

const IMAGE: &str = "127.0.0.1:5001/library/busybox";

fn bed() -> Option<(Bed, Arc<Line>)> {
    let bed = Bed::start();
    // The line is to the bed's own registry, which the reference engine's host does not have.
    if !bed.is_ours() {
        return None;
    }
    let line = Line::open(&bed.netns, 5001);
    Some((bed, line))
}

fn ranges(line: &Line) -> usize {
    line.take_heads().iter().filter(|h| h.to_lowercase().contains("\r\nrange: bytes=")).count()
}

fn works(bed: &Bed) {
    assert_eq!(bed.docker(&["run", "--rm", "--pull=never", IMAGE, "echo", "whole"]).ok(), "whole");
    let check = bed.api("POST", "/berth/system/check", "");
    assert!(!check.text().contains("errorDetail"), "{}", check.text());
    bed.docker(&["rmi", IMAGE]).ok();
}

#[test]
fn a_connection_cut_at_every_tenth_of_a_layer() {
    let Some((bed, line)) = bed() else { return };
    for tenths in 0..10 {
        line.next(&[Fault::Cut(tenths)]);
        bed.docker(&["pull", IMAGE]).ok();
        // What had come is not asked for again.
        assert_eq!(ranges(&line), usize::from(tenths > 0), "cut after {tenths} tenths");
        works(&bed);
    }
    // Again and again within one layer.
    line.next(&[Fault::Cut(3), Fault::Cut(5), Fault::Cut(0), Fault::Cut(9)]);
    bed.docker(&["pull", IMAGE]).ok();
    works(&bed);
    bed.finish();
}

#[test]
fn lies_about_length_and_wrong_bytes() {
    let Some((bed, line)) = bed() else { return };
    for (fault, words) in
        [(Fault::Lie(1000), "bytes where"), (Fault::Lie(-1000), "bytes where"), (Fault::Flip, "digest")]
    {
        line.always(Some(fault));
        let said = bed.docker(&["pull", IMAGE]).fails(1);
        assert!(
            said.contains(words) || said.contains("invalid") || said.contains("corrupt"),
            "{fault:?}: {said}"
        );
        assert_eq!(bed.docker(&["images", "-q"]).ok(), "", "{fault:?}");
        let staging = std::fs::read_dir(bed.data_root().join("staging")).unwrap();
        let left: u64 = staging.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert_eq!(left, 0, "{fault:?}: wrong bytes are not kept to be resumed");
        line.always(None);
        bed.docker(&["pull", IMAGE]).ok();
        works(&bed);
    }
    bed.finish();
}

#[test]
fn a_registry_that_is_busy_is_asked_again() {
    let Some((bed, line)) = bed() else { return };
    line.next(&[Fault::Status(429, "1"), Fault::Status(503, "0"), Fault::Status(500, "")]);
    bed.docker(&["pull", IMAGE]).ok();
    let blobs = line.take_heads().iter().filter(|h| h.contains("/blobs/")).count();
    assert!(blobs >= 4, "{blobs} requests for blobs");
    works(&bed);
    // One that asks for more time than anybody waits for is believed at once.
    line.always(Some(Fault::Status(429, "3600")));
    let said = bed.docker(&["pull", IMAGE]).fails(1);
    assert!(said.contains("toomanyrequests"), "{said}");
    line.always(None);
    bed.docker(&["pull", IMAGE]).ok();
    works(&bed);
    bed.finish();
}

fn pull(bed: &Bed) -> Child {
    bed.command(Cli::Docker, &["pull", IMAGE]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn some_arrived(bed: &Bed) {
    until("some of a layer is there", || {
        let staging = std::fs::read_dir(bed.data_root().join("staging")).ok()?;
        staging.filter_map(Result::ok).find(|e| {
            e.file_name().to_string_lossy().ends_with(".partial")
                && e.metadata().is_ok_and(|m| m.len() > 1000)
        })
    });
}

#[test]
fn identical_pulls_share_and_the_last_one_to_leave_stops_it() {
    let Some((bed, line)) = bed() else { return };
    line.always(Some(Fault::Stall(5)));
    let mut pulls = [pull(&bed), pull(&bed)];
    some_arrived(&bed);
    let mut asked = 0;
    until("both have asked what there is", || {
        let heads = line.take_heads();
        asked += heads.iter().filter(|h| h.starts_with("GET") && h.contains("/manifests/latest")).count();
        (asked == 2).then_some(())
    });
    let [first, second] = &mut pulls;
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(line.given_up(), 0, "the other still waits for it");
    second.kill().unwrap();
    second.wait().unwrap();
    until("the download is stopped", || (line.given_up() > 0).then_some(()));
    line.always(None);
    bed.docker(&["pull", IMAGE]).ok();
    works(&bed);
    bed.finish();
}

#[test]
fn pulls_beside_each_other_fetch_each_layer_once() {
    let Some((bed, line)) = bed() else { return };
    let mut pulls: Vec<Child> = (0..6).map(|_| pull(&bed)).collect();
    for pull in &mut pulls {
        assert!(pull.wait().unwrap().success());
    }
    let mut blobs: Vec<String> = line
        .take_heads()
        .iter()
        .filter(|h| h.starts_with("GET") && h.contains("/blobs/"))
        .filter_map(|h| h.lines().next().map(str::to_owned))
        .collect();
    let image = bed.api("GET", &format!("/images/{IMAGE}/json"), "").json();
    blobs.retain(|line| !line.contains(image["Id"].as_str().unwrap()));
    let all = blobs.len();
    blobs.sort();
    blobs.dedup();
    assert_eq!(blobs.len(), all, "a layer was fetched twice: {blobs:#?}");
    works(&bed);
    bed.finish();
}
