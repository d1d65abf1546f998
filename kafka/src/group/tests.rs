//! Groups, told as stories on the core with virtual time.

mod crowd;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use dlog_proto::{Time, TimestampMs};
use kafka_protocol::ResponseError;

use super::coordinator::{Coordinator, Output};
use super::message::*;
use super::settings::GroupSettings;
use super::stored::Change;

const SESSION: u64 = 10_000;
const REBALANCE: u64 = 30_000;

/// A coordinator, with storage that works until it is told not to.
struct Story {
    core: Coordinator,
    now_ms: u64,
    next_token: u64,
    answers: HashMap<u64, GroupAnswer>,
    stored: Vec<Change>,
    storage_waits: VecDeque<Vec<Change>>,
    storage_works: bool,
}

fn subscription(topic: &str) -> Bytes {
    let mut out = vec![0, 1, 0, 0, 0, 1, 0, topic.len() as u8];
    out.extend(topic.as_bytes());
    out.extend([0xff; 4]);
    out.into()
}

fn member(id: &str) -> Join {
    Join {
        group: "g".to_owned(),
        member: id.to_owned(),
        instance: None,
        client_id: "c".to_owned(),
        client_host: "/127.0.0.1".to_owned(),
        session_timeout: Duration::from_millis(SESSION),
        rebalance_timeout: Duration::from_millis(REBALANCE),
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), subscription("t"))],
        needs_known_member: false,
        can_skip_assignment: true,
    }
}

fn instance(name: &str) -> Join {
    Join { instance: Some(name.to_owned()), ..member("") }
}

fn offset(at: i64, committed_ms: TimestampMs) -> StoredOffset {
    StoredOffset { offset: at, leader_epoch: 3, metadata: "m".to_owned(), committed_ms, expires_ms: None, log_uid: 1 }
}

impl Story {
    fn new() -> Self {
        Self::with(GroupSettings::default())
    }

    fn with(settings: GroupSettings) -> Self {
        Self {
            core: Coordinator::new(settings, 7),
            now_ms: 0,
            next_token: 0,
            answers: HashMap::new(),
            stored: Vec::new(),
            storage_waits: VecDeque::new(),
            storage_works: true,
        }
    }

    fn now(&self) -> Time {
        Time::from_millis(self.now_ms)
    }

