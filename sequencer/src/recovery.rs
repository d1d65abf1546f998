//! Recovery: a new epoch's sequencer finds out where the epochs before it ended.
//!
//! ```text
//! seal the shards of all undecided epochs -> for each epoch, the oldest first:
//!     enough answers (digest) -> repair what is above settled -> decide -> next
//! ```
//!
//! Why racing recoverers are safe: a shard refuses the stores of any recoverer below its seal, the metadata tier takes a
//! decision from the newest epoch only (trap C9b), and a decision is asked for only after everything it covers is stored. A
//! recoverer that dies leaves stores behind that a later one finds and, as they carry a lower version, replaces or adopts.
//!
//! INV-REPAIR-TRIM: trim goes on while an epoch is recovered. Whoever listed a block and then has it no more has trimmed it: it is
//! asked again how far, and what is trimmed anywhere needs no copies.
//!
//! INV-LATE-ANSWER: whatever a shard tells before the decision is asked for counts. Where the first answers proved no end, one that comes
//! while blocks are copied may have acknowledged records behind it; and it may tell of settled blocks that an earlier recoverer has begun to
//! place anew (INV-SETTLED). Then the epoch is judged anew, at most once for each shard and connection.
//!
//! A disk that is lost while its records are copied takes with it what only it had: the epoch is then judged anew, by what is left. Waves
//! go on counting, so that no two placements have one version (trap C9). The same where none of a block's copies can be read
//! (INV-UNREADABLE).

mod digest;
mod repair;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use dlog_proto::block::Block;
use dlog_proto::bugs::{Bug, bug};
use dlog_proto::wire::{
    EpochEnd, FetchTarget, FetchedBlock, LostBefore, SealPartition, SealRefusal, SealedPartition, SealedState,
    StoreAnswer, StoreRefusal,
};
use dlog_proto::{
    Authority, Epoch, EpochEntry, Esn, Incarnation, Lsn, MemberSet, PartitionUid, Quorum, ShardRef, Time,
};
use fastrand::Rng;

use self::digest::Digest;
use self::repair::{Context, Repair};
use crate::output::{Decision, Event, Output, Proposal};
use crate::settings::Settings;

/// How a recovery comes to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Every earlier epoch is decided: their ends, ascending.
    Done {
        ends: Vec<EpochEnd>,
    },
    Preempted {
        by: Epoch,
    },
}

#[derive(Debug, Default)]
struct ShardState {
    connected: bool,
    asked_at: Option<Time>,
    answer: Option<ShardAnswer>,
    /// It lacks a block that it listed (INV-REPAIR-TRIM). The answer stands until there is another.
    stale: bool,
    /// Its disk was replaced: what it had is lost.
    lost: bool,
}

impl ShardState {
    /// Whether it is to tell what it has, and can.
    fn is_asked(&self) -> bool {
        self.connected && !self.lost && (self.answer.is_none() || self.stale)
    }
}

#[derive(Debug)]
struct ShardAnswer {
    lost: LostBefore,
    state: SealedState,
}

/// What is being done about the oldest undecided epoch.
#[derive(Debug)]
enum Phase {
    /// Waiting for answers; the time is when enough were there.
    Sealing {
        enough_since: Option<Time>,
    },
    Repairing {
        repair: Repair,
        authoritative: bool,
    },
    Deciding,
}

#[derive(Debug)]
pub(crate) struct Recovery {
    partition: PartitionUid,
    recoverer: Epoch,
    settings: Arc<Settings>,
    rng: Rng,
    /// Every shard of every undecided epoch's nodeset.
    shards: BTreeMap<ShardRef, ShardState>,
    undecided: VecDeque<EpochEntry>,
    phase: Phase,
    /// Highest wave of earlier attempts to repair the oldest undecided epoch.
    waves: u32,
    /// First ESNs of its blocks that they may have begun to place anew.
    touched: BTreeSet<Esn>,
    /// Its blocks that members have and cannot read.
    unreadable: BTreeMap<Esn, MemberSet>,
    ends: Vec<EpochEnd>,
    started_at: Time,
    /// Until when the oldest undecided epoch's own sequencer may go on, if that is still to come.
    leased_until: Option<Time>,
    said_waiting: bool,
    outcome: Option<Outcome>,
    out: VecDeque<Output>,
}

