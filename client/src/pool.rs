//! Connections, shared by everything that a client does: one per server and class.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dlog_proto::transport::{ConnectError, Connection, ConnectionClass, Hello, HostPort, QuicConnector, close_code};
use dlog_proto::{NodeId, ProcessId};

#[derive(Debug, Default)]
struct Slot {
    /// Numbered, to tell it from the one that replaces it.
    connection: tokio::sync::Mutex<Option<(u64, Connection)>>,
}

/// A client's connections. Made when first asked for, and again when they are lost.
#[derive(Debug)]
pub struct Pool {
    connector: QuicConnector,
    hello: Hello,
    next: AtomicU64,
    slots: Mutex<HashMap<(HostPort, ConnectionClass), Arc<Slot>>>,
}

impl Pool {
    pub fn new(connector: QuicConnector, hello: Hello) -> Self {
        Self { connector, hello, next: AtomicU64::new(1), slots: Mutex::default() }
    }

    /// A connection to `address`. If `process` is given, one to that process: an older one's is of no use.
    pub async fn connect(
        &self,
        address: &HostPort,
        class: ConnectionClass,
        expect: Option<(NodeId, ProcessId)>,
    ) -> Result<Connection, ConnectError> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.entry((address.clone(), class)).or_default().clone()
        };
        let mut held = slot.connection.lock().await;
        if let Some((_, connection)) = held.as_ref() {
            if expect.is_none_or(|(_, process)| connection.peer().process == Some(process)) {
                return Ok(connection.clone());
            }
            connection.close(close_code::DONE, "the server was started again");
        }
        let hello = Hello { expect_node: expect.map(|(node, _)| node), ..self.hello.clone() };
        let connection = self.connector.connect(address, class, &hello).await?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        *held = Some((number, connection.clone()));
        drop(held);
        tokio::spawn(forget_when_closed(number, connection.clone(), slot));
        Ok(connection)
    }

    /// Closes the connection to `address`, if there is one: the next is a new one.
    pub fn forget(&self, address: &HostPort, class: ConnectionClass) {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // While somebody connects, there is none that could be old.
        let held = slots.get(&(address.clone(), class)).and_then(|slot| slot.connection.try_lock().ok()?.take());
        if let Some((_, connection)) = held {
            connection.close(close_code::DONE, "nothing was heard for long");
        }
    }

    pub fn close(&self) {
        for slot in self.slots.lock().unwrap_or_else(PoisonError::into_inner).values() {
            if let Some((_, connection)) = slot.connection.try_lock().ok().and_then(|mut held| held.take()) {
                connection.close(close_code::DONE, "");
            }
        }
    }

    /// Closes all connections, and waits until the other sides know.
    pub async fn shutdown(&self) {
        self.connector.close(close_code::DONE, "").await;
    }
}

async fn forget_when_closed(number: u64, connection: Connection, slot: Arc<Slot>) {
    connection.closed().await;
    let mut held = slot.connection.lock().await;
    if held.as_ref().is_some_and(|(current, _)| *current == number) {
        *held = None;
    }
}
