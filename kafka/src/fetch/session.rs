//! Fetch sessions (KIP-227): a consumer of many partitions says only what changed, and hears only what changed. A pure
//! core.
//!
//! | session id, epoch | what it means |
//! |---|---|
//! | 0, −1 | all partitions are named, no session |
//! | 0, 0 | all partitions are named, a session is wanted |
//! | n, 0 | as before, and session n ends |
//! | n, −1 | session n ends, all partitions are named |
//! | n, e | the session goes on; e must be the epoch that comes next |

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use dlog_proto::Time;
use kafka_protocol::ResponseError;
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

/// Sessions that did nothing for so long make room for others (`min.incremental.fetch.session.eviction.ms`).
const IDLE: Duration = Duration::from_secs(120);
/// Partitions in all sessions.
const PARTITIONS_MAX: usize = 1_000_000;

/// How a request names a topic: by name up to version 12, by id from 13 on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum TopicKey {
    Name(StrBytes),
    Id(Uuid),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) topic: TopicKey,
    pub(crate) partition: i32,
}

/// What a consumer wants of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) key: Key,
    pub(crate) fetch_offset: i64,
    pub(crate) max_bytes: i32,
    pub(crate) leader_epoch: i32,
}

#[derive(Debug)]
pub(crate) struct SessionRequest {
    pub(crate) id: i32,
    pub(crate) epoch: i32,
    pub(crate) uses_ids: bool,
    pub(crate) wanted: Vec<Wanted>,
    pub(crate) forgotten: Vec<Key>,
}

/// What to fetch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The session's id, for the answer; 0 without one.
    pub(crate) session: i32,
    /// Only what changed is answered.
    pub(crate) incremental: bool,
    /// In the order in which they get their share.
    pub(crate) partitions: Vec<Wanted>,
}

/// What was answered last, to tell what changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) high_watermark: i64,
    pub(crate) log_start: i64,
    pub(crate) error: i16,
    pub(crate) has_records: bool,
    /// It was told to read elsewhere.
    pub(crate) is_sent_away: bool,
}

#[derive(Debug)]
struct Tracked {
    wanted: Wanted,
    /// `None` before the first answer, and after an error, so that its end is news.
    shown: Option<(i64, i64)>,
    place: u64,
}

#[derive(Debug)]
struct Session {
    next_epoch: i32,
    uses_ids: bool,
    used_at: Time,
    partitions: HashMap<Key, Tracked>,
    order: BTreeMap<u64, Key>,
    next_place: u64,
}

impl Session {
    fn put(&mut self, wanted: Wanted) {
        if let Some(tracked) = self.partitions.get_mut(&wanted.key) {
            tracked.wanted = wanted;
            return;
        }
        let (key, place) = (wanted.key.clone(), self.next_place);
        self.next_place += 1;
        self.order.insert(place, key.clone());
        self.partitions.insert(key, Tracked { wanted, shown: None, place });
    }

    fn forget(&mut self, key: &Key) {
        if let Some(tracked) = self.partitions.remove(key) {
            self.order.remove(&tracked.place);
        }
    }

    /// Lets the others have their turn first.
    fn move_to_end(&mut self, key: &Key) {
        let Some(tracked) = self.partitions.get_mut(key) else { return };
        self.order.remove(&tracked.place);
        tracked.place = self.next_place;
        self.order.insert(self.next_place, key.clone());
        self.next_place += 1;
    }

    fn plan(&self, id: i32, incremental: bool) -> Plan {
        let wanted = self.order.values().filter_map(|key| self.partitions.get(key));
        Plan { session: id, incremental, partitions: wanted.map(|tracked| tracked.wanted.clone()).collect() }
    }
}

/// All sessions of a node.
#[derive(Debug)]
pub(crate) struct Sessions {
    sessions_max: usize,
    sessions: HashMap<i32, Session>,
    partitions: usize,
}

impl Sessions {
    pub(crate) fn new(sessions_max: usize) -> Self {
        Self { sessions_max, sessions: HashMap::new(), partitions: 0 }
    }

    /// What a request asks for. `random` is the id of the session, if one is made.
    pub(crate) fn begin(&mut self, now: Time, request: SessionRequest, random: i32) -> Result<Plan, ResponseError> {
        match (request.id, request.epoch) {
            (id, -1) => {
                self.close(id);
                Ok(Plan { session: 0, incremental: false, partitions: request.wanted })
            }
            (id, 0) => {
                self.close(id);
                Ok(self.open(now, request, random))
            }
            _ => self.go_on(now, request),
        }
    }

