// SPDX-License-Identifier: Apache-2.0
//! Words of a Dockerfile instruction: quotes, escapes, `name=value`, variables.

use berth_domain::{Error, Result};

/// `name=value`, quotes and variables still in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) name: String,
    pub(super) value: String,
}

/// `a=b c="d e"`, or the old `name the rest is the value`.
pub(super) fn name_values(text: &str) -> Result<Vec<Pair>> {
    let words = split(text);
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    if !first.contains('=') {
        let (name, value) = text
            .split_once(char::is_whitespace)
            .ok_or_else(|| Error::invalid(format!("{text:?} must have two arguments, or be name=value")))?;
        return Ok(vec![Pair { name: name.into(), value: value.trim_start().into() }]);
    }
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) => Ok(Pair { name: name.into(), value: value.into() }),
            None => Err(Error::invalid(format!(
                "Syntax error - can't find = in {word:?}. Must be of the form: name=value"
            ))),
        })
        .collect()
}

/// Splits at white space outside quotes; quotes and backslashes stay in the words.
fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, None) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            ('\\', None | Some('"')) => {
                word.push(c);
                word.extend(chars.next());
                continue;
            }
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(q)) if c == q => quote = None,
            _ => {}
        }
        word.push(c);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Takes quotes and escapes away and puts variables in, as many bytes of them as are left.
pub(super) fn expand(
    word: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    left: &mut usize,
) -> Result<String> {
    Expansion { rest: word, lookup, word, left }.until(None, 0)
}

/// `${a:-${b:-...}}` deeper than this is refused.
const DEPTH_MAX: usize = 32;

struct Expansion<'a> {
    rest: &'a str,
    word: &'a str,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    left: &'a mut usize,
}

impl Expansion<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn bad(&self, why: &str) -> Error {
        Error::invalid(format!("{:?}: {why}", self.word))
    }

    fn until(&mut self, end: Option<char>, depth: usize) -> Result<String> {
        if depth > DEPTH_MAX {
            return Err(self.bad("too many substitutions in one another"));
        }
        let mut out = String::new();
        while let Some(c) = self.next() {
            match c {
                c if end == Some(c) => return Ok(out),
                '\'' => loop {
                    match self.next() {
                        Some('\'') => break,
                        Some(c) => out.push(c),
                        None => {
                            return Err(
                                self.bad("unexpected end of statement while looking for a single quote")
                            );
                        }
                    }
                },
                '"' => self.double_quoted(&mut out, depth)?,
                '\\' => out.push(self.next().unwrap_or('\\')),
                '$' => out.push_str(&self.variable(depth)?),
                c => out.push(c),
            }
        }
        match end {
            Some(end) => Err(self.bad(&format!("unexpected end of statement while looking for {end:?}"))),
            None => Ok(out),
        }
    }

    fn double_quoted(&mut self, out: &mut String, depth: usize) -> Result<()> {
        while let Some(c) = self.next() {
            match c {
                '"' => return Ok(()),
                '\\' => match self.next() {
                    Some(c @ ('"' | '$' | '\\')) => out.push(c),
                    Some(c) => out.extend(['\\', c]),
                    None => out.push('\\'),
                },
                '$' => out.push_str(&self.variable(depth)?),
                c => out.push(c),
            }
        }
        Err(self.bad("unexpected end of statement while looking for a double quote"))
    }

    fn variable(&mut self, depth: usize) -> Result<String> {
        if let Some(rest) = self.rest.strip_prefix('{') {
            self.rest = rest;
            return self.braced(depth);
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        Ok(self.value(&name)?.unwrap_or_default())
    }

    fn value(&mut self, name: &str) -> Result<Option<String>> {
        let value = (self.lookup)(name);
        super::spend(self.left, value.as_ref().map_or(0, String::len))?;
        Ok(value)
    }

    fn name(&mut self) -> String {
        let stops = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
        // A digit alone is a whole name, as in a shell.
        let length = match self.rest.chars().next() {
            Some(c) if c.is_ascii_digit() => 1,
            _ => self.rest.find(stops).unwrap_or(self.rest.len()),
        };
        let (name, rest) = self.rest.split_at(length);
        self.rest = rest;
        name.to_owned()
    }

    fn braced(&mut self, depth: usize) -> Result<String> {
        let name = self.name();
        if name.is_empty() {
            return Err(self.bad("bad substitution"));
        }
        let value = self.value(&name)?;
        let (colon, operator) = match self.next() {
            Some('}') => return Ok(value.unwrap_or_default()),
            Some(':') => (true, self.next()),
            other => (false, other),
        };
        let operator = operator.filter(|c| matches!(c, '-' | '+' | '?'));
        let operator = operator.ok_or_else(|| self.bad("unsupported modifier in substitution"))?;
        let other = self.until(Some('}'), depth + 1)?;
        let there = value.filter(|v| !(colon && v.is_empty()));
        match (operator, there) {
            ('+', Some(_)) | ('-', None) => Ok(other),
            ('+', None) => Ok(String::new()),
            (_, Some(value)) => Ok(value),
            (_, None) => {
                let why = if other.is_empty() { "is not allowed to be unset" } else { other.as_str() };
                Err(Error::invalid(format!("{name}: {why}")))
            }
        }
    }
}
