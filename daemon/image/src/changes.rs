// SPDX-License-Identifier: Apache-2.0
//! `changes` of an import or a commit: Dockerfile instructions that set fields of an image's config.
//!
//! The syntax is that of the Dockerfile reference (docs.docker.com/reference/dockerfile): exec and shell forms, quoting,
//! variables of the config's own environment, lines that go on after a backslash. Docker takes the same instructions, but
//! for `SHELL`, which is harmless and taken here.

mod words;

use std::time::Duration;

use berth_domain::port::Ports;
use berth_domain::{Error, Result, Signal};
use serde_json::{Map, Value, json};

use words::{Pair, expand, name_values};

/// Longer input is refused.
const CHANGES_MAX: usize = 1 << 20;
/// What variables and port ranges come to, and the config that results.
const CONFIG_MAX: usize = 1 << 20;
/// A shorter interval or time-out of a health check is refused, as Docker does.
const SHORTEST: Duration = Duration::from_millis(1);

/// Applies instructions, in order, to an image's container configuration (the object under `config` of an image
/// config, with Docker's field names). Each item may hold several lines.
///
/// # Errors
///
/// Invalid, with the line: an instruction that is unknown or not allowed here, or arguments that make no sense. The config
/// is as it was then.
pub fn apply<S: AsRef<str>>(config: &mut Value, changes: &[S]) -> Result<()> {
    if changes.iter().map(|c| c.as_ref().len()).sum::<usize>() > CHANGES_MAX {
        return Err(Error::invalid(format!("changes: {CHANGES_MAX} bytes at most")));
    }
    let mut object = match config {
        Value::Object(object) => object.clone(),
        Value::Null => Map::new(),
        _ => return Err(Error::invalid("invalid image config: not an object")),
    };
    let mut target = Target { config: &mut object, command_set: false, left: CONFIG_MAX };
    for change in changes {
        for line in logical_lines(change.as_ref()) {
            target.line(&line).map_err(|e| e.context(format!("change '{line}'")))?;
        }
    }
    let changed = Value::Object(object);
    if !changes.is_empty() && changed.to_string().len() > CONFIG_MAX {
        return Err(Error::invalid(format!("changes: they make a config of more than {CONFIG_MAX} bytes")));
    }
    *config = changed;
    Ok(())
}

/// Lines without comments, those that end in a backslash joined with the next.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines() {
        if line.trim_start().starts_with('#') || (open.is_some() && line.trim().is_empty()) {
            continue;
        }
        let trimmed = line.trim_end();
        let (part, goes_on) = match trimmed.strip_suffix('\\') {
            Some(part) => (part, true),
            None => (line, false),
        };
        let mut whole = open.take().unwrap_or_default();
        whole.push_str(part);
        if goes_on {
            open = Some(whole);
        } else {
            lines.push(whole);
        }
    }
    lines.extend(open);
    lines.into_iter().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect()
}

struct Target<'a> {
    config: &'a mut Map<String, Value>,
    /// `CMD` came before `ENTRYPOINT`: it stays.
    command_set: bool,
    /// Of [`CONFIG_MAX`]: every line may double what the lines before it made.
    left: usize,
}

/// Takes what a line makes out of a few letters.
fn spend(left: &mut usize, made: usize) -> Result<()> {
    *left = left.checked_sub(made).ok_or_else(|| {
        Error::invalid(format!(
            "its variables or ports come to too much: {CONFIG_MAX} bytes at most in all changes"
        ))
    })?;
    Ok(())
}

fn needs(name: &str, what: &str) -> Error {
    Error::invalid(format!("{name} requires {what}"))
}

fn some<'a>(name: &str, rest: &'a str, what: &str) -> Result<&'a str> {
    if rest.is_empty() { Err(needs(name, what)) } else { Ok(rest) }
}

