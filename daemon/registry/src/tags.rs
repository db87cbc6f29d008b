// SPDX-License-Identifier: Apache-2.0
//! `tags/list`, page by page.

use berth_domain::Reference;
use http::{HeaderMap, Method, header};
use serde::Deserialize;

use crate::Auth;
use crate::ask::{Asker, Question};
use crate::endpoint::Endpoint;
use crate::failure::Failure;
use crate::manifest::scope;
use crate::url::Url;

/// One page's bytes at most.
const MAX_PAGE_BYTES: u64 = 4 * 1024 * 1024;
/// All pages' tags at most.
const MAX_TAGS: usize = 100_000;

pub(crate) async fn list(
    asker: &Asker,
    endpoint: &Endpoint,
    reference: &Reference,
    auth: &Auth,
) -> Result<Vec<String>, Failure> {
    #[derive(Deserialize)]
    struct Page {
        #[serde(default)]
        tags: Option<Vec<String>>,
    }
    let first = format!("/v2/{}/tags/list", reference.repository());
    let mut path = first.clone();
    let mut all = Vec::new();
    loop {
        let question = Question {
            method: Method::GET,
            path: path.clone(),
            accept: None,
            from: 0,
            scope: scope(reference),
            auth,
            body: None,
        };
        let answer = asker.ask(endpoint, &question).await?;
        let next = next_page(answer.response.headers(), &answer.url, &first);
        let body =
            asker.transport.whole_body(&answer.url, answer.response.into_body(), MAX_PAGE_BYTES).await?;
        let page: Page = serde_json::from_slice(&body).map_err(|e| {
            Failure::broken(format!("registry {} answered with no list of tags: {e}", endpoint.host))
        })?;
        let tags = page.tags.unwrap_or_default();
        let progress = !tags.is_empty();
        all.extend(tags);
        if all.len() > MAX_TAGS {
            return Err(Failure::broken(format!("{reference} has more than {MAX_TAGS} tags")));
        }
        match next {
            Some(next) if progress => path = next,
            _ => return Ok(all),
        }
    }
}

/// The path of `Link: <...>; rel="next"`: only its query counts, so that a registry cannot send us elsewhere.
fn next_page(headers: &HeaderMap, url: &Url, path: &str) -> Option<String> {
    let link = headers.get(header::LINK)?.to_str().ok()?;
    let (target, params) = link.trim().strip_prefix('<')?.split_once('>')?;
    if !params.replace('"', "").contains("rel=next") {
        return None;
    }
    let next = url.join(target)?;
    let query = next.path().split_once('?')?.1;
    Some(format!("{path}?{query}"))
}
