// SPDX-License-Identifier: Apache-2.0
//! Checking credentials.

use berth_domain::{Error, Meaning, Result};
use http::{Method, StatusCode};

use crate::Auth;
use crate::ask::{Asker, Question};
use crate::challenge::Challenge;
use crate::endpoint::Endpoint;
use crate::failure::{Failure, Kind};

/// Asks for `/v2/` with the credentials. Where a token server grants identity tokens, one comes back.
pub(crate) async fn login(
    asker: &Asker,
    endpoint: &Endpoint,
    registry: &str,
    auth: &Auth,
) -> Result<Option<String>> {
    attempt(asker, endpoint, auth).await.map_err(|failure| {
        let doing = format!("logging in to {registry}");
        let meaning = match failure.kind {
            Kind::Unauthorized | Kind::Denied | Kind::NotFound => Meaning::Unauthorized,
            Kind::Unreachable | Kind::Unavailable => Meaning::Unavailable,
            Kind::Broken => Meaning::Internal,
        };
        Error::new(meaning, failure.message).context(doing)
    })
}

async fn attempt(asker: &Asker, endpoint: &Endpoint, auth: &Auth) -> Result<Option<String>, Failure> {
    let question = Question {
        method: Method::GET,
        path: "/v2/".to_owned(),
        accept: None,
        from: 0,
        scope: String::new(),
        auth,
        body: None,
    };
    let (answer, offered) = asker.persistently(endpoint, || asker.challenged(endpoint, &question)).await?;
    let bearer = offered.iter().find(|c| matches!(c, Challenge::Bearer { .. }));
    // Where a redirect led, nobody chooses who is shown the password.
    let wants = answer.response.status() == StatusCode::UNAUTHORIZED && answer.url.same_origin(&answer.asked);
    if let (true, Some(Challenge::Bearer { realm, service, .. })) = (wants, bearer) {
        let registry = (&answer.asked, &asker.trusted(endpoint).await);
        let grant = asker.grant(registry, realm, service.as_deref(), "", auth, true).await?;
        grant.header(&endpoint.host.to_string())?;
        return Ok(grant.refresh_token.filter(|t| !t.is_empty()));
    }
    asker.ask(endpoint, &question).await?;
    Ok(None)
}
