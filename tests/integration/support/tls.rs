//! TLS: certificates made on the spot, and a listener that speaks it.

use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};

/// A certificate and its key, both PEM.
pub(crate) struct Certificate {
    pub(crate) pem: String,
    pub(crate) key: String,
}

impl Certificate {
    /// One for `localhost` that signs itself, as `openssl req -x509` makes it (CA:TRUE) or not.
    pub(crate) fn self_signed(as_authority: bool) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        if as_authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        Certificate {
            pem: params.self_signed(&key).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

/// A certificate authority, a server's certificate and a client's, in a folder.
pub(crate) struct Certificates {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    /// PEM of the authority's certificate.
    pub(crate) authority: String,
    /// PEM of the server's certificate and of its key.
    pub(crate) server: (String, String),
}

impl Certificates {
    pub(crate) fn new() -> Self {
        let authority_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&authority_key).unwrap().pem();
        let issuer = Issuer::new(params, authority_key);
        let issue = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new([name.to_owned()]).unwrap();
            (
                params.signed_by(&key, &issuer).unwrap().pem(),
                key.serialize_pem(),
            )
        };
        let (server, client) = (issue("localhost"), issue("agent"));
        let folder = tempfile::tempdir().unwrap();
        for (name, pem) in [("ca", &authority), ("cert", &client.0), ("key", &client.1)] {
            std::fs::write(folder.path().join(name), pem).unwrap();
        }
        Certificates {
            folder,
            issuer,
            authority,
            server,
        }
    }

    /// The server's certificate.
    pub(crate) fn server(&self) -> Certificate {
        let (pem, key) = self.server.clone();
        Certificate { pem, key }
    }

    /// One for a server of this name, until then.
    pub(crate) fn issue(&self, name: &str, until: Timestamp) -> Certificate {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        let until = until.to_zoned(TimeZone::UTC).date();
        if until.year() < 4096 {
            let (month, day) = (until.month() as u8, until.day() as u8);
            params.not_after = rcgen::date_time_ymd(until.year().into(), month, day);
        }
        Certificate {
            pem: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    /// Where `ca`, `cert` and `key` (the client's) stand.
    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }
}

/// Accepts connections over TLS.
pub(crate) struct TlsListener {
    listener: tokio::net::TcpListener,
    acceptor: tokio_rustls::TlsAcceptor,
}

impl TlsListener {
    /// With a server's certificate; of clients, where an authority is given, it wants one of
    /// that authority.
    pub(crate) fn new(
        listener: tokio::net::TcpListener,
        certificate: &str,
        key: &str,
        clients_of: Option<&str>,
    ) -> Self {
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = match clients_of {
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots
                    .add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap())
                    .unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
                config.with_client_cert_verifier(verifier.build().unwrap())
            }
            None => config.with_no_client_auth(),
        };
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let config = config.with_single_cert(chain, key).unwrap();
        TlsListener {
            listener,
            acceptor: Arc::new(config).into(),
        }
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = tokio_rustls::server::TlsStream<tokio::net::TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, address) = self.listener.accept().await.unwrap();
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
