//! Acknowledgements that stay away.

use std::time::{Duration, Instant};

/// How long nothing may be acknowledged before somebody is told.
const PATIENCE: Duration = Duration::from_secs(5);

/// From a sign of progress on; told once.
#[derive(Debug)]
pub(super) struct Stall {
    since: Instant,
    told: bool,
}

impl Stall {
    pub(super) fn new(since: Instant) -> Self {
        Self { since, told: false }
    }

    /// When there is something to tell, unless it was told.
    fn due(&self) -> Option<Instant> {
        (!self.told).then(|| self.since + PATIENCE)
    }

    /// Waits until there is something to tell; for ever if it was told.
    pub(super) async fn noticed(&self) {
        match self.due() {
            Some(due) => tokio::time::sleep_until(due.into()).await,
            None => std::future::pending().await,
        }
    }

    /// The line for the user.
    pub(super) fn tell(&mut self, trouble: Option<&str>) -> String {
        self.told = true;
        let trouble = trouble.map(|trouble| format!(" (last trouble: {trouble})")).unwrap_or_default();
        format!("waiting: nothing was acknowledged for {} s{trouble}", PATIENCE.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_told_once() {
        let start = Instant::now();
        let mut stall = Stall::new(start);
        assert_eq!(stall.due(), Some(start + PATIENCE));
        let text = stall.tell(Some("n1 is gone"));
        assert_eq!(text, "waiting: nothing was acknowledged for 5 s (last trouble: n1 is gone)");
        assert_eq!(stall.due(), None);
        assert_eq!(Stall::new(start).tell(None), "waiting: nothing was acknowledged for 5 s");
    }
}
