//! One group: who is in it, and how it comes from one generation to the next. The semantics are Kafka's classic protocol.
//!
//! ```text
//!            join                    all joined, or time over          leader's assignment stored
//!   Empty ----------> Preparing ------------------------------> Completing ------------------> Stable
//!     ^                  ^  |                                       |                             |
//!     |   all are gone   |  |                                       | join, leave, silence        |
//!     +------------------+--+                                       v                             v
//!                        +------------------------------------------+-----------------------------+
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use dlog_proto::{Time, TimestampMs};
use kafka_protocol::ResponseError;

use super::coordinator::{Effects, Then};
use super::member::{Member, Token};
use super::message::{CommitOffset, Described, GroupAnswer, Join, JoinRefused, Joined, Leaving, Listed, Sync, Synced};
use super::offsets::{Offsets, Unused};
use super::settings::GroupSettings;
use super::stored::{Change, StoredGroup};
use super::subscription;

/// What a group's inputs come with.
pub(super) struct Cx<'a> {
    pub(super) now: Time,
    pub(super) now_ms: TimestampMs,
    pub(super) settings: &'a GroupSettings,
    pub(super) effects: &'a mut Effects,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Empty,
    /// Members are to join the next generation.
    Preparing {
        /// Not before this time: a group that was empty gives others the chance to come as well.
        not_before: Time,
        /// Who has not joined by then is left behind.
        until: Time,
    },
    /// Everybody has joined; the leader is to say who gets what.
    Completing {
        until: Time,
        assigning: bool,
    },
    Stable,
}

#[derive(Debug)]
pub(super) struct Group {
    id: String,
    state: State,
    generation: i32,
    protocol_type: Option<String>,
    protocol: Option<String>,
    leader: Option<String>,
    members: BTreeMap<String, Member>,
    /// Static members, by their instances.
    instances: BTreeMap<String, String>,
    /// Ids that were given out and not used yet, until when they are good.
    pending: BTreeMap<String, Time>,
    empty_since_ms: Option<TimestampMs>,
    pub(super) offsets: Offsets,
}

type Outcome<T = ()> = Result<T, ResponseError>;

impl Group {
    pub(super) fn new(id: String) -> Self {
        Self {
            id,
            state: State::Empty,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            instances: BTreeMap::new(),
            pending: BTreeMap::new(),
            empty_since_ms: None,
            offsets: Offsets::default(),
        }
    }

    /// Whether there has never been anything in it.
    pub(super) fn is_void(&self) -> bool {
        self.is_over() && self.protocol_type.is_none()
    }

    /// Whether nothing is left in it.
    pub(super) fn is_over(&self) -> bool {
        self.is_empty() && self.offsets.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state == State::Empty && self.pending.is_empty()
    }

    // Joining.

    pub(super) fn join(&mut self, cx: &mut Cx<'_>, token: Token, join: &Join) {
        if let Err(error) = self.check_join(cx, join) {
            return cx.effects.refuse_join(token, error, &join.member);
        }
        match (&join.instance, join.member.is_empty()) {
            (Some(instance), true) => self.join_static(cx, token, instance, join),
            (None, true) if join.needs_known_member => {
                let id = new_member_id(cx, join);
                self.pending.insert(id.clone(), cx.now + join.session_timeout);
                cx.effects.refuse_join(token, ResponseError::MemberIdRequired, &id);
            }
            (None, true) => {
                let id = new_member_id(cx, join);
                self.add_member(cx, token, id, join);
            }
            (_, false) => self.rejoin(cx, token, join),
        }
    }

    fn check_join(&self, cx: &Cx<'_>, join: &Join) -> Outcome {
        if join.protocol_type.is_empty() || join.protocols.is_empty() {
            return Err(ResponseError::InconsistentGroupProtocol);
        }
        let known = self.members.contains_key(&join.member) || self.pending.contains_key(&join.member);
        let replaces = join.instance.as_ref().is_some_and(|instance| self.instances.contains_key(instance));
        if !known && !replaces && self.members.len() + self.pending.len() >= cx.settings.members_max {
            return Err(ResponseError::GroupMaxSizeReached);
        }
        if self.members.is_empty() {
            return Ok(());
        }
        let same_type = self.protocol_type.as_ref() == Some(&join.protocol_type);
        let supported = |name: &str| self.members.values().all(|member| member.supports(name));
        let compatible = same_type && join.protocols.iter().any(|(name, _)| supported(name));
        if compatible { Ok(()) } else { Err(ResponseError::InconsistentGroupProtocol) }
    }

