//! Accepting: who is let in, on which thread, how many.

use std::time::Duration;

use super::support::*;
use crate::transport::*;
use crate::{ClusterId, NodeId, ProcessId};

async fn refused(hello: Hello) -> Refused {
    let listener = listener(ListenerConfig::default());
    let to = address(&listener);
    let _established = serve(listener);
    match connector(Trust::LoopbackOnly).connect(&to, ConnectionClass::Control, &hello).await.unwrap_err() {
        ConnectError::Refused { address, refused } => {
            assert_eq!(address, to);
            refused
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn peers_know_each_other_after_the_handshake() {
    within(async {
        let listener = listener(ListenerConfig::default());
        let to = address(&listener);
        let mut established = serve(listener);
        let introduced = Hello {
            cluster: Some(CLUSTER),
            node: Some(NodeId(2)),
            process: Some(ProcessId(9)),
            expect_node: Some(NodeId(1)),
            ..hello()
        };
        let client = connector(Trust::LoopbackOnly);
        let ours = client.connect(&to, ConnectionClass::Data { core: 1 }, &introduced).await.unwrap();
        let theirs = established.recv().await.unwrap();
        let server = PeerInfo {
            identity: PeerIdentity::Loopback,
            protocol: PROTOCOL_MAX,
            cluster: Some(CLUSTER),
            node: Some(NodeId(1)),
            process: Some(ProcessId(7)),
            cores: 2,
            software: "test server".to_owned(),
        };
        assert_eq!(*ours.peer(), server);
        let client = PeerInfo {
            node: Some(NodeId(2)),
            process: Some(ProcessId(9)),
            cores: 0,
            software: "test client".to_owned(),
            ..server
        };
        assert_eq!(*theirs.peer(), client);
        assert_eq!(theirs.remote_address().unwrap().ip().to_string(), "127.0.0.1");
    })
    .await;
}

#[tokio::test]
async fn strays_are_refused_with_a_message() {
    within(async {
        let stray = refused(Hello { cluster: Some(ClusterId(9)), ..hello() }).await;
        assert_eq!(stray.code, RefusedCode::OtherCluster);
        assert!(stray.message.contains(&CLUSTER.to_string()), "{stray}");
        let misled = refused(Hello { expect_node: Some(NodeId(2)), ..hello() }).await;
        assert_eq!((misled.code, misled.message.contains("this is n1, not n2")), (RefusedCode::OtherNode, true));
        let newer = refused(Hello { protocol_min: 100, protocol_max: 200, ..hello() }).await;
        assert_eq!(newer.code, RefusedCode::NoCommonVersion);
    })
    .await;
}

#[tokio::test]
async fn an_incoming_connection_is_handed_to_the_thread_of_its_class() {
    within(async {
        let listener = listener(ListenerConfig::default());
        let to = address(&listener);
        let (to_core, mut on_core) = tokio::sync::mpsc::unbounded_channel::<QuicIncoming>();
        let core = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
                assert_eq!(tasks(), 0);
                let incoming = on_core.recv().await.unwrap();
                assert_eq!(incoming.class(), ConnectionClass::Data { core: 3 });
                let connection = incoming.establish(&admit).await.unwrap();
                assert!(tasks() > 0, "quinn's driver of the connection is on this runtime");
                let (_, mut lane) = connection.accept_lane().await.unwrap();
                let question = lane.rx.recv().await.unwrap();
                lane.tx.send(question).unwrap();
                connection.closed().await
            })
        });
        let serving = tokio::spawn(async move {
            while let Some(incoming) = listener.accept().await {
                match incoming.class() {
                    ConnectionClass::Data { .. } => to_core.send(incoming).unwrap(),
                    ConnectionClass::Control | ConnectionClass::Unknown => {
                        tokio::spawn(async move { incoming.establish(&admit).await.unwrap().closed().await });
                    }
                }
            }
        });
        let client = connector(Trust::LoopbackOnly);
        let control = client.connect(&to, ConnectionClass::Control, &hello()).await.unwrap();
        let data = client.connect(&to, ConnectionClass::Data { core: 3 }, &hello()).await.unwrap();
        let mut lane = data.open_lane(LaneKind::Append).await.unwrap();
        lane.tx.send(frame(5, &b"echo"[..])).unwrap();
        assert_eq!(lane.rx.recv().await.unwrap().corr, 5);
        drop((lane, data));
        tokio::task::spawn_blocking(move || core.join().unwrap()).await.unwrap();
        drop(control);
        serving.abort();
    })
    .await;
}

#[tokio::test]
async fn a_taken_port_is_told_by_name() {
    let first = listener(ListenerConfig::default());
    let taken = first.local_address().unwrap();
    let error = QuicListener::bind(taken, &CERT, ListenerConfig::default()).unwrap_err();
    assert!(matches!(error, ListenError::AddressInUse { .. }), "{error:?}");
    assert!(error.to_string().contains(&taken.to_string()), "{error}");
    let error = QuicListener::bind("192.0.2.1:0".parse().unwrap(), &CERT, ListenerConfig::default()).unwrap_err();
    assert!(matches!(error, ListenError::NotOurs { .. }), "{error:?}");
}

#[tokio::test]
async fn too_many_connections_are_refused() {
    within(async {
        let listener = listener(ListenerConfig { connections_max: 1, ..ListenerConfig::default() });
        let to = address(&listener);
        let mut established = serve(listener);
        let client = connector(Trust::LoopbackOnly);
        let first = client.connect(&to, ConnectionClass::Control, &hello()).await.unwrap();
        let error = client.connect(&to, ConnectionClass::Control, &hello()).await.unwrap_err();
        assert!(matches!(error, ConnectError::Busy { .. }), "{error:?}");
        assert!(error.retry_after().is_some());
        let theirs = established.recv().await.unwrap();
        lane(&first, &theirs).await;
    })
    .await;
}

