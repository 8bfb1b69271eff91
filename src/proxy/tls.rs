//! TLS towards an upstream: which roots are trusted, which certificate is shown, which name is expected.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::uri::Authority;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use crate::config::UpstreamTls;

/// What is wrong with an upstream's TLS settings.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("could not read {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} holds no {what} in PEM form")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// No root certificate is known.
    #[error("the system has no root certificates; name a PEM file with `ca`")]
    NoRoots,
    /// The host's name cannot be in a certificate.
    #[error("`{0}` cannot be the name in a certificate; set tls.server_name")]
    Name(String),
    /// rustls refuses the certificate or the key.
    #[error("the certificate and its key cannot be used: {0}")]
    Refused(#[from] rustls::Error),
}

/// The client's side of TLS for one upstream.
#[derive(Clone)]
pub(super) struct Client {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn new(settings: &UpstreamTls, authority: &Authority) -> Result<Self, Error> {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let name = settings.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned()).map_err(|_| Error::Name(name.to_owned()))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots(settings.ca.as_deref())?);
        let mut config = match settings.certificate.as_deref().zip(settings.key.as_deref()) {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                builder.with_client_auth_cert(certificates(certificate)?, private_key(key)?)?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), name })
    }

    pub(super) fn connector(&self) -> (TlsConnector, ServerName<'static>) {
        (TlsConnector::from(Arc::clone(&self.config)), self.name.clone())
    }
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in certificates(path)? {
                store.add(certificate)?;
            }
        }
        None => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if store.is_empty() {
                return Err(Error::NoRoots);
            }
        }
    }
    Ok(store)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| Error::Read { path: path.to_owned(), error })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let missing = || Error::Pem { path: path.to_owned(), what: "certificate" };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(missing)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|_| Error::Pem { path: path.to_owned(), what: "private key" })
}
