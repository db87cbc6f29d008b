// SPDX-License-Identifier: Apache-2.0
//! Credentials for registries.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use berth_api::types::image::AuthConfig;
use berth_registry::Auth;
use http::HeaderMap;

/// The `X-Registry-Auth` header: base64url of JSON. What cannot be read counts as nothing, as clients rely on.
pub(crate) fn from_headers(headers: &HeaderMap) -> Auth {
    headers.get("X-Registry-Auth").and_then(|v| decode(v.as_bytes())).map(into_auth).unwrap_or_default()
}

fn decode(text: &[u8]) -> Option<AuthConfig> {
    // Some clients leave the padding out.
    let bare = text.trim_ascii_end();
    let bare = &bare[..bare.len() - bare.iter().rev().take_while(|b| **b == b'=').count()];
    let bytes = URL_SAFE_NO_PAD.decode(bare).or_else(|_| STANDARD_NO_PAD.decode(bare)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// The engine's words. `auth` holds name and password together where the fields of their own are empty.
pub(crate) fn into_auth(config: AuthConfig) -> Auth {
    let (mut username, mut password) = (config.username, config.password);
    if username.is_empty() && password.is_empty() {
        let both = STANDARD.decode(config.auth.as_bytes()).ok().and_then(|b| String::from_utf8(b).ok());
        if let Some((name, secret)) = both.as_deref().and_then(|b| b.split_once(':')) {
            (username, password) = (name.to_owned(), secret.to_owned());
        }
    }
    Auth { username, password, identity_token: config.identitytoken, registry_token: config.registrytoken }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn header(json: &str) -> Auth {
        let mut headers = HeaderMap::new();
        use base64::engine::general_purpose::URL_SAFE;
        headers.insert("X-Registry-Auth", URL_SAFE.encode(json).parse().unwrap());
        let padded = from_headers(&headers);
        headers.insert("X-Registry-Auth", URL_SAFE_NO_PAD.encode(json).parse().unwrap());
        assert_eq!(from_headers(&headers), padded);
        padded
    }

    #[test]
    fn credentials_come_in_several_shapes() {
        assert_eq!(header(r#"{"username":"u","password":"p"}"#), Auth::basic("u", "p"));
        assert_eq!(header(&format!(r#"{{"auth":"{}"}}"#, STANDARD.encode("u:p:q"))), Auth::basic("u", "p:q"));
        assert_eq!(header(r#"{"identitytoken":"t"}"#).identity_token, "t");
    }

    #[test]
    fn what_cannot_be_read_is_nothing() {
        assert!(header("{}").is_anonymous());
        assert!(header("nonsense").is_anonymous());
        let mut headers = HeaderMap::new();
        headers.insert("X-Registry-Auth", "***".parse().unwrap());
        assert!(from_headers(&headers).is_anonymous());
    }
}
