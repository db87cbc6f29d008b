// SPDX-License-Identifier: Apache-2.0
//! HTTP as the Engine API uses it: bodies, errors, takeover of connections, progress streams.

pub(crate) mod body;
pub(crate) mod call;
pub(crate) mod connection;
pub(crate) mod error;
pub(crate) mod hijack;
pub(crate) mod progress;
pub(crate) mod request_body;
pub(crate) mod serve;
pub(crate) mod websocket;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

pub(crate) use body::Body;
pub(crate) use call::Call;
pub(crate) use request_body::RequestBody;

/// A response of ours.
pub(crate) type Response = http::Response<Body>;

/// What a handler answers.
pub(crate) type Answer = Result<Response, berth_domain::Error>;

/// Exactly this, without a charset: clients compare it.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A response without a body.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    response
}

/// A text.
pub(crate) fn text(status: StatusCode, text: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::Full(text.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A JSON body, ended by a newline as Go's encoder does.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Answer {
    let mut bytes = serde_json::to_vec(value)
        .map_err(|e| berth_domain::Error::internal("the answer cannot be written as JSON").because(e))?;
    bytes.push(b'\n');
    let mut response = written(bytes);
    *response.status_mut() = status;
    Ok(response)
}

/// A JSON body that is written already.
pub(crate) fn written(bytes: Vec<u8>) -> Response {
    let mut response = Response::new(Body::Full(bytes.into()));
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// A JSON body with status 200.
pub(crate) fn ok<T: Serialize>(value: &T) -> Answer {
    json(StatusCode::OK, value)
}

/// 204.
pub(crate) fn no_content() -> Answer {
    Ok(empty(StatusCode::NO_CONTENT))
}
