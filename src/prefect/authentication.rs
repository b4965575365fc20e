//! The headers with which the agent authenticates.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use secrecy::ExposeSecret as _;

use crate::rotation::Headers;
use crate::settings::{Authentication, Credentials};

/// The headers of every request.
pub(super) fn headers(authentication: &Authentication) -> Headers {
    let mut headers = HeaderMap::new();
    if let Some(value) = authorization(&authentication.credentials) {
        headers.insert(AUTHORIZATION, value);
    }
    for (name, value) in &authentication.headers {
        // The settings have checked it.
        if let Ok(mut value) = HeaderValue::from_bytes(value.expose_secret().as_bytes()) {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }
    // A page for debugging may show the password as it was decoded.
    let password = match &authentication.credentials {
        Credentials::Basic { password, .. } => Some(password.expose_secret()),
        Credentials::None | Credentials::Bearer(_) => None,
    };
    Headers::new(headers, password)
}

fn authorization(credentials: &Credentials) -> Option<HeaderValue> {
    let text = match credentials {
        Credentials::None => return None,
        Credentials::Bearer(key) => format!("Bearer {}", key.expose_secret()),
        Credentials::Basic { user, password } => {
            let pair = format!("{user}:{}", password.expose_secret());
            format!("Basic {}", STANDARD.encode(pair))
        }
    };
    // Both forms are ASCII; for the key, the settings ensure that.
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
