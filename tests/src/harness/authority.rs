// SPDX-License-Identifier: Apache-2.0
//! A certificate authority of a test's own, by way of openssl.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::cli::Output;

/// An authority; all its files are in one folder.
pub struct Authority {
    dir: PathBuf,
}

/// A certificate and its key.
pub struct Identity {
    /// PEM.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

fn openssl(dir: &Path, args: &[&str]) {
    Output::of(Command::new("openssl").args(args).current_dir(dir)).ok();
}

impl Authority {
    /// A new one in a new folder.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("the authority's folder");
        openssl(
            dir,
            &[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "30",
                "-subj",
                "/CN=tests",
                "-addext",
                "keyUsage=critical,keyCertSign,digitalSignature",
                "-keyout",
                "ca.key",
                "-out",
                "ca.crt",
            ],
        );
        Self { dir: dir.to_owned() }
    }

    /// Its own certificate and key.
    #[must_use]
    pub fn own(&self) -> Identity {
        Identity { certificate: self.dir.join("ca.crt"), key: self.dir.join("ca.key") }
    }

    /// Signs a certificate for servers at this address, or for clients.
    #[must_use]
    pub fn issue(&self, name: &str, address: Option<&str>) -> Identity {
        let (key, request, certificate) =
            (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
        openssl(
            &self.dir,
            &[
                "req",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-subj",
                &format!("/CN={name}"),
                "-keyout",
                &key,
                "-out",
                &request,
            ],
        );
        let usage = match address {
            Some(address) => format!("subjectAltName=IP:{address}\nextendedKeyUsage=serverAuth\n"),
            None => "extendedKeyUsage=clientAuth\n".to_owned(),
        };
        std::fs::write(self.dir.join(format!("{name}.ext")), usage).expect("the certificate's extensions");
        openssl(
            &self.dir,
            &[
                "x509",
                "-req",
                "-in",
                &request,
                "-CA",
                "ca.crt",
                "-CAkey",
                "ca.key",
                "-CAcreateserial",
                "-days",
                "30",
                "-extfile",
                &format!("{name}.ext"),
                "-out",
                &certificate,
            ],
        );
        Identity { certificate: self.dir.join(certificate), key: self.dir.join(key) }
    }
}
