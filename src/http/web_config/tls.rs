//! TLS of the endpoints.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{NamedGroup, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use webpki::EndEntityCert;

use super::format::TlsServer;

/// How connections are encrypted.
pub(in crate::http) struct Tls {
    acceptor: TlsAcceptor,
    /// Whether clients need a certificate, except for probes.
    pub(super) requires_certificate: bool,
    /// The names of which a client's certificate must have one; empty means any.
    allowed_names: Vec<String>,
    /// The accepted versions, for messages.
    pub(super) versions: &'static str,
}

/// The PEM texts, each with its name for messages.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Texts {
    pub(super) certificate: (String, String),
    pub(super) key: (String, String),
    pub(super) authorities: Option<(String, String)>,
}

impl Tls {
    /// Accepts a connection. Returns whether the client has an accepted certificate.
    pub(in crate::http) async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, bool)> {
        let stream = self.acceptor.accept(stream).await?;
        let chain = stream.get_ref().1.peer_certificates();
        // The chain has been verified.
        let certificate = chain.and_then(|chain| chain.first());
        let is_verified = certificate.is_some_and(|certificate| {
            self.allowed_names.is_empty() || has_name(certificate, &self.allowed_names)
        });
        Ok((stream, is_verified))
    }

    pub(super) fn new(config: &TlsServer, texts: &Texts) -> Result<Self, String> {
        let provider = Arc::new(provider(config)?);
        let (min, max) = (
            version("min_version", &config.min_version, 12)?,
            version("max_version", &config.max_version, 13)?,
        );
        let (versions, shown): (Vec<&SupportedProtocolVersion>, _) = match (min, max) {
            (..=12, 12) => (vec![&TLS12], "1.2"),
            (..=12, 13) => (vec![&TLS13, &TLS12], "1.2 and 1.3"),
            (13, 13) => (vec![&TLS13], "1.3"),
            _ => return Err("tls_server_config: no TLS version is between min_version and max_version; TLS12 and TLS13 are supported".into()),
        };
        let (requires_certificate, verifier) = clients(config, texts, &provider)?;
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(|error| format!("tls_server_config: {error}"))?
            .with_client_cert_verifier(verifier);
        let (name, pem) = &texts.certificate;
        let chain = certificates(name, pem)?;
        let (key_name, key) = &texts.key;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|_| format!("{key_name}: it contains no PEM private key"))?;
        let mut server = builder
            .with_single_cert(chain, key)
            .map_err(|error| format!("{name}, {key_name}: {error}"))?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        server.ignore_client_order = config.prefer_server_cipher_suites.unwrap_or(true);
        Ok(Tls {
            acceptor: Arc::new(server).into(),
            requires_certificate,
            allowed_names: config.client_allowed_sans.clone().unwrap_or_default(),
            versions: shown,
        })
    }
}

/// Whether clients need a certificate, and how it is verified.
///
/// Probes have no certificate, so connections without one are accepted. Only `/healthz` and
/// `/readyz` answer them.
fn clients(
    config: &TlsServer,
    texts: &Texts,
    provider: &Arc<CryptoProvider>,
) -> Result<(bool, Arc<dyn ClientCertVerifier>), String> {
    const NAME: &str = "tls_server_config.client_auth_type";
    let policy = config.client_auth_type.as_deref().unwrap_or_default();
    let requires = match policy {
        "" | "NoClientCert" => {
            if let Some((name, _)) = &texts.authorities {
                return Err(format!(
                    "{name} is set: set {NAME} to RequireAndVerifyClientCert"
                ));
            }
            return Ok((false, WebPkiClientVerifier::no_client_auth()));
        }
        "VerifyClientCertIfGiven" => false,
        "RequireAndVerifyClientCert" => true,
        "RequestClientCert" | "RequireAnyClientCert" | "RequireClientCert" => {
            return Err(format!(
                "{NAME}: {policy} accepts any certificate and is not supported; use RequireAndVerifyClientCert"
            ));
        }
        _ => {
            return Err(format!(
                "{NAME}: {policy:?} is not valid; accepted: NoClientCert, VerifyClientCertIfGiven, RequireAndVerifyClientCert"
            ));
        }
    };
    let names = config.client_allowed_sans.iter().flatten();
    if let Some(email) = names.into_iter().find(|name| is_email(name)) {
        return Err(format!(
            "tls_server_config.client_allowed_sans: {email:?} is an e-mail address, which is not supported; use a DNS name, an IP address or a URI"
        ));
    }
    let Some((name, pem)) = &texts.authorities else {
        return Err(format!(
            "{NAME}: {policy} needs client_ca_file, the authorities of the clients' certificates"
        ));
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(name, pem)? {
        let added = roots.add(certificate);
        added.map_err(|error| format!("{name}: a certificate cannot be used: {error}"))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(provider));
    let verifier = verifier.allow_unauthenticated().build();
    let verifier = verifier.map_err(|error| format!("{name}: {error}"))?;
    Ok((requires, verifier))
}

fn is_email(name: &str) -> bool {
    name.contains('@') && !name.contains("://")
}

/// The certificates in a PEM text.
fn certificates(name: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(format!("{name}: it contains no PEM certificate")),
    }
}

