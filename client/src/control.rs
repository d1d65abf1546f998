//! Questions and answers on a control lane.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dlog_proto::transport::{Connection, LaneKind, LaneReceiver, LaneSender};
use dlog_proto::wire::{Failed, Frame, Message, Payload};
use tokio::sync::oneshot;

use crate::error::ClientError;

type Waiting = Mutex<HashMap<u64, oneshot::Sender<Frame>>>;

/// A control lane; cheap to clone. Questions are answered in any order.
#[derive(Debug, Clone)]
pub struct Control {
    tx: LaneSender,
    waiting: Arc<Waiting>,
    next: Arc<AtomicU64>,
}

impl Control {
    /// Opens a lane for questions of this kind.
    pub async fn open(connection: &Connection, kind: LaneKind) -> Result<Self, ClientError> {
        let (tx, rx) = connection.open_lane(kind).await?.split();
        let waiting = Arc::new(Waiting::default());
        tokio::spawn(hand_out(rx, waiting.clone()));
        Ok(Self { tx, waiting, next: Arc::new(AtomicU64::new(1)) })
    }

    /// Whether a question would still be heard.
    pub fn is_open(&self) -> bool {
        // `hand_out` holds the other one until the lane ends.
        Arc::strong_count(&self.waiting) > 1
    }

    /// Asks, and waits for the answer; there is no time limit.
    pub async fn ask<Q: Message, A: Message>(
        &self,
        question: &Q,
        payload: Payload,
    ) -> Result<(A, Payload), ClientError> {
        let corr = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(corr, answer);
        let forget = ForgetOnDrop { waiting: &self.waiting, corr };
        self.tx.send(question.to_frame(corr, payload))?;
        let frame = answered.await.map_err(|_| ClientError::Lost("the lane was closed".to_owned()))?;
        drop(forget);
        if Failed::is(&frame) {
            return Err(Failed::from_frame(&frame)?.into());
        }
        Ok((A::from_frame(&frame)?, frame.payload))
    }
}

/// A question that is given up leaves nothing behind.
struct ForgetOnDrop<'a> {
    waiting: &'a Waiting,
    corr: u64,
}

impl Drop for ForgetOnDrop<'_> {
    fn drop(&mut self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.corr);
    }
}

async fn hand_out(mut rx: LaneReceiver, waiting: Arc<Waiting>) {
    while let Ok(frame) = rx.recv().await {
        let answer = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&frame.corr);
        if let Some(answer) = answer {
            // Whoever asked may have given up.
            let _ = answer.send(frame);
        }
    }
    // Everybody who still waits learns that nothing will come.
    waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
}
