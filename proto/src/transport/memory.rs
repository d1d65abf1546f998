//! Connections inside a process: a lane's send queue is the peer's receive queue, so frames are moved, neither copied nor
//! encoded. For local hops between roles, and for tests.
//!
//! The end of a connection is that of QUIC: it closes when it is told to, or when one side holds neither the connection nor
//! a lane of it any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tokio::sync::{Notify, mpsc, oneshot};

use super::connection::{CloseReason, Connection, PeerIdentity, PeerInfo, close_code};
use super::handshake::{Admission, Hello, Refused, Welcome};
use super::lane::{Lane, LaneClosed, LaneKind, LaneReceiver, LaneSender};
use super::queue::Queue;

/// Lanes that were opened and not yet accepted, and connections likewise.
const BACKLOG: usize = 64;

/// Two connected connections. `first` describes the first one's own side and is what the second sees, and the reverse.
pub fn pair_with(first: PeerInfo, second: PeerInfo) -> (Connection, Connection) {
    let (to_first, inbox_of_first) = mpsc::channel(BACKLOG);
    let (to_second, inbox_of_second) = mpsc::channel(BACKLOG);
    let state = State {
        closed: None,
        inboxes: Some([to_first, to_second]),
        queues: Vec::new(),
        ends: [Weak::new(), Weak::new()],
    };
    let link = Arc::new(Link { state: Mutex::new(state), changed: Notify::new() });
    let ends = [0, 1].map(|side| Arc::new(End { link: Arc::clone(&link), side }));
    link.lock().ends = [Arc::downgrade(&ends[0]), Arc::downgrade(&ends[1])];
    let [end_of_first, end_of_second] = ends;
    let connection =
        |end, inbox, peer| Connection::from(MemoryConnection { end, inbox: tokio::sync::Mutex::new(inbox), peer });
    (connection(end_of_first, inbox_of_first, second), connection(end_of_second, inbox_of_second, first))
}

/// Two connected connections whose ends are nobody in particular.
pub fn pair() -> (Connection, Connection) {
    let nobody = || PeerInfo {
        identity: PeerIdentity::SameProcess,
        protocol: super::handshake::PROTOCOL_MAX,
        cluster: None,
        node: None,
        process: None,
        cores: 0,
        software: String::new(),
    };
    pair_with(nobody(), nobody())
}

#[derive(Debug)]
pub(super) struct MemoryConnection {
    end: Arc<End>,
    inbox: tokio::sync::Mutex<mpsc::Receiver<(LaneKind, Lane)>>,
    peer: PeerInfo,
}

/// One side's hold on the connection; closes it when the last is gone.
#[derive(Debug)]
pub(super) struct End {
    link: Arc<Link>,
    side: usize,
}

/// What both sides share.
#[derive(Debug)]
struct Link {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// By side: what it was told.
    closed: Option<[CloseReason; 2]>,
    /// Where each side finds the lanes that the other opened. None when closed: lanes lead back here.
    inboxes: Option<[mpsc::Sender<(LaneKind, Lane)>; 2]>,
    queues: Vec<OpenQueue>,
    ends: [Weak<End>; 2],
}

#[derive(Debug)]
struct OpenQueue {
    queue: Weak<Queue>,
    sending_side: usize,
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds a connection's state")
    }

    fn close(&self, side: usize, code: u32, message: &str) {
        let mut state = self.lock();
        if state.closed.is_some() {
            return;
        }
        let mut reasons = [CloseReason::Local, CloseReason::Local];
        reasons[1 - side] = CloseReason::Peer { code, message: message.to_owned() };
        let (queues, inboxes) = (std::mem::take(&mut state.queues), state.inboxes.take());
        state.closed = Some(reasons.clone());
        drop(state);
        drop(inboxes);
        let lost = |side: usize| LaneClosed::ConnectionLost { reason: reasons[side].clone() };
        for OpenQueue { queue, sending_side } in queues {
            if let Some(queue) = queue.upgrade() {
                queue.close(lost(sending_side), lost(1 - sending_side));
            }
        }
        self.changed.notify_waiters();
    }

    async fn closed(&self, side: usize) -> CloseReason {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(reasons) = &self.lock().closed {
                return reasons[side].clone();
            }
            changed.await;
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.link.close(self.side, close_code::DONE, "");
    }
}

