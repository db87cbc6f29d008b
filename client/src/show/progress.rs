// SPDX-License-Identifier: Apache-2.0
//! The engine's progress streams: bars on a terminal, plain lines elsewhere.

use std::collections::HashMap;
use std::io::Write;

use bytes::{Buf as _, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::api::Api;
use crate::fail::{Fail, Result};

/// One message above this is no message.
const MAX_MESSAGE: usize = 1 << 20;

/// JSON objects, one a line, as they arrive.
pub(crate) struct Messages<'a> {
    api: &'a Api,
    incoming: Incoming,
    buffer: BytesMut,
}

impl<'a> Messages<'a> {
    pub(crate) fn new(api: &'a Api, incoming: Incoming) -> Self {
        Self { api, incoming, buffer: BytesMut::new() }
    }

    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let mut searched = 0;
        let mut open = true;
        loop {
            let end = self.buffer[searched..].iter().position(|b| *b == b'\n').map(|at| searched + at);
            let end = match end {
                Some(end) => end,
                None if open => {
                    searched = self.buffer.len();
                    if searched > MAX_MESSAGE {
                        return Err(Fail::new("the daemon sends a message without end"));
                    }
                    match self.incoming.frame().await {
                        None => open = false,
                        Some(frame) => {
                            if let Ok(data) = frame.map_err(|e| self.api.broken(&e))?.into_data() {
                                self.buffer.extend_from_slice(&data);
                            }
                        }
                    }
                    continue;
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => self.buffer.len(),
            };
            let line = self.buffer.split_to(end);
            if !self.buffer.is_empty() {
                self.buffer.advance(1);
            }
            searched = 0;
            let line = line.trim_ascii();
            if !line.is_empty() {
                return serde_json::from_slice(line)
                    .map(Some)
                    .map_err(|e| Fail::new(format!("the daemon's message cannot be read: {e}")));
            }
        }
    }
}

#[derive(Debug, Default, Deserialize)]
struct Message {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    stream: Option<String>,
    #[serde(default, rename = "progressDetail")]
    progress: Option<Amount>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default, rename = "errorDetail")]
    detail: Option<Detail>,
}

#[derive(Debug, Default, Deserialize)]
struct Amount {
    #[serde(default)]
    current: i64,
    #[serde(default)]
    total: i64,
}

#[derive(Debug, Deserialize)]
struct Detail {
    #[serde(default)]
    message: String,
}

impl Message {
    fn failed(&self) -> Option<Fail> {
        let message = match (&self.detail, &self.error) {
            (Some(detail), _) if !detail.message.is_empty() => &detail.message,
            (_, Some(error)) => error,
            _ => return None,
        };
        Some(Fail::new(message.clone()))
    }

    fn amount(&self) -> Option<(u64, u64)> {
        let amount = self.progress.as_ref()?;
        let (current, total) =
            (u64::try_from(amount.current).ok()?, u64::try_from(amount.total).unwrap_or(0));
        (current > 0 || total > 0).then_some((current, total))
    }
}

/// Where progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    Stdout,
    /// For `run`, whose stdout is the container's.
    Stderr,
    Nowhere,
}

impl To {
    fn is_terminal(self) -> bool {
        match self {
            Self::Stdout => crate::term::is_terminal(std::io::stdout()),
            Self::Stderr => crate::term::is_terminal(std::io::stderr()),
            Self::Nowhere => false,
        }
    }

    fn line(self, text: &str) -> Result<()> {
        match self {
            Self::Stdout => write!(std::io::stdout(), "{text}")?,
            Self::Stderr => write!(std::io::stderr(), "{text}")?,
            Self::Nowhere => {}
        }
        Ok(())
    }
}

