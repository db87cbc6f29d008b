// SPDX-License-Identifier: Apache-2.0
//! One request on its way through the router and a handler.

use berth_api::query::BadQuery;
use berth_api::{ApiVersion, Filters, Operation, Query};
use berth_domain::{Error, Result};
use bytes::{Buf as _, Bytes};
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;

use super::RequestBody;

/// The longest JSON body.
pub(crate) const MAX_JSON: usize = 16 << 20;

/// A request that was routed.
#[derive(Debug)]
pub(crate) struct Call {
    /// What is asked.
    pub(crate) operation: Operation,
    /// In which version.
    pub(crate) version: ApiVersion,
    names: Vec<String>,
    /// Its parameters.
    pub(crate) query: Query,
    /// The request; its body is read through [`Call::json`] and [`Call::body`].
    pub(crate) request: http::Request<RequestBody>,
}

impl Call {
    pub(crate) fn new(
        found: berth_api::Match,
        version: ApiVersion,
        query: Query,
        request: http::Request<RequestBody>,
    ) -> Self {
        Self { operation: found.operation, version, names: found.names, query, request }
    }

    /// The name in the path.
    pub(crate) fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// Its headers.
    pub(crate) fn headers(&self) -> &HeaderMap {
        self.request.headers()
    }

    /// The `filters` parameter; names are checked by whoever knows them.
    ///
    /// # Errors
    ///
    /// It is no filter.
    pub(crate) fn filters(&self) -> Result<Filters> {
        Filters::parse(self.query.get("filters")).map_err(invalid)
    }

    /// The `filters` parameter of names that are `known`.
    ///
    /// # Errors
    ///
    /// It is no filter; a name is unknown.
    pub(crate) fn known_filters(&self, known: &[&str]) -> Result<Filters> {
        let filters = self.filters()?;
        filters.only(known).map_err(invalid)?;
        Ok(filters)
    }

    /// An integer parameter.
    ///
    /// # Errors
    ///
    /// It is no integer.
    pub(crate) fn int(&self, name: &str) -> Result<Option<i64>> {
        self.query.int(name).map_err(invalid)
    }

    /// A moment in unix nanoseconds.
    ///
    /// # Errors
    ///
    /// It is no time.
    pub(crate) fn timestamp(&self, name: &str) -> Result<Option<i64>> {
        let nanos = self.query.timestamp(name).map_err(invalid)?;
        nanos
            .map(|n| {
                i64::try_from(n)
                    .map_err(|_| Error::invalid(format!("invalid value for {name:?}: too far away")))
            })
            .transpose()
    }

    /// The JSON body; `None` where there is none.
    ///
    /// # Errors
    ///
    /// Its type is not JSON, it is too long, it is not what is expected, or something follows it.
    pub(crate) async fn json<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let bytes = self.bytes().await?;
        if bytes.is_empty() {
            return Ok(None);
        }
        require_json(self.headers())?;
        let mut values = serde_json::Deserializer::from_slice(&bytes).into_iter::<serde_json::Value>();
        let bad = |e: serde_json::Error| {
            if e.is_eof() {
                return Error::invalid("invalid JSON: got EOF while reading request body");
            }
            Error::invalid(format!("invalid JSON: {e}"))
        };
        let Some(value) = values.next() else { return Ok(None) };
        let mut value = value.map_err(bad)?;
        let rest = &bytes[values.byte_offset()..];
        if !rest.iter().all(u8::is_ascii_whitespace) {
            return Err(Error::invalid("unexpected content after JSON"));
        }
        crate::versions::raise(self.operation, self.version, &mut value)?;
        match value {
            serde_json::Value::Null => return Ok(None),
            // Lists would pass for objects field by field.
            serde_json::Value::Object(_) => {}
            _ => return Err(Error::invalid("invalid JSON: an object expected")),
        }
        serde_json::from_value(value).map(Some).map_err(bad)
    }

    /// The body of at most [`MAX_JSON`] bytes.
    ///
    /// # Errors
    ///
    /// It is longer; the connection broke.
    pub(crate) async fn bytes(&mut self) -> Result<Bytes> {
        let too_long = || Error::invalid(format!("the request body is longer than {MAX_JSON} bytes"));
        let body = self.request.body_mut();
        if http_body::Body::size_hint(body).lower() > MAX_JSON as u64 {
            return Err(too_long());
        }
        let mut all = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| Error::cancelled("reading the request body").because(e))?;
            let Ok(mut data) = frame.into_data() else { continue };
            if all.len() + data.remaining() > MAX_JSON {
                return Err(too_long());
            }
            all.extend_from_slice(&data.copy_to_bytes(data.remaining()));
        }
        Ok(all.into())
    }

    /// The answer in the shape of the request's version.
    ///
    /// # Errors
    ///
    /// It cannot be written as JSON.
    pub(crate) fn ok<T: serde::Serialize>(&self, answer: &T) -> super::Answer {
        if !crate::versions::lowers(self.operation, self.version) {
            return super::ok(answer);
        }
        let mut value = serde_json::to_value(answer)
            .map_err(|e| Error::internal("the answer cannot be written as JSON").because(e))?;
        crate::versions::lower(self.operation, self.version, &mut value);
        super::ok(&value)
    }

    /// One answer's JSON, as this version has it.
    ///
    /// # Errors
    ///
    /// It cannot be written as JSON.
    pub(crate) fn text<T: serde::Serialize>(&self, answer: &T) -> Result<String> {
        let failed =
            |e: serde_json::Error| Error::internal("the answer cannot be written as JSON").because(e);
        if !crate::versions::lowers(self.operation, self.version) {
            return serde_json::to_string(answer).map_err(failed);
        }
        let mut value = serde_json::to_value(answer).map_err(failed)?;
        crate::versions::lower(self.operation, self.version, &mut value);
        serde_json::to_string(&value).map_err(failed)
    }

    /// The body as a stream, for archives.
    pub(crate) fn into_body(self) -> RequestBody {
        self.request.into_body()
    }
}

/// A parameter that cannot be what it should.
pub(crate) fn invalid(bad: BadQuery) -> Error {
    Error::invalid(bad.0)
}

/// A JSON body must say that it is one.
fn require_json(headers: &HeaderMap) -> Result<()> {
    let given = headers.get(header::CONTENT_TYPE).map_or("", |v| v.to_str().unwrap_or("?"));
    let kind = given.split(';').next().unwrap_or("").trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Error::invalid(format!("unsupported Content-Type header ({given}): must be 'application/json'")))
}
