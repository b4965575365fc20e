//! The CSRF token: fetched if it is enabled or if the server requires it, renewed before it
//! expires.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use super::error::Error;
use super::request::Call;

static TOKEN: HeaderName = HeaderName::from_static("prefect-csrf-token");
static CLIENT: HeaderName = HeaderName::from_static("prefect-csrf-client");

/// The lifetime of a token if the server does not report one. Normally it reports an hour.
const UNKNOWN_LIFETIME: Duration = Duration::from_secs(10 * 60);

/// The answer to the request for a token.
#[derive(Deserialize)]
pub(super) struct Answer {
    token: String,
    expiration: Option<Timestamp>,
}

/// The answer, and the server's time.
type Dated = (Answer, Option<Timestamp>);

struct Token {
    value: HeaderValue,
    renew_at: Instant,
}

pub(super) struct Csrf {
    client: String,
    wanted: AtomicBool,
    token: Mutex<Option<Token>>,
    /// Increases with every new token.
    generation: AtomicU64,
    /// Ensures that only one request fetches a token.
    fetching: tokio::sync::Mutex<()>,
}

impl Csrf {
    pub(super) fn new(wanted: bool) -> Self {
        Csrf {
            client: uuid::Uuid::new_v4().to_string(),
            wanted: AtomicBool::new(wanted),
            token: Mutex::new(None),
            generation: AtomicU64::new(0),
            fetching: tokio::sync::Mutex::new(()),
        }
    }

    /// Ensures that there is a valid token, if one is needed. `send` requests one.
    pub(super) async fn prepare<F>(&self, send: impl FnOnce(Call) -> F) -> Result<(), Error>
    where
        F: Future<Output = Result<Dated, Error>>,
    {
        if !self.wanted.load(Ordering::Relaxed) || self.is_good() {
            return Ok(());
        }
        let _one = self.fetching.lock().await;
        match self.is_good() {
            true => Ok(()),
            false => self.fetch(send).await,
        }
    }

    /// The generation of the current token.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Fetches a token because the server refused the one of `generation`, unless another request
    /// has already done so.
    pub(super) async fn renew<F>(
        &self,
        generation: u64,
        send: impl FnOnce(Call) -> F,
    ) -> Result<(), Error>
    where
        F: Future<Output = Result<Dated, Error>>,
    {
        let _one = self.fetching.lock().await;
        match self.generation() == generation {
            true => self.fetch(send).await,
            false => Ok(()),
        }
    }

    /// The headers of a request.
    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(token) = &*self.token()
            && let Ok(client) = HeaderValue::from_str(&self.client)
        {
            headers.insert(&TOKEN, token.value.clone());
            headers.insert(&CLIENT, client);
        }
        headers
    }

    fn token(&self) -> MutexGuard<'_, Option<Token>> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_good(&self) -> bool {
        self.token()
            .as_ref()
            .is_some_and(|token| token.renew_at > Instant::now())
    }

    async fn fetch<F>(&self, send: impl FnOnce(Call) -> F) -> Result<(), Error>
    where
        F: Future<Output = Result<Dated, Error>>,
    {
        let call = Call {
            query: vec![("client", self.client.as_str().into())],
            ..Call::get("/csrf-token")
        };
        let (answer, date) = match send(call).await {
            Ok(answer) => answer,
            // 422 `CSRF protection is disabled.`: the server does not use tokens. Prefect Cloud
            // does not have the path.
            Err(Error::Status {
                status: 404 | 405 | 422,
                ..
            }) => {
                tracing::info!(
                    "CSRF protection is disabled on the server; PREFECT_CSRF_ENABLED is not needed"
                );
                self.wanted.store(false, Ordering::Relaxed);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        // `Date` is truncated to whole seconds: the server's time is up to one second later.
        let date = date.and_then(|date| date.checked_add(Duration::from_secs(1)).ok());
        let lifetime = answer
            .expiration
            .and_then(|end| {
                Duration::try_from(end.duration_since(date.unwrap_or_else(Timestamp::now))).ok()
            })
            .unwrap_or(UNKNOWN_LIFETIME);
        let mut value = HeaderValue::from_str(&answer.token)
            .map_err(|_| Error::unusable("GET /csrf-token", "the token is not a header value"))?;
        value.set_sensitive(true);
        let renew_at = Instant::now() + lifetime.mul_f64(0.9);
        *self.token() = Some(Token { value, renew_at });
        self.wanted.store(true, Ordering::Relaxed);
        self.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }
}
