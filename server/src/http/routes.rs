//! What is served under which path.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use super::{NodeStatus, Status};

type Node = State<Arc<dyn NodeStatus>>;

pub(super) fn router(node: Arc<dyn NodeStatus>) -> Router {
    Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(node)
}

async fn live() -> Response {
    Json(json!({ "live": true })).into_response()
}

async fn ready(State(node): Node) -> Response {
    match node.ready() {
        Ok(()) => Json(json!({ "ready": true })).into_response(),
        Err(reason) => {
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "ready": false, "reason": reason }))).into_response()
        }
    }
}

async fn metrics(State(node): Node) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, node.metrics()) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => {
            tracing::error!("metrics cannot be shown: {error}");
            refusal(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the metrics cannot be shown; the log says why")
        }
    }
}

async fn status(State(node): Node) -> Json<Status> {
    Json(node.status())
}

async fn not_found(uri: Uri) -> Response {
    let path: String = uri.path().chars().take(200).collect();
    let message = format!("there is no {path} here, but /v1/status, /metrics, /health/live and /health/ready");
    refusal(StatusCode::NOT_FOUND, "not_found", &message)
}

async fn method_not_allowed() -> Response {
    refusal(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path is for GET only")
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({ "error": { "code": code, "message": message } }))).into_response()
}
