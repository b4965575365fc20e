//! The Prometheus bridge: the text of `/metrics`, rendered when it is first asked for after metrics
//! were published.

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use prometheus::{Encoder as _, TextEncoder};
use tokio::task::spawn_blocking;

use super::Delivered;
use super::outlet::Outlets;
use super::shown::Shown;
use crate::blocking::in_thread;
use crate::core::clock::before;

/// The content type of the text format.
/// <https://prometheus.io/docs/instrumenting/exposition_formats/>
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The text of `/metrics`.
#[derive(Clone)]
pub struct Page {
    pub(super) source: Arc<Source>,
    shown: Shown,
}

/// What the text is rendered from.
pub(super) struct Source {
    outlets: Outlets,
    /// Locked while the values of the instruments are replaced or read, so that a text never shows
    /// two publications.
    values: Mutex<()>,
    /// The number of the publication that the instruments show.
    published: AtomicU64,
    rendered: RwLock<Rendered>,
    /// One scrape renders, and the others wait for it.
    turn: tokio::sync::Mutex<()>,
}

/// A rendered text.
#[derive(Debug, Clone, Default)]
pub struct Rendered {
    pub(super) text: Bytes,
    /// The text in gzip, once it has been asked for; `None` if it cannot be compressed.
    packed: Arc<OnceLock<Option<Bytes>>>,
    /// The number of the publication that it shows.
    pub(super) number: u64,
}

impl Page {
    fn new(outlets: Outlets) -> Self {
        let source = Source {
            outlets,
            values: Mutex::default(),
            published: AtomicU64::default(),
            rendered: RwLock::default(),
            turn: tokio::sync::Mutex::default(),
        };
        Page {
            source: Arc::new(source),
            shown: Shown::default(),
        }
    }

    /// Returns the text for a scrape. Its publication then counts as delivered. Rendering may take seconds
    /// for hundreds of thousands of series.
    pub fn scrape(&self) -> Bytes {
        let rendered = self.source.render();
        self.delivered(&rendered);
        rendered.text
    }

    /// The text of the last publication. It is rendered only once, and not on the threads that run
    /// the cycles.
    pub async fn current(&self) -> Rendered {
        if let Some(rendered) = self.source.current() {
            return rendered;
        }
        let _turn = self.source.turn.lock().await;
        if let Some(rendered) = self.source.current() {
            return rendered;
        }
        let source = Arc::clone(&self.source);
        let rendered = in_thread("render", move || source.render()).await;
        rendered.unwrap_or_else(|error| {
            tracing::error!(%error, "cannot render /metrics; the previous text is served");
            self.source.last()
        })
    }

    /// Notes that a scrape is answered with this text.
    pub fn delivered(&self, rendered: &Rendered) {
        self.shown.note(rendered.number);
    }
}

impl Source {
    pub(super) fn last(&self) -> Rendered {
        let rendered = self.rendered.read();
        rendered.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was rendered last, if it shows the last publication.
    fn current(&self) -> Option<Rendered> {
        let published = self.published.load(Ordering::Acquire);
        Some(self.last()).filter(|rendered| rendered.number == published)
    }

    /// Renders the current values of the instruments, unless that has been done.
    pub(super) fn render(&self) -> Rendered {
        let _values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rendered) = self.current() {
            return rendered;
        }
        let last = self.last();
        // Room for the text to grow by a little without being copied to twice the room.
        let mut text = Vec::with_capacity(last.text.len().saturating_mul(17) / 16);
        let mut families = self.outlets.gather();
        families.sort_by(|one, other| one.name().cmp(other.name()));
        // What is encoded is dropped: families take several times the memory of their text.
        for family in families {
            if let Err(error) = TextEncoder::new().encode(&[family], &mut text) {
                tracing::error!(%error, "cannot render /metrics; the previous text is served");
                return last;
            }
        }
        text.shrink_to_fit();
        let new = Rendered {
            text: Bytes::from(text),
            packed: Arc::default(),
            number: self.published.load(Ordering::Acquire),
        };
        let mut rendered = self
            .rendered
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        rendered.clone_from(&new);
        new
    }
}

impl Rendered {
    /// The text.
    pub fn text(&self) -> Bytes {
        self.text.clone()
    }

    /// The text in gzip. It is compressed only once, and not on the threads that run the cycles,
    /// so that scrapes do not slow them down.
    pub async fn gzip(&self) -> Option<Bytes> {
        if let Some(packed) = self.packed.get() {
            return packed.clone();
        }
        let (text, packed) = (self.text.clone(), Arc::clone(&self.packed));
        // Other scrapes that arrive in the meantime wait for the first one.
        let packing = spawn_blocking(move || packed.get_or_init(|| gzip(&text)).clone());
        packing.await.ok().flatten()
    }
}

fn gzip(text: &[u8]) -> Option<Bytes> {
    // Text of this kind is hardly smaller at higher levels, which take much longer.
    let packed = Vec::with_capacity(text.len() / 8);
    let mut encoder = GzEncoder::new(packed, Compression::new(3));
    encoder.write_all(text).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

/// The page of an exporter that is scraped.
pub(super) struct Bridge(Page);

impl Bridge {
    pub(super) fn new(outlets: Outlets) -> Self {
        Bridge(Page::new(outlets))
    }

    pub(super) fn page(&self) -> Page {
        self.0.clone()
    }

    /// What has been scraped.
    pub(super) fn shown(&self) -> &Shown {
        &self.0.shown
    }

    /// When it was last scraped.
    pub(super) fn delivered(&self) -> Delivered {
        let scraped = self.0.shown.since();
        Delivered {
            name: "prometheus",
            target: "/metrics".to_owned(),
            pushes: None,
            last_success: scraped.map(|since| before(Timestamp::now(), since)),
            last_error: None,
            failing_since: None,
        }
    }

    /// Replaces the values of the instruments with those of the publication `number`.
    pub(super) fn publish(&self, number: u64, replace: impl FnOnce()) {
        let source = &self.0.source;
        let _values = source.values.lock().unwrap_or_else(PoisonError::into_inner);
        replace();
        source.published.store(number, Ordering::Release);
    }
}
