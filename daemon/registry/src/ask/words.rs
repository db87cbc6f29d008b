// SPDX-License-Identifier: Apache-2.0
//! What a registry says of its own failure, made fit to show.

use http::{HeaderMap, header};
use serde::Deserialize;

/// `{"errors":[{"code","message"}]}` (distribution spec) or a token server's `{"details"}`, in a line.
pub(super) fn words(headers: &HeaderMap, body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        errors: Vec<One>,
        #[serde(default)]
        details: String,
        #[serde(default)]
        error_description: String,
    }
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let json =
        headers.get(header::CONTENT_TYPE).and_then(|t| t.to_str().ok()).is_none_or(|t| t.contains("json"));
    let Some(body) = json.then(|| serde_json::from_slice::<Body>(body).ok()).flatten() else {
        return String::new();
    };
    let said = match body.errors.first() {
        Some(one) => match (one.code.to_lowercase().replace('_', " "), one.message.as_str()) {
            (code, "") => code,
            (code, message) if code.is_empty() => message.to_owned(),
            (code, message) => format!("{code}: {message}"),
        },
        None if body.details.is_empty() => body.error_description,
        None => body.details,
    };
    // It ends up on terminals and in logs.
    said.chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_words_are_made_fit_to_show() {
        let say = |body: &str| words(&HeaderMap::new(), body.as_bytes());
        assert_eq!(
            say(r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your limit"}]}"#),
            "toomanyrequests: You have reached your limit"
        );
        assert_eq!(say(r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#), "name unknown");
        assert_eq!(say(r#"{"details":"incorrect username or password"}"#), "incorrect username or password");
        assert_eq!(say("{\"errors\":[{\"message\":\"a\\u001b[31mb\\n\"}]}"), "a[31mb");
        assert_eq!(say("<html>"), "");
        assert_eq!(say(&format!("{{\"details\":\"{}\"}}", "x".repeat(10_000))).len(), 300);
    }
}
