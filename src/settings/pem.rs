//! PEM files: certificate authorities, and the agent's own certificate and its key.
//!
//! They are decoded when the settings are read: the clients would only report them at their first
//! connection, or without the name of the file.

use std::path::PathBuf;

use reqwest::{Certificate, ClientBuilder, Identity};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::{ExposeSecret as _, SecretString};

use super::sources::Found;
use super::{Error, Reader, Signal, file};
use crate::cause::innermost;

/// A certificate and its key, both PEM.
pub type OwnCertificate = (String, SecretString);

/// A file whose path is in a setting.
struct File {
    /// The name under which the setting was set.
    name: String,
    path: PathBuf,
}

impl File {
    fn find(reader: &Reader, name: &str, signal: Option<Signal>) -> Result<Option<Self>, Error> {
        let found = reader.merged.find_for(reader.setting(name)?, signal)?;
        Ok(found.map(|Found { name, value }| File {
            name,
            path: PathBuf::from(value.trim()),
        }))
    }

    fn read(&self) -> Result<String, Error> {
        file::read(&self.name, &self.path)
    }

    fn unusable(&self, reason: impl Into<String>) -> Error {
        Error::File {
            setting: self.name.clone(),
            path: self.path.clone(),
            reason: reason.into(),
        }
    }

    /// The certificates in its content.
    fn certificates(&self, pem: &str) -> Result<Vec<Certificate>, Error> {
        let certificates = Certificate::from_pem_bundle(pem.as_bytes())
            .map_err(|_| self.unusable("it is not a PEM file with certificates"))?;
        match certificates.is_empty() {
            true => Err(self.unusable("it contains no PEM certificate")),
            false => Ok(certificates),
        }
    }
}

/// The certificates in the file of a setting, if it is set, and the content of the file.
pub(super) fn authorities(
    reader: &Reader,
    name: &str,
    signal: Option<Signal>,
) -> Result<Option<(String, Vec<Certificate>)>, Error> {
    let Some(file) = File::find(reader, name, signal)? else {
        return Ok(None);
    };
    let pem = file.read()?;
    let certificates = file.certificates(&pem)?;
    // They are only decoded when a client is built.
    match client().tls_certs_only(certificates.clone()).build() {
        Ok(_) => Ok(Some((pem, certificates))),
        Err(_) => Err(file.unusable("it contains a certificate that cannot be decoded")),
    }
}

/// The agent's own certificate and its key, from the files of two settings.
pub(super) fn own_certificate(
    reader: &Reader,
    [certificate, key]: [&str; 2],
    signal: Option<Signal>,
) -> Result<Option<OwnCertificate>, Error> {
    let found = (
        File::find(reader, certificate, signal)?,
        File::find(reader, key, signal)?,
    );
    let (certificate, key) = match found {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) => return Ok(None),
        (found, _) => {
            let missing = if found.is_some() { key } else { certificate };
            return Err(Error::Value {
                name: missing.to_owned(),
                value: "an empty value".to_owned(),
                accepts: "a readable PEM file, since certificate and key need each other"
                    .to_owned(),
            });
        }
    };
    let chain = certificate.read()?;
    certificate.certificates(&chain)?;
    let secret = key.read()?;
    if PrivateKeyDer::from_pem_slice(secret.as_bytes()).is_err() {
        return Err(key.unusable("it contains no PEM private key"));
    }
    let own = (chain, SecretString::from(secret));
    let identity = identity(&own).map_err(|error| certificate.unusable(innermost(&error)))?;
    match client().identity(identity).build() {
        Ok(_) => Ok(Some(own)),
        Err(error) => {
            let cause = innermost(&error);
            Err(match cause.contains("KeyMismatch") {
                true => key.unusable(format!(
                    "it is not the key of the certificate in {}",
                    certificate.name
                )),
                false => {
                    certificate.unusable(format!("certificate and key cannot be used: {cause}"))
                }
            })
        }
    }
}

/// A certificate and its key, as the HTTP client takes them.
///
/// # Errors
///
/// If they cannot be decoded, which the settings have checked.
pub fn identity((certificate, key): &OwnCertificate) -> Result<Identity, reqwest::Error> {
    let pem = format!("{certificate}\n{}", key.expose_secret());
    Identity::from_pem(pem.as_bytes())
}

/// A client that is only built to decode certificates: without a proxy, which might be unusable.
fn client() -> ClientBuilder {
    reqwest::Client::builder().no_proxy()
}
