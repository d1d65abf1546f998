//! The engine of a shard as a whole: crashes, faults, reads, threads.

mod commit;
mod crash;
mod faults;
mod identity;
mod machine;
mod model;
mod offline;
mod reads;
mod reclaim;
mod workload;
