//! Asks the metadata tier for the lease of logs that prefer availability. What follows from its answers:
//! [`LeaseKeeper`](dlog_sequencer::LeaseKeeper).

use dlog_metadata::Metadata;
use dlog_proto::clock::now;
use dlog_sequencer::{LEASE, LeaseGrant, LeaseTimes};
use tokio::sync::watch;
use tokio::time::sleep;

/// Asks again and again, as long as there are such logs; for ever.
pub(super) async fn ask(metadata: Metadata, granted: watch::Sender<Option<LeaseGrant>>) {
    let every = LeaseTimes::of(LEASE).every;
    loop {
        sleep(every).await;
        if !metadata.view().prefers_availability() {
            continue;
        }
        let asked = now();
        match metadata.linearize().await {
            Ok(state) => drop(granted.send_replace(Some(LeaseGrant { asked, revision: state.revision() }))),
            Err(error) => tracing::debug!(%error, "no lease for logs that prefer availability"),
        }
    }
}
