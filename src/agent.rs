//! The agent: wires the modules, and runs the cycles beside the publisher.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::cycles::{self, Cycles};
use crate::export::prometheus::Page;
use crate::export::{self, Exporters};
use crate::http::{self, RequestMetrics};
use crate::metrics::Options;
use crate::metrics::agent::SERVED_DURATION;
use crate::publisher::{Publisher, Report};
use crate::settings::{self, Settings};
use crate::shutdown::Shutdown;

/// The end may take five seconds in all.
const LAST_PUSH: Duration = Duration::from_secs(3);
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port cannot be had.
    #[error(
        "METRICS_ADDR and METRICS_PORT: cannot listen on {address}: {reason}; is another process using the port?"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        reason: std::io::Error,
    },
    /// A setting names what is not there.
    #[error(transparent)]
    Settings(#[from] settings::Error),
    /// An exporter cannot be built.
    #[error(transparent)]
    Export(#[from] export::Error),
    /// There can be no cycles.
    #[error(transparent)]
    Cycles(#[from] cycles::Error),
}

/// One agent: cycles, and a publisher that does not wait for them.
pub struct Agent {
    cycles: Cycles,
    publisher: Publisher,
    /// What was published last.
    last: Report,
    exporters: Arc<Exporters>,
    requests: RequestMetrics,
    interval: Duration,
    address: SocketAddr,
}

impl Agent {
    /// An agent by `settings` and its port, bound; nothing is asked of Prefect yet.
    ///
    /// # Errors
    ///
    /// When the port is taken, or an exporter's settings do not fit together.
    pub async fn new(settings: &Settings) -> Result<(Self, TcpListener), Error> {
        let options = Arc::new(Options::new(settings)?);
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
        let interval = settings.sampling.interval;
        let mut publisher = Publisher::new(
            Arc::clone(&exporters),
            Arc::clone(&options),
            requests.clone(),
            interval,
        );
        let mut cycles = Cycles::new(settings, options, Arc::clone(&exporters))?;
        // What a checkpoint holds is shown before anything is counted.
        let restored = cycles.restored();
        publisher.publish(&restored).await;
        let agent = Agent {
            cycles,
            publisher,
            last: restored,
            exporters,
            requests,
            interval,
            address,
        };
        Ok((agent, listener))
    }

    /// Where `/metrics` is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The page of `/metrics`, where it is served.
    pub fn page(&self) -> Option<Page> {
        self.exporters.page()
    }

    /// One cycle, published.
    pub async fn cycle(&mut self) {
        self.last = self.cycles.next().await;
        self.publisher.publish(&self.last).await;
    }

    /// Runs until `shutdown`: a cycle at once and then every interval. Then one last push.
    pub async fn run(self, listener: TcpListener, mut shutdown: Shutdown) {
        let (mut cycles, publisher) = (self.cycles, self.publisher);
        let (stop_serving, stopped) = Shutdown::new();
        let page = self.exporters.page();
        let router = http::router(page, cycles.readiness.clone(), self.requests);
        let server = tokio::spawn(http::serve(listener, router, stopped));
        let (reports, published) = watch::channel(self.last);
        let publisher = tokio::spawn(publisher.run(published));
        let mut ticks = tokio::time::interval(self.interval);
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
        let last = cycles.end().await;
        drop(reports);
        stop_serving.now();
        _ = tokio::time::timeout(LAST_ANSWERS, server).await;
        match publisher.await {
            Ok(publisher) => publisher.finish(&last, LAST_PUSH).await,
            Err(error) => tracing::error!(%error, "the publisher ended early"),
        }
    }
}
