//! One seed, many streams: what is drawn for one purpose does not shift what is drawn for another.

use fastrand::Rng;

/// The random streams of a run.
#[derive(Debug, Clone)]
pub(crate) struct Streams {
    pub topology: Rng,
    pub network: Rng,
    pub disk: Rng,
    pub faults: Rng,
    pub workload: Rng,
    pub cores: Rng,
    /// Speeds of the servers' clocks.
    pub clocks: Rng,
    /// What only some focuses have.
    pub focus: Rng,
    /// Whether nodes hear soon that a process is gone.
    pub views: Rng,
}

impl Streams {
    pub(crate) fn new(seed: u64) -> Self {
        let stream = |salt: u64| {
            Rng::with_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ salt.wrapping_mul(0xD6E8_FEB8_6659_FD93))
        };
        Self {
            topology: stream(1),
            network: stream(2),
            disk: stream(3),
            faults: stream(4),
            workload: stream(5),
            cores: stream(6),
            clocks: stream(7),
            focus: stream(8),
            views: stream(9),
        }
    }
}
