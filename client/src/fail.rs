// SPDX-License-Identifier: Apache-2.0
//! How a command ends when it does not end well.

use std::fmt;
use std::io;

/// A message for stderr and an exit code.
#[derive(Debug)]
pub(crate) struct Fail {
    pub(crate) message: String,
    pub(crate) code: u8,
    /// The daemon's status, when the daemon said it.
    pub(crate) status: Option<u16>,
}

/// A result with [`Fail`].
pub(crate) type Result<T, E = Fail> = std::result::Result<T, E>;

impl Fail {
    /// Exit code 1.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1, status: None }
    }

    /// Nothing more to say: what there was to say has been said.
    pub(crate) fn silent(code: u8) -> Self {
        Self { message: String::new(), code, status: None }
    }

    /// What the daemon answered.
    pub(crate) fn daemon(status: u16, message: impl Into<String>) -> Self {
        let message = format!("Error response from daemon: {}", message.into());
        Self { message, code: 1, status: Some(status) }
    }

    pub(crate) fn io(doing: impl fmt::Display, error: &io::Error) -> Self {
        Self::new(format!("{doing}: {error}"))
    }

    pub(crate) fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.status == Some(404)
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<io::Error> for Fail {
    /// Of our own output: whoever read it has gone, or its disk is full.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            // As a process that SIGPIPE ended.
            Self::silent(141)
        } else {
            Self::new(format!("writing output: {error}"))
        }
    }
}

/// Does the same to each of several names, goes on after failures, and prints each name that is done.
pub(crate) async fn each<F>(names: &[String], mut act: impl FnMut(String) -> F) -> Result<()>
where
    F: Future<Output = Result<Option<String>>>,
{
    use std::io::Write as _;
    let mut code = 0;
    for name in names {
        match act(name.clone()).await {
            Ok(Some(line)) => writeln!(io::stdout(), "{line}")?,
            Ok(None) => {}
            Err(fail) => {
                code = fail.code;
                eprintln!("{fail}");
            }
        }
    }
    if code == 0 { Ok(()) } else { Err(Fail::silent(code)) }
}
