// SPDX-License-Identifier: Apache-2.0
//! The part of Go's templates that `--format` lives on: fields, pipes, `range`, `if`, and the handful of
//! functions that the docker CLI adds (`json`, `join`, `upper`, ...). What is not understood is an error
//! that says so.

use serde_json::Value;

use crate::fail::{Fail, Result};

/// Nesting of blocks at most.
const MAX_DEPTH: usize = 32;

/// A template that has been read.
#[derive(Debug)]
pub(crate) struct Template(Vec<Node>);

#[derive(Debug)]
enum Node {
    Text(String),
    Show(Pipe),
    Range(Pipe, Vec<Node>, Vec<Node>),
    If(Pipe, Vec<Node>, Vec<Node>),
}

/// Commands, each of which gets the one before's value as its last argument.
type Pipe = Vec<Vec<Word>>;

#[derive(Debug, Clone, PartialEq)]
enum Word {
    /// `.A.B`; `$.A` from the root.
    Field {
        root: bool,
        path: Vec<String>,
    },
    Literal(Value),
    Function(String),
    /// `(pipe).A.B`.
    Nested(Pipe, Vec<String>),
}

fn bad(why: impl std::fmt::Display) -> Fail {
    Fail::new(format!("template parsing error: {why}")).code(64)
}

/// A template that was read, but not with this value.
fn cannot(why: impl std::fmt::Display) -> Fail {
    Fail::new(format!("template parsing error: {why}"))
}

impl Template {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut parser = Parser { rest: text, trim: false };
        let (nodes, end) = parser.block(0)?;
        match end {
            None => Ok(Self(nodes)),
            Some(word) => Err(bad(format!("unexpected {{{{{word}}}}}"))),
        }
    }

    /// The template's text for one value.
    pub(crate) fn render(&self, value: &Value) -> Result<String> {
        let mut out = String::new();
        render(&self.0, value, value, &mut out)?;
        Ok(out)
    }
}

struct Parser<'a> {
    rest: &'a str,
    /// The action before ended in `-}}`.
    trim: bool,
}

impl Parser<'_> {
    /// Nodes up to `end` or `else`, which is given back.
    fn block(&mut self, depth: usize) -> Result<(Vec<Node>, Option<String>)> {
        if depth > MAX_DEPTH {
            return Err(bad("too many blocks in each other"));
        }
        let mut nodes = Vec::new();
        loop {
            let Some(open) = self.rest.find("{{") else {
                let text = if self.trim { self.rest.trim_start() } else { self.rest };
                nodes.push(Node::Text(text.to_owned()));
                self.rest = "";
                return Ok((nodes, None));
            };
            let mut text = &self.rest[..open];
            let mut action = &self.rest[open + 2..];
            if std::mem::take(&mut self.trim) {
                text = text.trim_start();
            }
            if let Some(trimmed) = action.strip_prefix("- ") {
                text = text.trim_end();
                action = trimmed;
            }
            nodes.push(Node::Text(text.to_owned()));
            let close = end_of_action(action).ok_or_else(|| bad("unclosed action"))?;
            self.rest = &action[close + 2..];
            let mut action = &action[..close];
            if let Some(trimmed) = action.strip_suffix(" -") {
                action = trimmed;
                self.trim = true;
            }
            let action = action.trim();
            let (word, argument) = action.split_once(char::is_whitespace).unwrap_or((action, ""));
            match word {
                "end" | "else" => return Ok((nodes, Some(action.to_owned()))),
                "range" | "if" => {
                    let pipe = pipe(argument)?;
                    let (body, mut end) = self.block(depth + 1)?;
                    let mut otherwise = Vec::new();
                    if end.as_deref() == Some("else") {
                        (otherwise, end) = self.block(depth + 1)?;
                    }
                    match end.as_deref() {
                        Some("end") => {}
                        Some(other) => return Err(bad(format!("{{{{{other}}}}} is not supported"))),
                        None => return Err(bad(format!("{{{{{word}}}}} has no {{{{end}}}}"))),
                    }
                    nodes.push(match word {
                        "if" => Node::If(pipe, body, otherwise),
                        _ => Node::Range(pipe, body, otherwise),
                    });
                }
                "with" | "define" | "template" | "block" | "break" | "continue" => {
                    return Err(bad(format!("{{{{{word}}}}} is not supported")));
                }
                _ if action.starts_with("/*") => {}
                _ if action.contains(":=")
                    || word.starts_with('$') && word.len() > 1 && !word.starts_with("$.") =>
                {
                    return Err(bad(format!("variables are not supported: {{{{{action}}}}}")));
                }
                _ => nodes.push(Node::Show(pipe(action)?)),
            }
        }
    }
}

