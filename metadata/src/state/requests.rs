//! Answers by request, so that a command that is sent again is not done again.
//!
//! The newest answers are kept, bounded in number and size; of what was dropped, the highest counter per process is. A
//! request at or below it was answered once or came impossibly late, and gets [`Seen::Forgotten`]: doing it could do it
//! twice. Who is dropped depends on nothing but the order of the log, so replicas agree.

use std::sync::Arc;

use dlog_proto::{ProcessId, RequestId};
use serde::{Deserialize, Serialize};

use super::response::Response;
use super::shared_map::SharedMap;

const ANSWERS_MAX: usize = 16_384;
/// In items of batched answers: at some 40 bytes each, ten megabytes.
const WEIGHT_MAX: u64 = 262_144;
const PROCESSES_MAX: usize = 16_384;

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Requests {
    answers: SharedMap<RequestId, Arc<Answer>>,
    /// Places of `answers` in the order in which they were given.
    order: SharedMap<u64, RequestId>,
    forgotten: SharedMap<ProcessId, Forgotten>,
    /// Processes in the order in which something of them was last dropped.
    forgotten_order: SharedMap<u64, ProcessId>,
    next: u64,
    weight: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Answer {
    place: u64,
    response: Response,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Forgotten {
    /// Highest counter whose answer was dropped.
    counter: u64,
    place: u64,
}

#[derive(Debug, PartialEq)]
pub(super) enum Seen {
    New,
    Before(Response),
    Forgotten,
}

impl Requests {
    pub(super) fn look_up(&self, request: RequestId) -> Seen {
        match self.answers.get(&request) {
            Some(answer) => Seen::Before(answer.response.clone()),
            None if self.forgotten.get(&request.process).is_some_and(|f| request.counter <= f.counter) => {
                Seen::Forgotten
            }
            None => Seen::New,
        }
    }

    pub(super) fn remember(&mut self, request: RequestId, response: Response) {
        self.weight += response.weight();
        self.order.insert(self.next, request);
        let answer = Answer { place: self.next, response };
        let known = self.answers.insert(request, Arc::new(answer));
        assert!(known.is_none(), "only new requests are remembered");
        self.next += 1;
        while self.answers.len() > ANSWERS_MAX || (self.weight > WEIGHT_MAX && self.answers.len() > 1) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let (&place, &request) = self.order.first().expect("there are answers");
        self.order.remove(&place);
        let answer = self.answers.remove(&request).expect("every place has its answer");
        self.weight -= answer.response.weight();
        let old = self.forgotten.get(&request.process).copied();
        if let Some(old) = old {
            self.forgotten_order.remove(&old.place);
        }
        let counter = old.map_or(request.counter, |old| old.counter.max(request.counter));
        self.forgotten.insert(request.process, Forgotten { counter, place: answer.place });
        self.forgotten_order.insert(answer.place, request.process);
        if self.forgotten.len() > PROCESSES_MAX {
            let (&place, &process) = self.forgotten_order.first().expect("as many as processes");
            self.forgotten_order.remove(&place);
            self.forgotten.remove(&process);
        }
    }

    pub(super) fn check(&self) -> Result<(), &'static str> {
        let placed = self.answers.iter().all(|(request, a)| self.order.get(&a.place) == Some(request));
        let weight: u64 = self.answers.iter().map(|(_, answer)| answer.response.weight()).sum();
        let forgotten = self.forgotten.iter().all(|(p, f)| self.forgotten_order.get(&f.place) == Some(p));
        let lengths = self.order.len() == self.answers.len() && self.forgotten_order.len() == self.forgotten.len();
        if placed && forgotten && lengths && weight == self.weight { Ok(()) } else { Err("INV-REQUESTS") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(process: u128, counter: u64) -> RequestId {
        RequestId { process: ProcessId(process), counter }
    }

    #[test]
    fn the_oldest_answers_are_forgotten_and_refused() {
        let mut requests = Requests::default();
        let count = ANSWERS_MAX as u64 + 10;
        for counter in 1..=count {
            assert_eq!(requests.look_up(request(1, counter)), Seen::New);
            requests.remember(request(1, counter), Response::Forgotten);
        }
        requests.check().unwrap();
        assert_eq!(requests.look_up(request(1, 10)), Seen::Forgotten);
        assert_eq!(requests.look_up(request(1, 11)), Seen::Before(Response::Forgotten));
        assert_eq!(requests.look_up(request(2, 1)), Seen::New, "another process counts for itself");
    }

    #[test]
    fn processes_are_forgotten_in_their_turn() {
        let mut requests = Requests::default();
        for process in 0..(ANSWERS_MAX + PROCESSES_MAX + 5) as u128 {
            requests.remember(request(process, 7), Response::Forgotten);
        }
        requests.check().unwrap();
        assert_eq!(requests.forgotten.len(), PROCESSES_MAX);
        assert_eq!(requests.look_up(request(5, 7)), Seen::Forgotten);
        assert_eq!(requests.look_up(request(4, 7)), Seen::New);
    }
}
