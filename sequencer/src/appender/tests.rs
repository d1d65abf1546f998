//! Shards that are silent: connected, as far as anybody knows, and dead.

use std::time::Duration;

use dlog_proto::QuorumConfig;
use dlog_proto::wire::Kept;

use super::*;
use crate::testing::nodeset;

/// One appender and its nodeset, of which some live: they answer at once.
struct Rig {
    appender: Appender,
    now: Time,
    live: MemberSet,
    /// Of these, who refuses.
    refusing: MemberSet,
    acknowledged: usize,
    /// Stores and amends that were sent.
    asked: usize,
}

impl Rig {
    fn new(members: usize, quorum: QuorumConfig, live: MemberSet, seed: u64) -> Self {
        let nodeset = Arc::new(nodeset(1..=members as u16));
        let replication = Arc::new(Replication::new(quorum));
        let (settings, rng) = (Arc::new(Settings::default()), Rng::with_seed(seed));
        let appender = Appender::new(PartitionUid(1), Epoch(1), nodeset, replication, settings, rng);
        Self { appender, now: Time::from_millis(1_000), live, refusing: MemberSet::EMPTY, acknowledged: 0, asked: 0 }
    }

    fn append(&mut self) {
        let wait = |esn: Esn| {
            let token = crate::output::Token(u64::from(esn.0));
            Some(Waiter { token, acks: Acks::Quorum, esn, append_time: 0, duplicate: false })
        };
        self.appender.handle_append(Bytes::from_static(&[7; 61]), 1, (0, 0), wait).unwrap();
        self.go_on();
    }

    /// Until nothing happens any more at this moment.
    fn go_on(&mut self) {
        self.appender.pump(self.now, 0);
        while let Some(output) = self.appender.poll_output() {
            let (member, version, first_esn) = match output {
                AppenderOutput::Store { member, placement, block } => {
                    (member, placement.version, block.header().first_esn)
                }
                AppenderOutput::Amend { member, first_esn, placement } => (member, placement.version, first_esn),
                AppenderOutput::Done(_) => {
                    self.acknowledged += 1;
                    continue;
                }
                _ => continue,
            };
            self.asked += 1;
            if self.live.contains(member) {
                let ShardRef { shard, incarnation } = self.appender.shard_ref(member);
                let (partition, epoch) = (PartitionUid(1), Epoch(1));
                let refuses = self.refusing.contains(member);
                let result = if refuses { Err(StoreRefusal::Disabled) } else { Ok(Kept::Flushed) };
                let answer =
                    StoreAnswer { shard, incarnation, partition, epoch, first_esn, snapshot: false, version, result };
                self.appender.handle_stored(self.now, &answer);
            }
        }
    }

    /// How long until all of `appended` are acknowledged.
    fn takes(&mut self, appended: usize) -> Duration {
        let began = self.now;
        while self.acknowledged < appended && self.now.since(began) < Duration::from_secs(60) {
            self.now = self.appender.next_timeout().expect("who waits for somebody wakes up");
            self.go_on();
        }
        self.now.since(began)
    }

    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(next) = self.appender.next_timeout()
            && next <= until
        {
            self.now = next.max(self.now);
            self.go_on();
        }
        self.now = until;
    }
}

fn quorum(r: u8, w: u8) -> QuorumConfig {
    QuorumConfig { replication_factor: r, write_quorum: w, read_quorum: r - w + 1 }
}

/// All ways to choose `count` of `members`.
fn choices(members: usize, count: usize) -> impl Iterator<Item = MemberSet> {
    (0_u32..1 << members)
        .filter(move |bits| bits.count_ones() as usize == count)
        .map(move |bits| (0..members).filter(|m| bits >> m & 1 == 1).collect())
}

#[test]
fn appends_go_on_wherever_a_write_quorum_lives() {
    let (mut longest, mut runs) = (Duration::ZERO, 0);
    for members in 1..=7_usize {
        for (r, w) in (1..=members.min(5) as u8).flat_map(|r| (1..=r).map(move |w| (r, w))) {
            for live in choices(members, w.into()) {
                let mut rig = Rig::new(members, quorum(r, w), live, u64::from(live.iter().sum::<usize>() as u32));
                rig.append();
                let took = rig.takes(1);
                assert!(took <= Duration::from_secs(1), "{members} R {r} W {w}: {live:?} live, {took:?}");
                (longest, runs) = (longest.max(took), runs + 1);
            }
        }
    }
    assert!(runs > 600 && longest > Duration::from_millis(100), "{runs} {longest:?}");
}

#[test]
fn who_refused_is_asked_again_before_one_that_hangs_is_waited_for() {
    let mut rig = Rig::new(3, quorum(2, 2), MemberSet::first(3), 1);
    rig.refusing.insert(1);
    (0..20).for_each(|_| rig.append());
    assert_eq!(rig.acknowledged, 20, "the two others take them");
    rig.wait(Duration::from_secs(1));
    rig.refusing.remove(1);
    rig.live.remove(2);
    rig.append();
    let took = rig.takes(21);
    assert!(took <= Duration::from_secs(1), "half a minute is how long a refusal stands otherwise: {took:?}");
}

#[test]
fn a_large_nodeset_is_gone_through_in_time() {
    for seed in 0..50 {
        let live = [seed % 20, (seed + 7) % 20].map(|m| m as usize).into_iter().collect();
        let mut rig = Rig::new(20, quorum(3, 2), live, seed);
        rig.append();
        let took = rig.takes(1);
        assert!(took <= Duration::from_millis(2_500), "{live:?} of 20 live: {took:?}");
    }
}

#[test]
fn who_comes_back_is_asked_at_once() {
    let live = [0, 1].into_iter().collect();
    for back in [2, 3, 4] {
        let mut rig = Rig::new(5, quorum(3, 3), live, back as u64);
        [2, 3, 4].into_iter().for_each(|gone| rig.appender.handle_disconnected(rig.now, gone));
        rig.append();
        rig.wait(Duration::from_secs(20));
        assert_eq!(rig.acknowledged, 0, "two of the three that it takes");
        rig.live.insert(back);
        rig.appender.handle_connected(rig.now, back);
        rig.go_on();
        assert_eq!(rig.acknowledged, 1, "whichever of them the block was to go to");
    }
}

#[test]
fn what_is_acknowledged_waits_for_the_silent_without_noise() {
    let live = [0, 1].into_iter().collect();
    let mut rig = Rig::new(4, quorum(3, 2), live, 1);
    rig.append();
    rig.takes(1);
    let asked = rig.asked;
    rig.wait(Duration::from_secs(60));
    assert!(
        rig.asked <= asked + 6 * 3,
        "{} more: nobody is tried more often than the greylist says",
        rig.asked - asked
    );
}
