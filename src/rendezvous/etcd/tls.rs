//! Who may be spoken with by https, and as whom.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::super::options::EtcdOptions;
use crate::error::Error;

fn refuse(key: &str, path: &Path, want: String) -> Error {
    Error::config("rendezvous_option", format!("{key}={}", path.display()), want)
}

pub fn config(options: &EtcdOptions) -> Result<Arc<ClientConfig>, Error> {
    let failed = |error: rustls::Error| Error::Internal { what: format!("no TLS: {error}") };
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(failed)?;
    let builder = builder.with_root_certificates(authorities(options)?);
    let Some(path) = &options.ssl_cert else { return Ok(Arc::new(builder.with_no_client_auth())) };
    let key_path = options.ssl_cert_key.as_ref().unwrap_or(path);
    let key = PrivateKeyDer::from_pem_file(key_path).map_err(|error| {
        refuse("ssl_cert_key", key_path, format!("must be a file with a private key: {error}"))
    })?;
    let own = certificates("ssl_cert", path)?;
    let config = builder.with_client_auth_cert(own, key);
    let config =
        config.map_err(|error| refuse("ssl_cert", path, format!("does not go with its key: {error}")))?;
    Ok(Arc::new(config))
}

fn authorities(options: &EtcdOptions) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    let Some(path) = &options.ca_cert else {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(store);
    };
    for certificate in certificates("ca_cert", path)? {
        store
            .add(certificate)
            .map_err(|error| refuse("ca_cert", path, format!("cannot be used: {error}")))?;
    }
    Ok(store)
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let want = |why: String| refuse(key, path, format!("must be a file with certificates: {why}"));
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found.map_err(|error| want(error.to_string()))? {
        found if found.is_empty() => Err(want("there is none".into())),
        found => Ok(found),
    }
}