/// Shows a stream to its end. A failure that the stream tells of is a failure here.
pub(crate) async fn show(api: &Api, incoming: Incoming, to: To) -> Result<()> {
    let mut bars = to.is_terminal().then(|| Bars::new(to));
    let mut messages = Messages::new(api, incoming);
    let outcome = loop {
        let message: Message = match messages.next().await {
            Ok(Some(message)) => message,
            Ok(None) => break Ok(()),
            Err(fail) => break Err(fail),
        };
        if let Some(fail) = message.failed() {
            break Err(fail);
        }
        match &mut bars {
            Some(bars) => bars.show(&message),
            None => plain(&message, to)?,
        }
    };
    if let Some(bars) = bars {
        bars.end();
    }
    outcome
}

fn plain(message: &Message, to: To) -> Result<()> {
    if let Some(text) = &message.stream {
        return to.line(text);
    }
    if message.amount().is_some() {
        return Ok(());
    }
    match (&message.id, &message.status) {
        (Some(id), Some(status)) if !id.is_empty() => to.line(&format!("{id}: {status}\n")),
        (_, Some(status)) => to.line(&format!("{status}\n")),
        _ => Ok(()),
    }
}

/// One line for each id, redrawn in place, and the lines between them in their order.
struct Bars {
    all: MultiProgress,
    by_id: HashMap<String, ProgressBar>,
    lines: Vec<ProgressBar>,
    with_bar: ProgressStyle,
    without: ProgressStyle,
    plain: ProgressStyle,
}

impl Bars {
    fn new(to: To) -> Self {
        let target =
            if to == To::Stderr { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::stdout() };
        let style = |template: &str| {
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
        };
        Self {
            all: MultiProgress::with_draw_target(target),
            by_id: HashMap::new(),
            lines: Vec::new(),
            with_bar: style("{prefix}: {msg} [{bar:50}] {decimal_bytes}/{decimal_total_bytes}")
                .progress_chars("=> "),
            without: style("{prefix}: {msg}"),
            plain: style("{msg}"),
        }
    }

    fn show(&mut self, message: &Message) {
        if let Some(text) = &message.stream {
            return self.say(text.trim_end());
        }
        let Some(status) = &message.status else { return };
        let Some(id) = message.id.as_deref().filter(|id| !id.is_empty()) else { return self.say(status) };
        // "latest: Pulling from library/busybox" is said once and changes no more.
        if message.progress.is_none() {
            return self.say(&format!("{id}: {status}"));
        }
        if !self.by_id.contains_key(id) {
            let bar =
                self.all.add(ProgressBar::new(0).with_style(self.without.clone()).with_prefix(id.to_owned()));
            self.lines.push(bar.clone());
            self.by_id.insert(id.to_owned(), bar);
        }
        let Some(bar) = self.by_id.get(id) else { return };
        match message.amount() {
            Some((current, total)) => {
                bar.set_message(status.clone());
                bar.set_length(total.max(current));
                bar.set_position(current);
                bar.set_style(self.with_bar.clone());
            }
            None => {
                bar.set_style(self.without.clone());
                bar.set_message(status.clone());
            }
        }
    }

    fn say(&mut self, line: &str) {
        let bar = ProgressBar::new(0).with_style(self.plain.clone());
        let bar = self.all.add(bar.with_message(line.to_owned()));
        bar.tick();
        self.lines.push(bar);
    }

    fn end(self) {
        for bar in &self.lines {
            bar.abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn messages_are_read_as_the_engine_writes_them() {
        let read = |text: &str| serde_json::from_str::<Message>(text).unwrap();
        let bar = read(r#"{"status":"Downloading","progressDetail":{"current":5,"total":10},"id":"abc"}"#);
        assert_eq!(bar.amount(), Some((5, 10)));
        let done = read(r#"{"status":"Download complete","progressDetail":{"hidecounts":true},"id":"abc"}"#);
        assert_eq!(done.amount(), None);
        let failed = read(r#"{"errorDetail":{"message":"no space"},"error":"no space"}"#);
        assert_eq!(failed.failed().unwrap().message, "no space");
        assert!(read(r#"{"status":"x","aux":{"a":1}}"#).failed().is_none());
    }
}