#[tokio::test]
async fn half_open_connections_are_bounded_and_addresses_validated() {
    within(async {
        let listener = listener(ListenerConfig { half_open_max: 2, retry_above: 1, ..ListenerConfig::default() });
        let to = address(&listener);
        let client = connector(Trust::LoopbackOnly);
        let connecting = |class| {
            let (client, to) = (client.clone(), to.clone());
            tokio::spawn(async move { client.connect(&to, class, &hello()).await })
        };
        let first = connecting(ConnectionClass::Control);
        let unanswered = listener.accept().await.unwrap();
        // The second must come again with a token, and the class survives that.
        let second = connecting(ConnectionClass::Data { core: 8 });
        let validated = listener.accept().await.unwrap();
        assert_eq!(validated.class(), ConnectionClass::Data { core: 8 });
        assert!(validated.remote_address_validated() && !unanswered.remote_address_validated());
        let third = connecting(ConnectionClass::Control);
        let accepting = tokio::spawn(async move {
            let next = listener.accept().await.unwrap();
            (listener, next)
        });
        let third = third.await.unwrap();
        assert!(matches!(third, Err(ConnectError::Busy { .. })), "{third:?}");
        let (established, connected) = tokio::join!(validated.establish(&admit), second);
        assert!(established.is_ok() && connected.unwrap().is_ok());
        drop(unanswered);
        assert!(matches!(first.await.unwrap(), Err(ConnectError::Busy { .. })));
        let fourth = connecting(ConnectionClass::Control);
        let (_listener, next) = accepting.await.unwrap();
        let (established, connected) = tokio::join!(next.establish(&admit), fourth);
        assert!(established.is_ok() && connected.unwrap().is_ok());
    })
    .await;
}

#[tokio::test]
async fn a_closed_listener_tells_its_peers() {
    within(async {
        let listener = listener(ListenerConfig::default());
        let to = address(&listener);
        let client = connector(Trust::LoopbackOnly);
        let (theirs, ours) =
            tokio::join!(async { listener.accept().await.unwrap().establish(&admit).await.unwrap() }, async {
                client.connect(&to, ConnectionClass::Control, &hello()).await.unwrap()
            });
        listener.close(close_code::SHUTDOWN, "bye");
        assert!(listener.accept().await.is_none());
        assert_eq!(ours.closed().await, CloseReason::Peer { code: close_code::SHUTDOWN, message: "bye".to_owned() });
        assert_eq!(theirs.closed().await, CloseReason::Local);
        listener.drained().await;
    })
    .await;
}

#[tokio::test]
async fn peers_of_a_restarted_node_learn_of_it_at_once() {
    within(async {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let first_life = {
            let _on = runtime.enter();
            listener(ListenerConfig::default())
        };
        let (socket, to) = (first_life.local_address().unwrap(), address(&first_life));
        runtime.spawn(async move {
            let connection = first_life.accept().await.unwrap().establish(&admit).await.unwrap();
            connection.closed().await;
        });
        let client = connector(Trust::LoopbackOnly);
        let connection = client.connect(&to, ConnectionClass::Control, &hello()).await.unwrap();
        // Nobody says goodbye.
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(1))).await.unwrap();
        let second_life = loop {
            match QuicListener::bind(socket, &CERT, ListenerConfig::default()) {
                Ok(listener) => break listener,
                Err(ListenError::AddressInUse { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        };
        let lane = connection.open_lane(LaneKind::Append).await.unwrap();
        lane.tx.send(frame(1, vec![0; 100])).unwrap();
        let lost = tokio::time::timeout(Duration::from_secs(2), connection.closed()).await;
        assert_eq!(lost, Ok(CloseReason::Restarted));
        assert_eq!(lane.tx.closed().await, LaneClosed::ConnectionLost { reason: CloseReason::Restarted });
        drop(second_life);
    })
    .await;
}

#[tokio::test]
async fn both_families_of_localhost_lead_to_the_server() {
    within(async {
        let listener = listener(ListenerConfig::default());
        let port = listener.local_address().unwrap().port();
        let _established = serve(listener);
        let client = connector(Trust::LoopbackOnly);
        let by_name: HostPort = format!("localhost:{port}").parse().unwrap();
        let connection = client.connect(&by_name, ConnectionClass::Control, &hello()).await.unwrap();
        assert_eq!(connection.peer().node, Some(NodeId(1)));

        let Ok(dual) = QuicListener::bind("[::]:0".parse().unwrap(), &CERT, ListenerConfig::default()) else {
            return; // no IPv6 here
        };
        let port = dual.local_address().unwrap().port();
        let mut established = serve(dual);
        for host in ["127.0.0.1", "[::1]"] {
            let to: HostPort = format!("{host}:{port}").parse().unwrap();
            let ours = client.connect(&to, ConnectionClass::Control, &hello()).await.unwrap();
            let theirs = established.recv().await.unwrap();
            assert_eq!((ours.mtu_class(), theirs.mtu_class()), (MtuClass::Loopback, MtuClass::Loopback));
            assert!(theirs.remote_address().unwrap().ip().is_loopback());
            assert_eq!(theirs.peer().identity, PeerIdentity::Loopback);
        }
    })
    .await;
}
