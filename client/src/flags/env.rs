// SPDX-License-Identifier: Apache-2.0
//! `-e`, `--env-file`, `-l`, `--label-file`.

use std::path::Path;

use crate::fail::{Fail, Result};

type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment asked for: files first, then flags. A name alone takes the value from our own
/// environment; a flag's name that has none there asks for its removal, a file's is left out.
pub(crate) fn env(files: &[impl AsRef<Path>], flags: &[String], lookup: Lookup<'_>) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for file in files {
        all.extend(read(file.as_ref(), Some(lookup))?);
    }
    for flag in flags {
        if flag.is_empty() || flag.starts_with('=') {
            return Err(Fail::new(format!("invalid environment variable: {flag}")));
        }
        all.push(match (flag.contains('='), lookup(flag)) {
            (false, Some(value)) => format!("{flag}={value}"),
            _ => flag.clone(),
        });
    }
    Ok(all)
}

/// Labels: files first, then flags.
pub(crate) fn labels(files: &[impl AsRef<Path>], flags: &[String]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for file in files {
        all.extend(read(file.as_ref(), None)?);
    }
    for flag in flags {
        if flag.is_empty() || flag.starts_with('=') {
            return Err(Fail::new(format!("invalid label '{flag}': empty name")));
        }
        all.push(flag.clone());
    }
    Ok(all)
}

fn read(path: &Path, lookup: Option<Lookup<'_>>) -> Result<Vec<String>> {
    let bytes = std::fs::read(path).map_err(|e| Fail::io(format!("open {}", path.display()), &e))?;
    parse(&bytes, lookup)
        .map_err(|(line, why)| Fail::new(format!("invalid file {}: line {line}: {why}", path.display())))
}

fn parse(bytes: &[u8], lookup: Option<Lookup<'_>>) -> Result<Vec<String>, (usize, String)> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut all = Vec::new();
    for (number, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let number = number + 1;
        let line = std::str::from_utf8(line).map_err(|_| (number, "no valid UTF-8".to_owned()))?;
        let line = line.strip_suffix('\r').unwrap_or(line).trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (line, None),
        };
        if name.is_empty() {
            return Err((number, format!("no variable name on line '{line}'")));
        }
        if name.contains(char::is_whitespace) {
            return Err((number, format!("variable '{name}' contains whitespaces")));
        }
        match (value, lookup) {
            (Some(value), _) => all.push(format!("{name}={value}")),
            (None, None) => all.push(name.to_owned()),
            (None, Some(lookup)) => all.extend(lookup(name).map(|value| format!("{name}={value}"))),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        (name == "HOME").then(|| "/root".to_owned())
    }

    #[test]
    fn files() {
        let text = "\u{feff}# comment\nA=1\n  B= x = y \r\nHOME\nNOSUCH\n\nC=\n";
        assert_eq!(parse(text.as_bytes(), Some(&lookup)).unwrap(), ["A=1", "B= x = y ", "HOME=/root", "C="]);
        assert_eq!(parse(b"a.b\nc=d", None).unwrap(), ["a.b", "c=d"]);
        for (bad, why) in [("=x", "no variable name"), ("a b=c", "'a b' contains whitespaces")] {
            let (line, message) = parse(bad.as_bytes(), None).unwrap_err();
            assert_eq!(line, 1);
            assert!(message.contains(why), "{message}");
        }
        assert_eq!(parse(b"ok=1\n\xff=2", None).unwrap_err().0, 2);
    }

    #[test]
    fn flags() {
        let none: [&str; 0] = [];
        let given = ["A=b".to_owned(), "HOME".to_owned(), "GONE".to_owned(), "E=".to_owned()];
        assert_eq!(env(&none, &given, &lookup).unwrap(), ["A=b", "HOME=/root", "GONE", "E="]);
        assert!(env(&none, &["=x".to_owned()], &lookup).is_err());
        assert!(labels(&none, &[String::new()]).is_err());
    }
}