/// Where `}}` is, outside of strings.
fn end_of_action(action: &str) -> Option<usize> {
    let bytes = action.as_bytes();
    let mut quote = None;
    let mut i = 0;
    while i < bytes.len() {
        match (quote, bytes[i]) {
            (Some(b'"'), b'\\') => i += 1,
            (Some(q), b) if q == b => quote = None,
            (None, b @ (b'"' | b'`')) => quote = Some(b),
            (None, b'}') if bytes.get(i + 1) == Some(&b'}') => return Some(i),
            _ => {}
        }
        i += 1;
    }
    None
}

fn pipe(text: &str) -> Result<Pipe> {
    let (pipe, rest) = words(text, 0)?;
    if rest.is_empty() { Ok(pipe) } else { Err(bad(format!("unexpected {rest:?}"))) }
}

fn words(text: &str, depth: usize) -> Result<(Pipe, &str)> {
    if depth > MAX_DEPTH {
        return Err(bad("too many parentheses"));
    }
    let mut pipe = vec![Vec::new()];
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let Some(first) = rest.chars().next() else { break };
        let command: &mut Vec<Word> = match pipe.last_mut() {
            Some(command) => command,
            None => break,
        };
        match first {
            ')' => break,
            '|' => {
                pipe.push(Vec::new());
                rest = &rest[1..];
            }
            '(' => {
                let (nested, after) = words(&rest[1..], depth + 1)?;
                rest = after.strip_prefix(')').ok_or_else(|| bad("unclosed parenthesis"))?;
                let end =
                    rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.')).unwrap_or(rest.len());
                let path = rest[..end].split('.').filter(|p| !p.is_empty()).map(str::to_owned).collect();
                command.push(Word::Nested(nested, path));
                rest = &rest[end..];
            }
            '"' => {
                let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<String>();
                let string =
                    stream.next().and_then(Result::ok).ok_or_else(|| bad(format!("bad string {rest}")))?;
                rest = &rest[stream.byte_offset()..];
                command.push(Word::Literal(Value::String(string)));
            }
            '`' => {
                let (string, after) = rest[1..].split_once('`').ok_or_else(|| bad("unclosed string"))?;
                command.push(Word::Literal(string.into()));
                rest = after;
            }
            _ => {
                let end =
                    rest.find(|c: char| c.is_whitespace() || "|()\"`".contains(c)).unwrap_or(rest.len());
                command.push(word(&rest[..end])?);
                rest = &rest[end..];
            }
        }
    }
    if pipe.iter().any(Vec::is_empty) {
        return Err(bad(format!("missing value for command in {text:?}")));
    }
    Ok((pipe, rest))
}

fn word(text: &str) -> Result<Word> {
    let (root, dotted) = match text.strip_prefix('$') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if root || dotted.starts_with('.') {
        let path: Vec<String> =
            dotted.split('.').skip(1).filter(|p| !p.is_empty()).map(str::to_owned).collect();
        let fine = path.iter().all(|p| p.chars().all(|c| c.is_alphanumeric() || c == '_'));
        return if fine { Ok(Word::Field { root, path }) } else { Err(bad(format!("bad field {text:?}"))) };
    }
    if matches!(text, "true" | "false" | "nil") || text.starts_with(|c: char| c.is_ascii_digit() || c == '-')
    {
        let literal = if text == "nil" { "null" } else { text };
        return serde_json::from_str(literal)
            .map(Word::Literal)
            .map_err(|_| bad(format!("bad number {text:?}")));
    }
    if text.chars().all(char::is_alphanumeric) {
        Ok(Word::Function(text.to_owned()))
    } else {
        Err(bad(format!("unexpected {text:?}")))
    }
}

fn render(nodes: &[Node], dot: &Value, root: &Value, out: &mut String) -> Result<()> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Show(pipe) => out.push_str(&show(&evaluate(pipe, dot, root)?)),
            Node::If(pipe, body, otherwise) => {
                let chosen = if truth(&evaluate(pipe, dot, root)?) { body } else { otherwise };
                render(chosen, dot, root, out)?;
            }
            Node::Range(pipe, body, otherwise) => {
                let items: Vec<Value> = match evaluate(pipe, dot, root)? {
                    Value::Array(items) => items,
                    Value::Object(map) => map.into_iter().map(|(_, value)| value).collect(),
                    Value::Null => Vec::new(),
                    other => return Err(cannot(format!("range can't iterate over {}", show(&other)))),
                };
                if items.is_empty() {
                    render(otherwise, dot, root, out)?;
                }
                for item in &items {
                    render(body, item, root, out)?;
                }
            }
        }
    }
    Ok(())
}

