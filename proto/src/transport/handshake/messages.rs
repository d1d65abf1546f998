//! What the two sides say of themselves, and what follows from it.

use rkyv::{Archive, Deserialize, Serialize};

use super::{HandshakeError, PROTOCOL_MAX, PROTOCOL_MIN};
use crate::transport::PeerIdentity;
use crate::{ClusterId, NodeId, ProcessId};

/// Longest text in a handshake, in bytes.
pub const TEXT_LEN_MAX: usize = 256;

/// What the connecting side says.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Hello {
    pub protocol_min: u16,
    pub protocol_max: u16,
    /// The cluster it believes to be connecting to, if it knows.
    pub cluster: Option<ClusterId>,
    /// Which node it is, if it is one.
    pub node: Option<NodeId>,
    pub process: Option<ProcessId>,
    /// Which node it wants to reach. None: any.
    pub expect_node: Option<NodeId>,
    /// Name and version, for logs.
    pub software: String,
}

impl Hello {
    /// A client that knows nothing yet.
    pub fn client(software: &str) -> Self {
        Self {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            cluster: None,
            node: None,
            process: None,
            expect_node: None,
            software: software.to_owned(),
        }
    }

    pub(super) fn check(self) -> Result<Self, HandshakeError> {
        if self.protocol_min > self.protocol_max {
            return Err(HandshakeError::Invalid("the protocol versions are the wrong way round"));
        }
        let nodes_are_real = [self.node, self.expect_node].iter().flatten().all(|node| node.0 > 0);
        if !nodes_are_real {
            return Err(HandshakeError::Invalid("node ids begin at 1"));
        }
        check_text(&self.software)?;
        Ok(self)
    }
}

/// What the accepting side says of itself when it lets the other in.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that both will speak.
    pub protocol: u16,
    /// None: it has not joined a cluster yet.
    pub cluster: Option<ClusterId>,
    pub node: NodeId,
    pub process: ProcessId,
    /// How many data connections are worth opening: one for each core that serves them.
    pub cores: u16,
    pub software: String,
}

impl Welcome {
    /// The answer that follows from who this side is; a policy can look further before or after. `self` is this side,
    /// with the newest protocol it speaks.
    pub fn answer(&self, hello: &Hello, peer: &PeerIdentity) -> Result<Self, Refused> {
        if hello.protocol_max < PROTOCOL_MIN || hello.protocol_min > self.protocol {
            return Err(Refused::new(
                RefusedCode::NoCommonVersion,
                format!(
                    "{} speaks protocol {PROTOCOL_MIN} to {}, the peer {} to {}: upgrade the older side",
                    self.node, self.protocol, hello.protocol_min, hello.protocol_max
                ),
            ));
        }
        if let (Some(ours), Some(theirs)) = (self.cluster, hello.cluster)
            && ours != theirs
        {
            return Err(Refused::new(
                RefusedCode::OtherCluster,
                format!("{} belongs to cluster {ours}, not to {theirs}", self.node),
            ));
        }
        if let Some(expected) = hello.expect_node
            && expected != self.node
        {
            return Err(Refused::new(
                RefusedCode::OtherNode,
                format!("this is {}, not {expected}: check the addresses in the configuration", self.node),
            ));
        }
        if let (Some(claimed), PeerIdentity::Node(proven)) = (hello.node, peer)
            && claimed != *proven
        {
            return Err(Refused::new(
                RefusedCode::NotAllowed,
                format!("the peer says it is {claimed} but its certificate is {proven}'s"),
            ));
        }
        Ok(Self { protocol: self.protocol.min(hello.protocol_max), ..self.clone() })
    }

    pub(super) fn check(self, hello: &Hello) -> Result<Self, HandshakeError> {
        if !(hello.protocol_min..=hello.protocol_max).contains(&self.protocol) {
            return Err(HandshakeError::Invalid("the peer chose a protocol version that was not offered"));
        }
        if self.node.0 == 0 {
            return Err(HandshakeError::Invalid("node ids begin at 1"));
        }
        if let Some(expected) = hello.expect_node
            && expected != self.node
        {
            return Err(HandshakeError::Invalid("another node than the expected one answered"));
        }
        if let (Some(ours), Some(theirs)) = (hello.cluster, self.cluster)
            && ours != theirs
        {
            return Err(HandshakeError::Invalid("a node of another cluster answered"));
        }
        check_text(&self.software)?;
        Ok(self)
    }
}

/// Why the accepting side does not let the other in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedCode {
    NoCommonVersion,
    OtherCluster,
    OtherNode,
    NotAllowed,
    /// Not now; try again soon.
    Busy,
    Other(u16),
}

impl RefusedCode {
    pub(super) fn to_u16(self) -> u16 {
        match self {
            Self::NoCommonVersion => 1,
            Self::OtherCluster => 2,
            Self::OtherNode => 3,
            Self::NotAllowed => 4,
            Self::Busy => 5,
            Self::Other(code) => code,
        }
    }

    pub(super) fn from_u16(code: u16) -> Self {
        match code {
            1 => Self::NoCommonVersion,
            2 => Self::OtherCluster,
            3 => Self::OtherNode,
            4 => Self::NotAllowed,
            5 => Self::Busy,
            other => Self::Other(other),
        }
    }
}

/// The answer of an accepting side that does not let the other in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    pub code: RefusedCode,
    /// For the user at the other end: what is wrong and what to do.
    pub message: String,
}

impl Refused {
    /// A longer message than [`TEXT_LEN_MAX`] is cut; it becomes one line.
    pub fn new(code: RefusedCode, message: impl Into<String>) -> Self {
        let mut message = message.into().replace(char::is_control, " ");
        let end = (0..=TEXT_LEN_MAX.min(message.len())).rev().find(|&end| message.is_char_boundary(end));
        message.truncate(end.unwrap_or(0));
        Self { code, message }
    }
}

/// Texts end up in logs and on terminals.
pub(super) fn check_text(text: &str) -> Result<(), HandshakeError> {
    if text.len() > TEXT_LEN_MAX {
        return Err(HandshakeError::Invalid("a text of the handshake is too long"));
    }
    if text.contains(char::is_control) {
        return Err(HandshakeError::Invalid("a text of the handshake has control characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::codec::tests::{hello, welcome};
    use super::*;

    #[test]
    fn answers_follow_from_who_we_are() {
        let me = welcome();
        let answer = |hello: &Hello, peer| me.answer(hello, &peer).map_err(|refused| refused.code);
        assert_eq!(answer(&hello(), PeerIdentity::Node(NodeId(3))), Ok(me.clone()));
        assert_eq!(answer(&Hello::client("x"), PeerIdentity::Anonymous), Ok(me.clone()));
        assert_eq!(answer(&hello(), PeerIdentity::Node(NodeId(9))), Err(RefusedCode::NotAllowed));
        let refused = |change: fn(&mut Hello)| {
            let mut hello = hello();
            change(&mut hello);
            answer(&hello, PeerIdentity::Loopback).unwrap_err()
        };
        assert_eq!(refused(|hello| hello.protocol_min = 2), RefusedCode::NoCommonVersion);
        assert_eq!(refused(|hello| hello.cluster = Some(ClusterId(9))), RefusedCode::OtherCluster);
        assert_eq!(refused(|hello| hello.expect_node = Some(NodeId(9))), RefusedCode::OtherNode);
    }
}
