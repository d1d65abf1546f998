//! A connection to a node: requests go out, answers come back in the same order.

use std::fmt::Display;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use dlog_proto::transport::HostPort;
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::failure::Failure;

const LEN_LEN: usize = 4;
/// Longest answer that is taken: far above what is asked for.
const ANSWER_LEN_MAX: usize = 256 << 20;
/// What is read at a time, at least.
const READ_LEN: usize = 64 << 10;

pub(super) struct Connection {
    pub(super) requests: Requests,
    pub(super) answers: Answers,
}

pub(super) struct Requests {
    socket: OwnedWriteHalf,
    out: BytesMut,
    correlation: i32,
}

pub(super) struct Answers {
    peer: HostPort,
    socket: OwnedReadHalf,
    buffer: BytesMut,
    correlation: i32,
    patience: Duration,
}

impl Connection {
    pub(super) async fn open(peer: HostPort, patience: Duration) -> Result<Self, Failure> {
        let failed = |why: &dyn Display| Failure::new(format!("no TCP connection to {peer}: {why}"));
        let connecting = timeout(patience, TcpStream::connect((peer.host(), peer.port())));
        let stream = connecting.await.map_err(|_| failed(&"no answer"))?.map_err(|error| failed(&error))?;
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        let (read, write) = stream.into_split();
        Ok(Self {
            requests: Requests { socket: write, out: BytesMut::new(), correlation: 0 },
            answers: Answers { peer, socket: read, buffer: BytesMut::new(), correlation: 0, patience },
        })
    }

    pub(super) async fn ask<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response, Failure> {
        self.requests.send(version, request).await?;
        self.answers.next(version).await
    }
}

impl Requests {
    pub(super) async fn send<R: Request>(&mut self, version: i16, request: &R) -> Result<(), Failure> {
        self.correlation = self.correlation.wrapping_add(1);
        self.out.clear();
        self.out.put_i32(0);
        let mut header = RequestHeader::default();
        (header.request_api_key, header.request_api_version) = (R::KEY, version);
        (header.correlation_id, header.client_id) = (self.correlation, Some(StrBytes::from_static_str("dlog-bench")));
        let encoded = header.encode(&mut self.out, R::header_version(version));
        let encoded = encoded.and_then(|()| request.encode(&mut self.out, version));
        encoded.map_err(|error| Failure::new(format!("a Kafka request cannot be encoded: {error}")))?;
        let len = i32::try_from(self.out.len() - LEN_LEN).expect("a request holds a batch");
        self.out[..LEN_LEN].copy_from_slice(&len.to_be_bytes());
        let sent = self.socket.write_all(&self.out).await;
        sent.map_err(|error| Failure::new(format!("a Kafka request cannot be sent: {error}")))
    }
}

impl Answers {
    pub(super) async fn next<R: Decodable + HeaderVersion>(&mut self, version: i16) -> Result<R, Failure> {
        let mut frame = match timeout(self.patience, self.frame()).await {
            Ok(frame) => frame?,
            Err(_) => return Err(self.failed(format!("no answer within {:.1} s", self.patience.as_secs_f64()))),
        };
        let header = ResponseHeader::decode(&mut frame, R::header_version(version));
        let header = header.map_err(|error| self.failed(error))?;
        self.correlation = self.correlation.wrapping_add(1);
        if header.correlation_id != self.correlation {
            return Err(self.failed(format!("answer {} came instead of {}", header.correlation_id, self.correlation)));
        }
        R::decode(&mut frame, version).map_err(|error| self.failed(error))
    }

    /// May be given up and asked again: what was read stays.
    async fn frame(&mut self) -> Result<Bytes, Failure> {
        loop {
            let mut missing = READ_LEN;
            if let Some(head) = self.buffer.first_chunk::<LEN_LEN>() {
                let len = i32::from_be_bytes(*head);
                let fits = usize::try_from(len).ok().filter(|len| *len <= ANSWER_LEN_MAX);
                let len = fits.ok_or_else(|| self.failed(format!("it announced an answer of {len} bytes")))?;
                if self.buffer.len() >= LEN_LEN + len {
                    self.buffer.advance(LEN_LEN);
                    return Ok(self.buffer.split_to(len).freeze());
                }
                missing = LEN_LEN + len - self.buffer.len();
            }
            self.buffer.reserve(missing);
            match self.socket.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(self.failed("it closed the connection; its log says why")),
                Ok(_) => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    pub(super) fn failed(&self, why: impl Display) -> Failure {
        Failure::new(format!("Kafka's protocol at {}: {why}", self.peer))
    }
}
