// SPDX-License-Identifier: Apache-2.0
//! Registries that a test may write to, beside the bed's own.

use std::fs::File;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::Bed;
use super::wait::until;
use crate::fixtures;

/// A writable registry on the bed's loopback; ended when dropped, which has to be before the bed's end.
pub struct Registry {
    child: Child,
    /// `127.0.0.1:<port>`.
    pub host: String,
}

/// What a registry is to be like.
#[derive(Clone, Debug, Default)]
pub struct Wanted<'a> {
    /// Its address in the bed's namespace; 127.0.0.1 if empty.
    pub address: &'a str,
    /// htpasswd lines of who may enter.
    pub users: Option<&'a str>,
    /// Realm, service and the certificate of who signs tokens: whoever has one may enter.
    pub tokens: Option<(&'a str, &'a str, &'a Path)>,
    /// Certificate and key to speak TLS with.
    pub tls: Option<(&'a Path, &'a Path)>,
    /// The authority whose certificates clients have to show.
    pub clients: Option<&'a Path>,
}

impl Registry {
    /// Starts one on a folder of blobs; `htpasswd` lists who may enter, anybody may without it.
    #[must_use]
    pub fn start(bed: &Bed, port: u16, store: &Path, htpasswd: Option<&str>) -> Self {
        Self::with(bed, port, store, &Wanted { users: htpasswd, ..Wanted::default() })
    }

    /// Starts one as wanted, on a folder of blobs.
    #[must_use]
    pub fn with(bed: &Bed, port: u16, store: &Path, wanted: &Wanted<'_>) -> Self {
        let address = if wanted.address.is_empty() { "127.0.0.1" } else { wanted.address };
        let host = format!("{address}:{port}");
        let mut text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n",
            store.display()
        );
        if let Some((certificate, key)) = wanted.tls {
            text.push_str(&format!(
                "  tls:\n    certificate: {}\n    key: {}\n",
                certificate.display(),
                key.display()
            ));
            if let Some(authority) = wanted.clients {
                text.push_str(&format!("    clientcas: [{}]\n", authority.display()));
            }
        }
        if let Some(users) = wanted.users {
            let path = bed.path().join(format!("htpasswd-{port}"));
            std::fs::write(&path, users).expect("writing the registry's users");
            text.push_str(&format!("auth:\n  htpasswd:\n    realm: tests\n    path: {}\n", path.display()));
        }
        if let Some((realm, service, certificate)) = wanted.tokens {
            text.push_str(&format!(
                "auth:\n  token:\n    realm: {realm}\n    service: {service}\n    issuer: tests\n    rootcertbundle: {}\n",
                certificate.display()
            ));
        }
        let config = bed.path().join(format!("registry-{port}.yml"));
        std::fs::write(&config, text).expect("writing the registry's configuration");
        let log = File::create(bed.path().join(format!("registry-{port}.log")))
            .expect("creating the registry's log");
        let mut command = Command::new(fixtures::ensure().join("bin/docker-registry"));
        command.arg("serve").arg(&config).stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null());
        command.env_remove("OTEL_TRACES_EXPORTER");
        bed.netns.place(&mut command);
        let child = command.spawn().expect("starting docker-registry");
        bed.netns.run(|| {
            until("the registry listens", || TcpStream::connect(&host).ok());
        });
        Self { child, host }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