impl Target<'_> {
    fn line(&mut self, line: &str) -> Result<()> {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let (name, rest) = (word.to_ascii_uppercase(), rest.trim());
        match name.as_str() {
            "CMD" => {
                let command = self.command(rest);
                self.config.insert("Cmd".into(), command);
                self.command_set = true;
            }
            "ENTRYPOINT" => {
                let command = match rest {
                    "" => Value::Null,
                    _ => self.command(rest),
                };
                let command =
                    if command.as_array().is_some_and(Vec::is_empty) { Value::Null } else { command };
                self.config.insert("Entrypoint".into(), command);
                if !self.command_set {
                    self.config.remove("Cmd");
                }
            }
            "ENV" => self.env(some("ENV", rest, "at least one argument")?)?,
            "EXPOSE" => self.expose(some("EXPOSE", rest, "at least one argument")?)?,
            "LABEL" => {
                for Pair { name, value } in name_values(some("LABEL", rest, "at least one argument")?)? {
                    let (name, value) = (self.expanded(&name)?, self.expanded(&value)?);
                    if name.is_empty() {
                        return Err(Error::invalid("LABEL names can not be blank"));
                    }
                    self.object("Labels").insert(name, value.into());
                }
            }
            "ONBUILD" => self.onbuild(some("ONBUILD", rest, "at least one argument")?)?,
            "USER" => self.text("User", some("USER", rest, "exactly one argument")?)?,
            "VOLUME" => self.volume(some("VOLUME", rest, "at least one argument")?)?,
            "WORKDIR" => self.workdir(some("WORKDIR", rest, "exactly one argument")?)?,
            "HEALTHCHECK" => {
                let check = healthcheck(some("HEALTHCHECK", rest, "at least one argument")?)?;
                self.config.insert("Healthcheck".into(), check);
            }
            "STOPSIGNAL" => {
                let signal = self.expanded(some("STOPSIGNAL", rest, "exactly one argument")?)?;
                signal.parse::<Signal>()?;
                self.config.insert("StopSignal".into(), signal.into());
            }
            "SHELL" => match exec_form(some("SHELL", rest, "at least one argument")?) {
                Some(shell) if !shell.is_empty() => {
                    self.config.insert("Shell".into(), json!(shell));
                }
                _ => return Err(needs("SHELL", "the arguments to be in JSON form")),
            },
            "FROM" | "RUN" | "COPY" | "ADD" | "ARG" | "MAINTAINER" => {
                return Err(Error::invalid(format!("{name} is not a valid change command")));
            }
            _ => return Err(Error::invalid(format!("unknown instruction: {name}"))),
        }
        Ok(())
    }

    /// The environment as it is by now, for variables.
    fn expanded(&mut self, word: &str) -> Result<String> {
        let env = self.config.get("Env").and_then(Value::as_array);
        let lookup = |name: &str| {
            let mut lines = env.into_iter().flatten().filter_map(Value::as_str);
            lines.find_map(|line| line.split_once('=').filter(|(n, _)| *n == name).map(|(_, v)| v.to_owned()))
        };
        expand(word, &lookup, &mut self.left)
    }

    fn text(&mut self, field: &str, word: &str) -> Result<()> {
        let value = self.expanded(word)?;
        self.config.insert(field.into(), value.into());
        Ok(())
    }

    fn object(&mut self, field: &str) -> &mut Map<String, Value> {
        let slot = self.config.entry(field).or_insert(Value::Null);
        if !slot.is_object() {
            *slot = Value::Object(Map::new());
        }
        match slot {
            Value::Object(object) => object,
            _ => unreachable!("it was just made an object"),
        }
    }

    fn list(&mut self, field: &str) -> &mut Vec<Value> {
        let slot = self.config.entry(field).or_insert(Value::Null);
        if !slot.is_array() {
            *slot = Value::Array(Vec::new());
        }
        match slot {
            Value::Array(items) => items,
            _ => unreachable!("it was just made an array"),
        }
    }

    /// Exec form as it is, shell form behind the config's shell.
    fn command(&self, rest: &str) -> Value {
        if let Some(words) = exec_form(rest) {
            return json!(words);
        }
        let shell = self.config.get("Shell").and_then(Value::as_array).filter(|s| !s.is_empty());
        let mut words = shell.cloned().unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
        words.push(rest.into());
        Value::Array(words)
    }

    fn env(&mut self, rest: &str) -> Result<()> {
        // All of one instruction see the environment of before it.
        let mut pairs = Vec::new();
        for Pair { name, value } in name_values(rest)? {
            pairs.push((self.expanded(&name)?, self.expanded(&value)?));
        }
        let lines = self.list("Env");
        for (name, value) in pairs {
            if name.is_empty() {
                return Err(Error::invalid("ENV names can not be blank"));
            }
            let line = Value::from(format!("{name}={value}"));
            let named =
                |v: &Value| v.as_str().and_then(|l| l.split_once('=')).is_some_and(|(n, _)| n == name);
            match lines.iter_mut().find(|v| named(v)) {
                Some(old) => *old = line,
                None => lines.push(line),
            }
        }
        Ok(())
    }

    fn expose(&mut self, rest: &str) -> Result<()> {
        let words = self.expanded(rest)?;
        for word in words.split_whitespace() {
            // Where it would be published is no matter of an image.
            let port = word.rsplit_once(':').map_or(word, |(_, port)| port);
            let ports: Ports = port.parse()?;
            for port in ports.iter() {
                spend(&mut self.left, 1)?;
                self.object("ExposedPorts").insert(format!("{port}/{}", ports.protocol), json!({}));
            }
        }
        Ok(())
    }

    fn onbuild(&mut self, rest: &str) -> Result<()> {
        let trigger = rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
        match trigger.as_str() {
            "ONBUILD" => Err(Error::invalid("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")),
            "MAINTAINER" | "FROM" => {
                Err(Error::invalid(format!("{trigger} isn't allowed as an ONBUILD trigger")))
            }
            _ => {
                self.list("OnBuild").push(rest.into());
                Ok(())
            }
        }
    }

    fn volume(&mut self, rest: &str) -> Result<()> {
        let paths = exec_form(rest).unwrap_or_else(|| rest.split_whitespace().map(str::to_owned).collect());
        for path in paths {
            let path = self.expanded(&path)?;
            if path.trim().is_empty() {
                return Err(Error::invalid("VOLUME specified can not be an empty string"));
            }
            self.object("Volumes").insert(path, json!({}));
        }
        Ok(())
    }

    fn workdir(&mut self, rest: &str) -> Result<()> {
        let given = self.expanded(rest)?;
        let before = self.config.get("WorkingDir").and_then(Value::as_str).unwrap_or_default();
        let whole = if given.starts_with('/') { given } else { format!("{before}/{given}") };
        let mut parts: Vec<&str> = Vec::new();
        for part in whole.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop();
                }
                part => parts.push(part),
            }
        }
        self.config.insert("WorkingDir".into(), format!("/{}", parts.join("/")).into());
        Ok(())
    }
}

