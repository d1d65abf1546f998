//! What a connection is for, told before it exists: in the destination connection id that the client chooses for its first
//! packet. The server reads it before it accepts, and can so accept on the thread that will own the connection.
//!
//! ```text
//! 0  magic  u16  0xD10C
//! 2  class  u8   1 control, 2 data
//! 3  core   u16
//! 5  random [u8; 11]
//! ```
//! Little-endian, 16 bytes; QUIC wants 8 to 20, and unpredictable ones. It is a hint, from somebody who has proven nothing.

use quinn::ConnectionId;

const MAGIC: u16 = 0xD10C;
const LEN: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectionClass {
    /// Requests, heartbeats, watches: never behind bulk data.
    Control,
    /// Bulk, for the given core of the server (which takes it modulo its cores).
    Data { core: u16 },
    /// The client did not say.
    Unknown,
}

impl ConnectionClass {
    pub(super) fn to_connection_id(self) -> ConnectionId {
        let mut bytes = [0; LEN];
        getrandom::fill(&mut bytes).expect("the operating system gives random numbers");
        let (class, core) = match self {
            Self::Control => (1, 0),
            Self::Data { core } => (2, core),
            Self::Unknown => return ConnectionId::new(&bytes),
        };
        bytes[..2].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[2] = class;
        bytes[3..5].copy_from_slice(&u16::to_le_bytes(core));
        ConnectionId::new(&bytes)
    }

    pub(super) fn from_connection_id(id: &[u8]) -> Self {
        let &[m0, m1, class, c0, c1, ..] = id else { return Self::Unknown };
        match (id.len(), u16::from_le_bytes([m0, m1]), class) {
            (LEN, MAGIC, 1) => Self::Control,
            (LEN, MAGIC, 2) => Self::Data { core: u16::from_le_bytes([c0, c1]) },
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_survive_the_wire_and_anything_else_is_unknown() {
        for class in [ConnectionClass::Control, ConnectionClass::Data { core: 0x1234 }] {
            let id = class.to_connection_id();
            assert_eq!(ConnectionClass::from_connection_id(&id), class);
            assert_eq!(ConnectionClass::from_connection_id(&id[..15]), ConnectionClass::Unknown);
        }
        assert_eq!(ConnectionClass::from_connection_id(b""), ConnectionClass::Unknown);
        assert_eq!(ConnectionClass::from_connection_id(&[7; 16]), ConnectionClass::Unknown);
        let ids = [ConnectionClass::Control.to_connection_id(), ConnectionClass::Control.to_connection_id()];
        assert_ne!(ids[0], ids[1], "connection ids are unpredictable");
    }
}
