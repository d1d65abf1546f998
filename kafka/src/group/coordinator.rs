//! The groups of one partition of the groups' log: a pure core.
//!
//! Requests come in with a token and the time; answers go out with the token, at once or when what they promise is stored.
//! Writes are acknowledged in the order in which they were handed out.

use std::collections::{BTreeSet, HashMap, VecDeque};

use dlog_proto::{Time, TimestampMs};
use fastrand::Rng;
use kafka_protocol::ResponseError;
use uuid::Uuid;

use super::member::Token;
use super::membership::{Cx, Group, refused};
use super::message::{CommitOffset, GroupAnswer, GroupRequest, Join};
use super::settings::GroupSettings;
use super::stored::Change;

/// An effect of the coordinator.
#[derive(Debug)]
pub(super) enum Output {
    Reply {
        token: Token,
        answer: GroupAnswer,
    },
    /// To be stored; [`Coordinator::handle_written`] when it is.
    Write(Vec<Change>),
}

/// What happens when a write is stored.
#[derive(Debug)]
pub(super) enum Then {
    Nothing,
    Assigned { group: String, generation: i32 },
    Committed { group: String, token: Token, offsets: Vec<CommitOffset> },
    Reply { token: Token, answer: GroupAnswer },
}

/// Effects on their way out.
#[derive(Debug)]
pub(super) struct Effects {
    out: VecDeque<Output>,
    /// One per write that is not stored yet.
    then: VecDeque<Then>,
    rng: Rng,
}

impl Effects {
    pub(super) fn reply(&mut self, token: Token, answer: GroupAnswer) {
        self.out.push_back(Output::Reply { token, answer });
    }

    pub(super) fn refuse_join(&mut self, token: Token, error: ResponseError, member: &str) {
        self.reply(token, refused(error, member));
    }

    pub(super) fn write(&mut self, changes: Vec<Change>, then: Then) {
        self.out.push_back(Output::Write(changes));
        self.then.push_back(then);
    }

    pub(super) fn uuid(&mut self) -> Uuid {
        Uuid::from_u128(self.rng.u128(..) & !(0xf << 76) & !(0b11 << 62) | 4 << 76 | 0b10 << 62)
    }
}

#[derive(Debug)]
pub(super) struct Coordinator {
    settings: GroupSettings,
    groups: HashMap<String, Group>,
    /// When to look at a group again. Entries may be early: sessions are prolonged without being moved here.
    timers: BTreeSet<(Time, String)>,
    timer_of: HashMap<String, Time>,
    effects: Effects,
}