/// `["a", "b"]`; anything else is no exec form.
fn exec_form(rest: &str) -> Option<Vec<String>> {
    if rest.starts_with('[') { serde_json::from_str(rest).ok() } else { None }
}

fn healthcheck(rest: &str) -> Result<Value> {
    let mut check = Map::new();
    let mut rest = rest;
    while rest.starts_with("--") {
        let (flag, tail) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let (name, value) = flag
            .split_once('=')
            .ok_or_else(|| Error::invalid(format!("HEALTHCHECK {flag}: --name=value expected")))?;
        let field = match name {
            "--interval" => "Interval",
            "--timeout" => "Timeout",
            "--start-period" => "StartPeriod",
            "--start-interval" => "StartInterval",
            "--retries" => "Retries",
            _ => return Err(Error::invalid(format!("HEALTHCHECK: unknown flag: {name}"))),
        };
        let number = if field == "Retries" { retries(value)? } else { nanoseconds(name, value)? };
        if number > 0 {
            check.insert(field.into(), number.into());
        }
        rest = tail.trim_start();
    }
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let (kind, command) = (kind.to_ascii_uppercase(), command.trim());
    let test = match kind.as_str() {
        "NONE" if !command.is_empty() => return Err(Error::invalid("HEALTHCHECK NONE takes no arguments")),
        "NONE" => vec!["NONE".to_owned()],
        "CMD" => match exec_form(command) {
            _ if command.is_empty() => return Err(Error::invalid("Missing command after HEALTHCHECK CMD")),
            Some(words) if words.is_empty() => {
                return Err(Error::invalid("Missing command after HEALTHCHECK CMD"));
            }
            Some(words) => std::iter::once("CMD".to_owned()).chain(words).collect(),
            None => vec!["CMD-SHELL".to_owned(), command.to_owned()],
        },
        "" => return Err(Error::invalid("Missing command after HEALTHCHECK")),
        _ => return Err(Error::invalid(format!("Unknown type {kind:?} in HEALTHCHECK (try CMD)"))),
    };
    check.insert("Test".into(), json!(test));
    Ok(Value::Object(check))
}

fn retries(value: &str) -> Result<i64> {
    let number: i32 = value
        .parse()
        .map_err(|_| Error::invalid(format!("HEALTHCHECK --retries={value}: a number expected")))?;
    if number < 0 {
        return Err(Error::invalid(format!("--retries cannot be negative ({number})")));
    }
    Ok(number.into())
}

fn nanoseconds(name: &str, value: &str) -> Result<i64> {
    let bad =
        || Error::invalid(format!("HEALTHCHECK {name}={value}: a duration such as 30s or 1m30s expected"));
    let duration = berth_domain::duration::parse(value).ok_or_else(bad)?;
    if !duration.is_zero() && duration < SHORTEST {
        return Err(Error::invalid(format!("HEALTHCHECK {name}={value} cannot be less than 1ms")));
    }
    i64::try_from(duration.as_nanos()).map_err(|_| bad())
}

#[cfg(test)]
mod tests;
