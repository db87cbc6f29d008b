// SPDX-License-Identifier: Apache-2.0
//! TLS configurations: the system's roots, a host's own certificates from `certs.d`, or (for insecure
//! registries) any certificate at all.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::failure::Failure;
use crate::url::Host;

/// Files of one host found in a `certs.d` directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct HostCerts {
    pub(crate) directory: PathBuf,
    /// So that changed files make a new configuration.
    changed_at: Option<SystemTime>,
}

impl HostCerts {
    /// The first of `dirs` that has a directory for this host.
    pub(crate) fn find(dirs: &[PathBuf], host: &Host) -> Option<Self> {
        dirs.iter().find_map(|dir| {
            let directory = dir.join(host.to_string());
            let meta = std::fs::metadata(&directory).ok().filter(std::fs::Metadata::is_dir)?;
            Some(Self { directory, changed_at: meta.modified().ok() })
        })
    }

    fn load(&self) -> Result<(Vec<CertificateDer<'static>>, Option<ClientIdentity>), Failure> {
        let entries = std::fs::read_dir(&self.directory).map_err(|e| unreadable(&self.directory, &e))?;
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|e| e.path())).collect();
        paths.sort();
        let with_extension = |wanted: &'static str| {
            paths.iter().filter(move |p| p.extension().is_some_and(|extension| extension == wanted))
        };
        let mut authorities = Vec::new();
        for path in with_extension("crt") {
            authorities.extend(certificates(path)?);
        }
        let Some(cert) = with_extension("cert").next() else {
            return match with_extension("key").next() {
                Some(key) => {
                    Err(Failure::broken(format!("{} has no certificate (.cert) beside it", key.display())))
                }
                None => Ok((authorities, None)),
            };
        };
        let key_path = cert.with_extension("key");
        let key = PrivateKeyDer::from_pem_file(&key_path).map_err(|e| unreadable(&key_path, &e))?;
        Ok((authorities, Some((certificates(cert)?, key))))
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
                let directory = certs.map(|c| c.directory.display().to_string()).unwrap_or_default();
                Failure::broken(format!("a certificate authority in {directory} is not usable: {e}"))
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