fn evaluate(pipe: &Pipe, dot: &Value, root: &Value) -> Result<Value> {
    let mut last = None;
    for command in pipe {
        last = Some(call(command, last, dot, root)?);
    }
    Ok(last.unwrap_or(Value::Null))
}

fn call(command: &[Word], piped: Option<Value>, dot: &Value, root: &Value) -> Result<Value> {
    let value = |word: &Word| match word {
        Word::Literal(value) => Ok(value.clone()),
        Word::Field { root: from_root, path } => field(if *from_root { root } else { dot }, path),
        Word::Nested(pipe, path) => field(&evaluate(pipe, dot, root)?, path),
        Word::Function(name) => function(name, &[]),
    };
    let Some((first, rest)) = command.split_first() else { return Ok(Value::Null) };
    let mut arguments = rest.iter().map(value).collect::<Result<Vec<_>>>()?;
    arguments.extend(piped);
    match first {
        Word::Function(name) => function(name, &arguments),
        // `.Label "key"`: the one method that lists' rows have.
        Word::Field { path, .. } if path.len() == 1 && path[0] == "Label" && arguments.len() == 1 => {
            let key = show(&arguments[0]);
            match dot.get("\0labels") {
                Some(labels) => Ok(labels.get(&key).cloned().unwrap_or_else(|| "".into())),
                // The row of headings.
                None => Ok(key.rsplit('.').next().unwrap_or_default().replace(['-', '_'], " ").into()),
            }
        }
        word if arguments.is_empty() => value(word),
        _ => Err(cannot("a value that is no function has arguments")),
    }
}

fn field(dot: &Value, path: &[String]) -> Result<Value> {
    let mut value = dot;
    for name in path {
        value = match value {
            Value::Object(map) => map.get(name).ok_or_else(|| {
                cannot(format!("map has no entry for key {name:?} (at <.{}>)", path.join(".")))
            })?,
            Value::Null => {
                return Err(cannot(format!("nil has no field {name:?} (at <.{}>)", path.join("."))));
            }
            _ => return Err(cannot(format!("can't evaluate field {name} (at <.{}>)", path.join(".")))),
        };
    }
    Ok(value.clone())
}

fn function(name: &str, arguments: &[Value]) -> Result<Value> {
    let text = |f: &dyn Fn(&str) -> String| match arguments {
        [Value::String(s)] => Ok(Value::String(f(s))),
        _ => Err(cannot(format!("{name} takes one string"))),
    };
    match (name, arguments) {
        ("json", [value]) => {
            let shown = without_hidden(value);
            Ok(serde_json::to_string(&shown).map_err(cannot)?.into())
        }
        ("upper", _) => text(&str::to_uppercase),
        ("lower", _) => text(&str::to_lowercase),
        ("title", _) => text(&|s| {
            let mut chars = s.chars();
            chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
        }),
        ("join", [Value::Array(items), Value::String(by)]) => {
            Ok(items.iter().map(show).collect::<Vec<_>>().join(by).into())
        }
        ("join", [Value::Null, _]) => Ok("".into()),
        ("split", [Value::String(s), Value::String(by)]) => {
            Ok(s.split(by.as_str()).map(Value::from).collect())
        }
        ("len", [value]) => match value {
            Value::String(s) => Ok(s.len().into()),
            Value::Array(a) => Ok(a.len().into()),
            Value::Object(m) => Ok(m.len().into()),
            Value::Null => Ok(0.into()),
            _ => Err(cannot("len of a value that has no length")),
        },
        ("index", [value, keys @ ..]) => {
            let mut found = value;
            for key in keys {
                found = match (found, key) {
                    (Value::Object(map), Value::String(key)) => match map.get(key) {
                        Some(value) => value,
                        None => return Ok("".into()),
                    },
                    (Value::Array(items), Value::Number(n)) => n
                        .as_u64()
                        .and_then(|n| items.get(usize::try_from(n).ok()?))
                        .ok_or_else(|| cannot(format!("index out of range: {n}")))?,
                    (Value::Null, _) => return Err(cannot("index of untyped nil")),
                    _ => return Err(cannot("can't index that")),
                };
            }
            Ok(found.clone())
        }
        ("not", [value]) => Ok((!truth(value)).into()),
        ("and", [first, rest @ ..]) => {
            Ok(rest.iter().fold(first, |a, b| if truth(a) { b } else { a }).clone())
        }
        ("or", [first, rest @ ..]) => {
            Ok(rest.iter().fold(first, |a, b| if truth(a) { a } else { b }).clone())
        }
        ("eq", [first, rest @ ..]) if !rest.is_empty() => Ok(rest.contains(first).into()),
        ("ne", [a, b]) => Ok((a != b).into()),
        ("print", values) => Ok(values.iter().map(show).collect::<String>().into()),
        ("println", values) => {
            Ok(format!("{}\n", values.iter().map(show).collect::<Vec<_>>().join(" ")).into())
        }
        ("truncate", [Value::String(s), Value::Number(n)]) => {
            let n = usize::try_from(n.as_u64().unwrap_or(0)).unwrap_or(usize::MAX);
            Ok(s.chars().take(n).collect::<String>().into())
        }
        ("json" | "join" | "split" | "index" | "not" | "and" | "or" | "eq" | "ne" | "truncate", _) => {
            Err(cannot(format!("wrong arguments for {name}")))
        }
        _ => Err(cannot(format!("function {name:?} not defined"))),
    }
}

