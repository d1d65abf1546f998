//! Questions and answers on a control lane.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
    /// Nothing is heard on the lane any more.
    is_over: Arc<AtomicBool>,
}

impl Control {
    /// Opens a lane for questions of this kind.
    pub async fn open(connection: &Connection, kind: LaneKind) -> Result<Self, ClientError> {
        let (tx, rx) = connection.open_lane(kind).await?.split();
        let waiting = Arc::new(Waiting::default());
        let is_over = Arc::new(AtomicBool::new(false));
        tokio::spawn(hand_out(rx, waiting.clone(), is_over.clone()));
        Ok(Self { tx, waiting, next: Arc::new(AtomicU64::new(1)), is_over })
    }

    /// Whether a question would still be heard.
    pub fn is_open(&self) -> bool {
        !self.is_over.load(Ordering::Acquire)
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
        // Whoever asks when the lane is just over must not wait for ever.
        if !self.is_open() {
            return Err(ClientError::Lost("the lane was closed".to_owned()));
        }
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

async fn hand_out(mut rx: LaneReceiver, waiting: Arc<Waiting>, is_over: Arc<AtomicBool>) {
    while let Ok(frame) = rx.recv().await {
        let answer = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&frame.corr);
        if let Some(answer) = answer {
            // Whoever asked may have given up.
            let _ = answer.send(frame);
        }
    }
    is_over.store(true, Ordering::Release);
    // Everybody who still waits learns that nothing will come.
    waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
}
