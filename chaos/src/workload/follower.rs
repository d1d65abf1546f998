//! A reader that follows a partition; now and then it begins anew, from the beginning or from where it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dlog_client::{Client, Position};
use dlog_proto::Lsn;
use tokio::time::{Instant, sleep};

use super::{Phase, Shared};
use crate::history::Reading;

const PAUSE: Duration = Duration::from_millis(200);
/// How long one reading lasts.
const READING_SECONDS: std::ops::Range<f64> = 1.0..20.0;

pub(crate) struct Follower {
    pub(crate) number: u32,
    pub(crate) partition: u32,
    pub(crate) shared: Arc<Shared>,
    pub(crate) client: Client,
    /// The last LSN that was read.
    pub(crate) reached: Arc<AtomicU64>,
}

impl Follower {
    /// Until the end of the run.
    pub(crate) async fn run(self) {
        let mut rng = fastrand::Rng::with_seed(self.shared.seed ^ u64::from(self.number) << 32);
        let mut from = Lsn::FIRST;
        while !self.shared.is(Phase::End) {
            let lasts = Duration::from_secs_f64(READING_SECONDS.start + rng.f64() * READING_SECONDS.end);
            tokio::select! {
                () = self.read(from, lasts) => {}
                () = self.shared.reaches(Phase::End) => return,
            }
            let reached = Lsn(self.reached.load(Ordering::Relaxed));
            // Reading all of it again and again would be most of what is read.
            from = if rng.u8(0..4) == 0 { Lsn::FIRST } else { reached.next() };
        }
    }

    async fn read(&self, from: Lsn, lasts: Duration) {
        let until = Instant::now() + lasts;
        let Shared { log, .. } = &*self.shared;
        let Ok(mut reader) = self.client.reader(log, self.partition, Position::Lsn(from), None).await else {
            return sleep(PAUSE).await;
        };
        let place = self.begin(from);
        loop {
            // When writers have stopped, what is read is read to the end.
            let item = tokio::select! {
                item = reader.next() => item,
                () = tokio::time::sleep_until(until), if !self.shared.is(Phase::Drain) => return,
            };
            let seen = match item {
                Ok(Some(item)) => self.shared.seen(item),
                Ok(None) => Err("a reading without end has ended".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            let is_over = seen.is_err();
            let mut history = self.shared.history();
            let reading = &mut history.readings[place];
            match seen {
                Ok(seen) => {
                    reading.seen.push(seen);
                    self.reached.fetch_max(seen.lsn.0, Ordering::Relaxed);
                }
                Err(complaint) => reading.complaints.push(complaint),
            }
            history.count_seen(1);
            if is_over {
                return;
            }
        }
    }

    fn begin(&self, from: Lsn) -> usize {
        let (reader, partition) = (self.number, self.partition);
        let mut history = self.shared.history();
        let (seen, complaints) = (Vec::new(), Vec::new());
        history.readings.push(Reading { reader, partition, from, until: None, seen, complaints });
        history.readings.len() - 1
    }
}
