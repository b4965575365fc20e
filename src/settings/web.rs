//! What protects the agent's own endpoints.

use std::path::PathBuf;

use secrecy::SecretString;

use super::{Error, Reader};

/// What protects the agent's own endpoints.
#[derive(Debug, Clone, Default)]
pub struct Web {
    /// The web configuration file.
    pub config_file: Option<PathBuf>,
    /// The bearer token that clients need.
    pub bearer_token: Option<Token>,
}

/// A bearer token.
#[derive(Debug, Clone)]
pub enum Token {
    /// The token itself.
    Value(SecretString),
    /// A file with the token, which may change.
    File(PathBuf),
}

impl Web {
    /// Whether something is read from files.
    pub fn has_files(&self) -> bool {
        self.config_file.is_some() || matches!(self.bearer_token, Some(Token::File(_)))
    }
}

pub(super) fn load(reader: &Reader) -> Result<Web, Error> {
    let token = reader.optional("METRICS_BEARER_TOKEN", |text| {
        let is_token = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
        is_token.then(|| Token::Value(SecretString::from(text)))
    })?;
    // An empty file is reported when it is read.
    let file = reader.merged.written("METRICS_BEARER_TOKEN_FILE");
    let file = file.map(|file| Token::File(PathBuf::from(&file.value)));
    Ok(Web {
        config_file: config_file(reader)?,
        bearer_token: file.or(token),
    })
}

pub(super) fn config_file(reader: &Reader) -> Result<Option<PathBuf>, Error> {
    reader.optional("WEB_CONFIG_FILE", |text| {
        (!text.is_empty()).then(|| PathBuf::from(text))
    })
}
