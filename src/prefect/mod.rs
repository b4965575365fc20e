//! Prefect's REST API as a typed client.
//!
//! A [`Request`] is data; [`Client::execute`] sends it with everything that it needs (credentials,
//! CSRF token, timeout, retries, a limit for the size of the answer) and decodes the [`Answer`].
//! The API's objects are in [`objects`] and [`runs`], with the fields that the agent uses. What to
//! request, and when, is decided elsewhere.

mod answer;
mod authentication;
mod body;
pub mod bounded;
mod csrf;
mod decode;
mod error;
pub mod objects;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
pub mod request;
mod retry_after;
pub mod runs;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use backon::{ExponentialBuilder, Retryable as _};
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{AGE, DATE, HeaderMap};
use reqwest::{StatusCode, Url};
use tokio::sync::Semaphore;
use tracing::Instrument as _;

pub use answer::Answer;
use csrf::Csrf;
pub use decode::{Id, Listed, Skipped};
pub use error::Error;
use request::Call;
pub use request::Request;

use crate::rotation::{Headers, Rotating};
use crate::settings::{self, Prefect};

/// The maximum wait within a cycle that a server can ask for. A longer one fails the request
/// immediately, and every other request until it is over: the cycle would reach its deadline, which
/// does not show the server's reason.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A record of one request, for metrics.
#[derive(Debug, Clone)]
pub struct RequestRecord<'a> {
    /// The method.
    pub method: &'a str,
    /// The path, without ids.
    pub url_template: &'a str,
    /// The host.
    pub server_address: &'a str,
    /// The port.
    pub server_port: u16,
    /// The status, if there was an answer.
    pub status: Option<u16>,
    /// The error: a status or a short word.
    pub error_type: Option<&'a str>,
    /// The time from sending the first byte to reading the last one.
    pub duration: Duration,
}

/// Called for every request.
pub trait RequestObserver: Send + Sync {
    /// Called when a request has ended, successfully or not.
    fn on_request(&self, record: &RequestRecord<'_>);
}

/// A successful answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The decoded answer.
    pub answer: Answer,
    /// The server's time, in whole seconds; `None` for an answer from a cache (one with an `Age`).
    pub date: Option<Timestamp>,
}

fn url(base: &Url, call: &Call) -> Url {
    let mut url = base.clone();
    let name = utf8_percent_encode(&call.name, NON_ALPHANUMERIC).to_string();
    let path = call.template.replace("{name}", &name);
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    if !call.query.is_empty() {
        url.query_pairs_mut().extend_pairs(&call.query);
    }
    url
}

/// A client of one Prefect API.
pub struct Client {
    http: reqwest::Client,
    base: Url,
    max_retries: usize,
    csrf: Csrf,
    gate: Semaphore,
    max_concurrent_requests: usize,
    /// Until when the server has asked for no requests, and the answer in which it did.
    retry_after: Mutex<Option<(Instant, Error)>>,
    observer: Arc<dyn RequestObserver>,
    headers: Rotating,
}

impl Client {
    /// A client according to `settings`.
    ///
    /// # Errors
    ///
    /// If the TLS backend cannot be initialized.
    pub fn new(settings: &Prefect, observer: Arc<dyn RequestObserver>) -> Result<Self, Error> {
        let failed = |error: &reqwest::Error| {
            let url = &settings.api_url;
            Error::transport(url.as_str(), url, error)
        };
        let mut http = reqwest::Client::builder();
        if let Some(authorities) = &settings.authorities {
            http = http.tls_certs_only(authorities.clone());
        }
        if settings.skip_verify {
            http = http.tls_danger_accept_invalid_certs(true);
        }
        if let Some(own) = &settings.own_certificate {
            http = http.identity(settings::identity(own).map_err(|error| failed(&error))?);
        }
        let reload = settings.reload.as_ref();
        let headers = Rotating::new(
            authentication::headers(&settings.authentication),
            reload.map(|reload| reload.map(|read| authentication::headers(&read))),
        );
        let http = http
            .timeout(settings.request_timeout)
            .user_agent(concat!(
                env!("CARGO_PKG_NAME"),
                "/",
                env!("CARGO_PKG_VERSION")
            ))
            // A redirected POST would become a GET, so report the correct URL instead.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| failed(&error))?;
        Ok(Client {
            http,
            base: settings.api_url.clone(),
            max_retries: settings.max_retries,
            csrf: Csrf::new(settings.csrf_enabled),
            gate: Semaphore::new(settings.max_concurrent_requests),
            max_concurrent_requests: settings.max_concurrent_requests,
            retry_after: Mutex::new(None),
            observer,
            headers,
        })
    }

    /// The maximum number of concurrent requests. Others wait.
    pub fn max_concurrent_requests(&self) -> usize {
        self.max_concurrent_requests
    }

    /// Sends `request`, with retries if they can help.
    ///
    /// # Errors
    ///
    /// If there is no answer, or it does not come from Prefect.
    pub async fn execute(&self, request: &Request) -> Result<Reply, Error> {
        let call = request.call();
        let decode = |body: &[u8]| Answer::decode(request, body);
        let (answer, date) = self.request(&call, &decode).await?;
        Ok(Reply { answer, date })
    }

