//! The metadata tier's word that this process's epochs are the newest: what logs that prefer availability are acknowledged under.
//!
//! Their recovery may decide without meeting a shard that has the newest records, so no refused store tells the old sequencer that it was
//! succeeded. Time does instead.
//!
//! INV-LEASE: a sequencer acknowledges until [`USED`] after it asked; whoever takes over waits for [`LEASE`] before it decides. What was
//! taken over before it asked is in the view that the answer waits for, and cores are told of that first; what is taken over later is
//! decided later than `LEASE` after the question. Clocks may differ, their speeds by a tenth.

use std::time::Duration;

use dlog_metadata::Metadata;
use dlog_proto::Time;
use dlog_proto::clock::now;
use tokio::sync::watch;
use tokio::time::sleep;

/// How long recovery of such a log waits.
pub(super) const LEASE: Duration = Duration::from_secs(1);
const USED: Duration = Duration::from_millis(900);
const EVERY: Duration = Duration::from_millis(250);

/// Asks again and again, as long as there are such logs; for ever.
pub(super) async fn renew(metadata: Metadata, lease_until: watch::Sender<Time>) {
    loop {
        sleep(EVERY).await;
        if !metadata.view().prefers_availability() {
            continue;
        }
        let asked = now();
        match metadata.linearize().await {
            Ok(_) => lease_until.send_modify(|until| *until = asked + USED),
            Err(error) => tracing::debug!(%error, "no lease for logs that prefer availability"),
        }
    }
}