    fn open(&mut self, now: Time, request: SessionRequest, random: i32) -> Plan {
        let sessionless = |wanted| Plan { session: 0, incremental: false, partitions: wanted };
        let id = random & i32::MAX;
        let full = self.partitions + request.wanted.len() > PARTITIONS_MAX;
        if request.wanted.is_empty() || full || id == 0 || self.sessions.contains_key(&id) || !self.make_room(now) {
            return sessionless(request.wanted);
        }
        let mut session = Session {
            next_epoch: 1,
            uses_ids: request.uses_ids,
            used_at: now,
            partitions: HashMap::new(),
            order: BTreeMap::new(),
            next_place: 0,
        };
        request.wanted.into_iter().for_each(|wanted| session.put(wanted));
        let plan = session.plan(id, false);
        self.partitions += session.partitions.len();
        self.sessions.insert(id, session);
        plan
    }

    fn make_room(&mut self, now: Time) -> bool {
        if self.sessions.len() < self.sessions_max {
            return true;
        }
        let oldest = self.sessions.iter().min_by_key(|(_, session)| session.used_at);
        let Some((&id, _)) = oldest.filter(|(_, session)| session.used_at + IDLE <= now) else { return false };
        self.close(id);
        true
    }

    fn go_on(&mut self, now: Time, request: SessionRequest) -> Result<Plan, ResponseError> {
        let session = self.sessions.get_mut(&request.id).ok_or(ResponseError::FetchSessionIdNotFound)?;
        if session.next_epoch != request.epoch {
            return Err(ResponseError::InvalidFetchSessionEpoch);
        }
        if session.uses_ids != request.uses_ids {
            return Err(ResponseError::FetchSessionTopicIdError);
        }
        let before = session.partitions.len();
        request.forgotten.iter().for_each(|key| session.forget(key));
        request.wanted.into_iter().for_each(|wanted| session.put(wanted));
        session.next_epoch = session.next_epoch.checked_add(1).unwrap_or(1);
        session.used_at = now;
        let plan = session.plan(request.id, true);
        self.partitions = self.partitions + session.partitions.len() - before;
        if plan.partitions.is_empty() {
            self.close(request.id);
        }
        Ok(plan)
    }

