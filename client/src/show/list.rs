// SPDX-License-Identifier: Apache-2.0
//! Lists in the four ways that `--format` and its absence ask for: the verb's own table, a table by
//! template, a template for each row, JSON lines.

use std::io::Write as _;

use serde_json::{Map, Value};

use super::table;
use super::template::Template;
use crate::fail::Result;

/// A column: the field that templates know, and its heading.
pub(crate) type Column = (&'static str, &'static str);

/// One row: every field of [`List::all`] by name.
pub(crate) struct Row {
    pub(crate) fields: Vec<(&'static str, String)>,
    pub(crate) labels: Map<String, Value>,
}

impl Row {
    fn value(&self) -> Value {
        let mut map: Map<String, Value> =
            self.fields.iter().map(|(name, text)| ((*name).to_owned(), Value::from(text.clone()))).collect();
        map.insert("\0labels".to_owned(), Value::Object(self.labels.clone()));
        Value::Object(map)
    }

    fn cell(&self, field: &str) -> String {
        self.fields.iter().find(|(name, _)| *name == field).map(|(_, text)| text.clone()).unwrap_or_default()
    }
}

pub(crate) struct List<'a> {
    /// Every field there is.
    pub(crate) all: &'a [Column],
    /// Those of the verb's own table, in order.
    pub(crate) shown: &'a [&'static str],
    pub(crate) rows: Vec<Row>,
}

impl List<'_> {
    pub(crate) fn print(&self, format: Option<&str>) -> Result<()> {
        std::io::stdout().write_all(self.render(format)?.as_bytes())?;
        Ok(())
    }

    fn render(&self, format: Option<&str>) -> Result<String> {
        let format = format.unwrap_or("table").trim();
        if format == "table" {
            let mut lines = vec![self.shown.iter().map(|f| self.heading(f)).collect::<Vec<_>>()];
            lines.extend(self.rows.iter().map(|row| self.shown.iter().map(|f| row.cell(f)).collect()));
            return Ok(table::layout(&lines));
        }
        if format == "json" {
            return self.each(&Template::parse("{{json .}}")?);
        }
        let unescaped = |text: &str| text.replace("\\t", "\t").replace("\\n", "\n");
        let headings: Map<String, Value> =
            self.all.iter().map(|(field, heading)| ((*field).to_owned(), (*heading).into())).collect();
        let headings = Value::Object(headings);
        match format.strip_prefix("table ") {
            None => {
                let template = Template::parse(&unescaped(format))?;
                // A field that does not exist is an error also where there are no rows.
                template.render(&headings)?;
                self.each(&template)
            }
            Some(columns) => {
                let template = Template::parse(&unescaped(columns))?;
                let mut lines = vec![template.render(&headings)?];
                for row in &self.rows {
                    lines.push(template.render(&row.value())?);
                }
                let cells: Vec<Vec<String>> =
                    lines.iter().map(|line| line.split('\t').map(str::to_owned).collect()).collect();
                Ok(table::layout(&cells))
            }
        }
    }

    fn heading(&self, field: &str) -> String {
        self.all.iter().find(|(name, _)| *name == field).map_or_else(String::new, |(_, h)| (*h).to_owned())
    }

    fn each(&self, template: &Template) -> Result<String> {
        let mut out = String::new();
        for row in &self.rows {
            out.push_str(&template.render(&row.value())?);
            out.push('\n');
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn list() -> List<'static> {
        let labels = [("k".to_owned(), Value::from("v"))].into_iter().collect();
        let fields = vec![("ID", "1".to_owned()), ("Names", "a".to_owned()), ("Size", "0B".to_owned())];
        List {
            all: &[("ID", "CONTAINER ID"), ("Names", "NAMES"), ("Size", "SIZE")],
            shown: &["ID", "Names"],
            rows: vec![Row { fields, labels }],
        }
    }

    #[test]
    fn all_formats() {
        let check =
            |format, expected: &str| assert_eq!(list().render(format).unwrap(), expected, "{format:?}");
        check(None, "CONTAINER ID   NAMES\n1              a\n");
        check(Some("table"), "CONTAINER ID   NAMES\n1              a\n");
        check(Some("table {{.Names}}\\t{{.Size}}"), "NAMES     SIZE\na         0B\n");
        check(Some("{{.ID}}: {{.Label \"k\"}}{{.Label \"none\"}}"), "1: v\n");
        check(Some("json"), "{\"ID\":\"1\",\"Names\":\"a\",\"Size\":\"0B\"}\n");
        check(Some("{{json .}}"), "{\"ID\":\"1\",\"Names\":\"a\",\"Size\":\"0B\"}\n");
        assert!(list().render(Some("{{.Bogus}}")).is_err());
        check(Some("table {{.ID}}\\t{{.Label \"k\"}}"), "CONTAINER ID   k\n1              v\n");
    }
}
