//! Serves the routes, whatever a client does: connections are bounded, and one that sends no
//! request for a while is closed.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::shutdown::Shutdown;

/// Scrapers and probes need a few.
const CONNECTIONS: usize = 64;
/// For the head of a request; a kept-alive connection may be idle so long.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// For an answer: a client that reads nothing is let go.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);
/// A failure to accept is most often one of too many open files, which passes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves `router` until `shutdown`, and lets answers under way finish.
pub async fn serve(listener: TcpListener, router: Router, mut shutdown: Shutdown) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    loop {
        let accept = async {
            // Closed never.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = shutdown.wait() => break,
            accepted = accept => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = graceful.watch(server.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            let _place = place;
            if let Ok(Err(error)) = tokio::time::timeout(ANSWER_TIMEOUT, connection).await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
    graceful.shutdown().await;
}
