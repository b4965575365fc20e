//! Headers whose secrets are read again from their files, so that a new key needs no restart.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use reqwest::header::HeaderMap;
use tokio::task::JoinHandle;

use crate::secrets::Secrets;
use crate::settings::{self, Reload};

/// How often the files are read.
const EVERY: Duration = Duration::from_secs(5);

/// A file that cannot be read within this time is read later.
const PATIENCE: Duration = Duration::from_secs(2);

/// Headers with secrets, and those secrets.
#[derive(Debug, Default)]
pub(crate) struct Headers {
    /// The headers.
    pub(crate) map: HeaderMap,
    /// The secrets in them, which a server may repeat.
    pub(crate) secrets: Secrets,
}

impl Headers {
    /// Headers, and the secret that one of them was made from.
    pub(crate) fn new(map: HeaderMap, made_from: Option<&str>) -> Self {
        let values = map.values().filter(|value| value.is_sensitive());
        let values = values.filter_map(|value| value.to_str().ok());
        let secrets = Secrets::of(values.chain(made_from));
        Headers { map, secrets }
    }
}

/// The current headers.
pub(crate) struct Rotating {
    current: RwLock<Arc<Headers>>,
    /// What reads the files again; `None` if no secret is in a file.
    reload: Option<Reload<Headers>>,
    patience: Duration,
    last: tokio::sync::Mutex<Last>,
}

type Read = Result<Headers, settings::Error>;

/// The last time that the files were read.
struct Last {
    at: Instant,
    /// A read that has not ended in time. There is never a second one, because each blocks a
    /// thread.
    pending: Option<JoinHandle<Read>>,
}

impl Rotating {
    /// Begins with `first`.
    pub(crate) fn new(first: Headers, reload: Option<Reload<Headers>>) -> Self {
        Rotating {
            current: RwLock::new(Arc::new(first)),
            reload,
            patience: PATIENCE,
            last: tokio::sync::Mutex::new(Last {
                at: Instant::now(),
                pending: None,
            }),
        }
    }

