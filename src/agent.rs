//! The agent: wires the modules, and runs the cycles and the publisher concurrently.

use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tracing::Instrument as _;

use crate::cycles::{self, Cycles};
use crate::export::prometheus::Page;
use crate::export::{self, Exporters};
use crate::http::{self, Limits, RequestMetrics, Security};
use crate::metrics::Options;
use crate::metrics::agent::SERVED_DURATION;
use crate::publisher::{Publisher, Report};
use crate::settings::{self, Settings};
use crate::shutdown::Shutdown;
use crate::status;
use crate::workspaces::Workspaces;

/// The times within which the steps of the shutdown end, counted from its beginning. The whole
/// process must end within five seconds.
const LAST_CHECKPOINT: Duration = Duration::from_millis(1_500);
const LAST_PUSH: Duration = Duration::from_secs(3);
const LAST_SPANS: Duration = Duration::from_millis(3_500);
/// Answers in progress end within this time. This takes place during the last push.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port cannot be used.
    #[error(
        "METRICS_ADDR and METRICS_PORT: cannot listen on {address}: {reason}; is another process using the port?"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        reason: std::io::Error,
    },
    /// A setting refers to something that does not exist.
    #[error(transparent)]
    Settings(#[from] settings::Error),
    /// An exporter cannot be built.
    #[error(transparent)]
    Export(#[from] export::Error),
    /// Cycles cannot be started.
    #[error(transparent)]
    Cycles(#[from] cycles::Error),
}

/// The end of an agent.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// When it was asked to end.
    asked: Instant,
}

impl Ended {
    /// The time that is left for sending the last spans and logs.
    pub fn left(&self) -> Duration {
        LAST_SPANS.saturating_sub(self.asked.elapsed())
    }
}

/// One agent: the cycles of each workspace, and a publisher that does not wait for them.
pub struct Agent {
    workspaces: Workspaces,
    /// The last published reports.
    last: Vec<Report>,
    exporters: Arc<Exporters>,
    requests: RequestMetrics,
    latest: status::Latest,
    security: Security,
    interval: Duration,
    address: SocketAddr,
}

impl Agent {
    /// Creates an agent according to `settings`, and binds its port. No request is sent to Prefect
    /// yet.
    ///
    /// # Errors
    ///
    /// If the port is in use, or the settings of an exporter contradict each other.
    pub async fn new(settings: &Settings) -> Result<(Self, TcpListener), Error> {
        let options = Arc::new(Options::new(settings)?);
        let security = Security::load(&settings.web)?;
        let address = settings.metrics_address;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|reason| Error::Listen { address, reason })?;
        let address = listener.local_addr().unwrap_or(address);
        let exporters = Arc::new(Exporters::new(settings, &options)?);
        let requests = RequestMetrics::new(
            exporters.recorder(&SERVED_DURATION),
            options.common().to_vec(),
        );
        let exporting = Arc::clone(&exporters);
        let mut workspaces =
            Workspaces::new(settings, options, exporting, requests.clone()).await?;
        // The content of the checkpoints is published before anything is counted.
        let restored = workspaces.restored();
        workspaces.publisher.publish(&restored).await;
        let agent = Agent {
            latest: workspaces.publisher.status(),
            workspaces,
            last: restored,
            exporters,
            requests,
            security,
            interval: settings.sampling.interval,
            address,
        };
        Ok((agent, listener))
    }

    /// The address at which `/metrics` is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What protects the endpoints, in words.
    pub fn security(&self) -> String {
        self.security.describe()
    }

    /// The page for `/metrics`, if it is enabled.
    pub fn page(&self) -> Option<Page> {
        self.exporters.page()
    }

    /// The status, as `/status` serves it.
    pub fn status(&self) -> status::Latest {
        self.latest.clone()
    }

    /// Runs one cycle of each workspace and publishes the results.
    pub async fn cycle(&mut self) {
        self.last = self.workspaces.cycle().await;
        self.workspaces.publisher.publish(&self.last).await;
    }

    /// Runs until `shutdown`: the first cycle immediately, then one per interval. Then sends a last
    /// push. The shutdown takes less than five seconds, whatever does not respond.
    pub async fn run(self, listener: TcpListener, mut shutdown: Shutdown) -> Ended {
        let Workspaces {
            all,
            publisher,
            readiness,
        } = self.workspaces;
        let (stop_serving, stopped) = Shutdown::new();
        let router = http::router(
            self.exporters.page(),
            publisher.published.clone(),
            self.latest,
            readiness,
            self.requests,
            &self.security,
        );
        let limits = Limits::default();
        let server = tokio::spawn(http::serve(
            listener,
            router,
            self.security,
            limits,
            stopped,
        ));
        let (mut sampling, mut reports) = (Vec::new(), Vec::new());
        for (workspace, last) in all.into_iter().zip(self.last) {
            let (sender, receiver) = watch::channel(last);
            reports.push(receiver);
            let span = workspace.span();
            let sample = sample(workspace.cycles, self.interval, sender, shutdown.clone());
            sampling.push(tokio::spawn(sample.instrument(span)));
        }
        let publisher = tokio::spawn(publisher.run(reports));
        shutdown.wait().await;
        let ended = Ended {
            asked: Instant::now(),
        };
        let last = futures_util::future::join_all(sampling).await;
        let last: Result<Vec<_>, _> = last.into_iter().collect();
        let last = last.unwrap_or_else(|error| resume_unwind(error.into_panic()));
        stop_serving.now();
        let answers = tokio::time::timeout(LAST_ANSWERS, server);
        let push = push_last(publisher, &last, ended.asked + LAST_PUSH);
        _ = tokio::join!(answers, push);
        ended
    }
}

/// Runs the cycles of a workspace until `shutdown`. Returns the last report.
async fn sample(
    mut cycles: Cycles,
    interval: Duration,
    reports: watch::Sender<Report>,
    mut shutdown: Shutdown,
) -> Report {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            () = shutdown.wait() => break,
            _ = ticks.tick() => {}
        }
        tokio::select! {
            () = shutdown.wait() => break,
            report = cycles.next() => {
                reports.send_replace(report);
            }
        }
    }
    cycles.end(LAST_CHECKPOINT).await
}

/// Pushes `last` as soon as the publisher has ended. All of this ends at `end`.
async fn push_last(publisher: JoinHandle<Publisher>, last: &[Report], end: Instant) {
    match tokio::time::timeout_at(end.into(), publisher).await {
        Ok(Ok(publisher)) => {
            let left = end.saturating_duration_since(Instant::now());
            publisher.finish(last, left).await;
        }
        Ok(Err(error)) => tracing::error!(%error, "the publisher ended early"),
        Err(_) => tracing::warn!("the publisher does not end; there is no last push"),
    }
}
