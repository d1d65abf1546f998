//! JoinGroup, SyncGroup, Heartbeat, LeaveGroup, DescribeGroups, ListGroups, DeleteGroups.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, GroupId,
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    ListGroupsRequest, ListGroupsResponse, SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::{Caller, NO_OPERATIONS, text};
use crate::gateway::Shared;
use crate::group::{Described, GroupAnswer, GroupRequest, Join, JoinRefused, Joined, Leaving, Listed, Sync};

/// A coordinator gave another kind of answer than was asked for: it never does.
pub(super) const WRONG_ANSWER: ResponseError = ResponseError::CoordinatorNotAvailable;
/// The only type of group there is.
const CLASSIC: &str = "classic";

fn owned(text: &StrBytes) -> String {
    text.as_str().to_owned()
}

fn optional(text: Option<&StrBytes>) -> Option<String> {
    text.map(owned)
}

fn shown(text: Option<String>) -> Option<StrBytes> {
    text.map(StrBytes::from_string)
}

fn millis(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

pub(super) async fn join(
    shared: Arc<Shared>,
    caller: Caller,
    version: i16,
    request: JoinGroupRequest,
) -> JoinGroupResponse {
    let rebalance_ms = if version >= 1 { request.rebalance_timeout_ms } else { request.session_timeout_ms };
    let join = Join {
        group: owned(&request.group_id.0),
        member: owned(&request.member_id),
        instance: optional(request.group_instance_id.as_ref()),
        client_id: caller.client_id.as_str().to_owned(),
        client_host: format!("/{}", caller.peer.ip()),
        session_timeout: millis(request.session_timeout_ms),
        rebalance_timeout: millis(rebalance_ms),
        protocol_type: owned(&request.protocol_type),
        protocols: request
            .protocols
            .iter()
            .map(|protocol| (owned(&protocol.name), protocol.metadata.clone()))
            .collect(),
        needs_known_member: version >= 4,
        can_skip_assignment: version >= 9,
    };
    let group = join.group.clone();
    let answer = match shared.groups.ask(&group, GroupRequest::Join(join)).await {
        Ok(GroupAnswer::Joined(answer)) => answer,
        Ok(_) => Err(JoinRefused { error: WRONG_ANSWER, member: owned(&request.member_id) }),
        Err(error) => Err(JoinRefused { error, member: owned(&request.member_id) }),
    };
    joined(version, answer)
}

fn joined(version: i16, answer: Result<Joined, JoinRefused>) -> JoinGroupResponse {
    let mut response = JoinGroupResponse::default();
    // Before version 7 there is a name always.
    response.protocol_name = Some(StrBytes::new()).filter(|_| version < 7);
    match answer {
        Err(JoinRefused { error, member }) => {
            response.error_code = error.code();
            (response.generation_id, response.member_id) = (-1, StrBytes::from_string(member));
        }
        Ok(joined) => {
            response.generation_id = joined.generation;
            response.protocol_type = shown(joined.protocol_type).filter(|_| version >= 7);
            response.protocol_name = shown(joined.protocol).or(response.protocol_name);
            response.leader = StrBytes::from_string(joined.leader);
            response.skip_assignment = version >= 9 && joined.skip_assignment;
            response.member_id = StrBytes::from_string(joined.member);
            let members = joined.members.into_iter().map(|(id, instance, metadata)| {
                let mut member = JoinGroupResponseMember::default();
                (member.member_id, member.metadata) = (StrBytes::from_string(id), metadata);
                // A leader of an old version may have static members all the same (KAFKA-14422).
                member.group_instance_id = shown(instance).filter(|_| version >= 5);
                member
            });
            response.members = members.collect();
        }
    }
    response
}

pub(super) async fn sync(shared: Arc<Shared>, request: SyncGroupRequest) -> SyncGroupResponse {
    let group = owned(&request.group_id.0);
    let sync = Sync {
        group: group.clone(),
        generation: request.generation_id,
        member: owned(&request.member_id),
        instance: optional(request.group_instance_id.as_ref()),
        protocol_type: optional(request.protocol_type.as_ref()),
        protocol: optional(request.protocol_name.as_ref()),
        assignments: request.assignments.iter().map(|one| (owned(&one.member_id), one.assignment.clone())).collect(),
    };
    let answer = match shared.groups.ask(&group, GroupRequest::Sync(sync)).await {
        Ok(GroupAnswer::Synced(answer)) => answer,
        Ok(_) => Err(WRONG_ANSWER),
        Err(error) => Err(error),
    };
    let mut response = SyncGroupResponse::default();
    match answer {
        Err(error) => response.error_code = error.code(),
        Ok(synced) => {
            (response.protocol_type, response.protocol_name) = (shown(synced.protocol_type), shown(synced.protocol));
            response.assignment = synced.assignment;
        }
    }
    response
}

pub(super) async fn heartbeat(shared: Arc<Shared>, request: HeartbeatRequest) -> HeartbeatResponse {
    let group = owned(&request.group_id.0);
    let beat = GroupRequest::Heartbeat {
        group: group.clone(),
        generation: request.generation_id,
        member: owned(&request.member_id),
        instance: optional(request.group_instance_id.as_ref()),
    };
    let mut response = HeartbeatResponse::default();
    response.error_code = done(shared.groups.ask(&group, beat).await).err().map_or(0, |error| error.code());
    response
}

/// The outcome of a request that has nothing else to say.
pub(super) fn done(answer: Result<GroupAnswer, ResponseError>) -> Result<(), ResponseError> {
    match answer? {
        GroupAnswer::Done(done) => done,
        _ => Err(WRONG_ANSWER),
    }
}

pub(super) async fn leave(shared: Arc<Shared>, version: i16, request: LeaveGroupRequest) -> LeaveGroupResponse {
    let group = owned(&request.group_id.0);
    let members: Vec<Leaving> = match version {
        ..3 => vec![Leaving { member: owned(&request.member_id), instance: None }],
        _ => {
            let leaving = request.members.iter();
            leaving
                .map(|one| Leaving {
                    member: owned(&one.member_id),
                    instance: optional(one.group_instance_id.as_ref()),
                })
                .collect()
        }
    };
    let mut response = LeaveGroupResponse::default();
    let leave = GroupRequest::Leave { group: group.clone(), members };
    match shared.groups.ask(&group, leave).await {
        Ok(GroupAnswer::Left(left)) if version < 3 => {
            response.error_code = left.first().and_then(|left| left.err()).map_or(0, |error| error.code());
        }
        Ok(GroupAnswer::Left(left)) => {
            let each = request.members.into_iter().zip(left).map(|(one, left)| {
                let mut member = MemberResponse::default();
                (member.member_id, member.group_instance_id) = (one.member_id, one.group_instance_id);
                member.error_code = left.err().map_or(0, |error| error.code());
                member
            });
            response.members = each.collect();
        }
        Ok(_) => response.error_code = WRONG_ANSWER.code(),
        Err(error) => response.error_code = error.code(),
    }
    response
}

pub(super) async fn describe(
    shared: Arc<Shared>,
    version: i16,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let mut response = DescribeGroupsResponse::default();
    for id in request.groups {
        let mut group = DescribedGroup::default();
        group.authorized_operations = NO_OPERATIONS;
        let ask = GroupRequest::Describe { group: owned(&id.0) };
        match shared.groups.ask(&id.0, ask).await {
            Ok(GroupAnswer::Described(Some(described))) => fill(&mut group, version, described),
            Ok(GroupAnswer::Described(None)) => {
                group.group_state = text("Dead");
                if version >= 6 {
                    group.error_code = ResponseError::GroupIdNotFound.code();
                    group.error_message = Some(text(format!("there is no group '{}'", id.0.as_str())));
                }
            }
            Ok(_) => group.error_code = WRONG_ANSWER.code(),
            Err(error) => group.error_code = error.code(),
        }
        group.group_id = id;
        response.groups.push(group);
    }
    response
}

fn fill(group: &mut DescribedGroup, version: i16, described: Described) {
    group.group_state = text(described.state);
    group.protocol_type = StrBytes::from_string(described.protocol_type);
    group.protocol_data = StrBytes::from_string(described.protocol);
    let members = described.members.into_iter().map(|one| {
        let mut member = DescribedGroupMember::default();
        member.member_id = StrBytes::from_string(one.member);
        member.group_instance_id = shown(one.instance).filter(|_| version >= 4);
        member.client_id = StrBytes::from_string(one.client_id);
        member.client_host = StrBytes::from_string(one.client_host);
        (member.member_metadata, member.member_assignment) = (one.metadata, one.assignment);
        member
    });
    group.members = members.collect();
}

pub(super) async fn list(shared: Arc<Shared>, version: i16, request: ListGroupsRequest) -> ListGroupsResponse {
    let mut response = ListGroupsResponse::default();
    let answers = match shared.groups.ask_all().await {
        Ok(answers) => answers,
        Err(error) => {
            response.error_code = error.code();
            return response;
        }
    };
    let is_asked = |filter: &[StrBytes], value: &str| {
        filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(value))
    };
    for answer in answers {
        let GroupAnswer::Listed(groups) = answer else { continue };
        let wanted = groups
            .into_iter()
            .filter(|group| is_asked(&request.states_filter, group.state) && is_asked(&request.types_filter, CLASSIC));
        response.groups.extend(wanted.map(|group| listed(version, group)));
    }
    response
}

