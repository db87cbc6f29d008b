// SPDX-License-Identifier: Apache-2.0
//! The `filters` parameter. Go clients send `{"label":{"a=b":true}}`, others `{"label":["a=b"]}`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::query::BadQuery;

/// Filter names and the values asked for; a thing passes a name if it matches any of its values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    Map(BTreeMap<String, bool>),
    List(Vec<String>),
}

impl Filters {
    /// Reads the parameter; the empty text is no filter.
    ///
    /// # Errors
    ///
    /// The text is neither shape.
    pub fn parse(text: &str) -> Result<Self, BadQuery> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let parsed: BTreeMap<String, Option<Values>> =
            serde_json::from_str(text).map_err(|_| BadQuery("invalid filter".to_owned()))?;
        let values = |v: Option<Values>| match v {
            // Go writes `false` for a value that was taken back; the reference looks at the keys only.
            Some(Values::Map(map)) => map.into_keys().collect(),
            Some(Values::List(list)) => list.into_iter().collect(),
            None => BTreeSet::new(),
        };
        Ok(Self(parsed.into_iter().map(|(k, v)| (k, values(v))).collect()))
    }

    /// Refuses names that an endpoint does not know.
    ///
    /// # Errors
    ///
    /// Names the first unknown one.
    pub fn only(&self, known: &[&str]) -> Result<(), BadQuery> {
        match self.0.keys().find(|k| !known.contains(&k.as_str())) {
            Some(unknown) => Err(BadQuery(format!("invalid filter '{unknown}'"))),
            None => Ok(()),
        }
    }

    /// Whether nothing is asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.values().all(BTreeSet::is_empty)
    }

    /// Whether a name is asked with at least one value.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|values| !values.is_empty())
    }

    /// The values asked for under a name.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.get(name).into_iter().flatten().map(String::as_str)
    }

    /// Every name with its values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = &str>)> {
        self.0.iter().map(|(name, values)| (name.as_str(), values.iter().map(String::as_str)))
    }

    /// Adds one; for clients that build filters.
    pub fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.entry(name.into()).or_default().insert(value.into());
    }

    /// As Go clients write it; empty filters are the empty text.
    #[must_use]
    pub fn to_query(&self) -> String {
        if self.is_empty() {
            return String::new();
        }
        let shape: BTreeMap<_, BTreeMap<_, bool>> =
            self.0.iter().map(|(k, vs)| (k, vs.iter().map(|v| (v, true)).collect())).collect();
        serde_json::to_string(&shape).unwrap_or_default()
    }

    /// Whether `candidate` passes: nothing asked under `name`, or one value equals it.
    #[must_use]
    pub fn is(&self, name: &str, candidate: &str) -> bool {
        !self.has(name) || self.values(name).any(|v| v == candidate)
    }

    /// Whether a value asked under `name` satisfies `test`; also when nothing is asked.
    #[must_use]
    pub fn any(&self, name: &str, test: impl FnMut(&str) -> bool) -> bool {
        !self.has(name) || self.values(name).any(test)
    }

    /// Whether labels pass: every value asked (`key` or `key=value`) is there.
    #[must_use]
    pub fn labels(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.values(name).all(|wanted| has_label(wanted, labels))
    }

    /// Whether any value asked under `name` is a label that is there.
    #[must_use]
    pub fn any_label(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.values(name).any(|wanted| has_label(wanted, labels))
    }

    /// A filter that is a boolean.
    ///
    /// # Errors
    ///
    /// The value is neither, or both are asked.
    pub fn bool(&self, name: &str) -> Result<Option<bool>, BadQuery> {
        let values: Vec<&str> = self.values(name).collect();
        match values.as_slice() {
            [] => Ok(None),
            [one] => match *one {
                "1" | "true" | "True" | "TRUE" | "t" | "T" => Ok(Some(true)),
                "0" | "false" | "False" | "FALSE" | "f" | "F" => Ok(Some(false)),
                other => Err(BadQuery(format!("invalid filter '{name}=[{other}]'"))),
            },
            more => Err(BadQuery(format!("invalid filter '{name}=[{}]'", more.join(" ")))),
        }
    }
}

fn has_label(wanted: &str, labels: &BTreeMap<String, String>) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
        None => labels.contains_key(wanted),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_shapes_mean_the_same() {
        let map = Filters::parse(r#"{"label":{"a=b":true,"c":true}}"#).unwrap();
        let list = Filters::parse(r#"{"label":["a=b","c"]}"#).unwrap();
        assert_eq!(map, list);
        assert_eq!(Filters::parse("").unwrap(), Filters::default());
        assert_eq!(Filters::parse("{}").unwrap(), Filters::default());
        assert_eq!(Filters::parse(&map.to_query()).unwrap(), map);
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for bad in ["x", "[]", r#"{"a":1}"#, r#"{"a":{"b":1}}"#, r#"{"a":[1]}"#, "{"] {
            assert!(Filters::parse(bad).unwrap_err().0.starts_with("invalid filter"), "{bad}");
        }
        let unknown = Filters::parse(r#"{"nope":["a"]}"#).unwrap();
        assert_eq!(unknown.only(&["label"]).unwrap_err().0, "invalid filter 'nope'");
    }

    #[test]
    fn labels_must_all_be_there() {
        let labels: BTreeMap<_, _> = [("a".to_owned(), "b".to_owned())].into();
        let check = |text: &str| Filters::parse(text).unwrap().labels("label", &labels);
        assert!(check(""));
        assert!(check(r#"{"label":["a"]}"#) && check(r#"{"label":["a=b"]}"#));
        assert!(!check(r#"{"label":["a=c"]}"#) && !check(r#"{"label":["a","x"]}"#));
    }

    #[test]
    fn booleans_are_strict() {
        let check = |text: &str| Filters::parse(text).unwrap().bool("dangling");
        assert_eq!(check(""), Ok(None));
        assert_eq!(check(r#"{"dangling":["true"]}"#), Ok(Some(true)));
        assert_eq!(check(r#"{"dangling":{"0":true}}"#), Ok(Some(false)));
        assert_eq!(check(r#"{"dangling":["foo"]}"#).unwrap_err().0, "invalid filter 'dangling=[foo]'");
        assert!(check(r#"{"dangling":["true","false"]}"#).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            if let Ok(filters) = Filters::parse(&text) {
                prop_assert_eq!(Filters::parse(&filters.to_query()).unwrap().is_empty(), filters.is_empty());
            }
        }
    }
}
