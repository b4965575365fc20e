//! Serves the routes, and protects the agent from misbehaving clients: the number of connections
//! and the time for each request and answer are limited.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt as _;

use super::activity::{Answer, Observed};
use super::connections::{Connections, Place};
use super::limits::Limits;
use super::web_config::{Client, Live, Protection, Security};
use crate::shutdown::Shutdown;

/// Maximum size of the head of a request, and of what is read ahead of it.
const HEAD_BYTES: usize = 64 * 1024;
/// The first byte of a connection over TLS.
const TLS_HANDSHAKE: [u8; 1] = [0x16];
/// The answer to a client that does not use TLS on a port with TLS.
const NOT_TLS: &[u8] = b"HTTP/1.0 400 Bad Request\r\ncontent-type: text/plain\r\n\r\nthis port uses TLS: use https:// instead of http://\n";
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

    async fn converse(self, mut stream: TcpStream) -> Result<(), Box<dyn Error + Send + Sync>> {
        // Answers are written at once: there is nothing to wait for.
        stream.set_nodelay(true)?;
        let protection = self.live.current();
        let Some(tls) = &protection.tls else {
            return Ok(self.answer(stream, &protection, false).await?);
        };
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first != TLS_HANDSHAKE {
            // A connection that is closed before its request is read is reset.
            _ = stream.read(&mut [0; 4096]).await?;
            stream.write_all(NOT_TLS).await?;
            return Ok(stream.shutdown().await?);
        }
        let (stream, is_verified) = tls.accept(stream).await?;
        Ok(self.answer(stream, &protection, is_verified).await?)
    }

    async fn answer<T>(
        self,
        stream: T,
        protection: &Arc<Protection>,
        is_verified: bool,
    ) -> hyper::Result<()>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let client = Client {
            address: self.peer.ip(),
            is_verified,
        };
        let (router, place, live) = (self.router, self.place, self.live);
        let stream = Observed::new(stream, Arc::clone(place.activity()));
        let service = service_fn(|mut request: Request<Incoming>| {
            let answering = place.activity().answering();
            request.extensions_mut().insert(client);
            let answer = router.clone().oneshot(request);
            // The client's certificate was verified as configured before the last change.
            let is_outdated = !Arc::ptr_eq(protection, &live.current());
            async move {
                let mut answer = answer.await?;
                if is_outdated {
                    let close = HeaderValue::from_static("close");
                    answer.headers_mut().insert(CONNECTION, close);
                }
                Ok::<_, Infallible>(answer.map(|body| Answer::new(body, answering)))
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
