//! Who asks where partitions end, and then reads the last records up to there.

use std::sync::Arc;
use std::time::Duration;

use dlog_client::{Client, Position};
use dlog_proto::{Esn, Lsn};
use tokio::time::sleep;

use super::{Phase, Shared, in_time};
use crate::history::Tail;

const PAUSE: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(5);
/// Records that are read before the end.
const LAST: u32 = 50;

pub(crate) struct TailAsker {
    pub(crate) number: u32,
    pub(crate) shared: Arc<Shared>,
    pub(crate) client: Client,
}

impl TailAsker {
    /// Until the end of the run.
    pub(crate) async fn run(self) {
        let mut rng = fastrand::Rng::with_seed(self.shared.seed ^ u64::from(self.number) << 16);
        while !self.shared.is(Phase::End) {
            let partition = rng.u32(0..self.shared.partitions);
            tokio::select! {
                () = self.ask(partition, rng.u8(0..4) == 0) => sleep(PAUSE).await,
                () = self.shared.reaches(Phase::End) => {}
            }
        }
    }

    async fn ask(&self, partition: u32, and_read: bool) {
        let asked = self.shared.now();
        let found = in_time(PATIENCE, self.client.find(&self.shared.log, partition, Position::Newest)).await;
        // In trouble, nobody may be able to say.
        let Some(Ok(end)) = found else { return };
        let answered = self.shared.now();
        self.shared.history().tails.push(Tail { partition, asked, answered, end });
        if and_read {
            self.read_last(partition, end).await;
        }
    }

    async fn read_last(&self, partition: u32, end: Lsn) {
        let first = Esn(end.esn().0.saturating_sub(LAST).max(1));
        let from = Lsn::new(end.epoch(), first);
        let read = self.shared.read_between(&self.client, (self.number, partition), from, end);
        if let Some(Ok(reading)) = in_time(PATIENCE, read).await {
            let mut history = self.shared.history();
            history.count_seen(reading.seen.len());
            history.readings.push(reading);
        }
    }
}
