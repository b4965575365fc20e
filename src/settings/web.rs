//! What protects the agent's own endpoints.

use std::path::PathBuf;

use secrecy::SecretString;

use super::{Error, Reader, Watched};

/// The web configuration file.
pub(crate) const WEB_CONFIG_FILE: &str = "WEB_CONFIG_FILE";
/// The file with the bearer token.
pub(crate) const BEARER_TOKEN_FILE: &str = "METRICS_BEARER_TOKEN_FILE";

/// What protects the agent's own endpoints.
#[derive(Debug, Clone, Default)]
pub struct Web {
    /// The web configuration file.
    pub config_file: Option<PathBuf>,
    /// The bearer token that clients need.
    pub bearer_token: Option<Token>,
    /// The settings whose files are read again.
    pub watched: Option<Watched>,
}

/// A bearer token.
#[derive(Debug, Clone)]
pub enum Token {
    /// The token itself.
    Value(SecretString),
    /// A file with the token, which may change.
    File(PathBuf),
}

pub(super) fn load(reader: &Reader) -> Result<Web, Error> {
    let token = reader.optional("METRICS_BEARER_TOKEN", |text| {
        let is_token = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
        is_token.then(|| Token::Value(SecretString::from(text)))
    })?;
    // An empty file is reported when it is read.
    let file = reader.merged.written(BEARER_TOKEN_FILE);
    let file = file.map(|file| Token::File(PathBuf::from(&file.value)));
    let config_file = config_file(reader)?;
    let files = [
        config_file.as_ref().map(|_| WEB_CONFIG_FILE),
        file.as_ref().map(|_| BEARER_TOKEN_FILE),
    ];
    let files: Vec<_> = files.into_iter().flatten().map(str::to_owned).collect();
    Ok(Web {
        config_file,
        bearer_token: file.or(token),
        watched: (!files.is_empty()).then(|| Watched::new(&files)),
    })
}

pub(super) fn config_file(reader: &Reader) -> Result<Option<PathBuf>, Error> {
    reader.optional(WEB_CONFIG_FILE, |text| {
        (!text.is_empty()).then(|| PathBuf::from(text))
    })
}
