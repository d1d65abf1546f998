//! Every rule of the protocol, taken away, is missed.

#![cfg(feature = "bugs")]

#[test]
fn every_bug_is_caught() {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    assert_eq!(dlog_sim::bugs::missed(jobs, false), [], "see what was printed");
}