impl MemoryConnection {
    pub(super) async fn open_lane(&self, kind: LaneKind) -> Result<Lane, CloseReason> {
        let End { link, side } = &*self.end;
        let theirs = 1 - side;
        let Some(inbox) = link.lock().inboxes.as_ref().map(|inboxes| inboxes[theirs].clone()) else {
            return Err(self.closed().await);
        };
        // The other side has lanes, but nothing any more that could accept one.
        let unwanted = || CloseReason::Peer { code: close_code::DONE, message: String::new() };
        let place = tokio::select! {
            place = inbox.reserve() => place.map_err(|_| unwanted())?,
            reason = self.closed() => return Err(reason),
        };
        let (there, back) = (Arc::new(Queue::new()), Arc::new(Queue::new()));
        let their_end = {
            let mut state = link.lock();
            if let Some(reasons) = &state.closed {
                return Err(reasons[*side].clone());
            }
            let Some(their_end) = state.ends[theirs].upgrade() else { return Err(unwanted()) };
            state.queues.retain(|open| open.queue.strong_count() > 0);
            state.queues.push(OpenQueue { queue: Arc::downgrade(&there), sending_side: *side });
            state.queues.push(OpenQueue { queue: Arc::downgrade(&back), sending_side: theirs });
            their_end
        };
        place.send((kind, lane(Arc::clone(&back), Arc::clone(&there), their_end)));
        if inbox.is_closed() {
            // It may lie there unseen for as long as the connection lives.
            there.fail(LaneClosed::Finished);
            back.fail(LaneClosed::Finished);
            return Err(unwanted());
        }
        Ok(lane(there, back, Arc::clone(&self.end)))
    }

    pub(super) async fn accept_lane(&self) -> Result<(LaneKind, Lane), CloseReason> {
        let mut inbox = self.inbox.lock().await;
        tokio::select! {
            biased;
            Some(lane) = inbox.recv() => Ok(lane),
            reason = self.closed() => Err(reason),
        }
    }

    pub(super) fn peer(&self) -> &PeerInfo {
        &self.peer
    }

    pub(super) fn close(&self, code: u32, message: &str) {
        self.end.link.close(self.end.side, code, message);
    }

    pub(super) async fn closed(&self) -> CloseReason {
        self.end.link.closed(self.end.side).await
    }
}

fn lane(send: Arc<Queue>, receive: Arc<Queue>, end: Arc<End>) -> Lane {
    Lane { tx: LaneSender::new(send, Some(Arc::clone(&end))), rx: LaneReceiver::memory(receive, end) }
}

/// Where listeners in a process are found by name. One per process, handed to whoever needs it.
#[derive(Debug, Clone, Default)]
pub struct MemoryNetwork {
    listeners: Arc<Mutex<HashMap<String, mpsc::Sender<MemoryIncoming>>>>,
}

/// Why there is no connection inside this process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryConnectError {
    #[error("nothing in this process listens as '{name}'")]
    NoListener { name: String },
    #[error(transparent)]
    Refused(#[from] Refused),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{name}' is in use: something in this process listens under that name")]
pub struct NameTaken {
    pub name: String,
}

impl MemoryNetwork {
    pub fn listen(&self, name: &str) -> Result<MemoryListener, NameTaken> {
        let mut listeners = self.listeners.lock().expect("nothing panics while it holds the names");
        listeners.retain(|_, listener| !listener.is_closed());
        if listeners.contains_key(name) {
            return Err(NameTaken { name: name.to_owned() });
        }
        let (sender, incoming) = mpsc::channel(BACKLOG);
        listeners.insert(name.to_owned(), sender);
        Ok(MemoryListener { incoming })
    }

    pub async fn connect(&self, name: &str, hello: Hello) -> Result<Connection, MemoryConnectError> {
        let no_listener = || MemoryConnectError::NoListener { name: name.to_owned() };
        let listener = self.listeners.lock().expect("nothing panics while it holds the names").get(name).cloned();
        let (answer, answered) = oneshot::channel();
        let listener = listener.ok_or_else(no_listener)?;
        listener.send(MemoryIncoming { hello, answer }).await.map_err(|_| no_listener())?;
        Ok(answered.await.map_err(|_| no_listener())??)
    }
}

#[derive(Debug)]
pub struct MemoryListener {
    incoming: mpsc::Receiver<MemoryIncoming>,
}

impl MemoryListener {
    /// None: nobody can connect any more, the network is gone.
    pub async fn accept(&mut self) -> Option<MemoryIncoming> {
        self.incoming.recv().await
    }
}

/// Somebody in this process who wants to connect. Dropped, it is as if nobody listened.
#[derive(Debug)]
pub struct MemoryIncoming {
    hello: Hello,
    answer: oneshot::Sender<Result<Connection, Refused>>,
}

impl MemoryIncoming {
    pub fn establish(self, admission: &(impl Admission + ?Sized)) -> Result<Connection, Refused> {
        let identity = PeerIdentity::SameProcess;
        let welcome: Welcome = match admission.admit(&self.hello, &identity) {
            Ok(welcome) => welcome,
            Err(refused) => {
                // Nobody waits for it any more: then it need not be told.
                let _ = self.answer.send(Err(refused.clone()));
                return Err(refused);
            }
        };
        let connecting_side = PeerInfo::of_hello(self.hello, identity, &welcome);
        let accepting_side = PeerInfo::of_welcome(welcome, identity);
        let (theirs, ours) = pair_with(connecting_side, accepting_side);
        // If nobody waits any more the other end is dropped here, and ours is found closed.
        let _ = self.answer.send(Ok(theirs));
        Ok(ours)
    }
}
