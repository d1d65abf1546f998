//! What happened, one line an event: printed if asked for, and always hashed, so that two runs of a seed can be compared.

use std::hash::{DefaultHasher, Hash, Hasher};

use dlog_proto::Time;

use crate::message::Message;
use crate::network::Later;
use crate::trouble::Trouble;
use crate::world::{Event, show};

#[derive(Debug, Default)]
pub(crate) struct Trace {
    print: bool,
    hash: DefaultHasher,
    events: u64,
}

impl Trace {
    pub(crate) fn new(print: bool) -> Self {
        Self { print, ..Self::default() }
    }

    pub(crate) fn event(&mut self, at: Time, event: &Event) {
        let line = line(event);
        self.events += 1;
        (at.0, &line).hash(&mut self.hash);
        if self.print {
            println!("{} {line}", show(at));
        }
    }

    pub(crate) fn trouble(&mut self, at: Time, trouble: &Trouble) {
        if self.print {
            println!("{} TROUBLE {trouble:?}", show(at));
        }
    }

    /// How many events there were, and what they hash to.
    pub(crate) fn digest(&self) -> (u64, u64) {
        (self.events, self.hash.finish())
    }
}

fn line(event: &Event) -> String {
    match event {
        Event::Network(Later::Deliver(delivery)) => {
            format!("{:?} -> {:?} {}", delivery.from, delivery.to, message(&delivery.message))
        }
        other => format!("{other:?}"),
    }
}

fn message(message: &Message) -> String {
    match message {
        Message::Store(store, block) => {
            let header = block.header();
            let (first, last) = (header.first_lsn(), header.last_esn());
            format!("Store {} {first}..{last} {:?} {:?}", store.shard, store.placement.version, store.mode)
        }
        Message::ReadBlock(_, shard, read, block) => {
            let (first, last) = (block.header().first_lsn(), block.header().last_esn());
            format!("ReadBlock {shard} {first}..{last} released {}", read.released)
        }
        Message::View { state, alive } => format!("View {} {alive:?}", state.revision()),
        Message::Proposed { request, state, response } => {
            format!("Proposed {} at {} {response:?}", request.counter, state.revision())
        }
        Message::Append { partition, round, batch, .. } => format!("Append {partition} round {round} batch {batch}"),
        Message::Fetched(answer, _) => format!("Fetched {answer:?}"),
        other => format!("{other:?}"),
    }
}
