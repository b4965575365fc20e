//! The proxy that requests go through, for messages.
//!
//! HTTP requests use the proxy of `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`. If it
//! cannot be reached, the error must not look as if the server could not.

use std::sync::LazyLock;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;

/// The same rules as in the HTTP client.
static MATCHER: LazyLock<Matcher> = LazyLock::new(Matcher::from_system);

/// What to do if a proxy cannot be reached.
pub(crate) const HINT: &str = "HTTP_PROXY, HTTPS_PROXY or ALL_PROXY sets the proxy; to connect without it, add the host to NO_PROXY";

/// The proxy for requests to `url`, without credentials.
pub(crate) fn of(url: &Url) -> Option<String> {
    shown(&MATCHER, url)
}

fn shown(matcher: &Matcher, url: &Url) -> Option<String> {
    let proxy = matcher.intercept(&url.as_str().parse().ok()?)?;
    let uri = proxy.uri();
    let port = uri.port_u16().map(|port| format!(":{port}"));
    let (scheme, host) = (uri.scheme_str().unwrap_or("http"), uri.host()?);
    Some(format!("{scheme}://{host}{}", port.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_named_without_its_credentials() {
        let matcher = Matcher::builder()
            .https("http://user:hunter2@proxy.example:3128/")
            .no("internal.example")
            .build();
        let of = |url: &str| shown(&matcher, &Url::parse(url).unwrap());
        let expected = Some("http://proxy.example:3128".to_owned());
        assert_eq!(of("https://api.example/api?x"), expected);
        assert_eq!(of("https://internal.example/api"), None);
        assert_eq!(of("http://api.example/api"), None);
    }
}
