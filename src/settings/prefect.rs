//! How to connect to Prefect. Settings that Prefect's client also has are read in the same way.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Certificate, Url};
use secrecy::SecretString;

use super::pem::{self, OwnCertificate};
use super::profile::Profile;
use super::reload::Reload;
use super::{Error, Reader, boolean, integer, seconds, web_url};
use crate::secrets;

/// How to connect to Prefect.
#[derive(Debug, Clone)]
pub struct Prefect {
    /// The URL of the API, without a trailing slash.
    pub api_url: Url,
    /// The Prefect profile that the URL comes from.
    pub profile: Option<Profile>,
    /// How the agent authenticates.
    pub authentication: Authentication,
    /// What reads the authentication again, if it is in files.
    pub reload: Option<Reload<Authentication>>,
    /// The authorities used to verify the server's certificate, instead of those of the system.
    pub authorities: Option<Vec<Certificate>>,
    /// Whether the server's certificate is not verified.
    pub skip_verify: bool,
    /// The agent's certificate and its key.
    pub own_certificate: Option<OwnCertificate>,
    /// Fetch a CSRF token before the first request.
    pub csrf_enabled: bool,
    /// Maximum number of retries of a request.
    pub max_retries: usize,
    /// Timeout of a request.
    pub request_timeout: Duration,
    /// Maximum number of concurrent requests.
    pub max_concurrent_requests: usize,
    /// Read all pages of a list.
    pub pagination_enabled: bool,
    /// Maximum number of objects per page.
    pub pagination_limit: usize,
}

/// A workspace of Prefect Cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cloud {
    /// The id of the account.
    pub account: String,
    /// The id of the workspace.
    pub workspace: String,
}

impl Cloud {
    /// The workspace whose API is at this URL, if it is one of Prefect Cloud.
    /// <https://docs.prefect.io/v3/how-to-guides/cloud/connect-to-cloud>
    pub fn at(api_url: &Url) -> Option<Self> {
        let segments = api_url.path().trim_end_matches('/').split('/');
        match segments.collect::<Vec<_>>().as_slice() {
            ["", "api", "accounts", account, "workspaces", workspace]
                if api_url.host_str() == Some(CLOUD) =>
            {
                Some(Cloud {
                    account: (*account).to_owned(),
                    workspace: (*workspace).to_owned(),
                })
            }
            _ => None,
        }
    }
}

/// The host of the API of Prefect Cloud.
pub const CLOUD: &str = "api.prefect.cloud";

/// How the agent authenticates to Prefect.
#[derive(Debug, Clone)]
pub struct Authentication {
    /// Key or password.
    pub credentials: Credentials,
    /// Headers for every request. They are valid, and their values are secret.
    pub headers: Vec<(HeaderName, SecretString)>,
}

/// A key or a password.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// Without authentication.
    None,
    /// An API key.
    Bearer(SecretString),
    /// User and password.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: SecretString,
    },
}

/// The settings of the authentication, which are secret.
const SECRETS: [&str; 3] = [
    "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_CLIENT_CUSTOM_HEADERS",
];

const OWN_CERTIFICATE: [&str; 2] = ["PREFECT_API_CLIENT_CERTIFICATE", "PREFECT_API_CLIENT_KEY"];

pub(super) fn load(reader: &Reader) -> Result<Prefect, Error> {
    let authorities = pem::authorities(reader, "PREFECT_API_SSL_CERT_FILE", None)?;
    Ok(Prefect {
        api_url: reader.required("PREFECT_API_URL", |text| {
            let url = web_url(text)?;
            // Paths are appended to it.
            let url = (url.query().is_none() && url.fragment().is_none()).then_some(url)?;
            Url::parse(url.as_str().trim_end_matches('/')).ok()
        })?,
        profile: reader.merged.profile.clone(),
        authentication: authentication(reader)?,
        reload: reader.reload(&SECRETS, authentication),
        authorities: authorities.map(|(_, certificates)| certificates),
        skip_verify: skip_verify(reader)?,
        own_certificate: pem::own_certificate(reader, OWN_CERTIFICATE, None)?,
        csrf_enabled: reader.required("PREFECT_CSRF_ENABLED", boolean)?,
        max_retries: reader.required("MAX_RETRIES", |text| integer(text, 0, 20))?,
        request_timeout: reader.required("REQUEST_TIMEOUT_SECONDS", seconds)?,
        max_concurrent_requests: reader
            .required("MAX_CONCURRENT_REQUESTS", |text| integer(text, 1, 64))?,
        pagination_enabled: reader.required("PAGINATION_ENABLED", boolean)?,
        pagination_limit: reader
            .required("PAGINATION_LIMIT", |text| integer(text, 1, 1_000_000))?,
    })
}

fn authentication(reader: &Reader) -> Result<Authentication, Error> {
    Ok(Authentication {
        credentials: credentials(reader)?,
        headers: headers(reader)?,
    })
}

fn credentials(reader: &Reader) -> Result<Credentials, Error> {
    let key = reader.optional("PREFECT_API_KEY", |text| {
        text.chars()
            .all(|c| c.is_ascii_graphic())
            .then(|| SecretString::from(text))
    })?;
    let basic = reader.optional("PREFECT_API_AUTH_STRING", |text| {
        let (user, password) = text.split_once(':')?;
        secrets::learn_basic(user, password);
        Some(Credentials::Basic {
            user: user.to_owned(),
            password: SecretString::from(password),
        })
    })?;
    let credentials = key.map(Credentials::Bearer).or(basic);
    Ok(credentials.unwrap_or(Credentials::None))
}

/// Headers that the client sets itself, as in Prefect's client.
const PROTECTED: [&str; 3] = ["user-agent", "prefect-csrf-token", "prefect-csrf-client"];

fn headers(reader: &Reader) -> Result<Vec<(HeaderName, SecretString)>, Error> {
    const NAME: &str = "PREFECT_CLIENT_CUSTOM_HEADERS";
    let headers = reader.optional(NAME, |text| {
        let headers: BTreeMap<String, String> = serde_json::from_str(text).ok()?;
        let headers = headers.into_iter().map(|(name, value)| {
            HeaderValue::from_bytes(value.as_bytes()).ok()?;
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            secrets::learn([value.as_str()]);
            Some((name, SecretString::from(value)))
        });
        headers.collect::<Option<Vec<_>>>()
    })?;
    let (protected, own): (Vec<_>, Vec<_>) = headers
        .unwrap_or_default()
        .into_iter()
        .partition(|(name, _)| PROTECTED.contains(&name.as_str()));
    for (name, _) in protected {
        reader.warn(format!(
            "{NAME}: the header {name} is ignored, because the agent sets it"
        ));
    }
    Ok(own)
}

const SKIP_VERIFY: &str = "PREFECT_API_TLS_INSECURE_SKIP_VERIFY";

/// Whether certificates are not verified. Warns of what that means.
fn skip_verify(reader: &Reader) -> Result<bool, Error> {
    // Prefect's client accepts all of these.
    let skips = reader.required(SKIP_VERIFY, |text| {
        match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "yes" | "y" | "on" | "1" => Some(true),
            "false" | "f" | "no" | "n" | "off" | "0" => Some(false),
            _ => None,
        }
    })?;
    if skips {
        reader.warn(format!(
            "{SKIP_VERIFY}: THE CERTIFICATE OF PREFECT IS NOT VERIFIED: whoever can redirect the connection can read the credentials and send false data; set PREFECT_API_SSL_CERT_FILE to the certificate of the authority instead"
        ));
    }
    Ok(skips)
}
