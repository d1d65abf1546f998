//! What a lane promises, over each kind of connection.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::support::*;
use crate::transport::*;
use crate::wire::{Frame, FrameError, FrameLimits};

#[tokio::test]
async fn frames_arrive_whole_and_in_order() {
    over_each(async |left, right| {
        let (ours, mut theirs) = lane(&left, &right).await;
        let count = 20_000;
        for corr in 0..count {
            ours.tx.send(frame(corr, vec![corr as u8; corr as usize % 300])).unwrap();
        }
        let mut received = Vec::new();
        while received.len() < count as usize {
            assert!(theirs.rx.recv_many(&mut received).await.unwrap() > 0);
        }
        for (corr, frame) in (0..).zip(received) {
            assert_eq!((frame.corr, frame.kind, &frame.body[..]), (corr, 9, &b"body"[..]));
            assert_eq!(frame.payload.into_contiguous(), vec![corr as u8; corr as usize % 300]);
        }
    })
    .await;
}

#[tokio::test]
async fn long_payloads_arrive_unchanged_among_short_ones() {
    let long: Bytes = (0..8 << 20).map(|i: u32| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect::<Vec<_>>().into();
    over_each(async |left, right| {
        let (mut ours, theirs) = lane(&left, &right).await;
        let (long, mut theirs) = (long.clone(), theirs);
        for round in 0..3 {
            ours.tx.send(frame(2 * round, &b"short"[..])).unwrap();
            ours.tx.send(frame(2 * round + 1, long.clone())).unwrap();
        }
        for round in 0..3 {
            assert_eq!(theirs.rx.recv().await.unwrap().corr, 2 * round);
            let received = theirs.rx.recv().await.unwrap();
            assert_eq!(received.corr, 2 * round + 1);
            assert!(received.payload.into_contiguous() == long, "the long payload arrived changed");
        }
        theirs.tx.send(frame(77, &b"answer"[..])).unwrap();
        assert_eq!(ours.rx.recv().await.unwrap().corr, 77);
    })
    .await;
}

#[tokio::test]
async fn either_side_opens_lanes_and_they_do_not_hinder_each_other() {
    over_each(async |left, right| {
        let mut open = Vec::new();
        for (from, to) in [(&left, &right), (&right, &left)] {
            for kind in LaneKind::ALL {
                let ours = from.open_lane(kind).await.unwrap();
                let (found, theirs) = to.accept_lane().await.unwrap();
                assert_eq!(found, kind);
                open.push((ours, theirs));
            }
        }
        for (corr, (ours, _)) in (0..).zip(&open) {
            ours.tx.send(frame(corr, Bytes::new())).unwrap();
        }
        for (corr, (_, theirs)) in open.iter_mut().enumerate().rev() {
            assert_eq!(theirs.rx.recv().await.unwrap().corr, corr as u64);
        }
    })
    .await;
}

#[tokio::test]
async fn a_sender_that_waits_is_held_back_by_a_receiver_that_does_not_read() {
    over_each(async |left, right| {
        let (ours, mut theirs) = lane(&left, &right).await;
        let payload = Bytes::from(vec![1; 256 << 10]);
        let mut sent = 0;
        while let Ok(ready) = timeout(Duration::from_millis(100), ours.tx.ready()).await {
            ready.unwrap();
            ours.tx.send(frame(sent, payload.clone())).unwrap();
            sent += 1;
            assert!(sent < 100, "nothing holds the sender back");
        }
        assert!(ours.tx.queued_bytes() >= 1 << 20);
        for corr in 0..sent {
            assert_eq!(theirs.rx.recv().await.unwrap().corr, corr);
        }
        ours.tx.ready().await.unwrap();
        assert!(timeout(Duration::from_millis(20), theirs.rx.recv()).await.is_err());
    })
    .await;
}

/// A client may have readers that are paused, and go on with others, and with appending.
#[tokio::test]
async fn lanes_that_the_connecting_side_does_not_read_hinder_no_other() {
    over_each(async |client, server| {
        let (mut ours, mut theirs) = lane(&client, &server).await;
        let payload = Bytes::from(vec![1; 256 << 10]);
        let mut unread = Vec::new();
        for _ in 0..8 {
            let (not_read, tx) = lane(&client, &server).await;
            while timeout(Duration::from_millis(50), tx.tx.ready()).await.is_ok() {
                tx.tx.send(frame(0, payload.clone())).unwrap();
            }
            unread.push((not_read, tx));
        }
        for corr in 0..100 {
            ours.tx.send(frame(corr, &b"question"[..])).unwrap();
            assert_eq!(theirs.rx.recv().await.unwrap().corr, corr);
            theirs.tx.send(frame(corr, payload.clone())).unwrap();
            assert_eq!(ours.rx.recv().await.unwrap().payload.len(), payload.len());
        }
        for (mut not_read, _tx) in unread {
            assert_eq!(not_read.rx.recv().await.unwrap().payload.len(), payload.len(), "it was only kept waiting");
        }
    })
    .await;
}

#[tokio::test]
async fn the_high_water_mark_can_be_set() {
    let (left, right) = memory::pair();
    let (ours, mut theirs) = lane(&left, &right).await;
    ours.tx.set_high_water_bytes(100);
    ours.tx.send(frame(0, vec![0; 200])).unwrap();
    assert!(timeout(Duration::from_millis(5), ours.tx.ready()).await.is_err());
    ours.tx.set_high_water_bytes(10_000);
    ours.tx.ready().await.unwrap();
    theirs.rx.recv().await.unwrap();
    assert_eq!(ours.tx.queued_bytes(), 0);
}

#[tokio::test]
async fn a_sender_that_does_not_wait_fails_its_lane_at_the_cap() {
    over_each(async |left, right| {
        let (ours, mut theirs) = lane(&left, &right).await;
        let payload = Bytes::from(vec![1; 1 << 20]);
        let end = loop {
            if let Err(end) = ours.tx.send(frame(0, payload.clone())) {
                break end;
            }
        };
        let LaneClosed::Overrun { queued_bytes } = end else { panic!("{end:?}") };
        assert!((60 << 20..=64 << 20).contains(&queued_bytes));
        assert_eq!(ours.tx.queued_bytes(), 0, "what cannot be delivered is not kept");
        assert_eq!(ours.tx.closed().await, end);
        let seen = loop {
            if let Err(seen) = theirs.rx.recv().await {
                break seen;
            }
        };
        assert_eq!(seen, LaneClosed::Aborted { code: AbortCode::Overrun });
        lane(&left, &right).await;
    })
    .await;
}

#[tokio::test]
async fn a_frame_over_the_limit_fails_its_lane_before_it_is_sent() {
    over_each(async |left, right| {
        let (ours, mut theirs) = lane(&left, &right).await;
        let max = FrameLimits::DEFAULT.payload_len_max;
        let error = ours.tx.send(frame(0, vec![0; max as usize + 1])).unwrap_err();
        assert_eq!(error, LaneClosed::Protocol(FrameError::TooLong { part: "payload", len: max + 1, max }));
        assert_eq!(theirs.rx.recv().await.unwrap_err(), LaneClosed::Aborted { code: AbortCode::Protocol });
    })
    .await;
}

#[tokio::test]
async fn a_dropped_lane_ends_on_both_sides() {
    over_each(async |left, right| {
        let (mut ours, theirs) = lane(&left, &right).await;
        drop(theirs);
        assert_eq!(ours.rx.recv().await.unwrap_err(), LaneClosed::Finished);
        assert_eq!(ours.tx.closed().await, LaneClosed::Finished);
        assert_eq!(ours.tx.send(frame(0, Bytes::new())).unwrap_err(), LaneClosed::Finished);
        assert_eq!(ours.tx.ready().await.unwrap_err(), LaneClosed::Finished);
        lane(&left, &right).await;
    })
    .await;
}

#[tokio::test]
async fn the_directions_of_a_lane_end_apart() {
    over_each(async |left, right| {
        let (ours, mut theirs) = lane(&left, &right).await;
        let (our_tx, mut our_rx) = ours.split();
        let clone = our_tx.clone();
        drop(our_tx);
        clone.send(frame(1, Bytes::new())).unwrap();
        drop(clone);
        assert_eq!(theirs.rx.recv().await.unwrap().corr, 1);
        assert_eq!(theirs.rx.recv().await.unwrap_err(), LaneClosed::Finished);
        theirs.tx.send(frame(2, Bytes::new())).unwrap();
        assert_eq!(our_rx.recv().await.unwrap().corr, 2);
    })
    .await;
}

#[tokio::test]
async fn what_was_sent_before_the_end_is_delivered() {
    over_each(async |left, right| {
        let (ours, mut theirs) = lane(&left, &right).await;
        let payload = Bytes::from(vec![3; 1 << 20]);
        for corr in 0..20 {
            ours.tx.send(frame(corr, payload.clone())).unwrap();
        }
        // Everything of this side is gone at once; the frames are not.
        drop((ours, left));
        for corr in 0..20 {
            assert_eq!(theirs.rx.recv().await.unwrap().corr, corr);
        }
        assert_eq!(theirs.rx.recv().await.unwrap_err(), LaneClosed::Finished);
    })
    .await;
}

#[tokio::test]
async fn a_finished_lane_says_when_all_is_delivered() {
    over_each(async |left, right| {
        let (ours, mut theirs) = lane(&left, &right).await;
        ours.tx.send(frame(5, vec![0; 1 << 20])).unwrap();
        ours.tx.finish();
        assert_eq!(ours.tx.send(frame(6, Bytes::new())).unwrap_err(), LaneClosed::Local);
        let reader = async {
            assert_eq!(theirs.rx.recv().await.unwrap().corr, 5);
            assert_eq!(theirs.rx.recv().await.unwrap_err(), LaneClosed::Finished);
        };
        let (end, ()) = tokio::join!(ours.tx.closed(), reader);
        assert_eq!(end, LaneClosed::Local);
    })
    .await;
}

#[tokio::test]
async fn closing_the_connection_ends_everything_with_the_reason() {
    over_each(async |left, right| {
        let (mut ours, mut theirs) = lane(&left, &right).await;
        left.close(close_code::SHUTDOWN, "going down");
        let told = CloseReason::Peer { code: close_code::SHUTDOWN, message: "going down".to_owned() };
        assert_eq!(right.closed().await, told);
        assert_eq!(theirs.rx.recv().await.unwrap_err(), LaneClosed::ConnectionLost { reason: told.clone() });
        assert_eq!(theirs.tx.closed().await, LaneClosed::ConnectionLost { reason: told.clone() });
        assert_eq!(right.open_lane(LaneKind::Read).await.unwrap_err(), told);
        assert_eq!(right.accept_lane().await.unwrap_err(), told);
        let local = LaneClosed::ConnectionLost { reason: CloseReason::Local };
        assert_eq!(left.closed().await, CloseReason::Local);
        assert_eq!(ours.rx.recv().await.unwrap_err(), local);
        assert_eq!(ours.tx.closed().await, local);
    })
    .await;
}

#[tokio::test]
async fn a_connection_lives_as_long_as_anything_of_it() {
    over_each(async |left, right| {
        let (ours, mut theirs) = lane(&left, &right).await;
        drop(left);
        ours.tx.send(frame(1, Bytes::new())).unwrap();
        assert_eq!(theirs.rx.recv().await.unwrap().corr, 1);
        drop(ours);
        assert!(matches!(right.closed().await, CloseReason::Peer { code: close_code::DONE, .. }));
    })
    .await;
}

#[tokio::test]
async fn nobody_waits_on_a_lane_that_nobody_can_accept() {
    let (left, right) = memory::pair();
    let (ours, _theirs) = lane(&left, &right).await;
    drop(right);
    assert!(left.open_lane(LaneKind::Read).await.is_err());
    ours.tx.send(frame(1, Bytes::new())).expect("the other lane lives on");
}

#[tokio::test]
async fn receiving_can_be_cancelled_without_losing_frames() {
    over_each(async |left, right| {
        let (ours, mut theirs) = lane(&left, &right).await;
        let sender = tokio::spawn(async move {
            for corr in 0..200 {
                ours.tx.send(frame(corr, vec![0; 5000])).unwrap();
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
            ours
        });
        let mut next = 0;
        while next < 200 {
            let received = tokio::select! {
                biased;
                received = theirs.rx.recv() => Some(received.unwrap()),
                () = tokio::task::yield_now() => None,
            };
            if let Some(Frame { corr, .. }) = received {
                assert_eq!(corr, next);
                next += 1;
            }
        }
        sender.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn lanes_can_be_used_from_other_runtimes() {
    over_each(async |left, right| {
        let (ours, mut theirs) = lane(&left, &right).await;
        let elsewhere = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                for corr in 0..1000 {
                    ours.tx.ready().await.unwrap();
                    ours.tx.send(frame(corr, vec![0; 1000])).unwrap();
                }
                ours.tx.finish();
                ours.tx.closed().await
            })
        });
        for corr in 0..1000 {
            assert_eq!(theirs.rx.recv().await.unwrap().corr, corr);
        }
        assert_eq!(theirs.rx.recv().await.unwrap_err(), LaneClosed::Finished);
        // The lane's writer is on this runtime: it must not be blocked.
        let end = tokio::task::spawn_blocking(|| elsewhere.join().unwrap()).await.unwrap();
        assert_eq!(end, LaneClosed::Local);
    })
    .await;
}

#[tokio::test]
async fn connections_say_what_they_run_over() {
    let (left, _right) = memory::pair();
    assert_eq!((left.mtu_class(), left.current_mtu(), left.remote_address()), (MtuClass::Memory, None, None));
    let (left, right) = quic_pair().await;
    assert_eq!((left.mtu_class(), left.current_mtu()), (MtuClass::Loopback, Some(6500)));
    assert_eq!((right.mtu_class(), right.current_mtu()), (MtuClass::Loopback, Some(6500)));
    assert_eq!(left.remote_address().unwrap().ip().to_string(), "127.0.0.1");
}

#[tokio::test]
async fn a_process_finds_itself_by_name() {
    let network = memory::MemoryNetwork::default();
    assert!(network.connect("n1", hello()).await.is_err());
    let mut listener = network.listen("n1").unwrap();
    assert!(network.listen("n1").is_err());
    let accepting = async {
        let connection = listener.accept().await.unwrap().establish(&admit).unwrap();
        assert!(listener.accept().await.unwrap().establish(&admit).is_err());
        connection
    };
    let connecting = async {
        let connection = network.connect("n1", hello()).await.unwrap();
        let stray = Hello { cluster: Some(crate::ClusterId(9)), ..hello() };
        let memory::MemoryConnectError::Refused(refused) = network.connect("n1", stray).await.unwrap_err() else {
            panic!("not refused")
        };
        assert_eq!(refused.code, RefusedCode::OtherCluster);
        connection
    };
    let (theirs, ours) = within(async { tokio::join!(accepting, connecting) }).await;
    assert_eq!((ours.peer().node, ours.peer().cores), (Some(crate::NodeId(1)), 2));
    assert_eq!((theirs.peer().software.as_str(), theirs.peer().identity), ("test client", PeerIdentity::SameProcess));
    lane(&ours, &theirs).await;
    drop(listener);
    assert!(network.connect("n1", hello()).await.is_err());
    assert!(network.listen("n1").is_ok());
}
