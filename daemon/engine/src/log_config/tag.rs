// SPDX-License-Identifier: Apache-2.0
//! The `tag` option: a template of what is known of a container.

use berth_domain::{Error, Result};

use crate::Snapshot;

/// What the reference calls itself in tags.
const DAEMON: &str = "docker";
/// Hexadecimal digits of a short id.
const SHORT: usize = 12;

/// A checked template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tag(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(Field),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Id,
    FullId,
    Name,
    SlashName,
    ImageId,
    ImageFullId,
    ImageName,
    Command,
    Hostname,
    Daemon,
}

/// The fields of the reference's templates that make sense in a tag.
const FIELDS: [(&str, Field); 14] = [
    (".ID", Field::Id),
    (".FullID", Field::FullId),
    (".ContainerID", Field::FullId),
    (".Name", Field::Name),
    (".ContainerName", Field::SlashName),
    (".ImageID", Field::ImageId),
    (".ImageFullID", Field::ImageFullId),
    (".ContainerImageID", Field::ImageFullId),
    (".ImageName", Field::ImageName),
    (".ContainerImageName", Field::ImageName),
    (".Command", Field::Command),
    (".Hostname", Field::Hostname),
    (".DaemonName", Field::Daemon),
    (".Daemon", Field::Daemon),
];

impl Tag {
    /// Takes a template apart.
    ///
    /// # Errors
    ///
    /// A brace is not closed, or what is between them is none of the fields.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (inside, next) = after.split_once("}}").ok_or_else(|| {
                Error::invalid(format!("invalid log opt tag={text:?}: a '{{{{' is not closed"))
            })?;
            let name = inside.trim_start_matches("- ").trim_end_matches(" -").trim();
            let field = FIELDS.iter().find(|(known, _)| *known == name).map(|(_, field)| *field);
            let field = field.ok_or_else(|| {
                let known: Vec<&str> = FIELDS.iter().map(|(name, _)| *name).collect();
                Error::invalid(format!(
                    "invalid log opt tag={text:?}: {{{{{inside}}}}} is not one of {}",
                    known.join(", ")
                ))
            })?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(Piece::Field(field));
            rest = next;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self(pieces))
    }

    /// What remote drivers say when nothing else was asked.
    pub(crate) fn short_id() -> Self {
        Self(vec![Piece::Field(Field::Id)])
    }

    /// The tag of a container.
    pub(crate) fn render(&self, now: &Snapshot) -> String {
        let mut tag = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => tag.push_str(text),
                Piece::Field(field) => tag.push_str(&field.of(now)),
            }
        }
        tag
    }
}

impl Field {
    fn of(self, now: &Snapshot) -> String {
        let short = |hex: &str| hex.chars().take(SHORT).collect::<String>();
        let image = now.image.to_string();
        match self {
            Self::Id => short(now.id.as_str()),
            Self::FullId => now.id.to_string(),
            Self::Name => now.name.clone(),
            Self::SlashName => format!("/{}", now.name),
            Self::ImageId => short(image.strip_prefix("sha256:").unwrap_or(&image)),
            Self::ImageFullId => image,
            Self::ImageName => now.image_name.clone(),
            Self::Command => {
                let words = std::iter::once(&now.path).chain(&now.args);
                words.map(String::as_str).collect::<Vec<_>>().join(" ")
            }
            Self::Hostname => super::hostname(),
            Self::Daemon => DAEMON.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn templates() {
        let text = |text: &str| Piece::Text(text.into());
        let parse = |template: &str| Tag::parse(template).map(|tag| tag.0);
        assert_eq!(
            parse("a/{{.Name}}-{{ .ID }}b").unwrap(),
            [text("a/"), Piece::Field(Field::Name), text("-"), Piece::Field(Field::Id), text("b")]
        );
        assert_eq!(parse("plain").unwrap(), [text("plain")]);
        for bad in ["{{.Nope}}", "{{.Name", "{{}}", "{{printf \"x\"}}"] {
            assert!(parse(bad).unwrap_err().to_string().contains("tag"), "{bad}");
        }
    }
}
