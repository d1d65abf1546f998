//! Complaints that escalate rather than flood: whoever can make us write a log line must not be able to fill the disk.

use std::fmt::Display;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// At most one line per complaint kind in this time.
const INTERVAL: Duration = Duration::from_secs(10);

/// One kind of complaint. The first is logged at once; those that follow within [`INTERVAL`] are counted, and the next line
/// tells how many there were.
#[derive(Debug, Default)]
pub struct Complaints {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last_logged: Option<Instant>,
    unlogged: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Line {
    None,
    First,
    /// With how many that were not logged.
    More(u64),
}

impl Complaints {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn complain(&self, complaint: &impl Display) {
        match self.line(Instant::now()) {
            Line::None => {}
            Line::First => tracing::info!("{complaint}"),
            Line::More(unlogged) => tracing::warn!(unlogged, "{complaint} (and {unlogged} more of the kind before)"),
        }
    }

    fn line(&self, now: Instant) -> Line {
        let mut state = self.state.lock().expect("nothing panics while it counts complaints");
        if state.last_logged.is_some_and(|last| now < last + INTERVAL) {
            state.unlogged += 1;
            return Line::None;
        }
        state.last_logged = Some(now);
        match std::mem::take(&mut state.unlogged) {
            0 => Line::First,
            unlogged => Line::More(unlogged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_becomes_one_line_with_a_number() {
        let complaints = Complaints::new();
        let start = Instant::now();
        assert_eq!(complaints.line(start), Line::First);
        for _ in 0..1000 {
            assert_eq!(complaints.line(start + INTERVAL / 2), Line::None);
        }
        assert_eq!(complaints.line(start + INTERVAL), Line::More(1000));
        assert_eq!(complaints.line(start + INTERVAL * 2), Line::First);
    }
}
