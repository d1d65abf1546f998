//! Peers that do not speak as they should. Each ends what it has touched and nothing more.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::support::*;
use crate::transport::handshake::encode_hello;
use crate::transport::*;
use crate::wire::{FrameError, FrameLimits};

const PREAMBLE: &[u8] = b"DL\x01\x01";

fn hello_bytes() -> BytesMut {
    let mut bytes = BytesMut::from(PREAMBLE);
    encode_hello(&hello()).encode_head(&mut bytes);
    bytes
}

struct Served {
    address: HostPort,
    socket: SocketAddr,
    established: tokio::sync::mpsc::UnboundedReceiver<Connection>,
}

fn served() -> Served {
    let config = ListenerConfig { handshake_timeout: Duration::from_millis(300), ..ListenerConfig::default() };
    let listener = listener(config);
    let socket = listener.local_address().unwrap();
    Served { address: address(&listener), socket, established: serve(listener) }
}

impl Served {
    async fn still_serves(&mut self) {
        let client = connector(Trust::LoopbackOnly);
        let ours = client.connect(&self.address, ConnectionClass::Control, &hello()).await.unwrap();
        let theirs = self.established.recv().await.unwrap();
        lane(&ours, &theirs).await;
    }

    /// A peer that introduced itself as it should, by hand.
    async fn introduced(&mut self) -> (quinn::Connection, Connection) {
        let raw = raw_client(self.socket, b"dlog/1").await.unwrap();
        let (mut send, mut recv) = raw.open_bi().await.unwrap();
        send.write_all(&hello_bytes()).await.unwrap();
        assert!(!recv.read_to_end(10_000).await.unwrap().is_empty());
        (raw, self.established.recv().await.unwrap())
    }

    /// Its first stream carries `bytes`; what the connection is then closed with.
    async fn first_words(&mut self, bytes: &[u8]) -> (u32, String) {
        let raw = raw_client(self.socket, b"dlog/1").await.unwrap();
        let (mut send, _recv) = raw.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        let quinn::ConnectionError::ApplicationClosed(close) = raw.closed().await else { panic!("not closed") };
        (u64::from(close.error_code) as u32, String::from_utf8(close.reason.to_vec()).unwrap())
    }
}

