//! The server over real sockets, asked by hand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dlog_proto::transport::HostPort;
use dlog_proto::{ClusterId, NodeId};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{HttpError, HttpServer, NodeStatus, Status};
use crate::signals::{Stop, StopSender};

#[derive(Default)]
struct TestNode {
    ready: AtomicBool,
    metrics: Registry,
}

impl NodeStatus for TestNode {
    fn ready(&self) -> Result<(), String> {
        if self.ready.load(Ordering::Relaxed) { Ok(()) } else { Err("the metadata tier has no leader".to_owned()) }
    }

    fn status(&self) -> Status {
        Status {
            version: "0.1.0",
            node: NodeId(1),
            cluster: Some(ClusterId(0xab)),
            roles: vec!["storage"],
            listen: "localhost:9092".to_owned(),
            advertise: "localhost:9092".to_owned(),
            http: "localhost:9644".to_owned(),
            data_dir: "/data".to_owned(),
            ready: self.ready().is_ok(),
            waiting_for: self.ready().err(),
            uptime_ms: 5,
        }
    }

    fn metrics(&self) -> &Registry {
        &self.metrics
    }
}

struct Served {
    address: SocketAddr,
    node: Arc<TestNode>,
    stop: StopSender,
    task: JoinHandle<()>,
}

impl Served {
    async fn start() -> Self {
        let mut node = TestNode::default();
        let appends = Counter::<u64>::default();
        appends.inc_by(3);
        node.metrics.register("dlog_appends", "Appends.", appends);
        let node = Arc::new(node);
        let server = bind_anywhere().await;
        let address = server.local_addr().unwrap();
        let (sender, stop) = Stop::new();
        let served: Arc<dyn NodeStatus> = Arc::<TestNode>::clone(&node);
        Self { address, node, stop: sender, task: tokio::spawn(server.serve(served, stop)) }
    }

    async fn ask(&self, request_line: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("{request_line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn get(&self, path: &str) -> (u16, serde_json::Value) {
        let answer = self.ask(&format!("GET {path}")).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap())
    }
}

/// On a port that was free a moment ago.
async fn bind_anywhere() -> HttpServer {
    loop {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        if let Ok(server) = HttpServer::bind(&free.into()).await {
            return server;
        }
    }
}

#[tokio::test]
async fn health_says_what_is_waited_for() {
    let served = Served::start().await;
    assert_eq!(served.get("/health/live").await, (200, serde_json::json!({ "live": true })));
    let waiting = serde_json::json!({ "ready": false, "reason": "the metadata tier has no leader" });
    assert_eq!(served.get("/health/ready").await, (503, waiting));
    served.node.ready.store(true, Ordering::Relaxed);
    assert_eq!(served.get("/health/ready").await, (200, serde_json::json!({ "ready": true })));
}

#[tokio::test]
async fn status_is_json() {
    let served = Served::start().await;
    let (code, status) = served.get("/v1/status").await;
    assert_eq!(code, 200);
    assert_eq!(status["node"], 1);
    assert_eq!(status["cluster"], "000000000000000000000000000000ab");
    assert_eq!(status["waiting_for"], "the metadata tier has no leader");
}

#[tokio::test]
async fn metrics_are_text() {
    let served = Served::start().await;
    let answer = served.ask("GET /metrics").await;
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"), "{answer}");
    assert!(answer.contains("dlog_appends_total 3") && answer.ends_with("# EOF\n"), "{answer}");
}

#[tokio::test]
async fn everything_else_is_an_error_in_json() {
    let served = Served::start().await;
    let (code, body) = served.get("/nothing").await;
    assert_eq!((code, &body["error"]["code"]), (404, &"not_found".into()));
    assert!(body["error"]["message"].as_str().unwrap().contains("/nothing"), "{body}");
    let answer = served.ask("POST /v1/status").await;
    assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("method_not_allowed"), "{answer}");
    let junk = served.ask("\u{0}\u{1}garbage").await;
    assert!(junk.starts_with("HTTP/1.1 400"), "{junk}");
    let long = served.ask(&format!("GET /{}", "x".repeat(40_000))).await;
    assert!(long.starts_with("HTTP/1.1 414") || long.starts_with("HTTP/1.1 431"), "{long}");
    assert_eq!(served.get("/health/live").await.0, 200, "it goes on");
}

#[tokio::test]
async fn a_stop_waits_for_nobody_who_says_nothing() {
    let served = Served::start().await;
    let mut silent = TcpStream::connect(served.address).await.unwrap();
    silent.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 15];
    silent.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    served.stop.request();
    timeout(Duration::from_secs(5), served.task).await.expect("the server stops").unwrap();
    assert!(TcpStream::connect(served.address).await.is_err());
}

#[tokio::test]
async fn an_occupied_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: HostPort = taken.local_addr().unwrap().into();
    let error = HttpServer::bind(&address).await.unwrap_err();
    assert!(matches!(error, HttpError::AddressInUse { .. }));
    assert_eq!(
        error.to_string(),
        format!(
            "TCP {address} (http) is in use: another server runs there; stop it, or choose another port with --http"
        )
    );
    let elsewhere = HttpServer::bind(&"192.0.2.1:80".parse().unwrap()).await.unwrap_err();
    assert!(matches!(elsewhere, HttpError::NotOurs { .. } | HttpError::NotPermitted { .. }), "{elsewhere}");
}