/// Rows of lists carry what only `.Label` reads.
fn without_hidden(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            map.iter().filter(|(k, _)| !k.starts_with('\0')).map(|(k, v)| (k.clone(), v.clone())).collect()
        }
        other => other.clone(),
    }
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(m) => !m.is_empty(),
    }
}

/// As Go prints values (`%v`).
fn show(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(s) => s.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            // Go prints maps by their keys' order.
            let mut entries: Vec<_> = map.iter().filter(|(k, _)| !k.starts_with('\0')).collect();
            entries.sort_unstable_by_key(|(k, _)| *k);
            let pairs: Vec<_> = entries.into_iter().map(|(k, v)| format!("{k}:{}", show(v))).collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn data() -> Value {
        json!({
            "ID": "abc",
            "State": {"Running": true, "Pid": 42},
            "Args": ["-c", "echo hi"],
            "Nets": {"bridge": {"IP": "172.17.0.2"}, "other": {"IP": "10.0.0.2"}},
            "Labels": {"com.x/y": "z"},
            "Nothing": null,
            "Empty": []
        })
    }

    fn check(template: &str, expected: &str) {
        assert_eq!(Template::parse(template).unwrap().render(&data()).unwrap(), expected, "{template}");
    }

    #[test]
    fn what_formats_are_made_of() {
        check("plain", "plain");
        check("{{.ID}}", "abc");
        check("{{ .State.Pid }}/{{.State.Running}}", "42/true");
        check("{{json .State}}", r#"{"Running":true,"Pid":42}"#);
        check("{{.State | json}}", r#"{"Running":true,"Pid":42}"#);
        check("{{.Args}} {{.State}}", "[-c echo hi] map[Pid:42 Running:true]");
        check("{{join .Args \"|\"}}", "-c|echo hi");
        check("{{index .Args 1}}", "echo hi");
        check("{{index .Labels \"com.x/y\"}}", "z");
        check("{{(index .Nets \"bridge\").IP}}", "172.17.0.2");
        check("{{range .Nets}}{{.IP}} {{end}}", "172.17.0.2 10.0.0.2 ");
        check("{{range .Empty}}x{{else}}none{{end}}", "none");
        check("{{if .State.Running}}up{{else}}down{{end}}", "up");
        check("{{if eq .ID \"abc\" }}yes{{end}}", "yes");
        check("{{upper .ID}} {{len .Args}}", "ABC 2");
        check("{{range .Args}}{{$.ID}}{{end}}", "abcabc");
        check("a {{- .ID -}} b", "aabcb");
        check("{{.Nothing}}", "<nil>");
        check("{{\"}}\"}}", "}}");
        check("{{/* comment */}}x", "x");
        check("{{println .ID}}", "abc\n");
    }

    #[test]
    fn what_is_not_understood_says_so() {
        for (template, why) in [
            ("{{.Nope}}", "no entry for key \"Nope\""),
            ("{{.ID.x}}", "can't evaluate field x"),
            ("{{bogus .ID}}", "function \"bogus\" not defined"),
            ("{{", "unclosed action"),
            ("{{range .Args}}", "no {{end}}"),
            ("{{end}}", "unexpected {{end}}"),
            ("{{with .ID}}x{{end}}", "not supported"),
            ("{{$x := .ID}}", "variables are not supported"),
            ("{{}}", "missing value"),
            ("{{.ID |}}", "missing value"),
            ("{{range .ID}}{{end}}", "can't iterate"),
        ] {
            let error = Template::parse(template).and_then(|t| t.render(&data())).unwrap_err();
            assert!(error.message.contains(why), "{template}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[{}().|$ \"`a-zA-Z\\-]{0,40}") {
            if let Ok(template) = Template::parse(&text) {
                let _shown = template.render(&data());
            }
        }
    }
}