    fn add_member(&mut self, cx: &mut Cx<'_>, token: Token, id: String, join: &Join) {
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type.clone());
        }
        if let Some(instance) = &join.instance {
            self.instances.insert(instance.clone(), id.clone());
        }
        self.leader.get_or_insert_with(|| id.clone());
        self.members.insert(id.clone(), Member::new(cx.now, id, Some(token), join));
        // Others may be on their way too.
        if let State::Preparing { not_before, until } = &mut self.state
            && *not_before > cx.now
        {
            *not_before = (cx.now + cx.settings.initial_rebalance_delay).min(*until);
        }
        self.prepare(cx);
    }

    /// A static member without an id: new, or it was restarted and takes its own place again.
    fn join_static(&mut self, cx: &mut Cx<'_>, token: Token, instance: &str, join: &Join) {
        let id = new_member_id(cx, join);
        let Some(old) = self.instances.insert(instance.to_owned(), id.clone()) else {
            return self.add_member(cx, token, id, join);
        };
        let Some(mut member) = self.members.remove(&old) else { return self.add_member(cx, token, id, join) };
        fence(cx, &mut member, ResponseError::FencedInstanceId);
        let was_leader = self.leader.as_ref() == Some(&old);
        if was_leader {
            self.leader = Some(id.clone());
        }
        member.id.clone_from(&id);
        member.update(join);
        member.touch(cx.now);
        self.members.insert(id.clone(), member);
        let same_protocol = self.protocol.is_some() && self.protocol == self.select_protocol();
        if self.state != State::Stable || !same_protocol {
            if let Some(member) = self.members.get_mut(&id) {
                member.joining = Some(token);
            }
            return self.prepare(cx);
        }
        // Nothing changes for the others. A leader is not to assign anew.
        let mut joined = self.joined(&id);
        joined.skip_assignment = was_leader && join.can_skip_assignment;
        if was_leader && !join.can_skip_assignment {
            (joined.leader, joined.members) = (old, Vec::new());
        }
        cx.effects.reply(token, GroupAnswer::Joined(Ok(joined)));
        self.store(cx, Then::Nothing);
    }

    fn rejoin(&mut self, cx: &mut Cx<'_>, token: Token, join: &Join) {
        if self.pending.remove(&join.member).is_some() {
            return self.add_member(cx, token, join.member.clone(), join);
        }
        if let Err(error) = self.check_instance(&join.member, join.instance.as_deref()) {
            return cx.effects.refuse_join(token, error, &join.member);
        }
        let is_leader = self.leader.as_ref() == Some(&join.member);
        let Some(member) = self.members.get_mut(&join.member) else {
            return cx.effects.refuse_join(token, ResponseError::UnknownMemberId, &join.member);
        };
        let same = member.protocols == join.protocols;
        let repeats = match self.state {
            // The answer was lost.
            State::Completing { .. } => same,
            // A leader that joins again wants to assign anew.
            State::Stable => same && !is_leader,
            State::Empty | State::Preparing { .. } => false,
        };
        member.touch(cx.now);
        if repeats {
            let joined = self.joined(&join.member);
            return cx.effects.reply(token, GroupAnswer::Joined(Ok(joined)));
        }
        member.update(join);
        if let Some(earlier) = member.joining.replace(token) {
            cx.effects.refuse_join(earlier, ResponseError::UnknownMemberId, &join.member);
        }
        self.prepare(cx);
    }

    /// What a member is told of the generation.
    fn joined(&self, id: &str) -> Joined {
        let leader = self.leader.clone().unwrap_or_default();
        let protocol = self.protocol.clone().unwrap_or_default();
        let all = self.members.values().filter(|_| leader == id);
        Joined {
            member: id.to_owned(),
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            skip_assignment: false,
            members: all.map(|m| (m.id.clone(), m.instance.clone(), m.metadata(&protocol))).collect(),
            leader,
        }
    }

    // From one generation to the next.

    /// Begins a rebalance, or goes on with one.
    fn prepare(&mut self, cx: &mut Cx<'_>) {
        let patience = self.patience();
        match self.state {
            State::Preparing { .. } => {}
            State::Empty => {
                let not_before = cx.now + cx.settings.initial_rebalance_delay;
                self.state =
                    State::Preparing { not_before, until: cx.now + patience.max(cx.settings.initial_rebalance_delay) };
            }
            State::Completing { .. } | State::Stable => {
                for member in self.members.values_mut() {
                    member.synced = false;
                    if let Some(token) = member.syncing.take() {
                        let rebalancing = Err(ResponseError::RebalanceInProgress);
                        cx.effects.reply(token, GroupAnswer::Synced(rebalancing));
                        member.touch(cx.now);
                    }
                }
                self.state = State::Preparing { not_before: cx.now, until: cx.now + patience };
            }
        }
        self.try_complete(cx);
    }

    /// How long members may take: as long as the slowest wants.
    fn patience(&self) -> Duration {
        self.members.values().map(|member| member.rebalance_timeout).max().unwrap_or_default()
    }

    fn try_complete(&mut self, cx: &mut Cx<'_>) {
        let State::Preparing { not_before, .. } = self.state else { return };
        let all_joined = self.members.values().all(|member| member.joining.is_some());
        if cx.now >= not_before && all_joined && self.pending.is_empty() {
            self.complete(cx);
        }
    }

    /// The time to join is over: who has not is left behind. A static member stays, until its session ends.
    fn give_up_on_absent(&mut self, cx: &mut Cx<'_>) {
        self.pending.clear();
        let absent = |member: &&Member| member.joining.is_none() && member.instance.is_none();
        let absent: Vec<String> = self.members.values().filter(absent).map(|member| member.id.clone()).collect();
        self.remove_all(cx, &absent);
        if self.members.values().any(|member| member.joining.is_some()) || self.members.is_empty() {
            return self.complete(cx);
        }
        let until = cx.now + self.patience().max(Duration::from_secs(1));
        self.state = State::Preparing { not_before: cx.now, until };
    }

    fn complete(&mut self, cx: &mut Cx<'_>) {
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        if self.members.is_empty() {
            self.state = State::Empty;
            (self.protocol, self.leader) = (None, None);
            self.empty_since_ms = Some(cx.now_ms);
            return self.store(cx, Then::Nothing);
        }
        self.empty_since_ms = None;
        self.protocol = self.select_protocol();
        let joins = |id: &String| self.members.get(id).is_some_and(|member| member.joining.is_some());
        if !self.leader.as_ref().is_some_and(joins) {
            self.leader = self.members.keys().find(|id| joins(id)).cloned();
        }
        self.state =
            State::Completing { until: cx.now + self.patience().max(Duration::from_secs(1)), assigning: false };
        let joining: Vec<(String, Token)> =
            self.members.values().filter_map(|member| Some((member.id.clone(), member.joining?))).collect();
        for (id, token) in joining {
            let joined = self.joined(&id);
            cx.effects.reply(token, GroupAnswer::Joined(Ok(joined)));
            if let Some(member) = self.members.get_mut(&id) {
                (member.joining, member.synced) = (None, false);
                member.touch(cx.now);
            }
        }
    }

    /// The protocol that all members know and most like best.
    fn select_protocol(&self) -> Option<String> {
        let first = self.members.values().next()?;
        let all_know = |name: &str| self.members.values().all(|member| member.supports(name));
        let candidates: Vec<&str> =
            first.protocols.iter().map(|(name, _)| name.as_str()).filter(|n| all_know(n)).collect();
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            let vote = member.protocols.iter().map(|(name, _)| name.as_str()).find(|name| candidates.contains(name));
            *votes.entry(vote?).or_default() += 1;
        }
        let most = votes.values().max()?;
        candidates.iter().find(|name| votes.get(*name) == Some(most)).map(|name| (*name).to_owned())
    }

    pub(super) fn sync(&mut self, cx: &mut Cx<'_>, token: Token, sync: Sync) {
        if let Err(error) = self.check_sync(&sync) {
            return cx.effects.reply(token, GroupAnswer::Synced(Err(error)));
        }
        let is_leader = self.leader.as_ref() == Some(&sync.member);
        let Some(member) = self.members.get_mut(&sync.member) else { return };
        member.touch(cx.now);
        member.synced = true;
        match self.state {
            State::Completing { until, assigning } => {
                if let Some(earlier) = member.syncing.replace(token) {
                    cx.effects.reply(earlier, GroupAnswer::Synced(Err(ResponseError::UnknownMemberId)));
                }
                if is_leader && !assigning {
                    self.assign(sync.assignments);
                    self.state = State::Completing { until, assigning: true };
                    let then = Then::Assigned { group: self.id.clone(), generation: self.generation };
                    self.store(cx, then);
                }
            }
            State::Stable => {
                let synced = self.synced(&sync.member);
                cx.effects.reply(token, GroupAnswer::Synced(Ok(synced)));
            }
            State::Empty => cx.effects.reply(token, GroupAnswer::Synced(Err(ResponseError::UnknownMemberId))),
            State::Preparing { .. } => {
                cx.effects.reply(token, GroupAnswer::Synced(Err(ResponseError::RebalanceInProgress)));
            }
        }
    }

    fn check_sync(&self, sync: &Sync) -> Outcome {
        self.check_member(&sync.member, sync.instance.as_deref(), sync.generation)?;
        let differs = |theirs: &Option<String>, ours: &Option<String>| theirs.is_some() && theirs != ours;
        if differs(&sync.protocol_type, &self.protocol_type) || differs(&sync.protocol, &self.protocol) {
            return Err(ResponseError::InconsistentGroupProtocol);
        }
        Ok(())
    }

    fn assign(&mut self, assignments: Vec<(String, Bytes)>) {
        let mut assignments: BTreeMap<String, Bytes> = assignments.into_iter().collect();
        for member in self.members.values_mut() {
            member.assignment = assignments.remove(&member.id).unwrap_or_default();
        }
    }

    fn synced(&self, id: &str) -> Synced {
        Synced {
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: self.members.get(id).map(|member| member.assignment.clone()).unwrap_or_default(),
        }
    }

    /// A generation's assignment is stored.
    pub(super) fn handle_assigned(&mut self, cx: &mut Cx<'_>, generation: i32) {
        if generation != self.generation || !matches!(self.state, State::Completing { assigning: true, .. }) {
            return;
        }
        self.state = State::Stable;
        let waiting: Vec<(String, Token)> =
            self.members.values().filter_map(|member| Some((member.id.clone(), member.syncing?))).collect();
        for (id, token) in waiting {
            let synced = self.synced(&id);
            cx.effects.reply(token, GroupAnswer::Synced(Ok(synced)));
            if let Some(member) = self.members.get_mut(&id) {
                member.syncing = None;
                member.touch(cx.now);
            }
        }
    }

    // Being a member.

    fn check_instance(&self, member: &str, instance: Option<&str>) -> Outcome {
        match instance.map(|instance| self.instances.get(instance)) {
            None => Ok(()),
            Some(None) => Err(ResponseError::UnknownMemberId),
            Some(Some(id)) if id == member => Ok(()),
            Some(Some(_)) => Err(ResponseError::FencedInstanceId),
        }
    }

    fn check_member(&self, member: &str, instance: Option<&str>, generation: i32) -> Outcome {
        self.check_instance(member, instance)?;
        if !self.members.contains_key(member) {
            return Err(ResponseError::UnknownMemberId);
        }
        if generation != self.generation { Err(ResponseError::IllegalGeneration) } else { Ok(()) }
    }

    pub(super) fn heartbeat(&mut self, now: Time, member: &str, instance: Option<&str>, generation: i32) -> Outcome {
        self.check_member(member, instance, generation)?;
        if let Some(member) = self.members.get_mut(member) {
            member.touch(now);
        }
        match self.state {
            State::Empty => Err(ResponseError::UnknownMemberId),
            State::Preparing { .. } => Err(ResponseError::RebalanceInProgress),
            State::Completing { .. } | State::Stable => Ok(()),
        }
    }

    pub(super) fn leave(&mut self, cx: &mut Cx<'_>, leaving: &[Leaving]) -> Vec<Outcome> {
        let left: Vec<Outcome> = leaving.iter().map(|leaving| self.leave_one(cx, leaving)).collect();
        if left.iter().any(Result::is_ok) {
            self.go_on(cx);
        }
        left
    }

    fn leave_one(&mut self, cx: &mut Cx<'_>, leaving: &Leaving) -> Outcome {
        let Leaving { member, instance } = leaving;
        if instance.is_none() && self.pending.remove(member).is_some() {
            return Ok(());
        }
        let id = match instance {
            None => member.clone(),
            Some(instance) => {
                let known = self.instances.get(instance).ok_or(ResponseError::UnknownMemberId)?;
                if !member.is_empty() && member != known {
                    return Err(ResponseError::FencedInstanceId);
                }
                known.clone()
            }
        };
        if self.remove(cx, &id) { Ok(()) } else { Err(ResponseError::UnknownMemberId) }
    }

    /// Takes a member out; what that means for the generation is for [`Self::go_on`].
    fn remove(&mut self, cx: &mut Cx<'_>, id: &str) -> bool {
        let Some(mut member) = self.members.remove(id) else { return false };
        fence(cx, &mut member, ResponseError::UnknownMemberId);
        if let Some(instance) = &member.instance
            && self.instances.get(instance).is_some_and(|current| current == id)
        {
            self.instances.remove(instance);
        }
        if self.leader.as_deref() == Some(id) {
            self.leader = None;
        }
        true
    }

    fn remove_all(&mut self, cx: &mut Cx<'_>, ids: &[String]) {
        for id in ids {
            self.remove(cx, id);
        }
    }

    /// Somebody has gone.
    fn go_on(&mut self, cx: &mut Cx<'_>) {
        match self.state {
            State::Empty => {}
            State::Preparing { .. } => self.try_complete(cx),
            State::Completing { .. } | State::Stable => self.prepare(cx),
        }
    }

    // Time.

    /// When something happens by itself.
    pub(super) fn next_timeout(&self) -> Option<Time> {
        let of_state = match self.state {
            State::Empty | State::Stable => None,
            // Before the first, nothing happens; between them, members join.
            State::Preparing { not_before, until } => {
                let ready = self.pending.is_empty() && self.members.values().all(|member| member.joining.is_some());
                Some(if ready { not_before } else { until })
            }
            // The leader has spoken: what is awaited is the storage.
            State::Completing { until, assigning } => (!assigning).then_some(until),
        };
        let sessions = self.members.values().filter(|member| !member.is_waiting()).map(|member| member.session_ends);
        sessions.chain(self.pending.values().copied()).chain(of_state).min()
    }

    pub(super) fn handle_timeout(&mut self, cx: &mut Cx<'_>) {
        let now = cx.now;
        let before = self.pending.len() + self.members.len();
        self.pending.retain(|_, until| *until > now);
        let silent = |member: &&Member| !member.is_waiting() && member.session_ends <= now;
        let silent: Vec<String> = self.members.values().filter(silent).map(|member| member.id.clone()).collect();
        self.remove_all(cx, &silent);
        if self.pending.len() + self.members.len() < before {
            self.go_on(cx);
        }
        match self.state {
            State::Preparing { until, .. } if until <= now => self.give_up_on_absent(cx),
            State::Preparing { .. } => self.try_complete(cx),
            State::Completing { until, assigning: false } if until <= now => self.give_up_on_unsynced(cx),
            State::Completing { .. } | State::Empty | State::Stable => {}
        }
    }

    /// Who has joined has to ask for its assignment, the leader first of all.
    fn give_up_on_unsynced(&mut self, cx: &mut Cx<'_>) {
        let gone: Vec<String> =
            self.members.values().filter(|member| !member.synced).map(|member| member.id.clone()).collect();
        self.remove_all(cx, &gone);
        self.prepare(cx);
    }

    // Offsets.

    pub(super) fn check_commit(&mut self, now: Time, member: &str, instance: Option<&str>, generation: i32) -> Outcome {
        if generation < 0 && member.is_empty() && instance.is_none() {
            // From outside of the group: somebody sets its offsets while nobody uses it.
            return if self.is_empty() { Ok(()) } else { Err(ResponseError::UnknownMemberId) };
        }
        self.check_member(member, instance, generation)?;
        if let Some(member) = self.members.get_mut(member) {
            member.touch(now);
        }
        match self.state {
            State::Completing { .. } => Err(ResponseError::RebalanceInProgress),
            _ => Ok(()),
        }
    }

    pub(super) fn handle_committed(&mut self, offsets: Vec<CommitOffset>) {
        offsets.into_iter().for_each(|commit| self.offsets.set(commit.topic, commit.partition, commit.offset));
    }

    /// The topics that the members read; `None` if that cannot be told.
    pub(super) fn subscribed(&self) -> Option<BTreeSet<String>> {
        if self.protocol_type.as_deref() != Some(subscription::CONSUMER) {
            return None;
        }
        let protocol = self.protocol.as_deref()?;
        let topics = self.members.values().map(|member| subscription::topics(&member.metadata(protocol)));
        topics.collect::<Option<Vec<_>>>().map(|topics| topics.into_iter().flatten().collect())
    }

    pub(super) fn unused(&self) -> Unused {
        match (self.state, &self.protocol_type) {
            (State::Empty, None) => Unused::SinceCommit,
            (State::Empty, Some(_)) => self.empty_since_ms.map_or(Unused::SinceCommit, Unused::Since),
            (State::Stable, _) => self.subscribed().map_or(Unused::Never, Unused::Except),
            _ => Unused::Never,
        }
    }

    // Looking at it.

    pub(super) fn state_name(&self) -> &'static str {
        match self.state {
            State::Empty => "Empty",
            State::Preparing { .. } => "PreparingRebalance",
            State::Completing { .. } => "CompletingRebalance",
            State::Stable => "Stable",
        }
    }

    pub(super) fn describe(&self) -> Described {
        Described {
            state: self.state_name(),
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            protocol: self.protocol.clone().filter(|_| self.state == State::Stable).unwrap_or_default(),
            members: self.members.values().map(|member| member.describe(self.protocol.as_deref())).collect(),
        }
    }

    pub(super) fn list(&self) -> Listed {
        Listed {
            group: self.id.clone(),
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            state: self.state_name(),
        }
    }

    // Keeping it.

    fn store(&self, cx: &mut Cx<'_>, then: Then) {
        cx.effects.write(vec![self.stored()], then);
    }

    /// The change that makes the group what it is now, offsets aside.
    pub(super) fn stored(&self) -> Change {
        let value = StoredGroup {
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            generation: self.generation,
            leader: self.leader.clone(),
            members: self.members.values().map(Member::store).collect(),
            empty_since_ms: self.empty_since_ms,
        };
        Change::SetGroup { group: self.id.clone(), value }
    }

    /// Becomes what was stored. Everybody gets a whole session to be heard of again.
    pub(super) fn load(&mut self, now: Time, stored: StoredGroup) {
        self.generation = stored.generation;
        (self.protocol_type, self.protocol, self.leader) = (stored.protocol_type, stored.protocol, stored.leader);
        self.empty_since_ms = stored.empty_since_ms;
        let members = stored.members.into_iter().map(|member| Member::load(now, member));
        self.members = members.map(|member| (member.id.clone(), member)).collect();
        let instance = |member: &Member| Some((member.instance.clone()?, member.id.clone()));
        self.instances = self.members.values().filter_map(instance).collect();
        self.state = if self.members.is_empty() { State::Empty } else { State::Stable };
    }
}

/// Answers whoever still waits as a member that is none any more.
fn fence(cx: &mut Cx<'_>, member: &mut Member, error: ResponseError) {
    if let Some(token) = member.joining.take() {
        cx.effects.refuse_join(token, error, &member.id);
    }
    if let Some(token) = member.syncing.take() {
        cx.effects.reply(token, GroupAnswer::Synced(Err(error)));
    }
}

fn new_member_id(cx: &mut Cx<'_>, join: &Join) -> String {
    let name = join.instance.as_ref().unwrap_or(&join.client_id);
    format!("{name}-{}", cx.effects.uuid())
}

/// What a refused join is answered with.
pub(super) fn refused(error: ResponseError, member: &str) -> GroupAnswer {
    GroupAnswer::Joined(Err(JoinRefused { error, member: member.to_owned() }))
}
