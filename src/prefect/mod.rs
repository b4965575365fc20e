//! Prefect's REST API as a typed client.
//!
//! [`Client`] sends one request at a time with everything that belongs to it (credentials,
//! CSRF token, time-out, retries, a bound on the answer's size); [`list`] reads whole lists
//! page by page; [`filter`] writes the filters that the agent sends. The objects themselves
//! are those of [`crate::snapshot`].

mod body;
mod calls;
mod clock;
mod csrf;
mod error;
pub mod filter;
pub mod list;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use backon::{ExponentialBuilder, Retryable as _};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use secrecy::ExposeSecret as _;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tracing::Instrument as _;

pub use clock::Clock;
use csrf::Csrf;
pub use error::Error;

use crate::settings::{Credentials, Prefect};

/// A wait that the server asks for is kept up to this; a longer one fails the request at
/// once, and every other until it is over.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// One request as it went, for whoever measures them.
#[derive(Debug, Clone)]
pub struct RequestRecord<'a> {
    /// The method.
    pub method: &'a str,
    /// The path, ids left out.
    pub url_template: &'a str,
    /// The host.
    pub server_address: &'a str,
    /// The port.
    pub server_port: u16,
    /// The status, where there was an answer.
    pub status: Option<u16>,
    /// What went wrong: a status or a short word.
    pub error_type: Option<&'a str>,
    /// From the first byte sent to the last one read.
    pub duration: Duration,
}

/// Is told of every request.
pub trait RequestObserver: Send + Sync {
    /// A request is done, one way or the other.
    fn on_request(&self, record: &RequestRecord<'_>);
}

/// What is asked of the API.
struct Call<'a> {
    method: Method,
    /// The path; `{name}` in it stands for `name`.
    template: &'a str,
    name: &'a str,
    query: &'a [(&'a str, &'a str)],
    body: Option<&'a serde_json::Value>,
}

impl<'a> Call<'a> {
    fn new(method: Method, template: &'a str) -> Self {
        Call {
            method,
            template,
            name: "",
            query: &[],
            body: None,
        }
    }

    fn url(&self, base: &Url) -> Url {
        let mut url = base.clone();
        let name = utf8_percent_encode(self.name, NON_ALPHANUMERIC).to_string();
        let path = self.template.replace("{name}", &name);
        url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(self.query);
        }
        url
    }
}

/// A client of one Prefect API.
pub struct Client {
    http: reqwest::Client,
    base: Url,
    max_retries: usize,
    csrf: Csrf,
    gate: Semaphore,
    held_back: Mutex<Option<(Instant, Error)>>,
    clock: Clock,
    paging: list::Paging,
    observer: Arc<dyn RequestObserver>,
}

