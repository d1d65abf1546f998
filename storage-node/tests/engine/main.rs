//! The engine of a shard as a whole: crashes, faults, reads, threads.

mod commit;
mod crash;
mod errors;
mod faults;
mod identity;
mod machine;
mod model;
mod offline;
mod process;
mod reads;
mod reclaim;
mod retention;
mod rewrite;
mod scrub;
mod workload;
