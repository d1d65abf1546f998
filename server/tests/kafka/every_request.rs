//! No request goes without an answer.

use std::io::{Read, Write};
use std::net::TcpStream;

use dlog_kafka::samples::{CORRELATION, every_request};
use kafka_protocol::messages::ApiKey;

use crate::client::PATIENCE;
use crate::support::Cluster;

/// What they name does not exist, so every answer is an error's: none may be one that its version cannot express.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_version_of_every_request_is_answered() {
    let cluster = Cluster::start(1).await;
    let versions = every_request().find(|(key, ..)| *key == ApiKey::ApiVersions).expect("it is served").2;
    let mut unanswered = Vec::new();
    for (key, version, request) in every_request() {
        let mut socket = TcpStream::connect(cluster.address(1)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        // The sample of a Produce asks for no answer, so another request follows it.
        for request in [&request, &versions] {
            let len = (request.len() as i32).to_be_bytes();
            // What was closed meanwhile answers nothing.
            let _ = socket.write_all(&[&len[..], &request[..]].concat());
        }
        let mut head = [0; 8];
        let answered = socket.read_exact(&mut head);
        // acks=0, and the topic is not there: the connection is closed.
        if answered.is_err() != (key == ApiKey::Produce) || answered.is_ok() && head[4..] != CORRELATION.to_be_bytes() {
            unanswered.push((key, version, answered));
        }
    }
    assert!(unanswered.is_empty(), "{unanswered:?}");
}
