//! One handler per API. Each is a function of a request; what it needs of the node it asks of [`Shared`].

mod api_versions;
mod configs;
mod coordinator;
mod describe_cluster;
mod describe_log_dirs;
mod describe_producers;
mod describe_topics;
mod elections;
mod errands;
mod fetch;
mod groups;
mod init_producer_id;
mod leader_epoch;
mod list_offsets;
mod metadata;
mod offsets;
mod produce;
mod records;
mod sasl;
mod topics;

use std::net::SocketAddr;
use std::sync::Arc;

pub(crate) use errands::Errands;
pub(crate) use list_offsets::NewestSeen;

use kafka_protocol::messages::RequestKind;
use kafka_protocol::protocol::{Encodable, HeaderVersion, StrBytes};

use crate::broker::Pending;
use crate::gateway::Shared;
use crate::wire::{Answer, Header, Request, answer};

/// Who asks: known of the connection.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) peer: SocketAddr,
    pub(crate) client_id: StrBytes,
    /// Name and version that the client's library gives itself (ApiVersions 3 on).
    pub(crate) software: Option<(StrBytes, StrBytes)>,
}

impl Caller {
    pub(crate) fn new(peer: SocketAddr) -> Self {
        Self { peer, client_id: StrBytes::new(), software: None }
    }
}

/// Authorized operations that nobody asked for, or that nobody is asked about.
const NO_OPERATIONS: i32 = i32::MIN;

/// Text for answers.
fn text(text: impl Into<String>) -> StrBytes {
    StrBytes::from_string(text.into())
}

/// Awaits a response and encodes it.
fn send<R, F>(header: &Header, response: F) -> Pending<Answer>
where
    R: Encodable + HeaderVersion + Send + 'static,
    F: Future<Output = R> + Send + 'static,
{
    let (correlation, version) = (header.correlation, header.version);
    Box::pin(async move { answer(correlation, version, &response.await) })
}

/// Begins to carry out a request. What has to happen in the order of requests has happened when this returns.
pub(crate) fn begin(shared: &Arc<Shared>, caller: &mut Caller, request: Request) -> Pending<Answer> {
    let (header, body) = match request {
        Request::Known { header, body } => (header, body),
        Request::UnknownApiVersions { correlation } => {
            return Box::pin(std::future::ready(api_versions::unknown_version(correlation)));
        }
    };
    caller.client_id.clone_from(header.client_id.as_ref().unwrap_or(&StrBytes::from_static_str("")));
    let (shared, version) = (shared.clone(), header.version);
    match *body {
        RequestKind::Produce(request) => produce::begin(&shared, &header, request),
        RequestKind::Fetch(request) => fetch::begin(shared, &header, request),
        RequestKind::ApiVersions(request) => {
            let response = api_versions::handle(caller, version, request);
            send(&header, std::future::ready(response))
        }
        RequestKind::ListOffsets(request) => send(&header, list_offsets::handle(shared, version, request)),
        RequestKind::Metadata(request) => send(&header, metadata::handle(shared, version, request)),
        RequestKind::OffsetCommit(request) => send(&header, offsets::commit(shared, request)),
        RequestKind::OffsetFetch(request) => send(&header, offsets::fetch(shared, version, request)),
        RequestKind::OffsetDelete(request) => send(&header, offsets::delete(shared, request)),
        RequestKind::FindCoordinator(request) => send(&header, coordinator::handle(shared, version, request)),
        RequestKind::JoinGroup(request) => send(&header, groups::join(shared, caller.clone(), version, request)),
        RequestKind::SyncGroup(request) => send(&header, groups::sync(shared, request)),
        RequestKind::Heartbeat(request) => send(&header, groups::heartbeat(shared, request)),
        RequestKind::LeaveGroup(request) => send(&header, groups::leave(shared, version, request)),
        RequestKind::DescribeGroups(request) => send(&header, groups::describe(shared, version, request)),
        RequestKind::ListGroups(request) => send(&header, groups::list(shared, version, request)),
        RequestKind::DeleteGroups(request) => send(&header, groups::delete(shared, request)),
        RequestKind::SaslHandshake(_) => send(&header, std::future::ready(sasl::handshake())),
        RequestKind::SaslAuthenticate(_) => send(&header, std::future::ready(sasl::authenticate())),
        RequestKind::CreateTopics(request) => send(&header, topics::create(shared, version, request)),
        RequestKind::DeleteTopics(request) => send(&header, topics::delete(shared, version, request)),
        RequestKind::CreatePartitions(request) => send(&header, topics::create_partitions(shared, request)),
        RequestKind::DeleteRecords(request) => send(&header, records::delete(shared, request)),
        RequestKind::InitProducerId(request) => send(&header, init_producer_id::handle(shared, request)),
        RequestKind::OffsetForLeaderEpoch(request) => send(&header, leader_epoch::handle(shared, request)),
        RequestKind::DescribeConfigs(request) => send(&header, configs::describe(shared, version, request)),
        RequestKind::AlterConfigs(request) => send(&header, configs::alter(shared, request)),
        RequestKind::IncrementalAlterConfigs(request) => send(&header, configs::alter_incrementally(shared, request)),
        RequestKind::ElectLeaders(request) => send(&header, elections::elect(shared, version, request)),
        RequestKind::ListPartitionReassignments(request) => {
            send(&header, std::future::ready(elections::reassignments(&request)))
        }
        RequestKind::DescribeLogDirs(request) => send(&header, describe_log_dirs::handle(shared, version, request)),
        RequestKind::DescribeProducers(request) => send(&header, describe_producers::handle(shared, request)),
        RequestKind::DescribeCluster(request) => send(&header, describe_cluster::handle(shared, version, request)),
        RequestKind::DescribeTopicPartitions(request) => send(&header, describe_topics::handle(shared, request)),
        _ => {
            let why = format!("it asked for {:?}, which is not served", header.key);
            Box::pin(std::future::ready(Answer::Close(why)))
        }
    }
}