    /// The headers to send.
    pub(crate) fn current(&self) -> Arc<Headers> {
        let current = self.current.read();
        Arc::clone(&current.unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the files again, if they have not been read for a while.
    pub(crate) async fn refresh(&self) {
        // If another request is reading them, its result is used as soon as it is known.
        if let Some(reload) = &self.reload
            && let Ok(mut last) = self.last.try_lock()
            && last.at.elapsed() >= EVERY
        {
            self.read(reload, &mut last).await;
        }
    }

    /// Reads the files again because a server refused `used`. `true` if there are other headers
    /// now.
    pub(crate) async fn renew(&self, used: &Arc<Headers>) -> bool {
        let Some(reload) = &self.reload else {
            return false;
        };
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        // Another request may have read them in the meantime.
        if Arc::ptr_eq(used, &self.current()) && last.at <= asked {
            self.read(reload, &mut last).await;
        }
        !Arc::ptr_eq(used, &self.current())
    }

    /// Reads the files. If that fails, the last good values are kept, which is logged once.
    async fn read(&self, reload: &Reload<Headers>, last: &mut Last) {
        let watched = reload.watched();
        let reload_again = reload.clone();
        let start = || tokio::task::spawn_blocking(move || reload_again.read());
        let pending = last.pending.get_or_insert_with(start);
        // A file system may hang.
        let read = tokio::time::timeout(self.patience, pending).await;
        last.at = Instant::now();
        if read.is_ok() {
            last.pending = None;
        }
        let problem = match read {
            Ok(Ok(Ok(headers))) => {
                if watched.note_success() {
                    tracing::info!("{}: the file can be read again", watched.names());
                }
                return self.replace(headers, reload);
            }
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!(
                "{}: the file could not be read within {} s",
                watched.names(),
                self.patience.as_secs_f64()
            ),
        };
        if watched.note_failure(&problem).is_none() {
            tracing::warn!(
                error = problem,
                "a secret cannot be read again from its file; the last value is used"
            );
        }
    }

    fn replace(&self, headers: Headers, reload: &Reload<Headers>) {
        if headers.map == self.current().map {
            return;
        }
        tracing::info!("{}: a new value is used", reload.watched().names());
        let current = self.current.write();
        *current.unwrap_or_else(PoisonError::into_inner) = Arc::new(headers);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use reqwest::header::HeaderValue;

    use super::*;
    use crate::settings::Error;

    fn headers(key: &str) -> Headers {
        let mut value = HeaderValue::from_str(key).unwrap();
        value.set_sensitive(true);
        Headers::new(
            [(reqwest::header::AUTHORIZATION, value)]
                .into_iter()
                .collect(),
            None,
        )
    }

    /// Headers that are read from `file`, and how often it was read.
    fn rotating(file: &Arc<Mutex<Option<String>>>) -> (Rotating, Arc<AtomicUsize>) {
        let reads = Arc::new(AtomicUsize::new(0));
        let (file, counted) = (Arc::clone(file), Arc::clone(&reads));
        let reload = Reload::new(vec!["KEY_FILE".to_owned()], move || {
            counted.fetch_add(1, Ordering::Relaxed);
            let key = file.lock().unwrap().clone();
            let gone = Error::Internal("the file is gone".to_owned());
            key.map(|key| headers(&key)).ok_or(gone)
        });
        (Rotating::new(headers("first"), Some(reload)), reads)
    }

    fn key(rotating: &Rotating) -> String {
        let value = rotating.current().map["authorization"].clone();
        value.to_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn a_refused_key_is_read_again_once_for_all_requests_that_used_it() {
        let file = Arc::new(Mutex::new(Some("second".to_owned())));
        let (rotating, reads) = rotating(&file);
        let used = rotating.current();
        let renewed = futures_util::future::join_all((0..8).map(|_| rotating.renew(&used)));
        assert_eq!(renewed.await, [true; 8]);
        assert_eq!(
            (key(&rotating).as_str(), reads.load(Ordering::Relaxed)),
            ("second", 1)
        );
        assert_eq!(rotating.current().secrets.hidden("second"), "******");
        let used = rotating.current();
        assert!(!rotating.renew(&used).await, "nothing new");
    }

    #[tokio::test]
    async fn while_the_file_is_gone_the_last_good_key_is_used() {
        let file = Arc::new(Mutex::new(None));
        let (rotating, _) = rotating(&file);
        let used = rotating.current();
        assert!(!rotating.renew(&used).await);
        assert_eq!(key(&rotating), "first");
        *file.lock().unwrap() = Some("second".to_owned());
        assert!(rotating.renew(&used).await);
        assert_eq!(key(&rotating), "second");
    }

    #[tokio::test]
    async fn a_file_that_hangs_blocks_one_thread_and_is_used_once_it_can_be_read() {
        let (answer, answers) = std::sync::mpsc::channel();
        let (answers, reads) = (Mutex::new(answers), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&reads);
        let reload = Reload::new(vec!["KEY_FILE".to_owned()], move || {
            counted.fetch_add(1, Ordering::Relaxed);
            answers.lock().unwrap().recv().unwrap();
            Ok(headers("second"))
        });
        let mut rotating = Rotating::new(headers("first"), Some(reload));
        rotating.patience = Duration::from_millis(10);
        let used = rotating.current();
        for _ in 0..3 {
            assert!(!rotating.renew(&used).await);
        }
        assert_eq!(reads.load(Ordering::Relaxed), 1);
        answer.send(()).unwrap();
        rotating.patience = Duration::from_secs(600);
        assert!(rotating.renew(&used).await);
        assert_eq!(key(&rotating), "second");
    }

    #[tokio::test]
    async fn files_are_not_read_for_every_request() {
        let file = Arc::new(Mutex::new(Some("second".to_owned())));
        let (rotating, reads) = rotating(&file);
        for _ in 0..100 {
            rotating.refresh().await;
        }
        assert_eq!(reads.load(Ordering::Relaxed), 0);
        rotating.last.lock().await.at -= EVERY;
        for _ in 0..100 {
            rotating.refresh().await;
        }
        assert_eq!(
            (key(&rotating).as_str(), reads.load(Ordering::Relaxed)),
            ("second", 1)
        );
    }
}
