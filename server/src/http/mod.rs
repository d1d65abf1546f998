//! HTTP: health, metrics and status, for probes, scrapers and people.
//!
//! ```text
//! GET /health/live    200 as long as the process answers
//!     /health/ready   200 when the node serves, 503 with what it waits for until then
//!     /metrics        OpenMetrics text
//!     /v1/status      what this node is and does, as JSON
//! ```
//! Everything else is an error in JSON: `{"error":{"code":"not_found","message":"…"}}`.

mod routes;
mod server;

#[cfg(test)]
mod tests;

use dlog_proto::{ClusterId, NodeId};
use prometheus_client::registry::Registry;
use serde::Serialize;

pub use server::{HttpError, HttpServer};

/// What HTTP asks a node. Answers come from memory: nothing here waits.
pub trait NodeStatus: Send + Sync + 'static {
    /// Whether clients are served. `Err` says what the node waits for.
    fn ready(&self) -> Result<(), String>;
    fn status(&self) -> Status;
    fn metrics(&self) -> &Registry;
}

/// What a node is and does.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    pub version: &'static str,
    pub node: NodeId,
    /// `None` while it is not known.
    pub cluster: Option<ClusterId>,
    pub roles: Vec<&'static str>,
    pub listen: String,
    pub advertise: String,
    pub http: String,
    pub data_dir: String,
    pub ready: bool,
    /// What it waits for if it is not ready.
    pub waiting_for: Option<String>,
    pub uptime_ms: u64,
}