impl Recovery {
    /// Recovers these epochs, ascending, on behalf of `recoverer`.
    pub(crate) fn new(
        partition: PartitionUid,
        recoverer: Epoch,
        undecided: Vec<EpochEntry>,
        settings: Arc<Settings>,
        rng: Rng,
        now: Time,
    ) -> Self {
        assert!(undecided.iter().all(|e| e.epoch < recoverer), "an epoch recovers earlier ones");
        let members = undecided.iter().flat_map(|e| (0..e.nodeset.len()).map(move |m| e.nodeset.shard_ref(m)));
        let shards = members.map(|shard| (shard, ShardState::default())).collect();
        let outcome = undecided.is_empty().then(|| Outcome::Done { ends: Vec::new() });
        Self {
            partition,
            recoverer,
            settings,
            rng,
            shards,
            undecided: undecided.into(),
            phase: Phase::Sealing { enough_since: None },
            waves: 0,
            touched: BTreeSet::new(),
            unreadable: BTreeMap::new(),
            ends: Vec::new(),
            started_at: now,
            leased_until: None,
            said_waiting: false,
            outcome,
            out: VecDeque::new(),
        }
    }

    pub(crate) fn shards(&self) -> impl Iterator<Item = ShardRef> {
        self.shards.keys().copied()
    }

    pub(crate) fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// Position of the newest producer snapshot of each shard that has answered, and what the shard has lost.
    pub(crate) fn snapshots(&self) -> BTreeMap<ShardRef, (LostBefore, Option<Lsn>)> {
        let told = |(shard, state): (&ShardRef, &ShardState)| {
            let answer = state.answer.as_ref().filter(|_| !state.lost)?;
            Some((*shard, (answer.lost, answer.state.snapshot)))
        };
        self.shards.iter().filter_map(told).collect()
    }

    /// What keeps the recovery from going on, for a person.
    pub(crate) fn waits_for(&self) -> String {
        let Some(entry) = self.undecided.front() else { return "nothing".to_owned() };
        match &self.phase {
            Phase::Sealing { .. } => {
                let answered = self.digest(entry).answered.len();
                format!("{answered} of {} shards of {} have answered", entry.nodeset.len(), entry.epoch)
            }
            Phase::Repairing { .. } => format!("copies of the last records of {} are being made", entry.epoch),
            Phase::Deciding => format!("the metadata tier is to decide the end of {}", entry.epoch),
        }
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front().or_else(|| match &mut self.phase {
            Phase::Repairing { repair, .. } => repair.poll_output(),
            _ => None,
        })
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        if self.outcome.is_some() {
            return None;
        }
        let asked = |s: &ShardState| s.asked_at.filter(|_| s.is_asked());
        let retry = self.shards.values().filter_map(asked).min().map(|at| at + self.settings.recovery_retry);
        let phase = match &self.phase {
            Phase::Sealing { enough_since } => {
                enough_since.map(|at| at + self.settings.recovery_grace).or(self.leased_until)
            }
            Phase::Repairing { repair, .. } => repair.next_timeout(),
            Phase::Deciding => None,
        };
        retry.into_iter().chain(phase).min()
    }

    /// Goes on as far as the answers allow. Call after a round of inputs and when [`Self::next_timeout`] has passed.
    pub(crate) fn pump(&mut self, now: Time) {
        self.ask_to_seal(now);
        while self.outcome.is_none() && self.step(now) {}
        self.say_waiting(now);
    }

    fn ask_to_seal(&mut self, now: Time) {
        let retry = self.settings.recovery_retry;
        let undecided: Vec<Epoch> = self.undecided.iter().map(|e| e.epoch).collect();
        for (to, state) in &mut self.shards {
            let due = state.asked_at.is_none_or(|at| at + retry <= now);
            if !state.is_asked() || !due || undecided.is_empty() {
                continue;
            }
            state.asked_at = Some(now);
            let (partition, epoch) = (self.partition, self.recoverer);
            let seal = SealPartition { partition, epoch, undecided: undecided.clone() };
            self.out.push_back(Output::Seal { to: *to, seal });
        }
    }