/// The number of a version. Versions before 1.2 are only accepted as a minimum, which 1.2 fulfills.
fn version(field: &str, name: &Option<String>, default: u8) -> Result<u8, String> {
    Ok(match name.as_deref() {
        None | Some("") => default,
        Some("TLS10") => 10,
        Some("TLS11") => 11,
        Some("TLS12") => 12,
        Some("TLS13") => 13,
        Some(other) => {
            return Err(format!(
                "tls_server_config.{field}: {other:?} is not valid; accepted: TLS12, TLS13"
            ));
        }
    })
}

/// The cryptography, with only the cipher suites and curves in the configuration.
fn provider(config: &TlsServer) -> Result<CryptoProvider, String> {
    let mut provider = aws_lc_rs::default_provider();
    let wanted = config.cipher_suites.iter().flatten();
    let mut suites = Vec::new();
    for name in wanted {
        let known = provider.cipher_suites.iter();
        let known = known.map(|suite| (go_name(suite.suite()), *suite));
        let known: Vec<_> = known.collect();
        match known.iter().find(|(known, _)| known == name) {
            Some((_, suite)) => suites.push(*suite),
            None => {
                let known: Vec<_> = known.into_iter().map(|(name, _)| name).collect();
                return Err(format!(
                    "tls_server_config.cipher_suites: {name:?} is not supported; accepted: {}",
                    known.join(", ")
                ));
            }
        }
    }
    if !suites.is_empty() {
        // As in the format, the list only restricts TLS 1.2.
        provider
            .cipher_suites
            .retain(|suite| suite.tls13().is_some());
        suites.retain(|suite| suite.tls13().is_none());
        provider.cipher_suites.extend(suites);
    }
    let wanted = config.curve_preferences.iter().flatten();
    let mut groups = Vec::new();
    for name in wanted {
        let group = CURVES.iter().find(|(known, _)| known == name);
        let group = group.and_then(|(_, group)| {
            let all = aws_lc_rs::ALL_KX_GROUPS.iter();
            all.copied().find(|known| known.name() == *group)
        });
        let accepted = CURVES.map(|(name, _)| name).join(", ");
        groups.push(group.ok_or_else(|| {
            format!("tls_server_config.curve_preferences: {name:?} is not supported; accepted: {accepted}")
        })?);
    }
    if !groups.is_empty() {
        provider.kx_groups = groups;
    }
    Ok(provider)
}

/// The names of curves in the format.
const CURVES: [(&str, NamedGroup); 3] = [
    ("X25519", NamedGroup::X25519),
    ("CurveP256", NamedGroup::secp256r1),
    ("CurveP384", NamedGroup::secp384r1),
];

/// The name of a cipher suite in the format, which is that of Go.
fn go_name(suite: rustls::CipherSuite) -> String {
    format!("{suite:?}").replacen("TLS13_", "TLS_", 1)
}

/// Whether one of the names in a certificate is one of `allowed`.
fn has_name(certificate: &CertificateDer<'_>, allowed: &[String]) -> bool {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else {
        return false;
    };
    allowed
        .iter()
        .any(|allowed| match allowed.parse::<IpAddr>() {
            Ok(address) => {
                let name = ServerName::from(address);
                certificate.verify_is_valid_for_subject_name(&name).is_ok()
            }
            Err(_) => {
                let mut names = certificate.valid_dns_names();
                names.any(|name| name == allowed)
                    || certificate.valid_uri_names().any(|name| name == allowed)
            }
        })
}