impl Client {
    /// A client by `settings`.
    ///
    /// # Errors
    ///
    /// When the TLS backend cannot be started.
    pub fn new(settings: &Prefect, observer: Arc<dyn RequestObserver>) -> Result<Self, Error> {
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization(&settings.credentials) {
            headers.insert(AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .timeout(settings.request_timeout)
            .user_agent(concat!(
                env!("CARGO_PKG_NAME"),
                "/",
                env!("CARGO_PKG_VERSION")
            ))
            // A redirected POST becomes a GET: better to say what the right URL is.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Error::transport(settings.api_url.as_str(), &error))?;
        Ok(Client {
            http,
            base: settings.api_url.clone(),
            max_retries: settings.max_retries,
            csrf: Csrf::new(settings.csrf_enabled),
            gate: Semaphore::new(settings.max_concurrent_requests),
            held_back: Mutex::new(None),
            clock: Clock::default(),
            paging: list::Paging {
                enabled: settings.pagination_enabled,
                limit: settings.pagination_limit,
                side_by_side: settings.max_concurrent_requests,
            },
            observer,
        })
    }

    /// The server's clock, as its answers tell it.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Whether lists are read to their end.
    pub fn reads_every_page(&self) -> bool {
        self.paging.enabled
    }

    /// The server's version; `None` where it answers but does not tell (Prefect Cloud).
    ///
    /// # Errors
    ///
    /// When Prefect does not answer, or not to us.
    pub async fn version(&self) -> Result<Option<Arc<str>>, Error> {
        let call = Call::new(Method::GET, "/admin/version");
        match self.request(&call).await {
            Ok(version) => Ok(Some(version)),
            Err(Error::Status {
                status: 404 | 405, ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<T, Error> {
        self.request(&Call {
            body: Some(body),
            ..Call::new(Method::POST, path)
        })
        .await
    }

    /// One request, tried again where that can help.
    async fn request<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, Error> {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(500))
            .with_max_delay(Duration::from_secs(10))
            .with_max_times(self.max_retries)
            .with_jitter();
        (|| self.attempt(call))
            .retry(backoff)
            .when(Error::is_transient)
            .adjust(|error, delay| match (delay, error.retry_after()) {
                (Some(_), Some(wait)) if wait > LONGEST_WAIT => None,
                (Some(delay), Some(wait)) => Some(delay.max(wait)),
                (delay, _) => delay,
            })
            .notify(|error, delay| tracing::debug!(%error, ?delay, "will try again"))
            .await
    }

    /// One try, and a second one with a CSRF token where the server asks for one.
    async fn attempt<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, Error> {
        self.csrf.prepare(self).await?;
        let generation = self.csrf.generation();
        match self.send(call).await {
            Err(error) if error.asks_for_csrf() => {
                self.csrf.renew(self, generation).await?;
                self.send(call).await
            }
            result => result,
        }
    }

    /// Sends a request and reads its answer.
    async fn send<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, Error> {
        let (method, template) = (&call.method, call.template);
        let span = tracing::debug_span!("request", otel.kind = "client", otel.name = %format_args!("{method} {template}"),
            http.request.method = %method, url.template = template, http.response.status_code = tracing::field::Empty);
        async {
            self.wait_while_held_back().await?;
            // Closed never: the semaphore lives as long as the client.
            let _place = self.gate.acquire().await.ok();
            let started = Instant::now();
            let mut status = None;
            let result = self.exchange(call, &mut status).await;
            if let Some(status) = status {
                tracing::Span::current().record("http.response.status_code", status);
            }
            self.observe(call, status, result.as_ref().err(), started.elapsed());
            result
        }
        .instrument(span)
        .await
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        call: &Call<'_>,
        status: &mut Option<u16>,
    ) -> Result<T, Error> {
        let url = call.url(&self.base);
        let mut request = self
            .http
            .request(call.method.clone(), url.clone())
            .headers(self.csrf.headers());
        if let Some(body) = call.body {
            request = request
                .header(reqwest::header::CONTENT_TYPE, "application/json")
                .body(body.to_string());
        }
        let shown = format!("{} {url}", call.method);
        let response = request
            .send()
            .await
            .map_err(|error| Error::transport(&shown, &error))?;
        self.clock.observe(response.headers());
        *status = Some(response.status().as_u16());
        if response.status() == StatusCode::OK {
            let text = body::read(response, &shown).await?;
            return serde_json::from_slice(&text)
                .map_err(|error| Error::body(&shown, &text, &error));
        }
        let error = Error::status(&shown, response).await;
        if let Some(wait) = error.retry_after() {
            *lock(&self.held_back) = Some((Instant::now() + wait, error.clone()));
        }
        Err(error)
    }

    /// While the server has asked to be left alone, every request waits, or fails where the
    /// wait is long.
    async fn wait_while_held_back(&self) -> Result<(), Error> {
        loop {
            let wait = match &*lock(&self.held_back) {
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

    fn observe(
        &self,
        call: &Call<'_>,
        status: Option<u16>,
        error: Option<&Error>,
        duration: Duration,
    ) {
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

fn authorization(credentials: &Credentials) -> Option<HeaderValue> {
    use base64::Engine as _;
    let text = match credentials {
        Credentials::None => return None,
        Credentials::Bearer(key) => format!("Bearer {}", key.expose_secret()),
        Credentials::Basic { user, password } => {
            let pair = format!("{user}:{}", password.expose_secret());
            format!(
                "Basic {}",
                base64::engine::general_purpose::STANDARD.encode(pair)
            )
        }
    };
    // Both forms are ASCII: the settings see to it for the key.
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Locks `mutex`. What is behind it stays whole if a holder panics.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