    /// Sends a request, with retries if they can help.
    async fn request<T>(&self, call: &Call, decode: Decode<'_, T>) -> Result<Dated<T>, Error> {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(500))
            .with_max_delay(Duration::from_secs(10))
            .with_max_times(self.max_retries)
            .with_jitter();
        (|| self.attempt(call, decode))
            .retry(backoff)
            .when(Error::is_transient)
            .adjust(|error, delay| match (delay, error.retry_after()) {
                (Some(_), Some(wait)) if wait > LONGEST_WAIT => None,
                (Some(delay), Some(wait)) => Some(delay.max(wait)),
                (delay, _) => delay,
            })
            .notify(|error, delay| {
                let wait_ms = delay.as_millis() as u64;
                tracing::debug!(%error, wait_ms, "the request is sent again");
            })
            .await
    }

    /// One attempt, and a second one if the server refuses a key that has been replaced since.
    async fn attempt<T>(&self, call: &Call, decode: Decode<'_, T>) -> Result<Dated<T>, Error> {
        self.headers.refresh().await;
        let used = self.headers.current();
        match self.attempt_with_csrf(call, decode).await {
            Err(error) if error.refuses_credentials() && self.headers.renew(&used).await => {
                self.attempt_with_csrf(call, decode).await
            }
            result => result,
        }
    }

    /// One attempt, and a second one with a CSRF token if the server requires it.
    async fn attempt_with_csrf<T>(
        &self,
        call: &Call,
        decode: Decode<'_, T>,
    ) -> Result<Dated<T>, Error> {
        self.csrf.prepare(|call| self.send_for_token(call)).await?;
        let generation = self.csrf.generation();
        match self.send(call, decode).await {
            Err(error) if error.asks_for_csrf() => {
                let send = |call| self.send_for_token(call);
                self.csrf.renew(generation, send).await?;
                self.send(call, decode).await
            }
            result => result,
        }
    }

    async fn send_for_token(&self, call: Call) -> Result<Dated<csrf::Answer>, Error> {
        let decode = |body: &[u8]| serde_json::from_slice(body);
        self.send(&call, &decode).await
    }

    /// Sends a request and reads its answer.
    async fn send<T>(&self, call: &Call, decode: Decode<'_, T>) -> Result<Dated<T>, Error> {
        let (method, template) = (&call.method, call.template);
        let span = tracing::debug_span!("request", otel.kind = "client", otel.name = %format_args!("{method} {template}"),
            http.request.method = %method, url.template = template, http.response.status_code = tracing::field::Empty);
        async {
            self.respect_retry_after().await?;
            // The semaphore lives as long as the client and is never closed.
            let _permit = self.gate.acquire().await.ok();
            let started = Instant::now();
            let mut status = None;
            let result = self.exchange(call, decode, &mut status).await;
            if let Some(status) = status {
                tracing::Span::current().record("http.response.status_code", status);
            }
            self.observe(call, status, result.as_ref().err(), started.elapsed());
            result
        }
        .instrument(span)
        .await
    }

    async fn exchange<T>(
        &self,
        call: &Call,
        decode: Decode<'_, T>,
        status: &mut Option<u16>,
    ) -> Result<Dated<T>, Error> {
        let url = url(&self.base, call);
        let own = self.headers.current();
        let Headers { map, secrets } = &*own;
        let mut request = self
            .http
            .request(call.method.clone(), url.clone())
            .headers(map.clone())
            .headers(self.csrf.headers());
        if let Some(body) = &call.body {
            request = request
                .header(reqwest::header::CONTENT_TYPE, "application/json")
                .body(body.to_string());
        }
        let shown = format!("{} {url}", call.method);
        let response = request
            .send()
            .await
            .map_err(|error| Error::transport(&shown, &url, &error))?;
        *status = Some(response.status().as_u16());
        if response.status() == StatusCode::OK {
            let date = date(response.headers());
            let text = body::read(response, &shown).await?;
            let value =
                decode(&text).map_err(|error| Error::body(&shown, &text, &error, secrets))?;
            return Ok((value, date));
        }
        let error = Error::status(&shown, response, secrets).await;
        if let Some(wait) = error.retry_after() {
            *lock(&self.retry_after) = Some((Instant::now() + wait, error.clone()));
        }
        Err(error)
    }

    /// While the server has asked for no requests, every request waits, or fails if the wait is
    /// long.
    async fn respect_retry_after(&self) -> Result<(), Error> {
        loop {
            let wait = match &*lock(&self.retry_after) {
                Some((until, error)) => match until.checked_duration_since(Instant::now()) {
                    Some(wait) if wait > LONGEST_WAIT => return Err(error.clone()),
                    Some(wait) => wait,
                    None => return Ok(()),
                },
                None => return Ok(()),
            };
            tokio::time::sleep(wait).await;
        }
    }

    fn observe(&self, call: &Call, status: Option<u16>, error: Option<&Error>, duration: Duration) {
        let error_type = error.map(Error::kind);
        self.observer.on_request(&RequestRecord {
            method: call.method.as_str(),
            url_template: call.template,
            server_address: self.base.host_str().unwrap_or_default(),
            server_port: self.base.port_or_known_default().unwrap_or_default(),
            status,
            error_type: error_type.as_deref(),
            duration,
        });
    }
}

/// How the body of an answer is read.
type Decode<'a, T> = &'a (dyn Fn(&[u8]) -> Result<T, serde_json::Error> + Sync);

/// The decoded answer, and the server's time.
type Dated<T> = (T, Option<Timestamp>);

/// The `Date` of an answer that does not come from a cache.
fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let date = headers.get(DATE).filter(|_| !headers.contains_key(AGE))?;
    http_date(date.to_str().ok()?)
}

/// An HTTP date as a timestamp.
fn http_date(text: &str) -> Option<Timestamp> {
    let time: SystemTime = httpdate::parse_http_date(text.trim()).ok()?;
    Timestamp::try_from(time).ok()
}

/// Locks `mutex`. Its content stays consistent if a holder panics.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
