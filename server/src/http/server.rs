//! Accepting HTTP/1 connections, so many at a time, and letting go of them in order.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use dlog_proto::transport::HostPort;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{NodeStatus, routes};
use crate::address::resolve;
use crate::signals::Stop;

/// More connections wait to be accepted.
const CONNECTIONS_MAX: usize = 256;
/// How long a client may take to say what it wants, also between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest request line and headers.
const HEADER_BYTES_MAX: usize = 16 << 10;
/// How long answers that are on their way may take when the node stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after an accept that failed: what is missing then (file descriptors, memory) comes back with time.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);

/// Why HTTP is not served.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("cannot resolve {address} (http): {why}")]
    Unresolved { address: HostPort, why: String },
    #[error("TCP {address} (http) is in use: another server runs there; stop it, or choose another port with --http")]
    AddressInUse { address: HostPort },
    #[error("no permission to listen on TCP {address} (http): choose a port from 1024 on with --http")]
    NotPermitted { address: HostPort },
    #[error("{address} (http) is not an address of this machine: choose one that is with --http")]
    NotOurs { address: HostPort },
    #[error("cannot listen on TCP {address} (http): {error}")]
    Other { address: HostPort, error: io::Error },
}

/// A port on which HTTP will be served.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
}

impl HttpServer {
    pub async fn bind(address: &HostPort) -> Result<Self, HttpError> {
        let resolved = resolve(address).await;
        let socket =
            resolved.map_err(|why| HttpError::Unresolved { address: address.clone(), why: why.to_string() })?;
        let listener = TcpListener::bind(socket).await.map_err(|error| {
            let address = address.clone();
            match error.kind() {
                io::ErrorKind::AddrInUse => HttpError::AddressInUse { address },
                io::ErrorKind::PermissionDenied => HttpError::NotPermitted { address },
                io::ErrorKind::AddrNotAvailable => HttpError::NotOurs { address },
                _ => HttpError::Other { address, error },
            }
        })?;
        Ok(Self { listener })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until a stop is asked for and the answers under way are given, or have had their time.
    pub async fn serve(self, node: Arc<dyn NodeStatus>, mut stop: Stop) {
        let router = routes::router(node);
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let slot = tokio::select! {
                slot = Arc::clone(&slots).acquire_owned() => slot.expect("nobody closes the semaphore"),
                () = stop.requested() => break,
            };
            let stream = tokio::select! {
                stream = accept(&self.listener) => stream,
                () = stop.requested() => break,
            };
            let connection = connection(stream, router.clone(), stop.clone());
            connections.spawn(async move {
                connection.await;
                drop(slot);
            });
            while connections.try_join_next().is_some() {}
        }
        drop(self.listener);
        while connections.join_next().await.is_some() {}
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            // The client's doing: it went away before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!("cannot accept an HTTP connection: {error}; trying again in {ACCEPT_RETRY:?}");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, router: Router, mut stop: Stop) {
    let service = TowerToHyperService::new(router);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEADER_BYTES_MAX);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    // How a connection ends is its client's business.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stop.requested() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(STOP_TIMEOUT, connection).await;
}
