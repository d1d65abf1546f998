//! Whole clusters in one process, on a network in memory: what a user of the tier relies on, while nodes come, go and
//! lose each other.

mod fixture;
mod net;

mod failures;
mod following;
mod single;
