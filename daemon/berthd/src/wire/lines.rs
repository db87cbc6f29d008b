// SPDX-License-Identifier: Apache-2.0
//! Lines of `GET /containers/json`, kept as text.
//!
//! A container's line changes when its snapshot does, and apart from that only in the words that say how long ago
//! something was (`Status`). So the text on both sides of those words is kept with the snapshot that it was made of, and
//! a list of a thousand containers copies text where it would build and write a thousand documents.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use berth_domain::{ContainerId, Error, Result};
use berth_engine::Snapshot;

/// Stands in a line where the words go. No string of the API may hold it: a control character is always escaped.
const PLACE: &str = "\u{1}status\u{1}";
/// As JSON writes it.
const WRITTEN: &str = "\"\\u0001status\\u0001\"";

/// The lines of those containers that were listed last.
#[derive(Debug, Default)]
pub(crate) struct Lines(Mutex<HashMap<ContainerId, Line>>);

#[derive(Debug)]
struct Line {
    of: Weak<Snapshot>,
    about: About,
    /// Before and after the words.
    text: Arc<(String, String)>,
}

/// What a line depends on beside the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct About {
    /// Minor version of the API that the client speaks.
    pub(crate) minor: u16,
    /// Whether the image's name is still its.
    pub(crate) still: bool,
    /// Names by which others link to it.
    pub(crate) links: Vec<String>,
}

impl Lines {
    /// Appends a container's line to `list`. `make` writes it anew, with the words that it is given.
    ///
    /// # Errors
    ///
    /// What `make` says.
    pub(crate) fn push(
        &self,
        list: &mut Vec<u8>,
        now: &Arc<Snapshot>,
        about: About,
        status: &str,
        make: impl Fn(&str) -> Result<String>,
    ) -> Result<()> {
        let kept = {
            let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let line = lines.get(&now.id).filter(|line| line.about == about);
            line.filter(|line| line.of.as_ptr() == Arc::as_ptr(now)).map(|line| Arc::clone(&line.text))
        };
        let text = match kept {
            Some(text) => text,
            None => {
                let line = make(PLACE)?;
                // A client may have put the same characters into a label: such a line is written anew each time.
                if line.matches(WRITTEN).count() != 1 {
                    list.extend_from_slice(make(status)?.as_bytes());
                    return Ok(());
                }
                let (head, tail) = line.split_once(WRITTEN).unwrap_or_default();
                let text = Arc::new((head.to_owned(), tail.to_owned()));
                let line = Line { of: Arc::downgrade(now), about, text: Arc::clone(&text) };
                self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(now.id.clone(), line);
                text
            }
        };
        list.extend_from_slice(text.0.as_bytes());
        serde_json::to_writer(&mut *list, status)
            .map_err(|e| Error::internal("the answer cannot be written as JSON").because(e))?;
        list.extend_from_slice(text.1.as_bytes());
        Ok(())
    }

    /// Forgets the lines of what is no more.
    pub(crate) fn prune(&self) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|_, line| line.of.strong_count() > 0);
        if lines.capacity() > 64 && lines.len() < lines.capacity() / 4 {
            lines.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn line(words: &str, label: &str) -> Result<String> {
        Ok(serde_json::json!({"Labels": {"l": label}, "Status": words}).to_string())
    }

    #[test]
    fn a_place_is_found_unless_a_label_looks_like_one() {
        for (label, places) in [("", 1), ("\u{1}status", 1), ("\"\u{1}status\u{1}\"", 1), (PLACE, 2)] {
            let line = line(PLACE, label).unwrap();
            assert_eq!(line.matches(WRITTEN).count(), places, "{line}");
        }
    }
}
