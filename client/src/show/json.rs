// SPDX-License-Identifier: Apache-2.0
//! JSON laid out with four spaces, keys and numbers left exactly as the daemon sent them.

/// Indents a document that is known to be JSON.
pub(crate) fn indent(document: &str, depth: usize) -> String {
    let mut out = String::with_capacity(document.len() * 2);
    let mut depth = depth;
    let mut chars = document.chars().peekable();
    let mut in_string = false;
    let newline = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("    ", depth));
    };
    while let Some(c) = chars.next() {
        if in_string {
            out.push(c);
            match c {
                '\\' => out.extend(chars.next()),
                '"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match c {
            ' ' | '\t' | '\n' | '\r' => {}
            '"' => {
                in_string = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                while chars.peek().is_some_and(|c| c.is_ascii_whitespace()) {
                    chars.next();
                }
                if chars.peek().is_some_and(|c| matches!(c, '}' | ']')) {
                    out.extend(chars.next());
                } else {
                    depth += 1;
                    newline(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                newline(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                newline(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn documents_keep_their_order_and_numbers() {
        let document = r#"{"b":1.50,"a":[1,{ }, [ ],"x,:{\"}"],"c":null}"#;
        let laid_out = indent(document, 0);
        assert_eq!(
            laid_out,
            "{\n    \"b\": 1.50,\n    \"a\": [\n        1,\n        {},\n        [],\n        \"x,:{\\\"}\"\n    ],\n    \"c\": null\n}"
        );
        let same: serde_json::Value = serde_json::from_str(&laid_out).unwrap();
        assert_eq!(same, serde_json::from_str::<serde_json::Value>(document).unwrap());
        assert_eq!(indent("[]", 1), "[]");
    }
}
