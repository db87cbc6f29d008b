// SPDX-License-Identifier: Apache-2.0
//! Filters as the API's list, prune and events calls take them: a name and any number of values.
//! Values of one name are alternatives, except those of `label`, which must all hold.

use std::collections::{BTreeMap, BTreeSet};

use crate::Error;

/// Filter names with their values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

impl Filters {
    /// No filter.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value.
    pub fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.entry(name.into()).or_default().insert(value.into());
    }

    /// With one more value.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.add(name, value);
        self
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this name is filtered by.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|values| !values.is_empty())
    }

    /// The values of a name.
    pub fn get(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.get(name).into_iter().flatten().map(String::as_str)
    }

    /// Refuses names that are not among `known`.
    ///
    /// # Errors
    ///
    /// `invalid filter 'x'`.
    pub fn only(&self, known: &[&str]) -> Result<(), Error> {
        match self.0.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(Error::invalid(format!("invalid filter '{name}'"))),
            None => Ok(()),
        }
    }

    /// Whether one of the values of `name` equals `value`, or the name is not filtered by.
    #[must_use]
    pub fn exact(&self, name: &str, value: &str) -> bool {
        !self.has(name) || self.get(name).any(|wanted| wanted == value)
    }

    /// Whether one of the values of `name` is a beginning of `value`, or the name is not filtered by.
    #[must_use]
    pub fn prefix(&self, name: &str, value: &str) -> bool {
        !self.has(name) || self.get(name).any(|wanted| value.starts_with(wanted))
    }

    /// Whether one of the values of `name` occurs in `value`, or the name is not filtered by.
    #[must_use]
    pub fn contains(&self, name: &str, value: &str) -> bool {
        !self.has(name) || self.get(name).any(|wanted| value.contains(wanted))
    }

    /// A yes-or-no filter (`dangling=true`); `None` when it is not there.
    ///
    /// # Errors
    ///
    /// A value that is neither, or both at once.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Error> {
        let mut found = None;
        for value in self.get(name) {
            let flag = match value {
                "1" | "true" | "True" | "TRUE" | "t" | "T" => true,
                "0" | "false" | "False" | "FALSE" | "f" | "F" => false,
                _ => return Err(Error::invalid(format!("invalid filter '{name}=[{value}]'"))),
            };
            if found.is_some_and(|before| before != flag) {
                return Err(Error::invalid(format!("invalid filter '{name}': both true and false")));
            }
            found = Some(flag);
        }
        Ok(found)
    }

    /// Whether all `label` filters hold and no `label!` filter does: `key` asks for the key, `key=value` for both.
    #[must_use]
    pub fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let holds = |wanted: &str| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|have| have == value),
            None => labels.contains_key(wanted),
        };
        self.get("label").all(holds) && !self.get("label!").any(holds)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn unknown_names_are_named() {
        let error = Filters::new().with("x", "1").only(&["id"]).expect_err("x is unknown");
        assert_eq!(error.to_string(), "invalid filter 'x'");
        Filters::new().with("id", "1").only(&["id"]).expect("id is known");
    }

    #[test]
    fn values_are_alternatives_but_labels_must_all_hold() {
        let filters = Filters::new().with("status", "running").with("status", "exited");
        assert!(filters.exact("status", "exited"));
        assert!(!filters.exact("status", "created"));
        assert!(filters.exact("name", "anything"), "what is not asked for does not matter");

        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), String::new())]);
        assert!(Filters::new().with("label", "a=1").with("label", "b").labels(&labels));
        assert!(!Filters::new().with("label", "a=1").with("label", "c").labels(&labels));
        assert!(!Filters::new().with("label!", "b").labels(&labels));
    }

    #[test]
    fn flags() {
        assert_eq!(Filters::new().flag("all").unwrap(), None);
        assert_eq!(Filters::new().with("all", "1").flag("all").unwrap(), Some(true));
        assert!(Filters::new().with("all", "maybe").flag("all").is_err());
        assert!(Filters::new().with("all", "1").with("all", "0").flag("all").is_err());
    }
}