    /// Asks; the answer may come later.
    fn ask(&mut self, request: GroupRequest) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.core.handle_request(self.now(), self.now_ms as i64, token, request);
        self.settle();
        token
    }

    fn settle(&mut self) {
        loop {
            match self.core.poll_output() {
                Some(Output::Reply { token, answer }) => {
                    assert!(self.answers.insert(token, answer).is_none(), "one answer each");
                }
                Some(Output::Write(changes)) => self.storage_waits.push_back(changes),
                None if self.storage_works && !self.storage_waits.is_empty() => {
                    self.stored.extend(self.storage_waits.pop_front().unwrap());
                    self.core.handle_written(self.now(), self.now_ms as i64);
                }
                None => return,
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while let Some(at) = self.core.next_timeout().filter(|at| *at <= Time::from_millis(end)) {
            self.now_ms = self.now_ms.max(at.0.div_ceil(1_000_000));
            self.core.handle_timeout(self.now(), self.now_ms as i64);
            self.settle();
        }
        self.now_ms = end;
    }

    fn joined(&mut self, token: u64) -> Joined {
        match self.answers.remove(&token) {
            Some(GroupAnswer::Joined(Ok(joined))) => joined,
            other => panic!("{other:?}"),
        }
    }

    fn join_error(&mut self, token: u64) -> ResponseError {
        match self.answers.remove(&token) {
            Some(GroupAnswer::Joined(Err(refused))) => refused.error,
            other => panic!("{other:?}"),
        }
    }

    fn done(&mut self, request: GroupRequest) -> Result<(), ResponseError> {
        let token = self.ask(request);
        match self.answers.remove(&token) {
            Some(GroupAnswer::Done(done)) => done,
            other => panic!("{other:?}"),
        }
    }

    fn synced(&mut self, token: u64) -> Result<Bytes, ResponseError> {
        match self.answers.remove(&token) {
            Some(GroupAnswer::Synced(synced)) => synced.map(|synced| synced.assignment),
            other => panic!("{other:?}"),
        }
    }

    fn sync(&mut self, joined: &Joined, assignments: &[(&str, &'static str)]) -> u64 {
        let assignments = assignments.iter().map(|(id, what)| ((*id).to_owned(), Bytes::from_static(what.as_bytes())));
        self.ask(GroupRequest::Sync(Sync {
            group: "g".to_owned(),
            generation: joined.generation,
            member: joined.member.clone(),
            instance: None,
            protocol_type: Some("consumer".to_owned()),
            protocol: joined.protocol.clone(),
            assignments: assignments.collect(),
        }))
    }

    fn beat(&mut self, joined: &Joined) -> Result<(), ResponseError> {
        let (generation, member) = (joined.generation, joined.member.clone());
        self.done(GroupRequest::Heartbeat { group: "g".to_owned(), generation, member, instance: None })
    }

    /// A stable group of so many members; the leader first.
    fn stable(&mut self, members: usize) -> Vec<Joined> {
        let tokens: Vec<u64> = (0..members).map(|_| self.ask(GroupRequest::Join(member("")))).collect();
        self.pass(1000);
        let mut all: Vec<Joined> = tokens.into_iter().map(|token| self.joined(token)).collect();
        all.sort_by_key(|joined| joined.members.is_empty());
        let leader = all[0].clone();
        let assignments: Vec<_> = leader.members.iter().map(|(id, ..)| (id.as_str(), "some")).collect();
        let token = self.sync(&leader, &assignments);
        assert_eq!(self.synced(token).unwrap(), "some");
        for follower in &all[1..] {
            let token = self.sync(follower, &[]);
            assert_eq!(self.synced(token).unwrap(), "some");
        }
        all
    }

    fn commit(&mut self, joined: Option<&Joined>, at: i64) -> Result<(), ResponseError> {
        let (generation, member) = joined.map_or((-1, String::new()), |j| (j.generation, j.member.clone()));
        let offset = offset(at, self.now_ms as i64);
        let offsets = vec![CommitOffset { topic: "t".to_owned(), partition: 0, offset }];
        self.done(GroupRequest::Commit { group: "g".to_owned(), generation, member, instance: None, offsets })
    }

    fn committed(&mut self) -> Option<i64> {
        let wanted = OffsetsWanted::Of(vec![("t".to_owned(), 0)]);
        let token = self.ask(GroupRequest::Fetch { group: "g".to_owned(), wanted });
        match self.answers.remove(&token) {
            Some(GroupAnswer::Offsets(offsets)) => offsets[0].2.as_ref().map(|offset| offset.offset),
            other => panic!("{other:?}"),
        }
    }

    fn state(&mut self) -> Option<&'static str> {
        let token = self.ask(GroupRequest::Describe { group: "g".to_owned() });
        match self.answers.remove(&token) {
            Some(GroupAnswer::Described(described)) => described.map(|described| described.state),
            other => panic!("{other:?}"),
        }
    }

    /// The coordinator is gone; another one reads what was stored.
    fn fail_over(&mut self) {
        let mut core = Coordinator::new(GroupSettings::default(), 8);
        for change in &self.stored {
            core.load(self.now(), Change::decode(&change.encode()).unwrap().unwrap());
        }
        self.core = core;
        self.storage_waits.clear();
    }
}

#[test]
fn members_come_together_and_get_their_parts() {
    let mut story = Story::new();
    let first = story.ask(GroupRequest::Join(member("")));
    story.pass(100);
    let second = story.ask(GroupRequest::Join(member("")));
    assert!(story.answers.is_empty(), "others may be on their way");
    story.pass(1000);
    let (first, second) = (story.joined(first), story.joined(second));
    assert_eq!((first.generation, first.protocol.as_deref()), (1, Some("range")));
    assert_eq!((first.leader == first.member, second.leader == first.member), (true, true));
    assert_eq!((first.members.len(), second.members.len()), (2, 0), "only the leader is told who is there");
    let follower = story.sync(&second, &[]);
    assert!(story.answers.is_empty(), "it waits for the leader");
    let leader = story.sync(&first, &[(&first.member, "a"), (&second.member, "b")]);
    assert_eq!((story.synced(leader).unwrap(), story.synced(follower).unwrap()), (Bytes::from("a"), Bytes::from("b")));
    assert_eq!(story.state(), Some("Stable"));
    assert_eq!((story.beat(&first), story.beat(&second)), (Ok(()), Ok(())));
}

#[test]
fn assignments_and_commits_are_answered_when_they_are_stored() {
    let mut story = Story::new();
    let joining = story.ask(GroupRequest::Join(member("")));
    story.pass(1000);
    let joined = story.joined(joining);
    story.storage_works = false;
    let syncing = story.sync(&joined, &[(&joined.member, "a")]);
    assert!(story.answers.is_empty() && story.state() == Some("CompletingRebalance"));
    story.storage_works = true;
    story.settle();
    assert_eq!(story.synced(syncing).unwrap(), "a");
    story.storage_works = false;
    let (generation, member) = (joined.generation, joined.member);
    let offsets = vec![CommitOffset { topic: "t".to_owned(), partition: 0, offset: offset(5, 0) }];
    let group = "g".to_owned();
    let commit = story.ask(GroupRequest::Commit { group, generation, member, instance: None, offsets });
    assert!(!story.answers.contains_key(&commit));
    assert_eq!(story.committed(), None, "not before it is stored");
    story.storage_works = true;
    story.settle();
    assert!(matches!(story.answers.remove(&commit), Some(GroupAnswer::Done(Ok(())))));
    assert_eq!(story.committed(), Some(5));
}

#[test]
fn a_newcomer_rebalances_and_the_others_hear_of_it_by_their_heartbeats() {
    let mut story = Story::new();
    let old = story.stable(1).remove(0);
    let newcomer = story.ask(GroupRequest::Join(member("")));
    assert_eq!(story.beat(&old), Err(ResponseError::RebalanceInProgress));
    assert_eq!(story.commit(Some(&old), 7), Ok(()), "what was read so far");
    let again = story.ask(GroupRequest::Join(member(&old.member)));
    let (again, newcomer) = (story.joined(again), story.joined(newcomer));
    assert_eq!((again.generation, newcomer.generation), (2, 2));
    assert_eq!(story.beat(&old), Err(ResponseError::IllegalGeneration));
    assert_eq!(story.commit(Some(&again), 8), Err(ResponseError::RebalanceInProgress), "nobody has a part yet");
}

#[test]
fn who_does_not_come_back_in_time_is_left_behind() {
    let mut story = Story::new();
    let all = story.stable(2);
    let newcomer = story.ask(GroupRequest::Join(member("")));
    let again = story.ask(GroupRequest::Join(member(&all[0].member)));
    // The other one shows that it lives, and does not join.
    for _ in 0..7 {
        story.pass(4000);
        assert_eq!(story.beat(&all[1]), Err(ResponseError::RebalanceInProgress));
    }
    assert!(story.answers.is_empty());
    story.pass(4000);
    assert_eq!((story.joined(again).members.len(), story.joined(newcomer).generation), (2, 2));
    assert_eq!(story.beat(&all[1]), Err(ResponseError::UnknownMemberId));
}

#[test]
fn silence_ends_a_membership_and_an_empty_group_stays_known() {
    let mut story = Story::new();
    let all = story.stable(2);
    story.pass(SESSION - 1);
    assert_eq!(story.beat(&all[0]), Ok(()));
    story.pass(2);
    assert_eq!(story.beat(&all[0]), Err(ResponseError::RebalanceInProgress), "the other one is gone");
    story.pass(SESSION + 1);
    assert_eq!(story.state(), Some("Empty"));
    assert_eq!(story.beat(&all[0]), Err(ResponseError::UnknownMemberId));
}

#[test]
fn a_new_member_is_told_its_id_first() {
    let mut story = Story::new();
    let join = Join { needs_known_member: true, ..member("") };
    let token = story.ask(GroupRequest::Join(join.clone()));
    let Some(GroupAnswer::Joined(Err(refused))) = story.answers.remove(&token) else { panic!() };
    assert_eq!(refused.error, ResponseError::MemberIdRequired);
    assert!(refused.member.starts_with("c-"));
    let token = story.ask(GroupRequest::Join(Join { member: refused.member.clone(), ..join.clone() }));
    story.pass(1000);
    assert_eq!(story.joined(token).member, refused.member);
    // Who never comes back with its id does not hold up the others for ever.
    let never = story.ask(GroupRequest::Join(join));
    assert_eq!(story.join_error(never), ResponseError::MemberIdRequired);
    let unknown = story.ask(GroupRequest::Join(member("nobody")));
    assert_eq!(story.join_error(unknown), ResponseError::UnknownMemberId);
}

/// Whoever was given an id and is not heard of again, and whoever is cut off while it waits, holds up the others for a while
/// and not for ever.
#[test]
fn who_vanishes_while_a_generation_is_formed_is_waited_for_no_longer_than_its_session() {
    let mut story = Story::new();
    let old = story.stable(1).remove(0);
    let never = story.ask(GroupRequest::Join(Join { needs_known_member: true, ..member("") }));
    assert_eq!(story.join_error(never), ResponseError::MemberIdRequired);
    let cut_off = story.ask(GroupRequest::Join(member("")));
    let again = story.ask(GroupRequest::Join(member(&old.member)));
    assert!(!story.answers.contains_key(&again), "somebody has an id and may come");
    story.pass(SESSION + 1);
    let (again, gone) = (story.joined(again), story.joined(cut_off));
    assert_eq!((again.members.len(), again.leader == again.member), (2, true));
    // Nobody reads the other answer, and the leader assigns.
    let token = story.sync(&again, &[(&again.member, "half"), (&gone.member, "half")]);
    assert_eq!(story.synced(token).unwrap(), "half");
    story.pass(SESSION - 2);
    assert_eq!(story.beat(&again), Ok(()));
    story.pass(2);
    assert_eq!(story.beat(&again), Err(ResponseError::RebalanceInProgress), "it takes over the other half");
}

#[test]
fn leaving_rebalances_at_once() {
    let mut story = Story::new();
    let all = story.stable(2);
    let leaving = |member: &str| Leaving { member: member.to_owned(), instance: None };
    let members = vec![leaving(&all[1].member), leaving("nobody")];
    let token = story.ask(GroupRequest::Leave { group: "g".to_owned(), members });
    let Some(GroupAnswer::Left(left)) = story.answers.remove(&token) else { panic!() };
    assert_eq!(left, [Ok(()), Err(ResponseError::UnknownMemberId)]);
    let again = story.ask(GroupRequest::Join(member(&all[0].member)));
    assert_eq!(story.joined(again).members.len(), 1);
}

#[test]
fn a_static_member_takes_its_place_again_without_a_rebalance() {
    let mut story = Story::new();
    let (a, b) = (story.ask(GroupRequest::Join(instance("a"))), story.ask(GroupRequest::Join(instance("b"))));
    story.pass(1000);
    let (a, b) = (story.joined(a), story.joined(b));
    assert_eq!(a.leader, a.member);
    let token = story.sync(&a, &[(&a.member, "A"), (&b.member, "B")]);
    assert_eq!(story.synced(token).unwrap(), "A");
    // The follower restarts: same generation, same part, and the old one is fenced.
    let again = story.ask(GroupRequest::Join(instance("b")));
    let again = story.joined(again);
    assert_eq!((again.generation, again.members.len()), (b.generation, 0));
    assert_ne!(again.member, b.member);
    let token = story.sync(&again, &[]);
    assert_eq!(story.synced(token).unwrap(), "B");
    let (generation, group) = (b.generation, "g".to_owned());
    let beat = GroupRequest::Heartbeat { group, generation, member: b.member, instance: Some("b".to_owned()) };
    assert_eq!(story.done(beat), Err(ResponseError::FencedInstanceId));
    // The leader restarts: it is told not to assign anew.
    let again = story.ask(GroupRequest::Join(instance("a")));
    let again = story.joined(again);
    assert_eq!((again.skip_assignment, again.members.len(), again.generation), (true, 2, a.generation));
    let old_client = Join { can_skip_assignment: false, ..instance("a") };
    let older = story.ask(GroupRequest::Join(old_client));
    let older = story.joined(older);
    assert_eq!((older.leader, older.members.len()), (again.member, 0), "it takes itself for a follower");
    assert_eq!(story.state(), Some("Stable"));
}

/// What it says anew counts, not only what it subscribes to.
#[test]
fn a_static_member_that_comes_back_is_known_by_what_it_says_now() {
    let mut story = Story::new();
    let (a, b) = (story.ask(GroupRequest::Join(instance("a"))), story.ask(GroupRequest::Join(instance("b"))));
    story.pass(1000);
    let (a, b) = (story.joined(a), story.joined(b));
    let token = story.sync(&a, &[(&a.member, "A"), (&b.member, "B")]);
    story.synced(token).unwrap();
    let moved = Join {
        client_id: "new".to_owned(),
        client_host: "/10.0.0.1".to_owned(),
        session_timeout: Duration::from_millis(2 * SESSION),
        ..instance("b")
    };
    let again = story.ask(GroupRequest::Join(moved));
    let again = story.joined(again);
    let token = story.ask(GroupRequest::Describe { group: "g".to_owned() });
    let Some(GroupAnswer::Described(Some(described))) = story.answers.remove(&token) else { panic!() };
    let told = described.members.iter().find(|member| member.member == again.member).unwrap();
    assert_eq!((told.client_id.as_str(), told.client_host.as_str()), ("new", "/10.0.0.1"));
    story.fail_over();
    story.pass(SESSION + 1);
    assert_eq!(story.beat(&again), Err(ResponseError::RebalanceInProgress), "a is gone, and b has twice the time");
}

/// KAFKA-9801: between the joins and the assignment the leader does not know of the new id.
#[test]
fn a_static_member_that_comes_back_while_parts_are_assigned_rebalances() {
    let mut story = Story::new();
    let (a, b) = (story.ask(GroupRequest::Join(instance("a"))), story.ask(GroupRequest::Join(instance("b"))));
    story.pass(1000);
    let (a, b) = (story.joined(a), story.joined(b));
    assert_eq!(story.state(), Some("CompletingRebalance"));
    let again = story.ask(GroupRequest::Join(instance("b")));
    assert!(!story.answers.contains_key(&again));
    let late = story.sync(&a, &[(&a.member, "A"), (&b.member, "B")]);
    assert_eq!(story.synced(late), Err(ResponseError::RebalanceInProgress));
    let leader = story.ask(GroupRequest::Join(Join { member: a.member, ..instance("a") }));
    let (again, leader) = (story.joined(again), story.joined(leader));
    assert_eq!((again.generation, leader.generation, leader.members.len()), (2, 2, 2));
    let token = story.sync(&leader, &[(&leader.member, "A"), (&again.member, "B")]);
    assert_eq!(story.synced(token).unwrap(), "A");
    let token = story.sync(&again, &[]);
    assert_eq!(story.synced(token).unwrap(), "B");
}

#[test]
fn a_static_member_may_be_away_for_a_session() {
    let mut story = Story::new();
    let (a, b) = (story.ask(GroupRequest::Join(instance("a"))), story.ask(GroupRequest::Join(instance("b"))));
    story.pass(1000);
    let (a, b) = (story.joined(a), story.joined(b));
    let token = story.sync(&a, &[]);
    story.synced(token).unwrap();
    let leave = Leaving { member: String::new(), instance: Some("b".to_owned()) };
    let token = story.ask(GroupRequest::Leave { group: "g".to_owned(), members: vec![leave] });
    let Some(GroupAnswer::Left(left)) = story.answers.remove(&token) else { panic!() };
    assert_eq!(left, [Ok(())], "an administrator removes it by its instance");
    assert_eq!(story.beat(&b), Err(ResponseError::UnknownMemberId));
}

#[test]
fn changed_subscriptions_rebalance_and_repeated_joins_do_not() {
    let mut story = Story::new();
    let all = story.stable(2);
    let repeated = story.ask(GroupRequest::Join(member(&all[1].member)));
    assert_eq!(story.joined(repeated).generation, 1, "the answer was lost");
    let protocols = vec![("range".to_owned(), subscription("other"))];
    let changed = story.ask(GroupRequest::Join(Join { protocols, ..member(&all[1].member) }));
    assert!(story.answers.is_empty());
    assert_eq!(story.beat(&all[0]), Err(ResponseError::RebalanceInProgress));
    let leader = story.ask(GroupRequest::Join(member(&all[0].member)));
    assert_eq!((story.joined(changed).generation, story.joined(leader).generation), (2, 2));
}

#[test]
fn the_protocol_is_one_that_all_know() {
    let mut story = Story::new();
    let knows = |names: &[&str]| Join {
        protocols: names.iter().map(|name| ((*name).to_owned(), Bytes::new())).collect(),
        ..member("")
    };
    let first = story.ask(GroupRequest::Join(knows(&["sticky", "range"])));
    let second = story.ask(GroupRequest::Join(knows(&["range", "robin"])));
    let stranger = story.ask(GroupRequest::Join(knows(&["robin"])));
    assert_eq!(story.join_error(stranger), ResponseError::InconsistentGroupProtocol);
    let other_type = story.ask(GroupRequest::Join(Join { protocol_type: "connect".to_owned(), ..knows(&["range"]) }));
    assert_eq!(story.join_error(other_type), ResponseError::InconsistentGroupProtocol);
    story.pass(1000);
    assert_eq!(story.joined(first).protocol.as_deref(), Some("range"));
    assert_eq!(story.joined(second).protocol.as_deref(), Some("range"));
}

#[test]
fn a_leader_that_does_not_assign_is_replaced() {
    let mut story = Story::new();
    let (a, b) = (story.ask(GroupRequest::Join(member(""))), story.ask(GroupRequest::Join(member(""))));
    story.pass(1000);
    let (leader, follower) = (story.joined(a), story.joined(b));
    let syncing = story.sync(&follower, &[]);
    for _ in 0..8 {
        story.pass(4000);
        let _ = story.beat(&leader);
    }
    assert_eq!(story.synced(syncing), Err(ResponseError::RebalanceInProgress));
    let again = story.ask(GroupRequest::Join(member(&follower.member)));
    let again = story.joined(again);
    assert_eq!((again.leader == again.member, again.members.len()), (true, 1));
}

#[test]
fn a_new_coordinator_knows_members_assignments_and_offsets() {
    let mut story = Story::new();
    let all = story.stable(3);
    story.commit(Some(&all[1]), 42).unwrap();
    story.pass(SESSION / 2);
    story.fail_over();
    assert_eq!((story.state(), story.committed()), (Some("Stable"), Some(42)));
    for one in &all {
        assert_eq!(story.beat(one), Ok(()), "nobody has to join again");
        let token = story.sync(one, &[]);
        assert_eq!(story.synced(token).unwrap(), "some");
    }
    story.pass(SESSION + 1);
    assert_eq!(story.state(), Some("Empty"), "sessions go on");
    let snapshot = story.core.snapshot();
    story.stored = snapshot;
    story.fail_over();
    assert_eq!((story.state(), story.committed()), (Some("Empty"), Some(42)), "the snapshot says the same");
}

#[test]
fn offsets_can_be_set_from_outside_while_nobody_uses_the_group() {
    let mut story = Story::new();
    assert_eq!(story.committed(), None, "an unknown group has no offsets, and that is no error");
    assert_eq!(story.commit(None, 5), Ok(()));
    assert_eq!(story.committed(), Some(5));
    let all = story.stable(1);
    assert_eq!(story.commit(None, 6), Err(ResponseError::UnknownMemberId));
    assert_eq!(story.commit(Some(&all[0]), 6), Ok(()));
    let stale = Joined { generation: 9, ..all[0].clone() };
    assert_eq!(story.commit(Some(&stale), 7), Err(ResponseError::IllegalGeneration));
    assert_eq!(story.committed(), Some(6));
}

#[test]
fn groups_and_offsets_are_deleted_when_nobody_uses_them() {
    let mut story = Story::new();
    let all = story.stable(1);
    story.commit(Some(&all[0]), 5).unwrap();
    let delete = || GroupRequest::Delete { group: "g".to_owned() };
    assert_eq!(story.done(delete()), Err(ResponseError::NonEmptyGroup));
    let offsets =
        |topic: &str| GroupRequest::DeleteOffsets { group: "g".to_owned(), partitions: vec![(topic.to_owned(), 0)] };
    let token = story.ask(offsets("t"));
    let Some(GroupAnswer::OffsetsDeleted(Ok(results))) = story.answers.remove(&token) else { panic!() };
    assert_eq!(results, [Err(ResponseError::GroupSubscribedToTopic)]);
    let token = story.ask(offsets("u"));
    assert!(matches!(story.answers.remove(&token), Some(GroupAnswer::OffsetsDeleted(Ok(r))) if r == [Ok(())]));
    story.pass(SESSION + 1);
    assert_eq!(story.done(delete()), Ok(()));
    assert_eq!((story.state(), story.committed()), (None, None));
    assert_eq!(story.done(delete()), Err(ResponseError::GroupIdNotFound));
    story.fail_over();
    assert_eq!((story.state(), story.committed()), (None, None));
}

#[test]
fn unused_offsets_expire_from_when_the_group_was_left() {
    let retention_ms = 7 * 24 * 3600 * 1000;
    let mut story = Story::new();
    let all = story.stable(1);
    story.commit(Some(&all[0]), 5).unwrap();
    let still_there = |_: &str, _: u64| false;
    story.core.expire(retention_ms * 2, &still_there);
    assert_eq!(story.committed(), Some(5), "the group reads the topic");
    story.pass(SESSION + 1);
    assert_eq!(story.state(), Some("Empty"));
    let left_ms = story.now_ms as i64;
    story.core.expire(retention_ms + left_ms - 2 * SESSION as i64, &still_there);
    assert_eq!(story.committed(), Some(5));
    story.core.expire(retention_ms + left_ms, &still_there);
    story.settle();
    assert_eq!((story.committed(), story.state()), (None, None));
    assert!(matches!(story.stored.last(), Some(Change::RemoveGroup { .. })));
    story.commit(None, 6).unwrap();
    story.core.expire(0, &|topic, uid| topic == "t" && uid == 1);
    assert_eq!(story.committed(), None, "the topic is gone");
}

#[test]
fn a_thousand_members_and_no_more_than_allowed() {
    let mut story = Story::with(GroupSettings { members_max: 1000, ..GroupSettings::default() });
    let all = story.stable(1000);
    assert_eq!((all.len(), all[0].members.len()), (1000, 1000));
    let one_more = story.ask(GroupRequest::Join(member("")));
    assert_eq!(story.join_error(one_more), ResponseError::GroupMaxSizeReached);
    assert_eq!(story.beat(&all[999]), Ok(()));
}

#[test]
fn nonsense_is_refused() {
    let mut story = Story::new();
    let cases = [
        (Join { group: String::new(), ..member("") }, ResponseError::InvalidGroupId),
        (Join { session_timeout: Duration::from_secs(1), ..member("") }, ResponseError::InvalidSessionTimeout),
        (Join { session_timeout: Duration::from_secs(9999), ..member("") }, ResponseError::InvalidSessionTimeout),
        (Join { protocols: vec![], ..member("") }, ResponseError::InconsistentGroupProtocol),
        (Join { protocol_type: String::new(), ..member("") }, ResponseError::InconsistentGroupProtocol),
    ];
    for (join, error) in cases {
        let token = story.ask(GroupRequest::Join(join));
        assert_eq!(story.join_error(token), error);
    }
    assert_eq!(story.state(), None, "nothing is left of it");
}
