//! The CSRF token: fetched on request or when the server asks for it, renewed before it ends.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use super::request::Call;
use super::{Client, Error, lock};

static TOKEN: HeaderName = HeaderName::from_static("prefect-csrf-token");
static CLIENT: HeaderName = HeaderName::from_static("prefect-csrf-client");

/// Where the server does not say how long a token holds (it says an hour).
const UNKNOWN_LIFETIME: Duration = Duration::from_secs(10 * 60);

#[derive(Deserialize)]
struct Answer {
    token: String,
    expiration: Option<Timestamp>,
}

struct Token {
    value: HeaderValue,
    renew_at: Instant,
}

pub(super) struct Csrf {
    client: String,
    wanted: AtomicBool,
    token: Mutex<Option<Token>>,
    /// Goes up with every new token.
    generation: AtomicU64,
    /// One fetch at a time.
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

    /// Sees to it that there is a good token, where one is wanted.
    pub(super) async fn prepare(&self, prefect: &Client) -> Result<(), Error> {
        if !self.wanted.load(Ordering::Relaxed) || self.is_good() {
            return Ok(());
        }
        let _one = self.fetching.lock().await;
        match self.is_good() {
            true => Ok(()),
            false => self.fetch(prefect).await,
        }
    }

    /// Which token is in use.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Fetches a token because the server refused that of `generation`, unless another
    /// request was quicker to do so.
    pub(super) async fn renew(&self, prefect: &Client, generation: u64) -> Result<(), Error> {
        let _one = self.fetching.lock().await;
        match self.generation() == generation {
            true => self.fetch(prefect).await,
            false => Ok(()),
        }
    }

    /// The headers of a request.
    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(token) = &*lock(&self.token)
            && let Ok(client) = HeaderValue::from_str(&self.client)
        {
            headers.insert(&TOKEN, token.value.clone());
            headers.insert(&CLIENT, client);
        }
        headers
    }

    fn is_good(&self) -> bool {
        lock(&self.token)
            .as_ref()
            .is_some_and(|token| token.renew_at > Instant::now())
    }

    async fn fetch(&self, prefect: &Client) -> Result<(), Error> {
        let call = Call {
            query: vec![("client", self.client.as_str().into())],
            ..Call::get("/csrf-token")
        };
        let decode = |body: &[u8]| serde_json::from_slice::<Answer>(body);
        let (answer, date) = match prefect.send(&call, &decode).await {
            Ok(answer) => answer,
            // 422 `CSRF protection is disabled.`: the server does not want a token. Prefect
            // Cloud does not have the path.
            Err(Error::Status {
                status: 404 | 405 | 422,
                ..
            }) => {
                tracing::info!(
                    "the server has CSRF protection off: PREFECT_CSRF_ENABLED can be left out"
                );
                self.wanted.store(false, Ordering::Relaxed);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        // `Date` has whole seconds: it is up to one second later.
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
        *lock(&self.token) = Some(Token { value, renew_at });
        self.wanted.store(true, Ordering::Relaxed);
        self.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }
}
