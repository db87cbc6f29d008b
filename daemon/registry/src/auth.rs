// SPDX-License-Identifier: Apache-2.0
//! Credentials as clients give them (`X-Registry-Auth`).

use std::fmt;

/// Credentials for one registry. Empty fields mean "not given"; the default is anonymous.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Auth {
    /// For basic authentication, at the registry or at its token realm.
    pub username: String,
    /// Its secret.
    pub password: String,
    /// An OAuth2 refresh token, exchanged at the realm for bearer tokens.
    pub identity_token: String,
    /// A bearer token to send as it is.
    pub registry_token: String,
}

impl Auth {
    /// No credentials.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// A name and a password.
    #[must_use]
    pub fn basic(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), password: password.into(), ..Self::default() }
    }

    /// Whether nothing was given.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Debug for Auth {
    /// Never shows a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_anonymous() {
            f.write_str("Auth(anonymous)")
        } else {
            write!(f, "Auth({:?}, ..)", self.username)
        }
    }
}
