//! What protects the endpoints: TLS, authentication, and headers, from a file in the format of the
//! web configuration of Prometheus, and from the setting of a bearer token.

mod access;
mod auth;
mod format;
mod live;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
mod rate;
mod tls;

use std::fmt;
use std::path::Path;

use axum::http::HeaderMap;
use secrecy::ExposeSecret as _;

pub(super) use access::{Client, check, set_headers};
pub(super) use live::Live;
pub use live::Security;

use crate::clip;
use crate::settings::{
    BEARER_TOKEN_FILE, Error, Token, WEB_CONFIG_FILE, Web, read_bounded, read_file,
};
use auth::Auth;
use format::{Pem, WebConfig};
use rate::Rate;
use tls::{Texts, Tls};

/// What protects the endpoints.
pub(super) struct Protection {
    /// `None` serves plain HTTP.
    pub(super) tls: Option<Tls>,
    auth: Auth,
    headers: HeaderMap,
    rate: Option<Rate>,
}

/// Everything that is read from files. It is compared in order to notice changes.
#[derive(Clone, PartialEq, Eq, Default)]
struct Material {
    config: WebConfig,
    texts: Option<Texts>,
    token: Option<String>,
}

/// Whether the web configuration file turns on TLS.
///
/// # Errors
///
/// If the file cannot be read.
pub fn uses_tls(file: Option<&Path>) -> Result<bool, Error> {
    let Some(path) = file else {
        return Ok(false);
    };
    let config = config(path)?;
    Ok(config.tls_server_config.is_some())
}

fn config(path: &Path) -> Result<WebConfig, Error> {
    let text = read_file(WEB_CONFIG_FILE, path)?;
    WebConfig::parse(&text).map_err(|reason| unusable(WEB_CONFIG_FILE, path, reason))
}

/// The longest reason in bytes: names in the file can have any length.
const LONGEST_REASON: usize = 1_000;

/// Why a file cannot be used. `reason` may contain names from the file.
fn unusable(setting: &str, path: &Path, reason: impl fmt::Display) -> Error {
    let reason = clip::one_line(reason.to_string().as_bytes());
    Error::File {
        setting: setting.to_owned(),
        path: path.to_owned(),
        reason: clip::message(&reason, LONGEST_REASON).into_owned(),
    }
}

impl Material {
    /// Reads the files.
    fn read(settings: &Web) -> Result<Self, Error> {
        let mut material = Material {
            token: token(settings)?,
            ..Material::default()
        };
        if let Some(path) = &settings.config_file {
            material.config = config(path)?;
            let folder = path.parent().unwrap_or(Path::new(""));
            let texts = material.texts(folder);
            material.texts = texts.map_err(|reason| unusable(WEB_CONFIG_FILE, path, reason))?;
        }
        Ok(material)
    }

    /// The certificates and the key.
    fn texts(&self, folder: &Path) -> Result<Option<Texts>, String> {
        let read = |pem: Pem| -> Result<(String, String), String> {
            let name = pem.name();
            match pem {
                Pem::Inline(_, text) => Ok((name, text)),
                Pem::File(_, path) => {
                    let text = read_bounded(&folder.join(path));
                    let text = text.map_err(|reason| format!("{name}: {reason}"))?;
                    Ok((name, text))
                }
            }
        };
        let Some(tls) = &self.config.tls_server_config else {
            return Ok(None);
        };
        Ok(Some(Texts {
            certificate: read(tls.certificate()?)?,
            key: read(tls.key()?)?,
            authorities: tls.authorities()?.map(read).transpose()?,
        }))
    }

    /// What it configures.
    fn protection(&self, settings: &Web) -> Result<Protection, Error> {
        let path = settings.config_file.as_deref().unwrap_or(Path::new(""));
        self.try_protection()
            .map_err(|reason| unusable(WEB_CONFIG_FILE, path, reason))
    }

    fn try_protection(&self) -> Result<Protection, String> {
        let config = &self.config;
        let tls = match (&config.tls_server_config, &self.texts) {
            (Some(tls), Some(texts)) => Some(Tls::new(tls, texts)?),
            _ => None,
        };
        Ok(Protection {
            tls,
            auth: Auth::new(config.users(), self.token.as_deref())?,
            headers: config.headers()?,
            rate: config
                .rate()?
                .map(|(interval, burst)| Rate::new(interval, burst)),
        })
    }
}

/// The bearer token.
fn token(settings: &Web) -> Result<Option<String>, Error> {
    let path = match &settings.bearer_token {
        None => return Ok(None),
        Some(Token::Value(token)) => return Ok(Some(token.expose_secret().to_owned())),
        Some(Token::File(path)) => path,
    };
    let text = read_file(BEARER_TOKEN_FILE, path)?;
    let token = text.trim();
    match !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic()) {
        true => Ok(Some(token.to_owned())),
        false => Err(unusable(
            BEARER_TOKEN_FILE,
            path,
            "it does not contain a token of visible ASCII characters",
        )),
    }
}

impl Protection {
    /// Whether clients need a certificate.
    fn requires_certificate(&self) -> bool {
        self.tls
            .as_ref()
            .is_some_and(|tls| tls.requires_certificate)
    }

    /// Why this protection must not be replaced by `other` while the agent runs: a file that is
    /// empty for a moment must not make the endpoints public.
    fn lost_in(&self, other: &Protection) -> Option<&'static str> {
        if self.tls.is_some() && other.tls.is_none() {
            return Some("tls_server_config was removed, which requires a restart");
        }
        if self.requires_certificate() && !other.requires_certificate() {
            return Some(
                "the requirement of client certificates was removed, which requires a restart",
            );
        }
        (self.auth.is_required() && !other.auth.is_required())
            .then_some("authentication was removed, which requires a restart")
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tls {
            None => f.write_str("plain HTTP")?,
            Some(tls) => write!(f, "TLS {}", tls.versions)?,
        }
        if self.requires_certificate() {
            f.write_str(", client certificates")?;
        }
        match self.auth.users() {
            0 => {}
            1 => f.write_str(", basic authentication (1 user)")?,
            users => write!(f, ", basic authentication ({users} users)")?,
        }
        if self.auth.has_token() {
            f.write_str(", bearer token")?;
        }
        Ok(())
    }
}