    /// One step of the oldest undecided epoch. Whether something changed.
    fn step(&mut self, now: Time) -> bool {
        let Some(entry) = self.undecided.front() else {
            self.outcome = Some(Outcome::Done { ends: std::mem::take(&mut self.ends) });
            return false;
        };
        let (usable, lost) = (self.usable(entry), self.lost(entry));
        match &mut self.phase {
            Phase::Sealing { .. } => self.step_sealing(now),
            Phase::Repairing { repair, .. } => {
                repair.pump(&Context { now, entry, usable, lost, settings: &self.settings }, &mut self.rng);
                let unreadable: Vec<_> = repair.unreadable().collect();
                if !unreadable.is_empty() {
                    for (first_esn, by) in unreadable {
                        let known = self.unreadable.entry(first_esn).or_default();
                        *known = known.union(by);
                    }
                    self.judge_anew();
                    return true;
                }
                if repair.is_done() {
                    self.propose();
                    return true;
                }
                false
            }
            Phase::Deciding => false,
        }
    }

    /// Everything is stored: asks for the decision.
    fn propose(&mut self) {
        let (Phase::Repairing { repair, authoritative }, Some(entry)) = (&self.phase, self.undecided.front()) else {
            return;
        };
        let of = |member| entry.nodeset.shard_ref(member);
        let decision = Decision {
            partition: self.partition,
            epoch: entry.epoch,
            last_esn: repair.end(),
            authoritative: *authoritative,
            recoverer: self.recoverer,
            answered: self.digest(entry).answered.iter().map(of).collect(),
            missing: repair.missing().map(|(member, from)| (of(member), from)).collect(),
        };
        self.out.push_back(Output::Propose(Proposal::Decide(decision)));
        self.phase = Phase::Deciding;
    }

    fn step_sealing(&mut self, now: Time) -> bool {
        let entry = self.undecided.front().expect("an epoch is being recovered");
        let digest = self.digest(entry);
        let quorum = Quorum::new(&entry.nodeset, &entry.replication);
        let authority = digest.authority(quorum);
        self.leased_until = self.lease_ends(entry).filter(|end| now < *end);
        let Phase::Sealing { enough_since } = &mut self.phase else { return false };
        if authority == Authority::None || self.leased_until.is_some() {
            *enough_since = None;
            return false;
        }
        // More shards make a better repair, so those that may still answer get a moment.
        let since = *enough_since.get_or_insert(now);
        let silent = |s: &ShardState| s.connected && !s.lost && s.answer.is_none();
        let may_answer = (0..entry.nodeset.len()).any(|m| silent(&self.shards[&entry.nodeset.shard_ref(m)]));
        if may_answer && now < since + self.settings.recovery_grace {
            return false;
        }
        if let Some(first_esn) = digest.conflict() {
            let shard = entry.nodeset.member(0).shard;
            self.out.push_back(Output::Event(Event::Conflict { shard, epoch: entry.epoch, first_esn }));
        }
        let is_proven = digest.is_strict(quorum);
        // What too few were asked about may have been acknowledged, whatever the log is content with.
        let cuts_off = is_proven || bug(Bug::AvailableCutsOff);
        let end = digest.end(if cuts_off { authority } else { Authority::NonAuthoritative });
        let authoritative = is_proven || bug(Bug::DecisionNotFlagged);
        let repair = Repair::new((self.partition, self.recoverer), (entry.epoch, end), &digest, self.waves);
        self.phase = Phase::Repairing { repair, authoritative };
        true
    }

    /// Until when the epoch's own sequencer may still acknowledge without any shard's leave (trap C13). The wait begins when this epoch is
    /// known to be activated: from then on the metadata tier gives the old one no more leases.
    fn lease_ends(&self, entry: &EpochEntry) -> Option<Time> {
        let needs = !entry.replication.quorum.is_strict() && !bug(Bug::RecoveryIgnoresLease);
        let lease = self.settings.lease.filter(|_| needs)?;
        Some(self.started_at + lease)
    }