fn listed(version: i16, group: Listed) -> ListedGroup {
    let mut listed = ListedGroup::default();
    listed.group_id = GroupId(StrBytes::from_string(group.group));
    listed.protocol_type = StrBytes::from_string(group.protocol_type);
    if version >= 4 {
        listed.group_state = text(group.state);
    }
    if version >= 5 {
        listed.group_type = text(CLASSIC);
    }
    listed
}

pub(super) async fn delete(shared: Arc<Shared>, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let mut response = DeleteGroupsResponse::default();
    for id in request.groups_names {
        let ask = GroupRequest::Delete { group: owned(&id.0) };
        let outcome = done(shared.groups.ask(&id.0, ask).await);
        let mut result = DeletableGroupResult::default();
        result.error_code = outcome.err().map_or(0, |error| error.code());
        result.group_id = id;
        response.results.push(result);
    }
    response
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use kafka_protocol::protocol::{Decodable, Encodable};

    use super::*;

    /// KAFKA-14422: the codec refuses an instance in a version that has none, and a refused answer would leave the leader waiting.
    #[test]
    fn leaders_of_all_versions_can_be_told_of_static_members() {
        let members = vec![("m".to_owned(), Some("i".to_owned()), Bytes::from_static(b"metadata"))];
        for version in 0..=9 {
            let answer = joined(
                version,
                Ok(Joined {
                    member: "m".to_owned(),
                    generation: 3,
                    protocol_type: Some("consumer".to_owned()),
                    protocol: Some("range".to_owned()),
                    leader: "m".to_owned(),
                    skip_assignment: true,
                    members: members.clone(),
                }),
            );
            let mut out = BytesMut::new();
            answer.encode(&mut out, version).unwrap_or_else(|error| panic!("{version}: {error}"));
            let read = JoinGroupResponse::decode(&mut out.freeze(), version).unwrap();
            let instance = read.members[0].group_instance_id.as_deref();
            assert_eq!(instance, Some("i").filter(|_| version >= 5), "{version}");
            assert_eq!((read.protocol_name.as_deref(), read.generation_id), (Some("range"), 3));
            for error in [ResponseError::UnknownMemberId, ResponseError::MemberIdRequired] {
                let refused = joined(version, Err(JoinRefused { error, member: "m".to_owned() }));
                refused.encode(&mut BytesMut::new(), version).unwrap_or_else(|error| panic!("{version}: {error}"));
            }
        }
    }
}
