// SPDX-License-Identifier: Apache-2.0
//! TLS configurations: the system's roots, a host's own certificates from `certs.d`, or (for insecure
//! registries) any certificate at all.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::failure::Failure;
use crate::url::Host;

/// Authorities and identities for one host: the files of its `certs.d` directory, or those that its `hosts.toml` names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct HostCerts {
    authorities: Vec<PathBuf>,
    /// Certificate and key; the key may be in the certificate's file.
    identities: Vec<(PathBuf, PathBuf)>,
    /// So that changed files make a new configuration.
    changed_at: Vec<Option<SystemTime>>,
}

impl HostCerts {
    /// From the first of `dirs` that has a directory for this host: `*.crt`, `*.cert` and `*.key` (Docker's rule).
    pub(crate) fn find(dirs: &[PathBuf], host: &Host) -> Result<Option<Self>, Failure> {
        let directory = dirs.iter().map(|dir| dir.join(host.to_string())).find(|d| d.is_dir());
        let Some(directory) = directory else { return Ok(None) };
        let entries = std::fs::read_dir(&directory).map_err(|e| unreadable(&directory, &e))?;
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|e| e.path())).collect();
        paths.sort();
        let with_extension = |wanted: &'static str| {
            paths.iter().filter(move |p| p.extension().is_some_and(|extension| extension == wanted))
        };
        let identities: Vec<_> =
            with_extension("cert").map(|cert| (cert.clone(), cert.with_extension("key"))).collect();
        if let (true, Some(key)) = (identities.is_empty(), with_extension("key").next()) {
            return Err(Failure::broken(format!("{} has no certificate (.cert) beside it", key.display())));
        }
        Ok(Some(Self::of(with_extension("crt").cloned().collect(), identities)))
    }

    /// Of these files.
    pub(crate) fn of(authorities: Vec<PathBuf>, identities: Vec<(PathBuf, PathBuf)>) -> Self {
        let files = authorities.iter().chain(identities.iter().flat_map(|(cert, key)| [cert, key]));
        let changed_at = files.map(|p| std::fs::metadata(p).and_then(|m| m.modified()).ok()).collect();
        Self { authorities, identities, changed_at }
    }

    fn load(&self) -> Result<(Vec<CertificateDer<'static>>, Option<ClientIdentity>), Failure> {
        let mut authorities = Vec::new();
        for path in &self.authorities {
            authorities.extend(certificates(path)?);
        }
        let Some((cert, key)) = self.identities.first() else { return Ok((authorities, None)) };
        let key = PrivateKeyDer::from_pem_file(key).map_err(|e| unreadable(key, &e))?;
        Ok((authorities, Some((certificates(cert)?, key))))
    }
}

/// How far a server is trusted, and what it alone is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Trust {
    /// Any certificate will do.
    pub(crate) insecure: bool,
    /// What `hosts.toml` names; `None` for what `certs.d` has for the host.
    pub(crate) certs: Option<HostCerts>,
    /// Headers that `hosts.toml` adds.
    pub(crate) headers: HeaderMap,
}

impl Trust {
    /// Nothing special is known of it.
    pub(crate) fn plain(insecure: bool) -> Self {
        Self { insecure, ..Self::default() }
    }

    /// The same for what the administrator's headers are not meant for.
    pub(crate) fn without_headers(&self) -> Self {
        Self { headers: HeaderMap::new(), ..self.clone() }
    }

    /// The same, insecure if it is so on any account.
    pub(crate) fn or_insecure(&self, insecure: bool) -> Self {
        Self { insecure: self.insecure || insecure, ..self.clone() }
    }
}

type ClientIdentity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::broken(format!("reading {}: {error}", path.display()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e: rustls::pki_types::pem::Error| unreadable(path, &e))
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a system root certificate cannot be read");
    }
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::info!("no system root certificates: Mozilla's, as of the build, are used");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// A configuration. `insecure` accepts any certificate; `certs` adds authorities and an identity.
pub(crate) fn config(insecure: bool, certs: Option<&HostCerts>) -> Result<ClientConfig, Failure> {
    let (authorities, identity) = certs.map(HostCerts::load).transpose()?.unwrap_or_default();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| Failure::broken(format!("TLS: {e}")))?;
    let builder = if insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        let mut roots = system_roots();
        for authority in authorities {
            roots.add(authority).map_err(|e| {
                let files: Vec<_> = certs
                    .iter()
                    .flat_map(|c| &c.authorities)
                    .map(|path| path.display().to_string())
                    .collect();
                Failure::broken(format!("a certificate authority in {} is not usable: {e}", files.join(", ")))
            })?;
        }
        builder.with_root_certificates(roots)
    };
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|e| Failure::broken(format!("the client certificate is not usable: {e}"))),
    }
}

/// For registries that the administrator (or loopback) declares insecure.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