#[tokio::test]
async fn junk_instead_of_a_handshake_ends_the_connection() {
    within(async {
        let mut served = served();
        let (code, reason) = served.first_words(b"GET / HTTP/1.1\r\n\r\n").await;
        assert_eq!((code, reason.contains("not a lane")), (close_code::PROTOCOL, true), "{reason}");
        let (code, reason) = served.first_words(b"DL\x01\x01GET / HTTP/1.1\r\n\r\n").await;
        assert_eq!((code, reason.contains("not a DLog frame")), (close_code::PROTOCOL, true), "{reason}");
        let mut long = hello_bytes();
        long[PREAMBLE.len() + 11] = 0x7f;
        let (code, reason) = served.first_words(&long).await;
        assert_eq!((code, reason.contains("over the limit of 2048")), (close_code::PROTOCOL, true), "{reason}");
        served.still_serves().await;
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_never_speaks_is_not_waited_for() {
    within(async {
        let mut served = served();
        let start = Instant::now();
        let silent = raw_client(served.socket, b"dlog/1").await.unwrap();
        let (code, reason) = served.first_words(b"DL").await;
        assert_eq!((code, reason.contains("did not complete the handshake")), (close_code::PROTOCOL, true), "{reason}");
        silent.closed().await;
        assert!(start.elapsed() < Duration::from_secs(3));
        served.still_serves().await;
    })
    .await;
}

#[tokio::test]
async fn junk_on_a_lane_ends_that_lane() {
    within(async {
        let mut served = served();
        let (raw, connection) = served.introduced().await;
        let (mut junk, mut answers) = raw.open_bi().await.unwrap();
        junk.write_all(b"DL\x01\x03this is no frame and never will be").await.unwrap();
        let (kind, mut theirs) = connection.accept_lane().await.unwrap();
        assert_eq!(kind, LaneKind::Store);
        let error = theirs.rx.recv().await.unwrap_err();
        assert!(matches!(error, LaneClosed::Protocol(FrameError::Magic(_))), "{error:?}");
        assert_eq!(theirs.tx.send(frame(1, &b""[..])).unwrap_err(), error);
        assert_eq!(junk.stopped().await.unwrap(), Some(1u32.into()));
        assert!(matches!(answers.read_to_end(10).await, Err(quinn::ReadToEndError::Read(quinn::ReadError::Reset(_)))));

        let (mut good, _recv) = raw.open_bi().await.unwrap();
        let mut bytes = BytesMut::from(&b"DL\x01\x04"[..]);
        frame(42, &b""[..]).encode_head(&mut bytes);
        good.write_all(&bytes).await.unwrap();
        good.write_all(b"junk").await.unwrap();
        let (kind, mut theirs) = connection.accept_lane().await.unwrap();
        assert_eq!(kind, LaneKind::Read);
        assert_eq!(theirs.rx.recv().await.unwrap().corr, 42, "whole frames before the junk count");
        assert!(matches!(theirs.rx.recv().await, Err(LaneClosed::Protocol(_))));
        served.still_serves().await;
    })
    .await;
}

#[tokio::test]
async fn streams_that_are_no_lanes_are_refused_and_others_accepted() {
    within(async {
        let mut served = served();
        let (raw, connection) = served.introduced().await;
        let (mut slow, _slow_recv) = raw.open_bi().await.unwrap();
        slow.write_all(b"DL").await.unwrap();
        let (mut unknown, _unknown_recv) = raw.open_bi().await.unwrap();
        unknown.write_all(b"DL\x01\xc8").await.unwrap();
        let (mut junk, _junk_recv) = raw.open_bi().await.unwrap();
        junk.write_all(b"????").await.unwrap();
        let (mut good, _good_recv) = raw.open_bi().await.unwrap();
        good.write_all(b"DL\x01\x05").await.unwrap();
        assert_eq!(connection.accept_lane().await.unwrap().0, LaneKind::Liveness);
        assert_eq!(unknown.stopped().await.unwrap(), Some(AbortCode::UnknownKind.to_u32().into()));
        assert_eq!(junk.stopped().await.unwrap(), Some(AbortCode::Protocol.to_u32().into()));
        slow.write_all(b"\x01\x06").await.unwrap();
        assert_eq!(connection.accept_lane().await.unwrap().0, LaneKind::Watch);
    })
    .await;
}

#[tokio::test]
async fn frames_over_the_limits_of_a_lane_are_refused_by_their_header() {
    within(async {
        let (left, right) = quic_pair().await;
        let (mut ours, mut theirs) = lane(&left, &right).await;
        theirs.rx.set_frame_limits(FrameLimits { body_len_max: 100, payload_len_max: 100 });
        ours.tx.send(frame(1, vec![0; 100])).unwrap();
        ours.tx.send(frame(2, vec![0; 1 << 20])).unwrap();
        assert_eq!(theirs.rx.recv().await.unwrap().corr, 1);
        let error = FrameError::TooLong { part: "payload", len: 1 << 20, max: 100 };
        assert_eq!(theirs.rx.recv().await.unwrap_err(), LaneClosed::Protocol(error));
        let aborted = LaneClosed::Aborted { code: AbortCode::Protocol };
        assert_eq!(ours.tx.closed().await, aborted);
        assert_eq!(ours.rx.recv().await.unwrap_err(), aborted);
        lane(&left, &right).await;
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_ends_within_a_frame_is_told_apart_from_one_that_ends() {
    within(async {
        let mut served = served();
        let (raw, connection) = served.introduced().await;
        let (mut send, _recv) = raw.open_bi().await.unwrap();
        let mut bytes = BytesMut::from(&b"DL\x01\x02"[..]);
        frame(1, &b"payload"[..]).encode_head(&mut bytes);
        send.write_all(&bytes).await.unwrap();
        send.finish().unwrap();
        let (_, mut theirs) = connection.accept_lane().await.unwrap();
        assert_eq!(theirs.rx.recv().await.unwrap_err(), LaneClosed::Truncated);
    })
    .await;
}

#[tokio::test]
async fn who_speaks_another_protocol_is_not_a_dlog_peer() {
    within(async {
        let mut served = served();
        assert!(raw_client(served.socket, b"h3").await.is_err());
        served.still_serves().await;

        let (other, address) = raw_server(b"h3");
        tokio::spawn(async move { other.accept().await.unwrap().await.map(drop) });
        let client = connector(Trust::LoopbackOnly);
        let error = client.connect(&address, ConnectionClass::Control, &hello()).await.unwrap_err();
        assert!(matches!(error, ConnectError::NotDlog { .. }), "{error:?}");
        assert!(error.to_string().contains("not a DLog server"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_told_apart_from_none() {
    within(async {
        let client = connector(Trust::LoopbackOnly);
        let connect = async |address: HostPort| {
            client.connect(&address, ConnectionClass::Control, &hello()).await.expect_err("nobody answers")
        };
        let (mute, mute_address) = raw_server(b"dlog/1");
        tokio::spawn(async move { mute.accept().await.unwrap().await.unwrap().closed().await });
        let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (silent, unreachable, unresolved) = tokio::join!(
            connect(mute_address),
            connect(nobody.local_addr().unwrap().into()),
            connect("no-such-host.invalid:1".parse().unwrap()),
        );
        assert!(matches!(silent, ConnectError::Silent { .. }), "{silent:?}");
        assert!(matches!(unreachable, ConnectError::Unreachable { .. }), "{unreachable:?}");
        assert!(matches!(unresolved, ConnectError::Unresolved { .. }), "{unresolved:?}");
    })
    .await;
}
