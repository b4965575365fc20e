//! What must hold for any text in the web configuration file.

use std::path::Path;

use super::format::{Pem, TlsServer, WebConfig};
use super::{Material, Protection, unusable};
use crate::properties::lines::assert_is_a_short_line;
use crate::settings::WEB_CONFIG_FILE;

/// A web configuration: it can be used, or the reason why it cannot is a line. Files that it names
/// are not read.
pub fn web_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match protection(text) {
        Ok(protection) => assert_is_a_short_line(&protection.to_string()),
        Err(reason) => {
            let error = unusable(WEB_CONFIG_FILE, Path::new("web.yml"), reason);
            assert_is_a_short_line(&error.to_string());
        }
    }
}

fn protection(text: &str) -> Result<Protection, String> {
    let mut material = Material {
        config: WebConfig::parse(text)?,
        ..Material::default()
    };
    let tls = material.config.tls_server_config.as_ref();
    if tls.is_some_and(is_inline) {
        material.texts = material.texts(Path::new(""))?;
    }
    material.try_protection()
}

fn is_inline(tls: &TlsServer) -> bool {
    let parts = [
        tls.certificate().map(Some),
        tls.key().map(Some),
        tls.authorities(),
    ];
    let mut parts = parts.into_iter().map(Result::ok);
    parts.all(|part| part.is_some_and(|part| !matches!(part, Some(Pem::File(..)))))
}
