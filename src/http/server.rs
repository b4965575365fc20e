//! Serves the routes, and protects the agent from misbehaving clients: the number of connections
//! and the time for each request and answer are limited.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt as _;

use super::activity::{Answer, Observed};
use super::connections::{Connections, Place};
use super::limits::Limits;
use super::web_config::{Client, Live, Security};
use crate::shutdown::Shutdown;

/// Maximum size of the head of a request, and of what is read ahead of it.
const HEAD_BYTES: usize = 64 * 1024;
/// Pause after a failure to accept, which is most often due to too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves `router` until `shutdown`, and then finishes the answers in progress.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    security: Security,
    limits: Limits,
    mut shutdown: Shutdown,
) {
    let live = security.live();
    tokio::spawn(security.reload(limits.reload, shutdown.clone()));
    let mut connections = Connections::new(limits.connections);
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.wait() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                connections.close_one();
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = tokio::select! {
            () = shutdown.wait() => break,
            place = connections.admit(peer.ip()) => place,
        };
        let connection = Connection {
            router: router.clone(),
            live: live.clone(),
            peer,
            place,
            watcher: graceful.watcher(),
        };
        tokio::spawn(connection.run(stream, limits));
    }
    graceful.shutdown().await;
}

struct Connection {
    router: Router,
    live: Live,
    peer: SocketAddr,
    place: Place,
    watcher: Watcher,
}

impl Connection {
    async fn run(self, stream: TcpStream, limits: Limits) {
        let (peer, activity) = (self.peer, Arc::clone(self.place.activity()));
        tokio::select! {
            result = self.converse(stream) => if let Err(error) = result {
                tracing::debug!(%peer, %error, "a connection ended early");
            },
            reason = activity.overdue(&limits) => {
                tracing::debug!(%peer, reason, "a connection was closed");
            }
        }
    }

    async fn converse(self, stream: TcpStream) -> Result<(), Box<dyn Error + Send + Sync>> {
        // Answers are written at once: there is nothing to wait for.
        stream.set_nodelay(true)?;
        let protection = self.live.current();
        let Some(tls) = &protection.tls else {
            return Ok(self.answer(stream, false).await?);
        };
        let (stream, is_verified) = tls.accept(stream).await?;
        Ok(self.answer(stream, is_verified).await?)
    }

    async fn answer<T>(self, stream: T, is_verified: bool) -> hyper::Result<()>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let client = Client {
            address: self.peer.ip(),
            is_verified,
        };
        let (router, place) = (self.router, self.place);
        let stream = Observed::new(stream, Arc::clone(place.activity()));
        let service = service_fn(move |mut request: Request<Incoming>| {
            let answering = place.activity().answering();
            request.extensions_mut().insert(client);
            let answer = router.clone().oneshot(request);
            async move {
                let answer = answer.await;
                answer.map(|answer| answer.map(|body| Answer::new(body, answering)))
            }
        });
        // `Activity` has a timeout for the head.
        let connection = http1::Builder::new()
            .header_read_timeout(None::<Duration>)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        self.watcher.watch(connection).await
    }
}
