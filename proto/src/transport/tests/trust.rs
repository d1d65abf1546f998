//! Certificates: who is believed, who is not, and what is kept on disk.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use super::support::*;
use crate::NodeId;
use crate::transport::*;

fn trust(ca: &ClusterCa) -> Trust {
    Trust::from_ca_pem("test", ca.pem().as_bytes()).unwrap()
}

fn expecting(node: u16) -> Hello {
    Hello { expect_node: Some(NodeId(node)), ..hello() }
}

/// An address of this machine that is not a loopback one, if it has any. Nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

#[tokio::test]
async fn a_client_with_the_ca_trusts_its_nodes_and_no_others() {
    within(async {
        let listener = listener(ListenerConfig::default());
        let to = address(&listener);
        let _established = serve(listener);
        let ours = connector(trust(&CA));
        for hello in [hello(), expecting(1)] {
            let connection = ours.connect(&to, ConnectionClass::Control, &hello).await.unwrap();
            assert_eq!(connection.peer().identity, PeerIdentity::Node(NodeId(1)));
        }
        let error = ours.connect(&to, ConnectionClass::Control, &expecting(2)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Untrusted { .. }), "{error:?}");
        assert!(error.to_string().contains("n2.node.dlog"), "{error}");
        let others = connector(trust(&ClusterCa::create().unwrap()));
        let error = others.connect(&to, ConnectionClass::Control, &hello()).await.unwrap_err();
        assert!(matches!(error, ConnectError::Untrusted { .. }), "{error:?}");
        assert!(error.to_string().contains("--ca FILE"), "{error}");
        assert_eq!(error.retry_after(), None);
    })
    .await;
}

#[tokio::test]
async fn without_a_ca_only_this_machine_is_trusted() {
    let to: HostPort = "192.0.2.1:9092".parse().unwrap();
    let error = connector(Trust::default()).connect(&to, ConnectionClass::Control, &hello()).await.unwrap_err();
    assert_eq!(error, ConnectError::NoTrust { address: to });
    assert!(error.to_string().contains("<data-dir>/tls/ca.pem"), "{error}");
}

#[tokio::test]
async fn nodes_are_known_by_their_certificates() {
    within(async {
        let listener = listener(ListenerConfig::default());
        let to = address(&listener);
        let mut established = serve(listener);
        let node_2 = CA.issue_node(NodeId(2), &["n2.example.org".to_owned(), "10.0.0.2".to_owned()]).unwrap();
        let node = QuicConnector::new(trust(&CA), Some(&node_2), ConnectorConfig::default()).unwrap();
        let claim = |node| Hello { node: Some(NodeId(node)), ..hello() };
        let _kept = node.connect(&to, ConnectionClass::Control, &claim(2)).await.unwrap();
        assert_eq!(established.recv().await.unwrap().peer().identity, PeerIdentity::Node(NodeId(2)));
        let error = node.connect(&to, ConnectionClass::Control, &claim(3)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Refused { refused: Refused { code: RefusedCode::NotAllowed, .. }, .. }));

        // On this machine a certificate of another CA is as good as none.
        let stranger_cert = ClusterCa::create().unwrap().issue_node(NodeId(2), &[]).unwrap();
        let stranger =
            QuicConnector::new(Trust::LoopbackOnly, Some(&stranger_cert), ConnectorConfig::default()).unwrap();
        let _kept = stranger.connect(&to, ConnectionClass::Control, &claim(2)).await.unwrap();
        assert_eq!(established.recv().await.unwrap().peer().identity, PeerIdentity::Loopback);
    })
    .await;
}

