//! Applies the protection to requests.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::auth::{Auth, Verdict};
use super::{Live, Protection};

/// The client of a request.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct Client {
    /// Its address.
    pub(in crate::http) address: IpAddr,
    /// Whether it has an accepted certificate.
    pub(in crate::http) is_verified: bool,
}

/// Answers only permitted requests.
pub(in crate::http) async fn check(
    State(live): State<Live>,
    request: Request,
    next: Next,
) -> Response {
    let client = request.extensions().get::<Client>().copied();
    let authorization = request.headers().get(AUTHORIZATION).cloned();
    match refusal(&live.current(), client, authorization).await {
        Some(refusal) => refusal,
        None => next.run(request).await,
    }
}

/// Why a request is refused.
async fn refusal(
    protection: &Protection,
    client: Option<Client>,
    authorization: Option<HeaderValue>,
) -> Option<Response> {
    let now = Instant::now();
    if protection
        .rate
        .as_ref()
        .is_some_and(|rate| !rate.allows(now))
    {
        return Some(too_many(
            "the rate_limit of the web configuration is exceeded\n",
        ));
    }
    let client = client.unwrap_or(Client {
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        is_verified: false,
    });
    if protection.requires_certificate() && !client.is_verified {
        let reason = "a client certificate is required\n";
        return Some((StatusCode::FORBIDDEN, reason).into_response());
    }
    let authorization = authorization.as_ref().map(HeaderValue::as_bytes);
    match protection.auth.check(authorization, client.address).await {
        Verdict::Granted => None,
        Verdict::Denied => Some(unauthorized(&protection.auth)),
        Verdict::Busy => Some(too_many("too many passwords are being verified\n")),
    }
}

fn too_many(reason: &'static str) -> Response {
    (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, "1")], reason).into_response()
}

fn unauthorized(auth: &Auth) -> Response {
    let reason = (StatusCode::UNAUTHORIZED, "credentials are required\n");
    let mut response = reason.into_response();
    let challenges = [
        (
            auth.users() > 0,
            r#"Basic realm="prefect-otel-agent", charset="UTF-8""#,
        ),
        (auth.has_token(), r#"Bearer realm="prefect-otel-agent""#),
    ];
    for (_, challenge) in challenges.into_iter().filter(|(is_used, _)| *is_used) {
        let challenge = HeaderValue::from_static(challenge);
        response.headers_mut().append(WWW_AUTHENTICATE, challenge);
    }
    response
}

/// Adds the headers of the web configuration to every answer that does not have its own.
pub(in crate::http) async fn set_headers(
    State(live): State<Live>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in &live.current().headers {
        let entry = response.headers_mut().entry(name);
        entry.or_insert_with(|| value.clone());
    }
    response
}