impl Coordinator {
    pub(super) fn new(settings: GroupSettings, seed: u64) -> Self {
        let effects = Effects { out: VecDeque::new(), then: VecDeque::new(), rng: Rng::with_seed(seed) };
        Self { settings, groups: HashMap::new(), timers: BTreeSet::new(), timer_of: HashMap::new(), effects }
    }

    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.effects.out.pop_front()
    }

    pub(super) fn next_timeout(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    pub(super) fn handle_request(&mut self, now: Time, now_ms: TimestampMs, token: Token, request: GroupRequest) {
        match request {
            GroupRequest::Join(join) => self.join(now, now_ms, token, &join),
            GroupRequest::Sync(sync) => {
                let group = sync.group.clone();
                let known = self.with(now, now_ms, &group, |group, cx| group.sync(cx, token, sync));
                if known.is_none() {
                    self.effects.reply(token, GroupAnswer::Synced(Err(ResponseError::UnknownMemberId)));
                }
            }
            GroupRequest::Heartbeat { group, generation, member, instance } => {
                let group = self.groups.get_mut(&group);
                let beat = group.map(|group| group.heartbeat(now, &member, instance.as_deref(), generation));
                let beat = beat.unwrap_or(Err(ResponseError::UnknownMemberId));
                self.effects.reply(token, GroupAnswer::Done(beat));
            }
            GroupRequest::Leave { group, members } => {
                let left = self.with(now, now_ms, &group, |group, cx| group.leave(cx, &members));
                let unknown = || members.iter().map(|_| Err(ResponseError::UnknownMemberId)).collect();
                self.effects.reply(token, GroupAnswer::Left(left.unwrap_or_else(unknown)));
            }
            GroupRequest::Commit { group, generation, member, instance, offsets } => {
                match self.check_commit(now, &group, generation, &member, instance.as_deref()) {
                    Ok(()) => self.commit(token, &group, offsets),
                    Err(error) => self.effects.reply(token, GroupAnswer::Done(Err(error))),
                }
            }
            GroupRequest::Fetch { group, wanted } => {
                let nothing = super::offsets::Offsets::default();
                let offsets = self.groups.get(&group).map_or(&nothing, |group| &group.offsets);
                let fetched = offsets.fetch(wanted);
                self.effects.reply(token, GroupAnswer::Offsets(fetched));
            }
            GroupRequest::DeleteOffsets { group, partitions } => self.delete_offsets(token, &group, partitions),
            GroupRequest::Describe { group } => {
                let described = self.groups.get(&group).map(Group::describe);
                self.effects.reply(token, GroupAnswer::Described(described));
            }
            GroupRequest::List => {
                let listed = self.groups.values().map(Group::list).collect();
                self.effects.reply(token, GroupAnswer::Listed(listed));
            }
            GroupRequest::Delete { group } => self.delete(token, group),
        }
    }

    /// Lets a group act, and sees when it has to again. `None` if there is no such group.
    fn with<T>(
        &mut self,
        now: Time,
        now_ms: TimestampMs,
        id: &str,
        act: impl FnOnce(&mut Group, &mut Cx<'_>) -> T,
    ) -> Option<T> {
        let group = self.groups.get_mut(id)?;
        let mut cx = Cx { now, now_ms, settings: &self.settings, effects: &mut self.effects };
        let done = act(group, &mut cx);
        let (timeout, void) = (group.next_timeout(), group.is_void());
        self.set_timer(id, timeout);
        if void {
            self.groups.remove(id);
        }
        Some(done)
    }

    fn set_timer(&mut self, id: &str, at: Option<Time>) {
        if self.timer_of.get(id).copied() == at {
            return;
        }
        if let Some(old) = self.timer_of.remove(id) {
            self.timers.remove(&(old, id.to_owned()));
        }
        if let Some(at) = at {
            self.timers.insert((at, id.to_owned()));
            self.timer_of.insert(id.to_owned(), at);
        }
    }

    /// Time has passed.
    pub(super) fn handle_timeout(&mut self, now: Time, now_ms: TimestampMs) {
        while let Some((at, id)) = self.timers.first().cloned()
            && at <= now
        {
            self.set_timer(&id, None);
            self.with(now, now_ms, &id, |group, cx| group.handle_timeout(cx));
        }
    }

    fn join(&mut self, now: Time, now_ms: TimestampMs, token: Token, join: &Join) {
        let sessions = self.settings.session_timeout_min..=self.settings.session_timeout_max;
        let error = if join.group.is_empty() {
            Some(ResponseError::InvalidGroupId)
        } else if !sessions.contains(&join.session_timeout) {
            Some(ResponseError::InvalidSessionTimeout)
        } else if !self.groups.contains_key(&join.group) && !join.member.is_empty() {
            Some(ResponseError::UnknownMemberId)
        } else {
            None
        };
        if let Some(error) = error {
            return self.effects.refuse_join(token, error, &join.member);
        }
        self.groups.entry(join.group.clone()).or_insert_with(|| Group::new(join.group.clone()));
        self.with(now, now_ms, &join.group, |group, cx| group.join(cx, token, join));
    }

    fn check_commit(
        &mut self,
        now: Time,
        group: &str,
        generation: i32,
        member: &str,
        instance: Option<&str>,
    ) -> Result<(), ResponseError> {
        match self.groups.get_mut(group) {
            Some(group) => group.check_commit(now, member, instance, generation),
            None if generation < 0 => Ok(()),
            None => Err(ResponseError::IllegalGeneration),
        }
    }

    fn commit(&mut self, token: Token, group: &str, offsets: Vec<CommitOffset>) {
        if offsets.is_empty() {
            return self.effects.reply(token, GroupAnswer::Done(Ok(())));
        }
        let change = |commit: &CommitOffset| Change::SetOffset {
            group: group.to_owned(),
            topic: commit.topic.clone(),
            partition: commit.partition,
            value: commit.offset.clone(),
        };
        let changes = offsets.iter().map(change).collect();
        self.effects.write(changes, Then::Committed { group: group.to_owned(), token, offsets });
    }

    fn delete_offsets(&mut self, token: Token, id: &str, partitions: Vec<(String, i32)>) {
        let Some(group) = self.groups.get_mut(id) else {
            let unknown = Err(ResponseError::GroupIdNotFound);
            return self.effects.reply(token, GroupAnswer::OffsetsDeleted(unknown));
        };
        let subscribed = match group.is_empty() {
            true => Some(BTreeSet::new()),
            false => group.subscribed(),
        };
        let Some(subscribed) = subscribed else {
            let in_use = Err(ResponseError::NonEmptyGroup);
            return self.effects.reply(token, GroupAnswer::OffsetsDeleted(in_use));
        };
        let (mut results, mut changes) = (Vec::with_capacity(partitions.len()), Vec::new());
        for (topic, partition) in partitions {
            if subscribed.contains(&topic) {
                results.push(Err(ResponseError::GroupSubscribedToTopic));
                continue;
            }
            if group.offsets.remove(&topic, partition) {
                changes.push(Change::RemoveOffset { group: id.to_owned(), topic, partition });
            }
            results.push(Ok(()));
        }
        let answer = GroupAnswer::OffsetsDeleted(Ok(results));
        match changes.is_empty() {
            true => self.effects.reply(token, answer),
            false => self.effects.write(changes, Then::Reply { token, answer }),
        }
    }

    fn delete(&mut self, token: Token, id: String) {
        let error = match self.groups.get(&id) {
            None => Some(ResponseError::GroupIdNotFound),
            Some(group) if !group.is_empty() => Some(ResponseError::NonEmptyGroup),
            Some(_) => None,
        };
        if let Some(error) = error {
            return self.effects.reply(token, GroupAnswer::Done(Err(error)));
        }
        self.groups.remove(&id);
        self.set_timer(&id, None);
        let then = Then::Reply { token, answer: GroupAnswer::Done(Ok(())) };
        self.effects.write(vec![Change::RemoveGroup { group: id }], then);
    }

    /// The oldest write is stored.
    pub(super) fn handle_written(&mut self, now: Time, now_ms: TimestampMs) {
        match self.effects.then.pop_front() {
            None | Some(Then::Nothing) => {}
            Some(Then::Assigned { group, generation }) => {
                self.with(now, now_ms, &group, |group, cx| group.handle_assigned(cx, generation));
            }
            Some(Then::Committed { group, token, offsets }) => {
                let known = self.groups.entry(group.clone()).or_insert_with(|| Group::new(group));
                known.handle_committed(offsets);
                self.effects.reply(token, GroupAnswer::Done(Ok(())));
            }
            Some(Then::Reply { token, answer }) => self.effects.reply(token, answer),
        }
    }

    /// Lets go of offsets that nobody used for long, or whose topics are gone, and of groups that have nothing left.
    pub(super) fn expire(&mut self, now_ms: TimestampMs, is_gone: &dyn Fn(&str, u64) -> bool) {
        let retention = self.settings.offsets_retention;
        let mut changes = Vec::new();
        for (id, group) in &mut self.groups {
            for (topic, partition) in group.offsets.expired(now_ms, retention, &group.unused(), is_gone) {
                group.offsets.remove(&topic, partition);
                changes.push(Change::RemoveOffset { group: id.clone(), topic, partition });
            }
        }
        let void: Vec<String> =
            self.groups.iter().filter(|(_, group)| group.is_over()).map(|(id, _)| id.clone()).collect();
        for group in void {
            self.groups.remove(&group);
            self.set_timer(&group, None);
            changes.push(Change::RemoveGroup { group });
        }
        if !changes.is_empty() {
            self.effects.write(changes, Then::Nothing);
        }
    }

    /// All that is known, as changes.
    pub(super) fn snapshot(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (id, group) in &self.groups {
            changes.push(group.stored());
            changes.extend(group.offsets.iter().map(|((topic, partition), offset)| Change::SetOffset {
                group: id.clone(),
                topic: topic.clone(),
                partition: *partition,
                value: offset.clone(),
            }));
        }
        changes
    }

    /// Takes in a change that was stored before.
    pub(super) fn load(&mut self, now: Time, change: Change) {
        match change {
            Change::SetGroup { group, value } => {
                let known = self.groups.entry(group.clone()).or_insert_with(|| Group::new(group.clone()));
                known.load(now, value);
                let timeout = known.next_timeout();
                self.set_timer(&group, timeout);
            }
            Change::RemoveGroup { group } => {
                self.groups.remove(&group);
                self.set_timer(&group, None);
            }
            Change::SetOffset { group, topic, partition, value } => {
                let known = self.groups.entry(group.clone()).or_insert_with(|| Group::new(group));
                known.offsets.set(topic, partition, value);
            }
            Change::RemoveOffset { group, topic, partition } => {
                if let Some(known) = self.groups.get_mut(&group) {
                    known.offsets.remove(&topic, partition);
                }
            }
        }
    }
}
