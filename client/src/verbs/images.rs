// SPDX-License-Identifier: Apache-2.0
//! `ImageList`.

use std::collections::BTreeMap;
use std::io::Write as _;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::api::Ask;
use crate::cli::Context;
use crate::fail::Result;
use crate::show::list::{Column, List, Row};
use crate::show::{short_id, units};
use crate::verbs::filters;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show all images (default hides intermediate and dangling images)
    #[arg(short, long)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    quiet: bool,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Image {
    id: String,
    repo_tags: Option<Vec<String>>,
    repo_digests: Option<Vec<String>>,
    created: i64,
    size: i64,
    shared_size: i64,
    containers: i64,
    labels: Option<BTreeMap<String, String>>,
}

const ALL: &[Column] = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("VirtualSize", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
];

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    let mut filters = filters(&args.filter)?;
    if let Some(reference) = &args.reference {
        filters.add("reference", reference);
    }
    let ask =
        Ask::get("/images/json").flag("all", args.all).maybe("filters", Some(filters.to_query()).as_deref());
    let images: Vec<Image> = context.api().await?.decoded(ask).await?;
    let id = |image: &Image| if args.no_trunc { image.id.clone() } else { short_id(&image.id).to_owned() };
    let now = jiff::Timestamp::now().as_second();
    let mut rows = Vec::new();
    let mut ids = Vec::new();
    for image in &images {
        for (repository, tag, digest) in names(image, args.digests) {
            ids.push(id(image));
            rows.push(row(image, id(image), repository, tag, digest, now));
        }
    }
    if args.quiet {
        let mut out = std::io::stdout().lock();
        for id in ids {
            writeln!(out, "{id}")?;
        }
        return Ok(0);
    }
    let shown: &[&str] = if args.digests {
        &["Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"]
    } else {
        &["Repository", "Tag", "ID", "CreatedSince", "Size"]
    };
    List { all: ALL, shown, rows }.print(args.format.as_deref())?;
    Ok(0)
}

const NONE: &str = "<none>";

/// Repository, tag and digest of each line that an image gets.
fn names(image: &Image, digests: bool) -> Vec<(String, String, String)> {
    let known = |name: &&String| !name.starts_with(NONE);
    let tags: Vec<(&str, &str)> =
        image.repo_tags.iter().flatten().filter(known).filter_map(|name| name.rsplit_once(':')).collect();
    let by_digest: Vec<(&str, &str)> =
        image.repo_digests.iter().flatten().filter(known).filter_map(|name| name.split_once('@')).collect();
    if tags.is_empty() {
        let repository = by_digest.first().map_or(NONE, |(repository, _)| repository);
        return match by_digest.as_slice() {
            [] => vec![(NONE.into(), NONE.into(), NONE.into())],
            all if digests => all
                .iter()
                .map(|(repository, digest)| ((*repository).into(), NONE.into(), (*digest).into()))
                .collect(),
            [(_, digest), ..] => vec![(repository.into(), NONE.into(), (*digest).into())],
        };
    }
    tags.iter()
        .map(|(repository, tag)| {
            let digest = by_digest.iter().find(|(r, _)| r == repository).map_or(NONE, |(_, digest)| digest);
            ((*repository).into(), (*tag).into(), digest.into())
        })
        .collect()
}

fn row(image: &Image, id: String, repository: String, tag: String, digest: String, now: i64) -> Row {
    let known = |n: i64, text: String| if n < 0 { "N/A".to_owned() } else { text };
    let fields = vec![
        ("ID", id),
        ("Repository", repository),
        ("Tag", tag),
        ("Digest", digest),
        ("CreatedSince", if image.created == 0 { "N/A".to_owned() } else { units::ago(image.created, now) }),
        ("CreatedAt", units::local_time(image.created)),
        ("Size", units::size(image.size)),
        ("Containers", known(image.containers, image.containers.to_string())),
        ("VirtualSize", units::size(image.size)),
        ("SharedSize", known(image.shared_size, units::size(image.shared_size))),
        ("UniqueSize", known(image.shared_size, units::size(image.size - image.shared_size.max(0)))),
    ];
    let labels: Map<String, Value> =
        image.labels.iter().flatten().map(|(k, v)| (k.clone(), Value::from(v.clone()))).collect();
    Row { fields, labels }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_an_image() {
        let lines = |tags: &[&str], with_digest: &[&str], digests| {
            let own = |names: &[&str]| Some(names.iter().map(|n| (*n).to_owned()).collect());
            let image = Image { repo_tags: own(tags), repo_digests: own(with_digest), ..Image::default() };
            names(&image, digests).iter().map(|(r, t, d)| format!("{r} {t} {d}")).collect::<Vec<_>>()
        };
        assert_eq!(lines(&[], &[], false), ["<none> <none> <none>"]);
        assert_eq!(lines(&["<none>:<none>"], &["<none>@<none>"], false), ["<none> <none> <none>"]);
        assert_eq!(
            lines(&["localhost:5000/a:1", "a:2"], &["a@sha256:x"], false),
            ["localhost:5000/a 1 <none>", "a 2 sha256:x"]
        );
        assert_eq!(lines(&[], &["a@sha256:x", "b@sha256:y"], false), ["a <none> sha256:x"]);
        assert_eq!(
            lines(&[], &["a@sha256:x", "b@sha256:y"], true),
            ["a <none> sha256:x", "b <none> sha256:y"]
        );
    }
}
