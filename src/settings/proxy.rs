//! The proxy variables, which the HTTP client reads itself. They may contain a password, which must
//! not be logged.

use percent_encoding::percent_decode_str;

use super::sources::Sources;
use crate::secrets;

const NAMES: [&str; 3] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];

/// Remembers the passwords in the proxy variables as secrets.
pub(super) fn learn_passwords(sources: &Sources) {
    for (name, value) in &sources.environment {
        let name = name.to_string_lossy().to_ascii_uppercase();
        if NAMES.contains(&name.as_str())
            && let Some((user, password)) = credentials(&value.to_string_lossy())
        {
            let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
            secrets::learn([password]);
            secrets::learn_basic(&decoded(user), &decoded(password));
        }
    }
}

/// User name and password in a URL whose scheme may be missing.
fn credentials(url: &str) -> Option<(&str, &str)> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next()?;
    authority.rsplit_once('@')?.0.split_once(':')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::scrubbed;

    #[test]
    fn the_password_of_a_proxy_is_a_secret() {
        for (name, value) in [
            ("HTTPS_PROXY", "http://me:pr0xy%2Fpw@proxy:3128"),
            ("http_proxy", "me:0ther-pw@proxy:3128/"),
        ] {
            learn_passwords(&Sources {
                environment: vec![(name.into(), value.into())],
                ..Sources::default()
            });
        }
        // `bWU6cHIweHkvcHc` is `me:pr0xy/pw`.
        let said = scrubbed("pr0xy%2Fpw, pr0xy/pw, Basic bWU6cHIweHkvcHc=, 0ther-pw");
        let expected = "**********, ********, Basic ***************=, ********";
        assert_eq!(said, expected);
        assert_eq!(credentials("http://proxy:3128"), None);
    }
}