    /// Everything that shards have answered about an epoch.
    fn digest(&self, entry: &EpochEntry) -> Digest {
        let mut digest = Digest::new(self.touched.clone());
        for member in 0..entry.nodeset.len() {
            let state = &self.shards[&entry.nodeset.shard_ref(member)];
            if bug(Bug::RecoveryIgnoresAnAnswer) && member == 0 && entry.nodeset.len() > 1 {
                digest.answered.insert(member);
                continue;
            }
            if state.lost {
                digest.add_lost(member);
            }
            let Some(ShardAnswer { lost, state }) = &state.answer else { continue };
            if let Some(epoch) = state.epochs.iter().find(|e| e.epoch == entry.epoch) {
                digest.add(entry, member, *lost, state.trim, epoch);
            }
        }
        self.unreadable.iter().for_each(|(first_esn, members)| digest.add_unreadable(*first_esn, *members));
        digest
    }

    /// Members that are sealed and can be reached.
    fn usable(&self, entry: &EpochEntry) -> MemberSet {
        let usable = |m: &usize| {
            let state = &self.shards[&entry.nodeset.shard_ref(*m)];
            state.connected && !state.lost && state.answer.is_some()
        };
        (0..entry.nodeset.len()).filter(usable).collect()
    }

    /// Members whose disks were replaced.
    fn lost(&self, entry: &EpochEntry) -> MemberSet {
        (0..entry.nodeset.len()).filter(|m| self.shards[&entry.nodeset.shard_ref(*m)].lost).collect()
    }

    pub(crate) fn handle_connected(&mut self, shard: ShardRef, connected: bool, now: Time) {
        let Some(state) = self.shards.get_mut(&shard) else { return };
        state.connected = connected;
        if !connected {
            state.asked_at = None;
        }
        // What one process could not read, the next may.
        if let (true, Some(member)) = (connected, self.undecided.front().and_then(|e| e.nodeset.index_of_ref(shard)))
            && self.unreadable.values().any(|members| members.contains(member))
        {
            self.unreadable.values_mut().for_each(|members| members.remove(member));
            self.judge_anew();
        }
        if let (false, Phase::Repairing { repair, .. }, Some(entry)) =
            (connected, &mut self.phase, self.undecided.front())
            && let Some(member) = entry.nodeset.index_of_ref(shard)
        {
            repair.handle_disconnected(now, member);
        }
    }

    pub(crate) fn handle_sealed(&mut self, from: ShardRef, lost: LostBefore, answer: SealedPartition) {
        if let Err(SealRefusal::Incarnation(current)) = answer.result {
            return self.note_replaced(from, current);
        }
        let ours = answer.epoch == self.recoverer;
        let as_before = self.shards.keys().find(|known| bug(Bug::IncarnationIgnored) && known.shard == from.shard);
        let from = as_before.copied().unwrap_or(from);
        let Some(state) = self.shards.get_mut(&from).filter(|_| ours) else { return };
        match answer.result {
            Ok(sealed) => {
                let trim = sealed.trim;
                state.answer = Some(ShardAnswer { lost, state: sealed });
                state.stale = false;
                if let (Phase::Repairing { repair, .. }, Some(entry)) = (&mut self.phase, self.undecided.front())
                    && trim.epoch() == entry.epoch
                {
                    repair.handle_trimmed(trim.esn());
                }
                self.heed_late_answer();
            }
            Err(SealRefusal::Sealed(by)) => self.outcome = Some(Outcome::Preempted { by }),
            Err(SealRefusal::Incarnation(_)) => unreachable!("handled above"),
            // It is asked again after a while.
            Err(SealRefusal::Disabled) => {}
        }
    }

    /// Looks again at an epoch that is being repaired if an answer tells what the others did not (INV-LATE-ANSWER).
    fn heed_late_answer(&mut self) {
        let (Phase::Repairing { repair, authoritative }, Some(entry)) = (&self.phase, self.undecided.front()) else {
            return;
        };
        let digest = self.digest(entry);
        let reaches_further = !authoritative && digest.end(Authority::NonAuthoritative) > repair.end();
        if (reaches_further || !repair.covers(entry.epoch, &digest)) && !bug(Bug::LateAnswerIgnored) {
            self.judge_anew();
        }
    }