    fn close(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.partitions -= session.partitions.len();
        }
    }

    /// Whether a partition's answer is worth sending; it is taken for sent if it is.
    pub(crate) fn show(&mut self, plan: &Plan, key: &Key, shown: Shown) -> bool {
        let session = self.sessions.get_mut(&plan.session);
        let Some(session) = session else { return true };
        let Some(tracked) = session.partitions.get_mut(key) else { return true };
        let news = Some((shown.high_watermark, shown.log_start));
        let worth =
            !plan.incremental || shown.has_records || shown.is_sent_away || shown.error != 0 || tracked.shown != news;
        tracked.shown = news.filter(|_| shown.error == 0);
        if shown.has_records {
            session.move_to_end(key);
        }
        worth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(partition: i32) -> Key {
        Key { topic: TopicKey::Name(StrBytes::from_static_str("t")), partition }
    }

    fn wanted(partition: i32, fetch_offset: i64) -> Wanted {
        Wanted { key: key(partition), fetch_offset, max_bytes: 1000, leader_epoch: -1 }
    }

    fn request(id: i32, epoch: i32, wanted: Vec<Wanted>) -> SessionRequest {
        SessionRequest { id, epoch, uses_ids: false, wanted, forgotten: vec![] }
    }

    fn begin(sessions: &mut Sessions, request: SessionRequest) -> Result<Plan, ResponseError> {
        sessions.begin(Time::ZERO, request, 7)
    }

    fn order(plan: &Plan) -> Vec<(i32, i64)> {
        plan.partitions.iter().map(|wanted| (wanted.key.partition, wanted.fetch_offset)).collect()
    }

    const QUIET: Shown = Shown { high_watermark: 5, log_start: 0, error: 0, has_records: false, is_sent_away: false };

    #[test]
    fn a_session_remembers_what_is_not_said_again() {
        let mut sessions = Sessions::new(10);
        let plan = begin(&mut sessions, request(0, 0, vec![wanted(0, 1), wanted(1, 2)])).unwrap();
        assert_eq!((plan.session, plan.incremental, order(&plan)), (7, false, vec![(0, 1), (1, 2)]));
        let mut next = request(7, 1, vec![wanted(1, 9), wanted(2, 0)]);
        next.forgotten = vec![key(0)];
        let plan = begin(&mut sessions, next).unwrap();
        assert_eq!((plan.incremental, order(&plan)), (true, vec![(1, 9), (2, 0)]));
    }

    #[test]
    fn epochs_are_checked_and_wrap_to_one() {
        let mut sessions = Sessions::new(10);
        begin(&mut sessions, request(0, 0, vec![wanted(0, 0)])).unwrap();
        assert_eq!(begin(&mut sessions, request(7, 2, vec![])), Err(ResponseError::InvalidFetchSessionEpoch));
        assert_eq!(begin(&mut sessions, request(8, 1, vec![])), Err(ResponseError::FetchSessionIdNotFound));
        sessions.sessions.get_mut(&7).unwrap().next_epoch = i32::MAX;
        begin(&mut sessions, request(7, i32::MAX, vec![])).unwrap();
        begin(&mut sessions, request(7, 1, vec![])).unwrap();
        let ids = SessionRequest { uses_ids: true, ..request(7, 2, vec![]) };
        assert_eq!(begin(&mut sessions, ids), Err(ResponseError::FetchSessionTopicIdError));
    }

    #[test]
    fn only_news_is_shown() {
        let mut sessions = Sessions::new(10);
        let full = begin(&mut sessions, request(0, 0, vec![wanted(0, 0)])).unwrap();
        assert!(sessions.show(&full, &key(0), QUIET), "a full answer has everything");
        let plan = begin(&mut sessions, request(7, 1, vec![])).unwrap();
        assert!(!sessions.show(&plan, &key(0), QUIET));
        assert!(sessions.show(&plan, &key(0), Shown { high_watermark: 6, ..QUIET }));
        assert!(sessions.show(&plan, &key(0), Shown { error: 6, high_watermark: 6, ..QUIET }));
        assert!(sessions.show(&plan, &key(0), Shown { high_watermark: 6, ..QUIET }), "the error is over");
        assert!(!sessions.show(&plan, &key(0), Shown { high_watermark: 6, ..QUIET }));
        assert!(sessions.show(&plan, &key(0), Shown { high_watermark: 6, is_sent_away: true, ..QUIET }));
    }

    #[test]
    fn who_got_records_waits_for_the_others() {
        let mut sessions = Sessions::new(10);
        let plan = begin(&mut sessions, request(0, 0, vec![wanted(0, 0), wanted(1, 0), wanted(2, 0)])).unwrap();
        sessions.show(&plan, &key(0), Shown { has_records: true, ..QUIET });
        let plan = begin(&mut sessions, request(7, 1, vec![])).unwrap();
        assert_eq!(order(&plan), [(1, 0), (2, 0), (0, 0)]);
    }

    #[test]
    fn sessions_are_bounded_and_idle_ones_make_room() {
        let mut sessions = Sessions::new(1);
        sessions.begin(Time::ZERO, request(0, 0, vec![wanted(0, 0)]), 1).unwrap();
        let plan = sessions.begin(Time::from_millis(1000), request(0, 0, vec![wanted(0, 0)]), 2).unwrap();
        assert_eq!(plan.session, 0, "no room, so no session");
        let plan = sessions.begin(Time::from_millis(120_000), request(0, 0, vec![wanted(0, 0)]), 3).unwrap();
        assert_eq!((plan.session, sessions.sessions.len(), sessions.partitions), (3, 1, 1));
        let plan = begin(&mut sessions, request(3, -1, vec![wanted(5, 0)])).unwrap();
        assert_eq!((plan.session, sessions.sessions.len(), sessions.partitions), (0, 0, 0));
    }

    #[test]
    fn an_emptied_session_ends() {
        let mut sessions = Sessions::new(10);
        begin(&mut sessions, request(0, 0, vec![wanted(0, 0)])).unwrap();
        let mut last = request(7, 1, vec![]);
        last.forgotten = vec![key(0)];
        assert!(begin(&mut sessions, last).unwrap().partitions.is_empty());
        assert_eq!(begin(&mut sessions, request(7, 2, vec![])), Err(ResponseError::FetchSessionIdNotFound));
    }
}
