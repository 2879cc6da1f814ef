//! Who may be spoken with by https, and as whom. Certificates may live for hours only, and be replaced on disk: each
//! connection is made with what the files hold by then.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::error::Error;
use crate::spec::rendezvous_options::EtcdOptions;

fn refuse(key: &str, path: &Path, want: String) -> Error {
    Error::config("rendezvous_option", format!("{key}={}", path.display()), want)
}

/// What a file is known by: one with other contents has another.
type Stamp = Option<(u64, u64, u64, [i64; 4])>;

fn stamp(path: &Path) -> Stamp {
    let data = path.metadata().ok()?;
    let times = [data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec()];
    Some((data.dev(), data.ino(), data.size(), times))
}

pub struct Tls {
    options: EtcdOptions,
    /// Made of the last files that were good.
    config: Arc<ClientConfig>,
    /// Of the files that were last read; none, if they are to be read again whatever they look like.
    stamps: Option<[Stamp; 3]>,
    /// What is wrong with the present ones.
    trouble: Option<String>,
    warning: Option<String>,
}

impl Tls {
    pub fn new(options: &EtcdOptions) -> Result<Tls, Error> {
        let stamps = Some(stamps(options));
        let config = config(options)?;
        Ok(Tls { options: options.clone(), config, stamps, trouble: None, warning: None })
    }

    /// For the next connection. Files that are missing at the moment, or only half written, change nothing.
    pub fn config(&mut self) -> Arc<ClientConfig> {
        // Before they are read: what changes meanwhile is read the next time.
        let now = stamps(&self.options);
        if self.stamps != Some(now) {
            match config(&self.options) {
                Ok(config) => (self.config, self.stamps, self.trouble) = (config, Some(now), None),
                Err(error) => {
                    let why = error.to_string();
                    if self.trouble.as_ref() != Some(&why) {
                        let text = "the certificates for etcd cannot be read anew, the last ones are used";
                        self.warning = Some(format!("{text}: {why}"));
                    }
                    (self.stamps, self.trouble) = (None, Some(why));
                }
            }
        }
        self.config.clone()
    }

    /// They did not lead to a connection. Those of the system have no stamps.
    pub fn distrust(&mut self) {
        self.stamps = None;
    }

    /// What is new to say.
    pub fn warning(&mut self) -> Option<String> {
        self.warning.take()
    }
}

fn stamps(options: &EtcdOptions) -> [Stamp; 3] {
    let paths = [&options.ca_cert, &options.ssl_cert, &options.ssl_cert_key];
    paths.map(|path| path.as_deref().and_then(stamp))
}

fn config(options: &EtcdOptions) -> Result<Arc<ClientConfig>, Error> {
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
