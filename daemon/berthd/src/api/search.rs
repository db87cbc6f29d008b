// SPDX-License-Identifier: Apache-2.0
//! Looking for images at Docker Hub.

use std::sync::Arc;

use berth_domain::{Error, Result};
use serde_json::json;

use crate::app::App;
use crate::http::call::invalid;
use crate::http::{Answer, Call, ok};
use crate::wire;

/// How many repositories come when none is said.
const DEFAULT_LIMIT: u32 = 25;

/// `GET /images/search`
pub(crate) async fn image_search(app: Arc<App>, call: Call) -> Answer {
    let term = call.query.get("term");
    if term.is_empty() {
        return Err(Error::invalid("a search needs a term"));
    }
    let limit = limit(call.int("limit")?)?;
    let filters = call.known_filters(&["is-automated", "is-official", "stars"])?;
    let official = filters.bool("is-official").map_err(invalid)?;
    let automated = filters.bool("is-automated").map_err(invalid)?;
    let mut stars = 0;
    for value in filters.values("stars") {
        let least: i64 =
            value.parse().map_err(|_| Error::invalid(format!("invalid filter 'stars={value}'")))?;
        stars = stars.max(least);
    }
    let found = app.registry.search(term, limit, &wire::auth::from_headers(call.headers())).await?;
    let lines: Vec<_> = found
        .into_iter()
        .filter(|f| official.is_none_or(|wanted| f.is_official == wanted))
        .filter(|f| automated.is_none_or(|wanted| f.is_automated == wanted))
        .filter(|f| f.star_count >= stars)
        .map(|f| {
            json!({
                "star_count": f.star_count,
                "is_official": f.is_official,
                "name": f.name,
                "is_automated": f.is_automated,
                "description": f.description.unwrap_or_default(),
            })
        })
        .collect();
    ok(&lines)
}

fn limit(asked: Option<i64>) -> Result<u32> {
    match asked {
        None | Some(0) => Ok(DEFAULT_LIMIT),
        Some(n @ 1..=100) => Ok(u32::try_from(n).unwrap_or(DEFAULT_LIMIT)),
        Some(n) => Err(Error::invalid(format!("limit {n} is outside the range of [1, 100]"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        assert_eq!(limit(None).ok(), Some(25));
        assert_eq!(limit(Some(100)).ok(), Some(100));
        assert!(limit(Some(101)).is_err() && limit(Some(-1)).is_err());
    }
}
