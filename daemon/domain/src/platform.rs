// SPDX-License-Identifier: Apache-2.0
//! Operating system and CPU an image is for (image spec, image-index.md `platform`).

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// `os/architecture[/variant]` in Go's names (`linux/arm64/v8`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, ...
    pub architecture: String,
    /// `v8`, ...; empty when there is none.
    pub variant: String,
}

impl Platform {
    /// The host's.
    #[must_use]
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "x86" => ("386", ""),
            "powerpc64" => ("ppc64le", ""),
            other => (other, ""),
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.into() }
    }

    /// Whether an image for `offered` runs where `self` is asked for. An unstated variant of arm64 is v8.
    #[must_use]
    pub fn accepts(&self, offered: &Self) -> bool {
        let variant = |p: &Self| match (p.architecture.as_str(), p.variant.as_str()) {
            ("arm64", "" | "v8") | ("amd64", "" | "v1") => String::new(),
            ("arm", "") => "v7".to_owned(),
            (_, v) => v.to_owned(),
        };
        self.os == offered.os
            && self.architecture == offered.architecture
            && variant(self) == variant(offered)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

impl FromStr for Platform {
    type Err = Error;
    /// `os/arch[/variant]` or an architecture alone; the usual spellings of architectures are understood.
    fn from_str(s: &str) -> Result<Self, Error> {
        let bad = || Error::invalid(format!("invalid platform {s:?}: os/architecture[/variant] expected"));
        let parts: Vec<&str> = s.split('/').collect();
        if parts
            .iter()
            .any(|p| p.is_empty() || !p.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)))
        {
            return Err(bad());
        }
        let (os, arch, variant) = match parts.as_slice() {
            ["linux"] => ("linux".to_owned(), Self::host().architecture, String::new()),
            [arch] => ("linux".to_owned(), arch.to_ascii_lowercase(), String::new()),
            [os, arch] => (os.to_ascii_lowercase(), arch.to_ascii_lowercase(), String::new()),
            [os, arch, variant] => {
                (os.to_ascii_lowercase(), arch.to_ascii_lowercase(), variant.to_ascii_lowercase())
            }
            _ => return Err(bad()),
        };
        let (architecture, implied) = match arch.as_str() {
            "x86_64" | "x86-64" => ("amd64", ""),
            "aarch64" => ("arm64", ""),
            "armhf" => ("arm", "v7"),
            "armel" => ("arm", "v6"),
            "i386" | "i686" => ("386", ""),
            other => (other, ""),
        };
        let variant = if variant.is_empty() { implied.to_owned() } else { variant };
        Ok(Self { os, architecture: architecture.to_owned(), variant })
    }
}