#[tokio::test]
async fn beyond_this_machine_certificates_are_demanded_or_refused() {
    let Some(ip) = own_address() else { return };
    within(async {
        let listener =
            QuicListener::bind((ip, 0).into(), &CERT, ListenerConfig::default()).expect("it is our own address");
        let to = address(&listener);
        let mut established = serve(listener);
        let client = connector(trust(&CA));
        let ours = client.connect(&to, ConnectionClass::Control, &hello()).await.unwrap();
        let theirs = established.recv().await.unwrap();
        assert_eq!(theirs.peer().identity, PeerIdentity::Anonymous);
        assert_eq!((ours.mtu_class(), theirs.mtu_class()), (MtuClass::Network, MtuClass::Network));
        let (ours_lane, mut theirs_lane) = lane(&ours, &theirs).await;
        ours_lane.tx.send(frame(1, vec![0; 1 << 20])).unwrap();
        assert_eq!(theirs_lane.rx.recv().await.unwrap().payload.len(), 1 << 20);
        assert!((1200..=6500).contains(&ours.current_mtu().unwrap()));

        let stranger_cert = ClusterCa::create().unwrap().issue_node(NodeId(2), &[]).unwrap();
        let stranger = QuicConnector::new(trust(&CA), Some(&stranger_cert), ConnectorConfig::default()).unwrap();
        let error = stranger.connect(&to, ConnectionClass::Control, &hello()).await.unwrap_err();
        assert!(matches!(error, ConnectError::Distrusted { .. }), "{error:?}");

        let untrusting = connector(Trust::LoopbackOnly);
        let error = untrusting.connect(&to, ConnectionClass::Control, &hello()).await.unwrap_err();
        assert!(matches!(error, ConnectError::NoTrust { .. }), "{error:?}");
    })
    .await;
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn files_are_made_once_and_loaded_again() {
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir.path().join("tls");
    let ca = ClusterCa::load_or_create(dir).unwrap();
    let cert = NodeCert::load_or_create(dir, &ca, NodeId(4), &["host.example.org".to_owned()]).unwrap();
    assert_eq!(names(dir), ["ca.key", "ca.pem", "node.key", "node.pem"]);
    #[cfg(unix)]
    for key in ["ca.key", "node.key"] {
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(dir.join(key)).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let again = ClusterCa::load_or_create(dir).unwrap();
    assert_eq!(again.pem(), ca.pem());
    let same = NodeCert::load_or_create(dir, &again, NodeId(4), &[]).unwrap();
    assert_eq!((same.chain(), same.key_der()), (cert.chain(), cert.key_der()));
    assert_eq!(NodeCert::load(dir, NodeId(4)).unwrap().chain(), cert.chain());
    assert!(matches!(Trust::from_ca_file(&dir.join("ca.pem")).unwrap(), Trust::Ca(ca) if ca.len() == 1));

    // A crash between key and certificate: the certificate is made again, and what was issued stays valid.
    fs::remove_file(dir.join("ca.pem")).unwrap();
    ClusterCa::load_or_create(dir).unwrap();
    NodeCert::load(dir, NodeId(4)).unwrap();
    fs::remove_file(dir.join("node.pem")).unwrap();
    assert!(matches!(NodeCert::load(dir, NodeId(4)), Err(TlsError::NodeCertMissing { .. })));
    NodeCert::load_or_create(dir, &again, NodeId(4), &[]).unwrap();
}

#[test]
fn files_that_do_not_fit_are_told_by_name() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [ours, others] = [dirs[0].path(), dirs[1].path()];
    for (dir, node) in [(ours, 1), (others, 2)] {
        let ca = ClusterCa::load_or_create(dir).unwrap();
        NodeCert::load_or_create(dir, &ca, NodeId(node), &[]).unwrap();
    }
    let wrong_node = NodeCert::load(ours, NodeId(3)).unwrap_err();
    assert!(matches!(wrong_node, TlsError::OtherNode { expected: NodeId(3), .. }), "{wrong_node:?}");
    assert!(wrong_node.to_string().contains("node.pem is the certificate of n1, but this is n3"), "{wrong_node}");

    let swap = |name: &str| fs::copy(others.join(name), ours.join(name)).unwrap();
    let kept: Vec<_> = names(ours).into_iter().map(|name| (fs::read(ours.join(&name)).unwrap(), name)).collect();
    let restore = || kept.iter().for_each(|(bytes, name)| fs::write(ours.join(name), bytes).unwrap());
    swap("node.key");
    assert!(matches!(NodeCert::load(ours, NodeId(1)), Err(TlsError::Damaged { .. })));
    restore();
    swap("ca.pem");
    assert!(matches!(NodeCert::load(ours, NodeId(1)), Err(TlsError::OtherCa { .. })));
    let mixed = ClusterCa::load_or_create(ours).unwrap_err();
    assert!(mixed.to_string().contains("does not belong to ca.key"), "{mixed}");
    restore();
    for name in names(ours) {
        for damage in [&b""[..], b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\xff\xfe"] {
            fs::write(ours.join(&name), damage).unwrap();
            let outcome = ClusterCa::load_or_create(ours).and_then(|_| NodeCert::load(ours, NodeId(1)));
            let error = outcome.expect_err("damage is noticed");
            assert!(matches!(error, TlsError::Damaged { .. } | TlsError::OtherCa { .. }), "{name}: {error:?}");
            assert!(error.to_string().contains(&name), "{name}: {error}");
        }
        restore();
    }
    fs::remove_file(ours.join("ca.key")).unwrap();
    let no_key = ClusterCa::load_or_create(ours).unwrap_err();
    assert!(matches!(no_key, TlsError::CaKeyMissing { .. }), "{no_key:?}");
    NodeCert::load(ours, NodeId(1)).expect("a node needs no CA key");
    assert!(Trust::from_ca_file(&ours.join("none.pem")).unwrap_err().to_string().contains("none.pem"));
}

#[test]
fn host_names_that_are_none_are_refused() {
    assert!(matches!(CA.issue_node(NodeId(1), &["ä".to_owned()]), Err(TlsError::Issue(_))));
}