    /// The disk behind a shard is another one: every one before it is lost. Incarnations only go up.
    fn note_replaced(&mut self, from: ShardRef, current: Option<Incarnation>) {
        let current = current.unwrap_or(from.incarnation);
        let of_shard = self.shards.keys().filter(|known| known.shard == from.shard && known.incarnation < current);
        let lost: Vec<ShardRef> = of_shard.copied().collect();
        lost.into_iter().for_each(|shard| self.note_lost(shard));
    }

    /// What a disk told of an epoch is still true, but it has nothing of it any more.
    fn note_lost(&mut self, shard: ShardRef) {
        let Some(state) = self.shards.get_mut(&shard) else { return };
        let is_news = !std::mem::replace(&mut state.lost, true);
        let counted_on = self.undecided.front().is_some_and(|entry| entry.nodeset.index_of_ref(shard).is_some());
        if is_news && counted_on {
            self.judge_anew();
        }
    }

    /// A copy that the repair counted on is gone: what is left decides.
    fn judge_anew(&mut self) {
        if let Phase::Repairing { repair, .. } = &self.phase {
            self.waves = repair.highest_wave();
            self.touched.extend(repair.touched());
            self.phase = Phase::Sealing { enough_since: None };
        }
    }

    pub(crate) fn handle_fetched(&mut self, now: Time, answer: &FetchedBlock, from: ShardRef, block: Option<Block>) {
        let FetchTarget::Records { epoch, first_esn } = answer.target else { return };
        let Some(entry) = self.undecided.front().filter(|e| e.epoch == epoch) else { return };
        let (usable, lost) = (self.usable(entry), self.lost(entry));
        if let (None, Some(state)) = (&block, self.shards.get_mut(&from)) {
            state.stale = true;
        }
        if let (Some(member), Phase::Repairing { repair, .. }) = (entry.nodeset.index_of_ref(from), &mut self.phase) {
            let cx = Context { now, entry, usable, lost, settings: &self.settings };
            repair.handle_fetched(&cx, first_esn, member, block);
        }
    }

    pub(crate) fn handle_stored(&mut self, now: Time, answer: &StoreAnswer) {
        let Some(entry) = self.undecided.front().filter(|e| e.epoch == answer.epoch) else { return };
        let from = ShardRef { shard: answer.shard, incarnation: answer.incarnation };
        match (&answer.result, self.shards.get_mut(&from)) {
            (Err(StoreRefusal::Incarnation(_)), Some(state)) => {
                state.connected = false;
                return self.note_lost(from);
            }
            (Err(StoreRefusal::NoPayload), Some(state)) => state.stale = true,
            _ => {}
        }
        let (usable, lost) = (self.usable(entry), self.lost(entry));
        if let (Some(member), Phase::Repairing { repair, .. }) = (entry.nodeset.index_of_ref(from), &mut self.phase) {
            let cx = Context { now, entry, usable, lost, settings: &self.settings };
            if let Err(by) = repair.handle_stored(&cx, member, answer) {
                self.outcome = Some(Outcome::Preempted { by });
            }
        }
    }

    /// The metadata tier has decided an epoch, by this recovery's proposal or by another's.
    pub(crate) fn handle_decided(&mut self, end: EpochEnd) {
        let Some(entry) = self.undecided.front().filter(|e| e.epoch == end.epoch) else { return };
        let EpochEnd { last_esn, authoritative, .. } = end;
        self.out.push_back(Output::Event(Event::Decided { epoch: entry.epoch, last_esn, authoritative }));
        self.ends.push(end);
        self.undecided.pop_front();
        self.phase = Phase::Sealing { enough_since: None };
        self.waves = 0;
        self.touched.clear();
        self.unreadable.clear();
    }

    fn say_waiting(&mut self, now: Time) {
        const WORTH_SAYING: std::time::Duration = std::time::Duration::from_secs(1);
        if self.said_waiting || self.outcome.is_some() || now.since(self.started_at) < WORTH_SAYING {
            return;
        }
        self.said_waiting = true;
        if let Some(entry) = self.undecided.front() {
            let (answered, of) = (self.digest(entry).answered.len(), entry.nodeset.len());
            self.out.push_back(Output::Event(Event::RecoveryWaits { epoch: entry.epoch, answered, of }));
        }
    }
}
