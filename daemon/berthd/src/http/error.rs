// SPDX-License-Identifier: Apache-2.0
//! The one map from an error's meaning to an HTTP status.

use berth_api::types::ErrorResponse;
use berth_domain::{Error, Meaning};
use http::{StatusCode, header};

use super::{Body, JSON, Response, empty};

/// The status of an error.
pub(crate) fn status(meaning: Meaning) -> StatusCode {
    match meaning {
        Meaning::NotFound => StatusCode::NOT_FOUND,
        Meaning::InvalidInput => StatusCode::BAD_REQUEST,
        Meaning::Conflict => StatusCode::CONFLICT,
        Meaning::NotModified => StatusCode::NOT_MODIFIED,
        Meaning::Forbidden => StatusCode::FORBIDDEN,
        Meaning::Unauthorized => StatusCode::UNAUTHORIZED,
        Meaning::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Meaning::NotImplemented => StatusCode::NOT_IMPLEMENTED,
        // The client has gone, or the daemon is about to.
        Meaning::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
        Meaning::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The answer to a request that failed, and its line in the log.
pub(crate) fn response(error: &Error) -> Response {
    let status = status(error.meaning());
    let message = error.chain();
    if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED {
        tracing::error!(status = status.as_u16(), error = %message, "request failed");
    } else {
        tracing::debug!(status = status.as_u16(), error = %message, "request refused");
    }
    if status == StatusCode::NOT_MODIFIED {
        return empty(status);
    }
    json_message(status, message)
}

/// An error's body.
pub(crate) fn json_message(status: StatusCode, message: String) -> Response {
    let mut bytes =
        serde_json::to_vec(&ErrorResponse { message }).unwrap_or_else(|_| b"{\"message\":\"\"}".to_vec());
    bytes.push(b'\n');
    let mut response = Response::new(Body::Full(bytes.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// For paths that are not there, and for methods that they do not have.
pub(crate) fn page_not_found() -> Response {
    json_message(StatusCode::NOT_FOUND, "page not found".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn body(response: Response) -> Vec<u8> {
        match response.into_body() {
            Body::Full(bytes) => bytes.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_error_is_a_message_of_type_json() {
        let response = response(&Error::not_found("No such container: nope"));
        assert_eq!(response.status(), 404);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        assert_eq!(body(response), b"{\"message\":\"No such container: nope\"}\n");
    }

    #[test]
    fn not_modified_has_no_body() {
        let response = response(&Error::not_modified("x"));
        assert_eq!(response.status(), 304);
        assert!(matches!(response.body(), Body::Empty));
        assert!(!response.headers().contains_key(header::CONTENT_TYPE));
    }
}
